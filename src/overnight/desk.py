"""The rules of the hub, in process over its queue: who gets which job, for how long, and what becomes of it.

The same object answers in process (one machine) and over the relay. Time comes in as an argument at the start: leases go by a clock that
runs on while the machine sleeps, and is never compared with that of another machine. Must not know how a caller reaches it.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from overnight.errors import NotAllowedError, NotFoundError, OvernightError, UsageError
from overnight.models import JobState
from overnight.queue import coding, fit
from overnight.queue.inputs import check, granting, plainly
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
    WorkerState,
    is_worker_name,
    wish_of,
)  # fmt: skip
from overnight.store.queue import Queue

_LOOK = 1.0  # seconds after which one who waits looks by himself
_CUT = 1.0  # seconds: a worker that is heard of later than this after its revocation is another one of that name
_AHEAD = 500  # queued jobs whose waits are told
_PARKED = 64  # claims that wait at once, each in a thread; whoever comes beyond them has his answer now, and asks again later
_LOOKING = 32  # the same of those who wait for news of jobs
_PAUSE = 0.01  # seconds from one look in vain to the next: where much happens, most of it concerns others


@dataclass(frozen=True, slots=True)
class Bell:
    """How others are woken, and how one waits to be woken oneself."""

    ring: Callable[[str], None]  # "claim", "stop", "log"
    wait: Callable[[float], object]
    hear: Callable[[], AbstractContextManager[Any]] | None = None  # one who waits for "log" alone: ``wait(seconds)``; None = as ``wait``


class Desk:
    """Fulfils ``protocols.Hub``, ``Orders``, ``Trusts`` and ``Views``. ``restarted``: the hub was down, so every running lease is extended once.

    ``revoked``: who was cut off from the relay, and when (wall time).
    """

    def __init__(
        self, queue: Queue, clock: Callable[[], Now], bell: Bell, *, lease: float = LEASE, era: str = "", restarted: bool = False,
        revoked: Callable[[], Mapping[str, float]] = dict,
    ) -> None:  # fmt: skip
        self._queue = queue
        self._clock = clock
        self._bell = bell
        self._lease = lease
        self._parked = threading.BoundedSemaphore(_PARKED)
        self._looking = threading.BoundedSemaphore(_LOOKING)
        self._ear = _Ear(bell)
        self._revoked = revoked
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
            taken = self._queue.take(worker, held, what, now)
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
        submission = sound(submission)
        check(submission.inputs)
        if trouble := submission.trouble():
            raise UsageError("E-SUBMIT", trouble, fix="overnight hub submit --help")
        now = self._clock()
        refusal = self._refusal(submission, owner)
        if refusal is not None and (not submission.wait or refusal.code == "E-NOT-SHARED"):
            raise refusal
        job, new = self._queue.submit(submission, owner, _name, now, refusal.message if refusal else "")
        if new:
            self._bell.ring("claim")
        return job

    def _refusal(self, asked: Submission, owner: str) -> OvernightError | None:
        """Why no worker of now could ever run it; None if one could, or if there is none at all. Raises ``NotFoundError`` for unknown names."""
        if not asked.wait:
            for name in (*asked.workers, *asked.not_workers):
                self._queue.known(name)
        if self._has_one_for(asked, owner):
            return None
        here = [each for each in self.workers() if each.alive and not each.draining]
        doubted = [each.machine.name for each in here if each.doubted_by(owner)]
        wish, machines = wish_of(asked, owner, doubted=doubted), [each.machine for each in here]
        if fit.unwelcome(wish, machines):
            return NotAllowedError(
                "E-NOT-ALLOWED", f"no worker runs jobs of '{owner}'", why="their owners let the jobs of others alone run there",
                fix=f"overnight worker allow {owner}   # on the worker's machine, by its owner",
            )  # fmt: skip
        if path := fit.unshared(wish, machines):
            return NotAllowedError(
                "E-NOT-SHARED", f"no worker lets jobs of '{owner}' read {plainly(path)}", why="inputs of clients lie where a worker's owner lets them",
                fix=f"overnight worker start {granting(path)}   # on the worker's machine, by its owner",
            )  # fmt: skip
        if has := fit.lacking(wish, machines):
            return UsageError(
                "E-NO-FIT", f"no worker could run this: it asks for {_asked(asked, doubted)}", why=has,
                fix="ask for less, or let it wait for another worker:  overnight hub submit --wait …",
            )  # fmt: skip
        return None

    def _has_one_for(self, asked: Submission, owner: str) -> bool:
        """Whether a worker that lives could run it, which is so as a rule and then soon found."""
        doubted, every = self._queue.doubted()
        wish, cut = wish_of(asked, owner, doubted=doubted.get(owner, every)), self._revoked()
        here = self._queue.live(self._clock().clock)
        return any(fit.could_run(wish, machine) for machine, seen in here if not _is_cut(cut, machine.name, seen))

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
            if trouble := sound(replace(before.submission, env={**before.submission.env, **given}, inputs=())).trouble():
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

    def quarantine(self, worker: str, reason: str, owner: str = "") -> None:
        """See ``protocols.Trusts``."""
        self._queue.doubt(worker, owner, reason[:500], self._clock())
        for kind in ("claim", "stop", "log"):
            self._bell.ring(kind)

    def trust(self, worker: str, owner: str = "") -> bool:
        """See ``protocols.Trusts``."""
        was = self._queue.trust(worker, owner)
        self._bell.ring("claim")
        return was

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

    def news(self, query: Query, seen: str = "", wait: float = 0.0) -> str:
        """See ``protocols.Views``."""
        query = replace(query, last=min(query.last, 1000))
        until = self._clock().clock + wait
        found = self._queue.mark(query)
        if found != seen or wait <= 0 or not self._looking.acquire(blocking=False):
            return found
        try:
            with self._ear.open() as hear:
                rang = False
                while (found := self._queue.mark(query)) == seen and (left := until - self._clock().clock) > 0:
                    if rang:
                        time.sleep(_PAUSE)
                    rang = bool(hear(min(left, _LOOK)))
                    self._expire(self._clock())
        finally:
            self._looking.release()
        return found

    def workers(self) -> list[WorkerState]:
        """See ``protocols.Views``."""
        cut = self._revoked()
        return [
            replace(each, alive=False, revoked=True) if _is_cut(cut, each.machine.name, each.seen) else each
            for each in self._queue.workers(self._clock().clock)
        ]

    def waits(self) -> dict[str, float]:
        """See ``protocols.Views``."""
        now = self._clock()
        wishes = self._queue.queued(_AHEAD)
        standings = self._queue.standings(now)
        return fit.waits(wishes, standings, self._queue.usual_seconds([wish.id for wish in wishes]), now.clock)


class _Ear:
    """One bell for all who wait for news, there while anybody does."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._turn = threading.Lock()
        self._users = 0
        self._stack = contextlib.ExitStack()
        self._wait: Callable[[float], object] = bell.wait

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[float], object]]:
        """How to wait; rings that come from now on count."""
        with self._turn:
            if self._users == 0 and self._bell.hear is not None:
                self._wait = self._stack.enter_context(self._bell.hear()).wait
            self._users += 1
            wait = self._wait
        try:
            yield wait
        finally:
            with self._turn:
                self._users -= 1
                if self._users == 0:
                    self._stack.close()


