"""Waves while they run: rows wait for each other, are judged together, and what they support is tried as one version.

A wave is k experiments (its rows), numbered one after another, and one run of their parent. Everything is in the record: the rows'
numbers, what each holds, and the edits themselves in an event. Called under the lock that orders decisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from overnight.choosing import ALONE, Edit, crossed
from overnight.errors import NotFoundError
from overnight.judge import Action, Verdict
from overnight.judge.waves import Outcome, kept, outcome
from overnight.models import Decision, Experiment, Idea, Operator, Proposal, Stage, Study
from overnight.referee import Referee
from overnight.store import Store
from overnight.thinking import Thinker

_MEASURED = (Stage.MEASURED, Stage.DECIDED, Stage.APPLIED)


@dataclass(frozen=True, slots=True)
class Row:
    """What a row of a wave knows of itself."""

    first: int  # number of the wave's first row
    place: int
    size: int
    seed: int  # of the parent's own run
    edits: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Edit:
    """One edit of a wave as the record has it."""

    text: str
    files: dict[str, bytes]  # the parent's, with the edit in them
    told: tuple[int, ...]
    takes: tuple[int, ...]


def row_of(item: Experiment) -> Row | None:
    """The place of an experiment in its wave."""
    told: Any = item.state.get("wave")
    if item.operator is not Operator.WAVE or not isinstance(told, dict):
        return None
    return Row(item.number - told["row"], told["row"], told["size"], told["seed"], tuple(told["edits"]))


class Waves:
    """Judges the rows of waves of one study. ``ripe`` are rows that have waited and can be decided now."""

    def __init__(self, store: Store, referee: Referee, thinker: Thinker) -> None:
        self._store, self._referee, self._thinker = store, referee, thinker
        self._parked: dict[int, list[Experiment]] = {}
        self._asked: set[int] = set()  # waves whose parent is being run
        self._told: set[int] = set()  # waves whose consequences were drawn
        self._outcomes: dict[int, Outcome | None] = {}
        self.ripe: list[Experiment] = []

    def begun(self, study: Study, first: int, edits: tuple[Proposal, ...], now: float) -> None:
        """Write the edits of a wave down, so that what it supports can be put together after a restart too."""
        ground = self._store.files(study.id, edits[0].parent)
        self._store.event(study.id, first, "wave", now, {"edits": [Edit(item).data(ground) for item in edits]})

    def run_wanted(self, study: Study, item: Experiment) -> tuple[int, int] | None:
        """(number, seed) of the parent's run, when it alone is missing; (0, 0) = wait for other rows; None = the wave can be judged."""
        row = row_of(item)
        rows = self._rows(study, row) if row is not None else None
        if row is None or rows is None or any(other.value is None and other.stage in _MEASURED for other in rows):
            self._complete(row.first if row else 0)
            return None
        waiting = any(other.stage not in _MEASURED for other in rows)
        measured = any(run.seed == row.seed for run in self._store.runs(study.id, item.parent))
        if not waiting and measured:
            self._complete(row.first)
            return None
        if waiting or row.first in self._asked:
            self._parked.setdefault(row.first, []).append(item)
            return 0, 0
        self._asked.add(row.first)
        return item.parent, row.seed

    def _complete(self, first: int) -> None:
        self.ripe += self._parked.pop(first, [])

    def _rows(self, study: Study, row: Row) -> list[Experiment] | None:
        """All rows of the wave; None if a loop was killed before it had numbered them all."""
        found = []
        for number in range(row.first, row.first + row.size):
            try:
                found.append(self._store.experiment(study.id, number))
            except NotFoundError:
                return None
        return found if all((other := row_of(item)) is not None and other.first == row.first for item in found) else None

    def _outcome(self, study: Study, row: Row) -> Outcome | None:
        """What the wave says; None if one of its runs gave no value."""
        if row.first not in self._outcomes:
            rules, rows = self._referee.rules(study), self._rows(study, row)
            values = [rules.sign * item.value for item in rows or () if item.value is not None]
            parent = next((run.value for run in self._store.runs(study.id, rows[0].parent) if run.seed == row.seed), None) if rows else None
            fit = len(values) == row.size and parent is not None and self._referee.known.usable
            self._outcomes[row.first] = outcome(values, rules.sign * parent, self._referee.known) if fit and parent is not None else None
        return self._outcomes[row.first]

    def verdict(self, study: Study, item: Experiment, best: int) -> Verdict | None:
        """The verdict on a row of a wave that is complete; None = it is an experiment like any other, for one of the runs gave no value."""
        row = row_of(item)
        if item.value is None or row is None:
            return None
        found, span = self._outcome(study, row), f"#{row.first} to #{row.first + row.size - 1}"
        if found is None:
            return None
        said = ", ".join(f"{at + 1}: P = {p:.2f}" for at, p in enumerate(found.chances))
        held = "+".join(str(at + 1) for at in row.edits)
        supports = "+".join(str(at + 1) for at in found.subset) or "none of them"
        cause = f"changes {held} of the wave {span}, which supports {supports} ({said})"
        if found.subset == row.edits and item.parent == best:
            return kept(found, cause, self._referee.rules(study).profile)
        return Verdict(Action.DISCARD, cause)

    def follow(self, study: Study, item: Experiment, best: int) -> tuple[Proposal, ...]:
        """What the wave leads to, told with the last of its rows: the supported changes as one version, or each alone if it is void."""
        row = row_of(item)
        rows = self._rows(study, row) if row is not None else None
        if row is None or rows is None or any(other.decision is None for other in rows) or row.first in self._told:
            return ()
        self._told.add(row.first)
        found, edits = self._outcome(study, row), self._edits(study, row, item.parent)
        if found is None:
            return tuple(_single(item.parent, edit) for edit in edits)
        for other in rows:
            if other.decision is Decision.KEEP and (held := row_of(other)) is not None:
                self._store.hand_over_ideas(study.id, other.number, [idea for at in held.edits for idea in edits[at].takes])
                return ()
        if not found.subset:
            return ()
        ground = self._store.files(study.id, item.parent)
        chosen = [edits[at] for at in found.subset]
        files = crossed(self._thinker, ground, [edit.files for edit in chosen])
        if files is not None and best != item.parent:
            files = self._thinker.merge(study, item.parent, best, files)
        if files is None:
            return ()
        text = f"what the wave #{row.first} to #{row.first + row.size - 1} supports: {' + '.join(edit.text for edit in chosen)}"
        state = {"wave_gain": [found.gain, found.var]} if best == item.parent else {}
        idea = Idea(hypothesis=text[:300], proposer="wave", state=state)
        notes = tuple(dict.fromkeys(note for edit in chosen for note in edit.told))
        ideas = tuple(idea for edit in chosen for idea in edit.takes)
        return (Proposal(best, Operator.COMBINE, idea, files, told=notes, takes=ideas),)

    def _edits(self, study: Study, row: Row, parent: int) -> list[_Edit]:
        """The wave's edits."""
        ground = self._store.files(study.id, parent)
        told = self._store.event_of(study.id, row.first, "wave")
        found = []
        for edit in told.get("edits", []):
            changed = {path: text.encode("latin-1") for path, text in edit["files"].items()}
            rest = {path: content for path, content in ground.items() if path not in edit["gone"]}
            found.append(_Edit(str(edit["text"]), {**rest, **changed}, tuple(edit.get("told", ())), tuple(edit.get("takes", ()))))
        return found


def _single(parent: int, edit: _Edit) -> Proposal:
    return Proposal(parent, Operator.IMPROVE, Idea(hypothesis=edit.text, proposer=ALONE), edit.files, told=edit.told, takes=edit.takes)
