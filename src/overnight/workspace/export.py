"""Lay out a tree as plain files: raw bytes, no ``.git``, nothing of git's filters, line ends or keywords.

Knows folders and bytes; what the tree holds and where the bytes come from is handed in.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from overnight.workspace.git import disk_error
from overnight.workspace.trees import EXECUTABLE, LINK

Sink = Callable[[bytes], object]
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def lay_out(dest: Path, modes: Mapping[str, str], pour: Callable[[str, Sink], None], links: Mapping[str, Path]) -> str:
    """Write every path of ``modes`` (path -> git's mode) into the new folder ``dest``; ``pour(path, sink)`` hands over its bytes.

    ``links`` (name -> path outside) become symbolic links. Returns 64 hex digits: SHA-256 over the sorted rows
    ``path NUL mode NUL sha256 LF`` of all but ``links``. On failure nothing is left behind. Raises ``StorageError``.
    """
    rows: list[bytes] = []
    with _whole(dest):
        made = {""}
        for path in sorted(modes, key=lambda path: (modes[path] == LINK, path)):  # links last: nothing is ever written through one
            _make_folder(dest, path, made)
            digest = hashlib.sha256()
            _write(dest / path, modes[path], functools.partial(pour, path), digest.update)
            rows.append(b"%s\0%s\0%s\n" % (os.fsencode(path), modes[path].encode(), digest.hexdigest().encode()))
        for name, outside in links.items():
            _make_folder(dest, name, made)
            (dest / name).symlink_to(outside)
    return hashlib.sha256(b"".join(sorted(rows))).hexdigest()


def _write(place: Path, mode: str, pour: Callable[[Sink], None], also: Sink) -> None:
    """One file or link; every piece of it is shown to ``also``."""
    if mode == LINK:
        parts: list[bytes] = []
        pour(parts.append)
        also(b"".join(parts))
        place.symlink_to(os.fsdecode(b"".join(parts)))
        return
    handle = os.open(place, _NEW, 0o600)
    try:
        os.fchmod(handle, 0o755 if mode == EXECUTABLE else 0o644)

        def sink(part: bytes) -> None:
            also(part)
            rest = memoryview(part)
            while rest:
                rest = rest[os.write(handle, rest) :]

        pour(sink)
    finally:
        os.close(handle)


def _make_folder(top: Path, path: str, made: set[str]) -> None:
    """The folders above ``path``."""
    folder = path.rpartition("/")[0]
    if folder not in made:
        _make_folder(top, folder, made)
        (top / folder).mkdir(mode=0o755)
        made.add(folder)


@contextmanager
def _whole(dest: Path) -> Iterator[None]:
    """All of ``dest`` or nothing; what the disk says is mapped."""
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        dest.mkdir(mode=0o755)
    except OSError as exc:
        raise disk_error(exc, f"the copy {dest.name}") from exc
    try:
        yield
    except OSError as exc:
        shutil.rmtree(dest, ignore_errors=True)
        raise disk_error(exc, f"the copy {dest.name}") from exc
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(dest)
        raise
