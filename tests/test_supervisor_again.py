"""A supervisor that is done with its job takes the next: nothing of one job may be left for another."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import PATIENCE, running, shell, until
from overnight.executors.local import LocalExecutor
from overnight.models import JobState, JobStatus


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[LocalExecutor]:
    with LocalExecutor(tmp_path / "jobs") as executor:
        yield executor


def done(executor: LocalExecutor, script: str, name: str, **more: object) -> JobStatus:
    executor.submit(shell(script, id=name, **more))
    return executor.poll(name, PATIENCE)


def test_jobs_one_after_another_have_one_supervisor_and_none_sees_figures_of_another(executor: LocalExecutor) -> None:
    first = done(executor, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo @loss=1", "one")
    second = done(executor, "echo @accuracy=2; exit 3", "two")
    assert second.pid == first.pid
    assert (second.exit_code, set(second.metrics), second.end) == (3, {"accuracy"}, "@accuracy=2\n")
    assert second.cpu_seconds < first.cpu_seconds


def test_a_supervisor_has_no_more_files_open_after_thirty_jobs_than_after_three(executor: LocalExecutor) -> None:
    counts = []
    for number in range(30):
        status = done(executor, "echo @loss=1", f"job-{number}")
        counts.append(len(os.listdir(f"/proc/{status.pid}/fd")))
    assert max(counts[3:]) - min(counts[3:]) <= 2  # the last job's lock and end may still be open when we look


def test_a_job_that_hangs_is_no_hindrance_for_jobs_beside_it(executor: LocalExecutor) -> None:
    done(executor, "true", "zero")
    executor.submit(shell("sleep 100", id="slow"))
    until(lambda: executor.poll("slow").state is JobState.RUNNING)
    beside = [done(executor, "true", f"quick-{number}") for number in range(3)]
    executor.cancel("slow", "enough")
    assert [status.state for status in beside] == [JobState.SUCCEEDED] * 3
    assert executor.poll("slow", PATIENCE).state is JobState.CANCELLED


def test_a_killed_idle_supervisor_is_replaced(executor: LocalExecutor) -> None:
    first = done(executor, "true", "one")
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{first.pid}").exists())
    second = done(executor, "true", "two")
    assert (second.state, second.pid != first.pid) == (JobState.SUCCEEDED, True)


def test_the_end_of_a_cancelled_job_does_not_reach_the_next_one(executor: LocalExecutor) -> None:
    """Requests to end come in while the supervisor goes from one job to the next."""
    states = []
    for number in range(20):
        running(executor, shell("echo @up=1; sleep 0.01", id=f"first-{number}"))
        executor.cancel(f"first-{number}", "enough")
        executor.cancel(f"first-{number}", "enough")
        executor.poll(f"first-{number}", PATIENCE)
        executor.cancel(f"first-{number}", "enough")
        states.append(done(executor, "true", f"next-{number}").state)
    assert states == [JobState.SUCCEEDED] * 20


def test_idle_supervisors_end_with_the_loop(tmp_path: Path) -> None:
    with LocalExecutor(tmp_path / "jobs") as executor:
        status = done(executor, "true", "one")
    until(lambda: not Path(f"/proc/{status.pid}").exists())
