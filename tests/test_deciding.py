"""Deciding in the real loop: audits, keeps that are taken back, plateaus, classes of machines, all with a scripted agent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from noisy import NOISY, TRAIN, TURNS, edit, noisy, table
from overnight.testing import git
from studies import PATIENCE, Study, ended, study, until  # noqa: F401 - ended is used by every test

# --- audits ------------------------------------------------------------------------------------------------------


def test_an_audit_runs_the_best_again_on_fresh_seeds_and_the_summary_stands_on_those_runs(tmp_path: Path) -> None:
    found = noisy(tmp_path, {1: edit("B", 2.0)}, "--budget", "18")
    done = found.call("run")
    told, rows = found.status(), found.rows()
    again = table(found, "SELECT number, seed FROM job WHERE looks_again ORDER BY submitted")
    assert (done.code, again, rows[1]["retests"], rows[1]["confirmed"]) == (0, [(2, 100_003), (2, 100_004)], 2, True), done
    report = told["report"]
    assert (report["fresh_runs"], told["retests"], report["low"] < 2.0 < report["high"], found.faults()) == (2, 2, True, [])
    assert "GAIN" in done.out
    assert "from 2 runs that decided nothing" in done.out
    assert "re-tested 2 times: confirmed" in rows[1]["cause"]


def test_a_keep_that_an_audit_refutes_is_taken_back_by_a_new_commit_and_expected_false_keeps_drop(tmp_path: Path) -> None:
    found = noisy(tmp_path, {3: edit("LUCK", 0.55)}, "--budget", "18", "--profile", "fast")
    done = found.call("run")
    rows, told = found.rows(), found.status()
    lucky = next(row for row in rows if row["description"] == "LUCK = 0.55")
    back = next(row for row in rows if row["operator"] == "revert")
    assert (lucky["decision"], lucky["reverted"], back["decision"], back["value"]) == ("keep", back["number"], "keep", rows[0]["value"]), (
        done
    )
    assert (f"taken back by #{back['number']}" in lucky["cause"], told["best"]["number"], told["expected_false_keeps"]) == (True, 1, 0.0)
    branch = git(found.root, "log", "--format=%H", "autoresearch/t").split()
    same = git(found.root, "diff", "main", "autoresearch/t", "--", "train.py")
    assert (branch[0], lucky["commit"] in branch, same, found.faults()) == (back["commit"], True, "", [])
    assert [row for row in table(found, "SELECT number FROM job") if row[0] == back["number"]] == []
    assert "taken back" in done.out


def test_a_loop_that_is_killed_while_it_looks_again_adopts_that_run(tmp_path: Path) -> None:
    found = noisy(tmp_path, {1: edit("B", 2.0)}, "--budget", "9")
    gate = f"""\
if seed > 100_000 and not os.path.exists({str(found.out)!r} + "/go"):
    open({str(found.out)!r} + "/pids", "a").write(str(os.getpid()) + "\\n")
import time
while seed > 100_000 and not os.path.exists({str(found.out)!r} + "/go"):
    time.sleep(0.01)
