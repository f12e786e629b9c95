"""What Ray does to jobs, and what is told of it: a real cluster of one machine. Skipped but for ``make test-ray``; refusals need no Ray."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

import studies
from clusters import Ray
from commands import PATIENCE, processes, run, shell, until
from overnight.errors import OvernightError, UnreachableError, UsageError
from overnight.executors.ray import RayExecutor
from overnight.models import JobState
from ports import free_port
from studies import ended  # noqa: F401 - a fixture that every test gets


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.mark.parametrize("word", ["--gpus=1", "num-gpus=1", "--num-gpus", "--num-gpus=many", "--resources={"])
def test_a_word_that_is_none_of_its_own_is_refused(root: Path, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        RayExecutor(root, (word,))
    assert (caught.value.code, caught.value.message) == ("E-EXECUTOR-ARGS", f"executor_args: '{word}' cannot be used")


def test_a_service_that_is_not_there_is_told_before_anything_is_spent(root: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UnreachableError) as caught:
        RayExecutor(root, (f"--address={address}",)).check(shell("true"))
    assert (caught.value.code, address in caught.value.message, caught.value.exit_code) == ("E-RAY-DOWN", True, 7)


@pytest.mark.usefixtures("ray")
def test_a_job_gets_the_gpus_that_ray_gives_it(root: Path) -> None:
    executor = RayExecutor(root)
    for number in range(2):
        executor.submit(shell('echo "@gpu=$CUDA_VISIBLE_DEVICES" | sed s/,/./; sleep 3', id=f"job-{number}.1", gpus=("0", "1")))
    assert sorted(executor.poll(f"job-{number}.1", PATIENCE).metrics["gpu"].last for number in range(2)) == [0.1, 2.3]


@pytest.mark.usefixtures("ray")
def test_more_gpus_than_the_cluster_has_are_refused_before_anything_is_spent(root: Path) -> None:
    def enough() -> bool:  # the cluster tells what it has a moment after it has begun
        try:
            RayExecutor(root).check(shell("true", gpus=("0", "1", "2", "3", "4")))
        except OvernightError as exc:
            return exc.message == "Ray would never start such jobs: 5 GPUs wanted, 4 in the whole cluster"
        return False

    assert (until(enough), RayExecutor(root).check(shell("true", gpus=("0", "1", "2", "3")))) == (True, None)  # type: ignore[func-returns-value] # it does not raise


@pytest.mark.usefixtures("ray")
def test_a_job_that_waits_for_gpus_is_cancelled_at_once_and_never_runs(root: Path, tmp_path: Path) -> None:
    executor = RayExecutor(root)
    executor.submit(shell(f"touch {tmp_path}/ran", gpus=tuple("01234567")))
    assert until(lambda: "waiting for resources" in executor.poll("job.1").cause)
    executor.cancel("job.1", "not wanted")
    status = executor.poll("job.1", PATIENCE)
    assert (status.state, status.cause, (tmp_path / "ran").exists()) == (JobState.CANCELLED, "cancelled: not wanted", False)


@pytest.mark.usefixtures("ray")
def test_a_supervisor_that_is_killed_on_its_machine_makes_the_job_lost(root: Path, mark: str) -> None:
    executor = RayExecutor(root)
    executor.submit(shell(f"echo @up=1; sleep {mark}"))
    assert until(lambda: bool(executor.tail("job.1", 0)[0]))
    os.kill(executor.poll("job.1").pid, signal.SIGKILL)
    status = executor.poll("job.1", PATIENCE)
    assert until(lambda: not processes(mark))
    assert (status.state, status.cause) == (JobState.LOST, "its supervisor died without a word")


@pytest.mark.usefixtures("ray")
def test_the_class_of_the_machine_is_in_the_status(root: Path) -> None:
    from overnight import gpus

    assert run(RayExecutor(root), shell("exit 0")).worker == gpus.processor()


def test_a_study_on_ray_keeps_what_is_better_and_leaves_nothing_behind(tmp_path: Path, ray: Ray) -> None:
    words = ("--executor", "ray", "--executor-args", f"--address={ray.address}", "--budget", "3", "--slots", "2", "--gpus-per-run", "1")
    found = studies.study(tmp_path, {}, *words)
    done = subprocess.run(found.command("run"), cwd=found.root, env=found.env, capture_output=True, text=True, check=False)
    rows = found.rows()
    assert (done.returncode, len(rows), found.faults(rows)) == (0, 4, []), done.stderr
