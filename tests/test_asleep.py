"""A machine that sleeps while a study runs, or whose processes are stopped for a while: nothing is lost, and the time does not count."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from clocks import SLEPT, jumping
from commands import ENV, SOURCE, shell
from overnight import jobs
from overnight.models import JobSpec, JobState, JobStatus
from studies import Study, bearers, ended, study, until  # noqa: F401 - ended is used by every test

LONG = 35.0  # seconds: longer than any rule by which one process gives up another


def passed(seconds: float) -> None:
    """Wait until so much time has gone by."""
    begun = time.monotonic()
    until(lambda: time.monotonic() - begun >= seconds, seconds + 30)


@contextmanager
def stopped(found: Study) -> Iterator[None]:
    """Every process of the study stands still: loop, helper, supervisors, runs and agents."""
    held: set[int] = set()
    while new := set(bearers(str(found.root.parent))) - held:  # whoever was started meanwhile
        for pid in new:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        held |= new
    try:
        yield
    finally:
        for pid in random.sample(sorted(held), len(held)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def told(found: Study) -> tuple[list[tuple[str, float]], list[str], list[str]]:
    rows = found.rows()
    return [(row["decision"], row["value"]) for row in rows], found.runs(), found.faults(rows)


THREE: tuple[list[tuple[str, float]], list[str], list[str]] = (
    [("keep", 1.0), ("keep", 0.5), ("keep", 0.488)],
    ["exp-001", "exp-002", "exp-003"],
    [],
)


@pytest.mark.parametrize("seconds", [1.5, pytest.param(LONG, marks=pytest.mark.slow)])
def test_a_training_that_stood_still_with_its_loop_and_supervisor_goes_on_and_counts_once(tmp_path: Path, seconds: float) -> None:
    found = study(tmp_path, {}, "--budget", "2")
    found.gate(1, 0.5)
    loop = found.spawn(found.command("run"))
    pids = found.waiting()
    with stopped(found):
        passed(seconds)
        other = found.call("run")
    found.open_gate()
    code = loop.wait(60)
    assert (other.code, "E-BUSY" in other.err, code, found.waiting(), told(found)) == (1, True, 0, pids, THREE), other


@pytest.mark.parametrize("seconds", [1.5, pytest.param(LONG, marks=pytest.mark.slow)])
def test_a_loop_that_stood_still_while_its_agent_was_thinking_goes_on(tmp_path: Path, seconds: float) -> None:
    wait = "touch $OUT/thinks; until [ -e $OUT/go ]; do sleep 0.01; done; better 0.5"
    found = study(tmp_path, {1: wait}, "--budget", "2")
    loop = found.spawn(found.command("run"))
    until((found.out / "thinks").exists)
    with stopped(found):
        passed(seconds)
    found.open_gate()
    assert (loop.wait(60), told(found)) == (0, THREE)


@pytest.mark.parametrize("times", [5, pytest.param(48, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_standing_still_at_random_moments_changes_nothing(tmp_path: Path, times: int) -> None:
    found = study(tmp_path, {}, "--budget", str(7 * times))
    loop, moments = found.spawn(found.command("run")), random.Random(5)
    for _ in range(times):
        passed(moments.uniform(0.0, 0.3))
        with stopped(found):
            passed(moments.uniform(0.0, 0.6))
    code, rows = loop.wait(300), found.rows()
    once = [f"exp-{number:03d}" for number in range(1, 7 * times + 2)]
    assert (code, {row["decision"] for row in rows}, found.runs(), found.faults(rows)) == (0, {"keep"}, once, [])


def test_an_hour_of_sleep_in_mid_run_is_neither_in_the_budget_nor_in_the_row(tmp_path: Path) -> None:
    found = study(tmp_path, {}, "--budget", "2", "--budget", "20m", "--time-limit", "60")
    found.gate(1, 0.5)
    asleep = replace(found, env={**found.env, **jumping(found.out)})
    loop = asleep.spawn(asleep.command("run"))
    found.waiting()
    (found.out / "clock").write_text(SLEPT)
    found.open_gate()
    code, rows = loop.wait(60), found.rows()
    wall = rows[1]["finished"] > rows[1]["started"] and max(row["seconds"] for row in rows) < 60
    assert (code, wall, found.status()["reason"], told(found)) == (0, True, "budget used up: 2 of 2 experiments", THREE)


def supervised(folder: Path, spec: JobSpec, *before: str, **env: str) -> subprocess.Popen[bytes]:
    """A supervisor of its own for the job."""
    folder.mkdir()
    (folder / jobs.SPEC).write_text(jobs.spec_to_json(spec))
    argv = [*before, sys.executable, "-m", "overnight.supervisor", str(folder)]
    return subprocess.Popen(argv, env={**ENV, "PYTHONPATH": SOURCE, **env})


def status(folder: Path) -> JobStatus:
    return jobs.status_from_json((folder / jobs.STATUS).read_bytes())


@pytest.mark.parametrize("shift", [SLEPT, "-86400", *(pytest.param(far, marks=pytest.mark.slow) for far in ("86400", "315360000"))])
def test_a_supervisor_whose_clocks_jump_keeps_the_time_of_its_run(tmp_path: Path, shift: str) -> None:
    clocks = jumping(tmp_path)
    script = f"echo @up=1; until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo @loss=0.5"
    folders = [tmp_path / name for name in ("ends", "limited")]
    spec = shell(script, time_limit=120.0, env={**ENV, **clocks})
    begun = time.monotonic()
    both = [supervised(folder, replace(spec, time_limit=limit), **clocks) for folder, limit in zip(folders, (120.0, 2.0), strict=True)]
    until(lambda: all((folder / jobs.METRICS).exists() and (folder / jobs.METRICS).read_bytes() for folder in folders))
    (tmp_path / "clock").write_text(shift)
    both[1].wait(60)
    (tmp_path / "go").touch()
    both[0].wait(60)
    took = time.monotonic() - begun
    ends, limited = map(status, folders)
    assert (ends.state, limited.state, limited.cause) == (JobState.SUCCEEDED, JobState.TIMED_OUT, "time limit of 2 s")
    assert (0 < ends.seconds <= took, 2 <= limited.seconds <= took) == (True, True)


def time_namespace(*shift: str) -> tuple[str, ...]:
    """Words before a command that give it clocks of its own. Skips the test where there are none."""
    words = ("unshare", "--time", *shift)
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no time namespace can be made here")
    return words


def test_a_run_with_clocks_of_its_own_is_ended_at_its_limit_by_the_clock_outside(tmp_path: Path) -> None:
    words = time_namespace("--monotonic", "-1", "--boottime", "864000")
    spec = shell("", argv=(*words, "sleep", "60"), time_limit=1.0)
    supervised(tmp_path / "job", spec).wait(60)
    found = status(tmp_path / "job")
    assert (found.state, found.cause, found.seconds < 30) == (JobState.TIMED_OUT, "time limit of 1 s", True)


@pytest.mark.parametrize("shift", [("--monotonic", "86400", "--boottime", "90000"), ("--monotonic", "-1", "--boottime", "3600")])
def test_a_loop_with_other_clocks_than_the_one_before_adopts_its_training(tmp_path: Path, shift: tuple[str, ...]) -> None:
    words = time_namespace(*shift)
    found = study(tmp_path, {}, "--budget", "2", "--budget", "20m")
    found.gate(1, 0.5)
    first = found.spawn(found.command("run"))
    pids = found.waiting()
    first.kill()
    first.wait()
    second = found.spawn([*words, *found.command("run")])
    until(lambda: "[loop] study t: going on" in found.said())
    found.open_gate()
    assert (second.wait(60), found.waiting(), told(found)) == (0, pids, THREE)
