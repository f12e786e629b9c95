"""Waves: several waiting edits crossed in one factorial design, and what its runs say of each of them and of the best subset.

Pure. k edits take k runs that hold half of them each, and one more run of the parent. Method: Plackett and Burman 1946; the
effects are shrunk by the same prior as single edits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from overnight.judge.mixture import below
from overnight.judge.noise import variance
from overnight.judge.policies import plackett_burman, wave_effects
from overnight.judge.records import Action, Knowledge, Profile, Verdict
from overnight.judge.wording import expected, follows, without_belief

_SUPPORTED = 0.7  # P of an edit that is taken along
_SURE: dict[Profile, float] = {"fast": 0.85, "balanced": 0.9, "strict": 0.95}
_ROOM = 2  # a wave may take this share of the runs that are left: one half
_SIZES = (11, 7, 3)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a wave says: P of each edit, and the edits it supports with their common gain, oriented, and its variance."""

    chances: tuple[float, ...]
    subset: tuple[int, ...]
    gain: float = 0.0
    var: float = 0.0

    @property
    def p(self) -> float:
        """P that the subset is better than the parent."""
        return below(self.gain / math.sqrt(self.var)) if self.var > 0 else 0.0


def wave_target(runs_left: float) -> int:
    """How many edits the next wave should hold, so that it takes at most half of the runs that are left; 0 = too few are left."""
    return next((size for size in _SIZES if _ROOM * (size + 2) <= runs_left), 3 if runs_left >= 5 else 0)


def rows(edits: int) -> tuple[tuple[int, ...], ...]:
    """The edits that each run holds, by place; the run of the parent alone is not among them."""
    return tuple(tuple(at for at, held in enumerate(row) if held) for row in plackett_burman(edits)[:-1])


def outcome(values: Sequence[float], parent: float, knowledge: Knowledge) -> Outcome:
    """From the oriented values of the wave's runs, in the order of ``rows``, and of the parent's own run."""
    design, var = plackett_burman(len(values)), variance(knowledge)
    effects = wave_effects([*values, parent], design, knowledge, var)
    subset = tuple(at for at, (gain, p) in enumerate(effects) if p >= _SUPPORTED and gain > 0)
    error = 4 * var / len(design)  # of one effect: two means of half of the runs each
    gain = math.fsum(effects[at][0] for at in subset)
    return Outcome(tuple(p for _, p in effects), subset, gain, error * len(subset))


def kept(found: Outcome, cause: str, profile: Profile) -> Verdict:
    """The verdict on a run of the wave that holds just what the wave supports."""
    reach = 1.645 * math.sqrt(found.var)
    action = Action.KEEP if found.p >= _SURE[profile] else Action.DISCARD if profile == "strict" else Action.PROVISIONAL
    return Verdict(action, cause, found.p, found.gain, found.gain - reach, found.gain + reach)


def with_wave(verdict: Verdict, gain: float, var: float, profile: Profile) -> Verdict:
    """The verdict on a run of the supported edits together, with what the wave had said of them beforehand as its prior."""
    if verdict.action is Action.CRASH or verdict.seen_var <= 0 or var <= 0:
        return verdict
    weight = 1 / var + 1 / verdict.seen_var
    mean, sd = (gain / var + verdict.seen / verdict.seen_var) / weight, weight**-0.5
    p = below(mean / sd)
    unsure = Action.PROVISIONAL if p >= 0.5 and profile != "strict" else Action.NEAR_MISS
    action = Action.KEEP if p >= _SURE[profile] else unsure
    cause = without_belief(verdict.cause) + expected(mean, p, source=" and with the wave's own runs") + follows(action)
    return replace(verdict, action=action, cause=cause, p=p, gain=mean, low=mean - 1.645 * sd, high=mean + 1.645 * sd)
