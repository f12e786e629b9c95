"""Carrying out a plan again, after a kill, an interrupt or a person's own work; and plans that are refused."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import studies
from asked import program, result
from overnight.testing import git
from planned import implement, on_branch, planned, states, task, turns, words
from studies import ended, until  # noqa: F401 - a fixture that every test gets

TWO = task("T1", "a.py") + task("T2", "b.py")
A, B = "echo 'A = 2' > a.py", "echo 'B = 2' > b.py"


def test_a_second_call_repeats_nothing_that_is_done(tmp_path: Path) -> None:
    made = planned(tmp_path, TWO, {"T1.1": A, "T2.1": B})
    implement(made)
    tip = made.refs()["refs/heads/overnight/plan/p"]
    assert (implement(made).code, turns(made, "T1"), turns(made, "T2"), made.refs()["refs/heads/overnight/plan/p"]) == (0, 1, 1, tip)


@pytest.mark.parametrize("where", ["agent", "check"])
def test_a_kill_costs_the_step_in_flight_alone(where: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    gate = f"echo $$ >> {out}/pids; n=0; while [ ! -e {out}/go ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n + 1)); done\n"
    check = f"sh {out}/gate" if where == "check" else "true"
    made = planned(
        tmp_path,
        task("T1", "a.py") + task("T2", "b.py", check, "T1"),
        {"T1.1": A, "T2.1": (gate if where == "agent" else "") + B, "T2.2": B},
    )
    (out / "gate").write_text(gate)
    process = made.spawn(made.command("implement", *words(made)))
    until(lambda: (out / "pids").exists() and (out / "pids").read_text())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if where == "check":
        (out / "go").touch()
    done = implement(made)
    again = 2 if where == "agent" else 1
    assert made.survivors() == []  # the agent that nobody waits for any more was ended, too
    assert (done.code, turns(made, "T1"), turns(made, "T2"), states(made)) == (0, 1, again, {"T1": "done", "T2": "done"})
    assert (on_branch(made, "b.py"), list((made.root / ".overnight").glob("asked/*"))) == ("B = 2\n", [])


def test_a_branch_that_lags_behind_the_record_is_moved_on(tmp_path: Path) -> None:
    made = planned(tmp_path, TWO, {"T1.1": A, "T2.1": B})
    implement(made)
    tip = made.refs()["refs/heads/overnight/plan/p"]
    git(made.root, "update-ref", "refs/heads/overnight/plan/p", f"{tip}^1")  # killed between record and git
    implement(made)
    assert made.refs()["refs/heads/overnight/plan/p"] == tip


def test_what_a_person_has_put_onto_the_branch_is_built_upon(tmp_path: Path) -> None:
    made = planned(tmp_path, TWO, {"T1.1": A, "T2.1": "exit 1", "T2.2": "exit 1", "T2.3": "exit 1", "T2.4": B})
    implement(made)
    git(made.root, "worktree", "add", "-q", str(tmp_path / "w"), "overnight/plan/p")
    (tmp_path / "w" / "mine.txt").write_text("mine\n")
    git(tmp_path / "w", "add", "mine.txt")
    git(tmp_path / "w", "commit", "-q", "-m", "mine")
    done = implement(made)
    assert (done.code, "was moved by somebody" in done.out, on_branch(made, "mine.txt"), on_branch(made, "b.py")) == (
        0,
        True,
        "mine\n",
        "B = 2\n",
    )


def test_an_interrupt_ends_agents_and_the_same_command_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = planned(tmp_path, task("T1", "a.py"), {"T1.1": f"touch {out}/there; sleep 600", "T1.2": A})
    process = made.spawn(made.command("implement", *words(made)))
    until((out / "there").exists)
    process.send_signal(signal.SIGINT)
    assert (process.wait(studies.PATIENCE), made.survivors(), states(made)) == (130, [], {"T1": "open"})
    assert (implement(made).code, states(made)) == (0, {"T1": "done"})


def test_two_at_a_time_on_one_plan_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = planned(tmp_path, task("T1", "a.py"), {"T1.1": f"touch {out}/there; sleep 600"})
    process = made.spawn(made.command("implement", *words(made)))
    until((out / "there").exists)
    second = implement(made)
    process.kill()
    process.wait()
    assert (second.code, "a plan is being carried out already: pid" in second.err) == (1, True)


def test_an_agent_that_cannot_be_asked_ends_it_all_and_leaves_the_tasks_open(tmp_path: Path) -> None:
    made = planned(tmp_path, TWO, {})
    program(tmp_path / "bin" / "claude", result("Not logged in · Please run /login", is_error=True))
    made.env["PATH"] = f"{tmp_path}/bin:{made.env['PATH']}"
    done = made.call("implement", "2", "--unsafe-no-sandbox", "--proposer", "claude")
    assert (done.code, "error[E-AGENT-LOGIN]" in done.err, states(made)) == (1, True, {"T1": "open", "T2": "open"})


def test_a_secret_of_the_environment_is_not_committed(tmp_path: Path) -> None:
    made = planned(tmp_path, task("T1", "a.py"), {"T1.1": "echo \"A = '$MY_TOKEN'\" > a.py", "T1.2": A})
    made.env.update({"MY_TOKEN": "hush-hush-hush"})
    done = implement(made)
    assert (done.code, "rejected: a secret in a.py" in done.out, "hush" in git(made.root, "log", "-p", "--all")) == (0, True, False)


def test_a_broken_plan_is_refused_with_its_places(tmp_path: Path) -> None:
    made = planned(tmp_path, task("T1", "../x", depends="T2") + task("T2", "b.py", depends="T1"), {})
    done = implement(made)
    assert (done.code, done.err.splitlines()[0]) == (2, "error[E-BAD-PLAN]: plans/p/tasks.md:7: tasks wait for each other: T1 → T2 → T1")
    assert "plans/p/tasks.md:8: T1 may not touch '../x': it leads out of the repository" in done.err


def test_a_protected_file_cannot_be_named(tmp_path: Path) -> None:
    made = planned(tmp_path, task("T1", "prepare.py"), {})
    assert "T1 may not touch 'prepare.py': it is protected" in implement(made, "--protect", "prepare.py").err
