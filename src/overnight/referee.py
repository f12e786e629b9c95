"""Between the record and the judgement: turns experiments and their runs into nodes, keeps what was learned, asks for verdicts.

The judgement itself is pure and lies in ``judge``; everything it knows is in the record, so a killed loop judges on as if nothing
had happened. Not safe for several threads by itself: it is called under the lock that orders decisions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from overnight.constants import same_but_for_literals
from overnight.judge import (
    Action,
    Budget,
    Knowledge,
    Node,
    Rules,
    Run,
    Verdict,
    estimate,
    judge,
    learn_anew,
    learn_audit,
    learn_result,
    learn_run,
    learn_taken_back,
    next_seed,
)
from overnight.judge.agreement import BASELINE, Known, known
from overnight.judge.audit import Report, audit_seed, report
from overnight.judge.records import Kind, Profile
from overnight.judge.waves import with_wave
from overnight.models import Decision, Experiment, Operator, Study
from overnight.models import Run as Ran
from overnight.store import Store

_SURE = 0.9  # how sure a target must be before the night ends
_PACE = 4.0  # sd of the baseline's own pace: what is further off its usual one counts as another machine
_LEAST_PACE = 0.03
_KINDS = 512  # experiments whose kind is remembered


@dataclass(frozen=True, slots=True)
class Ruling:
    """A verdict as the record keeps it, or the run that is wanted before there can be one."""

    verdict: Verdict
    wanted: tuple[int, int, str] | None = None  # experiment, seed, class of machine (empty = any)

    @property
    def decision(self) -> Decision:
        """Keep, discard or crash."""
        if self.verdict.kept:
            return Decision.KEEP
        return Decision.CRASH if self.verdict.action is Action.CRASH else Decision.DISCARD


class Referee:
    """Judges the experiments of one study; ``runs_left`` says how much budget there is, in runs."""

    def __init__(self, store: Store, study: int, runs_left: Callable[[], float]) -> None:
        self._store = store
        self._study = study
        self._runs_left = runs_left
        text = store.knowledge(study)
        self._known = Knowledge.from_json(text) if text else Knowledge()
        self._kinds: dict[int, Kind] = {}
        self._spread: float | None = None  # of the baseline's pace between runs, as a share; infinite = it tells none

    @property
    def known(self) -> Knowledge:
        """What was learned by now."""
        return self._known

    def rules(self, study: Study) -> Rules:
        """What the study asks of a keep."""
        settings = study.settings
        profile: Profile = settings.profile  # type: ignore[assignment] # the table of settings allows these words only
        return Rules(
            study.direction,
            settings.min_delta,
            settings.memory_soft / 2**30,
            settings.memory_hard / 2**30,
            profile,
            settings.baseline_runs if settings.verify == "off" else max(settings.baseline_runs, BASELINE),
            target=settings.target,
            seed=settings.seed,
        )

    def node(self, study: Study, experiment: Experiment) -> Node:
        """The experiment as the judgement sees it."""
        best = self._store.bar(study.id)
        return Node(
            number=experiment.number,
            runs=self._runs(study, self._counted(study, experiment.number)),
            lines=experiment.lines,
            memory_gb=experiment.memory_gb,
            kind=self._kind(study, experiment),
            parent=experiment.parent,
            bar=best[1] if best and best[0] == experiment.number and not self._noisy else None,
            failure=experiment.cause,
        )

    def by_host(self, study: Study, number: int) -> dict[str, list[Run]]:
        """The runs with a value that count, by the name of the worker, in the order of its first one."""
        counted = [run for run in self._counted(study, number) if run.host and run.value is not None]
        found: dict[str, list[Run]] = {}
        for ran, run in zip(counted, self._runs(study, counted), strict=True):
            if math.isfinite(run.value):
                found.setdefault(ran.host, []).append(run)
        return found

    def spread(self, study: Study, but: int) -> Known:
        """By what is told whether workers agree on experiment ``but``: what the runs of the baseline and of the latest others show."""
        versions = [self._runs(study, runs) for runs in self._store.repeated(study.id, but)]
        return known([[run for run in runs if math.isfinite(run.value)] for runs in versions], self._known, self.rules(study))

    def forget(self, study: Study, numbers: Iterable[int]) -> None:
        """Runs of these experiments do not count any more: what was learned from them is learned anew from those that do."""
        nodes = [self.node(study, item) for item in self._store.experiments(study.id) if item.decision is not None]
        self._known = learn_anew(self._known, [node for node in nodes if len(node.runs) > 1], numbers)
        self._store.learned(study.id, 0, (), self._known.to_json())

    def _counted(self, study: Study, number: int) -> list[Ran]:
        """The runs that say something of the level: one that failed when it was only to look again does not."""
        return [run for run in self._store.runs(study.id, number) if run.value is not None or not run.looks_again]

    def _runs(self, study: Study, runs: list[Ran]) -> tuple[Run, ...]:
        usual: dict[str, float] = {}
        found = []
        for run in runs:
            value = run.value if run.value is not None else math.nan
            pace = self._pace(study, run, usual.setdefault(run.worker, run.throughput))
            found.append(Run(value, run.seed, run.worker, run.seconds, pace, check=run.looks_again))
        return tuple(found)

    def _pace(self, study: Study, run: Ran, first: float) -> float:
        """The run's pace beside the first run of the same code on such a machine: an edit may change its own pace, and is no other machine.

        1 = as usual, also within what the baseline's pace varies by itself; 0 = not known.
        """
        if run.throughput <= 0 or first <= 0:
            return 0.0
        spread = self._spread if self._spread is not None else self._baselines_spread(study)
        self._spread = spread
        if spread is None:
            return 0.0
        off = abs(math.log(run.throughput / first))
        return run.throughput / first if off > max(_PACE * spread, _LEAST_PACE) else 1.0

    def _baselines_spread(self, study: Study) -> float | None:
        base = self._store.baseline(study.id)
        if base is None or base.decision is None:
            return None
        logs = [math.log(run.throughput) for run in self._store.runs(study.id, base.number) if run.throughput > 0]
        if len(logs) < 2:
            return math.inf
        middle = math.fsum(logs) / len(logs)
        return math.sqrt(math.fsum((item - middle) ** 2 for item in logs) / (len(logs) - 1))

    @property
    def _noisy(self) -> bool:
        return self._known.known and not self._known.deterministic

    def _kind(self, study: Study, experiment: Experiment) -> Kind:
        if experiment.operator is Operator.BASELINE:
            return "baseline"
        if experiment.state.get("params") is not None:
            return "constants"
        if experiment.number not in self._kinds:  # files never change, and reading them is the dear part of a judgement
            parent, files = (self._store.files(study.id, number) for number in (experiment.parent, experiment.number))
            if len(self._kinds) >= _KINDS:
                self._kinds.clear()
            self._kinds[experiment.number] = "constants" if same_but_for_literals(parent, files) else "structural"
        return self._kinds[experiment.number]

    def first_seed(self, study: Study, experiment: Experiment) -> int:
        """The seed of an experiment's first run."""
        if experiment.operator is Operator.BASELINE or not self._noisy:
            return study.settings.seed
        return next_seed(Node(experiment.number, (), kind=self._kind(study, experiment)), self._known, self.rules(study))

    def fresh_seed(self, study: Study, experiment: Experiment) -> int:
        """A seed that the experiment has not run on."""
        return next_seed(self.node(study, experiment), self._known, self.rules(study))

    def against_rival(self, study: Study, experiment: Experiment) -> Verdict | None:
        """What all runs by now say of an experiment beside what it was compared with; None for a baseline."""
        if not experiment.rival:
            return None
        rival = self.node(study, self._store.experiment(study.id, experiment.rival))
        return judge(self.node(study, experiment), rival, self._known, self.rules(study), Budget(0.0))

    def learn(self, study: Study, number: int) -> None:
        """Take in every finished run of the experiment that was not learned from yet."""
        fresh = self._store.unlearned(study.id, number)
        if not fresh:
            return
        whole = self.node(study, self._store.experiment(study.id, number))
        order = [run.attempt for run in self._counted(study, number)]
        only_confirm = self._only_confirm(study, number)
        for attempt in (attempt for attempt in fresh if attempt in order and attempt not in only_confirm):
            part = Node(
                whole.number, whole.runs[: order.index(attempt) + 1], whole.lines, whole.memory_gb, whole.kind, whole.parent, whole.bar
            )
            self._known = learn_run(self._known, part, self.rules(study))
        self._store.learned(study.id, number, fresh, self._known.to_json())

    def _only_confirm(self, study: Study, number: int) -> set[int]:
        """Runs of other workers in a study that repeats exactly: what these differ by in the last digits is no noise between seeds."""
        runs = self._counted(study, number) if self._known.deterministic else []
        return {run.attempt for run in runs if run.host != runs[0].host and run.seed == runs[0].seed}

    def check_seed(self, study: Study, experiment: Experiment) -> int:
        """A seed that no decision has seen."""
        return audit_seed(self.node(study, experiment), self.rules(study))

    def ruling(self, study: Study, experiment: Experiment) -> Ruling:
        """The verdict, or the run that is wanted first."""
        best = self._store.bar(study.id)
        incumbent = self.node(study, self._store.experiment(study.id, best[0])) if best else None
        candidate = self.node(study, experiment)
        rules = self.rules(study)
        verdict = judge(candidate, incumbent, self._known, rules, Budget(self._runs_left()))
        wave = experiment.state.get("wave_gain")
        if isinstance(wave, list) and verdict.action is not Action.REPLICATE_INCUMBENT:
            gain, var = wave
            verdict = with_wave(verdict, gain, var, rules.profile)
        if verdict.action is Action.REPLICATE:
            return Ruling(
                verdict, (candidate.number, verdict.seed if verdict.seed is not None else next_seed(candidate, self._known, rules), "")
            )
        if verdict.action is Action.REPLICATE_INCUMBENT and incumbent is not None:
            where, seed = verdict.worker or "", verdict.seed
            if seed is None or any(run.seed == seed and run.worker == where for run in incumbent.runs):
                seed = next_seed(incumbent, self._known, rules)
            return Ruling(verdict, (incumbent.number, seed, where))
        if verdict.kept and self._unsure_of_target(candidate, rules):
            return Ruling(verdict, (candidate.number, next_seed(candidate, self._known, rules), ""))
        return Ruling(verdict)

    def settled(self, study: Study, experiment: Experiment, verdict: Verdict) -> str:
        """Learn from a verdict; returns what is to be kept in the record with it."""
        best = self._store.bar(study.id)
        incumbent = self.node(study, self._store.experiment(study.id, best[0])) if best and best[0] != experiment.number else None
        self._known = learn_result(self._known, self.node(study, experiment), incumbent, verdict, self.rules(study))
        return self._known.to_json()

    def looked(self, before: float | None, after: float) -> str:
        """Learn that further runs have changed P of a keep; returns what is to be kept in the record with it."""
        if before is not None:
            self._known = learn_audit(self._known, before, after)
        return self._known.to_json()

    def taken_back(self, p: float | None) -> str:
        """Learn that a keep of probability ``p`` was taken back; returns what is to be kept in the record with it."""
        self._known = learn_taken_back(self._known, p if p is not None else 1.0)
        return self._known.to_json()

    def believed(self, study: Study, experiment: Experiment) -> dict[str, object]:
        """The columns that say what is believed of the experiment's true level: its mean, shrunk, and sd."""
        node = self.node(study, experiment)
        if not node.values:
            return {}
        mean, sd = estimate(node, self._known, self.rules(study))
        return {"believed": mean, "believed_sd": sd}

    def report(self, study: Study, best: Experiment, baseline: Experiment) -> Report:
        """What the night has gained, from runs that no decision was made on where there are enough of them."""
        return report(self.node(study, best), self.node(study, baseline), self._known, self.rules(study))

    def bar(self, study: Study, experiment: Experiment, verdict: Verdict) -> float | None:
        """The value to beat from now on: the bar of the rule without noise, else the believed level."""
        if verdict.bar is not None and not self._noisy:
            return verdict.bar
        return estimate(self.node(study, experiment), self._known, self.rules(study))[0] if verdict.kept else None

    def _unsure_of_target(self, node: Node, rules: Rules) -> bool:
        """Whether a value beyond the target rests on too little to end the night, and more runs may settle it."""
        if rules.target is None or not self._noisy or len(node.runs) >= rules.n_max:
            return False
        return rules.direction.gain(node.mean, rules.target) >= 0 and not self.reached(node, rules)

    def reached(self, node: Node, rules: Rules) -> bool:
        """Whether the target is reached: at once without noise, else with P >= .9 on two runs or more."""
        if rules.target is None or not node.values:
            return False
        if not self._noisy:
            return rules.direction.gain(node.mean, rules.target) >= 0
        mean, sd = estimate(node, self._known, rules)
        gap = rules.direction.gain(mean, rules.target)
        p = 0.5 * math.erfc(-gap / (sd * math.sqrt(2))) if sd > 0 else float(gap >= 0)
        return len(node.values) > 1 and p >= _SURE
