"""What a study learns from its runs, as pure functions from knowledge to knowledge.

``learn_run`` after every run that ended, ``learn_result`` once for every settled candidate. Replaying the same calls in the same
order gives the same knowledge, bit for bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from overnight.judge.judging import calms, candidate_level, downfall, level_of, scene
from overnight.judge.mixture import posterior
from overnight.judge.noise import correlation, hypotheses, outliers, place, pooled, variance, worker_offset
from overnight.judge.records import (
    FAR,
    FIRST_COUNTS,
    NOISE,
    SCALES,
    SHARED,
    Action,
    Knowledge,
    Level,
    Node,
    Offset,
    Rules,
    Run,
    Verdict,
)

_FADE = 0.985  # of what was learned of edits, at each new one: a night's edits change as it goes
_EARN_FADE = 0.95
_LEAP = 8.0  # sd of one run: after such a gain the noise is learned anew
_LEAP_DOF = 0.5  # what is left of the degrees of freedom then
_REBASE = 1.8  # times the unit of noise: further off it is set anew
_CHILD_TRUST = 1.0
_RECENT = 3  # replicates in a row, each with
_CALM = 0.01  # of the variance known so far: by chance that happens in one of a thousand
_DIVERGED = 256.0  # units of noise below the incumbent: such a run says nothing of it, nor of the noise or the seeds
_FAR_UP = 32.0  # units of noise above it: no prior has anything to say of that level beside the runs themselves
_LEAST_VAR = 0.02  # of a level, in variances of one run: what candidates alone can never narrow down


def learn_run(knowledge: Knowledge, node: Node, rules: Rules) -> Knowledge:
    """Learn from ``node.runs[-1]``, which has just ended: noise, seeds, workers, pace, and the level of a node that was kept."""
    run = node.runs[-1]
    later = len(node.runs) > 1
    count = replace(knowledge, checks=knowledge.checks + 1) if later and node.kind != "baseline" and not run.check else knowledge
    count = replace(count, ideas=count.ideas + 1) if not later and node.kind != "baseline" else count
    knowledge = _pace(count, run)
    if not abs(run.value) < FAR:
        return knowledge
    if later:
        knowledge = _replicate(knowledge, node, run)
        knowledge = _worker(knowledge, node, run, rules)
    if node.kind == "baseline":
        return _baseline(knowledge, node, rules)
    if node.number in knowledge.levels:
        return knowledge.with_level(node.number, level_of(node, knowledge, rules))
    return knowledge


def learn_result(knowledge: Knowledge, candidate: Node, incumbent: Node | None, verdict: Verdict, rules: Rules) -> Knowledge:
    """Learn from a settled candidate: what edits are like, the noise, both levels, and what new ideas earn."""
    if incumbent is None or not verdict.final:
        return knowledge
    doubt = 1 - verdict.p if verdict.kept else 0.0
    knowledge = replace(
        knowledge,
        keeps=knowledge.keeps + verdict.kept,
        doubt=knowledge.doubt + doubt,
        earned=_EARN_FADE * knowledge.earned,
        earned_runs=_EARN_FADE * knowledge.earned_runs + 1,
    )
    if verdict.action is Action.CRASH or not knowledge.usable or not (candidate.near and incumbent.near):
        return knowledge
    view = scene(candidate, incumbent, knowledge, rules)
    if view.seen < -_DIVERGED * knowledge.scale:
        return replace(knowledge, counts=_counts(knowledge, view.after.by_rung(len(SCALES))))
    value, error = view.seen + view.level.mean, view.var - view.level.var
    learned = replace(
        knowledge,
        counts=_counts(knowledge, view.after.by_rung(len(SCALES))),
        noise=_noise(knowledge, view.seen, view.var),
        shared=_shared(knowledge, candidate, incumbent, rules),
        seeds=_seeds(knowledge, candidate, view.level, view.after.mean, view.after.var, rules),
        earned=knowledge.earned + (max(view.after.mean, 0.0) / knowledge.scale if verdict.kept else 0.0),
    )
    rest = error / (error + view.level.var) if view.level.var else 1.0
    known = Level(
        rest * view.level.mean + (1 - rest) * (value - view.after.mean),
        rest * view.level.var + (1 - rest) ** 2 * view.after.var,
        view.level.base * (rest + (1 - rest) * min(1.0, view.after.var / view.var)),
        len(incumbent.runs),
    )
    learned = learned.with_level(incumbent.number, _half_believed(view.level, known, variance(knowledge)))
    if verdict.kept and (share := downfall(candidate, incumbent, view.sd, rules) or calms(candidate, incumbent, view.sd, rules)):
        return _fallen(knowledge, learned, candidate, share, rules)
    if verdict.kept:
        learned = _moved(learned, view.after.mean / view.sd)
        level = candidate_level(view.level, value, error, view.after, len(candidate.runs))
        plain = Level(value, error, 0.0, len(candidate.runs))
        learned = learned.with_level(candidate.number, plain if view.seen > _FAR_UP * knowledge.scale else level)
    return learned


def learn_audit(knowledge: Knowledge, before: float, after: float) -> Knowledge:
    """Later runs have changed P of a keep from ``before`` to ``after``: the doubt about all keeps follows."""
    return replace(knowledge, doubt=max(0.0, knowledge.doubt + before - after))


def learn_taken_back(knowledge: Knowledge, p: float) -> Knowledge:
    """A keep of probability ``p`` was taken back: it is a keep no more, and its doubt goes with it."""
    return replace(knowledge, doubt=max(0.0, knowledge.doubt - (1 - p)), keeps=max(0, knowledge.keeps - 1))


def _moved(knowledge: Knowledge, gain: float) -> Knowledge:
    """After a leap the incumbent may be far calmer or wilder than the baseline: what was seen of the noise fades, its unit follows."""
    if gain < _LEAP:
        return knowledge
    fade = min(_LEAP_DOF / knowledge.dof, 1.0)
    fading = replace(knowledge, squares=knowledge.squares * fade, dof=knowledge.dof * fade)
    sd = math.sqrt(variance(fading))
    if 1 / _REBASE < sd / fading.scale < _REBASE:
        return fading
    return replace(fading, scale=sd, noise=(0.0,) * len(NOISE), earned=fading.earned * fading.scale / sd)


def _fallen(before: Knowledge, learned: Knowledge, candidate: Node, share: float, rules: Rules) -> Knowledge:
    """After a step down by orders of magnitude the noise goes down with it, and what it was like before is all but forgotten."""
    fade = min(_LEAP_DOF / before.dof, 1.0)
    smaller = replace(
        learned, scale=before.scale * share, squares=before.squares * fade * share * share, dof=before.dof * fade,
        noise=(0.0,) * len(NOISE), counts=before.counts, earned=before.earned, seeds={}, recent=(),
    )  # fmt: skip
    var = variance(smaller)
    return smaller.with_level(candidate.number, Level(rules.sign * candidate.mean, var / len(candidate.values), 0.0, len(candidate.runs)))


def _half_believed(before: Level, after: Level, var: float) -> Level:
    """Part of the way from one level to the other: candidates share their errors, so they say less than they seem to."""
    if after.var >= before.var or before.var <= _LEAST_VAR * var:
        return before if after.runs == before.runs else replace(before, runs=after.runs)
    share = _CHILD_TRUST
    mean = before.mean + share * (after.mean - before.mean)
    return Level(
        mean,
        max(before.var + share * (after.var - before.var), _LEAST_VAR * var),
        before.base + share * (after.base - before.base),
        after.runs,
    )


def _pace(knowledge: Knowledge, run: Run) -> Knowledge:
    if run.seconds > 0:
        usual = run.seconds if not knowledge.run_seconds else 0.8 * knowledge.run_seconds + 0.2 * run.seconds
        knowledge = replace(knowledge, run_seconds=usual)
    if run.throughput > 0:
        usual = knowledge.throughput.get(run.worker, 0.0)
        if not usual or abs(math.log(run.throughput / usual)) < math.log(1.03):
            pace = run.throughput if not usual else 0.8 * usual + 0.2 * run.throughput
            knowledge = replace(knowledge, throughput={**knowledge.throughput, run.worker: pace})
    return knowledge


def _replicate(knowledge: Knowledge, node: Node, run: Run) -> Knowledge:
    """Add the run's share to the pooled variance: between seeds, or between repetitions of one seed."""
    before = [other for other in node.runs[:-1] if abs(other.value) < FAR and place(other, knowledge) == place(run, knowledge)]
    same = [other.value for other in before if other.seed == run.seed]
    others = [other.value for other in before if other.seed != run.seed]
    if same:
        squares, dof = knowledge.repeats
        knowledge = replace(knowledge, repeats=(squares + _added(same, run.value), dof + 1))
    if others:
        share = _added(others, run.value)
        knowledge = replace(knowledge, squares=knowledge.squares + share, dof=knowledge.dof + 1)
        knowledge = _tamed(knowledge, node) if node.kind == "baseline" else _calmer(knowledge, share)
    elif same:  # nothing else is known yet: what one seed shows is a lower bound of the noise
        knowledge = replace(knowledge, squares=knowledge.squares + _added(same, run.value), dof=knowledge.dof + 1)
    if knowledge.squares > 0 and (knowledge.scale == 0 or node.kind == "baseline"):
        knowledge = replace(knowledge, scale=math.sqrt(knowledge.squares / knowledge.dof))
    return knowledge


