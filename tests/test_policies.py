"""Policies and waves in the real loop: what each tries next, and what all of them keep."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisy import TRAIN, TURNS, edit, noisy, table
from overnight import kinds
from overnight.judge.policies import POLICIES
from overnight.testing import git
from studies import Study, ended, study, until  # noqa: F401 - ended is used by every test

# --- policies ----------------------------------------------------------------------------------------------------


def test_every_policy_of_the_judgement_is_a_setting() -> None:
    assert set(kinds.POLICIES) == set(POLICIES)


@pytest.mark.parametrize("policy", kinds.POLICIES)
def test_whatever_the_policy_the_budget_is_kept_and_no_tree_is_run_twice(tmp_path: Path, policy: str) -> None:
    steps = {2: edit("B", 1.0), 3: edit("B", 1.0), 6: "echo 'raise SystemExit(3)' > train.py; echo crash\n", 8: edit("C", 1.0)}
    found = noisy(tmp_path, steps, "--budget", "9", "--policy", policy, "--slots", "2", agent=TURNS)
    done = found.call("run")
    rows = found.rows()
    ran = table(found, "SELECT digest FROM experiment WHERE number IN (SELECT number FROM job)")
    assert (done.code, len(rows) in (9, 10), len(set(ran)), found.faults()) == (0, True, len(ran), []), done


def test_an_unknown_policy_is_one_clear_error(tmp_path: Path) -> None:
    done = study(tmp_path, {}, "--policy", "greed").call("run")
    assert (done.code, "greedy, best-of-n, aide, uct, weighted, optuna, wave" in done.err, done.err.count("error")) == (2, True, 1), done


def parents(found: Study) -> list[int]:
    return [row["parent"] for row in found.rows()[1:]]


def test_greedy_starts_from_the_best(tmp_path: Path) -> None:
    found = noisy(tmp_path, {2: edit("B", 2.0), 4: edit("C", 2.0)}, "--budget", "6")
    found.call("run")
    assert parents(found) == [1, 1, 3, 3, 5, 5]


def test_greedy_tries_another_line_after_fifteen_discards_in_a_row(tmp_path: Path) -> None:
    near = {1: edit("B", 0.16), 2: edit("C", 0.15)}
    found = noisy(tmp_path, near, "--budget", "24", "--profile", "strict")
    found.call("run")
    rows = found.rows()
    assert [row["near"] for row in rows[1:3]] != [False, False], rows[1:3]
    assert {row["operator"] for row in rows[16:]} | {row["parent"] for row in rows[16:]} > {"improve", 1}


def test_best_of_n_tries_five_changes_of_one_parent_before_it_moves_on_from_the_best_of_them(tmp_path: Path) -> None:
    found = noisy(tmp_path, {1: edit("B", 1.0), 3: edit("B", 2.0)}, "--budget", "7", "--policy", "best-of-n")
    found.call("run")
    assert parents(found) == [1, 1, 1, 1, 1, 4, 4]


def test_aide_begins_with_five_drafts_of_the_baseline_and_then_improves_the_best(tmp_path: Path) -> None:
    found = noisy(tmp_path, {2: edit("B", 2.0)}, "--budget", "6", "--policy", "aide")
    found.call("run")
    rows = found.rows()[1:]
    assert [(row["operator"], row["parent"]) for row in rows] == [("draft", 1)] * 5 + [("improve", 3)]
    assert "fresh attempt" in (found.out / "brief.1").read_text()


def test_uct_comes_back_to_versions_that_are_not_the_best(tmp_path: Path) -> None:
    found = noisy(tmp_path, {1: edit("B", 2.0)}, "--budget", "9", "--policy", "uct")
    found.call("run")
    assert len(set(parents(found))) > 2


def test_weighted_draws_its_parents_by_rank(tmp_path: Path) -> None:
    found = noisy(tmp_path, {1: edit("B", 2.0)}, "--budget", "9", "--policy", "weighted")
    found.call("run")
    chosen = parents(found)
    assert (chosen[0], chosen.count(2) >= 2, len(set(chosen)) > 1) == (1, True, True), chosen


def test_optuna_as_a_policy_never_leaves_the_best(tmp_path: Path) -> None:
    found = noisy(tmp_path, {1: edit("B", 0.16), 2: edit("C", 2.0)}, "--budget", "19", "--policy", "optuna", "--profile", "strict")
    found.call("run")
    assert parents(found) == [1, 1, *[3] * 17]


# --- waves -------------------------------------------------------------------------------------------------------


def test_a_wave_runs_three_changes_in_four_runs_and_keeps_those_that_it_supports(tmp_path: Path) -> None:
    found = noisy(tmp_path, {1: edit("A", 1.0), 2: edit("B", -1.0), 3: edit("C", 1.5)}, "--budget", "5", "--policy", "wave", agent=TURNS)
    done = found.call("run")
    rows = found.rows()
    waves = [row for row in rows if row["operator"] == "wave"]
    best = found.status()["best"]
    files = git(found.root, "show", "autoresearch/t:train.py").splitlines()
    values = [line for line in files if line.startswith(("A = ", "B = ", "C = "))]
    assert (done.code, len(waves), values, best["operator"], found.faults()) == (0, 3, ["A = 1.0", "B = 0.0", "C = 1.5"], "wave", []), done
    assert table(found, "SELECT count(*) FROM job WHERE number=1") == [(4,)]  # three to learn the noise, and the wave's own


def test_what_a_wave_supports_is_run_once_where_none_of_its_rows_was_just_that(tmp_path: Path) -> None:
    found = noisy(tmp_path, {1: edit("A", 1.0), 2: edit("B", -1.0), 3: edit("C", -1.5)}, "--budget", "5", "--policy", "wave", agent=TURNS)
    found.call("run")
    last = next(row for row in found.rows() if row["operator"] == "combine")
    assert (last["operator"], last["decision"], last["description"]) == ("combine", "keep", "what the wave #2 to #4 supports: A = 1.0")


def test_changes_that_do_not_merge_are_tried_one_at_a_time(tmp_path: Path) -> None:
    steps = {number: edit("A", 1 + number / 10) for number in range(1, 8)}
    found = noisy(tmp_path, steps, "--budget", "6", "--policy", "wave", agent=TURNS)
    found.call("run")
    rows = found.rows()
    assert ("wave" in {row["operator"] for row in rows}, len(rows), found.faults()) == (False, 7, [])


def test_a_wave_with_a_crash_is_void_and_its_changes_are_tried_one_at_a_time(tmp_path: Path) -> None:
    steps = {1: edit("A", 1.0), 2: "sed -i 's/^B = .*/B = 1 \\/ 0/' train.py; echo broken B\n", 3: edit("C", 1.5)}
    found = noisy(tmp_path, steps, "--budget", "8", "--policy", "wave", "--repairs", "0", agent=TURNS)
    found.call("run")
    rows = found.rows()
    told = sorted((row["decision"], "broken" in row["description"], row["operator"]) for row in rows[1:4])
    assert told == [("crash", True, "wave"), ("crash", True, "wave"), ("keep", False, "wave")]
    assert (all(row["operator"] == "improve" for row in rows[4:]), found.faults()) == (True, [])


def test_a_wave_that_a_kill_has_cut_in_two_is_finished_by_the_next_loop(tmp_path: Path) -> None:
    found = noisy(tmp_path, {1: edit("A", 1.0), 2: edit("B", -1.0), 3: edit("C", -1.5)}, "--budget", "5", "--policy", "wave", agent=TURNS)
    gate = f"""\
if (A, B, C) == (1.0, 0.0, -1.5):
    open({str(found.out)!r} + "/pids", "a").write(str(os.getpid()) + "\\n")
import time
while (A, B, C) == (1.0, 0.0, -1.5) and not os.path.exists({str(found.out)!r} + "/go"):
    time.sleep(0.01)
"""
    path = found.root / "train.py"
    path.write_text(TRAIN + gate)
    git(found.root, "commit", "-q", "-m", "gate", "train.py")
    found.before.update(found.checkout())
    first = found.spawn(found.command("run"))
    found.waiting()
    first.kill()
    first.wait()
    second = found.spawn(found.command("run"))
    until(lambda: "[loop] study t: going on" in found.said())
    found.open_gate()
    code = second.wait(60)
    rows = found.rows()
    assert (code, rows[4]["description"], rows[4]["decision"]) == (0, "what the wave #2 to #4 supports: A = 1.0", "keep"), found.said()
