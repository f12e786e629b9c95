"""Looking back: which keeps to run again, what the night gained, and how much of it to believe.

Pure. An audit runs nodes again on seeds that no decision has seen; its runs are marked ``check`` and are what a report stands on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from overnight.judge.judging import level_of
from overnight.judge.noise import correlation, outliers, pooled, variance
from overnight.judge.records import Action, Budget, Knowledge, Node, Rules

EVERY = 25  # runs between two audits
SHARE = 0.1  # of all runs, at most, are spent on them
CONFIRMED = 0.9  # P from which a keep is confirmed
REFUTED = 0.2  # P up to which it is taken back: four to one that it is no improvement
ANCHOR = 20  # runs between two runs of the best version that tie classes of machines together
_FINALISTS = 3
_MODEL = 0.1  # of the variance of one run: what the posterior of a gain leaves out, for prior and tails are never quite those assumed
_AUDIT_SEED = 100_003  # added to the study's seed: no panel and no candidate comes near


@dataclass(frozen=True, slots=True)
class Keep:
    """One keep, as the record has it."""

    node: Node
    action: Action
    p: float


@dataclass(frozen=True, slots=True)
class Report:
    """The gain of one node over the baseline in the metric's units (more is better), with its 90 % interval."""

    gain: float
    low: float
    high: float
    fresh: int  # runs in it that no decision was made on; 0 = the figure is the posterior's alone
    false_keeps: float


def audit_due(runs: int, audited_at: int, budget: Budget) -> bool:
    """Whether it is time: every 25 runs, and at the end of a budget of runs."""
    return runs - audited_at >= EVERY or (budget.runs_left <= max(1.0, SHARE * runs) and runs > audited_at)


def audit_plan(
    keeps: Sequence[Keep], knowledge: Knowledge, spent: int, audited: int, budget: Budget, rules: Rules
) -> list[tuple[int, int]]:
    """(number, seed) of the runs to make now, in the order of their use; empty when the audits' share is used up.

    First the tip, on which everything rests, while it has no fresh run; then unconfirmed keeps, the most doubtful first; then
    the finalists by their lower bound, so that what is delivered is the best and not the luckiest. ``spent`` counts all runs,
    ``audited`` those of earlier audits.
    """
    room = int(min(SHARE * spent - audited, budget.runs_left))
    if room < 1 or not keeps or not knowledge.usable:
        return []
    fresh = {keep.node.number: sum(run.check for run in keep.node.runs) for keep in keeps}
    tip = keeps[-1].node.number
    doubtful = sorted(
        (keep for keep in keeps if keep.action is Action.PROVISIONAL and not fresh[keep.node.number]), key=lambda keep: keep.p
    )
    finalists = sorted(keeps, key=lambda keep: -_lower(keep.node, knowledge, rules))[:_FINALISTS]
    wanted = [tip] if fresh[tip] < 2 else []
    wanted += [keep.node.number for keep in doubtful if keep.node.number != tip]
    wanted += [keep.node.number for keep in finalists if keep.node.number not in wanted]
    nodes = {keep.node.number: keep.node for keep in keeps}
    return [(number, audit_seed(nodes[number], rules)) for number in wanted[:room]]


def refuted(p: float, gain: float) -> bool:
    """Whether a keep must be taken back: it is likely no improvement, or is expected to do harm and more likely no improvement than one."""
    return p <= REFUTED or (gain < 0 and p < 0.5)


def word(p: float, gain: float) -> str:
    """``confirmed``, ``contradicted`` or ``still open``: what all runs by now say of a keep."""
    return "confirmed" if p >= CONFIRMED else "contradicted" if refuted(p, gain) else "still open"


def audit_seed(node: Node, rules: Rules) -> int:
    """A seed that no decision has seen; the n-th audit run of every node has the same one, so that they can be compared."""
    used = {run.seed for run in node.runs}
    seed = rules.seed + _AUDIT_SEED
    while seed in used:
        seed += 1
    return seed


def _lower(node: Node, knowledge: Knowledge, rules: Rules) -> float:
    level = level_of(node, knowledge, rules)
    return level.mean - 1.645 * math.sqrt(level.var)


def report(tip: Node, baseline: Node, knowledge: Knowledge, rules: Rules) -> Report:
    """What the night gained. With two fresh runs or more of the tip, from them; else from the posterior of both levels."""
    if not knowledge.usable:
        gain = rules.direction.gain(tip.mean, baseline.mean) if tip.values and baseline.values else 0.0
        return Report(gain, gain, gain, 0, knowledge.doubt)
    first, last = level_of(baseline, knowledge, rules), level_of(tip, knowledge, rules)
    fresh = tuple(run for run in tip.runs if run.check and math.isfinite(run.value))
    noise, shared = variance(knowledge), correlation(knowledge, tip.kind)
    if tip.number == baseline.number:
        gain = var = 0.0
    elif len(fresh) >= 2:  # against the baseline's own runs: what candidates have said of it rests on the prior
        value, error = pooled(Node(tip.number, fresh), knowledge, rules.sign, noise, 0.0)
        other, other_error = pooled(_without_strange(baseline), knowledge, rules.sign, noise, 0.0)
        gain, var = value - other, error + other_error
    else:
        gain = last.mean - first.mean
        var = max(first.var + last.var - 2 * last.base, 0.0) + _MODEL * noise * (1 - shared)
    reach = 1.645 * math.sqrt(var)
    return Report(gain, gain - reach, gain + reach, len(fresh), knowledge.doubt)


def _without_strange(baseline: Node) -> Node:
    """The baseline without runs that diverged."""
    runs = tuple(run for run in baseline.runs if math.isfinite(run.value))
    strange = outliers([run.value for run in runs])
    return replace(baseline, runs=tuple(run for at, run in enumerate(runs) if at not in strange))


def plateau(gains: Sequence[float], patience: int, least: float) -> bool:
    """Whether the last ``patience`` experiments together gained less than ``least``. Off while ``patience`` is 0."""
    return 0 < patience <= len(gains) and math.fsum(gains[-patience:]) < least
