"""Running somebody's program as a proposal: one job in the disposable copy, its end waited for, what it left read with care.

What the program leaves is not to be trusted: files are read bounded, never through a link. Knows neither the store nor git.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from overnight.errors import JobError, ProposalError
from overnight.models import JobSpec, JobState, JobStatus
from overnight.protocols import Executor, Request

_LOOKS = 20_000  # files of a copy that are looked at for what was changed


def brief_file(request: Request, text: str) -> Path:
    """The brief as a file in the proposer's own folder."""
    path = request.work / "brief.md"
    path.write_text(text, encoding="utf-8")
    return path


def spec(request: Request, argv: Sequence[str], env: Mapping[str, str], stdin: Path | None, time_limit: float) -> JobSpec:
    """A job in the copy that may also write to the proposer's own folder; ``time_limit`` is in seconds."""
    return JobSpec(
        id=f"p{request.id}",
        argv=tuple(argv),
        cwd=str(request.copy),
        env=env,
        stdin=str(stdin) if stdin else "",
        readable=(str(stdin),) if stdin else (),
        writable=(str(request.work),),
        time_limit=time_limit,
        log_head=2**20,
        log_tail=2**18,
        durable=False,
    )


def begin(executor: Executor, job: JobSpec) -> None:
    """Submit the job. Raises ``ProposalError`` (an outage) if it cannot be started, ``JobError`` if the disk is the reason."""
    try:
        executor.submit(job)
    except JobError as exc:
        if isinstance(exc.__cause__, OSError):  # nothing can be done, by an experiment neither
            raise
        raise ProposalError("E-PROPOSER-START", f"the proposer was not started: {exc.message}", outage=True) from exc


def ended(executor: Executor, job: str, cancelled: Callable[[], bool]) -> JobStatus:
    """The end of a job, which is asked for when the answer is no longer wanted."""
    asked = False
    while not (status := executor.poll(job, 0.25)).state.over:
        if cancelled() and not asked:
            executor.cancel(job, "no longer wanted")
            asked = True
    return status


def unanswered(status: JobStatus) -> ProposalError | None:
    """The error for a job that was stopped or was too slow."""
    if status.state is JobState.CANCELLED:
        return ProposalError("E-CANCELLED", "the proposer was stopped", outage=True)
    if status.state is JobState.TIMED_OUT:
        return ProposalError(
            "E-PROPOSER-SLOW", f"the proposer did not answer within its {status.cause}", outage=True, fix="--proposer-time-limit 60m"
        )
    return None


def read(path: Path, limit: int = 65536) -> str:
    """The first ``limit`` bytes of a regular file, or an empty string."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as file:
            return file.read(limit).decode("utf-8", "replace").strip()
    return ""


def contents(request: Request) -> dict[str, bytes]:
    """The editable files as they are now; what cannot be read is left out."""
    found = {}
    for path in request.editable:
        with contextlib.suppress(OSError):
            handle = os.open(request.copy / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(handle, "rb") as file:
                found[path] = file.read(2**21)
    return found


def touched(request: Request, since: int) -> list[str]:
    """Files of the copy, other than the editable ones, whose content or place changed after ``since`` (ns, by the file system's clock)."""
    found: list[str] = []
    looked = 0
    for folder, _, names in os.walk(request.copy):
        for name in names:
            looked += 1
            path = os.path.relpath(os.path.join(folder, name), request.copy)
            with contextlib.suppress(OSError):
                if path not in request.editable and os.lstat(request.copy / path).st_ctime_ns > since:
                    found.append(path)
        if looked > _LOOKS or len(found) > 8:
            break
    return found
