"""The rules of the hub, in process over its queue: who gets which job, for how long, and what becomes of it.

The same object answers in process (one machine) and over the relay. Time comes in as an argument at the start: leases go by a clock that
runs on while the machine sleeps, and is never compared with that of another machine. Must not know how a caller reaches it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from overnight.errors import NotFoundError, UsageError
from overnight.models import JobState
from overnight.queue import fit
from overnight.queue.words import (
    LEASE,
    Chunk,
    Ended,
    Grant,
    Held,
    HubJob,
    Now,
    Offer,
    Part,
    Query,
    Renewal,
    Report,
    Stream,
    Submission,
    Wish,
    WorkerState,
    is_worker_name,
)  # fmt: skip
from overnight.store.queue import Queue

_LOOK = 1.0  # seconds after which one who waits looks by himself
_AHEAD = 500  # queued jobs whose waits are told
_PARKED = 64  # claims that wait at once, each in a thread; whoever comes beyond them has his answer now, and asks again later


@dataclass(frozen=True, slots=True)
class Bell:
    """How others are woken, and how one waits to be woken oneself."""

    ring: Callable[[str], None]  # "claim", "stop", "log"
    wait: Callable[[float], object]


class Desk:
    """Fulfils ``protocols.Hub``, ``Orders`` and ``Views``. ``restarted``: the hub was down, so every running lease is extended once."""

    def __init__(
        self, queue: Queue, clock: Callable[[], Now], bell: Bell, *, lease: float = LEASE, era: str = "", restarted: bool = False
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._bell = bell
        self._lease = lease
        self._parked = threading.BoundedSemaphore(_PARKED)
        queue.begin(era, clock().clock + lease, restarted=restarted)

    # --- for workers -----------------------------------------------------------------------------------------------

    def claim(self, offer: Offer, wait: float = 0.0) -> Grant | None:
        """See ``protocols.Hub``."""
        if not is_worker_name(offer.machine.name):
            raise UsageError(
                "E-WORKER-NAME", f"a worker cannot be called {offer.machine.name[:80]!r}", why="letters, digits and ._@+- are taken",
                fix="overnight worker start --name gpu-box",
            )  # fmt: skip
        until = self._clock().clock + wait
        grant, left = self._granted(offer, until)
        if grant is not None or left <= 0 or not self._parked.acquire(blocking=False):
            return grant
        try:
            while grant is None and left > 0:
                self._bell.wait(min(left, _LOOK))
                grant, left = self._granted(offer, until)
        finally:
            self._parked.release()
        return grant

    def _granted(self, offer: Offer, until: float) -> tuple[Grant | None, float]:
        """What there is for the worker now, and how long it would wait."""
        now = self._clock()
        self._expire(now)
        return self._queue.grant(offer, now, self._lease, partial(fit.choose, offer, now.clock)), until - now.clock

    def renew(self, worker: str, held: Sequence[Held], *, fresh: bool = False, leaving: bool = False) -> Renewal:
        """See ``protocols.Hub``."""
        now = self._clock()
        self._expire(now)
        renewal = self._queue.renew(worker, held, now, self._lease, fresh=fresh, leaving=leaving)
        if fresh:
            self._bell.ring("claim")
        return renewal

    def report(self, worker: str, held: Held, what: Report) -> bool:
        """See ``protocols.Hub``."""
        now = self._clock()
        if isinstance(what, Chunk):
            taken = self._queue.take(worker, held, what, now.clock)
        elif isinstance(what, Ended):
            if not what.status.state.over:
                raise UsageError("E-REPORT", f"{held.job} cannot have ended {what.status.state}", fix="pip install --upgrade overnight")
            taken = self._queue.ended(worker, held, what, now)
            self._bell.ring("claim")
        else:
            taken = self._queue.started(worker, held, now)
        self._bell.ring("log")
        return taken

    def _expire(self, now: Now) -> None:
        if self._queue.expire(now):
            self._bell.ring("claim")
            self._bell.ring("log")

    # --- for clients ---------------------------------------------------------------------------------------------

    def submit(self, submission: Submission, owner: str = "") -> HubJob:
        """See ``protocols.Orders``; also raises ``UsageError`` (E-NO-FIT) if no worker that lives could ever run the job."""
        if trouble := submission.trouble():
            raise UsageError("E-SUBMIT", trouble, fix="overnight hub submit --help")
        now = self._clock()
        if not submission.wait:
            machines = [each.machine for each in self._queue.standings(now)]
            if has := fit.lacking(_wish(submission), machines):
                raise UsageError(
                    "E-NO-FIT", f"no worker could run this: it asks for {_asked(submission)}", why=has,
                    fix="ask for less, or let it wait for another worker:  overnight hub submit --wait …",
                )  # fmt: skip
        job, new = self._queue.submit(submission, owner, _name, now)
        if new:
            self._bell.ring("claim")
        return job

    def cancel(self, job: str, reason: str = "") -> HubJob:
        """See ``protocols.Orders``."""
        found = self._queue.cancel(job, reason[:500] or "on request", self._clock())
        self._bell.ring("stop")
        self._bell.ring("log")
        return found

    def retry(self, job: str, env: Mapping[str, str] | None = None) -> HubJob:
        """See ``protocols.Orders``; raises ``UsageError`` (E-ENV) unless the value of every variable is told again."""
        before, given = self._queue.job(job), dict(env or {})
        if before.state.over:
            if trouble := replace(before.submission, env={**before.submission.env, **given}, inputs=()).trouble():
                raise UsageError("E-SUBMIT", trouble, fix="overnight hub retry --help")
            if lacking := [name for name in before.submission.env if name not in given]:
                raise UsageError(
                    "E-ENV", f"{before.id} needs {' '.join(lacking[:20])} again", why="the values of variables are forgotten when a job is over",
                    fix=f"overnight hub retry {before.id} {' '.join(f'--env {name}' for name in lacking[:20])}   # with the values of here",
                )  # fmt: skip
        found = self._queue.retry(job, given, self._clock())
        self._bell.ring("claim")
        return found

    def drain(self, worker: str, *, on: bool = True) -> None:
        """See ``protocols.Orders``."""
        self._queue.drain(worker, on)
        self._bell.ring("stop" if on else "claim")

    # --- for who looks -------------------------------------------------------------------------------------------

    def jobs(self, query: Query) -> list[HubJob]:
        """See ``protocols.Views``."""
        self._expire(self._clock())
        return self._queue.jobs(replace(query, last=min(query.last, 10_000)))

    def part(self, job: str, stream: Stream, attempt: int = 0, since: int = 0) -> Part:
        """See ``protocols.Views``."""
        found = self._queue.part(job, stream, attempt, since)
        if found.state is JobState.LOST and not found.last:
            self._queue.job(job)  # says that there is none, if that is so
        if attempt and attempt > self._queue.job(job).attempt:
            raise NotFoundError("E-NO-ATTEMPT", f"{job} has no attempt {attempt}", fix=f"overnight hub logs {job}")
        return found

    def workers(self) -> list[WorkerState]:
        """See ``protocols.Views``."""
        return self._queue.workers(self._clock().clock)

    def waits(self) -> dict[str, float]:
        """See ``protocols.Views``."""
        now = self._clock()
        wishes = self._queue.queued(_AHEAD)
        standings = self._queue.standings(now)
        return fit.waits(wishes, standings, self._queue.usual_seconds([wish.id for wish in wishes]), now.clock)


def _name(tries: int) -> str:
    """A name for a job; longer ones once short ones are taken."""
    return f"job-{secrets.token_hex(3 + tries // 4)}"


def _wish(asked: Submission) -> Wish:
    return Wish(
        0, "", asked.priority, asked.gpu_count, asked.gpu_type, asked.vram_gb, asked.cpus, asked.memory_gb, asked.tags, asked.time_limit
    )  # fmt: skip


def _asked(asked: Submission) -> str:
    """What a job asks for, in words."""
    gpus = (
        f"{asked.gpu_count} {asked.gpu_type or 'GPU'}{'s' if asked.gpu_count > 1 and not asked.gpu_type else ''}" if asked.gpu_count else ""
    )
    parts = [
        gpus + (f" with {asked.vram_gb:g} GB" if asked.gpu_count and asked.vram_gb else ""),
        f"{asked.cpus} CPUs" if asked.cpus else "",
        f"{asked.memory_gb:g} GB of memory" if asked.memory_gb else "",
        f"the tags {' '.join(asked.tags)}" if asked.tags else "",
    ]
    return ", ".join(filter(None, parts))