"""
    (found.out / "step.1").write_text(f"cat >> train.py <<'END'\n{gate}END\n" + edit("B", 2.0))
    first = found.spawn(found.command("run"))
    found.waiting()
    first.kill()
    first.wait()
    second = found.spawn(found.command("run"))
    until(lambda: "[loop] study t: going on" in found.said())
    found.open_gate()
    code = second.wait(60)
    again = table(found, "SELECT number, seed, state FROM job WHERE looks_again")
    assert (code, again, found.faults()) == (0, [(2, 100_003, "SUCCEEDED")], []), found.said()


def test_a_doubtful_keep_below_the_best_is_tried_without_and_taken_back_if_that_is_better(tmp_path: Path) -> None:
    steps = {1: edit("LUCK", 0.4), 2: edit("C", 3.0)}
    found = noisy(tmp_path, steps, "--budget", "17", "--profile", "fast")
    done = found.call("run")
    rows = found.rows()
    back = next((row for row in rows if row["operator"] == "revert"), None)
    assert back is not None, done
    assert (back["parent"], back["description"], rows[1]["retests"] > 0) == (3, "the best without #2 (LUCK = 0.4)", True)
    assert (back["value"] is not None, found.faults()) == (True, []), done
    if back["decision"] == "keep":
        assert (rows[1]["reverted"], "LUCK = 0.0" in git(found.root, "show", "autoresearch/t:train.py")) == (back["number"], True)


def test_with_two_slots_a_run_that_is_under_way_is_not_planned_again(tmp_path: Path) -> None:
    slow = "sed -i 's/^draw/if seed >= 100_000:\\n    import time; time.sleep(0.5)\\ndraw/' train.py\n"
    found = noisy(tmp_path, {1: slow + edit("B", 2.0)}, "--budget", "24", "--slots", "2", agent=TURNS)
    done = found.call("run")
    runs = table(found, "SELECT number FROM job WHERE looks_again ORDER BY number")
    told = table(found, "SELECT number FROM event WHERE type='experiment.retested' ORDER BY number")
    assert (done.code, len(runs) > 0, told, done.out.count("looked again at")) == (0, True, runs, len(runs)), done


def test_where_runs_repeat_exactly_nothing_is_run_again(tmp_path: Path) -> None:
    found = study(tmp_path, {}, *NOISY, "--budget", "12")
    found.call("run")
    assert (found.status()["retests"], found.faults()) == (0, [])


# --- retest ------------------------------------------------------------------------------------------------------


def test_a_retest_changes_the_row_and_the_table_and_leaves_decision_commit_and_branch(tmp_path: Path) -> None:
    found = noisy(tmp_path, {1: edit("B", 2.0)}, "--budget", "1")
    found.call("run")
    before, refs = found.rows()[1], found.refs()
    done = found.call("retest", "2", "--json")
    after = found.rows()[1]
    values = json.loads(done.out)["experiments"][0]["values"]
    assert (len(values), after["value"], after["retests"]) == (3, pytest.approx(sum(values) / 3), 2), done
    assert (after["decision"], after["commit"], found.refs(), found.faults()) == (before["decision"], before["commit"], refs, [])
    assert "[2 re-tests]" in found.call("ls").out
    again = found.call("run", "--budget", "2")  # the commits are made from the record: they must not follow the new mean
    assert (again.code, found.faults()) == (0, []), again


# --- the end -----------------------------------------------------------------------------------------------------


def test_a_plateau_ends_the_study_with_its_reason_if_somebody_asked_for_that(tmp_path: Path) -> None:
    found = noisy(tmp_path, {2: edit("B", 2.0)}, "--budget", "30", "--plateau", "6")
    done = found.call("run")
    told = found.status()
    assert (
        done.code,
        told["reason"].startswith("plateau: the last 6 experiments together brought 0, less than "),
        told["experiments"],
    ) == (
        0,
        True,
        9,
    ), told["reason"]


# --- machines ----------------------------------------------------------------------------------------------------


def test_every_run_says_on_which_class_of_machine_and_how_fast_it_was(tmp_path: Path) -> None:
    files = {"train.py": "print('@loss=1.0')\nprint('@tokens_per_second=1234.5')\n"}
    found = study(tmp_path, {}, "--budget", "0", files=files)
    found.call("run")
    [(worker, speed)] = table(found, "SELECT worker, throughput FROM job")
    assert (worker.endswith(("core", "cores")), speed) == (True, 1234.5)


def two_cards(found: Study) -> None:
    """A machine with a fast card 0 and a slow card 1."""
    tools = found.root.parent / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text('#!/bin/sh\necho "0, Fast Card, 1000, 0, GPU-a"; echo "1, Slow Card, 1000, 0, GPU-b"\n')
    (tools / "nvidia-smi").chmod(0o755)
    found.env["PATH"] = f"{tools}{os.pathsep}{found.env['PATH']}"


def test_a_run_that_is_adopted_by_a_slot_with_another_card_stays_of_the_class_that_it_runs_on(tmp_path: Path) -> None:
    found = study(tmp_path, {}, "--budget", "1")
    two_cards(found)
    found.gate(1, 0.5)
    first = found.spawn(found.command("run", "--gpus", "0"))
    found.waiting()
    first.kill()
    first.wait()
    second = found.spawn(found.command("run", "--gpus", "1"))
    until(lambda: "[loop] study t: going on" in found.said())
    found.open_gate()
    assert (second.wait(PATIENCE), table(found, "SELECT worker FROM job"), found.runs()) == (
        0,
        [("Fast Card",)] * 2,
        ["exp-001", "exp-002"],
    )


def test_a_candidate_from_another_class_of_machine_is_compared_with_the_best_on_that_class(tmp_path: Path) -> None:
    slow = 'lucky = -3.0 if os.environ["CUDA_VISIBLE_DEVICES"] == "1" else 0.0'
    train = TRAIN.replace("lucky = LUCK if seed < 100_000 else -LUCK", slow) + (
        'import time\ntime.sleep(0.1 if os.environ["CUDA_VISIBLE_DEVICES"] == "0" else 0)\n'
    )
    script = {number: edit("B", 1 + number / 1000) if number == 4 else edit("A", -number / 1000) for number in range(1, 30)}
    found = study(tmp_path, script, *NOISY, "--budget", "10", "--slots", "2", "--gpus", "0,1", files={"train.py": train})
    two_cards(found)
    done = found.call("run")
    classes = {row[0] for row in table(found, "SELECT DISTINCT worker FROM job")}
    known = json.loads(table(found, "SELECT knowledge FROM study")[0][0])
    offsets = sorted(abs(item["mean"]) for item in known["workers"].values())
    rows = {row["description"]: row["decision"] for row in found.rows()}
    assert (done.code, classes, len(offsets), 2.5 < offsets[-1] < 3.5) == (0, {"Fast Card", "Slow Card"}, 2, True), (done, known["workers"])
    assert rows["B = 1.004"] == "keep"


# --- the hidden hold-out -----------------------------------------------------------------------------------------

EVALUATE = """\
import sys
value, extra = float(open(sys.argv[1]).read()), float(open(sys.argv[2]).read())
print(f"@loss={value + extra}")
open("asked", "a").close()
"""


def test_the_hidden_hold_out_is_looked_at_once_for_each_keep_and_told_to_nobody_but_who_asks(tmp_path: Path) -> None:
    train = 'X = 5.0\nopen("model.txt", "w").write(str(X))\n'
    files = {"train.py": train, "evaluate.py": EVALUATE, "seen.txt": "0.5", "unseen.txt": "0.25"}
    steps = {1: edit("X", 4.0), 2: edit("X", 6.0), 3: edit("X", 3.0)}
    words = ("--evaluate", "python3 -I -S evaluate.py {artifact} {holdout}", "--artifact", "model.txt", "--holdout", "seen.txt")
    found = study(tmp_path, steps, *words, "--hidden-holdout", "unseen.txt", "--budget", "3", files=files)
    done = found.call("run")
    hidden = table(found, "SELECT number, value, hidden FROM experiment ORDER BY number")
    assert (done.code, hidden) == (0, [(1, 5.5, 5.25), (2, 4.5, 4.25), (3, 6.5, None), (4, 3.5, 3.25)]), done
    told = json.dumps(found.rows()) + found.call("status", "--json").out + "".join(path.read_text() for path in found.out.glob("brief.*"))
    shown = found.call("show", "4", "--hidden").out
    assert ("3.25" in told, "unseen" in told, "3.25" in shown, "holds" in shown, "3.25" in found.call("show", "4").out) == (
        False,
        False,
        True,
        True,
        False,
    )
    assert (list((found.root / ".overnight").glob("artifacts/*")), found.faults()) == ([], [])


# --- a noise that says nothing -----------------------------------------------------------------------------------


def test_a_baseline_one_of_whose_runs_diverges_does_not_hide_the_improvements(tmp_path: Path) -> None:
    train = TRAIN + 'if seed == 1 and A == 0:\n    print("@loss=123456.0")\n'
    found = study(tmp_path, {1: edit("A", 1.0), 2: edit("B", 1.0)}, *NOISY, "--budget", "3", files={"train.py": train})
    found.call("run")
    rows, told = found.rows(), found.status()
    assert ("far off" in rows[0]["cause"], told["sigma"] < 1, [row["decision"] for row in rows[1:3]]) == (True, True, ["keep", "keep"]), (
        rows
    )


@pytest.mark.parametrize(
    ("budget", "night"),
    [(("8h",), "runs in 8h00m on one slot"), (("50",), "50 experiments take about "), (("8h", "50"), "50 experiments take about ")],
)
def test_doctor_says_what_gain_can_be_believed_and_how_long_the_night_is(tmp_path: Path, budget: tuple[str, ...], night: str) -> None:
    root = noisy(tmp_path, {}).root
    words = ["--run", "--repeats", "4", "--metric", "loss", "--direction", "minimize", "--unsafe-no-sandbox"]
    words += [word for bound in budget for word in ("--budget", bound)]
    done = Study(root, tmp_path / "out", {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}).call(
        "doctor", *words, "--", "python3", "train.py"
    )
    said = ("noise: sd ≈" in done.out, "can be believed" in done.out, night in done.out)
    assert (done.code, said) == (0, (True, True, True)), done
