"""The seams of the house: what the loop expects of whoever proposes and of wherever jobs run.

Each is a Protocol of at most four methods, with a contract suite in ``tests/contracts`` that every implementation passes.
Pure: no implementation is named here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from overnight.models import Experiment, Idea, JobSpec, JobStatus, MetricPoint, Operator, Study
from overnight.queue.words import Grant, Held, HubJob, Offer, Part, Query, Renewal, Report, Stream, Submission, WorkerState


@dataclass(frozen=True, slots=True)
class Request:
    """What a proposer is asked: edit the files in ``copy`` so that the goal metric improves.

    ``copy`` is a disposable export of the parent's tree, without ``.git``; for a repair it holds the version that crashed.
    ``work`` is an empty folder for the proposer's own files, outside the copy. ``editable`` are the paths that count.
    """

    id: str  # unique in the study, fit for a file name
    study: Study
    operator: Operator
    parent: Experiment
    copy: Path
    work: Path
    editable: tuple[str, ...]
    brief: str  # Markdown
    cancelled: Callable[[], bool]  # becomes true when the answer is no longer wanted


class Proposer(Protocol):
    """Who has ideas. ``ask`` may be called from several threads at once; ``tell`` is called once per settled experiment, in order."""

    name: str

    def ask(self, request: Request) -> Idea:
        """Edit the copy and say what was tried.

        Raises ``ProposalError`` (``outage=True`` if the proposer itself is unavailable).
        """
        ...

    def tell(self, experiment: Experiment, files: Callable[[], Mapping[str, bytes]]) -> None:
        """Learn from a settled experiment, whoever proposed it; ``files`` reads its editable files when wanted.

        After a restart it is also told of experiments on their way, which have no decision yet.
        """
        ...


@runtime_checkable
class Searcher(Protocol):
    """What a proposer may also be: one that knows numbers which help others. A proposer with ``reads_briefs = False`` is given no brief."""

    def tell(self, experiment: Experiment, files: Callable[[], Mapping[str, bytes]]) -> None:
        """Learn from a settled experiment, whoever proposed it; see ``Proposer``."""
        ...

    def state(self, files: Mapping[str, bytes]) -> str:
        """What it knows of the editable files of a version, as Markdown for a brief; empty if nothing. Changes nothing."""
        ...


@runtime_checkable
class Cluster(Protocol):
    """What an executor may also be: one that asks others for room."""

    def check(self, spec: JobSpec) -> None:
        """Refuse what would never be given to such a job: time, GPUs, processors, memory. Raises ``UsageError``, ``UnreachableError``."""
        ...


@runtime_checkable
class Crowd(Protocol):
    """What an executor may also be: one whose workers have names and owners of their own. Its statuses tell the ``host``."""

    def quarantine(self, worker: str, reason: str) -> None:
        """Have the worker get no runs any more, and take back those that it has. Raises ``UnreachableError``, ``NotFoundError``."""
        ...


class Executor(Protocol):
    """Where jobs run. A job is named by its spec's id and found again by it after a restart."""

    def submit(self, spec: JobSpec) -> None:
        """Start the job unless it was already started; from then on it outlives the caller. Raises ``JobError``."""
        ...

    def poll(self, job: str, wait: float = 0.0) -> JobStatus:
        """What is known of the job; waits up to ``wait`` seconds for its end. An unknown job is LOST."""
        ...

    def tail(self, job: str, offset: int) -> tuple[list[MetricPoint], int]:
        """Metric points streamed since ``offset`` (0 = from the start) and the next offset."""
        ...

    def cancel(self, job: str, reason: str) -> None:
        """Ask for the end of the job's whole process tree; returns at once, ``poll`` tells when it is dead."""
        ...


class Hub(Protocol):
    """The hub as a worker sees it. Every answer may be lost on its way: what a worker says may be said again, in any order.

    All raise ``UnreachableError`` or ``StorageError`` when nothing was heard, and then nothing is known.
    """

    def claim(self, offer: Offer, wait: float = 0.0) -> Grant | None:
        """A job for what is offered, under a new attempt; waits up to ``wait`` seconds for one."""
        ...

    def renew(self, worker: str, held: Sequence[Held], *, fresh: bool = False, leaving: bool = False) -> Renewal:
        """Keep what is held for another lease. ``fresh``: the worker was started anew, and has lost all that it does not name.

        ``leaving``: it will not be heard of again.
        """
        ...

    def report(self, worker: str, held: Held, what: Report) -> bool:
        """Tell of an attempt; false if it is not the worker's any more: then it must be ended, and nothing of it counts."""
        ...


class Orders(Protocol):
    """The hub as whoever wants jobs to be run sees it."""

    def submit(self, submission: Submission, owner: str = "") -> HubJob:
        """Queue a job; the same ``submission_key`` again is the same job. Raises ``UsageError``, ``NotFoundError``."""
        ...

    def cancel(self, job: str, reason: str = "") -> HubJob:
        """Take the job out of the queue, or have it ended; what is over stays as it is. Raises ``NotFoundError``."""
        ...

    def retry(self, job: str, env: Mapping[str, str] | None = None) -> HubJob:
        """Queue a job again that is over, with the values of its variables, which were forgotten. Raises ``NotFoundError``, ``UsageError``."""
        ...

    def drain(self, worker: str, *, on: bool = True) -> None:
        """Give the worker nothing more, or again something. Raises ``NotFoundError``."""
        ...


class Trusts(Protocol):
    """The hub as whoever doubts a worker sees it."""

    def quarantine(self, worker: str, reason: str, owner: str = "") -> None:
        """Give the worker no jobs of this owner any more, and take those back that it has; of the hub's owner (empty), nobody's.

        Raises ``NotFoundError``.
        """
        ...

    def trust(self, worker: str, owner: str = "") -> bool:
        """Take the worker out of quarantine again, the hub's owner out of everybody's; whether it was in it. Raises ``NotFoundError``."""
        ...


class Views(Protocol):
    """The hub as whoever looks sees it."""

    def jobs(self, query: Query) -> list[HubJob]:
        """Jobs, newest first."""
        ...

    def part(self, job: str, stream: Stream, attempt: int = 0, since: int = 0) -> Part:
        """What a stream holds from a byte on, without gaps; attempt 0 is the latest. Raises ``NotFoundError``."""
        ...

    def news(self, query: Query, seen: str = "", wait: float = 0.0) -> str:
        """What these jobs and their streams look like, as a short mark; waits, ``wait`` seconds at most, until it is not ``seen`` any more."""
        ...

    def workers(self) -> list[WorkerState]:
        """Every worker that was seen."""
        ...

    def waits(self) -> dict[str, float]:
        """Expected seconds until queued jobs start, by id, where that can be told."""
        ...
