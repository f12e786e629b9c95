"""A file system in the making: what lies where inside the walls, turned into options of ``bwrap``.

Paths are added in any order and laid out from the root downwards, so that a deeper one always lies on top. A path that leads through
symbolic links stays reachable by its own name: the links are made inside too. Reads the disk, changes nothing.
Must not know why something is visible or hidden.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

_LINKS = 40  # followed in one path, as the kernel does


class Kind(Enum):
    """What is to be found at a path."""

    READ = "--ro-bind"  # what the machine has there, read-only
    WRITE = "--bind"  # the same, writable
    DEVICE = "--dev-bind"  # the same, and devices in it work
    EMPTY = "--tmpfs"  # a fresh folder in memory
    BLANK = "blank"  # an empty file, read-only
    FILE = "file"  # another file of the machine, read-only
    LINK = "--symlink"
    FOLDER = "--dir"  # on the way to something else: bwrap would keep it from other users


_UNSEEN = (Kind.EMPTY, Kind.BLANK, Kind.FILE)


@dataclass(frozen=True, slots=True)
class _Mount:
    kind: Kind
    source: str = ""
    size: int = 0  # bytes; of a fresh folder
    shut: bool = False  # a fresh folder in which nothing can be made


class Layout:
    """What lies where; ``blank`` is an empty file of the machine."""

    def __init__(self, blank: Path) -> None:
        self._blank = str(blank)
        self._at: dict[str, _Mount] = {}
        self._links: dict[str, str] = {}

    def show(self, path: Path, kind: Kind = Kind.READ) -> None:
        """Make a path of the machine visible under its own name; one that does not exist is passed over."""
        links, real = trail(path)
        if os.path.lexists(real):
            self._at[real] = _Mount(kind)
            self._links.update(links)

    def fresh(self, path: Path, size: int) -> None:
        """Put a new folder of at most ``size`` bytes of memory at the path, writable for everybody."""
        links, real = trail(path)
        self._at[real] = _Mount(Kind.EMPTY, size=size)
        self._links.update(links)

    def put(self, path: Path, source: Path) -> None:
        """Put another file of the machine at the path, read-only."""
        self._at[str(path)] = _Mount(Kind.FILE, str(source))

    def hide(self, path: Path) -> None:
        """Cover what the machine has at the path, unless it is invisible anyway; what was shown below it stays."""
        real = trail(path)[1]
        if os.path.lexists(real) and (self._shows(real) or real in self._at):
            self._at[real] = _Mount(Kind.EMPTY, size=2**20, shut=True) if os.path.isdir(real) else _Mount(Kind.BLANK)

    def options(self) -> Iterator[str]:
        """The options, outermost first."""
        links = {path: _Mount(Kind.LINK, target) for path, target in self._links.items() if not self._shows(path) and path not in self._at}
        everything = {**self._at, **links}
        ways = {parent for path in everything for parent in _parents(path) if parent not in everything and not self._shows(parent)}
        everything |= {path: _Mount(Kind.FOLDER) for path in ways if path != "/"}
        for path in sorted(everything, key=lambda path: (path.count("/") if path != "/" else 0, path)):
            mount = everything[path]
            if not (mount.kind is Kind.READ and self._above(path).kind is Kind.READ and self._shows(path)):
                yield from self._option(path, mount)
        for path, mount in self._at.items():
            if mount.shut:
                yield from ("--remount-ro", path)

    def grants(self) -> Iterator[tuple[Kind, str]]:
        """What is visible, as paths that are allowed with all below them: for walls that cannot take away from what they have given.

        A folder with something hidden in it is given piece by piece, as it is now; the folder itself cannot be listed then.
        """
        for path, mount in sorted(self._at.items()):
            if mount.kind in (Kind.READ, Kind.WRITE, Kind.DEVICE):
                yield from self._grant(path, mount.kind)

    def _grant(self, path: str, kind: Kind) -> Iterator[tuple[Kind, str]]:
        less = (Kind.READ, Kind.DEVICE) if kind is Kind.WRITE else ()
        inside = path.rstrip("/") + "/"
        if not any(mount.kind in (*_UNSEEN, *less) for deeper, mount in self._at.items() if deeper != path and deeper.startswith(inside)):
            yield kind, path
            return
        for name in _names(path):
            child = inside + name
            if child not in self._at:
                yield from self._grant(child, kind)

    def _option(self, path: str, mount: _Mount) -> Iterator[str]:
        if mount.kind is Kind.EMPTY:
            yield from ("--perms", "0755" if mount.shut else "1777", "--size", str(mount.size), "--tmpfs", path)
        elif mount.kind is Kind.FOLDER:
            yield from ("--perms", "0755", "--dir", path)
        elif mount.kind in (Kind.BLANK, Kind.FILE):
            yield from ("--ro-bind", mount.source or self._blank, path)
        else:
            yield from (mount.kind.value, mount.source or path, path)

    def _above(self, path: str) -> _Mount:
        """What the path lies in."""
        return next((self._at[parent] for parent in _parents(path) if parent in self._at), _NOWHERE)

    def _shows(self, path: str) -> bool:
        """Whether what the machine has at the path is visible because of what it lies in."""
        return self._above(path).kind in (Kind.READ, Kind.WRITE, Kind.DEVICE)


_NOWHERE = _Mount(Kind.EMPTY)


def sources(options: Sequence[str]) -> Iterator[str]:
    """What of the machine a command line of ``bwrap`` shows, by its path there."""
    for at, word in enumerate(options):
        if word in (Kind.READ.value, Kind.WRITE.value, Kind.DEVICE.value):
            yield options[at + 1]


def _parents(path: str) -> Iterator[str]:
    """The folders in which an absolute path lies, innermost first."""
    while path != "/":
        path = path[: path.rfind("/")] or "/"
        yield path


def _names(folder: str) -> list[str]:
    """What lies in a folder; links are left out, for what they lead to has a name of its own."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.is_symlink())
    except OSError:
        return []


def trail(path: Path) -> tuple[list[tuple[str, str]], str]:
    """Each symbolic link on the way of an absolute path, with its target, and the path without any.

    Raises nothing: what does not exist or goes in circles is taken by its name.
    """
    links: list[tuple[str, str]] = []
    todo = [part for part in str(path).split("/") if part not in ("", ".")]
    at = "/"
    while todo:
        part = todo.pop(0)
        if part == "..":
            at = os.path.dirname(at)
            continue
        here = os.path.join(at, part)
        try:
            target = os.readlink(here) if len(links) < _LINKS else ""
        except (OSError, ValueError):
            target = ""
        if not target:
            at = here
            continue
        links.append((here, target))
        at = "/" if target.startswith("/") else at
        todo = [part for part in target.split("/") if part not in ("", ".")] + todo
    return links, at
