"""Several proposers as one: the next steps in while the one before is down; or a mix by shares, or by what each has gained for its cost.

One that failed rests, longer each time, and is asked again when its rest is over. Whoever answered is named in the idea.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from overnight.errors import ProposalError
from overnight.models import Decision, Experiment, Idea
from overnight.pace import Patience
from overnight.proposers.running import brief_file, contents, touched
from overnight.protocols import Proposer, Request, Searcher

_NO_USE = ("E-SPACE-EXHAUSTED", "E-NO-CONSTANTS")
_LONG = 300.0  # seconds
_MIXES = ("order", "shares", "bandit")
_CENT = 0.01  # US dollars that a minute of thinking counts for, where there is no bill
_CURIOSITY = 1.4  # UCB1 (Auer and others 2002): sqrt 2


@dataclass(slots=True)
class _Member:
    proposer: Proposer
    share: float
    patience: Patience = field(default_factory=Patience)
    down: str = ""  # why it rests
    useless: bool = False  # there is nothing that it could propose
    asked: int = 0
    settled: int = 0
    won: int = 0
    spent: float = 0.0  # US dollars, and thinking time as such


class Chain:
    """Asks ``members`` (proposer and share) in the way that ``mix`` says: order, shares or bandit. Safe to use from several threads."""

    name = "chain"

    def __init__(self, members: Sequence[tuple[Proposer, float]], mix: str, clock: Callable[[], float] = time.monotonic) -> None:
        assert members
        assert mix in _MIXES
        self._members = [_Member(proposer, share) for proposer, share in members]
        self._mix = mix
        self.reads_briefs = any(getattr(proposer, "reads_briefs", True) for proposer, _ in members)
        self._clock = clock
        self._lock = threading.Lock()

    def ask(self, request: Request) -> Idea:
        """The answer of the first member that gives one; raises the ``ProposalError`` of the last one asked."""
        before, begun = contents(request), os.stat(brief_file(request, request.brief)).st_ctime_ns
        failed: ProposalError | None = None
        for member in self._order():
            with self._lock:
                member.asked += 1
            at = self._members.index(member)
            work = request.work / str(at)  # members that run jobs must not find each other's
            work.mkdir()
            try:
                idea = member.proposer.ask(replace(request, id=f"{request.id}.{at}", work=work))
            except ProposalError as exc:
                failed = self._failed(member, exc)
                if exc.code == "E-CANCELLED" or not _restored(request, before, begun):
                    raise failed from exc
                continue
            with self._lock:
                member.patience.worked()
                member.down, member.useless = "", False
                return replace(idea, note=self._note(member))
        assert failed is not None
        raise failed

    def tell(self, experiment: Experiment, files: Callable[[], Mapping[str, bytes]]) -> None:
        """Every member learns from every settled experiment."""
        with self._lock:
            for member in self._members:
                if member.proposer.name == experiment.proposer and experiment.decision is not None:
                    member.settled += 1
                    member.won += experiment.decision is Decision.KEEP
                    member.spent += experiment.cost + _CENT * experiment.think_seconds / 60
        for member in self._members:
            member.proposer.tell(experiment, files)

    def state(self, files: Mapping[str, bytes]) -> str:
        """What the members that search know of the files, for the briefs of the others."""
        return "\n\n".join(
            said for member in self._members if isinstance(member.proposer, Searcher) and (said := member.proposer.state(files))
        )

    def _order(self) -> list[_Member]:
        """Who is to be asked, one after the other; those that rest come last, the one whose rest ends first before the others."""
        now = self._clock()
        with self._lock:
            due = [member for member in self._members if member.patience.due(now)]
            if not due:
                return [min(self._members, key=lambda member: member.patience.until)]
            if self._mix == "shares":
                due.sort(key=lambda member: (member.asked + 1) / member.share)
            elif self._mix == "bandit":
                due.sort(key=self._worth, reverse=True)
            return due

    def _worth(self, member: _Member) -> float:
        """Upper bound of wins per cost: UCB1 on the share of wins, over the mean cost of an experiment of the member."""
        if not member.settled:
            return math.inf if not member.asked else 1.0 / member.asked
        total = sum(each.settled for each in self._members)
        bound = member.won / member.settled + _CURIOSITY * math.sqrt(math.log(total + 1) / member.settled)
        dearest = max(each.spent / each.settled for each in self._members if each.settled) or 1.0
        return bound / (0.1 + member.spent / member.settled / dearest)  # a tenth of the dearest is as good as nothing

    def _failed(self, member: _Member, error: ProposalError) -> ProposalError:
        """Let the member rest; what would end the study ends it only if no other member is left."""
        if error.code == "E-CANCELLED" or (not error.outage and error.code not in _NO_USE):
            return error
        with self._lock:
            member.patience.failed(self._clock(), _LONG if error.code in _NO_USE else error.wait)
            member.down = error.message
            member.useless = error.code in _NO_USE
            if not member.useless or all(each.useless for each in self._members):
                return error
        return ProposalError("E-NOT-NOW", error.message, outage=True, why=error.why, fix=error.fix)

    def _note(self, member: _Member) -> str:
        """For whom the member stands in, if for anybody."""
        down = [each.down for each in self._members if each.down and each is not member]
        return f"{'; '.join(down)}; {member.proposer.name} stands in" if down else ""


def _restored(request: Request, before: Mapping[str, bytes], begun: int) -> bool:
    """Whether the copy is again as it was before a member failed; not if other files than the editable ones were changed."""
    if touched(request, begun):
        return False
    for path, content in before.items():
        target = request.copy / path
        if target.is_symlink() or not target.is_file() or target.read_bytes() != content:
            if target.is_dir() and not target.is_symlink():
                return False
            target.unlink(missing_ok=True)
            target.write_bytes(content)
    return contents(request) == dict(before)
