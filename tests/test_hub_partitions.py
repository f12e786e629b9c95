"""Nets that break between workers and their relay: no two attempts of a job ever run at once, none is lost, and who was frozen adds nothing."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from flaky import Wire, wire
from killing import Ground, Night, family, nobody_left
from overnight.app import hub as hubs
from overnight.models import JobState
from overnight.queue.words import Stream
from ports import free_port
from worlds import Land
from yards import PATIENCE, Yard, until

LEASE = 4.0  # seconds; a machine that is busy cannot hold shorter ones, and a job that is lost ten times is given up
KINDS = ("held", "cut", "deaf", "mute", "swallowed")
SWALLOWS = {"deaf": {"back"}, "mute": {"there"}, "swallowed": {"there", "back"}}


class Weather:
    """Breaks one worker's net again and again, for up to two leases each time. ``done`` counts what somebody has noticed, by kind."""

    def __init__(self, net: Wire, chance: random.Random) -> None:
        self.net, self.chance, self.done = net, chance, Counter[str]()
        self.ended = threading.Event()

    def until(self, times: int) -> None:
        while self.done.total() < times and not self.ended.wait(self.chance.uniform(0.3, 1.5)):
            before, kind = self.net.hurt, self.chance.choice(KINDS)
            self._break(kind)
            self.ended.wait(self.chance.choice((0.2, 1.0, 2.0)) * self.chance.uniform(0.5, 1.0) * LEASE)
            self._mend(kind)
            self.done[kind] += self.net.hurt > before

    def _break(self, kind: str) -> None:
        if kind == "held":
            self.net.stall = frozenset({"there", "back"})
        elif kind == "cut":
            self.net.refuse = True
            self.net.hurt += self.net.reset()
        else:
            self.net.swallow = frozenset(SWALLOWS[kind])

    def _mend(self, kind: str) -> None:
        self.net.refuse, self.net.swallow, self.net.stall = False, frozenset(), frozenset()
        if kind in SWALLOWS:  # what comes after a hole is no TLS any more
            self.net.reset()


def _partitions(root: Path, workers: int, times: int, seed: int, pause: float = 0.2) -> None:
    """So many partitions for each worker, each on a net of its own, while jobs of two leases go on."""
    port, chance = free_port(), random.Random(seed)
    land = Land(root, workers, LEASE, port)
    with contextlib.ExitStack() as stack:
        nets = [stack.enter_context(wire(("localhost", port))) for _ in land.workers]
        for machine, net in zip(land.workers, nets, strict=True):
            land.reroute(machine, net.port)
        ground = Ground(root, land.hub, land.laptop.env, land.parts(), root, pause=pause, batch=2 * workers)
        night = Night(ground, chance, {}, running={"relay": land.relay})
        stack.callback(nobody_left, root)
        stack.callback(night.close)
        night.see_one_end()
        weathers = [Weather(net, random.Random(f"{seed} {number}")) for number, net in enumerate(nets)]
        threads = [threading.Thread(target=each.until, args=(times,)) for each in weathers]
        for each, thread in zip(weathers, threads, strict=True):
            stack.callback(each.ended.set)
            thread.start()
        while any(thread.is_alive() for thread in threads):
            night.mend()
            night.submit_on()
            time.sleep(0.2)
        night.finish(PATIENCE + 2 * times)
        assert night.faults() == {}
        print(f"\npartitions {dict(sum((each.done for each in weathers), Counter()))}; {night}")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_however_the_net_breaks_no_two_attempts_of_a_job_run_at_once(tmp_path: Path) -> None:
    _partitions(tmp_path, 2, 1, 1, 0.02)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(4))
def test_two_hundred_partitions_lose_nothing_and_let_no_two_attempts_run_at_once(tmp_path: Path, seed: int) -> None:
    _partitions(tmp_path, 3, 17, seed)


def _send(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def test_who_was_frozen_with_all_its_jobs_adds_nothing_when_it_wakes(yard: Yard) -> None:
    worker = yard.worker()
    job = yard.submit("if [ $OVERNIGHT_ATTEMPT = 2 ]; then echo second; else while :; do echo first; sleep .02; done; fi")
    until(lambda: "first\n" in job.logs())
    frozen: list[int] = []
    while new := set(family(worker.pid)) - set(frozen):  # who is not stopped yet may have made more of them
        frozen += new
        _send(signal.SIGSTOP, new)
    until(lambda: not yard.alive())
    yard.worker(name="other")
    assert job.wait(PATIENCE) is JobState.SUCCEEDED
    with hubs.reached(yard.hub, os.environ) as found:
        before = found.desk.part(job.id, Stream.LOG, 1).data
        _send(signal.SIGCONT, frozen)
        until(lambda: f"[{job.id}] let go" in yard.said())
        assert (found.desk.part(job.id, Stream.LOG, 1).data, job.logs(), job.told().attempt) == (before, "second\n", 2)
    assert worker.poll() is None
