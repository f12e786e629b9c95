"""The decision under noise: keep, drop, or run once more, as a pure function of what ran and what was learned.

A Bayesian sequential test: the incumbent's level is a posterior, the candidate's difference has a prior of null, good and bad
edits, and a further run is asked for only when its expected value beats what a new idea earns in the same time. No clock, no
chance: the same arguments give the same verdict. The incumbent given here is the one that the branch points to now.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from overnight.decide import Incumbent, Measured, decide
from overnight.judge.mixture import Posterior, gather, posterior
from overnight.judge.noise import correlation, hypotheses, outliers, place, pooled, variance, worker_offset
from overnight.judge.records import SCALES, Action, Budget, Knowledge, Level, Node, Rules, Run, Verdict
from overnight.judge.value import Stake, worth
from overnight.judge.wording import Difference, expected, follows, measured
from overnight.models import Decision

_SURE = {"fast": 0.85, "balanced": 0.9, "strict": 0.95}  # a plain keep
_FLOOR = {"fast": 0.5, "balanced": 0.5, "strict": 0.95}  # a provisional keep; strict has none
_DOUBT = {"fast": 0.35, "balanced": 0.24, "strict": 0.05}  # the mean of 1 - P over all keeps stays below
_CERTAIN = 0.99  # P above which none is needed
_DROP = 0.05  # P below which no second look is thought of
_NEAR = 0.3  # P for a near-miss
_MORE = 2  # runs of a baseline beyond its usual ones, where one of them diverged
_WILD = 0.2  # sd of one run as a share of the level, from which the noise is taken to grow with it
_TENTH = 0.1
_RANKED = 3  # runs of a wild incumbent that a candidate has to beat, each
_WIDE = 0.4  # sd between an incumbent's runs as a share of its level, from which it is wild
_CALMER = 0.35  # of that sd, at most, is the candidate's own
_CALMER_P = 0.9
_TINY = 1e-12
_SHAME = 0.5  # in sd of one run: what a false keep costs
_CALM = 0.1  # sd earned per run: below it the study is at a plateau
_CALM_CHECKS = 0.3  # and may look twice more often, for new ideas bring little
_CHECKS = 0.12  # of all runs, at most, are second looks
_EQUAL = 0.5  # in sd of one run: what counts as equal when the code is shorter
_EQUAL_P = 0.9
_PRICE = 0.5  # of a new idea's earnings, what a second look has to bring: it counts one step ahead only


@dataclass(frozen=True, slots=True)
class Scene:
    """A candidate beside the incumbent, with everything the verdict needs, oriented."""

    level: Level  # of the incumbent
    seen: float  # the observed difference
    var: float  # its error variance
    run_var: float  # what one more run of the candidate would have
    sd: float  # of one run
    shared: float
    after: Posterior


def estimate(node: Node, knowledge: Knowledge, rules: Rules) -> tuple[float, float]:
    """What is believed of the node's true level: mean and sd in the metric's units, shrunk, so free of the winner's curse."""
    level = level_of(node, knowledge, rules)
    return rules.sign * level.mean, math.sqrt(level.var)


def level_of(node: Node, knowledge: Knowledge, rules: Rules) -> Level:
    """The oriented posterior of the node's level. A kept node's is on record; runs that came later are added to it."""
    if not node.values:
        return Level(0.0, math.inf)
    if not knowledge.usable or not node.near:
        return Level(rules.sign * node.mean, 0.0, 0.0, len(node.runs))
    var = variance(knowledge)
    shared = correlation(knowledge, node.kind)
    known = knowledge.levels.get(node.number)
    if known is not None:
        value, error = pooled(replace(node, runs=node.runs[known.runs :]), knowledge, rules.sign, var, shared)
        if math.isinf(error):
            return known
        share = known.var / (known.var + error)
        own = node.kind == "baseline"
        base = known.var * (1 - share) if own else known.base * (1 - share)
        return Level(known.mean + share * (value - known.mean), known.var * (1 - share), base, len(node.runs))
    value, error = pooled(node, knowledge, rules.sign, var, shared)
    parent = knowledge.levels.get(node.parent)
    if node.kind == "baseline" or parent is None:
        return Level(value, error, error if node.kind == "baseline" else 0.0, len(node.runs))
    return candidate_level(parent, value, error, _after(value - parent.mean, parent.var + error, knowledge), len(node.runs))


