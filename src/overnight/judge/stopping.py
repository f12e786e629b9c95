"""Ending a run before its time: sick runs always, clear losers against the incumbent's own curve, or the lower half of a broad search.

Pure functions of curves [(step, value)], in order of step. Off-the-shelf pruners kill most true improvements of a good incumbent:
two curves of near-equal quality cross until late. The envelope therefore only ends what lies far outside, twice in a row.
A run that was ended early is never kept.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

Curve = Sequence[tuple[float, float]]

_FROM = 0.15  # of the budget: before it no curve says anything
_FIRST, _SECOND = 4.0, 3.0  # sd below the incumbent's curve, on two reports in a row
_SPARED = 0.05  # of the runs that would be ended go on, to count wrong kills
_SICK = 3.0  # times the loss at the start


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run is to be ended, and at which step it was seen. ``spared``: let it go on, and write down how it ends."""

    reason: str
    step: float
    spared: bool = False


def health(curve: Curve, silent: float = 0.0, patience: float = 0.0, *, loss: bool = True) -> Stop | None:
    """A run that is of no use to anybody: not finite, silent for ``patience`` seconds (0 = any), three times its first loss."""
    for step, value in curve:
        if not math.isfinite(value):
            return Stop(f"the metric is {value} at step {step:g}", step)
    last = curve[-1] if curve else (0.0, 0.0)
    if 0 < patience <= silent:
        return Stop(f"silent for {silent:.0f} s", last[0])
    if loss and len(curve) > 2 and curve[0][1] > 0 and last[1] > _SICK * curve[0][1] and curve[-2][1] > _SICK * curve[0][1]:
        return Stop(f"the loss is {last[1]:.3g}, more than three times the {curve[0][1]:.3g} it began with", last[0])
    return None


def at(curve: Curve, step: float) -> float | None:
    """The curve's value at ``step``, between reports on a straight line; None outside it."""
    if not curve or step < curve[0][0] or step > curve[-1][0]:
        return None
    i = bisect_left(curve, step, key=lambda point: point[0])
    if curve[i][0] == step or i == 0:
        return curve[i][1]
    (x0, y0), (x1, y1) = curve[i - 1], curve[i]
    return y0 + (y1 - y0) * (step - x0) / (x1 - x0)


def envelope(curve: Curve, incumbents: Sequence[Curve], total: float, sd: float, sign: float = 1.0) -> Stop | None:
    """A run far below the incumbent's own curves: by 4 then 3 sd (or more) on two reports in a row, after 15 % of ``total`` steps.

    ``incumbents``: the curves of the incumbent's runs; ``sd``: of one run at its end, in the metric's units; ``sign``: 1 when
    more is better, -1 when less is. The sd at a step is that between the incumbent's runs there, and never below ``sd``.
    """
    if not incumbents or total <= 0 or sd <= 0:
        return None
    before = 0.0
    for step, value in curve:
        theirs = [found for found in (at(other, step) for other in incumbents) if found is not None and math.isfinite(found)]
        if not theirs or step < _FROM * total:
            before = 0.0
            continue
        middle = math.fsum(theirs) / len(theirs)
        between = math.fsum((other - middle) ** 2 for other in theirs) / max(len(theirs) - 1, 1)
        wide = math.sqrt(max(between, 0.5 * sd * sd) * (1 + 1 / len(theirs)))
        behind = sign * (middle - value) / wide
        if before >= _FIRST and behind >= _SECOND:
            return Stop(f"{behind:.1f} sd behind the best run's curve at step {step:g}, {before:.1f} before that", step)
        before = behind
    return None


def asha(curve: Curve, others: Sequence[Curve], total: float, sign: float = 1.0, eta: int = 3) -> Stop | None:
    """A run outside the best 1/eta at the last rung it has passed, of ``total``/eta^k (Li et al. 2020, stopping form). For broad search."""
    if not curve or total <= 0:
        return None
    reached = curve[-1][0]
    rungs = [total / eta**k for k in range(4, 0, -1) if total / eta**k <= reached]
    for rung in reversed(rungs):
        own = at(curve, rung)
        theirs = [found for found in (at(other, rung) for other in others) if found is not None and math.isfinite(found)]
        if own is None or len(theirs) + 1 < eta:
            continue
        ahead = sum(sign * other > sign * own for other in theirs)
        if ahead >= (len(theirs) + 1) / eta:
            return Stop(f"{ahead + 1} of {len(theirs) + 1} at step {rung:g}", rung)
        return None
    return None


def spared(number: int, seed: int) -> bool:
    """Whether this run is one of the 5 % that go on although they would be ended; a function of its number alone."""
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < _SPARED * 2**32
