"""Running loops are steered: stopped, paused, interrupted, started in the background, and held by one at a time."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from pathlib import Path

import pytest

from studies import Study, ended, study, until  # noqa: F401 - ended is used by every test

KEPT = [("keep", 1.0), ("keep", 0.5)]


def at_work(folder: Path, budget: int = 1) -> tuple[Study, subprocess.Popen[str]]:
    """A loop in the middle of its second experiment."""
    found = study(folder, {}, "--budget", str(budget))
    found.gate(1, 0.5)
    loop = found.spawn(found.command("run"))
    found.waiting()
    return found, loop


def results(found: Study) -> list[tuple[str | None, float | None]]:
    return [(row["decision"], row["value"]) for row in found.rows()]


def test_a_second_loop_ends_with_an_error_that_names_the_first(tmp_path: Path) -> None:
    found, loop = at_work(tmp_path)
    second = found.call("run")
    third = found.call("start")
    found.open_gate()
    code = loop.wait(60)
    line = f"error[E-BUSY]: another loop works on this study: pid {loop.pid} on "
    told = [(done.code, done.err.startswith(line), done.err.count("\n")) for done in (second, third)]
    assert (told, code, results(found), found.faults()) == ([(1, True, 3)] * 2, 0, KEPT, [])


def test_stop_lets_the_running_experiment_finish(tmp_path: Path) -> None:
    found, loop = at_work(tmp_path, budget=3)
    asked = found.call("stop")
    found.open_gate()
    code = loop.wait(60)
    status = found.status()
    assert (asked.code, code, results(found), status["state"], status["reason"]) == (0, 0, KEPT, "stopped", "stopped by a person"), asked
    assert found.faults() == []


def test_a_stopped_study_goes_on_with_the_next_run(tmp_path: Path) -> None:
    found, loop = at_work(tmp_path, budget=2)
    found.call("stop")
    found.open_gate()
    loop.wait(60)
    done = found.call("run")
    assert (done.code, results(found), found.faults()) == (0, [*KEPT, ("keep", 0.488)], []), done


def test_stop_now_puts_the_experiment_back_and_the_next_run_runs_it_again(tmp_path: Path) -> None:
    found, loop = at_work(tmp_path)
    stopped = found.call("stop", "--now")
    between = (stopped.code, loop.wait(60), results(found), found.faults())
    found.open_gate()
    done = found.call("run")
    after = (done.code, results(found), found.runs(), found.faults())
    put_back: list[tuple[str | None, float | None]] = [("keep", 1.0), (None, None)]
    assert (between, after) == ((0, 0, put_back, []), (0, KEPT, ["exp-001", "exp-002", "exp-002"], [])), stopped


def test_what_was_put_back_is_not_called_running(tmp_path: Path) -> None:
    found, loop = at_work(tmp_path)
    found.call("stop", "--now")
    loop.wait(60)
    states = [line.split()[2:4] for line in found.call("ls").out.splitlines()[2:]]
    assert (found.status()["running"], states, "running" in found.said()) == ([], [["…", "queued"]], False)


def came(found: Study, times: int) -> bool:
    return len(found.waiting()) == times


def test_an_experiment_that_was_put_back_often_is_still_run(tmp_path: Path) -> None:
    found, loop = at_work(tmp_path)
    for turn in range(1, 4):
        until(functools.partial(came, found, turn))
        found.call("stop", "--now")
        loop.wait(60)
        loop = found.spawn(found.command("run"))
    found.open_gate()
    code = loop.wait(60)
    assert (code, results(found), found.faults()) == (0, KEPT, [])


def test_pause_starts_nothing_new_until_resume(tmp_path: Path) -> None:
    found, loop = at_work(tmp_path, budget=2)
    found.call("pause")
    until(lambda: found.status()["state"] == "paused")
    found.open_gate()
    until(lambda: results(found)[-1][0] == "keep")
    paused = results(found)
    resumed = found.call("resume")
    code = loop.wait(60)
    assert (paused, resumed.code, code, results(found), found.faults()) == (KEPT, 0, 0, [*KEPT, ("keep", 0.488)], [])


def test_a_study_that_was_killed_while_paused_goes_on_with_the_next_run(tmp_path: Path) -> None:
    found, loop = at_work(tmp_path, budget=2)
    found.call("pause")
    loop.kill()
    loop.wait()
    found.open_gate()
    done = found.call("run")
    assert (done.code, results(found), found.faults()) == (0, [*KEPT, ("keep", 0.488)], []), done


@pytest.mark.parametrize("verb", ["stop", "pause", "resume"])
def test_there_is_nothing_to_steer_where_no_loop_runs(tmp_path: Path, verb: str) -> None:
    found = study(tmp_path, {}, "--budget", "0")
    found.call("run")
    done = found.call(verb)
    assert (done.code, done.err.splitlines()[0]) == (3, "error[E-NOT-RUNNING]: no loop is running here")


def test_an_interrupt_lets_the_running_experiment_finish(tmp_path: Path) -> None:
    found, loop = at_work(tmp_path, budget=3)
    os.kill(loop.pid, signal.SIGINT)
    until(lambda: "the running experiment is finished first; ^C again puts it back" in found.said())
    found.open_gate()
    assert (loop.wait(60), results(found), found.faults()) == (130, KEPT, [])


def test_a_second_interrupt_puts_the_experiment_back(tmp_path: Path) -> None:
    found, loop = at_work(tmp_path)
    os.kill(loop.pid, signal.SIGINT)
    until(lambda: "^C again" in found.said())
    os.kill(loop.pid, signal.SIGINT)
    code = loop.wait(60)
    between = (code, results(found), found.faults())
    found.open_gate()
    done = found.call("run")
    assert (between, done.code, results(found)) == ((130, [("keep", 1.0), (None, None)], []), 0, KEPT)


def test_the_request_to_end_puts_the_experiment_back(tmp_path: Path) -> None:
    found, loop = at_work(tmp_path)
    os.kill(loop.pid, signal.SIGTERM)
    code = loop.wait(60)
    assert (code, results(found), found.faults()) == (143, [("keep", 1.0), (None, None)], [])


def test_an_interrupt_ends_an_agent_that_is_still_thinking(tmp_path: Path) -> None:
    found = study(tmp_path, {1: "touch $OUT/thinking; sleep 600"}, "--budget", "1")
    loop = found.spawn(found.command("run"))
    until((found.out / "thinking").exists)
    os.kill(loop.pid, signal.SIGINT)
    assert (loop.wait(60), results(found), found.faults()) == (130, [("keep", 1.0)], [])


def test_a_study_in_the_background_goes_on_by_itself(tmp_path: Path) -> None:
    found = study(tmp_path, {}, "--budget", "1")
    found.gate(1, 0.5)
    begun = found.call("start")
    found.waiting()
    running = found.call("status", "--exit-status")
    found.open_gate()
    until(lambda: found.call("status", "--exit-status").code == 0)
    told = "started in the background (pid " in begun.out
    assert (begun.code, told, running.code, results(found), found.faults()) == (0, True, 8, KEPT, []), begun


def test_a_study_in_the_background_that_cannot_start_says_why(tmp_path: Path) -> None:
    found = study(tmp_path, {}, "--budget", "1", "--editable", "nothing.py")
    done = found.call("start")
    assert (done.code, "E-NOT-TRACKED" in done.err, found.survivors()) == (2, True, []), done
