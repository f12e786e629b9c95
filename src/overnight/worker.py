"""A worker: offers what is free, claims jobs, keeps its leases, and lives their attempts, each in a thread.

It may be killed at any moment: the supervisors go on, and the next worker of the same name adopts their jobs by what the spool says. A
worker that hears nothing from the hub ends its jobs before their lease does; one that is frozen or dead has that done by the supervisors,
by the file in which it says until when they may run. Must not know how the hub is reached or where jobs run.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from overnight import jobs
from overnight.attempt import Attempt, Hands, Place
from overnight.errors import OvernightError, StorageError, UnreachableError
from overnight.folders import remove
from overnight.queue import coding
from overnight.queue.words import SAFE, Grant, Held, HubJob, Machine, Offer, OnLost, Renewal, Stream

_RENEWALS = 5  # in a lease
_OLD = 0.1  # part of its lease after which a grant that was long on its way is renewed before it is believed
_LOOK = 1.0  # seconds for which a claim waits
_LONGEST = 15.0  # seconds between two claims, at most, where the hub lets nobody else wait
_TRIES = 10  # a second apart, before a worker gives up at its start because the hub's file cannot be used
_GLANCE = 0.25  # seconds after which the thread that renews looks whether it is still wanted
_AGAIN = 5.0  # seconds after which a machine with a trouble is looked at again
ROOM = 2**30  # bytes that must be free where jobs run, before one is claimed
PARKED = "parked."  # how the folders of walls begin that stand ready for a job: whoever puts them up tidies them up


@dataclass(frozen=True, slots=True)
class Around:
    """What a worker needs of the world beside its hands."""

    clock: Callable[[], float]  # CLOCK_BOOTTIME
    boot: str  # names this run of the kernel
    wait: Callable[[float], bool]  # sleeps until somebody wants something to end, or that many seconds; whether somebody does
    say: Callable[[str], None]
    leftover: Callable[[frozenset[str]], frozenset[str]] = lambda _busy: (
        frozenset()
    )  # GPUs that must not be offered, beside those of own jobs
    room: int = ROOM
    clients: Callable[[], tuple[str, ...] | None] = lambda: None  # whose jobs may run here now; None = everybody's


class Worker:
    """One worker. ``run`` returns when it has left; ``drain`` and ``leave`` may be called from signal handlers."""

    def __init__(self, machine: Machine, hands: Hands, place: Place, around: Around) -> None:
        self.machine = machine
        self._hands = hands
        self._place = place
        self._around = around
        self._lock = threading.RLock()  # a signal handler may come in between
        self._attempts: dict[Held, tuple[Attempt, threading.Thread]] = {}
        self._until = 0.0  # our jobs may run until then
        self._lease = 0.0
        self._asked = 0.0  # when leases were renewed last
        self._draining = threading.Event()
        self._leaving = threading.Event()
        self._ended = threading.Event()
        self._freed = threading.Event()  # an attempt is over
        self._trouble = ""  # said already
        self._is_heard = True  # whether the hub has answered when it was asked last
        self._not_before = 0.0  # nothing is claimed until then
        self._lease_file = -1

    def run(self, *, once: bool = False) -> None:
        """Work until drained or told to leave; ``once``: also until there is nothing to do. Raises ``UnreachableError``, ``StorageError``."""
        for folder in (self._place.jobs, self._place.runs, self._place.spool):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lease_file = os.open(self._place.lease, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._adopt()
        keeper = threading.Thread(target=self._keep, name="leases", daemon=True)
        keeper.start()
        try:
            self._work(once=once)
        finally:
            self._ended.set()
            keeper.join(5.0)
            with contextlib.suppress(UnreachableError, StorageError):
                if self._is_heard:  # else it would only take long to end
                    self._hands.hub.renew(self.machine.name, [attempt.held for attempt in self._alive()], leaving=True)
            os.close(self._lease_file)

    def drain(self) -> None:
        """Claim nothing more, and end when all jobs are over."""
        self._draining.set()

    def leave(self) -> None:
        """Give all jobs back and end; the second time without waiting for the hub to hear of it."""
        self._draining.set()
        for attempt in self._alive():
            if self._leaving.is_set():
                attempt.abandon()
            attempt.stop("its worker leaves")
        self._leaving.set()

    def held(self) -> list[HubJob]:
        """The jobs that are here now."""
        return [attempt.job for attempt in self._alive()]

    # --- claiming ------------------------------------------------------------------------------------------------------

    def _work(self, *, once: bool) -> None:
        idle, pause = False, _LOOK
        while not (self._draining.is_set() and not self._attempts) and not (once and idle and not self._attempts):
            self._freed.clear()
            offer = self._offer()
            if self._draining.is_set() or offer.slots < 1 or self._is_troubled():
                self._freed.wait(0.2 if not self._trouble else _LOOK)
                continue
            asked = self._around.clock()
            try:
                grant = self._hands.hub.claim(offer, 0.0 if once else _LOOK)
                self._is_heard = True
            except (UnreachableError, StorageError) as exc:
                self._is_heard = False
                self._say_once(exc)
                self._freed.wait(_LOOK)
                continue
            idle = grant is None
            if grant is not None:
                self._take(grant, asked)
                pause = _LOOK
            elif not once and self._around.clock() - asked < _LOOK / 2:  # too many wait there already
                self._freed.wait(pause * random.uniform(0.5, 1.0))
                pause = min(1.5 * pause, _LONGEST)
            elif once and self._attempts:
                self._freed.wait(_LOOK)

    def _offer(self) -> Offer:
        mine = self.held()
        busy = frozenset(gpu for job in mine for gpu in job.gpus)
        used = busy | self._around.leftover(busy)
        machine = replace(self.machine, clients=self._around.clients())
        return Offer(
            machine, machine.slots - len(mine), tuple(card.index for card in machine.cards if card.index not in used),
            machine.cpus - sum(job.submission.cpus for job in mine), machine.memory_gb - sum(job.submission.memory_gb for job in mine),
        )  # fmt: skip

    def _is_troubled(self) -> bool:
        """Whether this machine cannot take a job now; said once."""
        if self._around.clock() < self._not_before:
            return True
        free = shutil.disk_usage(self._place.runs).free
        if free >= self._around.room:
            self._trouble = ""
            return False
        self._say_once(
            StorageError(
                "E-DISK-FULL", f"there are {free >> 20} MB free, at least {self._around.room >> 20} MB are needed to take a job",
                where=str(self._place.runs), fix=f"df -h {self._place.runs}",
            )
        )  # fmt: skip
        return True

    def _say_once(self, exc: OvernightError) -> None:
        if exc.code != self._trouble:
            self._trouble = exc.code
            self._around.say(str(exc))

    def _take(self, grant: Grant, asked: float) -> None:
        self._trouble, self._lease = "", grant.lease
        attempt = Attempt(self.machine.name, grant.job, self._hands, self._place)
        try:
            attempt.note()
        except StorageError as exc:
            self._say_once(exc)  # its lease ends by itself
            return
        self._begin(attempt, lambda: self._is_fresh(asked) or self.renew())

    def _is_fresh(self, asked: float) -> bool:
        """Whether a grant that was asked for then can be believed without a renewal.

        Jobs may run until a while after the last renewal, which knew nothing of this one: it must be as young as that. And a renewal since
        then may have been for the sake of this very job, which was cancelled before it was here.
        """
        return self._asked < asked and self._around.clock() < min(asked + _OLD * self._lease, self._until)

    def _begin(self, attempt: Attempt, is_ours: Callable[[], bool] = lambda: True) -> None:
        thread = threading.Thread(target=self._live, args=(attempt, is_ours), name=attempt.name, daemon=True)
        with self._lock:
            self._attempts[attempt.held] = (attempt, thread)
        self._around.say(
            f"[{attempt.job.id}] taken: attempt {attempt.job.attempt}"
            + (f" on GPU {', '.join(attempt.job.gpus)}" if attempt.job.gpus else "")
        )
        thread.start()

    def _live(self, attempt: Attempt, is_ours: Callable[[], bool]) -> None:
        try:
            if not is_ours():
                attempt.stop("its lease could not be renewed")  # it is given back unstarted, and counts against nobody
            attempt.live()
        except Exception as exc:  # noqa: BLE001 - the edge of a thread: one job's fault must not end the others
            self._around.say(f"[{attempt.job.id}] {type(exc).__name__}: {exc}")
            attempt.stop("its worker failed", fenced=True)
        finally:
            with self._lock:
                self._attempts.pop(attempt.held, None)
            if attempt.trouble is not None:
                self._say_once(attempt.trouble)
                self._not_before = self._around.clock() + _AGAIN
            self._around.say(f"[{attempt.job.id}] {attempt.fate}")
            self._freed.set()

    # --- leases --------------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Renew all leases, five times in each; end what must end."""
        while not self._ended.is_set():
            due = self._around.clock() + max(0.05, self._lease / _RENEWALS)
            while (left := due - self._around.clock()) > 0 and not self._ended.is_set():
                if self._around.wait(min(left, _GLANCE)):
                    break
            if not self._ended.is_set():
                self.renew()

    def renew(self) -> bool:
        """Renew once: hear what is lost, cancelled, or to be drained. Whether the hub has answered."""
        self._asked = asked = self._around.clock()
        alive = {attempt.held: attempt for attempt in self._alive()}
        try:
            renewal = self._hands.hub.renew(self.machine.name, list(alive))
        except OvernightError as exc:  # whatever it was: without this thread every lease would end
            self._say_once(exc)
            if self._around.clock() > self._until:
                for attempt in alive.values():
                    if attempt.job.submission.on_lost is OnLost.STOP:
                        attempt.stop("the hub was not heard of in time")
            return False
        for held in renewal.lost:  # before the others may run on: the same file speaks for all of them
            alive[held].stop("its lease was lost", fenced=True)
        self._extend(asked + SAFE * renewal.lease, renewal.lease)
        for held, reason in renewal.cancelled:
            alive[held].stop(reason)
        if renewal.drain and not self._draining.is_set():
            self._around.say("draining: nothing more is taken")
            self.drain()
        return True

    def _extend(self, until: float, lease: float) -> None:
        with self._lock:
            self._lease = lease
            if until > self._until:
                self._until = until
                os.pwrite(self._lease_file, jobs.lease_text(self._around.boot, until), 0)

    def _alive(self) -> list[Attempt]:
        with self._lock:
            return [attempt for attempt, _ in self._attempts.values()]

    # --- after a kill --------------------------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Go on with the attempts of an earlier worker of this name, as far as the hub has not given them up."""
        found = {Held(job.id, job.attempt): job for job in self._granted()}
        self._sweep({f"{held.job}.{held.attempt}" for held in found})  # before anything new is written there
        asked = self._around.clock()
        renewal = self._introduced(list(found))
        known = {held: {Stream.LOG: log, Stream.METRICS: metrics} for held, log, metrics in renewal.known}
        attempts = [Attempt(self.machine.name, job, self._hands, self._place, known.get(held)) for held, job in found.items()]
        for attempt in attempts:
            if attempt.held in renewal.lost:
                attempt.stop("its lease was lost", fenced=True)
        self._extend(asked + SAFE * renewal.lease, renewal.lease)
        for attempt in attempts:
            self._begin(attempt)

    def _introduced(self, found: list[Held]) -> Renewal:
        """Make ourselves known to the hub, with what we have; a hub that is not there is waited for. Raises ``StorageError``."""
        tries = 0
        while True:
            try:
                self._hands.hub.claim(replace(self._offer(), slots=0))
                return self._hands.hub.renew(self.machine.name, found, fresh=True)
            except (UnreachableError, StorageError) as exc:
                tries += 1
                if self._draining.is_set() or (isinstance(exc, StorageError) and tries >= _TRIES):
                    raise
                self._say_once(exc)
                self._freed.wait(_LOOK)

    def _granted(self) -> Iterator[HubJob]:
        for file in sorted(self._place.spool.glob("*.grant")):
            with contextlib.suppress(OSError, ValueError):
                yield coding.read(HubJob, file.read_bytes(), lenient=True)

    def _sweep(self, kept: set[str]) -> None:
        """Remove what an earlier worker of this name was about to remove."""
        for folder in (self._place.jobs, self._place.runs):
            for path in folder.iterdir():
                if path.name.lstrip(".").rpartition(".")[0] and path.name not in kept and not path.name.startswith(PARKED):
                    remove(path)
        for file in self._place.spool.glob("*.json"):
            if file.stem not in kept:
                file.unlink(missing_ok=True)


def place_at(folder: Path) -> Place:
    """The folders of a worker below ``folder``, which is its alone."""
    return Place(folder / "jobs", folder / "runs", folder / "spool", folder / "lease")
