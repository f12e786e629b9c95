"""What a person types: the program in a process of its own, in small real repositories, and the shape of what it answers."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import warm
from overnight.testing import repository

PYTHON = [sys.executable, "-I", "-S"]
SHELL = shlex.join(PYTHON)
COMMAND = [*PYTHON, "train.py"]
BASELINE = ("--budget", "0", "--tag", "t")
TRAIN = 'lr = 0.1\nwidth = 4\nprint(f"@loss={(lr - 0.03) ** 2 + 1 / width:.6f}")\n'
PATIENCE = 60.0
_PART = r"(?:\n  (?:where|why|fix):[^\n]*(?:\n {9}[^\n]*)*)*"
_ERROR = re.compile(rf"^error\[(E-[A-Z-]+)\]: [^\n]+{_PART}\n\Z", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)

    @property
    def refusal(self) -> tuple[str, int]:
        """The code of the one error on standard error, and the exit code; fails if it is not in the promised shape."""
        found = _ERROR.search(self.err)
        assert found, self
        assert "Traceback" not in self.err, self
        assert len(re.findall(r"^error\[", self.err, re.MULTILINE)) == 1, self
        return found[1], self.code


def environment(folder: Path, **more: str) -> dict[str, str]:
    """A home of its own, no walls and one baseline run: the tests of the walls and of the noise are elsewhere."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    plain = {"OVERNIGHT_UNSAFE_NO_SANDBOX": "1", "OVERNIGHT_BASELINE_RUNS": "1"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {"PATH": path, "HOME": str(home), **plain, **more}


def typed(folder: Path, *words: str, env: Mapping[str, str] | None = None, before: tuple[str, ...] = ()) -> Said:
    """``overnight WORDS`` in a folder; ``before`` is put in front of the command."""
    env = env or environment(folder.parent)
    if not before:
        done = warm.ran(words, folder, env)
    else:
        argv = [*before, sys.executable, "-m", "overnight", *words]
        done = subprocess.run(argv, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)
    return Said(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


def project(folder: Path, train: str | bytes = TRAIN, **files: str | bytes) -> Path:
    """A repository with one commit."""
    return repository(folder / "project", {"train.py": train, **files})


def plain(folder: Path, *words: str, train: str = TRAIN, budget: str = "0") -> Said:
    """A study by name only: what ``overnight run`` says about it."""
    return typed(project(folder, train), "run", "--budget", budget, "--tag", "t", *words, "--", *COMMAND)


def less_noise(text: str) -> str:
    """Without what is said of the noise, which has tests of its own."""
    return re.sub(r"\(baseline;[^)]*\)", "(baseline)", text)