def candidate_level(incumbent: Level, value: float, error: float, after: Posterior, runs: int) -> Level:
    """The level of a candidate seen at ``value``, given the posterior ``after`` of its difference: moments of a joint normal."""
    if incumbent.var <= 0:
        return Level(incumbent.mean + after.mean, after.var, 0.0, runs)
    rest = error / (error + incumbent.var)  # how much of the incumbent's prior is left when d is known
    own = (1 - rest) * (value - after.mean) + rest * incumbent.mean
    shrink = min(1.0, after.var / (incumbent.var + error))
    return Level(own + after.mean, rest * incumbent.var + rest * rest * after.var, incumbent.base * rest * (1 - shrink), runs)


def _after(seen: float, var: float, knowledge: Knowledge) -> Posterior:
    """The posterior of the difference, over all hypotheses on the noise; ``var`` is the error under the middle one."""
    middle = variance(knowledge)
    rows: list[tuple[float, int, float, float]] = []
    for share, noise in hypotheses(knowledge):
        found = posterior(seen, var * noise / middle, SCALES, knowledge.counts, knowledge.scale)
        rows += [(math.log(max(share * part.weight, 1e-300)) + found.evidence, part.sign, part.mean, part.sd) for part in found.parts]
    return gather(rows)


def scene(candidate: Node, incumbent: Node, knowledge: Knowledge, rules: Rules) -> Scene:
    """Both nodes on one scale. The study must not be deterministic, and its noise must be known."""
    var = variance(knowledge)
    shared = correlation(knowledge, candidate.kind)
    level = level_of(incumbent, knowledge, rules)
    value, error = pooled(candidate, knowledge, rules.sign, var, shared)
    seen, seen_var = value - level.mean, level.var + error
    run_var = var * (1 - shared)
    return Scene(level, seen, seen_var, run_var, math.sqrt(var), shared, _after(seen, seen_var, knowledge))


def judge(candidate: Node, incumbent: Node | None, knowledge: Knowledge, rules: Rules, budget: Budget) -> Verdict:
    """The verdict on ``candidate`` after its latest run; ``incumbent`` is None for the baseline. Never raises on any finite input."""
    if not candidate.values:
        shown = f"the metric is {candidate.runs[-1].value}" if candidate.runs else "it gave no number"
        return Verdict(Action.CRASH, candidate.failure or shown)
    if incumbent is not None and len(candidate.values) < len(candidate.runs):
        failed = len(candidate.runs) - len(candidate.values)
        return Verdict(
            Action.DISCARD, f"failed in {failed} of {len(candidate.runs)} runs{': ' if candidate.failure else ''}{candidate.failure}"
        )
    first = _without_noise(candidate, incumbent, rules)
    if rules.memory_hard and candidate.memory_gb > rules.memory_hard:
        return first
    if incumbent is None:
        return _baseline(candidate, rules, first)
    if knowledge.deterministic or not knowledge.usable or not (candidate.near and incumbent.near):
        return first
    return _under_noise(candidate, incumbent, knowledge, rules, budget)


def _without_noise(candidate: Node, incumbent: Node | None, rules: Rules) -> Verdict:
    """The first version's rule, as it is: better than the bar, or equal with less code."""
    found = Measured(candidate.values[0], candidate.memory_gb, candidate.lines, candidate.failure)
    beat = None
    if incumbent is not None and incumbent.values:
        beat = Incumbent(incumbent.number, incumbent.mean if incumbent.bar is None else incumbent.bar, incumbent.lines)
    verdict = decide(found, beat, rules.without_noise())
    gain = rules.direction.gain(candidate.values[0], beat.bar) if beat else 0.0
    action = Action.KEEP if verdict.decision is Decision.KEEP else Action.DISCARD
    return Verdict(action, verdict.cause, float(action is Action.KEEP), gain, gain, gain, bar=verdict.bar)


