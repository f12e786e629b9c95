"""From the record to a brief: what stands in it for a given task. The same for the loop that asks and for the person who looks.

Costs the same whatever the history: the latest rows, one search, a few numbers. Knows no proposer and no git.
"""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from overnight.brief import Recalled, Situation, told, write
from overnight.crashes import tail
from overnight.knowledge import Knowledge
from overnight.models import Experiment, Operator, Study
from overnight.notes import QueuedIdea, Source
from overnight.store import Store

_RECENT, _KEPT = 24, 12  # experiments that are read
_RELATED = 12  # notes that are looked for
_CLAIMS = 32  # proposals after which an idea that one of them took with it, and did not bring back, is open again
_PROGRAM = 64 * 1024  # bytes that are read of the person's program
_TAKES = frozenset({Operator.IMPROVE, Operator.DRAFT})  # steps that can follow an idea of the person


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a brief is asked for: the step, from which experiment, and what only a running loop knows."""

    operator: Operator
    parent: int
    crashed: int = 0
    others: tuple[int, ...] = ()  # what is to be combined, perhaps with the parent itself among it
    in_flight: tuple[str, ...] = ()
    budget_left: str = ""
    output: str = ""  # end of the crashed run's output
    answer: str = ""  # how to hand in; empty = by a last line


@dataclass(frozen=True, slots=True)
class Told:
    """A brief, the notes that stand in it, and the queued idea that it asks for (0 = none)."""

    text: str
    notes: tuple[int, ...]
    idea: int


class Briefer:
    """Writes briefs of one record. ``sampler`` says what a search over the constants knows of some files; safe to use from several threads."""

    def __init__(self, store: Store, knowledge: Knowledge, root: Path, sampler: Callable[[Mapping[str, bytes]], str] | None = None) -> None:
        self._store = store
        self._knowledge = knowledge
        self._root = root
        self._sampler = sampler
        self._lock = threading.Lock()
        self._claimed: OrderedDict[int, tuple[int, int]] = OrderedDict()  # idea -> which brief asked for it, after how many tries
        self._asked = 0

    def write(self, study: Study, occasion: Occasion) -> Told:
        """The brief for this occasion. The idea that it asks for is asked of nobody else until ``give_back``, or for a while."""
        idea = self._claim(study) if occasion.operator in _TAKES else None
        found = self._situation(study, occasion, idea)
        return Told(write(found), told(found.recalled), idea.id if idea else 0)

    def give_back(self, idea: int) -> None:
        """Say that the idea was not followed: it is asked for again."""
        with self._lock:
            self._claimed.pop(idea, None)

    def _claim(self, study: Study) -> QueuedIdea | None:
        with self._lock:
            self._asked += 1
            while self._claimed and next(iter(self._claimed.values()))[0] <= self._asked - _CLAIMS:
                self._claimed.popitem(last=False)
            queue = self._store.ideas(study.id, "open")
            idea = next((item for item in queue if item.id not in self._claimed or self._claimed[item.id][1] < item.tries), None)
            if idea is not None:
                self._claimed.pop(idea.id, None)
                self._claimed[idea.id] = (self._asked, idea.tries)
            return idea

    def _situation(self, study: Study, occasion: Occasion, idea: QueuedIdea | None) -> Situation:
        store = self._store
        bar = store.bar(study.id)
        best = store.experiment(study.id, bar[0]) if bar else None
        recent = [item for item in store.experiments(study.id, last=_RECENT) if item.decision]
        kept = store.experiments(study.id, last=_KEPT, kept=True)
        files = store.files(study.id, occasion.parent)
        others = [store.experiment(study.id, number) for number in occasion.others]
        crashed = store.experiment(study.id, occasion.crashed) if occasion.crashed else None
        return Situation(
            study=study, operator=occasion.operator, parent=store.experiment(study.id, occasion.parent), best=best, baseline=store.baseline(study.id),
            recent=recent, kept=kept, in_flight=occasion.in_flight, program=self._program(study), editable=sorted(files), budget_left=occasion.budget_left,
            crashed=crashed, log_tail=tail(occasion.output.encode("utf-8", "replace")), ladder=store.ladder(study.id), sigma=store.sigma(study.id),
            others=[(item, self._patch(study, item)) for item in others], sampler=self._sampler(files) if self._sampler else "",
            recalled=self._recalled(study, _words(study, idea, crashed or next(iter(others[::-1]), None), best, recent), recent), asked=idea,
            ideas=[item for item in store.ideas(study.id, "open") if idea is None or item.id != idea.id], vetoed=store.ideas(study.id, "vetoed"),
            answer=occasion.answer,
        )  # fmt: skip

    def _recalled(self, study: Study, words: str, recent: list[Experiment]) -> Recalled:
        """What is known that fits, without what the list of recent experiments says anyway."""
        related = self._knowledge.search(words, _RELATED, telling=True, without={(study.tag, item.number) for item in recent})
        remarks = self._store.notes(study.id, last=4, sources=(Source.PERSON,))
        shown = {note.id for note in remarks}
        return Recalled(
            related=[hit for hit in related if hit.project or hit.note.id not in shown],
            remarks=remarks,
            contradictions=self._store.contradicting(study.id, 3),
            edges=self._store.edges([hit.note.id for hit in related if not hit.project]),
            tag=study.tag,
        )

    def _program(self, study: Study) -> str:
        """The person's instructions, read anew each time."""
        with contextlib.suppress(OSError), (self._root / study.settings.program).open("rb") as file:
            return file.read(_PROGRAM).decode("utf-8", "replace")
        return ""

    def _patch(self, study: Study, item: Experiment) -> str:
        """The change of an experiment against its parent."""
        before, after = self._store.files(study.id, item.parent), self._store.files(study.id, item.number)
        return "\n".join(_differences(before, after))


def _words(study: Study, idea: QueuedIdea | None, at_hand: Experiment | None, best: Experiment | None, recent: list[Experiment]) -> str:
    """What notes are looked for, the most telling first: a search takes no more than its first words."""
    texts = [idea.text if idea else "", at_hand.description if at_hand else "", *(item.description for item in recent[-1:-4:-1])]
    return "\n".join([*texts[:2], best.description if best else "", study.settings.goal, *texts[2:]])


def _differences(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Iterator[str]:
    for path in sorted(before.keys() | after.keys()):
        old, new = (files.get(path, b"").decode("utf-8", "replace").splitlines() for files in (before, after))
        if old != new:
            yield from difflib.unified_diff(old, new, path, path, lineterm="", n=2)
