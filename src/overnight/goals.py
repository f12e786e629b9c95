"""A goal in one sentence: which metric, where it stands, what is wanted, and which way is better. Pure: reads the sentence alone.

``improve 3D pose accuracy, currently MPJPE 48 mm, target < 25 mm`` and its like. What the sentence does not say is left empty; it is
for the caller to complete it from settings and to say what was understood.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from overnight.printable import number
from overnight.printed import guess_direction

LONGEST = 2000  # characters of a sentence
_UNIT_WORDS = """
    % mm cm m km um µm nm px pixel pixels deg ° rad ms s sec secs second seconds min mins minute minutes h hour hours us µs ns hz khz db dB bits bpb nats
    k K M G B kB MB GB TB mb gb tb fps qps w kw j kj wh kwh points pp pt percent
"""
_UNITS = frozenset(_UNIT_WORDS.split())
_TOKEN = re.compile(
    r"(?P<arrow>->|=>|→|⇒)|(?P<sign><=|>=|=<|≤|≥|<|>)|(?P<quoted>`[^`\n]{1,80}`)"
    r"|(?<![\w.])(?P<number>[-+\u2212]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?)(?P<unit>%|°|[A-Za-zµ]{1,8})?(?![\w.]*\w)"
    r"|(?P<percent>%)|(?P<word>[^\W\d][\w./@-]*|\d[\w./-]*[^\W\d][\w./-]*)|(?P<stop>[,;:.!?()=])"
)
_LESS = {"<", "<=", "=<", "≤", "below", "under", "less", "lower", "beneath", "most", "smaller", "within"}  # most: of "at most"
_MORE = {
    ">",
    ">=",
    "≥",
    "above",
    "over",
    "more",
    "higher",
    "least",
    "exceed",
    "exceeds",
    "exceeding",
    "beyond",
    "beat",
    "beating",
    "greater",
}
_NOW = {
    "currently",
    "current",
    "now",
    "today",
    "from",
    "was",
    "were",
    "baseline",
    "starting",
    "presently",
    "achieved",
    "stands",
    "previously",
}
_WANTED = {
    "target", "goal", "aim", "objective", "to", "until", "reach", "reaches", "reaching", "hit", "want", "wanted", "need", "get", "achieve", "till", "become",
    "->", "=>", "→", "⇒", "aiming",
}  # fmt: skip
_BY = {"by"}
_EMPTY = {
    "a", "an", "and", "are", "as", "at", "be", "down", "for", "get", "has", "have", "in", "is", "it", "its", "of", "on", "or", "our", "than", "that", "the",
    "their", "this", "up", "value", "we", "with", "score", "should", "about", "around", "roughly", "some", "my", "best", "so", "far", "equal", "mean", "average",
}  # fmt: skip
_DOWN = re.compile(r"(?:reduc|lower|decreas|minimi[sz]|shrink|cut|drop|bring down)\w*", re.IGNORECASE)
_UP = re.compile(r"(?:increas|rais|maximi[sz]|boost|grow)\w*", re.IGNORECASE)
_NO_NAMES = _EMPTY | _NOW | _WANTED | _LESS | _MORE | _BY


@dataclass(frozen=True, slots=True)
class Goal:
    """What a sentence says. ``metric`` is named as in the sentence; None or empty = not said. ``direction``: minimize or maximize."""

    text: str
    metric: str = ""
    now: float | None = None
    target: float | None = None
    unit: str = ""
    direction: str = ""

    def told(self) -> str:
        """What was understood: ``MPJPE, now 48 mm, target 25 mm, lower is better``."""
        unit = f" {self.unit}" if self.unit and self.unit not in "%°" else self.unit
        parts = [self.metric or "no metric"]
        parts += [f"now {number(self.now)}{unit}"] if self.now is not None else []
        parts += [f"target {number(self.target)}{unit}"] if self.target is not None else []
        parts += [f"{'lower' if self.direction == 'minimize' else 'higher'} is better"] if self.direction else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class _Part:
    """One token: its kind, its words in lower case, and for a number its value and unit."""

    kind: str
    text: str
    raw: str
    value: float = math.nan
    unit: str = ""


@dataclass(slots=True)
class _Found:
    """One number with what stands around it. ``role``: now, target, by or empty."""

    value: float
    unit: str
    role: str = ""
    way: str = ""
    name: str = ""


def read(sentence: str, known: Collection[str] = ()) -> Goal:
    """What ``sentence`` says; ``known`` are names of metrics that the code prints, to which a name that fits is completed."""
    text = " ".join(sentence[:LONGEST].split())
    parts = _parts(text)
    found = _numbers(parts, known)
    now = next((item for item in found if item.role == "now"), None)
    target = _target(found)
    if now is None and target is not None:  # 48 -> 25
        now = next((item for item in found if not item.role and item is not target), None)
    metric = _metric(parts, [item for item in (now, target) if item is not None], known)
    if now is not None and target is not None and now.unit and target.unit and now.unit != target.unit:
        now = None  # 4.8 cm, wanted 25 mm: one of them would be told in the wrong unit
    unit = next((item.unit for item in (target, now) if item is not None and item.unit), "")
    direction = _direction(parts, now, target, metric)
    return Goal(text, metric, now.value if now else None, target.value if target else None, unit, direction)


def completed(metric: str, known: Collection[str]) -> str:
    """The one of the ``known`` names that is meant by ``metric``: the same but for case, or the only one that has it as a part."""
    if not metric or metric in known:
        return metric
    wanted = _letters(metric)
    same = [name for name in known if _letters(name) == wanted]
    parts = [name for name in known if wanted in {_letters(part) for part in re.split(r"[_./@-]", name)}]
    return same[0] if same else parts[0] if len(parts) == 1 else metric


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def _parts(text: str) -> list[_Part]:
    found: list[_Part] = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        kind = "number" if match["number"] else kind
        raw = match[0]
        if kind == "number":
            unit = match["unit"] or ""
            value = float(match["number"].replace(",", "").replace("\u2212", "-"))
            if (unit and unit not in _UNITS) or not math.isfinite(value):
                kind = "word"  # 3D, 2x, 1080p
                found.append(_Part(kind, raw.lower(), raw))
            else:
                found.append(_Part(kind, raw.lower(), raw, value, unit))
        elif kind in ("word", "percent") and found and found[-1].kind == "number" and not found[-1].unit and raw in _UNITS:
            found[-1] = replace(found[-1], unit=raw)
        else:
            found.append(_Part(kind, raw.strip("`").lower() if kind == "quoted" else raw.lower().rstrip(".-/"), raw.strip("`")))
    return [replace(part, unit="%") if part.unit == "percent" else part for part in found]


def _numbers(parts: Sequence[_Part], known: Collection[str]) -> list[_Found]:
    """Every number with its role by the words before it, nearest first, up to the number before."""
    found = []
    for at, part in enumerate(parts):
        if part.kind != "number":
            continue
        item = _Found(part.value, part.unit)
        for before in reversed(parts[:at]):
            if before.kind == "number" or item.role:
                break
            _learn(item, before)
        _look_behind(item, parts[at + 1 : at + 3])
        around = parts[:at][::-1]
        item.name = next((each.raw for each in around if _names(each, known)), next((each.raw for each in around if _is_capital(each)), ""))
        found.append(item)
    return found


def _learn(item: _Found, before: _Part) -> None:
    word = before.text
    if word in _NOW:
        item.role = "now"
    elif word in _BY:
        item.role = item.role or "by"
    elif word in _WANTED:
        item.role = "target"
    elif word in _LESS | _MORE and not item.way:
        item.way = "minimize" if word in _LESS else "maximize"


def _look_behind(item: _Found, behind: Sequence[_Part]) -> None:
    """``48 mm now``, ``95% target``, ``0.5 or less``: what follows a number may say more than what stands before it."""
    words = [part.text for part in behind if part.kind in ("word", "stop")]
    if words[:1] and words[0] in ("now", "today", "currently", "presently"):
        item.role = "now"
    elif words[:1] and words[0] in ("target", "goal"):
        item.role = "target"
    elif len(words) > 1 and words[0] in ("or", "and") and words[1] in _LESS | _MORE:
        item.way = "minimize" if words[1] in _LESS else "maximize"


def _target(found: Sequence[_Found]) -> _Found | None:
    """The number that is wanted: the last one that is called so, else the last that is compared with."""
    named = [item for item in found if item.role == "target"]
    compared = [item for item in found if not item.role and item.way]
    return (named or compared)[-1] if named or compared else None


def _names(part: _Part, known: Collection[str]) -> bool:
    """Whether a word is surely the name of a metric: quoted, printed by the code, with an underscore, or of known direction."""
    if part.kind == "quoted":
        return True
    if part.kind != "word" or part.text in _NO_NAMES:
        return False
    return completed(part.raw, known) in known or "_" in part.raw or bool(guess_direction(part.raw))


def _is_capital(part: _Part) -> bool:
    """Whether a word may be a name, if there is no better one."""
    return part.kind == "word" and bool(re.fullmatch(r"[A-Z][A-Z0-9@-]+[A-Z0-9]", part.raw))


def _metric(parts: Sequence[_Part], numbers: Sequence[_Found], known: Collection[str]) -> str:
    for item in numbers:
        if item.name:
            return completed(item.name.rstrip(".-/"), known)
    likely = [part.raw for part in parts if _names(part, known)] or [part.raw for part in parts if _is_capital(part)]
    printed = [name for name in likely if completed(name, known) in known]
    return completed((printed or likely or [""])[0].rstrip(".-/"), known)


def _direction(parts: Sequence[_Part], now: _Found | None, target: _Found | None, metric: str) -> str:
    if target is not None and target.way:
        return target.way
    if now is not None and target is not None and now.value != target.value:
        return "minimize" if target.value < now.value else "maximize"
    return _verb(parts) or guess_direction(metric)


def _verb(parts: Sequence[_Part]) -> str:
    for part in parts:
        if part.kind == "word" and _DOWN.fullmatch(part.text):
            return "minimize"
        if part.kind == "word" and _UP.fullmatch(part.text):
            return "maximize"
    return ""
