"""Job folders as executors see them: made in one step, read as far as they can be read, and closed where no supervisor can do it any more.

``overnight.jobs`` says what a folder holds. Must not know where the job runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
from pathlib import Path

from overnight import jobs
from overnight.errors import JobError, StorageError
from overnight.models import JobSpec, JobState, JobStatus, MetricPoint

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]{0,200}")
_END = 16 * 1024  # bytes of output in a status


def write(spec: JobSpec, folder: Path) -> None:
    """Make the job folder in one step, unless it is there: if it is, its spec is complete. Raises ``JobError``, ``OSError``."""
    if not _NAME.fullmatch(spec.id):
        raise JobError("E-JOB-ID", f"'{spec.id}' cannot name a job", why="it must be fit for a file name")
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    nonce = secrets.token_hex(8)
    marked = dataclasses.replace(spec, env={**spec.env, jobs.TOKEN: f"{spec.id}-{nonce}"})
    draft = folder.with_name(f".{spec.id}.{nonce}")
    draft.mkdir(mode=0o700)
    try:
        fd = os.open(draft / jobs.SPEC, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(jobs.spec_to_json(marked))
        draft.rename(folder)
    except OSError as exc:
        shutil.rmtree(draft, ignore_errors=True)
        # A folder with something in it is not replaced: somebody else was first.
        if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def read(folder: Path) -> JobStatus | None:
    """What its supervisor says of the job; None if it says nothing yet. Raises ``StorageError`` when the disk is gone."""
    try:
        return jobs.status_from_json((folder / jobs.STATUS).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        if isinstance(exc, OSError) and exc.errno == errno.EIO:  # a disk that is gone: to wait for the job's end would be to wait for ever
            raise StorageError(
                "E-STORAGE", f"job {folder.name} cannot be followed: {exc.strerror}", where=str(folder), fix="dmesg | tail"
            ) from exc
        return JobStatus(JobState.RUNNING, cause=f"status.json cannot be read: {exc}")


def token(folder: Path) -> str:
    """The name that no other job ever had; empty if there is no such job."""
    try:
        return jobs.spec_from_json((folder / jobs.SPEC).read_bytes()).env.get(jobs.TOKEN, "")
    except (OSError, ValueError):
        return ""


def placed(folder: Path, status: JobStatus) -> JobStatus:
    """With the class of the machine that it ran on, as the node of a cluster told it."""
    try:
        found = json.loads((folder / jobs.NODE).read_bytes())
        return dataclasses.replace(status, worker=status.worker or str(found["worker"]))
    except (OSError, ValueError, KeyError, TypeError):
        return status


def points(folder: Path, offset: int) -> tuple[list[MetricPoint], int]:
    """Metric points streamed since ``offset`` (bytes of ``metrics.jsonl``; 0 = from the start) and the next offset.

    Raises ``StorageError``.
    """
    try:
        with (folder / jobs.METRICS).open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    except OSError as exc:
        raise StorageError("E-JOB-METRICS", f"the metrics of job {folder.name} cannot be read: {exc.strerror}", where=str(folder)) from exc
    whole = data[: data.rfind(b"\n") + 1]  # the last line may be half written
    found = []
    for line in whole.splitlines():
        with contextlib.suppress(ValueError):
            found.append(jobs.point_from_json(line))
    return found, offset + len(whole)


def ask_to_end(folder: Path, reason: str) -> None:
    """Leave the request to end, unless there is one. What cannot be written is no error: there are signals."""
    with contextlib.suppress(OSError):
        if not (folder / jobs.CANCEL).exists():
            replace(folder, jobs.CANCEL, reason)


def request(folder: Path) -> str | None:
    """Why somebody wants the job to end, on one line; None if nobody does."""
    try:
        return " ".join((folder / jobs.CANCEL).read_text(encoding="utf-8", errors="replace").split())[:500]
    except OSError:
        return None


def conclude(folder: Path, found: JobStatus) -> JobStatus:
    """Write the last status in place of a supervisor that cannot; with the end of the output as far as it can be read."""
    if not found.end:
        with contextlib.suppress(OSError), (folder / jobs.LOG).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _END))
            found = dataclasses.replace(found, end=file.read(_END).decode("utf-8", "replace"))
    with contextlib.suppress(OSError):  # it is told all the same, and found out again by the next who asks
        replace(folder, jobs.STATUS, jobs.status_to_json(found))
    return found


def replace(folder: Path, name: str, text: str) -> None:
    """Write a file of the folder so that nobody sees half of it. Raises ``OSError``."""
    draft = folder / f".{secrets.token_hex(8)}"
    try:
        draft.write_text(text, encoding="utf-8", errors="replace")
        draft.rename(folder / name)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def is_held(lock: Path) -> bool:
    """Whether a process of this machine holds the lock."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:  # no descriptor left, say: nothing is known, so nothing is done about it
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
