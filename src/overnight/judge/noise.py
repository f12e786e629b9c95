"""How noisy a study is, and what two runs on one seed have in common: hypotheses with weights, read out as one figure or all.

Pure. Variances are those of one run, in the metric's units squared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from overnight.judge.records import NOISE, SHARED, Kind, Knowledge, Node, Offset, Run

_FIRST_NOISE = 2.0  # pseudo-observations that the baseline's own sd is right
_PAIRING_FROM = 0.3  # a weaker correlation is not worth a reused seed
# Before anything is known: constants keep the stream of random numbers more often than a change of structure does.
_FIRST_SHARED = {
    "baseline": (0.20, 0.20, 0.20, 0.15, 0.15, 0.10),
    "constants": (0.20, 0.20, 0.20, 0.15, 0.15, 0.10),
    "structural": (0.30, 0.25, 0.20, 0.12, 0.08, 0.05),
}
_WORKER_SD = 10.0  # in sd of one run: how much an unknown worker may differ


def outliers(values: Sequence[float]) -> tuple[int, ...]:
    """Places of the values so far off the others that they belong to no noise around one level: runs that diverged.

    By the distance from the median in median absolute deviations, as sd (Hampel 1974). Three values can have two close neighbours
    by chance, so there the distance must also be half of the level itself. At most a third of the values, the farthest.
    """
    count = len(values)
    if count < 3:
        return ()
    middle = median(values)
    unit = 1.4826 * median([abs(value - middle) for value in values])
    least = max(unit * (20.0 if count == 3 else 10.0), 0.5 * abs(middle) if count < 5 else 0.0)
    far = [at for at, value in enumerate(values) if unit > 0 and abs(value - middle) > least]
    return tuple(sorted(sorted(far, key=lambda at: -abs(values[at] - middle))[: count // 3]))


def median(values: Sequence[float]) -> float:
    """The middle one, or the mean of the middle two; 0 without any."""
    found = sorted(values)
    count = len(found)
    return 0.5 * (found[(count - 1) // 2] + found[count // 2]) if found else 0.0


def shares(weights: Sequence[float]) -> list[float]:
    """Log weights as shares that sum to one."""
    top = max(weights)
    plain = [math.exp(weight - top) for weight in weights]
    total = math.fsum(plain)
    return [weight / total for weight in plain]


def hypotheses(knowledge: Knowledge) -> list[tuple[float, float]]:
    """(share, variance of one run) of each hypothesis on the noise that is still worth a look."""
    unit = knowledge.scale**2
    dof, squares = knowledge.dof + _FIRST_NOISE, knowledge.squares / unit + _FIRST_NOISE
    logs = [extra - dof * math.log(times) - squares / (2 * times * times) for times, extra in zip(NOISE, knowledge.noise, strict=True)]
    rows = [(share, times * times * unit) for share, times in zip(shares(logs), NOISE, strict=True) if share > 0.01]
    total = math.fsum(share for share, _ in rows)
    return [(share / total, var) for share, var in rows]


def variance(knowledge: Knowledge) -> float:
    """The variance of one run as one figure: the geometric mean over the hypotheses."""
    return math.exp(math.fsum(share * math.log(var) for share, var in hypotheses(knowledge)))


def correlation(knowledge: Knowledge, kind: Kind) -> float:
    """The share of the variance that two runs on one seed have in common, or 0 if it is too small to be used."""
    if knowledge.ignores_seed:
        return 0.0
    found = math.fsum(share * value for share, value in zip(shared_shares(knowledge, kind), SHARED, strict=True))
    return found if found > _PAIRING_FROM else 0.0


def shared_shares(knowledge: Knowledge, kind: Kind) -> list[float]:
    """How likely each value of SHARED is, for edits of this kind."""
    learned = knowledge.shared.get(kind, (0.0,) * len(SHARED))
    return shares([math.log(first) + more for first, more in zip(_FIRST_SHARED[kind], learned, strict=True)])


def place(run: Run, knowledge: Knowledge) -> str:
    """The run's class of machine: its worker, or the worker at another pace when its throughput is more than 3 % off the usual."""
    usual = knowledge.throughput.get(run.worker, 0.0)
    if usual <= 0 or run.throughput <= 0:
        return run.worker
    steps = round(math.log(run.throughput / usual) / (2 * math.log(1.03)))
    return f"{run.worker} at {1.03 ** (2 * steps):.0%} of its pace" if steps else run.worker


def worker_offset(where: str, knowledge: Knowledge, var: float) -> Offset:
    """What the class of machine adds to a value; the baseline's own class adds nothing."""
    if not knowledge.workers or next(iter(knowledge.workers)) == where:
        return Offset(0.0, 0.0)
    return _shrunk(knowledge.workers.get(where), _WORKER_SD**2 * var)


def seed_offset(seed: int, knowledge: Knowledge, var: float, shared: float) -> Offset:
    """What the seed adds to a value when a share ``shared`` of the variance ``var`` belongs to it."""
    return _shrunk(knowledge.seeds.get(seed), shared * var) if shared else Offset(0.0, 0.0)


def _shrunk(learned: Offset | None, prior: float) -> Offset:
    if learned is None:
        return Offset(0.0, prior)
    var = 1 / (1 / prior + 1 / learned.var)
    return Offset(learned.mean * var / learned.var, var)


def pooled(node: Node, knowledge: Knowledge, sign: float, var: float, shared: float) -> tuple[float, float]:
    """The node's runs as one oriented value and its error variance, seeds and workers taken out; (0, inf) without a run."""
    top = bottom = 0.0
    for run in node.runs:
        if not math.isfinite(run.value):
            continue
        seed = seed_offset(run.seed, knowledge, var, shared)
        worker = worker_offset(place(run, knowledge), knowledge, var)
        weight = 1 / (var * (1 - shared) + seed.var + worker.var)
        top += weight * (sign * run.value - seed.mean - worker.mean)
        bottom += weight
    return (top / bottom, 1 / bottom) if bottom else (0.0, math.inf)
