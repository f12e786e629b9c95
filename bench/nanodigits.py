"""The demo without the loop: ask, run, tell, keep if better, on the nanodigits template, with real runs.

``python bench/nanodigits.py [SEEDS] [RUNS]`` prints, for each seed of the search, the baseline, the best kept and what was kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import overnight
from overnight.errors import ProposalError
from overnight.models import Decision, Direction, Experiment, Operator, Stage, Study
from overnight.proposers.optuna_search import OptunaProposer
from overnight.protocols import Request
from overnight.settings import Settings

TEMPLATE = Path(overnight.__file__).parent / "templates" / "nanodigits"


@dataclass(frozen=True)
class Night:
    """What came of one search: values in the order they were measured (None = crash), hypotheses of the keeps."""

    values: tuple[float | None, ...]
    kept: tuple[str, ...]
    seconds: float

    @property
    def gain(self) -> float:
        """How much the best beats the baseline, in accuracy as measured."""
        return max(value for value in self.values if value is not None) - (self.values[0] or 0.0)


def measure(copy: Path, seed: int) -> float | None:
    """Run ``train.py`` as a process of its own; its last ``@acc=``, or None if it gave none."""
    env = {"PATH": os.environ.get("PATH", ""), "OVERNIGHT_SEED": str(seed)}
    done = subprocess.run([sys.executable, "train.py"], cwd=copy, env=env, capture_output=True, text=True, timeout=60, check=False)
    return float(done.stdout.rsplit("@acc=", 1)[1]) if done.returncode == 0 and "@acc=" in done.stdout else None


def search(seed: int, runs: int, *, fresh_seeds: bool = True) -> Night:
    """One search of ``runs`` experiments after the baseline; with ``fresh_seeds`` every run has a training seed of its own."""
    begun = time.monotonic()
    proposer = OptunaProposer(seed, Direction.MAXIMIZE)
    study = Study(1, "bench", "autoresearch/bench", "", "acc", Direction.MAXIMIZE, Settings(), 0.0)
    values: list[float | None] = []
    kept: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(TEMPLATE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        parent = Experiment(0, 0, Operator.BASELINE, Stage.APPLIED, "", "baseline", 0.0)
        best_source, best = (copy / "train.py").read_bytes(), -1.0
        for number in range(runs + 1):
            (copy / "train.py").write_bytes(best_source)
            row = parent
            if number:
                request = Request(f"r{number}", study, Operator.IMPROVE, parent, copy, copy, ("train.py",), "", lambda: False)
                idea = proposer.ask(request)
                row = Experiment(number, parent.number, Operator.IMPROVE, Stage.APPLIED, "optuna", idea.hypothesis, 0.0, state=idea.state)
            source = (copy / "train.py").read_bytes()
            value = measure(copy, 1000 * seed + (number if fresh_seeds else 0))
            decision = Decision.CRASH if value is None else Decision.KEEP if value > best else Decision.DISCARD
            row = Experiment(number, row.parent, row.operator, row.stage, row.proposer, row.description, 0.0,
                             decision=decision, value=value, state=row.state)  # fmt: skip
            proposer.tell(row, lambda source=source: {"train.py": source})  # type: ignore[misc]
            values.append(value)
            if value is not None and decision is Decision.KEEP:
                best, best_source, parent = value, source, row
                kept += [row.description] if number else []
    return Night(tuple(values), tuple(kept), time.monotonic() - begun)


def main() -> None:
    """Print one line a seed and the sum of all."""
    seeds, runs = (int(word) for word in (sys.argv[1:] + ["10", "12"][len(sys.argv) - 1 :]))
    nights = []
    for seed in range(seeds):
        try:
            night = search(seed, runs)
        except ProposalError as exc:
            print(exc)
            continue
        nights.append(night)
        print(f"seed {seed}: {night.values[0]:.4f} -> {max(v for v in night.values if v is not None):.4f} in {night.seconds:.1f} s; "
              f"kept: {'; '.join(night.kept) or 'nothing'}")  # fmt: skip
    improved = sum(bool(night.kept) for night in nights)
    print(f"improvement kept for {improved} of {seeds} seeds in {runs} runs; mean gain {sum(n.gain for n in nights) / len(nights):.4f}")


if __name__ == "__main__":
    main()
