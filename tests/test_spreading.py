"""Studies whose runs go to the workers of a hub: real workers, a real loop, and kills in between."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commands import shell
from overnight.app.spreading import executor_over_hub
from overnight.errors import UnreachableError, UsageError
from overnight.executors.hub import JOB, HubExecutor, wishes_of
from overnight.models import NO_SECOND, JobState
from overnight.settings import Settings
from overnight.store import Store
from studies import PYTHON, Study, ended, study  # noqa: F401 - a fixture
from yards import LEASE, Yard, end, until

SLOTS = ("--executor", "hub", "--slots", "2")


def spread(yard: Yard, steps: dict[int, str] | None = None, *words: str, **more: Any) -> Study:
    """A study whose runs go to the yard's workers."""
    found = study(yard.root / "study", steps, *SLOTS, *words, **more)
    found.env.update({"OVERNIGHT_HUB": str(yard.hub), "OVERNIGHT_HUB_LEASE": str(LEASE), "OVERNIGHT_WORKER_ROOM": "0"})
    return found


def run(found: Study, *words: str) -> list[dict[str, Any]]:
    """The study's rows once its loop has ended."""
    done = found.call("run", *words, seconds=60)
    assert done.code == 0, done
    return found.rows()


def workers_of(yard: Yard) -> list[str]:
    """The workers of all jobs."""
    return [job.worker for job in yard.jobs()]


@pytest.fixture
def two(yard: Yard) -> Iterator[Yard]:
    """Two workers, each for one job at a time."""
    for name in ("left", "right"):
        yard.worker("--slots", "1", name=name)
    until(lambda: len(yard.alive()) == 2)
    yield yard
    for process in yard.started:
        end(process, signal.SIGKILL)


def gated(yard: Yard) -> Study:
    """A study whose second experiment waits at the gate."""
    night = spread(yard, {}, "--budget", "1", "--slots", "1")
    night.gate(1, 0.4)
    step = night.out / "step.1"
    step.write_text(step.read_text().replace("import os, time", "import os, time\nprint(os.getpid(), flush=True)"))
    return night


def holder(yard: Yard) -> tuple[str, subprocess.Popen[str]]:
    """The worker that has the running job, and its process."""
    name = until(lambda: [job.worker for job in yard.jobs() if job.state is JobState.RUNNING])[0]
    return name, next(each for each in yard.started if name in str(each.args).split("'"))


def runs_of(night: Study) -> list[Any]:
    """Every run of the study, in the order of the experiments."""
    with contextlib.closing(Store(night.root / ".overnight" / "overnight.db")) as store:
        return [run for row in night.rows() for run in store.runs(1, row["number"])]


def without_walls_of_its_own(night: Study) -> Study:
    """Let its command be one that walls let through."""
    night.words[-2:] = [sys.executable, "-I", "-S", "train.py"]
    return night


def test_a_study_runs_on_all_workers_and_ends_as_one_on_this_machine_does(two: Yard) -> None:
    seen = two.root / "study" / "out" / "runs"
    wait = f"until [ $(sort -u {seen} | wc -l) -ge 3 ]; do sleep 0.02; done"  # the second experiment waits for the third
    script = f'echo "$OVERNIGHT_EXPERIMENT_ID" >> {seen}\n[ "$OVERNIGHT_EXPERIMENT_ID" = exp-001 ] || {wait}\nexec {PYTHON} train.py\n'
    night = spread(two, files={"run.sh": script})
    rows = run(night, "--budget", "4")
    assert (len(rows), set(workers_of(two)), [row["decision"] for row in rows].count("crash"), night.faults(rows)) == (
        5,
        {"left", "right"},
        0,
        [],
    )


def test_a_run_whose_worker_is_killed_is_run_again_by_another_and_counts_once(two: Yard) -> None:
    night = gated(two)
    loop = night.spawn(night.command("run"))
    first = night.waiting()[0]
    name, process = holder(two)
    process.send_signal(signal.SIGKILL)
    second = until(lambda: night.waiting()[1:])[0]
    night.open_gate()
    code, rows = loop.wait(60), night.rows()
    last, folder = two.jobs()[0], night.root / ".overnight" / "jobs" / "t-2.1"
    printed = (folder / "output.log").read_text()
    process.wait()
    assert (code, [row["value"] for row in rows], last.attempt, last.worker != name, printed, Path(f"/proc/{first}").exists()) == (
        0,
        [1.0, 0.4],
        2,
        True,
        f"{second}\n@loss=0.4\n",
        False,
    )


