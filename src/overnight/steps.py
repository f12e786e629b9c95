"""The steps of one experiment: commit, measure, decide, apply, and what follows from the result.

Every step reads the store, acts, and writes the store; each may be repeated after a crash. Knows no threads and no schedule.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from overnight.auditing import Auditor, Check, look_again, restores, takes_back
from overnight.choosing import FOLLOWS
from overnight.errors import JobError
from overnight.judge import Action, Verdict
from overnight.knowledge import Knowledge
from overnight.ledger import Ledger
from overnight.models import Decision, Direction, Experiment, Operator, Proposal, Run, Stage, Study
from overnight.protocols import Crowd
from overnight.referee import Referee, Ruling
from overnight.runner import NoSecondError, Runner
from overnight.store import Store
from overnight.summing import summed
from overnight.thinking import Thinker, Wish
from overnight.verifying import Verifier, Wanted
from overnight.waving import Waves


@dataclass(frozen=True, slots=True)
class Parts:
    """What a loop is made of."""

    store: Store
    runner: Runner
    thinker: Thinker
    ledger: Ledger
    knowledge: Knowledge
    tell: Callable[[Experiment, Callable[[], Mapping[str, bytes]]], None]
    listen: Callable[[str, Experiment | None, str], None]  # what happened, to which experiment, in words
    name_goal: Callable[[Mapping[str, float]], tuple[str, Direction]]  # which metric is the goal, once the baseline has shown them all
    clock: Callable[[], float]
    gpus: tuple[tuple[str, ...], ...]  # of each slot
    crowd: Crowd | None = None  # where runs go, if its workers have owners of their own


@dataclass(frozen=True, slots=True)
class After:
    """What follows from a settled experiment."""

    goal: str = ""  # why the study has reached its end
    combined: tuple[Proposal, ...] = ()
    wishes: tuple[Wish, ...] = ()  # what somebody has to think about: a repair, two wins that conflict; without an id


_ENDS = {"start": Decision.CRASH, "stopped-early": Decision.DISCARD}  # what gave no result that could be judged


def repair_of(crashed: Experiment) -> Wish:
    """A wish, without an id, that a crash be mended."""
    return Wish("", Operator.REPAIR, crashed.parent, crashed.number)


class Steps:
    """The steps over one study; ``stop`` gives a reason when running experiments are to be put back."""

    def __init__(self, study: Study, parts: Parts, stop: Callable[[], str], runs_left: Callable[[], float]) -> None:
        self.study = study
        self.deciding = threading.Lock()
        self._making: dict[tuple[int, int], threading.Lock] = {}  # by number and seed of a run
        self._parts = parts
        self._stop = stop
        self._referee = Referee(parts.store, study.id, runs_left)
        self.auditor = Auditor(parts.store, self._referee, parts.thinker)
        self.verifier = Verifier(parts.store, self._referee, parts.crowd, lambda text: parts.listen("note", None, text), parts.clock)
        self.undoing: deque[Proposal] = deque()  # what takes refuted keeps back, for the loop to number
        self.waves = Waves(parts.store, self._referee, parts.thinker)
        self._before = 0  # the best experiment before the last decision

    def commit(self, experiment: Experiment) -> Experiment:
        """Keep the proposal in git."""
        experiment = self._parts.ledger.keep(self.study, experiment)
        self._parts.listen("started", experiment, "")
        return experiment

    def next_run(self, experiment: Experiment) -> Wanted | None:
        """The run that an experiment begins with; None for a rejected one."""
        if (experiment.cause and experiment.stage is Stage.COMMITTED) or restores(experiment):
            return None
        begun = self._parts.store.jobs(self.study.id, experiment.number)
        if begun:
            return Wanted(experiment.number, int(begun[0]["seed"]))
        with self.deciding:
            return Wanted(experiment.number, self._referee.first_seed(self.study, experiment))

    def measure(self, experiment: Experiment, wanted: Wanted, slot: int) -> Experiment | None:
        """Run what is wanted and sum the experiment's runs up; None when it was put back."""
        store, study = self._parts.store, self.study
        try:
            if not self._ran(wanted, slot):
                return None
        except NoSecondError:
            if wanted.number != experiment.number:
                return self.measure(experiment, replace(wanted, away=()), slot)
            self.verifier.nobody(wanted.number)
            return self._summed_up(experiment)
        except JobError as exc:
            return store.advance(study.id, experiment.number, Stage.MEASURED, cause=exc.message, crash_kind="start")
        with self.deciding:
            if self.verifier.is_sound(study, wanted.number, experiment.number):
                self._referee.learn(study, wanted.number)
        return self._summed_up(experiment)

    def _is_it(self, run: Run, wanted: Wanted) -> bool:
        """Whether this is the run that is wanted; one that goes away from some workers may have found no other of its class."""
        if run.seed != wanted.seed or run.host in wanted.away:
            return False
        return bool(wanted.away) or wanted.worker in ("", run.worker)

    def _summed_up(self, experiment: Experiment) -> Experiment:
        runs = self._parts.store.runs(self.study.id, experiment.number)
        found = summed(runs, self.study, baseline=experiment.operator is Operator.BASELINE)
        return self._parts.store.advance(self.study.id, experiment.number, Stage.MEASURED, **found)

    def _ran(self, wanted: Wanted, slot: int) -> bool:
        """Make the run that is wanted, unless it is there; what another slot has begun is its own, and waited for. Raises ``JobError``.

        False if it was put back.
        """
        store, study = self._parts.store, self.study
        with self._making.setdefault((wanted.number, wanted.seed), threading.Lock()):
            if any(self._is_it(run, wanted) for run in store.runs(study.id, wanted.number)):
                return True
            runner = self._parts.runner.on(wanted.worker, wanted.away) if wanted.worker or wanted.away else self._parts.runner
            if not runner.run(study, wanted.number, wanted.seed, self._parts.gpus[slot], self._stop):
                return False
        with self.deciding:
            self.auditor.ran(again=False)
        return True

    def decide(self, experiment: Experiment) -> tuple[Experiment, Wanted | None]:
        """Write the verdict, or say which run is wanted before there can be one.

        Called under ``deciding``: a result is compared with the best at the time it ends.
        """
        store, now = self._parts.store, self._parts.clock()
        best = store.bar(self.study.id)
        self._before = best[0] if best else 0
        if restores(experiment):
            return self._restore(experiment, best), None
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
        if experiment.crash_kind in _ENDS:
            return store.decide(self.study.id, experiment.number, _ENDS[experiment.crash_kind], experiment.cause, None, now), None
        opinion = self.verifier.opinion(self.study, experiment)
        if opinion.wanted is not None:
            return experiment, opinion.wanted
        if opinion.hopeless:
            return store.decide(self.study.id, experiment.number, Decision.DISCARD, opinion.hopeless, None, now), None
        return self._judged(self._summed_up(experiment) if opinion.changed else experiment)

    def _judged(self, experiment: Experiment) -> tuple[Experiment, Wanted | None]:
        """The verdict on runs that nobody doubts, or which run is wanted before there can be one."""
        self._referee.learn(self.study, experiment.number)
        if experiment.operator is Operator.WAVE and (wanted := self.waves.run_wanted(self.study, experiment)):
            return experiment, Wanted(*wanted)
        found = self.waves.verdict(self.study, experiment, self._before)
        ruling = Ruling(found) if found is not None else self._referee.ruling(self.study, experiment)
        if ruling.wanted is not None:
            return experiment, self.verifier.elsewhere(self.study, Wanted(*ruling.wanted), experiment.number)
        second = self.verifier.second(self.study, experiment, ruling.verdict)
        return (experiment, second) if second is not None else (self._decided(experiment, ruling), None)

    def _decided(self, experiment: Experiment, ruling: Ruling) -> Experiment:
        """Write the verdict with what was learned from it."""
        (verdict, verified), undone = self.verifier.signed(self.study, experiment, ruling.verdict), takes_back(experiment)
        ruling = Ruling(verdict)
        first = self._parts.store.bar(self.study.id) is None
        crossed = experiment.operator is Operator.WAVE and not verdict.kept  # several changes at once: no news of single ones
        knowledge = "" if crossed else self._referee.settled(self.study, experiment, verdict)
        if undone and verdict.kept:
            knowledge = self._referee.taken_back(self._parts.store.experiment(self.study.id, undone).p)
        columns: dict[str, Any] = {
            "confirmed": verdict.action is not Action.PROVISIONAL,
            "near": verdict.action is Action.NEAR_MISS,
            "verified": verified,
        }
        if not first and not crossed and ruling.decision is not Decision.CRASH:
            columns |= {"rival": self._before, "p": verdict.p, "gain": verdict.gain, "gain_low": verdict.low, "gain_high": verdict.high}
        columns |= self._referee.believed(self.study, experiment)
        bar = self._referee.bar(self.study, experiment, verdict)
        return self._parts.store.decide(
            self.study.id, experiment.number, ruling.decision, verdict.cause, bar, self._parts.clock(), knowledge=knowledge, takes_back=undone, **columns
        )  # fmt: skip

    def foresee(self, experiment: Experiment) -> Ruling:
        """What ``decide`` would say of a measured experiment now; nothing is written. Called under ``deciding``."""
        if experiment.crash_kind in ("start", "stopped-early"):
            return Ruling(Verdict(Action.CRASH if experiment.crash_kind == "start" else Action.DISCARD, experiment.cause))
        return self._referee.ruling(self.study, experiment)

    def wanted(self, experiment: Experiment) -> Wanted | None:
        """The run that is wanted before there can be a verdict. Called under ``deciding``."""
        ruling = self.foresee(experiment)
        return Wanted(*ruling.wanted) if ruling.wanted else self.verifier.second(self.study, experiment, ruling.verdict)

    def give_up(self, experiment: Experiment, why: str) -> Experiment:
        """Write that whoever proposed it does not want it: never a keep, whatever it is worth. Called under ``deciding``."""
        ruling = self.foresee(experiment) if experiment.stage is Stage.MEASURED else None
        if ruling is None:
            return self._parts.store.decide(
                self.study.id, experiment.number, Decision.DISCARD, f"given up: {why}", None, self._parts.clock()
            )
        if ruling.wanted is None and not ruling.verdict.kept:
            return self.decide(experiment)[0]
        best = self._parts.store.bar(self.study.id)
        self._before = best[0] if best else 0
        verdict = replace(ruling.verdict, action=Action.DISCARD, cause=f"given up: {why}; {ruling.verdict.cause}")
        return self._decided(experiment, Ruling(verdict))

    def _restore(self, experiment: Experiment, best: tuple[int, float] | None) -> Experiment:
        """Back to an earlier best without a run: its tree is that of an experiment which has all the runs it needs."""
        store, study, undone, now = self._parts.store, self.study, takes_back(experiment), self._parts.clock()
        twin, wrong = store.experiment(study.id, restores(experiment)), store.experiment(study.id, undone)
        if best is None or best[0] != undone:
            return store.decide(study.id, experiment.number, Decision.DISCARD, f"#{undone} is not the best any more", None, now)
        copied = {"value": twin.value, "trust": twin.trust, "confined": twin.confined, "memory_gb": twin.memory_gb}
        store.advance(study.id, experiment.number, experiment.stage, believed=twin.believed, believed_sd=twin.believed_sd, **copied)
        bar = self._referee.bar(study, twin, Verdict(Action.KEEP, ""))
        cause = f"takes #{undone} back, P = {wrong.p or 0.0:.2f} that it is better: the same tree as #{twin.number}"
        if "; taken back by #" not in wrong.cause:  # by a loop that was killed right after
            store.retested(study.id, undone, now, cause=f"{wrong.cause}; taken back by #{experiment.number}")
        return store.decide(
            study.id, experiment.number, Decision.KEEP, cause, bar if bar is not None else twin.value, now,
            knowledge=self._referee.taken_back(wrong.p), best=twin.number, takes_back=undone,
        )  # fmt: skip

    @property
    def noisy(self) -> bool:
        """Whether the noise is known and above nothing."""
        return self._referee.known.usable

    @property
    def sigma(self) -> float | None:
        """The sd of one run between seeds, as far as it is known."""
        known = self._referee.known
        return math.sqrt(known.squares / known.dof) if known.dof > 0 else None

    def fresh_seed(self, number: int) -> int:
        """A seed that the experiment has not run on."""
        with self.deciding:
            return self._referee.fresh_seed(self.study, self._parts.store.experiment(self.study.id, number))

    def look_back(self, runs_left: float, *, last: bool = False) -> list[Check]:
        """What is to be run again now; ``last``: no experiment follows."""
        if self.verifier.checks:
            with self.deciding:
                found = list(self.verifier.checks)
                self.verifier.checks.clear()
            return found
        if self.auditor.nothing_new and not last:
            return []
        with self.deciding:
            return self.auditor.plan(self.study, runs_left, self._parts.clock(), last=last)

    def doubt_best(self) -> None:
        """Take the best version back if a re-test by hand has refuted it."""
        best = self._parts.store.bar(self.study.id)
        found = self._parts.store.experiment(self.study.id, best[0]) if best is not None else None
        undo = self.auditor.undo(self.study, found) if found is not None and found.retests else None
        if undo is not None:
            self.undoing.append(undo)

    def ripe(self) -> list[Experiment]:
        """Rows of waves that have waited and can be decided now."""
        if not self.waves.ripe:
            return []
        with self.deciding:
            found, self.waves.ripe = self.waves.ripe, []
        return found

    def check(self, wanted: Check, slot: int) -> None:
        """Run a settled experiment once more, or adopt such a run; its row follows, and what has to be undone waits in ``undoing``."""
        try:
            self._check(wanted, slot)
        finally:
            self.auditor.done(wanted)

    def _check(self, wanted: Check, slot: int) -> None:
        store, study = self._parts.store, self.study
        if not any(run.seed == wanted.seed and run.value is not None for run in store.runs(study.id, wanted.number)):
            try:
                if not self._parts.runner.run(study, wanted.number, wanted.seed, self._parts.gpus[slot], self._stop, again=True):
                    return
            except JobError as exc:
                self._parts.listen("note", None, f"#{wanted.number} could not be run again: {exc.message}")
                return
            with self.deciding:
                self.auditor.ran(again=True)
        with self.deciding:
            self.verifier.opinion(study, store.experiment(study.id, wanted.number))
            looked = look_again(store, self._referee, self._parts.ledger, study, (wanted.number, self._parts.clock()))
            self._parts.knowledge.looked_again(study, looked.experiment, looked.word, self._parts.clock())
            undo = self.auditor.undo(study, looked.experiment)
            if undo is not None and not any(item.idea.state == undo.idea.state for item in self.undoing):
                self.undoing.append(undo)
        said = looked.experiment.cause.partition("; re-tested ")[2]
        self._parts.listen("note", None, f"looked again at #{wanted.number}: re-tested {said}")

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
        """Let notes, branch, table and proposer follow the record."""
        self._parts.knowledge.settled(self.study, experiment, self._parts.clock())
        experiment = self._parts.ledger.settle(self.study, experiment)
        self._parts.tell(experiment, lambda: self._parts.store.files(self.study.id, experiment.number))
        self._parts.listen("settled", experiment, "")
        return experiment

    def look_once(self, experiment: Experiment) -> None:
        """Let the hidden hold-out see a keep, once; it changes no decision."""
        kept = experiment.decision is Decision.KEEP and not restores(experiment)
        self._parts.runner.look_once(self.study, experiment.number, kept=kept, stop=self._stop)

    def after(self, experiment: Experiment) -> After:
        """What the result calls for: an end, a repair, a combination with another win."""
        best = self._parts.store.bar(self.study.id)
        if best is None:
            return After()
        goal = self.goal_reached()
        more: tuple[Proposal | Wish, ...] = (
            self.waves.follow(self.study, experiment, best[0])
            if experiment.operator is Operator.WAVE
            else self._combined(experiment, best[0])
        )
        wishes = (*([repair_of(experiment)] if self._repairable(experiment) else []), *(item for item in more if isinstance(item, Wish)))
        return After(goal, tuple(item for item in more if isinstance(item, Proposal)) if not goal else (), wishes)

    def goal_reached(self) -> str:
        """The reason to end when the best value is at least as good as the target, else empty."""
        best = self._parts.store.bar(self.study.id)
        if best is None:
            return ""
        node = self._referee.node(self.study, self._parts.store.experiment(self.study.id, best[0]))
        if not self._referee.reached(node, self._referee.rules(self.study)):
            return ""
        return f"goal reached: {self.study.metric} {best[1]:.6g} (#{best[0]})"

    def _combined(self, experiment: Experiment, best: int) -> tuple[Proposal | Wish, ...]:
        """A win over its own parent, while another experiment had become the best: both, merged."""
        other = self._before if best == experiment.number else best
        if experiment.operator in (Operator.WAVE, Operator.REVERT) or self.study.settings.policy not in FOLLOWS:
            return ()
        if experiment.value is None or not experiment.parent or other in (0, experiment.parent, experiment.number):
            return ()
        parent = self._parts.store.experiment(self.study.id, experiment.parent)
        if parent.value is None or self.study.direction.gain(experiment.value, parent.value) <= self.study.settings.min_delta:
            return ()
        made = self._parts.thinker.combined(self.study, experiment, self._parts.store.experiment(self.study.id, other), best)
        return (made,) if made is not None else ()

    def unmended(self) -> list[Wish]:
        """Repairs of the latest crashes that an earlier loop did not live to see."""
        latest = self._parts.store.experiments(self.study.id, last=self.study.settings.slots)
        mended = {item.repairs for item in latest}
        settled = [item for item in latest if item.stage is Stage.APPLIED and item.operator is not Operator.BASELINE]
        return [repair_of(item) for item in settled if item.number not in mended and self._repairable(item)]

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
