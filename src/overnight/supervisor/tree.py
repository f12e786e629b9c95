"""Every process that descends from this one: who they are, what they hold, and how all of them are ended.

A daemon that forks twice comes back to a subreaper as its child, so on Linux nothing leaves the tree, and a parent without children
is the proof that all are dead. Where there is no ``/proc`` (macOS) the tree is what ``ps`` shows, and a daemon can leave it.
Must not know what a job is.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
from collections.abc import Callable, Iterable
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER = 36
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = os.path.isdir("/proc/self")
COMPLETE = _PROC  # whether nothing can leave the tree
_FORGET = 40  # looks after which the memory of strangers is dropped: a process id may have a new owner
_ROUNDS = 64  # of stopping what was born meanwhile, before the killing


class Process(NamedTuple):
    """One line of the process table; ``start`` (clock ticks since boot) tells it from a later process with the same id."""

    pid: int
    parent: int
    group: int
    session: int
    state: str
    start: int
    rss: int  # bytes


@functools.cache
def libc() -> ctypes.CDLL:
    """Open the C library; once for all forks."""
    return ctypes.CDLL(None)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own; does nothing where the kernel has no such thing."""
    with contextlib.suppress(OSError, AttributeError):
        libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def read(pid: int | str) -> Process | None:
    """The process with that id, None if there is none."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        text = os.read(fd, 4096)
    except OSError:
        return None
    finally:
        os.close(fd)
    start = text.rfind(b")") + 2  # the name before it may hold anything
    item = text[start:].split()
    if len(item) < 22:
        return None
    # A main thread that ended before the others looks dead, and is not.
    state = "S" if item[0] == b"Z" and int(item[17]) > 1 else item[0].decode()
    return Process(int(pid), int(item[1]), int(item[2]), int(item[3]), state, int(item[19]), int(item[21]) * _PAGE)


def everybody() -> list[Process]:
    """Every process of this machine (of this PID namespace)."""
    if not _PROC:
        return _ask_ps()
    return [found for name in os.listdir("/proc") if name.isdigit() and (found := read(name))]


def _ask_ps() -> list[Process]:
    try:
        text = subprocess.run(["ps", "-axo", "pid=,ppid=,pgid=,state=,rss="], capture_output=True, text=True, check=False).stdout
    except OSError:
        return []
    rows = [line.split() for line in text.splitlines()]
    return [Process(int(r[0]), int(r[1]), int(r[2]), 0, r[3][:1], 0, int(r[4]) * 1024) for r in rows if len(r) == 5 and r[4].isdigit()]


def below(roots: Iterable[int], among: Iterable[Process]) -> list[Process]:
    """The descendants of ``roots``, without these, among the processes given; the dead that nobody waited for are left out."""
    children: dict[int, list[Process]] = {}
    for process in among:
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    queue = list(roots)
    while queue:
        below_it = children.pop(queue.pop(), [])
        found += below_it
        queue += [process.pid for process in below_it]
    return [process for process in found if process.state not in "ZX"]


class Tree:
    """The descendants of this process, looked at again and again: those who were here before it are read once only."""

    def __init__(self) -> None:
        self._me = os.getpid()
        self._born = -1
        self._strangers: set[str] = set()
        self._looks = 0

    def look(self, *, fresh: bool = False) -> list[Process]:
        """Who lives in the tree now; ``fresh`` remembers nothing."""
        if not _PROC:
            return below([self._me], everybody())
        if self._born < 0 and (me := read(self._me)):
            self._born = me.start
        self._looks += 1
        if fresh or self._looks % _FORGET == 0:
            self._strangers.clear()
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and name not in self._strangers and (process := read(name)):
                if process.start < self._born:
                    self._strangers.add(name)
                else:
                    found.append(process)
        return below([self._me], found)


class Marks(NamedTuple):
    """By what the processes of a tree without a root are known."""

    variable: bytes  # NAME=value in the environment; empty = not known
    known: frozenset[tuple[int, int]]  # process ids and starts, as they were seen
    born: int  # none is older


def marked(marks: Marks) -> list[Process]:
    """Who bears the marks, who is in a session that one of these made, and all their descendants."""
    everyone = {process.pid: process for process in everybody()}
    young = [process for process in everyone.values() if process.start >= marks.born and process.pid != os.getpid()]
    found = {process.pid: process for process in young if (process.pid, process.start) in marks.known}
    if marks.variable:
        found |= {process.pid: process for process in young if marks.variable in _environment(process.pid)}
    # A session whose leader lives and is not ours is a terminal in which somebody looks at what is left.
    sessions = {process.session for process in found.values() if process.session in found or process.session not in everyone}
    found |= {process.pid: process for process in young if process.session in sessions}
    found |= {process.pid: process for process in below(found, young)}
    return [process for process in found.values() if process.state not in "ZX"]


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def proportional(processes: Iterable[Process]) -> int:
    """Bytes of memory held by the processes, shared pages counted once (PSS); where the kernel does not tell, their RSS."""
    total = 0
    for process in processes:
        try:
            with open(f"/proc/{process.pid}/smaps_rollup", "rb") as file:
                total += next((int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:")), process.rss)
        except OSError:
            total += process.rss
    return total


def send(process: Process, number: signal.Signals) -> bool:
    """Send a signal to this very process, never to another that got its id. False if it is gone or out of our reach."""
    try:
        fd = os.pidfd_open(process.pid) if _PROC else -1
    except ProcessLookupError:
        return False
    except (OSError, AttributeError):
        fd = -1  # an old kernel, or no descriptor left
    try:
        now = read(process.pid) if _PROC else process
        if now is None or now.start != process.start:
            return False
        if fd >= 0:
            signal.pidfd_send_signal(fd, number)
        else:
            os.kill(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if fd >= 0:
            os.close(fd)
    return True


def terminate(processes: Iterable[Process]) -> None:
    """Ask the processes to end; one that was stopped is woken, so that it can."""
    for process in processes:
        send(process, signal.SIGTERM)
        if process.state in "Tt":
            send(process, signal.SIGCONT)


def kill(find: Callable[[], list[Process]]) -> list[Process]:
    """End all that ``find`` finds, once: stop everything until nothing new is born, then kill. Returns what was found.

    Whole process groups are stopped in one call, which no fork in progress escapes: a fork bomb would else win the race. A group
    lies within one session, and the sessions of a tree hold nobody else, so this hits no stranger.
    """
    seen: dict[tuple[int, int], Process] = {}
    for _ in range(_ROUNDS):
        new = [process for process in find() if (process.pid, process.start) not in seen]
        if not new:
            break
        stopped: set[int] = set()
        for process in new:
            seen[process.pid, process.start] = process
            # A stopped member keeps the group's id from being given to somebody else.
            if process.group not in stopped and send(process, signal.SIGSTOP):
                stopped.add(process.group)
                _signal_group(process, signal.SIGSTOP)
    for process in seen.values():
        send(process, signal.SIGKILL)
    return list(seen.values())


def kill_group(group: int) -> None:
    """End a process group, for where there is no tree to look at."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _signal_group(member: Process, number: signal.Signals) -> None:
    now = read(member.pid) if _PROC else member
    if now is not None and now.start == member.start and now.group == member.group and now.group != os.getpgrp():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(now.group, number)
