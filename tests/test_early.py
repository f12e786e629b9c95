"""Runs that are ended before their time: clear losers by the best run's own curve, sick ones by themselves."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import warm
from overnight.judge.stopping import spared
from overnight.testing import repository

_TRAIN = """\
import os, random, time
OFFSET = 1.0
random.seed(int(os.environ["OVERNIGHT_SEED"]))
for step in range(30):
    print(f"@loss={5 / (step + 1) + OFFSET + random.random() * 0.05:.4f} @step={step}", flush=True)
    time.sleep(0.002 if OFFSET == 1.0 else 0.05)  # seconds enough to be ended in
"""


def _rows(folder: Path, edit: str, *words: str) -> list[dict[str, Any]]:
    """The rows of a study with one proposal, which ``edit`` makes."""
    repository(folder, {"train.py": _TRAIN})
    python = f"{sys.executable} -I -S train.py"
    env = {"PATH": os.environ["PATH"], "HOME": str(folder.parent)}
    given = ("--budget", "1", "--proposer-command", edit, "--metric", "loss", *words)
    done = warm.run(("run", *given, "--", *python.split()), folder, env, 120)
    assert done.returncode == 0, done
    done = warm.run(("ls", "--json"), folder, env)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_run_far_below_the_best_curve_is_ended_early_and_discarded(tmp_path: Path) -> None:
    baseline, loser = _rows(tmp_path / "r", "sed -i 's/^OFFSET = .*/OFFSET = 4.0/' train.py; echo worse")
    seen = (
        baseline["decision"],
        loser["decision"],
        loser["cause"].split(":")[0],
        loser["value"],
        bool(re.search(r" at step 1?\d,", loser["cause"])),
    )
    assert seen == ("keep", "discard", "stopped early", None, True)


def test_a_run_whose_metric_is_no_number_is_ended_early(tmp_path: Path) -> None:
    rows = _rows(tmp_path / "r", "sed -i 's/^OFFSET = .*/OFFSET = float(\"nan\")/' train.py; echo sick", "--early-stop", "health")
    assert (rows[1]["decision"], rows[1]["cause"]) == ("discard", "stopped early: the metric is nan at step 0")


def test_without_early_stop_a_loser_runs_to_its_end(tmp_path: Path) -> None:
    rows = _rows(tmp_path / "r", "sed -i 's/^OFFSET = .*/OFFSET = 4.0/' train.py; echo worse", "--early-stop", "off")
    assert (rows[1]["decision"], rows[1]["value"] is not None) == ("discard", True)


def test_a_broad_search_ends_the_lower_two_thirds_at_a_rung(tmp_path: Path) -> None:
    rows = _rows(
        tmp_path / "r", 'sed -i "s/^OFFSET = .*/OFFSET = 4.$(date +%N)/" train.py; echo worse', "--early-stop", "asha", "--budget", "2"
    )
    assert (rows[1]["value"] is not None, rows[2]["cause"].startswith("stopped early: "), " of 3 at step " in rows[2]["cause"]) == (
        True,
        True,
        True,
    )


def test_a_run_that_is_spared_goes_on_and_status_counts_it(tmp_path: Path) -> None:
    seed = next(seed for seed in range(1000) if spared(2, seed))
    _, loser = _rows(tmp_path / "r", "sed -i 's/^OFFSET = .*/OFFSET = 4.0/' train.py; echo worse", "--seed", str(seed))
    assert (loser["decision"], loser["value"] is not None, "behind the best run's curve" in loser["spared"]) == ("discard", True, True)
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = warm.run(("status",), tmp_path / "r", env)
    assert "EARLY     0 runs ended before the time; of 1 that were let go on, 0 would have been ended wrongly" in done.stdout
