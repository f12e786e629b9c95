"""The tier of real runs: constants of the nanodigits template stepped at random, judged as they would be at night.

What a study delivered is measured again at its end, together with the baseline, on seeds that nobody has seen.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from nights import Ours

import overnight
from overnight.constants import edit, find, step

TEMPLATE = Path(overnight.__file__).parent / "templates" / "nanodigits"
_FRESH = range(10_000, 10_008)


class Trainings:
    """Real trainings of ``train.py``; a state is its source."""

    def __init__(self, folder: Path) -> None:
        self.copy = folder / "copy"
        shutil.copytree(TEMPLATE, self.copy, ignore=shutil.ignore_patterns("__pycache__"))
        self.source = (self.copy / "train.py").read_bytes()

    def run(self, level: bytes, node: int, seed: int, attempt: int, worker: int = 0) -> float:
        """The accuracy of one training; nan if it gave none."""
        del node, attempt, worker
        (self.copy / "train.py").write_bytes(level)
        env = {"PATH": os.environ.get("PATH", ""), "OVERNIGHT_SEED": str(seed)}
        done = subprocess.run([sys.executable, "train.py"], cwd=self.copy, env=env, capture_output=True, text=True, timeout=60, check=False)
        return float(done.stdout.rsplit("@acc=", 1)[1]) if done.returncode == 0 and "@acc=" in done.stdout else float("nan")


def stepped(source: bytes, rng: random.Random) -> bytes:
    """One constant of the source, moved."""
    constant = rng.choice(find(source.decode(), "train.py"))
    return edit(source, {constant.name: step(constant, rng)})


def single(train: Trainings, runs: int, rng: random.Random) -> tuple[bytes, float]:
    """Keep whatever beats the best value seen; what is delivered, and the gain that it claims."""
    source = train.source
    best = first = train.run(source, 0, 0, 0)
    for seed in range(1, runs):
        tried = stepped(source, rng)
        if (value := train.run(tried, 0, seed, 0)) > best:
            source, best = tried, value
    return source, best - first


def tier(seeds: int, runs: int) -> None:
    """Print what was claimed and what was delivered."""
    print(f"real: {seeds} nights of {runs} trainings of nanodigits; accuracy, delivered measured on {len(_FRESH)} fresh seeds")
    found: dict[str, list[tuple[float, float, float]]] = {"single run": [], "balanced": []}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            train = Trainings(Path(folder))
            one, claimed = single(train, runs, random.Random(seed))
            play, rng = Ours(train, runs), random.Random(seed)
            two, night = play.climb(train.source, lambda source, _, rng=rng: stepped(source, rng))  # type: ignore[misc]
            base, *ends = (np.array([train.run(source, 0, at, 0) for at in _FRESH]) for source in (train.source, one, two))
            found["single run"].append((claimed, float(np.mean(ends[0] - base)), 0.0))
            found["balanced"].append(
                (night.claimed, float(np.mean(ends[1] - base)), float(night.low <= np.mean(ends[1] - base) <= night.high))
            )
    for name, rows in found.items():
        claims, true, cover = (np.array(column) for column in zip(*rows, strict=True))
        print(f"  {name:12s}claimed {claims.mean():.4f}  delivered {true.mean():.4f} ± {1.96 * true.std(ddof=1) / len(true) ** 0.5:.4f}"
              f"  claimed - delivered {np.mean(claims - true):+.4f}  covered {cover.mean():.2f}")  # fmt: skip
