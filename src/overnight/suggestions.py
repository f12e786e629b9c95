"""Directions that an agent suggests: read from its answer whatever its shape, compared with what was tried, ranked. Pure.

An answer holds JSON objects with title, reason, gain, cost, risk and files: one a line, in a list, or in a fenced block among other text.
Must not know who was asked, nor where ideas are kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from overnight.goals import Goal
from overnight.notes import NoteKind
from overnight.printable import number, one_line

MOST = 40  # suggestions of one answer that are taken
_LARGEST = 2**20  # characters of an answer that are looked at
_TRIES = 5000  # braces at which an object is looked for
_LISTS = ("ideas", "directions", "suggestions", "items")
_OPENING = re.compile(r"[{\[]")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?")
_WORDS = {
    "negligible": 0.03, "tiny": 0.05, "very low": 0.1, "low": 0.2, "small": 0.2, "minor": 0.2, "medium": 0.5, "moderate": 0.5, "high": 0.8, "large": 0.8,
    "big": 0.8, "very high": 0.9, "huge": 0.95,
}  # fmt: skip
_COSTS = {
    "trivial": 0.3,
    "tiny": 0.5,
    "low": 1.0,
    "small": 1.0,
    "cheap": 1.0,
    "medium": 4.0,
    "moderate": 4.0,
    "high": 12.0,
    "large": 12.0,
    "expensive": 12.0,
}
_HOURS = (("week", 40.0), ("day", 8.0), ("min", 1 / 60), ("hour", 1.0), ("h", 1.0), ("d", 8.0), ("w", 40.0), ("m", 1 / 60))
_USUAL_COST, _USUAL_RISK = 4.0, 0.5
_CHEAPEST = 0.25  # hours; nothing is cheaper, or one guess of a gain would decide all
_AGAIN = {NoteKind.DEAD_END: 0.2, NoteKind.FAILURE: 0.5, NoteKind.WIN: 0.3}  # how much a suggestion is worth that was tried before
_WORD = re.compile(r"[^\W_]+")
_PLAIN_WORDS = """
    a an and are as at be by for from in into is it its of on or per than that the this to up use using with without add adding new more less better try
    replace instead change improve model training train loss
"""
_PLAIN = frozenset(_PLAIN_WORDS.split())


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One direction. ``gain`` is in the metric's unit (None = not said), ``cost`` in hours, ``risk`` the probability that it does not work."""

    title: str
    reason: str = ""
    gain: float | None = None
    cost: float = _USUAL_COST
    risk: float = _USUAL_RISK
    files: tuple[str, ...] = ()
    before: tuple[str, ...] = ()  # what was tried like it, in words
    worth: float = 0.0  # by which they are ranked

    @property
    def text(self) -> str:
        """Title and reason in one line."""
        return f"{self.title} — {self.reason}" if self.reason else self.title

    def told(self, unit: str = "") -> str:
        """``gain 8 mm, cost 4 h, risk 0.3; touches model.py``."""
        gain = "not said" if self.gain is None else f"{number(self.gain, 3)}{unit if unit in '%°' else f' {unit}'}"
        touched = f"; touches {', '.join(self.files[:6])}" if self.files else ""
        return f"gain {gain}, cost {number(self.cost, 2)} h, risk {number(self.risk, 2)}{touched}"


@dataclass(frozen=True, slots=True)
class Tried:
    """Something that was tried or refused: how it is called (``exp-012``), what it was, and what came of it."""

    name: str
    what: str
    kind: NoteKind
    result: str = ""


def read(answer: str, goal: Goal) -> list[Suggestion]:
    """The suggestions in an answer, in its order, each title once. Raises ``ValueError`` in words for whoever answered."""
    rows = list(_objects(answer[:_LARGEST]))
    found: dict[str, Suggestion] = {}
    for row in rows:
        title = one_line(_text(row, "title", "name", "idea"), 160)
        if title:
            found.setdefault(title.casefold(), _suggestion(title, row, goal))
    if not rows:
        raise ValueError(
            'it holds no JSON object; wanted are lines such as {"title": "…", "reason": "…", "gain": 1.5, "cost": 4, "risk": 0.3, "files": ["train.py"]}'
        )
    if not found:
        raise ValueError('none of its JSON objects has a "title"')
    return list(found.values())[:MOST]


