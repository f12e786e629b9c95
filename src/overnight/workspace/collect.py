"""The one safe reading of a copy after a proposer has worked in it (RELIABILITY: scope of the change).

Every name is looked at with ``lstat`` and opened without following links, below a folder already held open, so that nothing
the proposer left (links, pipes, devices, hard links, huge or endless trees) is followed, waited for or read twice.
Knows a folder, a tree and a scope; nothing of git or of studies.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from overnight.workspace.scope import Scope
from overnight.workspace.trees import EXECUTABLE, LINK, Entry, Snapshot

FILE_LIMIT = 2**20  # bytes of one editable file
TOTAL_LIMIT = 16 * 2**20  # bytes of all editable files
ENTRY_LIMIT = 50_000  # names looked at
DEPTH_LIMIT = 64  # folders inside folders
_SHOWN = 5
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_LITTER = re.compile(
    r"__pycache__|.*\.py[co]|(?i:\.git)|\.(mypy|ruff|pytest|uv)_cache|\.cache|\.venv|venv|node_modules|\.ipynb_checkpoints|\.DS_Store"
    r"|\.idea|\.vscode|\.claude|\.codex|\.cursor|\.gemini|\.opencode|\.aider.*|.*\.sw[po]|.*~",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a proposer left: the bytes of every editable file, why it is not fit to be run (empty = fit), what else to know."""

    files: dict[str, bytes]
    rejected: str = ""
    notes: tuple[str, ...] = ()


class _TooMuch(Exception):  # noqa: N818 - not an error to anyone outside this file: it ends the walk
    """The copy is larger than what is looked at."""


@dataclass(slots=True)
class _Walk:
    """What is gathered on the way through the copy."""

    base: Snapshot
    scope: Scope
    algorithm: str
    links: frozenset[str]
    files: dict[str, bytes] = field(default_factory=dict)
    unfit: list[str] = field(default_factory=list)  # sentences about editable files
    changed: list[str] = field(default_factory=list)  # protected paths
    extra: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    entries: int = 0
    total: int = 0


def collect(copy: Path, base: Snapshot, scope: Scope, algorithm: str, links: Collection[str] = ()) -> Collected:
    """Read the editable files of ``copy``, an export of ``base`` with other editable files, and compare the rest with ``base``.

    ``links`` are the names of outside data that were linked into the copy. Never raises for what lies in the copy: what is
    wrong with it is said in ``rejected``.
    """
    above = {"/".join(name.split("/")[:depth]) for name in links for depth in range(1, name.count("/") + 2)}
    walk = _Walk(base, scope, algorithm, frozenset(above))
    try:
        with _opened(os.fspath(copy), None) as top:
            _folder(walk, top, "", 0)
    except _TooMuch as exc:
        return Collected({}, str(exc))
    except OSError as exc:
        return Collected({}, f"the copy cannot be read: {exc.strerror}")
    gone = [path for path in base.files if path not in walk.seen]
    walk.unfit += [f"{shown(path)} is missing" for path in scope.explicit if path not in walk.seen]
    walk.changed += [path for path in gone if not scope.matches(path)]
    return Collected(dict(sorted(walk.files.items())), _verdict(walk), _notes(walk))


def shown(path: str) -> str:
    """A name fit for a line of text: control and other unprintable characters are escaped, long names are cut."""
    safe = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in path)
    return safe if len(safe) <= 120 else f"{safe[:80]}…{safe[-39:]}"


def _folder(walk: _Walk, handle: int, folder: str, depth: int) -> None:
    """Look at everything in an open folder, by name, then into the folders that matter."""
    if depth > DEPTH_LIMIT:
        raise _TooMuch(f"folders are nested more than {DEPTH_LIMIT} deep in the copy")
    names: list[str] = []
    with os.scandir(handle) as found:
        for entry in found:
            walk.entries += 1
            if walk.entries > ENTRY_LIMIT:
                raise _TooMuch(f"the copy holds more than {ENTRY_LIMIT} files")
            names.append(entry.name)
    for name in sorted(names):
        path = f"{folder}/{name}" if folder else name
        if path in walk.base.files:
            walk.seen.add(path)
            _known(walk, handle, name, path)
        elif path in walk.base.folders:
            _descend(walk, handle, name, path, depth)
        elif path not in walk.links and not _LITTER.fullmatch(name):
            _new(walk, handle, name, path, depth)


def _known(walk: _Walk, handle: int, name: str, path: str) -> None:
    """A file of the base commit: read if editable, compared if protected."""
    entry = walk.base.files[path]
    if walk.scope.matches(path):
        _editable(walk, handle, name, path)
    elif not _unchanged(handle, name, entry, walk.algorithm):
        walk.changed.append(path)


def _new(walk: _Walk, handle: int, name: str, path: str, depth: int) -> None:
    """A name that the base commit does not have."""
    folder = stat.S_ISDIR(os.lstat(name, dir_fd=handle).st_mode)
    if folder and walk.scope.reaches(path):
        _descend(walk, handle, name, path, depth)
    elif walk.scope.matches(path):
        walk.seen.add(path)
        _editable(walk, handle, name, path)
    else:
        walk.extra.append(path + "/" if folder else path)


