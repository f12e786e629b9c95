"""Pipelines whose tasks go to the workers of a hub: real workers, files that travel, and kills in between."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from commands import ENV, processes, shell
from hubs import House, offer
from overnight.executors.brought import LEFT
from overnight.executors.hub import HubExecutor, Packed, Reach, Wishes
from overnight.models import JobState, JobStatus
from overnight.queue.words import Ended, Held, HubJob, Output, Submission
from pipelines import Project, lines, project, quoted
from studies import ended  # noqa: F401 - a fixture that every test gets
from terminal import typed
from yards import LEASE, Yard, end, until

HUB = ("run", "pipeline.yaml", "--executor", "hub")


@pytest.fixture
def two(yard: Yard) -> Iterator[Yard]:
    """A worker with a card and one without, each for two jobs."""
    yard.worker("--slots", "2", "--gpus", "1", "--gpu-type", "H100", name="card")
    yard.worker("--slots", "2", "--gpus", "0", name="plain")
    until(lambda: len(yard.alive()) == 2)
    yield yard
    for process in yard.started:
        end(process, signal.SIGKILL)


def over(yard: Yard, text: str, files: dict[str, str] | None = None, **more: str) -> Project:
    """A project whose record lies with the yard's hub."""
    found = project(yard.root, text, files or {}, **more)
    env = {name: value for name, value in found.env.items() if name != "OVERNIGHT_GPUS"}
    return replace(found, env={**env, "OVERNIGHT_HUB_LEASE": str(LEASE)})


GATE = "touch {told}/$OVERNIGHT_TASK.$OVERNIGHT_ATTEMPT; until [ -e {told}/go ]; do sleep 0.02; done"


def gated(yard: Yard) -> Project:
    """One task that waits at a gate, and one after it."""
    gate = quoted(GATE.format(told=yard.told) + f"; echo 1 > x; echo ran >> {yard.told}/runs")
    return over(yard, f"nodes: [{{name: a, command: {gate}}}, {{name: b, command: cat x, needs: a}}]")


def test_the_seeds_pipeline_runs_on_workers_and_its_gpu_is_that_of_one_of_them(two: Yard) -> None:
    found = project(two.root)
    found = replace(found, env={name: value for name, value in found.env.items() if name != "OVERNIGHT_GPUS"})
    said = found.dag(*HUB)
    by = {job.submission.name: (job.worker, job.gpus, job.submission.pipeline) for job in two.jobs()}
    assert (said.code, lines(said)[-4:], by["dag-1-train.1"], len(by)) == (
        0, ["[evaluate] started", "[evaluate] @mpjpe=3.5", "[evaluate] Status: SUCCEEDED", "[dag] dag-1 SUCCEEDED: 3 succeeded"],
        ("card", ("0",), "dag-1"), 3,
    )  # fmt: skip


def test_the_executor_of_the_settings_counts_and_is_kept_with_the_pipeline(two: Yard) -> None:
    found = over(two, "nodes: [{name: a, command: 'true'}]")
    (found.root / "overnight.toml").write_text('executor = "hub"\nexecutor_args = "--priority=7"\n')
    code = found.dag("run", "pipeline.yaml").code
    assert (code, [job.submission.priority for job in two.jobs()], json.loads(found.rows("SELECT options FROM dag")[0][0])) == (
        0, [7], {"executor": "hub", "executor_args": "--priority=7"},
    )  # fmt: skip


def test_a_node_that_fits_no_worker_is_refused_with_its_line_before_anything_is_spent(two: Yard) -> None:
    found = over(two, "nodes:\n  - {name: a, command: 'true'}\n  - {name: b, command: 'true', gpu_count: 2}\n")
    said = found.dag(*HUB)
    assert (said.refusal, "pipeline.yaml:3: node 'b'" in said.err, "card has 1 H100" in said.err, two.jobs()) == (
        ("E-NO-FIT", 2),
        True,
        True,
        [],
    )