def _baseline(candidate: Node, rules: Rules, first: Verdict) -> Verdict:
    if len(candidate.runs) < rules.baseline_runs:
        count = len(candidate.runs)
        return Verdict(Action.REPLICATE, f"baseline: run {count + 1} of {rules.baseline_runs}, to learn the noise", seed=rules.seed + count)
    strange = outliers(candidate.values)
    if strange and len(candidate.runs) < rules.baseline_runs + _MORE:
        odd = f"one of {len(candidate.runs)} gave {candidate.values[strange[0]]:.3g}, far off the others"
        return Verdict(Action.REPLICATE, f"baseline: {odd}; one run more, to learn the noise", seed=rules.seed + len(candidate.runs))
    if len(candidate.values) < 2 or not candidate.near:
        return replace(
            first, cause=f"baseline; {'one run' if candidate.near else 'values out of all bounds'}, so nothing is known of the noise"
        )
    fit = [value for at, value in enumerate(candidate.values) if at not in strange]
    mean = math.fsum(fit) / len(fit)
    if len(set(candidate.values)) == 1:
        return replace(first, cause=f"baseline; {len(candidate.values)} runs gave the same value: deterministic, or it ignores the seed")
    told = f"baseline; {mean:.6g}, sd {spread(fit):.2g} between {len(candidate.values)} runs"
    if strange:
        told += f", of which {len(strange)} {'are' if len(strange) > 1 else 'is'} far off and not taken for noise"
    return replace(first, cause=told, bar=mean)


def _under_noise(candidate: Node, incumbent: Node, knowledge: Knowledge, rules: Rules, budget: Budget) -> Verdict:
    view = scene(candidate, incumbent, knowledge, rules)
    stake = _stake(candidate, incumbent, knowledge, rules, view)
    said = _said(view, candidate, incumbent, rules)
    stranger = next((run for run in candidate.runs if _unknown(run, knowledge, view)), None)
    if stranger is not None and len(incumbent.runs) < 4 * rules.n_max:
        cause = f"ran on {place(stranger, knowledge)}, where #{incumbent.number} has not run yet"
        return replace(said, action=Action.REPLICATE_INCUMBENT, cause=cause, seed=stranger.seed, worker=stranger.worker)
    if knowledge.dof < 1 and len(incumbent.runs) == 1 and budget.runs_left >= 1:
        cause = f"#{incumbent.number} was so large a step that the noise has to be learned anew"
        return replace(said, action=Action.REPLICATE_INCUMBENT, cause=cause, seed=next_seed(incumbent, knowledge, rules))
    wild = _beside_wild(said, candidate, incumbent, knowledge, rules, budget, view)
    if wild is not None:
        return wild
    kind = stake.choice(view.after)
    if kind is not None and (said.p >= _CERTAIN or kind == "shorter"):
        return _keep(said, kind, candidate, incumbent)
    if said.p <= _DROP and not (stake.saved and view.after.above(-stake.equal) > 0.5):
        return _closed(said, Action.DISCARD)
    again = _again(candidate, incumbent, knowledge, rules, budget, view, stake)
    if again is not None:
        return replace(said, action=again.action, cause=f"{said.cause}; {again.cause}", seed=again.seed)
    if kind is not None:
        return _keep(said, kind, candidate, incumbent)
    action = Action.NEAR_MISS if said.p >= _NEAR and said.gain > 0 else Action.DISCARD
    return _closed(said, action, _outweighed(said, candidate, incumbent, stake))


def _outweighed(said: Verdict, candidate: Node, incumbent: Node, stake: Stake) -> str:
    """What a likely improvement costs too much of; nothing where that is not why it goes."""
    if said.p < stake.floor or not 0 < said.gain <= stake.cost:
        return ""
    added = candidate.lines - incumbent.lines
    return f"{added} more {'lines' if added > 1 else 'line'} of code" if added > 0 else "memory"