def _descend(walk: _Walk, handle: int, name: str, path: str, depth: int) -> None:
    """Go into a folder, never through a link that took its place."""
    try:
        with _opened(name, handle) as inner:
            _folder(walk, inner, path, depth + 1)
    except OSError as exc:
        if path in walk.base.folders:
            kind = stat.S_IFMT(os.lstat(name, dir_fd=handle).st_mode)
            why = f"cannot be opened: {exc.strerror}" if kind == stat.S_IFDIR else _KINDS.get(kind, "is a file")
            walk.unfit.append(f"{shown(path)} {why}")
        else:
            walk.extra.append(path)


def _editable(walk: _Walk, handle: int, name: str, path: str) -> None:
    """Read an editable file once, or say why it cannot count."""
    try:
        found, data = _read(handle, name)
    except OSError as exc:
        walk.unfit.append(f"{shown(path)} cannot be read: {exc.strerror}")
        return
    walk.total += len(data)
    if walk.total > TOTAL_LIMIT:
        raise _TooMuch(f"the editable files hold more than {TOTAL_LIMIT // 2**20} MiB")
    if found:
        walk.unfit.append(f"{shown(path)} {found}")
    else:
        walk.files[path] = data


def _read(handle: int, name: str) -> tuple[str, bytes]:
    """Why the file is not fit (empty = fit) and its bytes; opened at most once and read at most once."""
    if unfit := _oddity(os.lstat(name, dir_fd=handle)):
        return unfit, b""
    file = os.open(name, _OPEN, dir_fd=handle)
    with os.fdopen(file, "rb", buffering=0) as opened:
        if unfit := _oddity(os.fstat(file)):
            return unfit, b""
        parts: list[bytes] = []
        while (left := FILE_LIMIT + 1 - sum(map(len, parts))) and (part := opened.read(left)):
            parts.append(part)
    data = b"".join(parts)
    return (_TOO_BIG, b"") if len(data) > FILE_LIMIT else ("", data)


_TOO_BIG = f"is larger than {FILE_LIMIT // 2**20} MiB"
_KINDS = {
    stat.S_IFLNK: "is a symbolic link",
    stat.S_IFDIR: "is a folder",
    stat.S_IFIFO: "is a named pipe",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFBLK: "is a device",
    stat.S_IFCHR: "is a device",
}


def _oddity(found: os.stat_result) -> str:
    """What makes a file unfit to be a proposal's; empty for a plain file of its own."""
    if not stat.S_ISREG(found.st_mode):
        return _KINDS.get(stat.S_IFMT(found.st_mode), "is no plain file")
    if found.st_nlink != 1:
        return "is a hard link to another file"
    return _TOO_BIG if found.st_size > FILE_LIMIT else ""


def _unchanged(handle: int, name: str, entry: Entry, algorithm: str) -> bool:
    """Whether a protected file is still the one of the base commit: type, executable bit and bytes."""
    try:
        found = os.lstat(name, dir_fd=handle)
        if entry.mode == LINK:
            return stat.S_ISLNK(found.st_mode) and _is(os.fsencode(os.readlink(name, dir_fd=handle)), entry, algorithm)
        plain = stat.S_ISREG(found.st_mode) and found.st_size == entry.size and found.st_nlink == 1
        if not plain or bool(found.st_mode & stat.S_IXUSR) != (entry.mode == EXECUTABLE):
            return False
        with os.fdopen(os.open(name, _OPEN, dir_fd=handle), "rb", buffering=0) as opened:
            return _same(opened.fileno(), entry, algorithm)
    except OSError:
        return False


def _is(data: bytes, entry: Entry, algorithm: str) -> bool:
    return hashlib.new(algorithm, b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == entry.id


def _same(file: int, entry: Entry, algorithm: str) -> bool:
    """Whether an open file has exactly the bytes of the blob; never more are read than it should have."""
    state = hashlib.new(algorithm, b"blob %d\0" % entry.size, usedforsecurity=False)
    left = entry.size + 1
    while left and (part := os.read(file, min(left, 2**18))):
        state.update(part)
        left -= len(part)
    return left == 1 and state.hexdigest() == entry.id


@contextmanager
def _opened(name: str, within: int | None) -> Iterator[int]:
    handle = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=within)
    try:
        yield handle
    finally:
        os.close(handle)


def _verdict(walk: _Walk) -> str:
    reasons = list(walk.unfit[:_SHOWN])
    if walk.changed:
        reasons.append(f"changed protected files: {_listed(sorted(walk.changed))}")
    return "; ".join(reasons)


def _notes(walk: _Walk) -> tuple[str, ...]:
    return (f"not carried, because it is not editable: {_listed(walk.extra)}",) if walk.extra else ()


def _listed(paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(shown(path) for path in paths[:_SHOWN]) + more
