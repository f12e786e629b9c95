"""Real repositories for the tests of the workspace, and what people and programs do to them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from overnight.errors import OvernightError
from overnight.workspace import Scope, Workspace

TRAIN = Scope(("train.py",))
AUTHOR = ("-c", "user.name=someone", "-c", "user.email=someone@localhost", "-c", "init.defaultBranch=main", "-c", "commit.gpgSign=false")
START = {"train.py": b"lr = 1\n", "prepare.py": b"x = 1\n", "src/model.py": b"layers = 2\n", "src/deep/data.py": b"n = 3\n"}


def git(root: Path, *words: str) -> str:
    """What a person would type in their own checkout."""
    env = {"PATH": os.environ["PATH"], "HOME": str(root), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    done = subprocess.run(["git", *AUTHOR, *words], cwd=root, env=env, check=True, capture_output=True)
    return done.stdout.decode("utf-8", "surrogateescape").strip()


def make(root: Path, files: dict[str, bytes] | None = None, *options: str) -> Path:
    root.mkdir(parents=True)
    git(root, "init", "-q", *options)
    for name, data in (START if files is None else files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    return root


def record(space: Workspace, number: int, files: dict[str, bytes], parent: str = "", scope: Scope = TRAIN) -> str:
    return space.commit(
        parent=parent or space.head(),
        files=files,
        message=f"try {number}",
        ref=f"refs/overnight/t/{number}",
        when=1_700_000_000.9,
        scope=scope,
    ).commit


def code(call: Callable[[], object]) -> str:
    with pytest.raises(OvernightError) as caught:
        call()
    return caught.value.code


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def everything(root: Path) -> tuple[object, ...]:
    index = (root / ".git" / "index").read_bytes()
    told = tuple(
        git(root, *words) for words in (("status", "--porcelain"), ("stash", "list"), ("rev-parse", "HEAD"), ("symbolic-ref", "HEAD"))
    )
    return (index, *told, contents(root / "src"), (root / "train.py").read_bytes())


def whole_cycle(space: Workspace, tmp_path: Path) -> None:
    """Everything that the loop does, once."""
    head = space.head()
    space.check(head, TRAIN)
    space.exclude("/results.tsv")
    space.create_branch("autoresearch/t", head)
    space.export(head, {"train.py": b"lr = 5\n"}, tmp_path / "cycle")
    commit = record(space, 1, space.collect(tmp_path / "cycle", head, TRAIN).files)
    space.move_branch("autoresearch/t", commit, head)
    space.diff(head, commit)
    space.merge({"train.py": b"a\nb\nc\n"}, {"train.py": b"A\nb\nc\n"}, {"train.py": b"a\nb\nC\n"})
    space.refs("refs/overnight/t/")


def plant(root: Path, canary: Path) -> None:
    """Everything by which a repository can run a program, each leaving a mark."""
    run = f"touch {canary}"
    for hook in (
        "reference-transaction",
        "post-index-change",
        "post-commit",
        "pre-commit",
        "post-checkout",
        "post-rewrite",
        "prepare-commit-msg",
    ):
        place = root / ".git" / "hooks" / hook
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"#!/bin/sh\n{run}-{hook}\n")
        place.chmod(0o755)
    (root / ".git" / "more").write_text(
        f"[core]\n\tfsmonitor = {run}-fsmonitor; false\n\tpager = {run}-pager\n\tsshCommand = {run}-ssh\n"
        f"[core]\n\talternateRefsCommand = {run}-alternates\n"
        f'[diff "x"]\n\ttextconv = {run}-textconv; cat\n\tcommand = {run}-command\n[diff]\n\texternal = {run}-external\n'
        f'[filter "x"]\n\tclean = {run}-clean; cat\n\tsmudge = {run}-smudge; cat\n\tprocess = {run}-process\n\trequired = true\n'
        f'[merge "x"]\n\tdriver = {run}-merge\n[alias]\n\tcat-file = !{run}-alias\n[uploadpack]\n\tpackObjectsHook = {run}-pack\n'
        f"[gpg]\n\tprogram = {run}-gpg\n[commit]\n\tgpgSign = true\n[core]\n\thooksPath = {root / '.git' / 'hooks'}\n"
    )
    with (root / ".git" / "config").open("a") as config:
        config.write("[include]\n\tpath = more\n")
    (root / ".git" / "info" / "attributes").write_text("* filter=x diff=x merge=x\n")


def replace(path: Path, how: str) -> None:
    """Put something else in the place of a file or folder."""
    if path.is_dir():
        shutil.move(path, path.with_name("elsewhere"))
    else:
        path.rename(path.with_name("elsewhere"))
    if how == "link":
        path.symlink_to("elsewhere")
    elif how == "hard":
        path.hardlink_to(path.with_name("elsewhere"))
    elif how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket must be short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)
    elif how == "big":
        path.write_bytes(b"x" * (2**20 + 1))
    elif how == "file":
        path.write_bytes(b"")
