"""Commands that are forked from a process which has the program imported say what they say in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import warm


@pytest.mark.parametrize("words", [("ls",), ("hub", "list", "--json"), ("show",), ("--version",)], ids=" ".join)
def test_the_words_the_bytes_and_the_code_are_those_of_a_process_of_its_own(tmp_path: Path, words: tuple[str, ...]) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    alone = subprocess.run(
        [sys.executable, "-m", "overnight", *words], cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    forked = warm.ran(words, tmp_path, env)
    assert (forked.returncode, forked.stdout, forked.stderr) == (alone.returncode, alone.stdout, alone.stderr)


def test_a_command_that_takes_too_long_is_ended_and_the_next_one_runs(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    os.mkfifo(tmp_path / "pipeline.yaml")  # nobody writes to it
    with pytest.raises(subprocess.TimeoutExpired):
        warm.ran(("dag", "run", "pipeline.yaml"), tmp_path, env, 0.5)
    assert warm.ran(("--version",), tmp_path, env).returncode == 0
