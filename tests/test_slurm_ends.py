"""What Slurm does to jobs that run, and what is told of it: cancelled, requeued, preempted, killed, a controller that is away."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusters import Slurm
from commands import PATIENCE, processes, run, shell, supervise, until
from overnight import jobs
from overnight.executors.slurm import SlurmExecutor
from overnight.executors.slurm_batch import ORDER
from overnight.models import JobSpec, JobState


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def executor(slurm: Slurm, root: Path) -> Iterator[SlurmExecutor]:
    yield SlurmExecutor(root)
    slurm.start()
    slurm.empty()


def number(root: Path, job: str = "job.1") -> str:
    """What Slurm calls the job."""
    found: str = json.loads((root / job / ORDER).read_text())["job"]
    return found


def started(executor: SlurmExecutor, spec: JobSpec) -> JobSpec:
    """Submit a job that says when it is there."""
    executor.submit(spec)
    assert until(lambda: bool(executor.tail(spec.id, 0)[0]))
    return spec


def state(slurm: Slurm, job: str) -> str:
    return slurm.says("squeue", "-h", "--array", "--states=all", "-j", job, "-o", "%T").strip()


# ---------------------------------------------------------------- what happens to it


def test_a_scancel_by_a_person_is_told_as_that(executor: SlurmExecutor, slurm: Slurm, root: Path, mark: str) -> None:
    started(executor, shell(f"echo @up=1; sleep {mark}"))
    slurm.says("scancel", number(root))
    status = executor.poll("job.1", PATIENCE)
    assert (status.state, status.cause, status.taken, processes(mark)) == (JobState.CANCELLED, "cancelled: scancel", False, [])


def test_a_job_that_is_requeued_is_lost_without_fault_and_not_run_again_in_its_folder(
    executor: SlurmExecutor, slurm: Slurm, root: Path, tmp_path: Path
) -> None:
    started(executor, shell(f"echo ran >> {tmp_path}/runs; echo @up=1; sleep 60"))
    slurm.put_back(number(root))
    status = executor.poll("job.1", PATIENCE)
    assert until(lambda: state(slurm, number(root)) in ("CANCELLED", ""))
    told = (status.state, status.taken, status.cause, (tmp_path / "runs").read_text())
    assert told == (JobState.LOST, True, "Slurm put it back into its queue after it had begun", "ran\n")


def test_a_preempted_job_has_its_grace_and_is_lost_without_fault_even_if_it_ends_well(
    executor: SlurmExecutor, slurm: Slurm, tmp_path: Path
) -> None:
    low = SlurmExecutor(executor._root, ("--exclusive", "--partition=low"))
    started(low, shell(f"trap 'sleep 0.3; touch {tmp_path}/saved; exit 0' TERM; echo @up=1; while :; do sleep 0.05; done", grace=20))
    high = SlurmExecutor(executor._root, ("--exclusive", "--partition=high"))
    high.submit(shell("exit 0", id="high.1"))
    status, winner = low.poll("job.1", PATIENCE), high.poll("high.1", PATIENCE)
    assert until(lambda: not slurm.says("squeue", "-h", "--me"))
    told = (status.state, status.taken, winner.state, (tmp_path / "saved").exists())
    assert told == (JobState.LOST, True, JobState.SUCCEEDED, True)


@pytest.mark.parametrize("first", ["command", "supervisor"])
def test_a_requeued_job_is_lost_without_fault_whoever_of_its_tree_the_signal_reaches_first(
    executor: SlurmExecutor, slurm: Slurm, root: Path, first: str
) -> None:
    started(executor, shell("echo @up=$$; exec sleep 60"))
    folder = root / "job.1"
    os.kill(int(json.loads((folder / jobs.NODE).read_text())["launch"]), signal.SIGSTOP)  # the batch script, with which the job would end
    if first == "command":
        os.kill(int(executor.tail("job.1", 0)[0][0].value), signal.SIGTERM)
    else:
        os.kill(executor.poll("job.1").pid, signal.SIGKILL)
        supervise(folder)  # as the batch script does
    assert until(lambda: jobs.status_from_json((folder / jobs.STATUS).read_bytes()).state.over)
    slurm.put_back(number(root))
    status = executor.poll("job.1", PATIENCE)
    assert (status.state, status.taken, status.cause) == (JobState.LOST, True, "Slurm put it back into its queue after it had begun")


def test_a_command_that_ends_itself_by_sigterm_has_failed(executor: SlurmExecutor) -> None:
    status = run(executor, shell("kill -TERM $$"))
    assert (status.state, status.cause, status.taken) == (JobState.FAILED, "killed by SIGTERM", False)


def test_a_supervisor_that_is_killed_on_its_node_makes_the_job_lost(executor: SlurmExecutor, mark: str) -> None:
    started(executor, shell(f"echo @up=1; sleep {mark}"))
    os.kill(executor.poll("job.1").pid, signal.SIGKILL)
    status = executor.poll("job.1", PATIENCE)
    assert until(lambda: not processes(mark))
    assert (status.state, status.taken, status.cause.partition(" (")[0]) == (JobState.LOST, False, "its supervisor died without a word")


def test_a_node_that_fails_makes_its_jobs_lost(executor: SlurmExecutor, slurm: Slurm, root: Path) -> None:
    host = slurm.says("sinfo", "-h", "-o", "%n").strip()
    started(executor, shell("echo @up=1; sleep 60"))
    slurm.says("scontrol", "update", f"nodename={host}", "state=down", "reason=test")
    status = executor.poll("job.1", PATIENCE)
    slurm.says("scontrol", "update", f"nodename={host}", "state=resume")
    assert (status.state, number(root) != "") == (JobState.LOST, True)


def test_a_job_that_never_reaches_its_python_says_what_the_node_said(executor: SlurmExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    status = run(executor, shell("exit 0"))
    assert (status.state, "ended before the run began" in status.cause, "/nowhere/python" in status.cause) == (JobState.LOST, True, True)


def test_a_controller_that_is_started_again_costs_no_job(executor: SlurmExecutor, slurm: Slurm, tmp_path: Path) -> None:
    started(executor, shell(f"echo @up=1; until [ -e {tmp_path}/go ]; do sleep 0.05; done"))
    slurm.end("slurmctld", signal.SIGTERM)
    assert executor.poll("job.1", 0.1).state is JobState.RUNNING
    slurm.start()
    (tmp_path / "go").touch()
    assert executor.poll("job.1", PATIENCE).state is JobState.SUCCEEDED


def test_a_job_submitted_while_the_controller_is_away_is_taken_when_it_is_back(executor: SlurmExecutor, slurm: Slurm) -> None:
    slurm.end("slurmctld", signal.SIGTERM)
    thread = threading.Thread(target=executor.submit, args=(shell("exit 0"),))
    thread.start()
    assert until((executor._root / "job.1" / ORDER).exists)
    slurm.start()
    thread.join()
    assert executor.poll("job.1", PATIENCE).state is JobState.SUCCEEDED