def _tamed(knowledge: Knowledge, node: Node) -> Knowledge:
    """The noise of a baseline some of whose runs diverged is that of the others: a divergence is no unit to measure edits in."""
    values = [run.value for run in node.runs if abs(run.value) < FAR]
    strange = outliers(values) if not knowledge.ideas else ()
    if not strange:
        return knowledge
    rest = [value for at, value in enumerate(values) if at not in strange]
    mean = math.fsum(rest) / len(rest)
    return replace(knowledge, squares=math.fsum((value - mean) ** 2 for value in rest), dof=len(rest) - 1.0)


def _calmer(knowledge: Knowledge, share: float) -> Knowledge:
    """When the last replicates are all far calmer than everything before them, it is they who tell the noise of what is tried now."""
    recent = (*knowledge.recent, share)[-_RECENT:]
    known = replace(knowledge, recent=recent)
    before, dof = knowledge.squares - math.fsum(recent), knowledge.dof - len(recent)
    if len(recent) < _RECENT or not 0 < max(recent) < _CALM * before / max(dof, 1.0):
        return known
    fresh = replace(known, squares=math.fsum(recent), dof=float(_RECENT), noise=(0.0,) * len(NOISE), recent=())
    scale = math.sqrt(variance(replace(fresh, scale=math.sqrt(fresh.squares / fresh.dof))))
    return replace(fresh, scale=scale, earned=fresh.earned * knowledge.scale / scale)


