"""Whoever runs a trial is killed, sent away or loses patience: the next call goes on where it was, and nothing is lost or done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from overnight.testing import git
from studies import ended, until  # noqa: F401 - a fixture that every test gets
from trials import Tried, loss, refusal

STORE, SPACE, JOBS = "overnight.store.store:Store.", "overnight.workspace:Workspace.", "overnight.executors.local:LocalExecutor."
LEDGER = "overnight.ledger:Ledger."
# At which verb, when, at which call of what; the sets are those of every day and of the long form.
POINTS = {
    "the trial is written down and has no copy": ("begin", "after", 1, STORE + "begin_trial"),
    "its run goes on": ("run", "after", 1, JOBS + "submit=t-2.1"),
    "it is decided": ("settle", "after", 1, STORE + "decide"),
    "it is given up": ("discard", "after", 1, STORE + "decide"),
}
MORE = {
    "there is a study and no baseline": ("begin", "after", 1, STORE + "create_study"),
    "the baseline has its number": ("begin", "after", 1, STORE + "propose"),
    "the baseline goes on": ("begin", "after", 1, JOBS + "submit=t-1.1"),
    "the baseline is decided": ("begin", "after", 1, STORE + "decide"),
    "the trial is not yet written down": ("begin", "before", 1, STORE + "begin_trial"),
    "the copy is half there": ("begin", "after", 1, SPACE + "export=t-1.new"),
    "nothing is handed in": ("run", "before", 1, STORE + "propose"),
    "it is handed in": ("run", "after", 1, STORE + "propose"),
    "it is in git": ("run", "after", 1, SPACE + "commit"),
    "it is committed": ("run", "after", 1, STORE + "advance=committed"),
    "its run is counted": ("run", "after", 1, STORE + "attempt"),
    "its run has ended": ("run", "before", 1, STORE + "ran"),
    "its run is recorded": ("run", "after", 1, STORE + "ran"),
    "it is measured": ("run", "after", 1, STORE + "advance=measured"),
    "it is about to be decided": ("settle", "before", 1, STORE + "decide"),
    "its note is written": ("settle", "after", 1, STORE + "learn"),
    "the branch has not moved": ("settle", "before", 1, SPACE + "move_branch"),
    "the branch has moved": ("settle", "after", 1, SPACE + "move_branch"),
    "its row is written": ("settle", "after", 1, "overnight.results:Table.add"),
    "it is applied": ("settle", "after", 1, STORE + "advance=applied"),
    "it is settled and its copy is there": ("settle", "after", 1, STORE + "end_trial"),
    "it is about to be given up": ("discard", "before", 1, STORE + "decide"),
    "what was given up is in git": ("discard", "after", 1, LEDGER + "settle"),
    "what was given up has its copy": ("discard", "after", 1, STORE + "end_trial"),
}
WORDS = {
    "begin": ("begin", "--tag", "t"),
    "run": ("run", "1", "-m", "half"),
    "settle": ("settle", "1"),
    "discard": ("settle", "1", "--discard"),
}


def killed(made: Tried, verb: str, when: str, nth: int, point: str) -> int:
    """How the verb ends that is killed at that point."""
    script = str(Path(__file__).with_name("killed.py"))
    argv = [sys.executable, script, when, str(nth), point, "trial", *WORDS[verb]]
    return subprocess.run(argv, cwd=made.study.root, env=made.study.env, capture_output=True, timeout=60, check=False).returncode


def story(made: Tried, verb: str, when: str, nth: int, point: str) -> list[object]:
    """How the killed verb ended, and all that is true once every verb was called again."""
    codes = []
    if verb == "begin":
        codes.append(killed(made, verb, when, nth, point))
    made.edit(made.begin(), loss(0.5))
    if verb == "run":
        codes.append(killed(made, verb, when, nth, point))
    made.run("half", 1)
    if verb in ("settle", "discard"):
        codes.append(killed(made, verb, when, nth, point))
    done = made.settle(1, "not wanted" if verb == "discard" else None).experiment
    after = made.begin()
    left = sorted(path.name for path in after.copy.parent.iterdir())
    return [codes, done and done.decision, made.told("decision", "value", "description"), made.study.runs(), made.study.faults(), left]


def expected(verb: str) -> list[object]:
    decision = "discard" if verb == "discard" else "keep"
    rows = [("keep", 1.0, "baseline"), (decision, 0.5, "half")]
    return [[-signal.SIGKILL], decision, rows, ["exp-001", "exp-002"], [], ["t-2"]]


@pytest.mark.parametrize("point", POINTS)
def test_a_trial_that_was_killed_is_taken_up_by_the_same_command(tmp_path: Path, point: str) -> None:
    assert story(Tried(tmp_path / "s"), *POINTS[point]) == expected(POINTS[point][0])


@pytest.mark.slow
@pytest.mark.parametrize("point", MORE)
def test_a_trial_that_was_killed_anywhere_is_taken_up_by_the_same_command(tmp_path: Path, point: str) -> None:
    assert story(Tried(tmp_path / "s"), *MORE[point]) == expected(MORE[point][0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "point", [point for point, row in {**POINTS, **MORE}.items() if row[0] == "run" and point != "nothing is handed in"]
)
def test_a_loop_takes_up_a_trial_whose_run_was_killed(tmp_path: Path, point: str) -> None:
    made = Tried(tmp_path / "s")
    made.edit(made.begin(), loss(0.5))
    code = killed(made, *POINTS.get(point, MORE.get(point)))  # type: ignore[misc] # it is in one of them
    made.loop(budget="1")
    told = (made.settle(1).state, made.told("decision", "value"), made.study.runs(), made.study.faults())
    assert (code, *told) == (-signal.SIGKILL, "settled", [("keep", 1.0), ("keep", 0.5)], ["exp-001", "exp-002"], [])


def gated(made: Tried) -> subprocess.Popen[str]:
    """A trial whose run waits for a gate, and the process that waits for the run."""
    made.study.gate(1, 0.5)
    begun = made.begin()
    script = f"cd '{begun.copy}' && . '{made.study.out}/step.1'"
    subprocess.run(["/bin/sh", "-c", script], env=made.study.env, check=True, capture_output=True)
    process = made.study.spawn(made.study.command("trial", *WORDS["run"]))
    made.study.waiting()
    return process


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_program_that_loses_patience_leaves_the_run_going_and_the_next_call_has_its_result(tmp_path: Path) -> None:
    made = Tried(tmp_path / "s")
    process = gated(made)
    process.send_signal(signal.SIGTERM)
    code, going = process.wait(60), alive(made.study.waiting()[0])
    waits = made.run(number=1, seconds=0.0)
    made.study.open_gate()
    seen = made.run(number=1)
    told = (code, going, waits.state, waits.exit_code, seen.state, [run.value for run in seen.runs], made.study.runs())
    assert told == (143, True, "running", 8, "measured", [0.5], ["exp-001", "exp-002"])


def test_what_a_person_breaks_off_is_put_back_and_run_again_by_the_next_call(tmp_path: Path) -> None:
    made = Tried(tmp_path / "s")
    process = gated(made)
    os.kill(process.pid, signal.SIGINT)
    code, going = process.wait(60), alive(made.study.waiting()[0])
    made.study.open_gate()
    assert (code, going, made.run(number=1).state, made.study.runs()) == (130, False, "measured", ["exp-001", "exp-002", "exp-002"])


def test_giving_up_ends_the_run_that_goes_on(tmp_path: Path) -> None:
    made = Tried(tmp_path / "s")
    process = gated(made)
    process.kill()
    process.wait()
    done = made.settle(1, "too slow").experiment
    assert done is not None
    assert (done.decision, done.value, done.cause, alive(made.study.waiting()[0])) == ("discard", None, "given up: too slow", False)
    assert made.study.faults() == []


def test_a_baseline_that_takes_long_goes_on_when_nobody_waits(tmp_path: Path) -> None:
    made = Tried(tmp_path / "s")
    (made.study.root / "run.sh").write_text(f"until [ -e '{made.study.out}/go' ]; do sleep 0.05; done\necho @loss=1.0\n")
    git(made.study.root, "commit", "-qm", "slow", "run.sh")
    first = refusal(made.begin, seconds=0.0)
    made.study.open_gate()
    assert (first, made.begin().state, [run["attempt"] for run in jobs(made)]) == ("E-STILL-RUNNING", "open", [1])


def jobs(made: Tried) -> list[dict[str, object]]:
    from overnight.app import read

    with read.opened(made.study.root, None, made.study.env) as found:
        return found.store.jobs(found.study.id, 1)
