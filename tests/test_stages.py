"""A loop that is killed at one of the stages of an experiment, wherever in the night, goes on at the same number to the same outcome."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from studies import Study, ended, study  # noqa: F401 - ended is used by every test
from told import COUNTING, answer

STORE = "overnight.store.store:Store."
SUBMIT = "overnight.executors.local:LocalExecutor.submit=t-"
# What has just been written when a stage is reached, and what would be written next.
STAGES = {
    "proposed": (STORE + "propose", STORE + "advance=committed"),
    "committed": (STORE + "advance=committed", STORE + "attempt"),
    "submitted": (STORE + "attempt", SUBMIT),
    "running": (SUBMIT, STORE + "ran"),
    "measured": (STORE + "advance=measured", STORE + "decide"),
    "decided": (STORE + "decide", STORE + "advance=applied"),
    "applied": (STORE + "advance=applied", STORE + "propose"),
}
AGENT = COUNTING.replace("SLOW", "none")


def killed(found: Study, when: str, nth: int, point: str) -> int:
    """How a loop ends that is killed at that point."""
    script = Path(__file__).with_name("killed.py")
    argv = [sys.executable, str(script), when, str(nth), point, *found.command("run")[3:]]
    return subprocess.run(argv, cwd=found.root, env=found.env, capture_output=True, timeout=60, check=False).returncode


def wrong_after(folder: Path, stage: str, seed: int, budget: int) -> list[str]:
    """What is wrong with a night whose loop was killed once to three times at that stage, of experiments drawn by ``seed``."""
    chance = random.Random(f"{stage} {seed}")
    found = study(folder, {}, "--budget", str(budget), agent=AGENT)
    reached, following = STAGES[stage]
    codes = []
    for turn in range(chance.choice((1, 2, 3))):
        late = chance.random() < 0.5
        nth = chance.randint(1, budget) if turn == 0 else chance.randint(1, 2)
        codes.append(killed(found, "before" if late else "after", nth + (late and stage == "applied"), following if late else reached))
    done = found.call("run")
    rows = found.rows()
    expected: list[Any] = [(1, "baseline", "keep", 1.0)]
    expected += [(number, *answer(left)) for number, left in enumerate(range(budget, 0, -1), 2)]
    told = [(row["number"], row["description"], row["decision"], row["value"]) for row in rows]
    once = [f"exp-{number:03d}" for number in range(1, budget + 2)]
    wrong = found.faults(rows) + ([f"code {done.code}: {done.err}"] if done.code else [])
    wrong += [f"killed: {codes}"] if codes[0] != -signal.SIGKILL or set(codes) - {-signal.SIGKILL, 0} else []
    wrong += [f"rows {told}"] if told != expected else []
    return wrong + ([f"runs {found.runs()}"] if found.runs() != once else [])


@pytest.mark.parametrize("stage", STAGES)
def test_a_loop_killed_at_a_stage_goes_on_at_the_same_number_to_the_same_outcome(tmp_path: Path, stage: str) -> None:
    assert wrong_after(tmp_path, stage, 0, 3) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("stage", STAGES)
def test_twenty_times_a_loop_killed_at_a_stage_goes_on_at_the_same_number_to_the_same_outcome(tmp_path: Path, stage: str) -> None:
    wrong = {seed: wrong_after(tmp_path / str(seed), stage, seed, 8) for seed in range(1, 21)}
    assert {seed: found for seed, found in wrong.items() if found} == {}