def _added(before: list[float], value: float) -> float:
    """What one more value adds to the sum of squares around the mean (Welford 1962); values equal to the last bit add nothing."""
    gap = value - math.fsum(before) / len(before) if any(other != value for other in before) else 0.0
    return gap * gap * len(before) / (len(before) + 1)


def _baseline(knowledge: Knowledge, node: Node, rules: Rules) -> Knowledge:
    """The baseline's runs are the first panel of seeds; its class of machine is the one that others are measured against."""
    first = node.runs[0]
    if not knowledge.workers:
        knowledge = replace(knowledge, workers={place(first, knowledge): Offset(0.0, 1.0)})
    knowledge = replace(knowledge, baseline=node.number)
    if not knowledge.usable:
        return knowledge
    var = variance(knowledge)
    runs = [run for run in node.runs if abs(run.value) < FAR]
    strange = outliers([run.value for run in runs]) if not knowledge.ideas else ()
    node = replace(node, runs=tuple(run for at, run in enumerate(runs) if at not in strange)) if strange else node
    panel = {run.seed: run for run in node.runs if abs(run.value) < FAR} if not knowledge.ideas else {}
    if len(panel) > 1:
        shared = correlation(knowledge, "baseline")
        seeds = {seed: Offset(rules.sign * (run.value - node.mean), var * (1 - shared)) for seed, run in panel.items()}
        knowledge = replace(knowledge, seeds=seeds)
        value, error = pooled(node, replace(knowledge, seeds={}), rules.sign, var, 0.0)
        return knowledge.with_level(node.number, Level(value, error * (1 - shared), error * (1 - shared), len(runs)))
    return knowledge.with_level(node.number, level_of(node, knowledge, rules))


def _worker(knowledge: Knowledge, node: Node, run: Run, rules: Rules) -> Knowledge:
    """The same node on two classes of machine: the difference belongs to the machine."""
    where = place(run, knowledge)
    home = next(iter(knowledge.workers), where)
    others = [other for other in node.runs[:-1] if abs(other.value) < FAR and place(other, knowledge) != where]
    if where == home or not others or not knowledge.usable:
        return knowledge
    var = variance(knowledge)
    top = bottom = 0.0
    for other in others:
        offset = worker_offset(place(other, knowledge), knowledge, var)
        shared = correlation(knowledge, node.kind) if other.seed == run.seed else 0.0
        weight = 1 / (2 * var * (1 - shared) + offset.var)
        top += weight * (rules.sign * (run.value - other.value) + offset.mean)
        bottom += weight
    return replace(knowledge, workers={**knowledge.workers, where: _combined(knowledge.workers.get(where), top / bottom, 1 / bottom)})


def _combined(before: Offset | None, mean: float, var: float) -> Offset:
    if before is None:
        return Offset(mean, var)
    share = before.var / (before.var + var)
    return Offset(before.mean + share * (mean - before.mean), before.var * (1 - share))


def _counts(knowledge: Knowledge, weights: list[float]) -> tuple[float, ...]:
    """One more edit met; what was learned fades, the prior does not."""
    return tuple(
        first + _FADE * (count - first) + weight for first, count, weight in zip(FIRST_COUNTS, knowledge.counts, weights, strict=True)
    )


