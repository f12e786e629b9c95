"""What a supervisor that was killed has left behind: found by its marks and ended.

Without its supervisor a process tree has no root. Its processes are known by the job's token in their environment, by what the
supervisor noted in the lock file while it lived, by the sessions that these made, and by descent from one of them. What had cleared
its environment, left its session and lost its parent since the last note is beyond reach; only a PID namespace, or a control group, holds it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable

from overnight import jobs
from overnight.models import JobSpec, JobState, JobStatus
from overnight.supervisor import cgroup, tree

_PATIENCE = 60.0  # seconds for which the killing is repeated
_PAUSE = 0.01
_NOTES = 2**20  # bytes of notes that are read
_END = 16 * 1024  # bytes of output in the status


def begin(lock: int, born: int = 0) -> None:
    """Note, before the command starts, that none of its processes is older than ``born``, else than now."""
    os.pwrite(lock, b"%d 0\n" % (born or now()), 0)


def remember(lock: int, processes: Iterable[tree.Process]) -> None:
    """Note who is in the tree now."""
    text = os.pread(lock, 64, 0).partition(b"\n")[0] + b"\n" + b"".join(b"%d %d\n" % (process.pid, process.start) for process in processes)
    with contextlib.suppress(OSError):
        os.pwrite(lock, text, 0)
        os.ftruncate(lock, len(text))


def bury(folder: str, lock: int, past: JobStatus, spec: JobSpec | None) -> JobStatus:
    """End whatever is left of the job; its last status."""
    token = spec.env.get(jobs.TOKEN, "") if spec else ""
    rows = [line.split() for line in os.pread(lock, _NOTES, 0).splitlines()]
    pairs = [(int(row[0]), int(row[1])) for row in rows if len(row) == 2]
    marks = tree.Marks(f"{jobs.TOKEN}={token}".encode() if token else b"", frozenset(pairs[1:]), pairs[0][0] if pairs else 0)
    found = set()
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and (killed := tree.kill(lambda: [*tree.marked(marks), *cgroup.members(folder)])):
        found |= {(process.pid, process.start) for process in killed}
        time.sleep(_PAUSE)
    cgroup.remove(folder)
    return JobStatus(
        JobState.LOST,
        "its supervisor died without a word",
        pid=past.pid,
        started=past.started,
        survivors=len(found),
        end=_end(folder),
        taken=past.taken,
    )


def _end(folder: str) -> str:
    with contextlib.suppress(OSError), open(f"{folder}/{jobs.LOG}", "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _END))
        return file.read(_END).decode("utf-8", "replace")
    return ""


def now() -> int:
    """This moment, as the process table tells the start of a process."""
    return int(time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) * os.sysconf("SC_CLK_TCK"))
