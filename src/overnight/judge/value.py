"""What one more run is worth: the gain that it can be expected to add by changing the decision.

Pure. A further run is a further look at the same difference; the value is the mean over what it may show, by quadrature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from overnight.judge.mixture import Posterior, log_density, posterior
from overnight.judge.records import SCALES, Knowledge

_POINTS = 11
_REACH = 2.8


@dataclass(frozen=True, slots=True)
class Stake:
    """What a keep needs and what it brings, in the metric's units, oriented."""

    delta: float  # the least improvement that counts
    cost: float  # of complexity and memory: E[d] has to exceed it
    floor: float  # P for a keep of any kind
    sure: float  # P for a plain keep
    saved: bool  # less code
    equal: float  # how much worse is still equal
    equal_p: float
    saving: float  # what the shorter code is worth
    shame: float  # what a keep that is none costs, beyond what it fails to bring

    def choice(self, after: Posterior) -> str | None:
        """``sure``, ``likely`` or ``shorter`` for a keep, None for a discard."""
        p = after.above(self.delta)
        if after.mean > self.cost and p >= self.floor:
            return "sure" if p >= self.sure else "likely"
        if self.saved and after.above(-self.equal) >= self.equal_p:
            return "shorter"
        return None

    def gain(self, after: Posterior) -> float:
        """What the best decision brings."""
        kind = self.choice(after)
        if kind is None:
            return 0.0
        doubt = 0.0 if kind == "shorter" else 1 - after.above(self.delta)
        return max(after.mean - self.cost + self.saving - self.shame * doubt, 0.0)


def worth(seen: float, var: float, later_var: float, stake: Stake, knowledge: Knowledge) -> float:
    """The expected gain of deciding when the error variance has gone from ``var`` to ``later_var``, over deciding now."""
    more = 1 / later_var - 1 / var  # the precision that is added
    if more <= 0:
        return 0.0
    after = posterior(seen, var, SCALES, knowledge.counts, knowledge.scale)
    spread = math.sqrt(after.var + 1 / more)
    total = value = 0.0
    for i in range(_POINTS):
        shown = after.mean + spread * _REACH * (2 * i / (_POINTS - 1) - 1)
        later_seen = later_var * (seen / var + shown * more)
        later = posterior(later_seen, later_var, SCALES, knowledge.counts, knowledge.scale)
        weight = math.exp(min(log_density(shown - seen, var + 1 / more) + later.evidence - after.evidence, 600.0))
        total += weight
        value += weight * stake.gain(later)
    return max(0.0, value / total - stake.gain(after)) if total > 0 else 0.0