def _noise(knowledge: Knowledge, seen: float, var: float) -> tuple[float, ...]:
    """How well each hypothesis on the noise foresaw this difference."""
    middle = variance(knowledge)
    evidence = [
        posterior(seen, var * (times * knowledge.scale) ** 2 / middle, SCALES, knowledge.counts, knowledge.scale).evidence
        for times in NOISE
    ]
    top = max(evidence)
    return tuple(old + max(new - top, -4.0) for old, new in zip(knowledge.noise, evidence, strict=True))


def _shared(knowledge: Knowledge, candidate: Node, incumbent: Node, rules: Rules) -> dict[str, tuple[float, ...]]:
    """How well each share of the seed foresaw this result: by the spread of differences, and by pairs of runs on two seeds."""
    kind = candidate.kind
    if knowledge.ignores_seed or not any(run.seed in knowledge.seeds for run in candidate.runs):
        return dict(knowledge.shared)
    var, level = variance(knowledge), level_of(incumbent, knowledge, rules)
    logs = []
    for share in SHARED:
        value, error = pooled(candidate, knowledge, rules.sign, var, share)
        found = posterior(value - level.mean, level.var + error, SCALES, knowledge.counts, knowledge.scale).evidence
        logs.append(found + _pairs(candidate, incumbent, var, share))
    top = max(logs)
    old = knowledge.shared.get(kind, (0.0,) * len(SHARED))
    return {**knowledge.shared, kind: tuple(before + max(new - top, -4.0) for before, new in zip(old, logs, strict=True))}


def _pairs(candidate: Node, incumbent: Node, var: float, share: float) -> float:
    """The log density of the candidate's contrasts between seeds, given the incumbent's on the same seeds."""
    theirs = {run.seed: run.value for run in incumbent.runs if abs(run.value) < FAR}
    pairs = [(run.value, theirs[run.seed]) for run in candidate.runs if abs(run.value) < FAR and run.seed in theirs]
    total = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(pairs):
        rest = (x1 - x0) - share * (y1 - y0)
        spread = 2 * var * max(1 - share * share, 0.01)
        total += -0.5 * rest * rest / spread - 0.5 * math.log(spread)
    return total


def _seeds(knowledge: Knowledge, candidate: Node, level: Level, gain: float, gain_var: float, rules: Rules) -> dict[int, Offset]:
    """What the candidate says about the seeds of the panel that it ran on."""
    shared = correlation(knowledge, candidate.kind)
    found = dict(knowledge.seeds)
    if not shared:
        return found
    var = variance(knowledge)
    for run in candidate.runs:
        if run.seed in found and abs(run.value) < FAR:
            worker = worker_offset(place(run, knowledge), knowledge, var)
            error = var * (1 - shared) + level.var + gain_var + worker.var
            found[run.seed] = _combined(found[run.seed], rules.sign * run.value - worker.mean - level.mean - gain, error)
    return found


def learn_anew(knowledge: Knowledge, nodes: Sequence[Node], gone: Iterable[int]) -> Knowledge:
    """Some runs do not count any more: the levels of the nodes ``gone`` are forgotten, and the noise is what the ``nodes`` show.

    These have several runs that still count. Where there are none of them, the noise is taken for what its unit is.
    """
    forgotten = set(gone)
    kept = replace(knowledge, levels={number: level for number, level in knowledge.levels.items() if number not in forgotten})
    anew = replace(kept, squares=0.0, dof=0.0, repeats=(0.0, 0.0), recent=(), noise=(0.0,) * len(NOISE))
    for node in nodes:
        for count in range(2, len(node.runs) + 1):
            if abs(node.runs[count - 1].value) < FAR:
                anew = _replicate(anew, replace(node, runs=node.runs[:count], kind="structural"), node.runs[count - 1])
    return anew if anew.dof else replace(anew, squares=anew.scale**2, dof=1.0) if anew.scale else kept


def noise_interval(knowledge: Knowledge, share: float = 0.9) -> tuple[float, float, float]:
    """The sd of one run: middle, and the ends that hold at least ``share``; zeros while nothing is known."""
    if not knowledge.usable:
        return 0.0, 0.0, 0.0
    rows = sorted((var, weight) for weight, var in hypotheses(knowledge))
    low, high, seen = rows[0][0], rows[-1][0], 0.0
    for var, weight in rows:
        if seen < (1 - share) / 2:
            low = var
        if seen < (1 + share) / 2:
            high = var
        seen += weight
    return math.sqrt(variance(knowledge)), math.sqrt(low), math.sqrt(high)


def expected_false_keeps(knowledge: Knowledge) -> float:
    """How many of the keeps are expected to be no improvement: the sum of 1 - P."""
    return knowledge.doubt
