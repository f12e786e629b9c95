"""What was learned or written down, as records; and how a settled experiment reads as a note. Pure: knows no table and no clock.

Two experiments make *the same change* when they move the same constants the same way, or when they say the same in words. What the
edited bytes show goes before what a proposer says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from overnight.models import Decision, Experiment, Operator, Study
from overnight.printable import number, one_line

LONGEST = 4000  # characters of a note
_TERMS = 12  # words of a query that are looked for
_MOST = 8  # constants that differ: beyond it a change has no short name
_ONE_IDEA = frozenset({Operator.IMPROVE, Operator.SIMPLIFY, Operator.REPAIR, Operator.DRAFT})  # more are told by what they are made of

_LITERAL = re.compile(rb"(\d[\d_]*\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|\bTrue\b|\bFalse\b|'[^'\\]*'|\"[^\"\\]*\")")
_OPTION = re.compile(rb"--([A-Za-z][\w-]*)")
_ASSIGNED = re.compile(rb"\s*([A-Za-z_][\w.]*)\s*(?::[^=]*)?[:=]")
_NAME = re.compile(rb"([A-Za-z_][\w.]*)[^A-Za-z_]*$")
_WORD = re.compile(r"[^\W_]+")
_STOP = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "for",
        "from",
        "has",
        "in",
        "is",
        "it",
        "its",
        "more",
        "less",
        "of",
        "on",
        "or",
        "than",
        "that",
        "the",
        "this",
        "to",
        "was",
        "were",
        "will",
        "with",
        "by",
        "not",
        "no",
        "better",
        "worse",
        "kept",
        "keep",
        "discard",
        "discarded",
        "change",
        "changed",
        "try",
        "use",
        "using",
    ]
)


class NoteKind(StrEnum):
    """What a note tells of."""

    WIN = "win"  # an experiment that was kept
    DEAD_END = "dead-end"  # one that ran and was not
    FAILURE = "failure"  # one that gave no number, or was not fit to be run
    RETEST = "retest"  # what runs after the decision have said
    REMARK = "remark"  # written down by a person or an agent


class Source(StrEnum):
    """Who a note is from."""

    PERSON = "person"
    EXPERIMENT = "experiment"
    AGENT = "agent"


class Tie(StrEnum):
    """How a note stands to another one."""

    DERIVES = "derives-from"  # its experiment was made from the other's
    CONTRADICTS = "contradicts"  # the same change, another result
    REPRODUCES = "reproduces"  # the same change to the same values, the same result


@dataclass(frozen=True, slots=True)
class Note:
    """One thing learned or written down. ``experiment`` 0 = of none in particular; ``retracted`` is when, None = it stands."""

    id: int
    tag: str  # of its study
    experiment: int
    kind: NoteKind
    source: Source
    text: str
    created: float
    retracted: float | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """From a note to the note ``other``, which tells of ``experiment`` (0 = of none)."""

    note: int
    tie: Tie
    other: int
    experiment: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A note that was found: where its words stand, and how well they fit (bm25, higher is better)."""

    note: Note
    snippet: str
    score: float
    project: str = ""  # another one, where it comes from the user's own store


def fused(by_words: Sequence[Hit], by_meaning: Sequence[Hit], most: int) -> list[Hit]:
    """Two rankings as one: each hit counts by its places alone, reciprocal rank fusion with k = 60 (Cormack, Clarke and Buettcher 2009)."""
    scores: dict[int, float] = {}
    hits: dict[int, Hit] = {}
    for ranking in (by_words, by_meaning):
        for place, hit in enumerate(ranking, 1):
            scores[hit.note.id] = scores.get(hit.note.id, 0.0) + 1 / (60 + place)
            hits.setdefault(hit.note.id, hit)
    ranked = sorted(hits.values(), key=lambda hit: (-scores[hit.note.id], hit.note.id))
    return [replace(hit, score=scores[hit.note.id]) for hit in ranked[:most]]


@dataclass(frozen=True, slots=True)
class Lesson:
    """A settled experiment as a note that is to be written. ``change`` and ``values`` name what it did; empty = nothing comparable."""

    kind: NoteKind
    text: str
    change: str = ""  # which constants, which way: LR+ WIDTH-
    values: str = ""  # and to which values
    derives: tuple[int, ...] = ()  # experiments
    contradicts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class QueuedIdea:
    """What a person (or an agent) wants to be tried. ``state``: open, taken, done or vetoed; ``experiment`` took it last (0 = none)."""

    id: int
    text: str
    source: Source
    created: float
    pinned: bool = False
    state: str = "open"
    experiment: int = 0
    tries: int = 0  # proposals that took it
    rank: int = 0  # above 0: an agent's, behind all of a person's
    detail: str = ""  # what the agent said of it; JSON


