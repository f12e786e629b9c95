"""The door to files that tasks leave for others: taken from a dead task's folder, kept by their hash, laid into the next one's.

What a task has left is not trusted: nothing is followed out of its folder, and nothing but plain files counts. Must not know what a
pipeline is.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from overnight.dag.globs import is_named, is_pattern
from overnight.dag.words import Kept
from overnight.errors import StorageError

MOST_FILES = 10_000
MOST_BYTES = 10 * 2**30  # of what nobody has named
_BLOCK = 2**20
_LEFT_OUT = {"__pycache__", ".overnight", ".tmp", ".git", ".venv", ".ipynb_checkpoints"}


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken from a folder; ``missing`` are wanted paths and patterns that nothing was found for, ``note`` why nothing was taken."""

    files: tuple[Kept, ...]
    missing: tuple[str, ...] = ()
    note: str = ""


class Outputs:
    """Files by their hash in ``folder``, made when missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, top: Path, wanted: Sequence[str] | None, known: Mapping[str, str], given: Mapping[str, str]) -> Taken:
        """Keep what lies below ``top`` and is ``wanted``; None = all that is not ``known`` (path -> git's id of the code) as it is.

        ``given`` (path -> hash) was laid there before: what is still the same is passed on, not its own. Raises ``StorageError``.
        """
        with _mapped(top):
            found = dict(_walk(top, ""))
        if wanted is None:
            chosen = [path for path, state in found.items() if not _is_known(top / path, state, known.get(path))]
            size = sum(found[path].st_size for path in chosen)
            if len(chosen) > MOST_FILES or size > MOST_BYTES:
                note = f"nothing is handed on: it left {len(chosen)} files of {size / 2**30:.1f} GB; name in outputs: what others need"
                return Taken((), note=note)
        else:
            chosen = [path for path in found if is_named(path, wanted)]
        missing = tuple(each for each in wanted or () if not any(is_named(path, (each,)) for path in chosen) and not _is_empty(top, each))
        with _mapped(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            kept = (self._keep(top, path) for path in sorted(chosen))
            return Taken(tuple(replace(file, own=given.get(file.path) != file.sha) for file in kept), missing)

    def has(self, files: Iterable[Kept]) -> bool:
        """Whether all these are still kept; if so, they count as used now."""
        for file in files:
            try:
                if os.stat(self._place(file.sha)).st_size != file.size:
                    return False
                os.utime(self._place(file.sha))
            except OSError:
                return False
        return True

    def lay(self, files: Iterable[Kept], top: Path) -> None:
        """Put copies of these below ``top``, in place of what lies there. Raises ``StorageError``."""
        with _mapped(top):
            for file in files:
                target = top / file.path
                _make_way(top, file.path)
                with self._place(file.sha).open("rb") as source:
                    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                    with os.fdopen(handle, "wb") as copy:
                        _poured(source.fileno(), copy.fileno(), file.size)
                        os.fchmod(copy.fileno(), 0o755 if file.executable else 0o644)

    def read(self, file: Kept) -> bytes:
        """The bytes of a kept file. Raises ``StorageError``."""
        with _mapped(self._folder):
            return self._place(file.sha).read_bytes()

    def drop(self, kept: Collection[str], before: float, *, dry: bool = False) -> int:
        """Remove files that are not among ``kept`` (hashes) and were last used before that time; returns their bytes. ``dry``: only count."""
        freed = 0
        for place in self._folder.glob("*/*") if self._folder.is_dir() else ():
            with contextlib.suppress(OSError):
                found = place.stat()
                if place.name not in kept and found.st_mtime < before:
                    freed += found.st_size
                    if not dry:
                        place.unlink()
        return freed

    def _place(self, sha: str) -> Path:
        return self._folder / sha[:2] / sha

    def _keep(self, top: Path, path: str) -> Kept:
        draft = self._folder / f".{secrets.token_hex(8)}"
        digest = hashlib.sha256()
        size = 0
        try:
            with (
                os.fdopen(os.open(_real(top, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file,
                draft.open("xb") as copy,
            ):
                executable = bool(os.fstat(file.fileno()).st_mode & 0o111)
                while block := file.read(_BLOCK):
                    digest.update(block)
                    copy.write(block)
                    size += len(block)
                sha = digest.hexdigest()
                if not self.has([Kept(path, sha, size)]):
                    copy.flush()
                    os.fsync(copy.fileno())
                    self._place(sha).parent.mkdir(exist_ok=True)
                    draft.replace(self._place(sha))
        finally:
            draft.unlink(missing_ok=True)
        return Kept(path, sha, size, executable)


def fingerprint(place: Path, known: Callable[[str, str], str], learn: Callable[[list[tuple[str, str, str]]], None]) -> str:
    """One hash over a file, or over all files of a folder by their paths; empty if it is not there or cannot be read.

    ``known`` gives the hash of a path with a stamp that was read before, ``learn`` is told (path, stamp, hash) of those that were not.
    """
    rows: list[tuple[str, str]] = []
    fresh: list[tuple[str, str, str]] = []
    try:
        files = [("", os.stat(place))] if place.is_file() else sorted(_walk(place, ""), key=lambda pair: pair[0])
        for path, state in files:
            full = str(place / path) if path else str(place)
            stamp = f"{state.st_size} {state.st_mtime_ns} {state.st_ino}"
            sha = known(full, stamp)
            if not sha:
                with open(full, "rb") as file:
                    sha = hashlib.file_digest(file, "sha256").hexdigest()
                fresh.append((full, stamp, sha))
            rows.append((path, sha))
    except OSError:
        return ""
    if fresh:
        learn(fresh)
    return (
        hashlib.sha256("\n".join(f"{path}\0{sha}" for path, sha in rows).encode("utf-8", "surrogateescape")).hexdigest()
        if place.exists()
        else ""
    )


def git_id(place: Path, size: int) -> str:
    """The id that git gives these bytes."""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with open(place, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _walk(top: Path, above: str) -> Iterator[tuple[str, os.stat_result]]:
    """Plain files below a folder, and links to such files that lie below it too; no folder is entered through a link."""
    root = os.path.realpath(top) + "/"
    todo = [above]
    while todo:
        inside = todo.pop()
        with contextlib.suppress(PermissionError), os.scandir(top / inside) as entries:
            for entry in entries:
                path = f"{inside}/{entry.name}" if inside else entry.name
                if entry.name in _LEFT_OUT:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    todo.append(path)
                elif entry.is_file(follow_symlinks=False):
                    yield path, entry.stat(follow_symlinks=False)
                elif entry.is_symlink() and (real := os.path.realpath(entry.path)).startswith(root) and os.path.isfile(real):
                    yield path, os.stat(real)


def _real(top: Path, path: str) -> str:
    """Where a file of the folder really lies; links that lead out of it were not listed."""
    return os.path.realpath(top / path)


def _is_known(place: Path, state: os.stat_result, code: str | None) -> bool:
    """Whether a file is still the code's own."""
    if code is None:
        return False
    try:
        return stat.S_ISREG(state.st_mode) and git_id(place, state.st_size) == code
    except OSError:
        return False


def _is_empty(top: Path, path: str) -> bool:
    """Whether a path is a folder with nothing to hand on, which is no fault."""
    return not is_pattern(path) and (top / path).is_dir() and not (top / path).is_symlink()


def _make_way(top: Path, path: str) -> None:
    """The folders above a path, and nothing at it; a link in the way is removed, never followed."""
    at = top
    *folders, _ = path.split("/")
    for name in folders:
        at = at / name
        if at.is_symlink() or (at.exists() and not at.is_dir()):
            at.unlink()
        at.mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(top / path)


def _poured(source: int, target: int, size: int) -> None:
    """Copy inside the kernel, which shares the blocks where the file system can; by hand where it cannot."""
    done = 0
    inside = getattr(os, "copy_file_range", None)  # Linux alone has it
    with contextlib.suppress(OSError):
        while inside is not None and done < size and (count := inside(source, target, size - done)):
            done += count
    while block := os.read(source, _BLOCK):
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(target, rest) :]


@contextlib.contextmanager
def _mapped(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        what = f"what a task leaves cannot be kept: {exc.strerror or exc}"
        raise StorageError(
            "E-OUTPUTS", what, where=str(exc.filename or place), fix=f"df -h {place}" if full else f"ls -ld {place}"
        ) from exc
