"""The record against a model of it: any order of steps, each told once or more often, with kills in between."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from overnight.models import Decision, Direction, Idea, JobState, JobStatus, MetricPoint, Operator, Proposal, Stage
from overnight.settings import Settings
from overnight.store import Store

_TIMES = st.integers(1, 3)  # how often the same thing is told


class Record(RuleBasedStateMachine):
    """A study whose loop is killed at any moment; ``rows`` and ``jobs`` are what must be in its record."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.turn = 0
        self.store = Store(self.folder / "0.db")
        self.rows: dict[int, dict[str, Any]] = {}
        self.jobs: dict[tuple[int, int], str] = {}
        self.order: list[int] = []
        self.bar: tuple[int, float] | None = None

    @initialize()
    def begin(self) -> None:
        self.study = self.store.create_study("t", "c0ffee", Direction.MINIMIZE, Settings(metric="loss"), 1.0).id

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def at(self, *stages: Stage) -> list[int]:
        """Numbers of the experiments that are at one of these stages."""
        return [number for number, row in self.rows.items() if row["stage"] in stages]

    def pick(self, data: st.DataObject, numbers: list[int]) -> int:
        return data.draw(st.sampled_from(numbers), "experiment")

    @rule(text=st.binary(max_size=40))
    def propose(self, text: bytes) -> None:
        proposal = Proposal(max(self.rows, default=0), Operator.IMPROVE, Idea("idea", "model"), {"train.py": text})
        number = self.store.propose(self.study, proposal, 1, 2.0).number
        assert number not in self.rows
        self.rows[number] = {"stage": Stage.PROPOSED, "decision": None, "files": text}

    @precondition(lambda self: self.at(Stage.PROPOSED, Stage.COMMITTED))
    @rule(data=st.data(), times=_TIMES)
    def commit(self, data: st.DataObject, times: int) -> None:
        number = self.pick(data, self.at(Stage.PROPOSED, Stage.COMMITTED))
        for _ in range(times):
            self.store.advance(self.study, number, Stage.COMMITTED, commit_id=f"c{number}")
        self.rows[number]["stage"] = Stage.COMMITTED

    @precondition(lambda self: self.at(Stage.COMMITTED, Stage.SUBMITTED, Stage.MEASURED))
    @rule(data=st.data())
    def submit(self, data: st.DataObject) -> None:
        number = self.pick(data, self.at(Stage.COMMITTED, Stage.SUBMITTED, Stage.MEASURED))
        attempt = self.store.attempt(self.study, number, 0, 3.0)
        assert (number, attempt) not in self.jobs
        self.jobs[number, attempt] = "open"
        self.rows[number]["stage"] = Stage.SUBMITTED

    @precondition(lambda self: "open" in self.jobs.values())
    @rule(data=st.data(), times=_TIMES, value=st.floats(0, 1))
    def end(self, data: st.DataObject, times: int, value: float) -> None:
        number, attempt = data.draw(st.sampled_from([job for job, state in self.jobs.items() if state == "open"]), "job")
        for _ in range(times):
            points = [MetricPoint("loss", 1, value, 0.5)]
            self.store.ran((self.study, number, attempt), JobStatus(JobState.SUCCEEDED), points, 4.0, value=value)
        self.jobs[number, attempt] = "over"

    @precondition(lambda self: "open" in self.jobs.values())
    @rule(data=st.data(), times=_TIMES)
    def lose(self, data: st.DataObject, times: int) -> None:
        number, attempt = data.draw(st.sampled_from([job for job, state in self.jobs.items() if state == "open"]), "job")
        for _ in range(times):
            self.store.lost(self.study, number, attempt, "its supervisor died", 4.0)
        self.jobs[number, attempt] = "lost"

    @precondition(lambda self: self.at(Stage.SUBMITTED))
    @rule(data=st.data(), times=_TIMES, value=st.floats(0, 1))
    def measure(self, data: st.DataObject, times: int, value: float) -> None:
        number = self.pick(data, self.at(Stage.SUBMITTED))
        for _ in range(times):
            self.store.advance(self.study, number, Stage.MEASURED, value=value)
        self.rows[number]["stage"] = Stage.MEASURED

    @precondition(lambda self: self.at(Stage.MEASURED))
    @rule(data=st.data(), verdicts=st.lists(st.tuples(st.sampled_from(Decision), st.floats(0, 1)), min_size=1, max_size=3))
    def decide(self, data: st.DataObject, verdicts: list[tuple[Decision, float]]) -> None:
        """The first verdict counts, whatever is said after it."""
        number = self.pick(data, self.at(Stage.MEASURED))
        for decision, bar in verdicts:
            self.store.decide(self.study, number, decision, f"because of {bar}", bar, 5.0)
        self.rows[number] |= {"stage": Stage.DECIDED, "decision": verdicts[0][0]}
        self.order.append(number)
        if verdicts[0][0] is Decision.KEEP:
            self.bar = (number, verdicts[0][1])

    @precondition(lambda self: self.at(Stage.DECIDED))
    @rule(data=st.data(), times=_TIMES)
    def apply(self, data: st.DataObject, times: int) -> None:
        number = self.pick(data, self.at(Stage.DECIDED))
        for _ in range(times):
            self.store.advance(self.study, number, Stage.APPLIED)
        self.rows[number]["stage"] = Stage.APPLIED

    @rule()
    def kill(self) -> None:
        """What a killed process leaves: the files as they are at that moment, found by the next one."""
        before, self.turn = self.folder / f"{self.turn}.db", self.turn + 1
        for path in self.folder.glob(f"{before.name}*"):
            if not path.name.endswith("-shm"):  # of no use to who has not mapped it
                shutil.copy(path, self.folder / path.name.replace(before.name, f"{self.turn}.db"))
        self.store.close()
        self.store = Store(self.folder / f"{self.turn}.db")
        self.store.check()

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = Store(self.folder / f"{self.turn}.db")

    @invariant()
    def is_as_the_model_says(self) -> None:
        if not hasattr(self, "study"):
            return
        found = self.store.experiments(self.study)
        told = {item.number: {"stage": item.stage, "decision": item.decision, "files": self.files(item.number)} for item in found}
        states = {"QUEUED": "open", "LOST": "lost", "SUCCEEDED": "over"}
        jobs = {(n, job["attempt"]): states[job["state"]] for n in self.rows for job in self.store.jobs(self.study, n)}
        curves = {n: len(self.store.series(self.study, n)) for n in self.rows}
        over = {n: sum(job[0] == n and state == "over" for job, state in self.jobs.items()) for n in self.rows}
        numbers = list(range(1, len(self.rows) + 1))
        seen = (told, jobs, curves, self.store.decided(self.study), self.store.bar(self.study), [item.number for item in found])
        assert seen == (self.rows, self.jobs, over, self.order, self.bar, numbers)
        open_ones = [number for number, row in sorted(self.rows.items()) if row["stage"] is not Stage.APPLIED]
        assert [item.number for item in self.store.unfinished(self.study)] == open_ones

    def files(self, number: int) -> bytes:
        return self.store.files(self.study, number)["train.py"]


def tried(programs: int) -> None:
    calm = settings(max_examples=programs, stateful_step_count=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Record, settings=calm)


def test_whatever_is_told_in_whatever_order_and_however_often_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tried(25)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_whatever_is_told_in_a_thousand_programs_of_thirty_steps_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tried(1000)
