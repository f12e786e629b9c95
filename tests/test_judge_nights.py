"""Small nights over edits of known truth: the judgement gains, and few of its keeps are false."""

from __future__ import annotations

import random
from dataclasses import replace

from overnight.judge import Action, Budget, Knowledge, Node, Rules, Run, judge, learn_result, learn_run, next_seed
from overnight.judge.audit import report
from overnight.models import Direction

RULES = Rules(Direction.MINIMIZE)


def night(seed: int, good: float, effect: float, runs: int = 60) -> tuple[float, int, int, float, int]:
    """True gain, keeps, false keeps, claimed gain, second looks; in sd of one run, half of whose variance is the seed's."""
    rng = random.Random(seed)
    luck: dict[int, float] = {}
    known, truth, left = Knowledge(), {0: 0.0}, runs

    def run(node: Node, known: Knowledge, at: int) -> tuple[Node, Knowledge]:
        shared = luck.setdefault(at, rng.gauss(0, 1))
        value = 5 - 0.01 * (truth[node.number] + 0.5**0.5 * shared + 0.5**0.5 * rng.gauss(0, 1))
        node = replace(node, runs=(*node.runs, Run(value, at)))
        return node, learn_run(known, node, RULES)

    best = Node(0, (), kind="baseline")
    for at in range(3):
        best, known = run(best, known, at)
    first, left, keeps, false = best, left - 3, 0, 0
    for number in range(1, runs):
        draw = rng.random()
        d = rng.gammavariate(4, effect / 4) if draw < good else 0.0 if draw < good + 0.45 else -rng.expovariate(0.5)
        truth[number] = truth[best.number] + d
        node = Node(number, (), kind="constants", parent=best.number)
        node, known = run(node, known, next_seed(node, known, RULES))
        left -= 1
        while not (found := judge(node, best, known, RULES, Budget(left))).final:
            left -= 1
            if found.action is Action.REPLICATE:
                node, known = run(node, known, found.seed or 0)
            else:
                best, known = run(best, known, found.seed or 0)
        known = learn_result(known, node, best, found, RULES)
        if found.kept:
            keeps, false, best = keeps + 1, false + (d <= 0), node
        if left <= 0:
            break
    return truth[best.number], keeps, false, report(best, first, known, RULES).gain / 0.01, known.checks


def test_most_keeps_are_true_and_the_gain_is_real_and_as_claimed() -> None:
    nights = [night(seed, 0.2, 2.0) for seed in range(7)]
    gain, keeps, false, claimed, checks = (sum(figures) / len(nights) for figures in zip(*nights, strict=True))
    found = (gain > 7, false / keeps < 0.3, abs(claimed - gain) < 1.0, checks / 60 < 0.2)
    assert found == (True, True, True, True)


def test_where_nothing_helps_next_to_nothing_is_kept() -> None:
    assert sum(night(seed, 0.0, 1.0)[1] for seed in range(4)) <= 7
