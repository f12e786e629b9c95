"""What an observed difference says about the true one: a prior of null, good and bad edits, and its exact posterior.

Pure arithmetic on floats. Effects d are oriented (more is better) and in any one unit; a prior is a list of weights over rungs:
rung 0 is no effect at all, a rung s > 0 a normal of mean s and sd s/2 above zero, a rung s < 0 a half-normal of scale s below.
A normal likelihood times a cut normal is a cut normal, so that every figure is in closed form. Method: adaptive shrinkage,
Stephens 2016; good rungs stand off zero because edits that help by next to nothing are of no interest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_ROOT2 = math.sqrt(2.0)
_FAR = 1e6  # in sd of the error: further out nothing changes any more
_LOG_HALF = math.log(0.5)
_LOG_ROOT_2PI = 0.5 * math.log(2.0 * math.pi)


def below(x: float) -> float:
    """The share of a standard normal below ``x``."""
    return 0.5 * math.erfc(-x / _ROOT2)


def log_below(x: float) -> float:
    """The logarithm of ``below``; by its asymptotic series far out (Abramowitz and Stegun 26.2.12)."""
    if x > -12:
        return math.log(0.5 * math.erfc(-x / _ROOT2))
    return -0.5 * x * x - math.log(-x) - _LOG_ROOT_2PI - 1 / (x * x)


_LOG_BELOW_2 = log_below(2.0)


def log_density(x: float, var: float) -> float:
    """The logarithm of a centred normal density."""
    return -0.5 * x * x / var - 0.5 * math.log(var) - _LOG_ROOT_2PI


@dataclass(frozen=True, slots=True)
class Part:
    """One rung's share of a posterior: a normal (mean, sd) cut at zero on the side of ``sign``; ``sign`` 0 = exactly zero."""

    weight: float
    sign: int
    mean: float = 0.0
    sd: float = 0.0

    def moments(self) -> tuple[float, float]:
        """Mean and second moment."""
        if not self.sign:
            return 0.0, 0.0
        a = self.sign * self.mean / self.sd
        hazard = math.exp(-0.5 * a * a - _LOG_ROOT_2PI - log_below(a))
        first = self.sd * max(a + hazard, 0.0)  # of the mirrored variable, above zero
        second = self.sd**2 * max(1 + a * (a + hazard), 0.0)
        return self.sign * first, second

    def above(self, delta: float) -> float:
        """The share of this part above ``delta``."""
        if not self.sign:
            return 1.0 if delta < 0 else 0.0
        if self.sign > 0:
            return 1.0 if delta <= 0 else math.exp(min(0.0, log_below((self.mean - delta) / self.sd) - log_below(self.mean / self.sd)))
        if delta >= 0:
            return 0.0
        return 1.0 - math.exp(min(0.0, log_below((delta - self.mean) / self.sd) - log_below(-self.mean / self.sd)))


@dataclass(frozen=True, slots=True)
class Posterior:
    """The true difference, given what was seen. ``evidence`` is the log density of what was seen."""

    parts: tuple[Part, ...]
    mean: float
    var: float
    evidence: float

    def above(self, delta: float) -> float:
        """P(d > delta)."""
        return min(1.0, math.fsum(part.weight * part.above(delta) for part in self.parts))

    def by_rung(self, rungs: int) -> list[float]:
        """The weight of each rung, summed over the hypotheses that ``gather`` took in one after another."""
        return [math.fsum(part.weight for part in self.parts[i::rungs]) for i in range(rungs)]

    def quantile(self, share: float) -> float:
        """The d below which ``share`` of the posterior lies, by bisection, to a thousandth of its sd."""
        reach = 8 * math.sqrt(self.var) + 1e-300
        low, high = self.mean - reach, self.mean + reach
        bulk = [part for part in self.parts if part.weight > 1e-3]
        whole = math.fsum(part.weight for part in bulk)
        for _ in range(14):
            middle = 0.5 * (low + high)
            above = math.fsum(part.weight * part.above(middle) for part in bulk)
            low, high = (middle, high) if whole - above < share * whole else (low, middle)
        return 0.5 * (low + high)


def posterior(seen: float, var: float, scales: Sequence[float], counts: Sequence[float], unit: float) -> Posterior:
    """What a difference ``seen`` with error variance ``var`` says, under rungs ``scales`` (times ``unit``) met ``counts`` times."""
    total = math.log(math.fsum(counts))
    seen = max(-_FAR * math.sqrt(var), min(_FAR * math.sqrt(var), seen))
    rows: list[tuple[float, int, float, float]] = []
    for scale, count in zip(scales, counts, strict=True):
        logw = math.log(max(count, 1e-9)) - total
        if scale == 0:
            rows.append((logw + log_density(seen, var), 0, 0.0, 0.0))
            continue
        sign, centre, spread = (1, scale * unit, (0.5 * scale * unit) ** 2) if scale > 0 else (-1, 0.0, (scale * unit) ** 2)
        wide = var + spread
        mean, sd = (seen * spread + centre * var) / wide, math.sqrt(var * spread / wide)
        logw += log_density(seen - centre, wide) + log_below(sign * mean / sd)
        rows.append((logw - (_LOG_BELOW_2 if scale > 0 else _LOG_HALF), sign, mean, sd))
    return gather(rows)


def gather(rows: Sequence[tuple[float, int, float, float]]) -> Posterior:
    """The posterior of parts given as (log weight, sign, mean, sd)."""
    top = max(row[0] for row in rows)
    weights = [math.exp(row[0] - top) for row in rows]
    total = math.fsum(weights)
    parts = tuple(Part(weight / total, sign, mean, sd) for weight, (_, sign, mean, sd) in zip(weights, rows, strict=True))
    first = second = 0.0
    for part in parts:
        if part.weight > 1e-7 and part.sign:
            m1, m2 = part.moments()
            first += part.weight * m1
            second += part.weight * m2
    return Posterior(parts, first, max(second - first * first, 0.0), top + math.log(total))
