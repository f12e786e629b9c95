"""How long an attempt may run: a worker starts nothing that may be another's by now, and prolongs no lease that the hub has not prolonged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from hubs import LEASE, House, asked, offer, state
from overnight import jobs
from overnight.attempt import Attempt, Hands
from overnight.errors import OvernightError, UnreachableError, UsageError
from overnight.models import JobSpec, JobState
from overnight.queue.words import SAFE, Grant, Held, Machine, Renewal
from overnight.testing import ScriptedExecutor
from overnight.worker import Around, Worker, place_at
from yards import until


@dataclass
class Wire:
    """A hub that may be out of reach for renewals."""

    house: House
    cut: bool = False
    trouble: OvernightError = field(default_factory=lambda: UnreachableError("E-HUB-SILENT", "the hub has not answered"))

    def renew(self, worker: str, held: Sequence[Held], **more: Any) -> Renewal:
        if self.cut:
            raise self.trouble
        return self.house.desk.renew(worker, held, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.house.desk, name)


class Bench:
    """A worker whose keeper of leases does not run: the test renews."""

    def __init__(self, root: Path, house: House) -> None:
        self.house, self.wire, self.started, self.said = house, Wire(house), list[str](), list[str]()
        self.place = place_at(root / "worker")
        for folder in (self.place.jobs, self.place.runs, self.place.spool):
            folder.mkdir(parents=True)
        executor = ScriptedExecutor(self._score)
        self.hands = Hands(self.wire, executor, lambda _job, folder: folder.mkdir(), lambda _job, _folder: (), lambda _job, spec: spec, {})
        self.worker = Worker(
            Machine("w", 4), self.hands, self.place, Around(lambda: house.clock.at, "boot", lambda _seconds: False, self.said.append)
        )
        self.worker._lease_file = os.open(self.place.lease, os.O_RDWR | os.O_CREAT)

    def _score(self, spec: JobSpec) -> dict[str, float]:
        self.started.append(spec.id)
        return {}

    def granted(self) -> Grant:
        self.house.desk.submit(asked())
        found = self.house.desk.claim(offer("w", 4))
        assert found is not None
        return found

    def lease(self) -> bytes:
        return self.place.lease.read_bytes()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with contextlib.closing(House(tmp_path / "hub.db")) as house:
        found = Bench(tmp_path, house)
        yield found
        os.close(found.worker._lease_file)


def test_a_new_grant_does_not_prolong_the_lease_of_what_runs_already(bench: Bench) -> None:
    bench.worker.renew()
    until_then = bench.house.clock.at + SAFE * LEASE
    bench.house.pass_time(LEASE / 2)
    bench.worker._take(bench.granted(), bench.house.clock.at)
    assert bench.lease() == jobs.lease_text("boot", until_then)
    until(lambda: not bench.worker.held())


@pytest.mark.parametrize(("cut", "then"), [(False, (1, JobState.SUCCEEDED)), (True, (0, JobState.QUEUED))])
def test_a_grant_that_was_long_on_its_way_is_started_once_it_was_renewed_else_given_back(
    bench: Bench, cut: bool, then: tuple[int, JobState]
) -> None:
    bench.worker.renew()
    before, bench.wire.cut = bench.house.clock.at, cut
    grant = bench.granted()
    bench.house.pass_time(LEASE / 4)
    bench.worker._take(grant, before)
    until(lambda: not bench.worker.held())
    assert (len(bench.started), state(bench.house.desk, grant.job.id)) == then


def test_a_job_that_was_cancelled_on_its_way_to_the_worker_is_never_started(bench: Bench) -> None:
    bench.worker.renew()
    bench.house.pass_time(0.1)
    asked_at, grant = bench.house.clock.at, bench.granted()
    bench.house.pass_time(0.1)
    bench.house.desk.cancel(grant.job.id, "enough")
    bench.worker.renew()  # the bell has rung, and the job is not here yet
    bench.worker._take(grant, asked_at)
    until(lambda: not bench.worker.held())
    assert (bench.started, state(bench.house.desk, grant.job.id)) == ([], JobState.CANCELLED)


def test_a_worker_that_adopts_ends_what_it_has_lost_before_the_rest_may_run_on(bench: Bench) -> None:
    grant = bench.granted()
    Attempt("w", grant.job, bench.hands, bench.place).note()
    bench.house.pass_time(2 * LEASE)
    order: list[str] = []
    bench.worker._extend = lambda *_: order.append("prolonged")  # type: ignore[method-assign]
    bench.hands.executor.cancel = lambda *_: order.append("ended")  # type: ignore[method-assign]
    bench.worker._adopt()
    assert order[:2] == ["ended", "prolonged"]
    until(lambda: not bench.worker.held())


@pytest.mark.parametrize("fenced", [True, False])
def test_an_attempt_whose_end_is_wanted_while_its_code_is_fetched_is_never_started(bench: Bench, fenced: bool) -> None:
    stop: list[Callable[[], None]] = []

    hands = replace(bench.hands, lay_out=lambda _job, _folder: stop[0]())
    grant = bench.granted()
    attempt = Attempt("w", grant.job, hands, bench.place)
    stop.append(lambda: attempt.stop("enough", fenced=fenced))
    attempt.live()
    assert (bench.started, state(bench.house.desk, grant.job.id)) == ([], JobState.RUNNING if fenced else JobState.QUEUED)


def test_an_attempt_whose_end_was_heard_is_not_ended_again_in_the_folders_that_are_being_removed(bench: Bench) -> None:
    asked_to_end: list[str] = []
    bench.hands.executor.cancel = lambda *told: asked_to_end.append(told[0])  # type: ignore[method-assign]
    attempt = Attempt("w", bench.granted().job, bench.hands, bench.place)
    attempt.live()
    attempt.stop("its lease was lost", fenced=True)
    assert asked_to_end == []


def test_a_worker_goes_on_renewing_whatever_the_hub_says_to_it(bench: Bench) -> None:
    bench.wire.cut, bench.wire.trouble = True, UsageError("E-VERB", "this hub knows no 'ask'")
    first, bench.wire.cut = bench.worker.renew(), False
    assert (first, bench.worker.renew()) == (False, True)
