"""What becomes of a job when the loop, the spawner or its supervisor is killed, and when its folder is found in any state."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import ENV, PATIENCE, SOURCE, processes, run, running, shell, supervise, until
from overnight import jobs
from overnight.errors import JobError
from overnight.executors.local import LocalExecutor
from overnight.models import JobState, JobStatus, MetricSummary
from overnight.supervisor import tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def executor(root: Path) -> Iterator[LocalExecutor]:
    with LocalExecutor(root) as executor:
        yield executor


# ---------------------------------------------------------------- when somebody is killed


def test_a_job_goes_on_when_the_loop_that_started_it_is_killed(root: Path, tmp_path: Path) -> None:
    loop = (
        f"import sys, time; sys.path.insert(0, {SOURCE!r})\nfrom pathlib import Path\nfrom overnight.executors.local import LocalExecutor\n"
        f"from overnight.models import JobSpec\nexecutor = LocalExecutor(Path({str(root)!r}))\n"
        f"executor.submit(JobSpec(id='job.1', argv=('sh', '-c', 'until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo @loss=0.5'), cwd='/', env={ENV!r}))\n"
        "print('up', flush=True); time.sleep(1000)"
    )
    process = subprocess.Popen([sys.executable, "-c", loop], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    with LocalExecutor(root) as later:
        between = later.poll("job.1", 0.1)
        (tmp_path / "go").touch()
        status = later.poll("job.1", PATIENCE)
    assert (between.state, status.state, status.metrics["loss"].last) == (JobState.RUNNING, JobState.SUCCEEDED, 0.5)


def test_an_interrupt_from_the_terminal_reaches_neither_job_nor_supervisor_nor_spawner(executor: LocalExecutor, tmp_path: Path) -> None:
    status = running(executor, shell(f"echo @up=1; until [ -e {tmp_path}/go ]; do sleep 0.01; done"))
    spawner = executor._spawner._process
    assert spawner is not None
    sessions = {os.getsid(0), os.getsid(status.pid), os.getsid(spawner.pid)}
    (tmp_path / "go").touch()
    assert (executor.poll("job.1", PATIENCE).state, len(sessions)) == (JobState.SUCCEEDED, 3)


def test_a_job_whose_supervisor_is_killed_is_lost_and_its_leftovers_are_ended(executor: LocalExecutor, mark: str) -> None:
    status = running(
        executor, shell(f"(setsid env -i sleep {mark} &); env -i sleep {mark} & echo said; sleep 0.5; echo @up=1; sleep {mark}")
    )
    os.kill(status.pid, signal.SIGKILL)
    lost = executor.poll("job.1", PATIENCE)
    assert (lost.state, lost.cause, lost.survivors, "said" in lost.end, processes(mark)) == (
        JobState.LOST, "its supervisor died without a word", 4, True, [],
    )  # fmt: skip


def test_a_lost_job_is_not_run_again(executor: LocalExecutor, tmp_path: Path, mark: str) -> None:
    spec = shell(f"echo ran >> {tmp_path}/runs; echo @up=1; sleep {mark}")
    os.kill(running(executor, spec).pid, signal.SIGKILL)
    executor.submit(spec)
    assert (executor.poll("job.1", PATIENCE).state, (tmp_path / "runs").read_text(), processes(mark)) == (JobState.LOST, "ran\n", [])


def test_a_killed_spawner_harms_no_job_and_is_replaced(executor: LocalExecutor, tmp_path: Path) -> None:
    running(executor, shell(f"echo @up=1; until [ -e {tmp_path}/go ]; do sleep 0.01; done", id="first"))
    assert executor._spawner._process is not None
    executor._spawner._process.kill()
    second = run(executor, shell("exit 5", id="second"))
    (tmp_path / "go").touch()
    assert (executor.poll("first", PATIENCE).state, second.exit_code) == (JobState.SUCCEEDED, 5)


def test_the_spawner_ends_with_its_loop_and_leaves_no_process(root: Path) -> None:
    executor = LocalExecutor(root)
    run(executor, shell("exit 0"))
    process = executor._spawner._process
    assert process is not None
    del executor
    assert process.returncode == -signal.SIGKILL


def test_a_request_to_end_reaches_a_job_at_any_moment_of_its_start(executor: LocalExecutor, mark: str) -> None:
    states = []
    for number in range(20):
        spec = shell(f"sleep {mark}", id=f"job-{number}")
        executor.submit(spec)
        if number % 2 and until(lambda name=spec.id: executor.poll(name).pid > 0):  # type: ignore[misc]
            os.kill(executor.poll(spec.id).pid, signal.SIGTERM)
        executor.cancel(spec.id, "early")
        states.append(executor.poll(spec.id, PATIENCE).state)
    assert (set(states), processes(mark)) == ({JobState.CANCELLED}, [])


def test_a_request_to_end_that_was_there_before_the_start_keeps_the_command_from_running(root: Path, tmp_path: Path) -> None:
    folder = root / "job.1"
    folder.mkdir(parents=True)
    (folder / jobs.SPEC).write_text(jobs.spec_to_json(shell(f"touch {tmp_path}/ran")))
    (folder / jobs.CANCEL).write_text("no longer wanted")
    supervise(folder)
    with LocalExecutor(root) as executor:
        assert (executor.poll("job.1").cause, (tmp_path / "ran").exists()) == ("cancelled: no longer wanted", False)


def test_killing_anybody_at_any_moment_runs_no_job_twice_and_leaves_no_process(executor: LocalExecutor, tmp_path: Path, mark: str) -> None:
    assert killed_at_random(executor, tmp_path, mark, 15) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killing_anybody_a_thousand_times_runs_no_job_twice_and_leaves_no_process(
    executor: LocalExecutor, tmp_path: Path, mark: str
) -> None:
    assert killed_at_random(executor, tmp_path, mark, 1000) == []


def killed_at_random(executor: LocalExecutor, place: Path, mark: str, times: int) -> list[str]:
    """Kill the supervisor or the spawner up to 30 ms after the start of a job, again and again; what went wrong."""
    wrong = []
    for number in range(times):
        spec = shell(f"echo ran >> {place}/runs-{number}; sleep 0.02; (setsid sleep {mark} &); sleep 0.01; exit 3", id=f"job-{number}.1")
        executor.submit(spec)
        time.sleep(random.uniform(0, 0.03))
        supervisor = executor.poll(spec.id).pid if number % 3 else 0
        victim = supervisor or executor._spawner._process.pid  # type: ignore[union-attr] # it was needed just now
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        executor.submit(spec)
        status = executor.poll(spec.id, PATIENCE)
        runs = (place / f"runs-{number}").read_text() if (place / f"runs-{number}").exists() else ""
        fine = status.exit_code == 3 and runs == "ran\n" if status.state is JobState.FAILED else runs in ("", "ran\n")
        if not status.state.over or not fine or processes(mark):
            wrong.append(f"{number}: {status.state} {status.cause} {runs!r} {processes(mark)}")
    return wrong


# ---------------------------------------------------------------- the supervisor as a program


def folder_with(root: Path, script: str, status: JobStatus | None = None) -> Path:
    folder = root / "job.1"
    folder.mkdir(parents=True)
    (folder / jobs.SPEC).write_text(jobs.spec_to_json(shell(script)))
    if status is not None:
        (folder / jobs.STATUS).write_text(jobs.status_to_json(status))
    return folder


def test_a_sigterm_while_the_last_status_is_written_does_not_keep_it_from_being_written(
    executor: LocalExecutor, root: Path, tmp_path: Path
) -> None:
    pid = running(executor, shell(f"echo @up=1; until [ -e {tmp_path}/go ]; do sleep 0.01; done")).pid
    held = root / "job.1" / "status.next"  # what the last status is written into: as a pipe, nobody can until it has a reader
    held.unlink()
    os.mkfifo(held)
    (tmp_path / "go").touch()
    children = Path(f"/proc/{pid}/task/{pid}/children")
    assert until(lambda: not children.read_text() and getattr(tree.read(pid), "state", "") == "S")
    os.kill(pid, signal.SIGTERM)
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    held.unlink()
    status = executor.poll("job.1", PATIENCE)
    os.close(reader)
    assert (status.state, status.cause) == (JobState.SUCCEEDED, "")


def test_the_supervisor_runs_a_job_folder_as_a_program_of_its_own(root: Path) -> None:
    folder = folder_with(root, "echo @loss=0.5; exit 6")
    supervise(folder)
    status = jobs.status_from_json((folder / jobs.STATUS).read_bytes())
    assert (status.exit_code, status.metrics["loss"]) == (6, MetricSummary(0.5, 0.5, 0.5, 1))


def test_a_job_that_is_over_is_not_run_again(root: Path, tmp_path: Path) -> None:
    folder = folder_with(root, f"touch {tmp_path}/ran", JobStatus(JobState.FAILED, "exit code 9"))
    supervise(folder)
    assert ((tmp_path / "ran").exists(), jobs.status_from_json((folder / jobs.STATUS).read_bytes()).cause) == (False, "exit code 9")


def test_a_job_that_was_running_without_a_supervisor_becomes_lost_and_is_not_run_again(root: Path, tmp_path: Path) -> None:
    folder = folder_with(root, f"touch {tmp_path}/ran", JobStatus(JobState.RUNNING, pid=1))
    supervise(folder)
    assert ((tmp_path / "ran").exists(), jobs.status_from_json((folder / jobs.STATUS).read_bytes()).state) == (False, JobState.LOST)


def test_a_job_whose_lock_is_held_is_left_alone(root: Path, tmp_path: Path) -> None:
    folder = folder_with(root, f"touch {tmp_path}/ran")
    with (folder / jobs.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        supervise(folder)
    assert ((tmp_path / "ran").exists(), (folder / jobs.STATUS).exists()) == (False, False)


def test_a_job_is_not_kept_from_starting_by_somebody_who_asks_if_it_lives(root: Path) -> None:
    folder = folder_with(root, "exit 0")
    with (folder / jobs.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        env = {**ENV, "PYTHONPATH": SOURCE}
        process = subprocess.Popen([sys.executable, "-m", "overnight.supervisor", str(folder)], env=env)
        assert until(lambda: str((folder / jobs.LOCK).resolve()) in open_files(process.pid))
    assert (process.wait(PATIENCE), jobs.status_from_json((folder / jobs.STATUS).read_bytes()).state) == (0, JobState.SUCCEEDED)


def open_files(pid: int) -> list[str]:
    try:
        return [str(link.resolve()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"argv": 3}', '{"id": "x"}'])
def test_a_damaged_spec_makes_the_job_lost(root: Path, text: str) -> None:
    folder = root / "job.1"
    folder.mkdir(parents=True)
    (folder / jobs.SPEC).write_text(text)
    supervise(folder)
    assert jobs.status_from_json((folder / jobs.STATUS).read_bytes()).state == JobState.LOST


def test_an_error_of_the_supervisor_itself_ends_the_job_as_failed(root: Path, mark: str) -> None:
    folder = folder_with(root, f"sleep {mark}")
    (folder / jobs.SPEC).write_text(json.dumps({**json.loads((folder / jobs.SPEC).read_text()), "memory_limit": "much"}))
    supervise(folder)
    status = jobs.status_from_json((folder / jobs.STATUS).read_bytes())
    assert (status.state, status.cause.partition(":")[0], processes(mark)) == (JobState.FAILED, "the supervisor failed", [])


def test_a_job_is_started_under_the_name_it_was_given_only_if_that_is_fit_for_a_file(executor: LocalExecutor) -> None:
    with pytest.raises(JobError, match=r"cannot name a job"):
        executor.submit(shell("exit 0", id="../up"))


def test_a_place_that_cannot_be_written_is_told_as_a_job_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with LocalExecutor(tmp_path / "file" / "jobs") as executor, pytest.raises(JobError, match=r"Not a directory"):
        executor.submit(shell("exit 0"))


def test_a_folder_without_a_status_that_nobody_holds_was_never_started_and_can_still_be(executor: LocalExecutor, root: Path) -> None:
    folder_with(root, "exit 0")
    before = executor.poll("job.1")
    after = run(executor, shell("exit 0"))
    assert (before.state, after.state) == (JobState.LOST, JobState.SUCCEEDED)
