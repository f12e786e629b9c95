"""What a supervisor that was killed has left behind: found by its marks and ended.

Without its supervisor a process tree has no root. Its processes are known by the job's token in their environment, by the session
of the command, and by descent from one of these; one that has shed all three is beyond reach (a PID namespace would hold it).
"""

from __future__ import annotations

import contextlib
import os
import time

from overnight import jobs
from overnight.models import JobSpec, JobState, JobStatus
from overnight.supervisor import tree

_PATIENCE = 60.0  # seconds for which the killing is repeated
_PAUSE = 0.01
_END = 16 * 1024  # bytes of output in the status


def remember(lock: int, main: int = 0) -> None:
    """Note in the lock file, before the command starts, that none of its processes is older than now; then what its session is."""
    if main:
        os.pwrite(lock, b"%10d" % main, 0)
    else:
        os.pwrite(lock, b"%10d %d" % (0, _ticks()), 0)


def bury(folder: str, lock: int, past: JobStatus, spec: JobSpec | None) -> JobStatus:
    """End whatever is left of the job; its last status."""
    token = spec.env.get(jobs.TOKEN, "") if spec else ""
    noted = [int(item) for item in os.pread(lock, 64, 0).split()]
    main, born = noted if len(noted) == 2 else (0, 0)
    marks = tree.Marks(f"{jobs.TOKEN}={token}".encode() if token else b"", main, born)
    found = set()
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and (killed := tree.kill(lambda: tree.marked(marks))):
        found |= {(process.pid, process.start) for process in killed}
        time.sleep(_PAUSE)
    return JobStatus(
        JobState.LOST, "its supervisor died without a word", pid=past.pid, started=past.started, survivors=len(found), end=_end(folder)
    )


def _end(folder: str) -> str:
    with contextlib.suppress(OSError), open(f"{folder}/{jobs.LOG}", "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _END))
        return file.read(_END).decode("utf-8", "replace")
    return ""


def _ticks() -> int:
    """Now, as the process table tells the start of a process."""
    return int(time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) * os.sysconf("SC_CLK_TCK"))
