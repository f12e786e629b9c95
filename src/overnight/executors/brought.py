"""What a worker has brought back is put where the job would have left it had it run here.

Paths come from the worker and are not trusted: nothing is written, or removed, outside of the job's folder or through a link. Must not know how
files came here.
"""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Sequence
from pathlib import Path

from overnight.queue.words import Output

LEFT = ".overnight/left.json"  # among outputs that are handed on: what the job has removed, and what is to be said of it


def put_back(source: Path, outputs: Sequence[Output], cwd: Path, *, hands_on: bool) -> str:
    """Copy ``outputs`` from ``source`` into ``cwd``; what is to be said of them, or nothing. Raises ``OSError``."""
    removed, said = _left(source) if hands_on else ((), "")
    for path in removed:
        if _is_safe(path) and not _is_behind_link(cwd, path):
            _remove(cwd, path)
    for each in outputs:
        if each.path == LEFT or not _is_safe(each.path) or _is_behind_link(cwd, each.path) or not (source / each.path).is_file():
            continue  # what is missed is told by whoever looks for it
        place = cwd / each.path
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(place.lstat().st_mode):
                place.unlink()
        if not place.exists():
            _copy(source / each.path, place)
            place.chmod(0o755 if each.executable else 0o644)
    return said


def _left(source: Path) -> tuple[tuple[str, ...], str]:
    """What of the files that were laid out is gone, and what the worker says of what it brought back."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        found = json.loads((source / LEFT).read_bytes())
        return tuple(map(str, found["removed"])), str(found["note"])[:500]
    return (), ""


def _is_safe(path: str) -> bool:
    return not path.startswith("/") and not {"", ".", ".."} & set(path.split("/")) and "\0" not in path


def _is_behind_link(top: Path, path: str) -> bool:
    return any(parent.is_symlink() for parent in (top / path).parents if top in parent.parents)


def _remove(top: Path, path: str) -> None:
    """Take a file away, and the folders that are empty without it."""
    with contextlib.suppress(OSError):
        (top / path).unlink()
        for parent in (top / path).parents:
            if parent == top:
                return
            parent.rmdir()


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as file, target.open("xb") as copy:
        while piece := file.read(2**20):
            copy.write(piece)