def test_a_loop_that_was_killed_finds_its_run_at_the_worker(two: Yard) -> None:
    night = gated(two)
    loop = night.spawn(night.command("run"))
    night.waiting()
    loop.send_signal(signal.SIGKILL)
    loop.wait()
    night.open_gate()
    rows = run(night, "--budget", "0")
    assert ([row["value"] for row in rows], night.runs(), len(two.jobs()), night.faults(rows)) == (
        [1.0, 0.4],
        ["exp-001", "exp-002"],
        2,
        [],
    )


def test_a_job_that_was_about_to_be_queued_when_the_loop_died_is_queued_once(
    two: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERNIGHT_HUB", str(two.hub))
    with made(tmp_path) as executor:
        executor.submit(shell(f"echo ran >> {two.told}/runs"))
        executor.poll("job.1", 30)
    for name in (JOB, "status.json"):
        (tmp_path / "jobs" / "job.1" / name).unlink()
    with made(tmp_path) as later:
        status = later.poll("job.1", 30)
    assert (status.state, (two.told / "runs").read_text(), len(two.jobs())) == (JobState.SUCCEEDED, "ran\n", 1)


def test_a_study_that_is_stopped_takes_its_run_back_from_the_worker_and_goes_on_later(two: Yard) -> None:
    night = gated(two)
    loop = night.spawn(night.command("run"))
    night.waiting()
    night.call("stop", "--now")
    loop.wait(60)
    until(lambda: two.jobs()[0].state.over)
    stopped = two.jobs()[0].state
    night.open_gate()
    rows = run(night, "--budget", "0")
    assert (stopped, [row["value"] for row in rows], night.faults(rows)) == (JobState.CANCELLED, [1.0, 0.4], [])


class Silent:
    """A hub that does not answer."""

    def __getattr__(self, verb: str) -> Any:
        def ask(*_: Any, **__: Any) -> Any:
            raise UnreachableError("E-HUB", f"{verb}: no answer")

        return ask


def test_while_the_hub_does_not_answer_nothing_is_taken_for_dead(two: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERNIGHT_HUB", str(two.hub))
    with made(tmp_path) as executor:
        executor.submit(shell(f"until [ -e {two.told}/go ]; do sleep 0.01; done"))
        until(lambda: executor.poll("job.1").state is JobState.RUNNING)
        reach, executor._reach = executor._reach, replace(executor._reach, desk=Silent())
        executor.cancel("job.1", "meanwhile")
        silent = executor.poll("job.1").state
        executor._reach = reach
        status = executor.poll("job.1", 30)
    assert (silent, status.state, status.cause) == (JobState.RUNNING, JobState.CANCELLED, "cancelled: meanwhile")


def test_a_study_without_a_worker_is_refused_with_the_command_that_starts_one(yard: Yard) -> None:
    done = spread(yard).call("run", "--budget", "1")
    assert (done.code, "error[E-NO-WORKERS]" in done.err, "fix:   overnight worker start\n" in done.err) == (2, True, True)


def test_a_study_that_no_worker_fits_is_refused_with_what_there_is(two: Yard) -> None:
    done = spread(two).call("run", "--budget", "1", "--gpus-per-run", "2")
    assert (done.code, "error[E-NO-FIT]" in done.err, "left has no GPU" in done.err) == (2, True, True)


def test_workers_may_come_after_the_study_has_begun(yard: Yard) -> None:
    night = spread(yard, {}, "--budget", "1", "--executor-args=--wait")
    loop = night.spawn(night.command("run"))
    until(yard.jobs)
    yard.worker(name="late")
    assert (loop.wait(60), len(night.rows()), workers_of(yard)) == (0, 2, ["late", "late"])


def test_a_row_tells_the_class_of_its_worker_and_the_walls_that_stood_there(yard: Yard) -> None:
    yard.worker("--gpus", "2", "--gpu-type", "H100", "--tag", "big", name="walled", unsafe=False)
    until(yard.alive)
    night = without_walls_of_its_own(spread(yard, {}, "--gpus-per-run", "1", "--executor-args=--tag=big --gpu-type=h100"))
    rows = run(night, "--budget", "1")
    assert ([row["sandbox"] for row in rows], [each.worker for each in runs_of(night)]) == (["bubblewrap"] * 2, ["H100"] * 2)


def test_the_artefact_comes_back_and_is_measured_on_the_machine_of_the_loop(two: Yard) -> None:
    train = "import pathlib\npathlib.Path('out').mkdir()\npathlib.Path('out/w').write_text('7')\nprint('@loss=0.1')\n"
    words = ("--evaluate", f"{PYTHON} judge.py {{artifact}}", "--artifact", "out/w", "--editable", "train.py")
    judge = "import sys\nprint('@loss=' + open(sys.argv[1]).read())\n"
    night = spread(two, {}, *words, files={"train.py": train, "judge.py": judge})
    rows = run(night, "--budget", "0")
    assert [row["value"] for row in rows] == [7.0]


def test_data_that_git_does_not_hold_is_linked_at_the_worker(two: Yard) -> None:
    night = spread(two, {}, "--data", "corpus", files={"train.py": "print('@loss=' + open('corpus/a').read())\n", ".gitignore": "corpus\n"})
    (night.root / "corpus").mkdir()
    (night.root / "corpus" / "a").write_text("3")
    assert [row["value"] for row in run(night, "--budget", "0")] == [3.0]


def test_a_folder_that_is_missing_is_a_failure_that_says_so(two: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERNIGHT_HUB", str(two.hub))
    with made(tmp_path) as executor:
        executor.submit(shell("true", cwd=str(tmp_path / "gone")))
        status = executor.poll("job.1")
    assert (status.state, status.cause) == (JobState.FAILED, f"{tmp_path}/gone is no folder (it was to be the job's code)")


@pytest.mark.parametrize("word", ["--colour=red", "colour", "--vram-gb", "--cpus=many", "--wait=no"])
def test_words_that_the_hub_does_not_know_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match="E-EXECUTOR-ARGS"):
        wishes_of([word])


def test_a_run_that_is_wanted_on_a_class_of_machine_goes_there_and_elsewhere_once_there_is_none(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERNIGHT_HUB", str(yard.hub))
    for kind in ("H100", "A100"):
        yard.worker("--gpus", "1", "--gpu-type", kind, name=kind)
    until(lambda: len(yard.alive()) == 2)
    wait = f"until [ -e {yard.told}/go ]; do sleep 0.01; done"
    with made(tmp_path) as executor:
        for number in (1, 2):
            executor.submit(shell(wait, id=f"job.{number}", gpus=("0",), worker="A100"))
        until(lambda: executor.poll("job.1").state is JobState.RUNNING)
        first = executor.poll("job.2").state
        end(yard.started[1], signal.SIGKILL)
        (yard.told / "go").touch()
        states = [executor.poll(f"job.{number}", 60) for number in (2, 1)]
    assert (first, [(each.state, each.worker) for each in states]) == (JobState.QUEUED, [(JobState.SUCCEEDED, "H100")] * 2)


def test_a_run_goes_to_a_worker_that_it_is_not_kept_away_from_and_nowhere_if_there_is_none(
    two: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERNIGHT_HUB", str(two.hub))
    with made(tmp_path, verify_wait=0.2) as executor:
        executor.submit(shell("true", away=("left",)))
        executor.submit(shell("true", id="job.2", away=("left", "right")))
        found = [executor.poll(job, 60) for job in ("job.1", "job.2")]
    assert [(each.state, each.host, each.cause.endswith(NO_SECOND)) for each in found] == [
        (JobState.SUCCEEDED, "right", False),
        (JobState.CANCELLED, "", True),
    ]


def made(folder: Path, **given: Any) -> HubExecutor:
    """The executor over the hub of the environment."""
    return executor_over_hub(folder / "jobs", (), Settings(**given), os.environ)
