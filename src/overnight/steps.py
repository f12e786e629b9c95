"""The steps of one experiment: commit, measure, decide, apply, and what follows from the result.

Every step reads the store, acts, and writes the store; each may be repeated after a crash. Knows no threads and no schedule.
"""

from __future__ import annotations

import json
import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from overnight.errors import JobError
from overnight.judge import Action
from overnight.ledger import Ledger
from overnight.models import Decision, Direction, Experiment, Operator, Proposal, Run, Stage, Study, Trust
from overnight.referee import Referee
from overnight.runner import Runner
from overnight.store import Store
from overnight.thinking import Thinker


@dataclass(frozen=True, slots=True)
class Parts:
    """What a loop is made of."""

    store: Store
    runner: Runner
    thinker: Thinker
    ledger: Ledger
    tell: Callable[[Experiment, Callable[[], Mapping[str, bytes]]], None]
    listen: Callable[[str, Experiment | None, str], None]  # what happened, to which experiment, in words
    name_goal: Callable[[Mapping[str, float]], tuple[str, Direction]]  # which metric is the goal, once the baseline has shown them all
    clock: Callable[[], float]
    gpus: tuple[tuple[str, ...], ...]  # of each slot


@dataclass(frozen=True, slots=True)
class After:
    """What follows from a settled experiment."""

    goal: str = ""  # why the study has reached its end
    repair: bool = False
    combined: Proposal | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """One more run: of which experiment, with which seed."""

    number: int
    seed: int


def summed(runs: Sequence[Run], study: Study) -> dict[str, object]:
    """The columns of an experiment that follow from its runs: the mean of the values, unless one of them crashed."""
    crashed = next((run for run in runs if run.value is None), None)
    values = [run.value for run in runs if run.value is not None]
    same = len(set(values)) == 1  # their mean must be that very number, to the last bit
    value = None if crashed or not runs else values[0] if same else statistics.fmean(values)
    return {
        "value": value,
        "trust": _trust(study),
        "confined": not study.settings.unsafe_no_sandbox,
        "seconds": sum(run.seconds for run in runs),
        "memory_gb": max((run.memory_gb for run in runs), default=0.0),
        "crash_kind": crashed.crash_kind if crashed else "",
        "cause": crashed.cause if crashed else "",
        "metrics": json.dumps(dict(runs[-1].metrics)) if runs else "{}",
    }


def _trust(study: Study) -> Trust:
    """Where the study's numbers come from. Without walls the labels are within reach of the predictor, so nothing is blind."""
    settings = study.settings
    if settings.evaluate and settings.predict and not settings.unsafe_no_sandbox:
        return Trust.BLIND
    return Trust.EVALUATED if settings.evaluate else Trust.SELF_REPORTED


