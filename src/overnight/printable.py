"""Making foreign text harmless before a person, a table or a model sees it. Pure.

Output of runs and words of agents can hold terminal escapes, bidirectional overrides and formulas; the raw bytes stay on disk.
"""

from __future__ import annotations

import re
import unicodedata

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_]|.)?|\x9b[0-?]*[ -/]*[@-~]", re.DOTALL)
_BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}


def clean(text: str, *, lines: bool = False, limit: int = 0) -> str:
    """``text`` without escapes and control characters, bidirectional controls shown as ``<U+202E>``; ``lines`` keeps line ends and tabs."""
    kept = []
    for letter in _ESCAPES.sub("", text):
        code = ord(letter)
        if code in _BIDI:
            kept.append(f"<U+{code:04X}>")
        elif unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp"):
            kept.append(letter if lines and letter in "\n\t" else " " if letter in "\n\r\t\v\f\u2028\u2029" else "")
        else:
            kept.append(letter)
    found = "".join(kept)
    return found if not limit or len(found) <= limit else found[: limit - 1] + "…"


def one_line(text: str, limit: int = 200) -> str:
    """``text`` on one line, blanks collapsed, at most ``limit`` characters."""
    return clean(" ".join(clean(text, lines=True).split()), limit=limit)


def number(value: float | None, digits: int = 6) -> str:
    """A metric for people: up to ``digits`` significant figures after the point, ``—`` for none."""
    if value is None:
        return "—"
    return (
        f"{value:.{digits}g}"
        if abs(value) >= 10**digits or (value and abs(value) < 1e-4)
        else f"{value:.{max(0, digits - len(str(int(abs(value)))))}f}".rstrip("0").rstrip(".") or "0"
    )


def duration(seconds: float) -> str:
    """``8h34m``, ``3m02s``, ``41 s`` or ``0.4 s``."""
    whole = int(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
