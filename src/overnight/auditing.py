"""Looking back while the study runs: which experiments to run again, what that says of them, and how a keep is taken back.

A keep that an audit refutes is undone by an experiment of its own, a new commit on the branch; history is never rewritten. Knows the
record and the referee, no schedule: the loop asks what to run again and brings the runs to slots. Everything but counters is in the
record, so that a killed loop looks back on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from overnight.judge import Action, Budget
from overnight.judge.audit import ANCHOR, CONFIRMED, Keep, audit_due, audit_plan, audit_seed, refuted, word
from overnight.judge.wording import believed
from overnight.ledger import Ledger
from overnight.models import Decision, Experiment, Idea, Operator, Proposal, Study
from overnight.referee import Referee
from overnight.store import Store
from overnight.thinking import Thinker

_LOOK_BACK = 32  # keeps that an audit thinks of


@dataclass(frozen=True, slots=True)
class Check:
    """One run to look again at a settled experiment."""

    number: int
    seed: int


@dataclass(frozen=True, slots=True)
class Looked:
    """What all runs by now say of an experiment: the probability that it is better than what it was compared with, and its gain."""

    experiment: Experiment
    p: float
    gain: float

    @property
    def word(self) -> str:
        """``confirmed``, ``contradicted`` or ``still open``."""
        return word(self.p, self.gain)


def look_again(store: Store, referee: Referee, ledger: Ledger, study: Study, now: tuple[int, float]) -> Looked:
    """Take in what further runs of experiment ``now[0]`` say: its row and the tables follow, its decision and its commit stay."""
    number, when = now
    before = store.experiment(study.id, number)
    referee.learn(study, number)
    verdict = referee.against_rival(study, before)
    p, gain = (verdict.p, verdict.gain) if verdict else (1.0, 0.0)
    runs = store.runs(study.id, number)
    values = [run.value for run in runs if run.value is not None]
    found: dict[str, object] = {"retests": sum(run.looks_again for run in runs)}
    found |= referee.believed(study, before)
    if values and before.value is not None:
        found["value"] = values[0] if len(set(values)) == 1 else sum(values) / len(values)
    if verdict is not None:
        found |= {"p": p, "gain": gain, "gain_low": verdict.low, "gain_high": verdict.high}
    knowledge = ""
    if before.decision is Decision.KEEP and before.operator is not Operator.BASELINE and not before.reverted:
        found["confirmed"] = p >= CONFIRMED
        knowledge = referee.looked(before.p, p) if verdict is not None else ""
    found["cause"] = _cause(before.cause, (p, gain), [run.value is None for run in runs if run.looks_again], compared=verdict is not None)
    after = store.retested(study.id, number, when, knowledge=knowledge, **found)
    ledger.amend(before, after)
    return Looked(after, p, gain)


def _cause(cause: str, now: tuple[float, float], failed: list[bool], *, compared: bool) -> str:
    """The cause of the decision, and after it what looking again has given."""
    count = len(failed)
    said = f"; re-tested {count} {'times' if count > 1 else 'time'}"
    said += f": {word(*now)}, by now {believed(now[1], now[0])}" if compared else ""
    return cause.partition("; re-tested ")[0] + said + (f", {sum(failed)} of them failed" if any(failed) else "")


class Auditor:
    """Decides what is run again, and what follows. Called under the lock that orders decisions, but for ``done``."""

    def __init__(self, store: Store, referee: Referee, thinker: Thinker) -> None:
        self._store = store
        self._referee = referee
        self._thinker = thinker
        self._runs = self._checks = self._audited_at = self._anchored_at = self._planned_at = -1
        self._open: set[Check] = (
            set()
        )  # planned and not done: until they are, nothing more is planned, for their seeds would be taken again

    def done(self, check: Check) -> None:
        """A planned run has ended, one way or the other."""
        self._open.discard(check)

    def ran(self, *, again: bool) -> None:
        """One more run has ended."""
        if self._runs >= 0:
            self._runs, self._checks = self._runs + 1, self._checks + again

    @property
    def nothing_new(self) -> bool:
        """Whether there is nothing to plan for: what was planned is under way, or no run has ended since."""
        return bool(self._open) or 0 <= self._runs == self._planned_at

    def plan(self, study: Study, runs_left: float, now: float, *, last: bool = False) -> list[Check]:
        """What to run again now; nothing most of the time. ``last``: no experiment follows, the end is near."""
        if self._runs < 0:
            self._runs, self._checks = self._store.finished_runs(study.id)
            self._audited_at = self._anchored_at = self._store.last_audit(study.id)
        self._planned_at = self._runs
        found = self._due(study, Budget(runs_left), now, last=last)
        self._open.update(found)
        return found

    def _due(self, study: Study, budget: Budget, now: float, *, last: bool) -> list[Check]:
        known = self._referee.known
        anchors = self._anchor(study)
        if not known.usable or not (audit_due(self._runs, self._audited_at, budget) or (last and self._runs > self._audited_at)):
            return anchors
        self._audited_at = self._runs
        if len(keeps := self._keeps(study)) == 0:
            return anchors
        planned = audit_plan(keeps, known, self._runs, self._checks, Budget(), self._referee.rules(study))
        if planned:
            self._store.audited(study.id, self._runs, now)
        return anchors + [Check(number, seed) for number, seed in planned]

    def _anchor(self, study: Study) -> list[Check]:
        """One more run of the best version, now and then, where runs come from more than one class of machine."""
        best = self._store.bar(study.id) if self._runs - self._anchored_at >= ANCHOR and len(self._referee.known.workers) > 1 else None
        if best is None:
            return []
        self._anchored_at = self._runs
        node = self._referee.node(study, self._store.experiment(study.id, best[0]))
        return [Check(best[0], audit_seed(node, self._referee.rules(study)))]

    def _keeps(self, study: Study) -> list[Keep]:
        """The keeps that stand, the one that the branch delivers as the last."""
        best = self._store.bar(study.id)
        rows = [item for item in self._store.experiments(study.id, last=_LOOK_BACK, kept=True) if not item.reverted and not restores(item)]
        rows = [item for item in rows if item.operator is not Operator.BASELINE]
        rows.sort(key=lambda item: (best is not None and item.number == best[0], item.number))
        if not rows or best is None or rows[-1].number != best[0]:
            return []
        return [Keep(self._referee.node(study, item), _action(item), item.p if item.p is not None else 1.0) for item in rows]

    def undo(self, study: Study, found: Experiment) -> Proposal | None:
        """What takes a doubtful keep back, if its runs by now ask for that; None = it stays."""
        best, p = self._store.bar(study.id), found.p
        if best is None or p is None or found.decision is not Decision.KEEP or found.reverted or found.operator is Operator.BASELINE:
            return None
        if found.number == best[0]:
            return self._restored(study, found) if refuted(p, found.gain or 0.0) else None
        if p >= 0.5 or found.number not in self._line(study, best[0]):
            return None
        return self._without(study, found, best[0])

    def _restored(self, study: Study, found: Experiment) -> Proposal | None:
        """Back to what was best before the newest keep."""
        rows = [item for item in self._store.experiments(study.id, last=_LOOK_BACK, kept=True) if not item.reverted and not restores(item)]
        rows = [item for item in rows if item.number != found.number] or [
            item for item in (self._store.baseline(study.id),) if item is not None
        ]
        if not rows:
            return None
        twin = max(rows, key=lambda item: (item.finished or 0.0, item.number))
        text = f"back to #{twin.number}: #{found.number} did not stand its re-test ({found.description})"
        return self._proposal(found, found.number, self._store.files(study.id, twin.number), (text, {"twin": twin.number}))

    def _without(self, study: Study, found: Experiment, tip: int) -> Proposal | None:
        """The best version without what this keep had changed; None where later changes rest on it, or that was tried."""
        merged = self._thinker.merge(study, found.number, tip, self._store.files(study.id, found.rival))
        if merged is None or self._store.same_files(study.id, merged):
            return None
        return self._proposal(found, tip, merged, (f"the best without #{found.number} ({found.description})", {}))

    def _proposal(self, found: Experiment, parent: int, files: Mapping[str, bytes], said: tuple[str, Mapping[str, object]]) -> Proposal:
        idea = Idea(hypothesis=said[0][:300], proposer="audit", state={"takes_back": found.number, **said[1]})
        return Proposal(parent=parent, operator=Operator.REVERT, idea=idea, files=files)

    def _line(self, study: Study, tip: int) -> set[int]:
        """The experiments that the best version was made from, as far back as an audit looks."""
        line, at = {tip}, self._store.experiment(study.id, tip)
        while at.parent and at.operator is not Operator.BASELINE and len(line) < 2 * _LOOK_BACK:
            line.add(at.parent)
            at = self._store.experiment(study.id, at.parent)
        return line


def restores(item: Experiment) -> int:
    """The experiment whose tree this one brings back without a run of its own; 0 = none."""
    twin = item.state.get("twin")
    return twin if item.operator is Operator.REVERT and isinstance(twin, int) else 0


def takes_back(item: Experiment) -> int:
    """The keep that this experiment undoes if it is kept; 0 = none."""
    found = item.state.get("takes_back")
    return found if item.operator is Operator.REVERT and isinstance(found, int) else 0


def _action(item: Experiment) -> Action:
    return Action.KEEP if item.confirmed else Action.PROVISIONAL
