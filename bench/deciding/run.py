"""The benchmark of the judgement: every rule on the same nights, all figures side by side, with intervals over seeds.

``python bench/deciding/run.py [--quick] [--seeds N] [--first N] [--runs N] [--tiers sim,early,slots,real,tab]``
Nights 0 to 23 and those from 2000 on were looked at while the judgement was tuned; the figures to quote are of nights from 1000 on, the default.
A figure is a mean with the half-width of its 95 % interval over seeds (normal; for false keeps, a bootstrap over nights).
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from early import measure
from nights import RULES, Night
from real import tier as real_tier
from slots import tier as slots_tier
from streams import STREAMS, World
from tab import tier as tab_tier


def mean(values: list[float]) -> str:
    """Mean and half-width of its 95 % interval."""
    return f"{np.mean(values):6.2f} ±{1.96 * np.std(values, ddof=1) / len(values) ** 0.5:5.2f}"


def ratio(top: list[float], bottom: list[float]) -> str:
    """A ratio of sums over nights, with its bootstrap half-width."""
    if not sum(bottom):
        return "   -       "
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(top), (300, len(top)))
    drawn = np.array(top)[picks].sum(1) / np.maximum(np.array(bottom)[picks].sum(1), 1)
    return f"{sum(top) / sum(bottom):5.2f} ±{1.96 * float(np.std(drawn)):4.2f}"


def line(name: str, nights: list[Night]) -> str:
    """One row of the table."""
    keeps = [float(night.keeps) for night in nights]
    cover = [float(night.low <= night.gain <= night.high) for night in nights]
    ms = 1000 * sum(night.seconds for night in nights) / max(1, sum(night.decisions for night in nights))
    return (
        f"  {name:18s}{mean([night.gain for night in nights])}  {ratio([float(n.null + n.harmful) for n in nights], keeps)}"
        f"  {ratio([float(n.harmful) for n in nights], keeps)}  {np.mean(keeps):5.1f}  {np.mean([n.missed for n in nights]):5.1f}"
        f"  {mean([night.claimed - night.gain for night in nights])}  {np.mean(cover):5.2f}"
        f"  {np.mean([night.checks / max(night.runs, 1) for night in nights]):5.2f}  {np.mean([night.audits / max(night.runs, 1) for night in nights]):5.2f}"
        f"  {ms:5.1f}"
    )


def sim(first: int, seeds: int, runs: int, only: str, rules: str = "") -> None:
    """The tier with known truth."""
    print(f"sim: {seeds} nights of {runs} runs; gain, claimed - true in sd of one run; false and harmful as shares of keeps")
    print(
        f"  {'rule':18s}{'true gain':14s} {'false':12s} {'harmful':11s} {'keeps':6s} {'missed':6s} {'claimed - true':15s} {'cover':6s} checks audits  ms"
    )
    for stream in STREAMS.values():
        if only not in stream.name:
            continue
        print(f" {stream.name}", flush=True)
        worlds = [World(stream, first + seed) for seed in range(seeds)]
        for name, rule in RULES.items():
            if rules and name not in rules.split(","):
                continue
            if name == "waves" and (stream.crash or len(stream.workers) > 1):
                continue  # the switch rule: edits that crash are not crossed
            print(line(name, [rule(world, runs) for world in worlds]), flush=True)


def early(first: int, seeds: int) -> None:
    """The tier of early stop."""
    print(f"early stop of edits: {seeds} nights of 60 edits; wrong kills as a share of improvements, share of all steps saved")
    for losers in (0.37, 0.55):
        print(f" {losers:.0%} of the edits are clear losers: at most {0.85 * losers:.0%} can be saved")
        rows = [measure(first + seed, losers=losers) for seed in range(seeds)]
        for name in rows[0]:
            wrong = ratio([row[name][0] for row in rows], [row[name][1] for row in rows])
            print(f"  {name:18s}wrong kills {wrong}  saved {mean([row[name][2] for row in rows])}")


def main() -> int:
    """Run the tiers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--tiers", default="sim,early,slots,real,tab")
    parser.add_argument("--only", default="", help="streams whose name holds this")
    parser.add_argument("--rules", default="", help="rules of the first and of the last tier, with commas; empty = all")
    found = parser.parse_args()
    seeds, begun = found.seeds or (6 if found.quick else 20), time.monotonic()
    tiers = found.tiers.split(",")
    if "sim" in tiers:
        sim(found.first, seeds, found.runs, found.only or ("2 sd" if found.quick else ""), found.rules)
    if "early" in tiers:
        early(found.first, seeds)
    if "slots" in tiers:
        slots_tier(found.first, seeds)
    if "real" in tiers:
        real_tier(2 if found.quick else 6, 12 if found.quick else 40)
    if "tab" in tiers:
        tab_tier(found.first, seeds, found.rules)
    print(f"{time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
