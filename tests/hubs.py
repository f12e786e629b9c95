"""A hub for tests: the desk over a file of its own, with a clock that moves when it is told to, and words to say less."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overnight.desk import Bell, Desk
from overnight.models import JobState, JobStatus
from overnight.queue.words import Card, Chunk, Ended, Grant, Held, HubJob, Machine, Now, Offer, Query, Stream, Submission
from overnight.store.database import Database
from overnight.store.queue import Queue, QueueFile

LEASE = 60.0


@dataclass
class Clock:
    """Seconds of the clock of leases; the wall is ten thousand ahead."""

    at: float = 1000.0

    def __call__(self) -> Now:
        return Now(self.at, self.at + 10_000)


@dataclass
class House:
    """A hub at ``path``, or in what ``kept`` opens, which can be closed and opened again."""

    path: Path
    kept: Callable[[], Database] | None = None
    clock: Clock = field(default_factory=Clock)
    era: str = "boot"
    rang: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.open(restarted=False)

    def open(self, *, restarted: bool) -> None:
        self.database = self.kept() if self.kept else QueueFile(self.path)
        self.queue = Queue(self.database)
        self.desk = self._opened(restarted=restarted)

    def _opened(self, *, restarted: bool) -> Desk:
        bell = Bell(self.rang.append, self.pass_time)
        return Desk(self.queue, self.clock, bell, lease=LEASE, era=self.era, restarted=restarted)

    def pass_time(self, seconds: float) -> None:
        self.clock.at += seconds

    def restart(self) -> None:
        """The hub dies and is started again."""
        self.queue.close()
        self.open(restarted=True)

    def close(self) -> None:
        self.queue.close()


def asked(*command: str, **more: Any) -> Submission:
    return Submission(command or ("true",), **more)


def cards(count: int, name: str = "H100", memory_mb: int = 81559) -> tuple[Card, ...]:
    return tuple(Card(str(index), name, memory_mb) for index in range(count))


def offer(name: str = "w", slots: int = 1, gpus: int = 0, **more: Any) -> Offer:
    """A worker all of whose machine is free."""
    machine = Machine(
        name, more.pop("of", slots), more.pop("cards", cards(gpus)), more.pop("cpus", 0), more.pop("memory_gb", 0.0), more.pop("tags", ())
    )
    free = more.pop("free", tuple(card.index for card in machine.cards))
    return Offer(machine, slots, free, more.pop("free_cpus", machine.cpus), more.pop("free_memory", machine.memory_gb))


def held(grant: Grant | None) -> Held:
    assert grant is not None
    return Held(grant.job.id, grant.job.attempt)


def ended(state: JobState = JobState.SUCCEEDED, cause: str = "", **more: Any) -> Ended:
    return Ended(JobStatus(state, cause, **more))


def log(start: int, data: bytes) -> Chunk:
    return Chunk(Stream.LOG, start, data)


def state(views: Any, job: str) -> JobState:
    return one(views, job).state


def one(views: Any, job: str) -> HubJob:
    found = views.jobs(Query(job))
    assert len(found) == 1
    return found[0]  # type: ignore[no-any-return]


def everything(views: Any, job: str, stream: Stream = Stream.LOG, attempt: int = 0) -> bytes:
    return b"".join(pieces(views, job, stream, attempt))


def pieces(views: Any, job: str, stream: Stream, attempt: int) -> Iterator[bytes]:
    at = 0
    while (part := views.part(job, stream, attempt, at)).data:
        yield part.data
        at = part.next