def _beside_wild(
    said: Verdict, candidate: Node, incumbent: Node, knowledge: Knowledge, rules: Rules, budget: Budget, view: Scene
) -> Verdict | None:
    """The verdict where the incumbent has diverged or its runs are too far apart, so that its noise is no measure for the candidate."""
    again = len(candidate.runs) < 2
    if again and budget.runs_left < 1:
        return None
    if downfall(candidate, incumbent, view.sd, rules):
        cause = f"less than a tenth of what any run of #{incumbent.number} gave"
        if not again:
            return replace(said, action=Action.KEEP, cause=f"{cause} ({len(candidate.runs)} runs)", p=_CERTAIN, gain=view.seen)
        cause += ": once more, for its noise says nothing here"
    elif calms(candidate, incumbent, view.sd, rules):
        cause = f"every run is better than any of #{incumbent.number}, and they differ by far less than its own"
        return replace(said, action=Action.KEEP, cause=f"{cause} ({len(candidate.runs)} runs)", p=_CALMER_P, gain=max(view.seen, 0.0))
    elif again and ahead_of_wild(candidate, incumbent, rules):
        cause = f"better than any run of #{incumbent.number}, whose runs are too far apart to be a measure: once more"
    else:
        return None
    return replace(said, action=Action.REPLICATE, cause=cause, seed=next_seed(candidate, knowledge, rules))


def downfall(candidate: Node, incumbent: Node, sd: float, rules: Rules) -> float:
    """How small every value of the candidate is beside the smallest of an incumbent that has diverged; 0 = this is no such case.

    Where losses differ by orders of magnitude their noise grows with them, and that of the large ones is no measure for the small.
    """
    theirs, ours = [rules.sign * value for value in incumbent.values], [rules.sign * value for value in candidate.values]
    if not theirs or not ours or max(*theirs, *ours) >= 0 or sd < _WILD * -math.fsum(theirs) / len(theirs):
        return 0.0
    share = min(ours) / max(theirs)
    return share if share <= _TENTH else 0.0


def ahead_of_wild(candidate: Node, incumbent: Node, rules: Rules) -> bool:
    """Whether every run of the candidate beats every run of an incumbent whose own runs, losses all, differ by much of their level."""
    theirs, ours = _fit(incumbent.values, rules), [rules.sign * value for value in candidate.values]
    if len(theirs) < _RANKED or not ours or max(*theirs, *ours) >= 0:
        return False
    return min(ours) > max(theirs) and spread(theirs) > _WIDE * -math.fsum(theirs) / len(theirs)


def calms(candidate: Node, incumbent: Node, sd: float, rules: Rules) -> float:
    """The candidate's spread in sd of one run where it is ahead of a wild incumbent and far calmer; 0 = this is no such case.

    Ranks and spreads need no common noise: of three runs and two that are alike, the two are the best with chance 1/10.
    """
    if len(candidate.values) < 2 or not ahead_of_wild(candidate, incumbent, rules):
        return 0.0
    own = spread(candidate.values)
    return own / sd if 0 < own < _CALMER * spread(_fit(incumbent.values, rules)) else 0.0


def _fit(values: Sequence[float], rules: Rules) -> list[float]:
    """The values, oriented, without those of runs that diverged."""
    strange = outliers(values)
    return [rules.sign * value for at, value in enumerate(values) if at not in strange]