def _suggestion(title: str, row: Mapping[str, Any], goal: Goal) -> Suggestion:
    files = row.get("files", row.get("touches", ()))
    named = files if isinstance(files, list | tuple) else re.split(r"[,\s]+", files) if isinstance(files, str) else ()
    return Suggestion(
        title,
        one_line(_text(row, "reason", "why", "rationale", "description"), 600),
        _gain(_first(row, "gain", "expected_gain", "expected gain", "expected"), goal),
        _cost(_first(row, "cost", "effort", "hours")),
        _risk(_first(row, "risk")),
        tuple(one_line(str(path), 120) for path in named[:20] if str(path).strip()),
    )


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object of a text that stands for itself; what is no JSON is passed over."""
    decoder = json.JSONDecoder()
    at = tries = 0
    while tries < _TRIES and (match := _OPENING.search(text, at)):
        tries += 1
        try:
            found, at = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            at = match.start() + 1
            continue
        yield from _flat(found)


def _flat(found: object) -> Iterator[dict[str, Any]]:
    if isinstance(found, list):
        yield from (row for row in found if isinstance(row, dict))
    elif isinstance(found, dict):
        inner = next((found[name] for name in _LISTS if isinstance(found.get(name), list)), None)
        yield from (row for row in inner if isinstance(row, dict)) if inner is not None else (found,)


def _first(row: Mapping[str, Any], *names: str) -> object:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _text(row: Mapping[str, Any], *names: str) -> str:
    found = _first(row, *names)
    return found[:4000] if isinstance(found, str) else ""


def _amount(found: object) -> float | None:
    """A number, or the middle of those in a text such as ``5-10 mm``; None where there is none that is finite."""
    if isinstance(found, bool):
        return None
    if isinstance(found, int | float):
        return float(found) if abs(found) < 1e12 else None
    if isinstance(found, str):
        numbers = [float(each) for each in _NUMBER.findall(re.sub(r"(?<=\d)\s*(?:-|\u2013|to|…)\s*(?=\d)", " ", found[:200]))[:2]]
        if numbers and all(abs(each) < 1e12 for each in numbers):
            return sum(numbers) / len(numbers)
    return None


def _word(found: object, words: Mapping[str, float]) -> float | None:
    if not isinstance(found, str):
        return None
    said = found.casefold()[:60]
    return next((words[name] for name in sorted(words, key=len, reverse=True) if re.search(rf"\b{name}\b", said)), None)


def _gain(found: object, goal: Goal) -> float | None:
    """In the metric's unit: as it is, as a share of what there is now, or by a word as a share of what is missing."""
    amount = _amount(found)
    if amount is not None:
        share = isinstance(found, str) and "%" in found and goal.unit != "%" and goal.now is not None
        return abs(amount) * abs(goal.now or 0.0) / 100 if share else abs(amount)
    share_of = _word(found, _WORDS)
    if share_of is None or goal.now is None:
        return None
    missing = abs(goal.now - goal.target) if goal.target is not None else abs(goal.now) / 4
    return share_of * missing


def _cost(found: object) -> float:
    """Hours of ``4``, ``"2 h"``, ``"1 day"``, ``"30 min"`` or a word."""
    amount = _amount(found)
    if amount is None:
        return _word(found, _COSTS) or _USUAL_COST
    unit = re.search(r"\d\s*-?\s*([a-zA-Z]+)", found) if isinstance(found, str) else None
    scale = next((hours for name, hours in _HOURS if unit and unit[1].casefold().startswith(name)), 1.0)
    return max(_CHEAPEST, abs(amount) * scale)


def _risk(found: object) -> float:
    """A probability of ``0.3``, ``"30%"`` or a word."""
    amount = _amount(found)
    if amount is None:
        return _word(found, _WORDS) or _USUAL_RISK
    return min(0.99, max(0.0, abs(amount) / 100 if abs(amount) > 1 else abs(amount)))


def ranked(found: Sequence[Suggestion], tried: Mapping[str, Sequence[Tried]]) -> list[Suggestion]:
    """By expected gain per hour, the best first; what was tried before (by title) counts for less and says so."""
    known = sorted(item.gain for item in found if item.gain is not None)
    usual = known[len(known) // 4] if known else 1.0  # who says nothing of the gain does not come before those who do
    rows = []
    for item in found:
        again = tried.get(item.title, ())
        gain = usual if item.gain is None else item.gain
        less = min((_AGAIN.get(each.kind, 1.0) for each in again), default=1.0)
        worth = less * gain * (1 - item.risk) / max(_CHEAPEST, item.cost)
        rows.append(replace(item, worth=worth, before=tuple(_again(each) for each in again)))
    return sorted(rows, key=lambda item: -item.worth)


def _again(each: Tried) -> str:
    return f"{each.name} {one_line(each.what, 100)}" + (f" ({one_line(each.result, 80)})" if each.result else "")


def similar(one: str, other: str) -> bool:
    """Whether two short texts speak of the same change: most of the telling words of the shorter one stand in the other."""
    left, right = _stems(one), _stems(other)
    few = min(left, right, key=len)
    both = len(left & right)
    return both >= min(2, len(few)) and bool(few) and both >= 0.6 * min(len(few), 8)


def _stems(text: str) -> set[str]:
    """The telling words of a text, without their endings."""
    words = (word for word in _WORD.findall(text[:600].casefold()) if word not in _PLAIN and len(word) > 1)
    return {re.sub(r"(?:ing|ed|es|s|ation|e)$", "", word) if len(word) > 4 else word for word in words}
