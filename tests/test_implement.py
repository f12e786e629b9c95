"""``overnight implement``: tasks at once, checked, merged; what goes wrong goes back to its agent, twice at most."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from overnight.testing import git
from planned import implement, on_branch, planned, states, task, tasks, turns
from studies import ended  # noqa: F401 - a fixture that every test gets

TWO = task("T1", "a.py") + task("T2", "b.py")
A, B = "echo 'A = 2' > a.py", "echo 'B = 2' > b.py"


def test_two_tasks_are_done_on_branches_of_their_own_and_merged(tmp_path: Path) -> None:
    made = planned(tmp_path, TWO, {"T1.1": A, "T2.1": B})
    done = implement(made)
    assert (done.code, on_branch(made, "a.py"), on_branch(made, "b.py"), states(made)) == (
        0,
        "A = 2\n",
        "B = 2\n",
        {"T1": "done", "T2": "done"},
    )
    branches = {"refs/heads/main", "refs/heads/overnight/plan/p", "refs/heads/overnight/task/p/T1", "refs/heads/overnight/task/p/T2"}
    assert {name for name in made.refs() if name.startswith("refs/heads/")} == branches
    assert len(git(made.root, "log", "--merges", "--format=%s", "overnight/plan/p").splitlines()) == 2


def test_the_checkout_its_index_and_its_branch_are_never_touched(tmp_path: Path) -> None:
    made = planned(tmp_path, TWO, {"T1.1": A, "T2.1": B})
    before = made.checkout() if not (made.root / "plans").is_dir() else None
    told = {
        path: path.read_bytes()
        for path in made.root.rglob("*")
        if path.is_file() and ".git" not in path.parts and ".overnight" not in path.parts
    }
    index, main = (made.root / ".git" / "index").read_bytes(), made.refs()["refs/heads/main"]
    implement(made)
    now = {
        path: path.read_bytes()
        for path in made.root.rglob("*")
        if path.is_file() and ".git" not in path.parts and ".overnight" not in path.parts
    }
    assert (now, (made.root / ".git" / "index").read_bytes(), made.refs()["refs/heads/main"], before) == (told, index, main, None)


def test_independent_tasks_overlap_in_time(tmp_path: Path) -> None:
    meet = "touch {out}/at.{me}; n=0; while [ ! -e {out}/at.{other} ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n + 1)); done; [ -e {out}/at.{other} ] || exit 1\n"
    out = tmp_path / "out"
    made = planned(tmp_path, TWO, {"T1.1": meet.format(out=out, me=1, other=2) + A, "T2.1": meet.format(out=out, me=2, other=1) + B})
    assert (implement(made).code, turns(made, "T1"), turns(made, "T2")) == (0, 1, 1)


def test_a_task_begins_with_what_it_depends_on(tmp_path: Path) -> None:
    made = planned(tmp_path, task("T2", "b.py", depends="T1") + task("T1", "a.py"), {"T1.1": A, "T2.1": "sed s/A/B/ a.py > b.py"})
    assert (implement(made).code, on_branch(made, "b.py")) == (0, "B = 2\n")


def test_a_failing_check_goes_back_with_the_end_of_its_output(tmp_path: Path) -> None:
    check = task("T1", "a.py", "python3 -c 'import a; print(41 + 1); assert a.A == 2'")
    made = planned(tmp_path, check, {"T1.1": "echo 'A = 3' > a.py", "T1.2": "grep -q 'A = 3' a.py && echo 'A = 2' > a.py"})
    done = implement(made)
    assert (done.code, turns(made, "T1"), on_branch(made, "a.py")) == (0, 2, "A = 2\n")
    assert "\n42\n" in (made.out / "told.T1.2").read_text()


def test_a_task_that_fails_three_times_is_given_up_and_what_depends_on_it_is_skipped(tmp_path: Path) -> None:
    three = task("T1", "a.py", "grep -q 9 a.py") + task("T2", "b.py", depends="T1") + task("T3", "train.py")
    made = planned(
        tmp_path, three, {f"T1.{turn}": f"echo 'A = {turn}' > a.py" for turn in (1, 2, 3)} | {"T3.1": "echo 'print(1)' > train.py"}
    )
    done = implement(made)
    assert (done.code, turns(made, "T1"), states(made)) == (1, 3, {"T1": "failed", "T2": "skipped", "T3": "done"})
    assert "edit plans/p/tasks.md, then the same command again" in done.out
    (made.out / "T1.4").write_text("echo 'A = 9' > a.py")
    (made.out / "T2.1").write_text(B)
    assert (implement(made).code, turns(made, "T3"), set(states(made).values())) == (0, 1, {"done"})


def test_a_conflict_goes_back_with_what_the_others_did_in_place(tmp_path: Path) -> None:
    wait = f"n=0; while ! git -C {tmp_path}/repository show overnight/plan/p:a.py | grep -q 2 && [ $n -lt 600 ]; do sleep 0.05; n=$((n + 1)); done\n"
    again = "grep -q 'A = 2' a.py && grep -q '+A = 5' $OVERNIGHT_BRIEF && echo 'A = 2 + 5' > a.py"
    made = planned(tmp_path, task("T1", "a.py") + task("T2", "a.py"), {"T1.1": A, "T2.1": wait + "echo 'A = 5' > a.py", "T2.2": again})
    done = implement(made)
    assert (done.code, on_branch(made, "a.py"), tasks(made)["T2"]["returns"]) == (0, "A = 2 + 5\n", 1)
    assert "[T2] conflict with what was merged meanwhile; goes back to its agent (1 of 2)" in done.out


def test_a_check_that_breaks_only_after_the_merge_never_reaches_the_branch(tmp_path: Path) -> None:
    both = "python3 -c 'import a, b; assert a.A + b.B < 4'"
    wait = f"n=0; while ! git -C {tmp_path}/repository show overnight/plan/p:a.py | grep -q 2 && [ $n -lt 600 ]; do sleep 0.05; n=$((n + 1)); done\n"
    turn = {f"T2.{number}": (wait if number == 1 else "") + f"echo 'B = 2 + {number} - {number}' > b.py" for number in (1, 2, 3)}
    made = planned(tmp_path, task("T1", "a.py", both) + task("T2", "b.py"), {"T1.1": A, **turn})
    done = implement(made)
    assert (done.code, states(made), on_branch(made, "b.py"), tasks(made)["T2"]["returns"]) == (
        1,
        {"T1": "done", "T2": "failed"},
        "B = 1\n",
        2,
    )
    assert "After your work was merged" in (made.out / "told.T2.2").read_text()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo x > b.py", "changed protected files: b.py"), ("echo x > ../outside; mkdir -p .git; echo x > .git/config", "nothing was changed"),
        ("ln -sf /etc/passwd a.py", "is a symbolic link"), ("head -c 10000000 /dev/zero > a.py", "is larger than 1 MiB"), ("exit 3", "the proposer failed"),
    ],
    ids=["another file", "outside", "link", "10 MB", "crash"],
)  # fmt: skip
def test_work_beyond_the_files_of_the_task_is_refused_and_told_to_the_agent(script: str, why: str, tmp_path: Path) -> None:
    made = planned(tmp_path, task("T1", "a.py"), {"T1.1": script, "T1.2": A})
    done = implement(made)
    assert (done.code, turns(made, "T1"), why in done.out, on_branch(made, "b.py")) == (0, 2, True, "B = 1\n")


def test_new_files_are_made_where_the_task_says_so_and_old_ones_there_stay(tmp_path: Path) -> None:
    new = task("T1", "c.py", more="- new: lib/")
    turn = {"T1.1": "echo 1 > c.py; echo 1 > lib/old.py", "T1.2": "echo 'C = 1' > c.py; mkdir -p lib/deep; echo 1 > lib/deep/new.py"}
    made = planned(tmp_path, new, turn, files={"lib/old.py": "0\n"})
    done = implement(made)
    assert (done.code, "rejected: it changed lib/old.py" in done.out) == (0, True)
    assert [on_branch(made, path) for path in ("c.py", "lib/old.py", "lib/deep/new.py")] == ["C = 1\n", "0\n", "1\n"]


def test_a_folder_that_is_named_without_a_slash_is_all_below_it_and_files_may_go(tmp_path: Path) -> None:
    made = planned(
        tmp_path, task("T1", "lib, a.py", "test ! -e a.py"), {"T1.1": "rm a.py; echo 2 > lib/old.py"}, files={"lib/old.py": "0\n"}
    )
    assert (implement(made).code, on_branch(made, "lib/old.py"), git(made.root, "ls-tree", "overnight/plan/p", "a.py")) == (0, "2\n", "")


@pytest.mark.parametrize(("check", "cause"), [("sleep 3600", "time limit"), ("kill -9 $$", "SIGKILL"), ("exit 7", "exit code 7")])
def test_a_check_that_hangs_or_kills_itself_has_failed(check: str, cause: str, tmp_path: Path) -> None:
    made = planned(tmp_path, task("T1", "a.py", check), {f"T1.{turn}": f"echo 'A = {turn}' > a.py" for turn in (1, 2, 3)})
    done = implement(made, "--time-limit", "1s")
    assert (done.code, states(made), cause in done.out, made.survivors()) == (1, {"T1": "failed"}, True, [])


def test_everything_is_told_to_programs_too(tmp_path: Path) -> None:
    made = planned(tmp_path, task("T1", "a.py"), {"T1.1": A})
    done = implement(made, "--json")
    told = json.loads(done.out)
    row = told["tasks"][0]
    assert (told["schema"], told["branch"], row["state"], row["agent"], row["merged"]) == (
        "overnight/implement/1", "overnight/plan/p", "done", "command", made.refs()["refs/heads/overnight/plan/p"],
    )  # fmt: skip
    assert told["next"].startswith("overnight run --from overnight/plan/p --metric loss --direction minimize --target 1")


def test_behind_walls_a_check_has_no_network_and_does_not_see_the_checkout(tmp_path: Path) -> None:
    look = f"python3 -c 'import socket; socket.create_connection((\"192.0.2.1\", 9), 2)' 2>&1 | grep -q -i unreachable && test ! -e {tmp_path}/repository/train.py"
    made = planned(tmp_path, task("T1", "a.py").replace("`true`", look), {"T1.1": A})
    done = made.call("implement", "1", "--proposer-command", f"sh {made.out}/agent.sh")
    if "E-NO-SANDBOX" in done.err:
        pytest.skip("no walls here")
    assert (done.code, states(made)) == (0, {"T1": "done"})
