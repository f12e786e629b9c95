"""The loop is killed, at every stage and at any moment, and started again: nothing is lost and nothing is done twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from overnight.testing import git
from studies import Study, bearers, ended, study, until  # noqa: F401 - ended is used by every test

# What it proposes depends on nothing but the brief: how many experiments there were, and whether one is to be mended.
STEADY = """\
set -u
n=$(grep -c '^- #[0-9]* (from' "$OVERNIGHT_BRIEF")
case $OVERNIGHT_OPERATOR-$n in
  improve-1) echo "print('@loss=0.5')" > train.py; echo 'halved' ;;
  improve-2) echo "print(missing)" > train.py; echo 'a typo' ;;
  repair-*) echo "print('@loss=0.4')" > train.py; echo 'mended' ;;
  improve-4) echo 'size = 0' > prepare.py; echo 'a cheat' ;;
  *) echo "print('@loss=0.$((600 - n))')" > train.py; echo 'worse' ;;
esac
"""
# Depends on nothing but what is left of the budget.
COUNTING = """\
left=$(sed -n 's/.*Budget left: \\([0-9]*\\) experiments.*/\\1/p' "$OVERNIGHT_BRIEF")
case $left in
  *[37]) echo "raise SystemExit($left)" > train.py ;;
  *) echo "print('@loss=0.$((left + 100))')" > train.py ;;