def sound(submission: Submission) -> Submission:
    """A job that can be read again once it is written down, lest one that cannot be stands in everybody's way. Raises ``UsageError`` (E-SUBMIT)."""
    try:
        return coding.sound(submission)
    except ValueError as exc:
        raise UsageError("E-SUBMIT", str(exc).removeprefix("Submission").lstrip(".: ")[:300], fix="overnight hub submit --help") from exc


def _is_cut(cut: Mapping[str, float], worker: str, seen: float) -> bool:
    """Whether the worker was revoked after it was seen last, or as good as then."""
    return worker in cut and seen <= cut[worker] + _CUT


def _name(tries: int) -> str:
    """A name for a job; longer ones once short ones are taken."""
    return f"job-{secrets.token_hex(3 + tries // 4)}"


def _asked(asked: Submission, doubted: Sequence[str]) -> str:
    """What a job asks for, in words."""
    gpus = (
        f"{asked.gpu_count} {asked.gpu_type or 'GPU'}{'s' if asked.gpu_count > 1 and not asked.gpu_type else ''}" if asked.gpu_count else ""
    )
    parts = [
        gpus + (f" with {asked.vram_gb:g} GB" if asked.gpu_count and asked.vram_gb else ""),
        f"{asked.cpus} CPUs" if asked.cpus else "",
        f"{asked.memory_gb:g} GB of memory" if asked.memory_gb else "",
        f"the tags {' '.join(asked.tags)}" if asked.tags else "",
        f"worker {' or '.join(asked.workers)}" if asked.workers else "",
        f"any worker but {', '.join(asked.not_workers)}" if asked.not_workers else "",
        f"one that is not in quarantine ({', '.join(doubted)})" if doubted else "",
    ]
    return ", ".join(filter(None, parts))
