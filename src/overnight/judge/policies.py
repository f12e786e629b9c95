"""What to try next: policies over the tree of experiments, each a row in a dict.

Pure: a policy is a function of the tree and of the free slots; chance comes from the state's own seed and count. It says which
kind of step to take from which experiment; who has the idea, and how it is run, it does not know.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from overnight.judge.mixture import posterior
from overnight.judge.records import SCALES, Knowledge

Step = Literal["draft", "improve", "debug", "combine", "simplify", "replicate", "audit", "wave"]

_RESTART = 15  # discards in a row after which another lineage is tried
_REPAIRS = 2
_DRAFTS = 5
_GROWN = 20  # lines of code: what the judgement counts as half an sd of one run
_WAVE = (11, 7, 3)  # edits of a wave: Plackett-Burman designs of 12, 8 and 4 runs
_WAVE_CRASHES = 0.02  # a run of a wave holds half of its edits: each crash would take half of the runs with it


@dataclass(frozen=True, slots=True)
class Leaf:
    """One experiment as a policy sees it; ``mean`` and ``sd`` of its level are oriented, more is better."""

    number: int
    parent: int
    mean: float = -math.inf  # -inf = crashed
    sd: float = 0.0
    kept: bool = False
    near: bool = False  # a near-miss that was not combined yet
    fixable: bool = False  # crashed on a dumb mistake
    repairs: int = 0  # repairs before it
    children: int = 0
    lines: int = 0  # of code


@dataclass(frozen=True, slots=True)
class State:
    """The tree and what is waiting. ``leaves`` in order of number, the baseline first."""

    leaves: tuple[Leaf, ...]
    tip: int
    discards: int = 0  # in a row
    confirm: tuple[tuple[int, int], ...] = ()  # (number, seed): would-be keeps to run once more
    audits: tuple[tuple[int, int], ...] = ()
    waiting: tuple[int, ...] = ()  # edits of the tip, proposed and mergeable, for a wave
    flying: tuple[int, ...] = ()  # parents of what is thought about, waits or runs: one entry for each
    crash_share: float = 0.1
    asked: int = 0  # tasks given so far: the number of the next draw
    seed: int = 0
    lean: int | None = None  # lines of code of what was simplified last, else of the baseline; None = nobody here can simplify


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to do: a step from ``parent``; ``others`` to combine or to cross; ``seed`` of a run that is asked for."""

    step: Step
    parent: int
    others: tuple[int, ...] = ()
    seed: int | None = None


Policy = Callable[[State, random.Random, int], Task]


def ask(name: str, state: State, free_slots: int) -> list[Task]:
    """What to run in the free slots: a would-be keep first, then an audit, a repair, a simplification, then what the policy wants.

    Raises ``KeyError`` for a policy that is none of ``POLICIES``.
    """
    policy = POLICIES[name]
    tasks = [Task("replicate", number, seed=seed) for number, seed in state.confirm]
    tasks += [Task("audit", number, seed=seed) for number, seed in state.audits]
    tasks += [Task("debug", leaf.number) for leaf in state.leaves if leaf.fixable and leaf.repairs < _REPAIRS and not leaf.children]
    if name != "optuna" and _has_grown(state):
        tasks.append(Task("simplify", state.tip))
    i = 0
    while len(tasks) < free_slots:
        tasks.append(policy(state, random.Random(f"{state.seed}/{state.asked + i}"), i))
        i += 1
    return tasks[:free_slots]


def _has_grown(state: State) -> bool:
    """Whether the best version is to be made simpler: by twenty lines longer than it was when that was last tried, or at all at a plateau."""
    tip = next((leaf for leaf in state.leaves if leaf.number == state.tip), None)
    if state.lean is None or tip is None:
        return False
    return tip.lines - state.lean >= (1 if state.discards >= _RESTART else _GROWN)


def greedy(state: State, rng: random.Random, i: int) -> Task:
    """Improve the tip; after fifteen discards in a row, every other time, combine near-misses or go on from a second lineage."""
    del rng
    if state.discards < _RESTART or (state.asked + i) % 2:
        return Task("improve", state.tip)
    near = [leaf.number for leaf in state.leaves if leaf.near and leaf.parent == state.tip]
    if len(near) > 1:
        return Task("combine", state.tip, tuple(near[-4:]))
    line = _lineage(state)
    others = [leaf for leaf in state.leaves if leaf.mean > -math.inf and leaf.number not in line and (leaf.kept or leaf.near)]
    return Task("improve", max(others, key=_lower).number if others else state.tip)


def best_of_n(state: State, rng: random.Random, i: int) -> Task:
    """Five edits of one parent, then the best of them is the parent; ten more of the same parent if none of them beats it."""
    del rng, i
    at = state.leaves[0].number
    while True:
        young = [leaf for leaf in state.leaves if leaf.parent == at and leaf.number != at]
        alive = [leaf for leaf in young if leaf.mean > -math.inf]
        flying = state.flying.count(at)
        if len(young) + flying < _DRAFTS or not alive:
            return Task("improve", at)
        own = next(leaf for leaf in state.leaves if leaf.number == at)
        best = max(alive, key=lambda leaf: leaf.mean)
        if best.mean <= own.mean and len(young) + flying < 3 * _DRAFTS:
            return Task("improve", at)
        at = best.number


