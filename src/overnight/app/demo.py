"""``overnight demo``: a template study copied to a folder, put under git, and run for real."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from overnight.errors import UsageError

_NAME = "nanodigits"


def folder(wanted: Path | None, environ: Mapping[str, str]) -> Path:
    """Where the demo goes: the folder named, else ``overnight-demo`` (…-2, -3) in HOME, or in the temporary folder without one."""
    if wanted is not None:
        if wanted.exists() and (not wanted.is_dir() or any(wanted.iterdir())):
            raise UsageError("E-EXISTS", f"{wanted} exists and is not empty", fix="overnight demo --folder another-name")
        return wanted.absolute()
    home = Path(environ.get("HOME") or "/nonexistent")
    above = home if os.access(home, os.W_OK) else Path(environ.get("TMPDIR") or "/tmp")  # noqa: S108 - a new folder is made there
    number = 1
    while (above / f"overnight-demo{'' if number == 1 else f'-{number}'}").exists():
        number += 1
    return above / f"overnight-demo{'' if number == 1 else f'-{number}'}"


def make(target: Path, environ: Mapping[str, str]) -> None:
    """Copy the template to ``target`` and commit it. Raises ``UsageError``."""
    git = shutil.which("git", path=environ.get("PATH"))
    if git is None:
        raise UsageError(
            "E-NO-GIT", "git is not on PATH", why="every experiment is kept as a commit", fix="apt install git   # or: brew install git"
        )
    template = resources.files("overnight") / "templates" / _NAME
    try:
        target.mkdir(parents=True, exist_ok=True)
        for item in template.iterdir():
            if item.is_file():
                (target / item.name).write_bytes(item.read_bytes())
    except OSError as exc:
        raise UsageError(
            "E-READ-ONLY", f"{target} cannot be written: {exc.strerror}", fix="overnight demo --folder /path/to/a/folder"
        ) from exc
    clean = {name: value for name, value in environ.items() if not name.startswith("GIT_")}
    quiet = {**clean, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    who = ("-c", "user.name=overnight", "-c", "user.email=overnight@localhost", "-c", "core.hooksPath=/dev/null")
    for words in (
        ("init", "-q", "-b", "main"),
        ("add", "-A"),
        (*who, "commit", "-q", "-m", "nanodigits: a small network on handwritten digits"),
    ):
        done = subprocess.run([git, *words], cwd=target, env=quiet, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UsageError("E-GIT", f"git {words[-1]} did not work in {target}", why=done.stderr.strip(), fix="git --version")
