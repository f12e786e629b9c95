"""Keep, discard or crash: a pure function of what was measured, what it has to beat and the study's rules.

No clock, no disk, no history beyond its arguments: every decision can be replayed from the record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from overnight.models import Decision, Direction


@dataclass(frozen=True, slots=True)
class Rules:
    """What the study asks of a keep. Memory in GB, 0 = no limit."""

    direction: Direction
    min_delta: float = 0.0
    memory_soft: float = 0.0
    memory_hard: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What one experiment showed: ``value`` is None exactly if ``failure`` says why."""

    value: float | None
    memory_gb: float = 0.0
    lines: int = 0  # of code, in all editable files
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Incumbent:
    """The best experiment so far; ``bar`` is the value to beat (the best of all that were kept)."""

    number: int
    bar: float
    lines: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision, its cause in words and numbers, and the bar from now on (None = unchanged)."""

    decision: Decision
    cause: str
    bar: float | None = None


def decide(found: Measured, incumbent: Incumbent | None, rules: Rules) -> Verdict:
    """The verdict on one experiment; ``incumbent`` is None for the baseline.

    Equal or worse is a discard, unless the result is equal within ``min_delta`` and the code is shorter: then it is a keep.
    """
    if found.value is None or not math.isfinite(found.value):
        return Verdict(Decision.CRASH, found.failure or f"the metric is {found.value}")
    if rules.memory_hard and found.memory_gb > rules.memory_hard:
        return Verdict(Decision.DISCARD, f"needs {found.memory_gb:.1f} GB, above the hard limit of {rules.memory_hard:.1f} GB")
    if incumbent is None:
        return Verdict(Decision.KEEP, "baseline", found.value)
    gain = rules.direction.gain(found.value, incumbent.bar)
    needed, why = _needed(found, incumbent, rules)
    if gain > needed:
        return Verdict(Decision.KEEP, f"better than #{incumbent.number} by {gain:.6g}", found.value)
    saved = incumbent.lines - found.lines
    if abs(gain) <= rules.min_delta and saved > 0 and not why:
        bar = found.value if gain > 0 else incumbent.bar
        return Verdict(Decision.KEEP, f"equal to #{incumbent.number} with {saved} fewer {'lines' if saved > 1 else 'line'} of code", bar)
    if gain > 0:
        return Verdict(Decision.DISCARD, f"better than #{incumbent.number} by {gain:.6g}, which is not more than {needed:.6g}{why}")
    if gain == 0:
        return Verdict(Decision.DISCARD, f"equal to #{incumbent.number}")
    return Verdict(Decision.DISCARD, f"worse than #{incumbent.number} by {-gain:.6g}")


def _needed(found: Measured, incumbent: Incumbent, rules: Rules) -> tuple[float, str]:
    """The gain that a keep needs: above the soft memory limit, each tenth over asks for one more percent of the bar."""
    if not rules.memory_soft or found.memory_gb <= rules.memory_soft:
        return rules.min_delta, ""
    over = found.memory_gb / rules.memory_soft - 1
    needed = rules.min_delta + over * 0.1 * abs(incumbent.bar)
    return needed, f" (asked of a run that needs {found.memory_gb:.1f} GB, above the soft limit of {rules.memory_soft:.1f} GB)"


def code_lines(files: Mapping[str, bytes]) -> int:
    """Lines that are neither blank nor a comment, over all files: the measure of the simplicity rule."""
    return sum(1 for content in files.values() for line in content.splitlines() if (text := line.strip()) and not text.startswith(b"#"))
