"""A control group for one job: what its processes may use together, what they have used, and a way to end them by name.

Used where the kernel's groups are writable (version 2 where memory and pids are delegated to us, version 1 where they are mounted the
old way), and only for a job with a limit; without them the supervisor's own looks are all there is. The command is born in the
group: whoever starts it is inside for that moment, so that it does nothing before its limits hold. What the job's group is called is
written into the job folder first, for whoever has to clear up. Must not know what a job is.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from overnight.jobs import GROUP
from overnight.supervisor import tree

_NAME = "overnight-"
_PATIENCE = 2.0  # seconds for which a group that is still in use is emptied again
_PAUSE = 0.005
_PROC = "/proc/self"


@dataclass(frozen=True, slots=True)
class _Part:
    """One folder of a group: version 2 has one, version 1 one for each controller."""

    path: str
    home: str  # the group that we are in ourselves
    door: str  # the file that lets a process in: of a group, or of its own alone
    limits: tuple[tuple[str, int], ...]


class Group:
    """The group of one job; ``make`` makes it."""

    def __init__(self, parts: list[_Part]) -> None:
        self._parts = parts

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Be in the group, so that a child is born there. Raises ``OSError`` if there is no way back."""
        been = []
        try:
            for part in self._parts:
                with contextlib.suppress(OSError):
                    _write(f"{part.path}/{part.door}", "0")
                    been.append(part)
            yield
        finally:
            for part in been:
                _write(f"{part.home}/{part.door}", "0")

    def hit(self) -> str:
        """Which limit was reached, "memory" or "processes"; empty if none was."""
        for part in self._parts:
            if _count(f"{part.path}/memory.events", "oom_kill") or _count(f"{part.path}/memory.oom_control", "oom_kill"):
                return "memory"
            if _count(f"{part.path}/pids.events", "max"):
                return "processes"
        return ""

    def cpu_seconds(self) -> float:
        """What all who were ever in the group have used; 0 where nobody counts."""
        for part in self._parts:
            if used := _number(f"{part.path}/cpuacct.usage"):
                return used * 1e-9
            if used := _count(f"{part.path}/cpu.stat", "usage_usec"):
                return used * 1e-6
        return 0.0

    def close(self) -> None:
        """Remove the group, with whoever is left in it."""
        _remove([part.path for part in self._parts])


def make(folder: str, memory: int, processes: int) -> Group | None:
    """Make the group of the job in ``folder``, with limits in bytes and in processes and threads (0 = none).

    None where there is nothing to make it of, or no limit; never raises.
    """
    if not (memory or processes):
        return None
    name = f"{_NAME}{os.path.basename(folder)[:100]}-{zlib.crc32(folder.encode('utf-8', 'surrogateescape')):08x}"
    try:
        parts = _plan(name, memory, processes)
        if not parts:
            return None
        _record(folder, parts)
        for number, part in enumerate(parts):
            try:
                _build(part)
            except OSError:
                _remove([part.path for part in parts[: number + 1]])
                return None
    except (OSError, ValueError, IndexError):
        return None
    return Group(parts)


def members(folder: str) -> list[tree.Process]:
    """Who is in the group that was noted in the job folder."""
    return [process for path in _recorded(folder) for process in _inside(path)]


def remove(folder: str) -> None:
    """Remove the group that was noted in the job folder, with whoever is left in it."""
    _remove(_recorded(folder))


def describe() -> str:
    """Which limits groups can hold here, in words; empty if none."""
    parts = _plan(f"{_NAME}probe", 2**30, 2**20)
    held = {name.partition(".")[0] for part in parts for name, _ in part.limits} & {"memory", "pids"}
    version = "v2" if any(part.door == "cgroup.procs" for part in parts) else "v1"
    return f"{version}: {' and '.join(sorted(held))}" if held else ""


# -------------------------------------------------------------------- where groups can be made


def _plan(name: str, memory: int, processes: int) -> list[_Part]:
    """The folders to be made: none where a limit cannot be held by groups at all."""
    try:
        mounts, places = _mounts(_PROC), _places()
    except OSError:
        return []
    wanted = [*(["memory"] if memory else []), *(["pids"] if processes else [])]
    parts = []
    if "" in mounts and (part := _unified(name, _join(mounts[""], places.get("", "")), mounts[""][0], (wanted, memory, processes))):
        return [part]
    for controller in (*wanted, "cpuacct"):
        if controller in mounts and (home := _join(mounts[controller], places.get(controller, ""))) and _is_ours(home, "tasks"):
            limits = {
                "memory": (("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", memory)),
                "pids": (("pids.max", processes),),
            }
            parts.append(_Part(f"{home}/{name}", home, "tasks", limits.get(controller, ())))
    return parts if any(part.limits for part in parts) else []


