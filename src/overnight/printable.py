"""Making foreign text harmless before a person, a table or a model sees it. Pure.

Output of runs and words of agents can hold terminal escapes, bidirectional overrides and formulas; the raw bytes stay on disk.
"""

from __future__ import annotations

import math
import re
import unicodedata
from datetime import UTC, datetime

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\r\n]*(?:\x07|\x1b\\)?|[@-Z\\-_]|.)?|\x9b[0-?]*[ -/]*[@-~]", re.DOTALL)
# Controls, lone surrogates, line and paragraph separators; and what turns the direction of writing.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")
_BLANKS = "\n\r\t\v\f\u2028\u2029"


def clean(text: str, *, lines: bool = False, limit: int = 0) -> str:
    """``text`` without escapes and control characters, bidirectional controls shown as ``<U+202E>``; ``lines`` keeps line ends and tabs."""
    if not (text.isascii() and text.isprintable()):
        text = _UNFIT.sub(_as_is if lines else _as_blank, _ESCAPES.sub("", text))
    return text if not limit or len(text) <= limit else text[: limit - 1] + "…"


def _as_is(found: re.Match[str]) -> str:
    return found[0] if found[0] in "\n\t" else _as_blank(found)


def _as_blank(found: re.Match[str]) -> str:
    letter = found[0]
    if letter in _BLANKS:
        return " "
    code = ord(letter)
    return "" if unicodedata.category(letter) in ("Cc", "Cs") else f"<U+{code:04X}>"


def one_line(text: str, limit: int = 200) -> str:
    """``text`` on one line, blanks collapsed, at most ``limit`` characters."""
    return clean(" ".join(clean(text, lines=True).split()), limit=limit)


def number(value: float | None, digits: int = 6) -> str:
    """A metric for people: up to ``digits`` significant figures, whole numbers in full, ``—`` for none."""
    if value is None:
        return "—"
    if abs(value) < 1e15 and value == int(value):
        return str(int(value))
    return f"{value:.{digits}g}"


def moment(when: float | None) -> str | None:
    """ISO 8601 in UTC."""
    return None if when is None else datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sensible(value: float, noise: float | None) -> float:
    """``value`` without the figures that a noise of this standard deviation drowns: to a tenth of its first figure at most."""
    if not noise or not math.isfinite(noise) or not math.isfinite(value):
        return value
    return round(value, max(0, 1 - math.floor(math.log10(noise))))


def duration(seconds: float) -> str:
    """``8h34m``, ``3m02s``, ``41 s`` or ``0.4 s``; ``—`` for what is no duration."""
    if not 0 <= seconds < math.inf:
        return "—"
    whole = int(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