def test_without_a_worker_it_is_said_how_one_is_started(yard: Yard) -> None:
    said = over(yard, "nodes: [{name: a, command: 'true'}]").dag(*HUB)
    assert (said.refusal, "fix:   overnight worker start" in said.err) == (("E-NO-WORKERS", 2), True)


def test_a_task_whose_worker_is_killed_runs_again_on_another_and_hands_on_once(two: Yard) -> None:
    found = gated(two)
    conductor = found.spawn(*HUB)
    until(lambda: two.marks() == ["a.1"])
    name = next(job.worker for job in two.jobs())
    next(each for each in two.started if name in each.args).kill()  # type: ignore[operator] # a list of words
    until(lambda: two.marks() == ["a.1", "a.2"])
    (two.told / "go").touch()
    assert (conductor.wait(60), [(job.worker != name, job.attempt) for job in two.jobs()][-1], (two.told / "runs").read_text()) == (
        0,
        (True, 2),
        "ran\n",
    )


def test_a_conductor_that_was_killed_is_followed_by_one_that_finds_the_task_at_its_worker(two: Yard) -> None:
    found = gated(two)
    conductor = found.spawn(*HUB)
    until(lambda: two.marks() == ["a.1"])
    conductor.kill()
    conductor.wait()
    (two.told / "go").touch()
    said = found.dag("resume")
    assert (said.code, (two.told / "runs").read_text(), len(two.jobs()), found.states()) == (
        0,
        "ran\n",
        2,
        {"a": "SUCCEEDED", "b": "SUCCEEDED"},
    )


def test_cancelling_ends_the_tasks_at_their_workers(two: Yard, mark: str) -> None:
    found = over(two, f"nodes: [{{name: a, command: touch {two.told}/up; sleep {mark}}}]")
    found.dag(*HUB, "--detach")
    until(two.marks)
    said = found.dag("cancel", "dag-1", "--json").json
    assert (said["state"], processes(mark), [job.state for job in two.jobs()]) == ("CANCELLED", [], [JobState.CANCELLED])


@pytest.mark.slow
def test_what_has_not_changed_is_not_sent_to_a_worker_again(two: Yard) -> None:
    found = over(two, "nodes: [{name: a, command: echo 1 > x}, {name: b, command: cat x, needs: a}]")
    found.dag(*HUB)
    said = found.dag(*HUB)
    assert (lines(said)[1:], len(two.jobs())) == (
        [
            "[a] cached: nothing changed since dag-1",
            "[b] cached: nothing changed since dag-1",
            "[dag] dag-2 SUCCEEDED: 2 cached",
        ],
        2,
    )


@pytest.mark.slow
def test_the_output_of_a_task_is_read_here(two: Yard) -> None:
    found = over(two, "nodes: [{name: a, command: echo hello from $OVERNIGHT_NODE}]")
    found.dag(*HUB)
    assert found.dag("log", "last", "a").out == "hello from a\n"


@pytest.mark.slow
def test_a_study_over_a_pipeline_runs_each_experiments_pipeline_on_a_worker(two: Yard) -> None:
    from overnight.testing import git

    text = "nodes: [{name: prepare, command: echo 4 > width}, {name: train, command: python -I -S train.py, needs: prepare}]"
    train = "lr = 0.1\nprint(f'@loss={(lr - 0.03) ** 2 + 1 / int(open(\"width\").read()):.6f}')\n"
    found = over(two, text, {"train.py": train, "overnight.toml": 'executor = "hub"\n'})
    git(found.root, "init", "-q")
    git(found.root, "add", ".")
    git(found.root, "commit", "-qm", "one")
    words = (
        "--metric",
        "loss",
        "--direction",
        "min",
        "--pipeline",
        "pipeline.yaml",
        "--baseline-runs",
        "1",
        "--budget",
        "2",
        "--slots",
        "2",
    )
    said = typed(found.root, "run", *words, "--json", env=found.env)
    assert (
        {job.submission.command[:3] for job in two.jobs()},
        said.code,
        {job.submission.exp_id for job in two.jobs()},
        said.json["experiments"],
    ) == (
        {("overnight", "dag", "inside")},
        0,
        {"exp-001", "exp-002", "exp-003"},
        3,
    )


