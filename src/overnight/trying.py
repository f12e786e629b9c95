"""Trials: somebody outside the loop proposes; measuring and deciding are the loop's own steps, on the same record.

A trial is a copy of a version. What was edited there becomes an experiment, once; from then on the record says how far it is, and whoever
starts next, a loop too, takes it on from there. Holds no lock and opens nothing; knows no screen and no signal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from overnight.decide import code_lines
from overnight.errors import NotFoundError, OvernightError, ProposalError, UsageError
from overnight.folders import remove
from overnight.loop import run_cycle
from overnight.models import Decision, Experiment, Idea, Operator, Stage, Study, Trial
from overnight.pace import Pace
from overnight.printable import one_line
from overnight.protocols import Request
from overnight.referee import Ruling
from overnight.steps import Parts, Steps
from overnight.thinking import NO_CHANGE, Wish

_SAY = '-m "what you changed, and why it should help"'
_CARRIED = (Operator.IMPROVE, Operator.SIMPLIFY)  # what goes over to a version that has become the best meanwhile


class LeftError(Exception):
    """Raised by ``stop``: nobody waits any more. What runs goes on, and is adopted by whoever comes back."""


class Outside:
    """The proposer of trials: it is not asked, it comes."""

    name = "trial"
    reads_briefs = True

    def ask(self, _request: Request) -> Idea:
        """Raises ``ProposalError``: there is nobody to ask."""
        raise ProposalError("E-CANCELLED", "nobody is asked while trials are made")

    def tell(self, experiment: Experiment, files: Callable[[], Mapping[str, bytes]]) -> None:
        """Nothing to learn here: the next brief carries the history."""


class Trying:
    """The trials of one study, whose lock is held. ``stop`` gives a reason when running experiments are to be put back."""

    def __init__(self, study: Study, parts: Parts, folder: Path, stop: Callable[[], str]) -> None:
        self._parts, self._store, self._folder = parts, parts.store, folder
        totals, ran, count = self._store.totals(study.id), self._store.ran_seconds(study.id), self._store.count(study.id)
        self._pace = Pace(study.settings, totals, ran, count, max(1, len(parts.gpus[0])))
        self._since = time.monotonic()
        self._steps = Steps(study, parts, stop, lambda: self._pace.runs_left(self._elapsed()))

    @property
    def study(self) -> Study:
        """The study as it is now; the baseline may have shown which metric is its goal."""
        return self._steps.study

    def _elapsed(self) -> float:
        return time.monotonic() - self._since

    def book(self) -> None:
        """Count the time that was spent here; what the loop said last stays said."""
        told = self._store.summary(self.study)
        self._store.set_state(self.study.id, told.state, told.reason, self._pace.ran(self._elapsed()))

    def prepare(self) -> None:
        """Finish what an earlier loop has decided, and have the baseline measured. Raises ``OvernightError`` (E-BASELINE), ``LeftError``."""
        for item in self._store.unfinished(self.study.id):
            first = item.operator is Operator.BASELINE
            if item.stage is not Stage.DECIDED and not first:
                continue
            done = run_cycle(self._steps, item, 0)
            if first and done is not None and done.decision is not Decision.KEEP:
                raise OvernightError("E-BASELINE", f"the baseline did not work: {done.cause}")
        if self._store.bar(self.study.id) is None:
            raise OvernightError("E-INTERRUPTED", "the baseline was put back before it was measured", fix="overnight trial begin")

    def copy(self, trial: Trial) -> Path:
        """Where the trial is edited."""
        return self._folder / f"{self.study.tag}-{trial.number}"

    def room(self) -> None:
        """Refuse when the budget has no room for one more; a trial that was begun may be run. Raises ``UsageError``."""
        waiting = [trial for trial in self._store.open_trials(self.study.id) if not trial.experiment]
        used = self._pace.used_up(self._elapsed())
        if used or not self._pace.room(len(waiting)):
            used = used or f"the budget is used up by the open trials: {', '.join(str(trial.number) for trial in waiting)}"
            more = self._store.count(self.study.id) + 10
            why = "trials are experiments of the study and count like those of the loop"
            raise UsageError("E-BUDGET", used, why=why, fix=f"overnight trial begin --budget {more}   # or change it in overnight.toml")

    def begin(self, trial: Trial) -> Trial:
        """Write the trial down, then lay out its copy."""
        trial = self._store.begin_trial(self.study.id, trial)
        self.lay_out(trial)
        return trial

    def lay_out(self, trial: Trial) -> None:
        """Make the copy of a trial, whole or not at all, unless it is there."""
        place = self.copy(trial)
        if place.exists():
            return
        draft = place.with_name(f"{place.name}.new")
        remove(draft)
        self._parts.thinker.lay_out(self.study, _wish(trial), draft)
        draft.rename(place)

    def sweep(self) -> None:
        """Remove the copies of trials that are over."""
        known = {self.copy(trial).name for trial in self._store.open_trials(self.study.id)}
        for path in self._folder.glob("*") if self._folder.exists() else ():
            head, _, number = path.name.rpartition("-")
            if head == self.study.tag and path.name not in known and number.removesuffix(".new").isdigit():
                remove(path)

    def hand_in(self, trial: Trial, hypothesis: str) -> Experiment:
        """Make what is in the copy an experiment. Raises ``UsageError`` for what cannot be run; then nothing is spent and the trial stays open."""
        again = f"overnight trial run {trial.number} {_SAY}"
        if not hypothesis.strip():
            raise UsageError(
                "E-NO-HYPOTHESIS", "an experiment needs a hypothesis", why="it is what the record, the table and notes say of it", fix=again
            )
        copy = self.copy(trial)
        proposal = self._parts.thinker.taken(self.study, _wish(trial), copy, Idea(one_line(hypothesis, 300), Outside.name))
        if proposal.rejected == NO_CHANGE:
            why = "edits count in that folder alone, not in the checkout"
            raise UsageError("E-NO-EDIT", f"nothing was edited in the copy of trial {trial.number}", where=str(copy), why=why, fix=again)
        if proposal.rejected:
            raise UsageError(
                "E-NOT-FIT", f"trial {trial.number} cannot be run: {proposal.rejected}", where=str(copy), why="nothing was spent; mend the copy", fix=again
            )  # fmt: skip
        best = self._store.bar(self.study.id)
        if best is not None and best[0] != proposal.parent and proposal.operator in _CARRIED:
            proposal = self._parts.thinker.rebased(self.study, proposal, best[0])
        if same := self._store.same_files(self.study.id, proposal.files):
            raise UsageError("E-TRIED", f"these very files were tried already, as #{same}", where=str(copy), fix=f"overnight show {same}")
        for note in proposal.notes:
            self._parts.listen("note", None, note)
        self._pace.begun()
        whole = replace(proposal, told=trial.told, takes=trial.takes, trial=trial.number)
        return self._store.propose(self.study.id, whole, code_lines(whole.files), self._parts.clock())

    def edited_since(self, trial: Trial) -> bool:
        """Whether the copy holds something else than the experiment that was made of it."""
        copy = self.copy(trial)
        if not trial.experiment or not copy.exists():
            return False
        made = self._parts.thinker.taken(self.study, _wish(trial), copy, Idea("", Outside.name))
        mine = self._store.experiment(self.study.id, trial.experiment)
        carried = mine.parent != trial.parent  # then the files were merged with another version
        return not carried and made.rejected != NO_CHANGE and made.files != self._store.files(self.study.id, trial.experiment)

    def measure(self, number: int) -> Experiment | None:
        """Run the experiment as often as is wanted before it can be decided, or adopt such runs. None = put back. Raises ``LeftError``."""
        return run_cycle(self._steps, self._store.experiment(self.study.id, number), 0, settle=False)

    def verdict(self, experiment: Experiment) -> Ruling:
        """What would be decided now; nothing is written."""
        with self._steps.deciding:
            return self._steps.foresee(experiment)

    def settle(self, trial: Trial) -> Experiment | None:
        """Decide, and let branch, table and notes follow. None = put back, when a further run was wanted. Raises ``LeftError``."""
        mine = self._store.experiment(self.study.id, trial.experiment)
        if mine.stage is not Stage.APPLIED and run_cycle(self._steps, mine, 0) is None:
            return None
        return self._ended(trial)

    def give_up(self, trial: Trial, why: str) -> Experiment | None:
        """Take no keep, whatever was measured; a run that is under way is ended. None if there was no experiment yet."""
        if trial.experiment:
            self._parts.runner.break_off(self.study, trial.experiment, "given up")
            mine = self._store.experiment(self.study.id, trial.experiment)
            if mine.decision is None:
                with self._steps.deciding:
                    mine = self._steps.give_up(mine, why)
            if mine.stage is not Stage.APPLIED:
                run_cycle(self._steps, mine, 0)
        return self._ended(trial)

    def _ended(self, trial: Trial) -> Experiment | None:
        self._store.end_trial(self.study.id, trial.number, self._parts.clock())
        remove(self.copy(trial))
        return self._store.experiment(self.study.id, trial.experiment) if trial.experiment else None

    def goal_reached(self) -> str:
        """Why the study has reached its end, if it has."""
        return self._steps.goal_reached()


def which(found: list[Trial], number: int) -> Trial:
    """The trial that is meant among the open ones where no number was said. Raises ``NotFoundError``, ``UsageError``."""
    if not found:
        raise NotFoundError("E-NO-TRIAL", "no trial is open", fix="overnight trial begin")
    if len(found) > 1 and not number:
        named = ", ".join(str(trial.number) for trial in found)
        raise UsageError("E-WHICH-TRIAL", f"which of the open trials: {named}?", fix=f"overnight trial show {found[-1].number}")
    return found[-1]


def _wish(trial: Trial) -> Wish:
    return Wish(f"trial-{trial.number}", trial.operator, trial.parent, trial.crashed)
