"""From a wish to a proposal: make the disposable copy, write the brief, ask, read what was edited, judge its scope.

Runs in threads beside the experiments. Knows the Proposer protocol, never a concrete proposer; commits and decides nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from overnight.briefing import Briefer, Occasion, Told
from overnight.errors import ProposalError
from overnight.folders import remove
from overnight.knowledge import Knowledge
from overnight.models import Experiment, Idea, Operator, Proposal, Study
from overnight.protocols import Proposer, Request, Searcher
from overnight.redact import Redactor
from overnight.store import Store
from overnight.workspace import Scope, Workspace

NO_BRIEF = Told("", (), 0)  # for a proposer that reads none
ASKS_AN_AGENT = frozenset({Operator.COMBINE, Operator.SIMPLIFY})  # steps that are nothing without their brief
_CLASHING = 2  # changes that are shown to whoever is to bring them together
NO_CHANGE = "no change: the proposer edited nothing"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be thought about: an improvement of ``parent``, or a repair of ``crashed``."""

    id: str
    operator: Operator
    parent: int
    crashed: int = 0
    others: tuple[int, ...] = ()  # what is to be combined: near-misses on ``parent``, or a win that does not merge with it


@dataclass(frozen=True, slots=True)
class Talk:
    """What the loop tells along with a wish."""

    in_flight: tuple[str, ...]
    budget_left: str
    output: str  # end of the crashed run's output
    cancelled: Callable[[], bool]


