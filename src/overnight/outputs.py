"""Bringing back what a job has left in its folder: files that its globs match, copied without following a link, with their hashes.

The folder is hostile: whatever ran there could write anything into it. Must not know what a job is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from overnight.errors import StorageError, UsageError
from overnight.queue.words import Output

MOST_FILES, MOST_BYTES = 10_000, 16 * 2**30
_LOOKED_AT = 200_000  # names
_PIECE = 2**20
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def bring_back(folder: Path, globs: Sequence[str], dest: Path) -> tuple[Output, ...]:
    """Copy the regular files below ``folder`` that match into ``dest``, which is replaced; ``**`` stands for any folders.

    Raises ``UsageError`` (E-OUTPUTS) for too many or too large ones, ``StorageError``.
    """
    draft = dest.with_name(f".{dest.name}.{os.getpid()}")
    wanted = [re.compile(_pattern(glob)) for glob in globs]
    found: list[Output] = []
    room = MOST_BYTES
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True, mode=0o700)
        for path, handle in _files(folder):
            try:
                if not any(pattern.fullmatch(path) for pattern in wanted):
                    continue
                if len(found) >= MOST_FILES:
                    raise UsageError(
                        "E-OUTPUTS", f"more than {MOST_FILES} files match {' '.join(globs)}", fix="name fewer files as --output"
                    )
                output = _copied(path, handle, draft / path, room)
            finally:
                os.close(handle)
            room -= output.size
            found.append(output)
        shutil.rmtree(dest, ignore_errors=True)
        draft.rename(dest)
    except OSError as exc:
        shutil.rmtree(draft, ignore_errors=True)
        raise StorageError(
            "E-OUTPUTS", f"outputs cannot be brought back: {exc.strerror or exc}", where=str(dest), fix=f"df -h {dest.parent}"
        ) from exc
    except UsageError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return tuple(sorted(found, key=lambda output: output.path))


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Path below the folder and an open descriptor of every regular file; the descriptor is the caller's."""
    looked = 0
    for where, folders, names, at in os.fwalk(folder, follow_symlinks=False):
        folders.sort()
        inside = os.path.relpath(where, folder)
        looked += len(names) + len(folders)
        if looked > _LOOKED_AT:
            raise UsageError("E-OUTPUTS", f"the job left more than {_LOOKED_AT} files", fix="write fewer files, or name none as --output")
        for name in sorted(names):
            path = name if inside == "." else f"{inside}/{name}"
            if _CONTROL.search(path):
                continue
            with contextlib.suppress(OSError):  # a link, or gone
                handle = os.open(name, _OPEN, dir_fd=at)
                if stat.S_ISREG(os.fstat(handle).st_mode):
                    yield path, handle
                else:
                    os.close(handle)


def _copied(path: str, handle: int, dest: Path, room: int) -> Output:
    dest.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    executable = bool(os.fstat(handle).st_mode & 0o111)
    with dest.open("xb") as file:
        while piece := os.read(handle, _PIECE):
            size += len(piece)
            if size > room:
                raise UsageError(
                    "E-OUTPUTS",
                    f"the outputs have more than {MOST_BYTES >> 30} GB",
                    fix="keep large files where the next job can read them",
                )
            digest.update(piece)
            file.write(piece)
        os.fchmod(file.fileno(), 0o755 if executable else 0o644)
    return Output(path, size, digest.hexdigest(), executable)


def _pattern(glob: str) -> str:
    """The regular expression of a glob; a folder that is named stands for all that lies in it."""
    parts = []
    for piece in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\])", glob.rstrip("/")):
        if piece == "**/":
            parts.append("(?:.*/)?")
        elif piece == "**":
            parts.append(".*")
        elif piece == "*":
            parts.append("[^/]*")
        elif piece == "?":
            parts.append("[^/]")
        elif piece.startswith("[") and len(piece) > 2:
            parts.append("[" + piece[1:-1].replace("\\", r"\\").replace("[", r"\[").replace("!", "^", 1 if piece[1] == "!" else 0) + "]")
        else:
            parts.append(re.escape(piece))
    return "".join(parts) + "(?:/.*)?"
