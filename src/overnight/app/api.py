"""Jobs from Python: ``overnight.hub_submit(...)`` queues one and returns a ``Job``. Each call opens the hub anew and leaves nothing open."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from overnight.app import hub as hubs
from overnight.app import watching
from overnight.errors import JobError, UsageError
from overnight.models import JobState, MetricPoint
from overnight.queue.words import HubJob, OnLost, Query, Submission

_LOOK = 1.0  # seconds
_LISTS = ("tags", "needs", "inputs", "outputs", "workers", "not_workers")  # one word is one entry


class Job:
    """A job of the hub, by its id. Raises ``NotFoundError`` where the hub does not know it."""

    def __init__(self, id: str, hub: str | os.PathLike[str] | None = None) -> None:  # noqa: A002 - the name that a job's id has everywhere
        self.id = id
        self._hub = Path(hub) if hub is not None else None

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    @property
    def state(self) -> JobState:
        """What it is doing now."""
        return self.told().state

    def told(self) -> HubJob:
        """All that the hub knows of it."""
        with hubs.reached(self._hub, os.environ) as found:
            return hubs.which(found, self.id)

    def wait(self, timeout: float | None = None, *, check: bool = False) -> JobState:
        """Its state once it is over. Raises ``TimeoutError`` after ``timeout`` seconds; with ``check`` also ``JobError`` if it has not succeeded."""
        until = time.monotonic() + timeout if timeout is not None else float("inf")
        with hubs.reached(self._hub, os.environ) as found:
            while not (job := hubs.which(found, self.id)).state.over:
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{self.id} is {job.state} after {timeout} s")
                found.wait(min(_LOOK, left), Query(job.id, last=1))
        if check and job.state is not JobState.SUCCEEDED:
            raise JobError("E-JOB-FAILED", f"{self.id} has ended: {job.state}", why=job.cause, fix=f"overnight hub logs {self.id}")
        return job.state

    def metrics(self) -> dict[str, float]:
        """The last value of every metric so far."""
        job = self.told()
        return dict(job.metrics) if job.state.over else {point.name: point.value for point in self.points()}

    def points(self) -> list[MetricPoint]:
        """Every metric point of its latest attempt that was kept, in the order printed."""
        with hubs.reached(self._hub, os.environ) as found:
            return hubs.metrics(found, hubs.which(found, self.id))

    def logs(self, since: int = 0) -> str:
        """What its latest attempt has printed, from a byte on."""
        with hubs.reached(self._hub, os.environ) as found:
            return b"".join(watching.raw(found, hubs.which(found, self.id), since, 0)).decode("utf-8", "replace")

    def follow(self) -> Iterator[str]:
        """Its lines as they come, until its end, each as ``overnight hub watch`` prints it."""
        with hubs.reached(self._hub, os.environ) as found:
            for text in watching.streamed(found, hubs.which(found, self.id).id):
                yield from text.splitlines()

    def cancel(self, reason: str = "") -> None:
        """Have it ended; returns at once."""
        with hubs.reached(self._hub, os.environ) as found:
            found.desk.cancel(self.id, reason)

    def retry(self, env: Mapping[str, str] | None = None) -> None:
        """Queue it again once it is over; ``env`` tells all its variables again, whose values the hub has forgotten. Raises ``UsageError`` (E-ENV)."""
        with hubs.reached(self._hub, os.environ) as found:
            found.desk.retry(self.id, dict(env or {}))

    def outputs(self, to: str | os.PathLike[str]) -> Path:
        """Copy the files that it has left into the new folder ``to``."""
        with hubs.reached(self._hub, os.environ) as found:
            hubs.fetch_outputs(found, hubs.which(found, self.id), Path(to))
        return Path(to)


def hub_submit(
    command: str | Sequence[str], *, name: str = "", workdir: str | os.PathLike[str] | None = ".", hub: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None, time_limit: float = 0.0, on_lost: str = "stop", **asked: Any,
) -> Job:  # fmt: skip
    """Queue a command on the hub, with the code in ``workdir`` as it is now (None: none), and return its ``Job`` at once.

    ``command`` is a sequence of words, or a line for the shell. ``time_limit`` is in seconds. ``asked`` are further fields of
    ``Submission``: gpu_count, exp_id, tags, priority, retries, gpu_type, vram_gb, cpus, memory_gb, needs, inputs, outputs, pipeline,
    submission_key, metric, wait, workers, not_workers. Raises ``UsageError``, ``NotFoundError``, ``StorageError``.
    """
    lists: dict[str, Any] = {
        key: tuple(_id(each) for each in value) if isinstance(value, list | tuple) else (_id(value),) if key in _LISTS else value
        for key, value in asked.items()
    }
    words = (os.fsdecode(command),) if isinstance(command, str | bytes) else tuple(map(str, command))
    if on_lost not in list(OnLost):
        raise UsageError("E-SUBMIT", f"on_lost is {on_lost!r}, and must be {' or '.join(OnLost)}", fix="overnight hub submit --help")
    submission = Submission(words, name=name, env=dict(env or {}), time_limit=time_limit, on_lost=OnLost(on_lost), **lists)
    place = Path(hub) if hub is not None else None
    with hubs.reached(place, os.environ) as found:
        job = hubs.submit(found, submission, Path(workdir) if workdir is not None else None)
    return Job(job.id, place)


def _id(each: Any) -> str:
    """A job may be named by itself."""
    return each.id if isinstance(each, Job) else str(each)
