"""How jobs come to Slurm and through its queue: GPUs, arrays, submits that are cut off, refusals. A real cluster of one node."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusters import Slurm
from commands import ENV, PATIENCE, SOURCE, run, shell, until
from overnight import jobs, node
from overnight.errors import JobError, UnreachableError, UsageError
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


# ---------------------------------------------------------------- the queue


def test_a_job_that_has_to_wait_says_what_it_waits_for_in_the_words_of_slurm(executor: SlurmExecutor, slurm: Slurm) -> None:
    first = SlurmExecutor(executor._root, ("--exclusive",))
    started(first, shell("echo @up=1; sleep 60", id="first.1"))
    executor.submit(shell("exit 0"))
    assert until(lambda: executor.poll("job.1").cause == "waits in Slurm's queue: Resources")
    executor.cancel("first.1", "make room")
    assert (executor.poll("job.1", PATIENCE).state, slurm.says("squeue", "-h", "-t", "PD").strip()) == (JobState.SUCCEEDED, "")


def test_a_job_that_waits_is_cancelled_at_once_and_never_runs(executor: SlurmExecutor, tmp_path: Path) -> None:
    executor = SlurmExecutor(executor._root, ("--begin=now+1hour",))
    executor.submit(shell(f"touch {tmp_path}/ran"))
    executor.cancel("job.1", "not wanted\nany more")
    status = executor.poll("job.1", PATIENCE)
    assert (status.state, status.cause, (tmp_path / "ran").exists()) == (
        JobState.CANCELLED,
        "cancelled: not wanted any more",
        False,
    )


def test_a_job_gets_the_gpus_that_slurm_gives_it_and_no_other_has_them(executor: SlurmExecutor, tmp_path: Path) -> None:
    script = f'echo "@gpu=$CUDA_VISIBLE_DEVICES" | sed s/,/./; until [ -e {tmp_path}/go ]; do sleep 0.05; done'
    specs = [shell(script, id=f"job-{number}.1", gpus=("0", "1")) for number in range(2)]
    for spec in specs:
        started(executor, spec)
    (tmp_path / "go").touch()
    seen = sorted(executor.poll(spec.id, PATIENCE).metrics["gpu"].last for spec in specs)
    assert seen == [0.1, 2.3]


def test_a_job_without_gpus_is_given_none(executor: SlurmExecutor) -> None:
    assert run(executor, shell('echo "[${CUDA_VISIBLE_DEVICES-unset}]"')).end in ("[]\n", "[unset]\n", "[NoDevFiles]\n")


def test_the_class_of_the_machine_is_in_the_status(executor: SlurmExecutor) -> None:
    from overnight import gpus

    assert run(executor, shell("exit 0")).worker == gpus.processor()


def test_submits_at_the_same_moment_are_one_array(executor: SlurmExecutor, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overnight.executors.slurm._TOGETHER", 1.0)  # how long a moment is: this machine may be slow
    executor = SlurmExecutor(root)
    specs = [shell("echo done", id=f"wave-{number}.1") for number in range(5)]
    threads = [threading.Thread(target=executor.submit, args=(spec,)) for spec in specs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ends = [executor.poll(spec.id, PATIENCE).end for spec in specs]
    arrays = {number(root, spec.id).partition("_")[0] for spec in specs}
    tasks = sorted(number(root, spec.id).partition("_")[2] for spec in specs)
    assert (ends, len(arrays), tasks) == (["done\n"] * 5, 1, list("01234"))


# ---------------------------------------------------------------- submitted once


def test_a_submit_that_was_killed_before_it_knew_the_number_is_found_again(executor: SlurmExecutor, root: Path, tmp_path: Path) -> None:
    executor.submit(shell(f"echo ran >> {tmp_path}/runs; echo @up=1; until [ -e {tmp_path}/go ]; do sleep 0.05; done"))
    known = json.loads((root / "job.1" / ORDER).read_text())
    (root / "job.1" / ORDER).write_text(json.dumps({**known, "job": ""}))
    later = SlurmExecutor(root)
    later.submit(shell("never"))
    again = number(root)
    (tmp_path / "go").touch()
    assert (later.poll("job.1", PATIENCE).state, again, (tmp_path / "runs").read_text()) == (JobState.SUCCEEDED, known["job"], "ran\n")


def test_a_program_killed_in_the_middle_of_its_submit_runs_the_job_once(executor: SlurmExecutor, root: Path, tmp_path: Path) -> None:
    slow = tmp_path / "bin" / "sbatch"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\ntouch {tmp_path}/begun\nsleep 1\nexec {shutil.which("sbatch")} "$@"\n')
    slow.chmod(0o755)
    script = (
        f"import sys; sys.path.insert(0, {SOURCE!r})\nfrom pathlib import Path\nfrom overnight.executors.slurm import SlurmExecutor\n"
        f"from overnight.models import JobSpec\nSlurmExecutor(Path({str(root)!r})).submit(JobSpec('job.1', ('sh', '-c', 'echo ran >> {tmp_path}/runs'), '/', {ENV!r}))\n"
    )
    env = {**os.environ, "PATH": f"{slow.parent}:{os.environ['PATH']}"}
    process = subprocess.Popen([sys.executable, "-c", script], env=env, start_new_session=True)
    assert until((tmp_path / "begun").exists)
    process.kill()
    process.wait()
    assert executor.poll("job.1").state is JobState.QUEUED
    executor.submit(shell(f"echo ran >> {tmp_path}/runs"))
    assert (executor.poll("job.1", PATIENCE).state, (tmp_path / "runs").read_text()) == (JobState.SUCCEEDED, "ran\n")


def test_a_folder_that_comes_to_two_allocations_is_run_by_the_first_alone(tmp_path: Path) -> None:
    first, second = node.Claim("12", 0, "7"), node.Claim("13", 0, "8")
    assert [node.claim(tmp_path, each, {}) for each in (first, second, first)] == [first] * 3


@pytest.mark.parametrize("launch", [("12", "1", "7"), ("12", "0", "8")])
def test_a_second_launch_by_the_engine_tells_that_the_first_is_lost_without_fault(tmp_path: Path, launch: tuple[str, ...]) -> None:
    (tmp_path / jobs.SPEC).write_text(jobs.spec_to_json(shell(f"touch {tmp_path}/ran")))
    node.claim(tmp_path, node.Claim("12", 0, "7"), {})
    done = subprocess.run([sys.executable, "-m", "overnight.node", str(tmp_path), *launch], env={**ENV, "PYTHONPATH": SOURCE}, check=False)
    status = jobs.status_from_json((tmp_path / jobs.STATUS).read_bytes())
    assert (done.returncode, status.state, status.taken, (tmp_path / "ran").exists()) == (0, JobState.LOST, True, False)


def test_the_gpus_of_the_engine_replace_those_of_the_spec(tmp_path: Path) -> None:
    (tmp_path / jobs.SPEC).write_text(jobs.spec_to_json(shell("", gpus=("0",), env={"CUDA_VISIBLE_DEVICES": "0", "A": "1"})))
    node.give(tmp_path, {"CUDA_VISIBLE_DEVICES": "3,GPU-ab", "B": "2"})
    spec = jobs.spec_from_json((tmp_path / jobs.SPEC).read_bytes())
    assert (spec.gpus, dict(spec.env)) == (("3", "GPU-ab"), {"CUDA_VISIBLE_DEVICES": "3,GPU-ab", "A": "1"})


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("options", "seconds", "words"),
    [
        (("--partition=nowhere",), 60.0, "invalid partition specified: nowhere"),
        (("--gpus=99",), 60.0, "Requested node configuration is not available"),
        (("--partition=low",), 700 * 60.0, "Requested time limit is invalid"),
        (("--no-such-word",), 60.0, "unrecognized option"),
    ],
)
def test_what_slurm_would_never_run_is_one_error_with_its_own_words(
    executor: SlurmExecutor, options: tuple[str, ...], seconds: float, words: str
) -> None:
    refusing = SlurmExecutor(executor._root, options)
    with pytest.raises(UsageError) as checked:
        refusing.check(shell("true", time_limit=seconds))
    with pytest.raises(JobError) as submitted:
        refusing.submit(shell("exit 0", time_limit=seconds))
    assert (checked.value.code, submitted.value.code, words in checked.value.message, words in submitted.value.message) == (
        "E-SLURM",
        "E-SLURM",
        True,
        True,
    )
    assert refusing.poll("job.1").cause == "it was never started"


def test_without_slurm_the_error_names_what_is_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError) as checked:
        SlurmExecutor(root).check(shell("true", time_limit=60))
    with pytest.raises(JobError) as submitted:
        SlurmExecutor(root).submit(shell("exit 0"))
    assert [(error.value.code, error.value.message) for error in (checked, submitted)] == [("E-NO-SLURM", "sbatch is not on PATH")] * 2


def test_a_controller_that_does_not_answer_is_told_before_anything_is_spent(slurm: Slurm, root: Path) -> None:
    slurm.end("slurmctld", signal.SIGTERM)
    try:
        with pytest.raises(UnreachableError) as caught:
            SlurmExecutor(root).check(shell("true", time_limit=60))
    finally:
        slurm.start()
    assert (caught.value.code, caught.value.exit_code) == ("E-SLURM-DOWN", 7)
