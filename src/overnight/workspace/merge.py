"""Three-way merge of a few files by ``git merge-file``, whole sets at once.

Knows bytes by path; nothing of commits or studies.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from overnight.errors import GitError
from overnight.workspace.git import Git, disk_error, said

_CONFLICTS = 127  # merge-file's exit code is the number of conflicts, cut off here; above it is an error


def merge_files(git: Git, base: Mapping[str, bytes], ours: Mapping[str, bytes], theirs: Mapping[str, bytes]) -> dict[str, bytes] | None:
    """What both sides made of ``base``; None where they cannot be put together (conflict, binary, changed here and removed there)."""
    merged: dict[str, bytes] = {}
    for path in sorted({*base, *ours, *theirs}):
        old, left, right = base.get(path), ours.get(path), theirs.get(path)
        if right in (left, old):
            found = left
        elif left == old:
            found = right
        elif old is None or left is None or right is None:
            return None
        else:
            found = _merge(git, old, left, right)
            if found is None:
                return None
        if found is not None:
            merged[path] = found
    return merged


def _merge(git: Git, old: bytes, left: bytes, right: bytes) -> bytes | None:
    if any(b"\0" in side for side in (old, left, right)):
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="merge-", dir=git.home / "tmp") as folder:
            for name, data in (("ours", left), ("base", old), ("theirs", right)):
                Path(folder, name).write_bytes(data)
            done = git.run(("merge-file", "-p", "-q", "ours", "base", "theirs"), cwd=Path(folder), GIT_DIR=str(git.home))
    except OSError as exc:
        raise disk_error(exc, "a merge") from exc
    if done.returncode > _CONFLICTS:
        raise GitError("E-GIT", "git merge-file failed", why=said(done), fix="git --version")
    return done.stdout if done.returncode == 0 else None