class Thinker:
    """Asks ``proposer`` in copies under ``folder``; safe to use from several threads."""

    def __init__(
        self, store: Store, workspace: Workspace, proposer: Proposer, scope: Scope, where: tuple[Path, Redactor], knowledge: Knowledge
    ) -> None:
        self._store = store
        self._workspace = workspace
        self._proposer = proposer
        self._scope = scope
        self._folder, self._secrets = where
        self._briefs = Briefer(store, knowledge, workspace.root, proposer.state if isinstance(proposer, Searcher) else None)
        self.reads_briefs = bool(getattr(proposer, "reads_briefs", True))

    def sweep(self) -> None:
        """Remove the copies of an earlier loop."""
        remove(self._folder)

    def think(self, study: Study, wish: Wish, talk: Talk) -> Proposal:
        """One proposal, perhaps marked as rejected; raises ``ProposalError`` when there is none."""
        if wish.operator is Operator.COMBINE and wish.parent not in wish.others and (merged := self._mixed(study, wish)):
            return merged
        if wish.operator in ASKS_AN_AGENT and not self.reads_briefs:
            raise ProposalError("E-CANCELLED", f"{self._proposer.name} reads no brief: it is not asked to {wish.operator}")
        occasion = Occasion(
            wish.operator, wish.parent, wish.crashed, wish.others[:_CLASHING], talk.in_flight, talk.budget_left, talk.output
        )
        told = self._briefs.write(study, occasion) if self.reads_briefs else NO_BRIEF
        try:
            proposal = self._asked(study, wish, talk, told.text)
        except BaseException:
            self._briefs.give_back(told.idea)
            raise
        return replace(proposal, told=told.notes, takes=(told.idea,) if told.idea else ())

    def lay_out(self, study: Study, wish: Wish, copy: Path) -> tuple[str, ...]:
        """Make the disposable copy that the wish begins with; returns the paths that may be edited."""
        start = self._store.files(study.id, wish.crashed or wish.parent)
        self._workspace.export(study.base_commit, start, copy, {}, self._scope)
        return tuple(sorted(start))

    def taken(self, study: Study, wish: Wish, copy: Path, idea: Idea, failed: ProposalError | None = None) -> Proposal:
        """What was made of the copy, as a proposal; marked as rejected if it is not fit. Raises ``failed`` if that is all there is."""
        start = self._store.files(study.id, wish.crashed or wish.parent)
        found = self._workspace.collect(copy, study.base_commit, self._scope)
        if failed is not None and (failed.code == "E-CANCELLED" or (not found.rejected and found.files == start)):
            raise failed
        unfit = found.rejected or self._secret_in(found.files)
        rejected = unfit
        if failed is not None:
            kind = "" if failed.code == "E-WRONG-FILE" else "half an edit: "
            rejected = f"{kind}{failed.message}" + (f" ({failed.why})" if failed.why else "")
        elif not rejected and found.files == start:
            rejected = NO_CHANGE
        return Proposal(
            parent=wish.parent,
            operator=wish.operator,
            idea=replace(idea, hypothesis=self._secrets.text(idea.hypothesis)),
            files=start if unfit else found.files,
            rejected=rejected,
            repairs=wish.crashed,
            notes=found.notes,
        )

    def _asked(self, study: Study, wish: Wish, talk: Talk, brief: str) -> Proposal:
        parent = self._store.experiment(study.id, wish.parent)
        with self._place(wish) as (copy, work):
            editable = self.lay_out(study, wish, copy)
            request = Request(
                id=f"{study.tag}-{wish.id}",
                study=study,
                operator=wish.operator,
                parent=parent,
                copy=copy,
                work=work,
                editable=editable,
                brief=brief,
                cancelled=talk.cancelled,
            )
            begun = time.monotonic()
            idea, failed = self._ask(request)
            return self.taken(study, wish, copy, replace(idea, seconds=time.monotonic() - begun), failed)

    def _secret_in(self, files: Mapping[str, bytes]) -> str:
        bad = [path for path, content in files.items() if self._secrets.data(content) != content]
        return f"it writes a secret of the environment into {', '.join(bad)}" if bad else ""

    def _ask(self, request: Request) -> tuple[Idea, ProposalError | None]:
        try:
            return self._proposer.ask(request), None
        except ProposalError as exc:
            return Idea(hypothesis=f"({exc.message})", proposer=self._proposer.name, tokens=exc.tokens, cost=exc.cost), exc

    @contextlib.contextmanager
    def _place(self, wish: Wish) -> Iterator[tuple[Path, Path]]:
        folder = self._folder / wish.id
        remove(folder)
        work = folder / "work"
        work.mkdir(parents=True)
        try:
            yield folder / "copy", work
        finally:
            remove(folder)

    def rebased(self, study: Study, proposal: Proposal, tip: int) -> Proposal:
        """The proposal carried over to ``tip`` when that works without a conflict, else as it is."""
        merged = self.merge(study, proposal.parent, tip, proposal.files)
        return proposal if merged is None else replace(proposal, parent=tip, files=merged)

    def merge(self, study: Study, base: int, tip: int, theirs: Mapping[str, bytes]) -> dict[str, bytes] | None:
        """``theirs`` (made from experiment ``base``) merged into experiment ``tip``; None on a conflict."""
        return self.merge_files(self._store.files(study.id, base), self._store.files(study.id, tip), theirs)

    def merge_files(self, base: Mapping[str, bytes], ours: Mapping[str, bytes], theirs: Mapping[str, bytes]) -> dict[str, bytes] | None:
        """The changes of both sides to ``base``; None on a conflict."""
        return self._workspace.merge(base, ours, theirs)

    def _mixed(self, study: Study, wish: Wish) -> Proposal | None:
        """The near-misses ``wish.others`` merged into ``wish.parent``, those that fit; None if they conflict.

        Raises ``ProposalError`` (E-CANCELLED) if that is nothing new.
        """
        ground = self._store.files(study.id, wish.parent)
        files = ground
        taken: list[Experiment] = []
        for number in wish.others:
            item = self._store.experiment(study.id, number)
            merged = self.merge_files(self._store.files(study.id, item.parent), files, self._store.files(study.id, number))
            if merged is not None and merged != files:
                files, taken = merged, [*taken, item]
        if len(taken) < 2:
            return None
        if self._store.same_files(study.id, files):
            raise ProposalError("E-CANCELLED", "the near-misses were tried together already")
        text = f"combine near-misses: {' + '.join(f'#{item.number} ({item.description})' for item in taken)}"
        return Proposal(parent=wish.parent, operator=Operator.COMBINE, idea=Idea(hypothesis=text[:300], proposer="merge"), files=files)

    def combined(self, study: Study, one: Experiment, other: Experiment, tip: int) -> Proposal | Wish | None:
        """``one``, a win over its own parent, merged with ``other``, as a proposal on ``tip``; None if that gives nothing new.

        Where they conflict, a wish without an id: whoever reads briefs may bring them together.
        """
        merged = self.merge(study, one.parent, other.number, self._store.files(study.id, one.number))
        if merged is None:
            missing = one if tip == other.number else other
            return Wish("", Operator.COMBINE, tip, others=(tip, missing.number)) if self.reads_briefs else None
        if self._store.same_files(study.id, merged):
            return None
        text = f"combine #{other.number} ({other.description}) with #{one.number} ({one.description})"
        return Proposal(parent=tip, operator=Operator.COMBINE, idea=Idea(hypothesis=text[:300], proposer="merge"), files=merged)