# --- a worker that lies ------------------------------------------------------------------------------------------------


def forged(folder: Path, files: dict[str, bytes], *names: str) -> JobStatus:
    """What becomes of a job whose worker hands in these files and says that it has left those names."""
    house = House(folder / "hub.db")
    run, left = folder / "runs" / "job.1", folder / "left"
    for top, rows in ((run, {"code": b"c", "gone": b"g"}), (left, files)):
        for path, data in rows.items():
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            (top / path).write_bytes(data)

    def outputs(_job: HubJob) -> Path:
        return left

    reach = Reach(house.desk, lambda _folder: Packed("0" * 40), outputs, lambda _seconds, _query: None, 0.0, house.close, {})
    with HubExecutor(folder / "jobs", reach, Wishes()) as executor:
        executor.submit(shell("true", cwd=str(run), env=ENV, outputs=("**",), hands_on=True))
        grant = house.desk.claim(offer())
        assert grant is not None
        told = tuple(Output(name, 1, "0" * 64) for name in names)
        house.desk.report("w", Held(grant.job.id, grant.job.attempt), Ended(JobStatus(JobState.SUCCEEDED), told))
        return executor.poll("job.1")


def test_a_worker_that_lies_about_what_it_has_left_changes_nothing_outside_of_the_tasks_folder(tmp_path: Path) -> None:
    (tmp_path / "evil").write_text("mine")
    removed = json.dumps({"removed": ["../../evil", str(tmp_path / "evil"), "gone", "code/x"], "note": "n" * 9999}).encode()
    names = ("../../worse", str(tmp_path / "worse"), "a/../../b", "", ".", "new", LEFT)
    status = forged(tmp_path, {LEFT: removed, "new": b"n", "worse": b"w"}, *names)
    there = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() and "jobs/" not in str(path))
    assert (status.state, len(status.cause), (tmp_path / "evil").read_text(), [path for path in there if "hub.db" not in path]) == (
        JobState.SUCCEEDED,
        500,
        "mine",
        ["evil", "left/.overnight/left.json", "left/new", "left/worse", "runs/job.1/code", "runs/job.1/new"],
    )


@pytest.mark.parametrize("text", [b"", b"[]", b'{"removed": 3, "note": ""}', b"\xff", b'{"removed": ["gone"]}', b"[" * 100_000])
def test_nonsense_about_what_was_removed_is_passed_over(tmp_path: Path, text: bytes) -> None:
    status = forged(tmp_path, {LEFT: text}, LEFT)
    assert (status.state, sorted(os.listdir(tmp_path / "runs" / "job.1"))) == (JobState.SUCCEEDED, ["code", "gone"])


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a//b", "", ".", "a\nb", "x" * 1001])
def test_a_file_that_would_be_laid_outside_of_a_jobs_folder_is_refused_when_it_is_submitted(path: str) -> None:
    assert "handed" in Submission(("true",), handed=(Output(path, 1, "0" * 64),)).trouble()


def test_a_file_to_be_handed_without_a_hash_is_refused_when_it_is_submitted() -> None:
    assert "has no hash" in Submission(("true",), handed=(Output("x", 1, "../../etc/passwd"),)).trouble()


def test_an_output_that_was_said_and_is_not_there_is_no_end_of_the_pipeline(tmp_path: Path) -> None:
    status = forged(tmp_path, {"x": b"x"}, "absent")
    assert (status.state, sorted(os.listdir(tmp_path / "runs" / "job.1"))) == (JobState.SUCCEEDED, ["code", "gone"])
