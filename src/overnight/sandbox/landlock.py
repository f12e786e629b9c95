"""The weaker walls, for machines on which namespaces cannot be made: Landlock and a stricter system call filter.

Landlock holds the file system, signals and abstract sockets; the filter holds all other sockets, and what else reaches other programs.
``docs/security.md`` says what is not held. Landlock can only allow: a folder with something hidden in it is allowed piece by piece.
Must not know what the command does.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from overnight.sandbox.mounts import Kind, Layout

NEEDED = 6  # the first that keeps signals and abstract sockets to oneself (Linux 6.12)
_CREATE_RULESET, _VERSION = 444, 1
_LAUNCHER = Path(__file__).with_name("launcher.py")
_LETTERS = {Kind.READ: "r", Kind.WRITE: "w", Kind.DEVICE: "d"}
# Of /proc: what tells of the machine, and of the command itself; never of other processes.
_PROC = (
    "self", "cpuinfo", "meminfo", "stat", "uptime", "loadavg", "version", "filesystems", "devices", "modules", "sys", "driver", "cgroups",
)  # fmt: skip
_DEVICES = ("null", "zero", "full", "random", "urandom")
_MOST = 10_000  # rules; more than that would not fit on a command line


@functools.cache
def abi() -> int:
    """Which Landlock this kernel has; 0 for none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, _VERSION)))


def command(layout: Layout, devices: tuple[Path, ...], plan: dict[str, object]) -> list[str]:
    """The start of a command line that puts the rest of it behind these walls.

    ``plan`` tells uid, groups, limits, network and filter. Raises ``OSError`` if there is too much to be told apart.
    """
    rules = [f"{_LETTERS[kind]}{path}" for kind, path in layout.grants()]
    if len(rules) > _MOST:
        raise OSError(f"{len(rules)} paths would have to be allowed one by one: something hidden lies in a crowded folder")
    rules += _always(devices)
    return [sys.executable, "-I", "-S", "-B", str(_LAUNCHER), json.dumps({"abi": abi(), **plan}), *rules, "--"]


def _always(devices: tuple[Path, ...]) -> Iterator[str]:
    yield from (f"r/proc/{name}" for name in _PROC)
    yield "w/dev/shm"
    yield from (f"d/dev/{name}" for name in _DEVICES)
    yield from (f"d{device}" for device in devices)


def closed(path: Path) -> Path | None:
    """The first folder on the way to a path that only its owner and group can pass; None if everybody can."""
    for folder in reversed(Path(os.path.realpath(path)).parents):
        try:
            if not folder.stat().st_mode & 0o001:
                return folder
        except OSError:
            return folder
    return None