@dataclass(frozen=True, slots=True)
class Changed:
    """One literal that differs between two versions."""

    name: str
    old: str
    new: str

    @property
    def way(self) -> str:
        """``NAME+``, ``NAME-`` or, for what is no number, ``NAME=new``."""
        try:
            return f"{self.name}{'+' if float(self.new) > float(self.old) else '-'}"
        except ValueError:
            return f"{self.name}={self.new}"


def lesson(study: Study, item: Experiment, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Lesson:
    """What a settled experiment teaches; ``before`` are its parent's editable files, ``after`` its own (both empty = not known)."""
    kind = _kind(item)
    change = values = ""
    if item.operator in _ONE_IDEA:
        if literals := changes(before, after):
            change = " ".join(sorted(each.way for each in literals))
            values = " ".join(sorted(f"{each.name}={each.new}" for each in literals))
        elif item.value is not None:
            change = values = _in_words(item.description)
    undone = item.state.get("takes_back") if item.decision is Decision.KEEP else None
    return Lesson(
        kind,
        text(study, item),
        change[:300],
        values[:300],
        tuple(dict.fromkeys(_parents(item))),
        (undone,) if isinstance(undone, int) else (),
    )


def _kind(item: Experiment) -> NoteKind:
    if item.decision is Decision.KEEP:
        return NoteKind.WIN
    return NoteKind.DEAD_END if item.decision is Decision.DISCARD and item.value is not None else NoteKind.FAILURE


def text(study: Study, item: Experiment) -> str:
    """What was tried, what came of it with its noise, and of which class a failure was."""
    what = one_line(item.description, 400) or f"experiment {item.number}"
    if item.value is not None and item.decision is not Decision.CRASH:
        result = f"{one_line(study.metric)} {number(item.value)}, {'kept' if item.decision is Decision.KEEP else 'discarded'}"
    else:
        result = "crashed" if item.decision is Decision.CRASH else "not run to its end"
        result += f" [{one_line(item.crash_kind, 60)}]" if item.crash_kind else ""
    return f"{what} | {result}: {one_line(item.cause, 400)}"


def _parents(item: Experiment) -> Iterator[int]:
    """The experiments that an experiment was made from: its parent, what it mends, what it combines."""
    yield from (number_ for number_ in (item.parent, item.repairs) if number_)
    if item.operator is Operator.COMBINE:
        yield from (int(found) for found in re.findall(r"#(\d{1,7})\b", item.description[:300]))


def changes(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> tuple[Changed, ...]:
    """The literals that differ, if nothing else does and they are few; else none. Compares line by line, so it is quick and knows no syntax."""
    found: list[Changed] = []
    if before.keys() != after.keys():
        return ()
    for path in before:
        if before[path] == after[path]:
            continue
        old, new = before[path].split(b"\n"), after[path].split(b"\n")
        if len(old) != len(new):
            return ()
        for one, other in zip(old, new, strict=True):
            if one != other:
                here = list(_in_line(one, other))
                if not here or len(found) + len(here) > _MOST:
                    return ()
                found += here
    return tuple(found)


def _in_line(one: bytes, other: bytes) -> Iterator[Changed]:
    """The literals that differ between two lines; none if anything else does."""
    if max(len(one), len(other)) > 2000:
        return
    old, new = _LITERAL.split(one), _LITERAL.split(other)
    if old[::2] != new[::2]:
        return
    for place in range(1, len(old), 2):
        if old[place] != new[place]:
            yield Changed(_name_in(b"".join(old[:place])), *(part[place].decode("utf-8", "replace")[:40] for part in (old, new)))


def _name_in(head: bytes) -> str:
    """The name that a literal has: of its option, of what it is assigned to, or the last one before it."""
    for pattern in (_OPTION, _ASSIGNED, _NAME):
        if match := pattern.search(head) if pattern is not _ASSIGNED else pattern.match(head):
            return match[1].decode("utf-8", "replace")[:60]
    return "?"


def _in_words(description: str) -> str:
    """A description as a name: two that say the same, in whatever order, have the same one. Too few words name nothing."""
    words = sorted({word for word in _WORD.findall(description.lower()) if word not in _STOP})
    return f"words: {' '.join(words)}" if len(words) > 2 else ""


def terms(query: str, *, telling: bool = False) -> list[str]:
    """The words of a query that are worth looking for, each once; ``telling`` leaves out what every note says: common words and numbers."""
    found = dict.fromkeys(word[:64] for word in _WORD.findall(query[:4000].lower()))
    few = [word for word in found if len(word) > 1 and not word.isdigit() and word not in _STOP]
    return (few if telling or few else list(found))[:_TERMS]


def matching(words: Sequence[str]) -> str:
    """An FTS5 query for any of the words. Each is a quoted string, so that nothing in it is an operator."""
    return " OR ".join(f'"{word.replace(chr(34), chr(34) * 2)}"' for word in words)