def _unified(name: str, home: str, top: str, wish: tuple[list[str], int, int]) -> _Part | None:
    """Version 2: next to us, or as near above as the controllers are handed on; a limit of what we leave that way still holds."""
    wanted, memory, processes = wish
    base, limits = home, {"memory": memory, "pids": processes}
    while home and not set(wanted) <= set(_read(f"{base}/cgroup.subtree_control").split()):
        if base == top:
            return None
        for controller, limit in limits.items():
            if left := _number(f"{base}/{controller}.max"):
                if controller not in wanted:
                    return None
                limits[controller] = min(left, limit)
        base = os.path.dirname(base)
    if not home or not _is_ours(base, "cgroup.procs") or not os.access(f"{home}/cgroup.procs", os.W_OK):
        return None
    files = [("memory.max", limits["memory"]), ("memory.oom.group", 1), ("pids.max", limits["pids"])]
    return _Part(f"{base}/{name}", home, "cgroup.procs", tuple(item for item in files if item[0].split(".")[0] in wanted))


@functools.cache
def _mounts(proc: str) -> dict[str, tuple[str, str]]:
    """Controller (empty: version 2) -> where its groups are mounted, and which group is the root there."""
    found = {}
    for line in _read(f"{proc}/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            _, _, _, root, point, *_ = before.split(" ")
            for controller in options.split(",") if kind == "cgroup" else [""]:
                found[controller] = (point, root)
    return found


def _places() -> dict[str, str]:
    """Controller (empty: version 2) -> the group that we are in."""
    rows = [line.split(":", 2) for line in _read(f"{_PROC}/cgroup").splitlines()]
    return {controller: path for _, controllers, path in rows for controller in controllers.split(",")}


def _join(mount: tuple[str, str], path: str) -> str:
    """The folder of a group; empty if it is not visible here."""
    point, root = mount
    root = root.rstrip("/")
    inside = path == root or path.startswith(f"{root}/")
    return (point + path[len(root) :]).rstrip("/") if inside and ".." not in path else ""


def _is_ours(folder: str, door: str) -> bool:
    return os.access(folder, os.W_OK) and os.access(f"{folder}/{door}", os.W_OK)


# -------------------------------------------------------------------- files


def _build(part: _Part) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(part.path)
    for file, value in part.limits:
        if value:
            try:
                _write(f"{part.path}/{file}", str(value))
            except OSError:
                if not file.startswith(("memory.memsw", "memory.oom")):  # not every kernel counts swap
                    raise


def _record(folder: str, parts: list[_Part]) -> None:
    fd = os.open(f"{folder}/{GROUP}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, "".join(f"{part.path}\n" for part in parts).encode("utf-8", "surrogateescape"))
    finally:
        os.close(fd)


def _recorded(folder: str) -> list[str]:
    """Nothing but groups of ours, whatever the file says."""
    paths = _read(f"{folder}/{GROUP}").splitlines()
    return [path for path in paths if os.path.basename(path).startswith(_NAME) and os.path.exists(f"{path}/cgroup.procs")]


def _inside(path: str) -> list[tree.Process]:
    found = (tree.read(pid) for pid in _read(f"{path}/cgroup.procs").split())
    return [process for process in found if process is not None and process.state not in "ZX" and process.pid != os.getpid()]


def _remove(paths: list[str]) -> None:
    until = time.monotonic() + _PATIENCE
    for path in paths:
        while True:
            try:
                os.rmdir(path)
            except FileNotFoundError:
                break
            except OSError:
                if time.monotonic() > until:
                    break
                for file, value in (("cgroup.kill", "1"), ("pids.max", "0")):
                    with contextlib.suppress(OSError):
                        _write(f"{path}/{file}", value)
                tree.kill(lambda path=path: _inside(path))  # type: ignore[misc] # binds the path
                time.sleep(_PAUSE)
            else:
                break


def _count(path: str, key: str) -> int:
    return next((int(value) for name, value in (line.split(" ", 1) for line in _read(path).splitlines() if " " in line) if name == key), 0)


def _number(path: str) -> int:
    """A number of the kernel's; 0 for "max", and where there is none."""
    text = _read(path).strip()
    return int(text) if text.isdecimal() else 0


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        text = b""
        while more := os.read(fd, 1 << 16):
            text += more
    except OSError:
        return ""
    finally:
        os.close(fd)
    return text.decode("utf-8", "surrogateescape")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # never made: what is no group's own file is an error
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
