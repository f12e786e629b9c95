"""Between the record and the judgement: turns experiments and their runs into nodes, keeps what was learned, asks for verdicts.

The judgement itself is pure and lies in ``judge``; everything it knows is in the record, so a killed loop judges on as if nothing
had happened. Not safe for several threads by itself: it is called under the lock that orders decisions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from overnight.constants import same_but_for_literals
from overnight.judge import Action, Budget, Knowledge, Node, Rules, Run, Verdict, estimate, judge, learn_result, learn_run, next_seed
from overnight.judge.records import Kind, Profile
from overnight.models import Decision, Experiment, Operator, Study
from overnight.store import Store

_SURE = 0.9  # how sure a target must be before the night ends


@dataclass(frozen=True, slots=True)
class Ruling:
    """A verdict as the record keeps it, or the run that is wanted before there can be one."""

    verdict: Verdict
    wanted: tuple[int, int] | None = None  # experiment, seed

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
            settings.baseline_runs,
            target=settings.target,
            seed=settings.seed,
        )

    def node(self, study: Study, experiment: Experiment) -> Node:
        """The experiment as the judgement sees it."""
        runs = self._store.runs(study.id, experiment.number)
        best = self._store.bar(study.id)
        return Node(
            number=experiment.number,
            runs=tuple(
                Run(run.value if run.value is not None else math.nan, run.seed, seconds=run.seconds, check=place > 0)
                for place, run in enumerate(runs)
            ),
            lines=experiment.lines,
            memory_gb=experiment.memory_gb,
            kind=self._kind(study, experiment),
            parent=experiment.parent,
            bar=best[1] if best and best[0] == experiment.number and not self._noisy else None,
            failure=experiment.cause,
        )

    @property
    def _noisy(self) -> bool:
        return self._known.known and not self._known.deterministic

    def _kind(self, study: Study, experiment: Experiment) -> Kind:
        if experiment.operator is Operator.BASELINE:
            return "baseline"
        if experiment.state.get("params") is not None:
            return "constants"
        parent = self._store.files(study.id, experiment.parent)
        return "constants" if same_but_for_literals(parent, self._store.files(study.id, experiment.number)) else "structural"

    def first_seed(self, study: Study, experiment: Experiment) -> int:
        """The seed of an experiment's first run."""
        if experiment.operator is Operator.BASELINE or not self._noisy:
            return study.settings.seed
        return next_seed(Node(experiment.number, (), kind=self._kind(study, experiment)), self._known, self.rules(study))

    def fresh_seed(self, study: Study, experiment: Experiment) -> int:
        """A seed that the experiment has not run on."""
        return next_seed(self.node(study, experiment), self._known, self.rules(study))

    def against_parent(self, study: Study, experiment: Experiment) -> Verdict | None:
        """What all runs by now say of an experiment beside its parent; None for a baseline."""
        if not experiment.parent:
            return None
        parent = self.node(study, self._store.experiment(study.id, experiment.parent))
        return judge(self.node(study, experiment), parent, self._known, self.rules(study), Budget(0.0))

    def learn(self, study: Study, number: int) -> None:
        """Take in every finished run of the experiment that was not learned from yet."""
        fresh = self._store.unlearned(study.id, number)
        if not fresh:
            return
        whole = self.node(study, self._store.experiment(study.id, number))
        order = [run.attempt for run in self._store.runs(study.id, number)]
        for attempt in fresh:
            part = Node(
                whole.number, whole.runs[: order.index(attempt) + 1], whole.lines, whole.memory_gb, whole.kind, whole.parent, whole.bar
            )
            self._known = learn_run(self._known, part, self.rules(study))
        self._store.learned(study.id, number, fresh, self._known.to_json())

    def ruling(self, study: Study, experiment: Experiment) -> Ruling:
        """The verdict, or the run that is wanted first."""
        best = self._store.bar(study.id)
        incumbent = self.node(study, self._store.experiment(study.id, best[0])) if best else None
        candidate = self.node(study, experiment)
        rules = self.rules(study)
        verdict = judge(candidate, incumbent, self._known, rules, Budget(self._runs_left()))
        if verdict.action is Action.REPLICATE:
            return Ruling(
                verdict, (candidate.number, verdict.seed if verdict.seed is not None else next_seed(candidate, self._known, rules))
            )
        if verdict.action is Action.REPLICATE_INCUMBENT and incumbent is not None:
            return Ruling(
                verdict, (incumbent.number, verdict.seed if verdict.seed is not None else next_seed(incumbent, self._known, rules))
            )
        if verdict.kept and self._unsure_of_target(candidate, rules):
            return Ruling(verdict, (candidate.number, next_seed(candidate, self._known, rules)))
        return Ruling(verdict)

    def settled(self, study: Study, experiment: Experiment, verdict: Verdict) -> str:
        """Learn from a verdict; returns what is to be kept in the record with it."""
        best = self._store.bar(study.id)
        incumbent = self.node(study, self._store.experiment(study.id, best[0])) if best and best[0] != experiment.number else None
        self._known = learn_result(self._known, self.node(study, experiment), incumbent, verdict, self.rules(study))
        return self._known.to_json()

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
