"""The hub against a model: any order of submits, claims, losses, repeats, late words, frozen workers and restarts."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from hubs import LEASE, House, asked, ended, everything, held, log, offer, one
from overnight.models import JobState
from overnight.queue.words import SAFE, Held, Query

WORKERS = ("a", "b", "c")
TEXT = b"0123456789"


class Hub(RuleBasedStateMachine):
    """Three workers that behave as workers do; what they say may be lost, told again and come late."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.house = House(self.folder / "hub.db")
        self.jobs: dict[str, bool] = {}  # job -> somebody wants its end
        self.runs: dict[Held, tuple[str, float]] = {}  # attempts that run somewhere: worker, and until when it lets them
        self.ever: list[Held] = []
        self.words: list[tuple[str, Held, Any]] = []  # said, and perhaps still on their way

    def teardown(self) -> None:
        self.heal()
        self.house.close()
        with sqlite3.connect(self.folder / "hub.db") as db:
            doubled = db.execute(
                "SELECT job FROM event WHERE type='ended' AND json_extract(data, '$.state')='SUCCEEDED' GROUP BY job HAVING count(*) > 1"
            ).fetchall()
        db.close()
        shutil.rmtree(self.folder)
        assert doubled == []

    def heal(self) -> None:
        """With nothing more lost, every job comes to its end, and those that nobody cancelled succeed."""
        self.house.pass_time(LEASE + 1)
        for _ in range(3 * len(self.jobs)):
            grant = self.house.desk.claim(offer("a", slots=99))
            if grant is not None:
                assert self.house.desk.report("a", held(grant), ended())
            self.house.pass_time(400)
        states = {job.id: job.state for job in self.house.desk.jobs(Query())}
        assert states.keys() == self.jobs.keys()
        assert {job for job, state in states.items() if state is not JobState.SUCCEEDED} <= {
            job for job, wanted in self.jobs.items() if wanted
        }

    @initialize(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        for worker in range(count):
            self.submit("", 1, 0)
            self.claim(WORKERS[worker], heard=True)

    # --- what happens ------------------------------------------------------------------------------------------------

    @rule(key=st.sampled_from(["", "k1", "k2"]), times=st.integers(1, 3), retries=st.integers(0, 1))
    def submit(self, key: str, times: int, retries: int) -> None:
        ids = dict.fromkeys(self.house.desk.submit(asked(submission_key=key, retries=2 + retries)).id for _ in range(times))
        if key:
            assert len(ids) == 1
        self.jobs |= {job: self.jobs.get(job, False) for job in ids if job not in self.jobs}

    @rule(seconds=st.sampled_from([0.0, LEASE / 2, LEASE + 1]), worker=st.sampled_from(WORKERS))
    def claim_later(self, seconds: float, worker: str) -> None:
        self.pass_time(seconds)
        self.claim(worker, heard=True)

    @rule(worker=st.sampled_from(WORKERS), heard=st.booleans())
    def claim(self, worker: str, heard: bool) -> None:
        asked_at = self.house.clock.at
        grant = self.house.desk.claim(offer(worker, slots=9))
        if grant is not None:
            assert held(grant) not in self.ever
            self.ever.append(held(grant))
            if heard:  # else the answer was lost
                self.runs[held(grant)] = (worker, asked_at + SAFE * grant.lease)

    @rule(worker=st.sampled_from(WORKERS), heard=st.booleans(), late=st.sampled_from([0.0, 5.0]))
    def renew(self, worker: str, heard: bool, late: float) -> None:
        asked_at = self.house.clock.at
        mine = [each for each, (owner, _) in self.runs.items() if owner == worker]
        self.house.pass_time(late)
        renewal = self.house.desk.renew(worker, mine)
        if not heard:
            return
        for each in mine:
            if each in renewal.lost:
                del self.runs[each]
            else:
                self.runs[each] = (worker, max(self.runs[each][1], asked_at + SAFE * renewal.lease))
        for each, _ in renewal.cancelled:
            if each in self.runs:
                self.say(worker, each, ended(JobState.CANCELLED))
                del self.runs[each]

    @rule(seconds=st.sampled_from([1.0, 20.0, 50.0, LEASE + 1]))
    def pass_time(self, seconds: float) -> None:
        self.house.pass_time(seconds)
        for each, (_, until) in list(self.runs.items()):
            if until < self.house.clock.at:
                del self.runs[each]  # its worker, or its supervisor, has ended it

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), state=st.sampled_from([JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.FAILED, JobState.LOST]))
    def finish(self, data: st.DataObject, state: JobState) -> None:
        each = data.draw(st.sampled_from(list(self.runs)), "attempt")
        worker, _ = self.runs.pop(each)
        for start in (0, 3, 7):
            self.say(worker, each, log(start, TEXT[start:]))
        self.say(worker, each, ended(state))

    def say(self, worker: str, each: Held, what: Any) -> None:
        self.words.append((worker, each, what))

    @precondition(lambda self: self.words)
    @rule(data=st.data(), times=st.integers(0, 3), kept=st.booleans())
    def deliver(self, data: st.DataObject, times: int, kept: bool) -> None:
        index = data.draw(st.integers(0, len(self.words) - 1), "word")
        worker, each, what = self.words[index] if kept else self.words.pop(index)
        for _ in range(times):
            self.house.desk.report(worker, each, what)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(list(self.jobs)), "job")
        self.house.desk.cancel(job)
        self.jobs[job] = True

    @rule(kept=st.booleans(), worker=st.sampled_from(WORKERS))
    def worker_dies(self, worker: str, kept: bool) -> None:
        """A worker is killed; it is started again at once, and has its jobs (by its spool) or has lost them with its machine."""
        mine = [each for each, (owner, _) in self.runs.items() if owner == worker]
        if not kept:
            for each in mine:
                del self.runs[each]
        renewal = self.house.desk.renew(worker, mine if kept else [], fresh=True)
        for each in renewal.lost:
            del self.runs[each]

    @rule()
    def hub_dies(self) -> None:
        self.house.restart()

    # --- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def at_most_one_attempt_of_a_job_runs(self) -> None:
        running = [each.job for each in self.runs]
        assert sorted(running) == sorted(set(running))

    @invariant()
    def no_log_is_anything_but_a_beginning_of_what_was_said(self) -> None:
        for each in self.ever[-3:]:
            assert TEXT.startswith(everything(self.house.desk, each.job, attempt=each.attempt))

    @invariant()
    def no_attempt_that_runs_is_an_old_one(self) -> None:
        for each in self.runs:
            assert one(self.house.desk, each.job).attempt == each.attempt


def _try(examples: int) -> None:
    run_state_machine_as_test(
        Hub, settings=settings(max_examples=examples, stateful_step_count=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    )  # fmt: skip


def test_nothing_is_lost_doubled_or_run_twice_whatever_is_lost_repeated_or_late() -> None:
    _try(60)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_same_a_thousand_times() -> None:
    _try(1000)