esac
echo "left $left"
"""

ROWS = [
    (1, None, "baseline", "keep", 1.0, "baseline", "baseline"),
    (2, 1, "improve", "keep", 0.5, "halved", "better than #1 by 0.5"),
    (3, 2, "improve", "crash", None, "a typo", "NameError: name 'missing' is not defined"),
    (4, 2, "repair", "keep", 0.4, "mended", "better than #2 by 0.1"),
    (5, 4, "improve", "discard", None, "a cheat", "rejected: changed protected files: prepare.py"),
    (6, 4, "improve", "discard", 0.595, "worse", "worse than #4 by 0.195"),
]
RUNS = ["exp-001", "exp-002", "exp-003", "exp-004", "exp-006"]


def steady(folder: Path, *words: str) -> Study:
    return study(folder, {}, "--budget", "5", *words, agent=STEADY)


def killed(found: Study, when: str, nth: int, point: str) -> int:
    """How a loop ends that is killed at that point."""
    script = Path(__file__).with_name("killed.py")
    argv = [sys.executable, str(script), when, str(nth), point, *found.command("run")[3:]]
    return subprocess.run(argv, cwd=found.root, env=found.env, capture_output=True, timeout=60, check=False).returncode


def outcome(found: Study) -> tuple[Any, ...]:
    """Every row, how often each experiment was trained, and what is wrong."""
    rows = found.rows()
    names = ("number", "parent", "operator", "decision", "value", "description")
    told = [(*(row[name] for name in names), row["cause"].partition(";")[0]) for row in rows]
    return (told, found.runs(), found.faults(rows))


STORE, SPACE, LEDGER = "overnight.store.store:Store.", "overnight.workspace:Workspace.", "overnight.ledger:Ledger."
POINTS = {
    "before the study is recorded": ("before", 1, STORE + "create_study"),
    "after the study is recorded": ("after", 1, STORE + "create_study"),
    "after the branch is made": ("after", 1, SPACE + "create_branch"),
    "before the baseline is numbered": ("before", 1, STORE + "propose"),
    "after the baseline is numbered": ("after", 1, STORE + "propose"),
    "while the baseline is trained": ("after", 1, "overnight.executors.local:LocalExecutor.submit=t-1.1"),
    "after the baseline is decided": ("after", 1, STORE + "decide"),
    "proposed": ("after", 2, STORE + "propose"),
    "before the commit": ("before", 1, SPACE + "commit"),
    "after the commit": ("after", 1, SPACE + "commit"),
    "committed": ("after", 2, STORE + "advance=committed"),
    "submitted": ("after", 2, STORE + "attempt"),
    "before its folder is laid out": ("before", 1, SPACE + "export=t-2.1"),
    "before the job is started": ("before", 1, "overnight.executors.local:LocalExecutor.submit=t-2.1"),
    "running": ("after", 1, "overnight.executors.local:LocalExecutor.submit=t-2.1"),
    "before the run is recorded": ("before", 2, STORE + "ran"),
    "after the run is recorded": ("after", 2, STORE + "ran"),
    "measured": ("after", 2, STORE + "advance=measured"),
    "decided": ("after", 2, STORE + "decide"),
    "after the last commit": ("after", 2, SPACE + "commit"),
    "before the branch moves": ("before", 1, SPACE + "move_branch"),
    "after the branch has moved": ("after", 1, SPACE + "move_branch"),
    "after the row is written": ("after", 4, "overnight.results:Table.add"),
    "applied": ("after", 2, STORE + "advance=applied"),
    "after a crash is decided": ("after", 3, STORE + "decide"),
    "after a crash is applied": ("after", 3, STORE + "advance=applied"),
    "after a repair is proposed": ("after", 4, STORE + "propose"),
    "after a rejected proposal is numbered": ("after", 5, STORE + "propose"),
    "after a rejected proposal is decided": ("after", 5, STORE + "decide"),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_loop_that_is_killed_goes_on_with_the_same_numbers_and_results(tmp_path: Path, point: str) -> None:
    found = steady(tmp_path)
    code = killed(found, *POINTS[point])
    done = found.call("run")
    assert (code, done.code, outcome(found)) == (-signal.SIGKILL, 0, (ROWS, RUNS, [])), done


@pytest.mark.parametrize("point", ["submitted", "before the job is started"])
def test_a_loop_that_is_killed_at_one_point_five_times_does_not_hold_it_against_the_experiment(tmp_path: Path, point: str) -> None:
    found = steady(tmp_path)
    when, _, place = POINTS[point]
    codes = [killed(found, *POINTS[point])] + [killed(found, when, 1, place.partition("=")[0]) for _ in range(4)]
    done = found.call("run")
    assert (codes, done.code, outcome(found)) == ([-signal.SIGKILL] * 5, 0, (ROWS, RUNS, [])), done


@pytest.mark.parametrize("slots", ["1", "2"])
def test_every_result_that_is_printed_stands_below_the_name_of_its_experiment(tmp_path: Path, slots: str) -> None:
    found = study(tmp_path, {}, "--budget", "3", "--slots", slots, agent=COUNTING)
    killed(found, "after", 2, STORE + "decide")
    done = found.call("run")
    names, told = re.compile(r"\[loop\] (?:Baseline|Cycle (\d+))"), {}
    blocks = re.split(r"\n(?=\[loop\])", done.out)
    for block in blocks:
        results = re.findall(r"^  Result: (\S+)", block, re.MULTILINE)
        if results:
            name = names.match(block)
            told[int(name[1] or 0) + 1 if name else 0] = results
    rows = {row["number"]: f"@loss={row['value']:.4g}" if row["value"] else row["decision"] for row in found.rows()[1:]}
    assert told == {number: [result] for number, result in rows.items()}, done.out


def test_a_crash_that_was_to_be_repaired_is_repaired_after_a_stop(tmp_path: Path) -> None:
    found = steady(tmp_path)
    killed(found, "after", 3, STORE + "advance=applied")
    found.call("run", "--budget", "2")  # nothing left to do
    found.call("run")
    assert outcome(found) == (ROWS, RUNS, [])


def killed_after(found: Study, turn: int, seconds: float) -> int:
    """How a loop ends that is killed so long after it has begun to work."""
    loop = found.spawn(found.command("run"))
    until(lambda: found.said().count("[loop] study t: ") > turn or loop.poll() is not None)
    with contextlib.suppress(subprocess.TimeoutExpired):
        loop.wait(seconds)
    loop.kill()
    return loop.wait()


def test_fifteen_kills_at_random_moments_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    found = study(tmp_path, {}, "--budget", "20", agent=COUNTING)
    moments = random.Random(7)
    codes = [killed_after(found, turn, moments.uniform(0.0, 0.25)) for turn in range(15)]
    done = found.call("run")
    crashes = {left for left in range(21) if str(left)[-1] in "37"}
    expected: list[tuple[int, str, str, float | None]] = [(1, "baseline", "keep", 1.0)]
    for number, left in enumerate(range(20, 0, -1), 2):
        expected.append((number, f"left {left}", "crash" if left in crashes else "keep", None if left in crashes else (left + 100) / 1000))
    rows = [(row["number"], row["description"], row["decision"], row["value"]) for row in found.rows()]
    once = [f"exp-{number:03d}" for number in range(1, 22)]
    assert (codes, done.code, rows, found.runs(), found.faults()) == ([-9] * 15, 0, expected, once, [])


def test_a_training_goes_on_without_its_loop_and_the_next_loop_adopts_it(tmp_path: Path) -> None:
    found = study(tmp_path, {}, "--budget", "2")
    found.gate(1, 0.5)
    first = found.spawn(found.command("run"))
    pids = found.waiting()
    first.kill()
    first.wait()
    second = found.spawn(found.command("run"))
    until(lambda: "[loop] study t: going on" in found.said())
    found.open_gate()
    code = second.wait(60)
    rows = [(row["decision"], row["value"]) for row in found.rows()]
    expected = [("keep", 1.0), ("keep", 0.5), ("keep", 0.488)]
    assert (code, rows, found.waiting(), found.runs(), found.faults()) == (0, expected, pids, ["exp-001", "exp-002", "exp-003"], [])


def test_a_training_without_its_loop_is_still_ended_at_its_limit(tmp_path: Path) -> None:
    found = study(tmp_path, {}, "--budget", "2", "--time-limit", "3")
    found.gate(1, 0.5)
    first = found.spawn(found.command("run"))
    pids = found.waiting()
    first.kill()
    first.wait()
    until(lambda: not Path(f"/proc/{pids[0]}").exists())
    done = found.call("run")
    rows = [(row["decision"], row["cause"]) for row in found.rows()[1:]]
    expected = [("crash", "time limit of 3 s"), ("keep", "better than #1 by 0.512")]
    assert (done.code, rows, found.runs(), found.faults()) == (0, expected, ["exp-001", "exp-002", "exp-003"], []), done


def test_a_training_whose_loop_and_supervisor_were_killed_is_ended_and_run_again(tmp_path: Path) -> None:
    found = study(tmp_path, {}, "--budget", "1")
    found.gate(1, 0.5)
    first = found.spawn(found.command("run"))
    found.waiting()
    supervisor = json.loads((found.root / ".overnight" / "jobs" / "t-2.1" / "status.json").read_text())["pid"]
    for pid in (first.pid, supervisor):
        os.kill(pid, signal.SIGKILL)
    first.wait()
    second = found.spawn(found.command("run"))
    until(lambda: len(found.waiting()) == 2)
    at_once = sum("train.py" in line for line in bearers(str(found.out.parent)).values())
    found.open_gate()
    code = second.wait(60)
    rows = [(row["number"], row["decision"], row["value"]) for row in found.rows()]
    expected = [(1, "keep", 1.0), (2, "keep", 0.5)]
    assert (code, at_once, rows, found.runs(), found.faults()) == (0, 1, expected, ["exp-001", "exp-002", "exp-002"], [])


def test_a_branch_that_cannot_be_made_leaves_no_study_behind(tmp_path: Path) -> None:
    found = steady(tmp_path)
    git(found.root, "branch", "autoresearch")  # where the folder of branches would be
    bad = found.call("run")
    listed = found.call("ls")
    git(found.root, "branch", "-D", "autoresearch")
    done = found.call("run")
    said = [text.partition(":")[0] for text in (bad.err, listed.err)]
    assert (bad.code, said, done.code, outcome(found)) == (2, ["error[E-BRANCH-EXISTS]", "error[E-NO-STUDY]"], 0, (ROWS, RUNS, [])), bad