def spread(values: Sequence[float]) -> float:
    """The sd of two values or more."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _keep(said: Verdict, kind: str, candidate: Node, incumbent: Node) -> Verdict:
    if kind == "shorter":
        saved = incumbent.lines - candidate.lines
        cause = f"as good as #{incumbent.number} with {saved} fewer {'lines' if saved > 1 else 'line'} of code: {said.cause}"
        return replace(said, action=Action.KEEP, cause=cause)
    return _closed(said, Action.KEEP if kind == "sure" else Action.PROVISIONAL)


def _closed(said: Verdict, action: Action, costs: str = "") -> Verdict:
    return replace(said, action=action, cause=said.cause + follows(action, outweighed=costs))


def _stake(candidate: Node, incumbent: Node, knowledge: Knowledge, rules: Rules, view: Scene) -> Stake:
    added = candidate.lines - incumbent.lines
    over = max(0.0, candidate.memory_gb / rules.memory_soft - 1) if rules.memory_soft else 0.0
    cost = (rules.line_cost * max(added, 0) + rules.memory_cost * over) * view.sd
    limit = _DOUBT[rules.profile]
    room = limit * (knowledge.keeps + 3) - knowledge.doubt - 2 * limit
    floor = max(_FLOOR[rules.profile], 1 - max(room, limit / 2))
    shorter = added < 0 and not over
    equal = max(rules.min_delta, _EQUAL * view.sd)
    return Stake(rules.min_delta, cost, min(floor, _SURE[rules.profile]), _SURE[rules.profile], shorter, equal, _EQUAL_P,
                 min(rules.line_cost * max(-added, 0), 0.5) * view.sd, _SHAME * view.sd)  # fmt: skip


def _unknown(run: Run, knowledge: Knowledge, view: Scene) -> bool:
    return worker_offset(place(run, knowledge), knowledge, view.sd**2).var > view.sd**2


def next_seed(candidate: Node, knowledge: Knowledge, rules: Rules) -> int:
    """The seed of the candidate's next run: one of the panel that the baseline ran on, while it has one left, else a fresh one.

    Candidates begin on different seeds of the panel, so that no edit is fitted to one of them.
    """
    used = {run.seed for run in candidate.runs}
    panel = sorted(knowledge.seeds)
    for i in range(len(panel)):
        seed = panel[(candidate.number + i) % len(panel)]
        if seed not in used:
            return seed
    seed = rules.seed + 16 * (candidate.number + 1)
    while seed in used or seed in knowledge.seeds:
        seed += 1
    return seed


def _again(
    candidate: Node, incumbent: Node, knowledge: Knowledge, rules: Rules, budget: Budget, view: Scene, stake: Stake
) -> Verdict | None:
    """One more run, of the candidate or of the incumbent, if it is worth more than a new idea in the same time."""
    runs = knowledge.ideas + knowledge.checks
    rate = knowledge.earned / knowledge.earned_runs
    cap = _CHECKS if rate > _CALM else _CALM_CHECKS
    if budget.runs_left < 1 or knowledge.checks + 1 > cap * (runs + 1) + 2:
        return None
    price = _PRICE * knowledge.earned / knowledge.earned_runs * knowledge.scale
    if knowledge.run_seconds > 0:
        price *= knowledge.run_seconds / (knowledge.run_seconds + budget.idea_seconds)
    own = 1 / view.run_var
    error = max(view.var - view.level.var, _TINY * view.var)  # rounding may leave nothing
    best: tuple[float, Verdict] | None = None
    for count in (1, 2, 3):
        if len(candidate.runs) + count <= rules.n_max:
            var = view.level.var + 1 / (1 / error + count * own)
            gain = worth(view.seen, view.var, var, stake, knowledge) / count
            best = _better(best, gain, Action.REPLICATE, next_seed(candidate, knowledge, rules), "one more run is worth it")
        if len(incumbent.runs) + count <= rules.n_max and view.level.var > error:
            var = error + view.level.var / (1 + count * view.level.var * own)
            gain = worth(view.seen, view.var, var, stake, knowledge) / count
            cause = f"one more run of #{incumbent.number} is worth it"
            best = _better(best, gain, Action.REPLICATE_INCUMBENT, next_seed(incumbent, knowledge, rules), cause)
    return best[1] if best is not None and best[0] > price else None


def _better(best: tuple[float, Verdict] | None, gain: float, action: Action, seed: int, cause: str) -> tuple[float, Verdict]:
    return best if best is not None and best[0] >= gain else (gain, Verdict(action, cause, seed=seed))


def _said(view: Scene, candidate: Node, incumbent: Node, rules: Rules) -> Verdict:
    """The discard that it is unless something speaks for it, with its figures."""
    p, gain = view.after.above(rules.min_delta), view.after.mean
    cause = measured(Difference(view.seen, math.sqrt(view.var)), candidate, incumbent) + expected(gain, p, rules.min_delta)
    return Verdict(Action.DISCARD, cause, p, gain, view.after.quantile(0.05), view.after.quantile(0.95), seen=view.seen, seen_var=view.var)
