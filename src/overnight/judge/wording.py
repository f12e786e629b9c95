"""What a verdict under noise says: the measured difference, what is expected of it once luck is allowed for, how sure that is, what follows.

One shape for every decision. Knows figures only; must not know how they came about.
"""

from __future__ import annotations

from dataclasses import dataclass

from overnight.judge.records import Action, Node

_EXPECTED = "; allowing for luck"
_FOLLOWS = {
    Action.KEEP: "sure enough to keep",
    Action.PROVISIONAL: "likely enough to keep, not confirmed",
    Action.NEAR_MISS: "not sure enough to keep",
    Action.DISCARD: "too unlikely to keep",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """A measured difference, more is better, and its sd."""

    seen: float
    sd: float


def measured(found: Difference, candidate: Node, incumbent: Node) -> str:
    """``better than #4 by 0.0096 ± 0.008 measured (1 against 3 runs, same seeds)``."""
    count, other = len(candidate.values), len(incumbent.values)
    runs = f"{count} {'runs' if count > 1 else 'run'} each" if count == other else f"{count} against {other} runs"
    seeds = ", same seeds" if {run.seed for run in candidate.runs} <= {run.seed for run in incumbent.runs} else ""
    word = "better" if found.seen >= 0 else "worse"
    return f"{word} than #{incumbent.number} by {abs(found.seen):.3g} ± {found.sd:.2g} measured ({runs}{seeds})"


def expected(gain: float, p: float, least: float = 0.0, source: str = "") -> str:
    """``; allowing for luck a gain of 0.0021 is expected, P = 0.40 that it is better``: what is believed after shrinkage."""
    return f"{_EXPECTED}{source} {believed(gain, p, least)}"


def believed(gain: float, p: float, least: float = 0.0) -> str:
    """``a gain of 0.0021 is expected, P = 0.40 that it is better``, by more than ``least`` if that is above 0."""
    return f"a gain of {gain:.2g} is expected, P = {p:.2f} that it is better" + (f" by more than {least:.3g}" if least else "")


def follows(action: Action, *, outweighed: str = "") -> str:
    """``; not sure enough to keep``; ``outweighed`` names what a likely improvement costs too much of."""
    return f"; not worth its {outweighed}" if outweighed else f"; {_FOLLOWS[action]}"


def without_belief(cause: str) -> str:
    """The measured part alone."""
    return cause.partition(_EXPECTED)[0]