def aide(state: State, rng: random.Random, i: int) -> Task:
    """Five drafts from the baseline, then half the time a crash is debugged, else the best is improved (Jiang et al. 2025)."""
    first = state.leaves[0].number
    if sum(leaf.parent == first and leaf.number != first for leaf in state.leaves) + state.flying.count(first) + i < _DRAFTS:
        return Task("draft", first)
    broken = [leaf for leaf in state.leaves if leaf.mean == -math.inf and not leaf.children and leaf.repairs < 3]
    if broken and rng.random() < 0.5:
        return Task("debug", rng.choice(broken).number)
    return Task("improve", max(state.leaves, key=lambda leaf: leaf.mean).number)


def uct(state: State, rng: random.Random, i: int) -> Task:
    """Improve where mean and unexploredness together are highest: UCB1 on ranks (Kocsis and Szepesvari 2006)."""
    del rng
    alive = sorted((leaf for leaf in state.leaves if leaf.mean > -math.inf), key=lambda leaf: leaf.mean)
    if not alive:
        return Task("improve", state.tip)
    total = math.log(len(state.leaves) + i + 1)
    scores = {
        leaf.number: (rank + 1) / len(alive) + 0.7 * math.sqrt(total / (1 + leaf.children + state.flying.count(leaf.number)))
        for rank, leaf in enumerate(alive)
    }
    ranked = sorted(scores, key=lambda number: -scores[number])
    return Task("improve", ranked[i % len(ranked)])


def weighted(state: State, rng: random.Random, i: int) -> Task:
    """Improve a parent drawn by its rank and by how few children it has."""
    del i
    alive = sorted((leaf for leaf in state.leaves if leaf.mean > -math.inf), key=lambda leaf: leaf.mean)
    if not alive:
        return Task("improve", state.tip)
    weights = [
        2.0 ** (4 * (rank + 1 - len(alive)) / max(len(alive), 4)) / (1 + leaf.children + state.flying.count(leaf.number))
        for rank, leaf in enumerate(alive)
    ]
    return Task("improve", rng.choices(alive, weights)[0].number)


def optuna(state: State, rng: random.Random, i: int) -> Task:
    """Always the tip: the sampler has its own idea of where to go."""
    del rng, i
    return Task("improve", state.tip)


def wave(state: State, rng: random.Random, i: int) -> Task:
    """Cross the edits that wait in one factorial design, when there are enough of them and they seldom crash; else greedy."""
    size = wave_size(len(state.waiting), state.crash_share)
    if size and i == 0:
        return Task("wave", state.tip, state.waiting[:size])
    return greedy(state, rng, i)


POLICIES: dict[str, Policy] = {
    "greedy": greedy,
    "best-of-n": best_of_n,
    "aide": aide,
    "uct": uct,
    "weighted": weighted,
    "optuna": optuna,
    "wave": wave,
}


def wave_size(waiting: int, crash_share: float) -> int:
    """The switch rule: how many of the waiting edits to cross in one wave; 0 = one at a time."""
    if crash_share > _WAVE_CRASHES:
        return 0
    return next((size for size in _WAVE if size <= waiting), 0)


# First rows of the cyclic designs (Plackett and Burman 1946).
_FIRST_ROWS = {3: "++-", 7: "+++-+--", 11: "++-+++---+-"}


def plackett_burman(edits: int) -> tuple[tuple[bool, ...], ...]:
    """Which edits each run holds: ``edits`` + 1 rows, every edit in half of them, every pair balanced; 3, 7 or 11 edits.

    The last row holds none: it is one more run of the parent. Raises ``KeyError`` for another number of edits.
    """
    first = [sign == "+" for sign in _FIRST_ROWS[edits]]
    rows = [tuple(first[(column - row) % edits] for column in range(edits)) for row in range(edits)]
    return (*rows, (False,) * edits)


def wave_effects(values: Sequence[float], design: Sequence[Sequence[bool]], knowledge: Knowledge, var: float) -> list[tuple[float, float]]:
    """For each edit of a wave: (E[d], P(d > 0)), from the oriented values of the runs and the variance of one run."""
    found = []
    for column in range(len(design[0])):
        on = [value for value, row in zip(values, design, strict=True) if row[column]]
        off = [value for value, row in zip(values, design, strict=True) if not row[column]]
        seen = math.fsum(on) / len(on) - math.fsum(off) / len(off)
        after = posterior(seen, var * (1 / len(on) + 1 / len(off)), SCALES, knowledge.counts, knowledge.scale)
        found.append((after.mean, after.above(0.0)))
    return found


def _lineage(state: State) -> set[int]:
    parents = {leaf.number: leaf.parent for leaf in state.leaves}
    line, at = set(), state.tip
    while at in parents and at not in line:
        line.add(at)
        at = parents[at]
    return line


def _lower(leaf: Leaf) -> float:
    return leaf.mean - 1.645 * leaf.sd
