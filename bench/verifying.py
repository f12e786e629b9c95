"""How often honest workers are put in quarantine, and how soon one that lies is: nights of second opinions, simulated with known truth.

``python bench/verifying.py [NIGHTS]``. A night is 100 experiments on three workers of one class; what seems better than the best so far by more
than its noise, and a tenth of the rest, is measured by a second worker, and by a third where two are apart. The rule is the shipping one
(``judge.agreement``, with what the baseline and all second runs by then show of the noise). Values are in sd of one run.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from overnight.judge.agreement import BASELINE, BETTER, STRIKES, compare, known, sampled
from overnight.judge.records import Knowledge, Rules, Run
from overnight.models import Direction

RULES = Rules(Direction.MAXIMIZE)
WORKERS, EXPERIMENTS = 3, 100
Noise = Callable[[random.Random], float]


def normal(chance: random.Random) -> float:
    """As most noise is."""
    return chance.gauss(0, 1)


def heavy(chance: random.Random) -> float:
    """Student's t with three degrees of freedom, of sd 1."""
    return chance.gauss(0, 1) / math.sqrt(chance.gammavariate(1.5, 2) / 3) / math.sqrt(3)


def diverging(chance: random.Random) -> float:
    """One run of fifty diverges."""
    return -50.0 if chance.random() < 0.02 else chance.gauss(0, 1)


@dataclass
class Night:
    """What becomes of three workers, of which the first says ``lie`` more than it measured (0: all are honest)."""

    seed: int
    noise: Noise
    lie: float = 0.0
    versions: list[tuple[Run, ...]] = field(default_factory=list)  # runs of one version each, that count
    strikes: dict[str, list[bool]] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    extra: int = 0  # runs for second and third opinions
    claims: int = 0  # of the liar, that were looked at before it was found
    passed: int = 0  # of these, that were borne out

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.versions.append(tuple(self._run(0.0, at, f"w{at % WORKERS}", honest=True) for at in range(BASELINE)))
        best = 0.0
        for number in range(2, EXPERIMENTS + 2):
            best = self._experiment(number, best)

    def _run(self, level: float, seed: int, worker: str, *, honest: bool = False) -> Run:
        lie = self.lie if worker == "w0" and not honest else 0.0
        return Run(level + self.noise(self.chance) + lie, seed, "gpu")

    def _experiment(self, number: int, best: float) -> float:
        level = best + self.chance.choice([0.0, 0.0, 0.0, -1.0, -4.0, 0.5, 1.5])
        here = [name for name in (f"w{at}" for at in range(WORKERS)) if name not in self.gone]
        order = self.chance.sample(here, len(here))
        said = {order[0]: [self._run(level, number, order[0])]}
        if said[order[0]][0].value < best + 1.5 and not sampled(number, self.seed):
            return best
        claimed = self.lie and order[0] == "w0"
        self.claims += bool(claimed)
        for worker in order[1:]:
            said[worker] = [self._run(level, 1000 + number, worker)]
            self.extra += 1
            if not (found := compare(said, known(self.versions, Knowledge(), RULES))).torn:
                break
        if found.odd:
            self._outvoted(found.odd, better=found.better)
        runs = tuple(run for name, each in said.items() if name != found.odd for run in each)
        self.versions.append(runs)
        if found.torn:
            return best
        self.passed += bool(claimed and found.odd != "w0")
        return max(best, level) if sum(run.value for run in runs) / len(runs) > best else best

    def _outvoted(self, odd: str, *, better: bool) -> None:
        self.strikes.setdefault(odd, []).append(better)
        if sum(self.strikes[odd]) >= BETTER or len(self.strikes[odd]) >= STRIKES:
            self.gone.append(odd)


def main(nights: int) -> None:
    """Print the figures."""
    for noise in (normal, heavy, diverging):
        found = [Night(seed, noise) for seed in range(nights)]
        false = sum(len(night.gone) for night in found)
        extra = sum(night.extra for night in found) / nights
        print(
            f"@noise={noise.__name__} nights={nights} honest_workers_in_quarantine={false} per_night={false / nights:.5f} extra_runs={extra:.1f}"
        )
    for lie in (2.0, 4.0, 8.0, 16.0, 32.0):
        found = [Night(seed, normal, lie) for seed in range(max(nights // 10, 20))]
        caught = sum("w0" in night.gone for night in found) / len(found)
        wrong = sum(name != "w0" for night in found for name in night.gone)
        claims, passed = (sum(getattr(night, name) for night in found) for name in ("claims", "passed"))
        print(
            f"@lie={lie:g} nights={len(found)} caught={caught:.2f} claims_before={claims / len(found):.1f} borne_out={passed / max(claims, 1):.2f} honest_in_quarantine={wrong}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