class Steps:
    """The steps over one study; ``stop`` gives a reason when running experiments are to be put back."""

    def __init__(self, study: Study, parts: Parts, stop: Callable[[], str], runs_left: Callable[[], float]) -> None:
        self.study = study
        self.deciding = threading.Lock()
        self._parts = parts
        self._stop = stop
        self._referee = Referee(parts.store, study.id, runs_left)
        self._before = 0  # the best experiment before the last decision

    def commit(self, experiment: Experiment) -> Experiment:
        """Keep the proposal in git."""
        experiment = self._parts.ledger.keep(self.study, experiment)
        self._parts.listen("started", experiment, "")
        return experiment

    def next_run(self, experiment: Experiment) -> Wanted | None:
        """The run that an experiment begins with; None for a rejected one."""
        if experiment.cause and experiment.stage is Stage.COMMITTED:
            return None
        begun = self._parts.store.jobs(self.study.id, experiment.number)
        if begun:
            return Wanted(experiment.number, int(begun[0]["seed"]))
        with self.deciding:
            return Wanted(experiment.number, self._referee.first_seed(self.study, experiment))

    def measure(self, experiment: Experiment, wanted: Wanted, slot: int) -> Experiment | None:
        """Run what is wanted and sum the experiment's runs up; None when it was put back."""
        store, study = self._parts.store, self.study
        if not any(run.seed == wanted.seed for run in store.runs(study.id, wanted.number)):
            try:
                if not self._parts.runner.run(study, wanted.number, wanted.seed, self._parts.gpus[slot], self._stop):
                    return None
            except JobError as exc:
                return store.advance(study.id, experiment.number, Stage.MEASURED, cause=exc.message, crash_kind="start")
        with self.deciding:
            self._referee.learn(study, wanted.number)
        return store.advance(study.id, experiment.number, Stage.MEASURED, **summed(store.runs(study.id, experiment.number), study))

    def decide(self, experiment: Experiment) -> tuple[Experiment, Wanted | None]:
        """Write the verdict, or say which run is wanted before there can be one.

        Called under ``deciding``: a result is compared with the best at the time it ends.
        """
        store, now = self._parts.store, self._parts.clock()
        best = store.bar(self.study.id)
        self._before = best[0] if best else 0
        if experiment.stage is Stage.COMMITTED:
            return store.decide(self.study.id, experiment.number, Decision.DISCARD, f"rejected: {experiment.cause}", None, now), None
        named = self.study.metric in experiment.metrics  # by a person, after the baseline had shown several
        if (
            experiment.operator is Operator.BASELINE
            and experiment.metrics
            and experiment.value is None
            and (named or not self.study.metric)
        ):
            experiment = self._name_goal(experiment)
        if experiment.crash_kind == "start":
            return store.decide(self.study.id, experiment.number, Decision.CRASH, experiment.cause, None, now), None
        if experiment.crash_kind == "stopped-early":
            return store.decide(self.study.id, experiment.number, Decision.DISCARD, experiment.cause, None, now), None
        ruling = self._referee.ruling(self.study, experiment)
        if ruling.wanted is not None:
            return experiment, Wanted(*ruling.wanted)
        verdict = ruling.verdict
        knowledge = self._referee.settled(self.study, experiment, verdict)
        columns: dict[str, object] = {"confirmed": verdict.action is not Action.PROVISIONAL}
        if best is not None and ruling.decision is not Decision.CRASH:
            columns |= {"p": verdict.p, "gain": verdict.gain, "gain_low": verdict.low, "gain_high": verdict.high}
        bar = self._referee.bar(self.study, experiment, verdict)
        return store.decide(
            self.study.id, experiment.number, ruling.decision, verdict.cause, bar, now, knowledge=knowledge, **columns
        ), None

    def _name_goal(self, experiment: Experiment) -> Experiment:
        if experiment.crash_kind not in ("no-metric", ""):
            return experiment
        name, direction = self._parts.name_goal(experiment.metrics)
        value = experiment.metrics[name]
        self._parts.store.revalue(self.study.id, experiment.number, name)
        # The value first: a study that is killed in between still has no metric and comes here again.
        experiment = self._parts.store.advance(self.study.id, experiment.number, Stage.MEASURED, value=value, cause="", crash_kind="")
        self.study = replace(self.study, metric=name, direction=direction)
        self._parts.store.update_study(self.study)
        return experiment

    def apply(self, experiment: Experiment) -> Experiment:
        """Let branch, table and proposer follow the record."""
        experiment = self._parts.ledger.settle(self.study, experiment)
        self._parts.tell(experiment, lambda: self._parts.store.files(self.study.id, experiment.number))
        self._parts.listen("settled", experiment, "")
        return experiment

    def after(self, experiment: Experiment) -> After:
        """What the result calls for: an end, a repair, a combination with another win."""
        best = self._parts.store.bar(self.study.id)
        if best is None:
            return After()
        goal = self.goal_reached()
        return After(goal, self._repairable(experiment), None if goal else self._combined(experiment, best[0]))

    def goal_reached(self) -> str:
        """The reason to end when the best value is at least as good as the target, else empty."""
        best = self._parts.store.bar(self.study.id)
        if best is None:
            return ""
        node = self._referee.node(self.study, self._parts.store.experiment(self.study.id, best[0]))
        if not self._referee.reached(node, self._referee.rules(self.study)):
            return ""
        return f"goal reached: {self.study.metric} {best[1]:.6g} (#{best[0]})"

    def _combined(self, experiment: Experiment, best: int) -> Proposal | None:
        """A win over its own parent, while another experiment had become the best: both, merged."""
        other = self._before if best == experiment.number else best
        if experiment.value is None or not experiment.parent or other in (0, experiment.parent, experiment.number):
            return None
        parent = self._parts.store.experiment(self.study.id, experiment.parent)
        if parent.value is None or self.study.direction.gain(experiment.value, parent.value) <= self.study.settings.min_delta:
            return None
        return self._parts.thinker.combined(self.study, experiment, self._parts.store.experiment(self.study.id, other), best)

    def unmended(self) -> list[Experiment]:
        """The latest crashes whose repair an earlier loop did not live to see."""
        latest = self._parts.store.experiments(self.study.id, last=self.study.settings.slots)
        mended = {item.repairs for item in latest}
        settled = [item for item in latest if item.stage is Stage.APPLIED and item.operator is not Operator.BASELINE]
        return [item for item in settled if item.number not in mended and self._repairable(item)]

    def _repairable(self, experiment: Experiment) -> bool:
        """A dumb mistake, not yet mended often enough, and not the very mistake that the last repair was asked to mend."""
        if experiment.decision is not Decision.CRASH or not experiment.crash_kind.startswith("error:"):
            return False
        depth, item = 0, experiment
        while item.repairs:
            before = self._parts.store.experiment(self.study.id, item.repairs)
            if before.cause == item.cause:
                return False
            depth, item = depth + 1, before
        return depth < self.study.settings.repairs
