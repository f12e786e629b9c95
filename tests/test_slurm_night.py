"""Whole studies on a real Slurm, through the program itself: a night, a loop that is killed, runs that are preempted, bad settings."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import studies
from clusters import Slurm
from overnight.testing import git
from studies import Study, ended, until  # noqa: F401 - a fixture that every test gets

pytestmark = pytest.mark.usefixtures("slurm")


def on_slurm(folder: Path, steps: dict[int, str], *words: str, files: dict[str, str] | None = None) -> Study:
    made = studies.study(folder, steps, "--executor", "slurm", "--baseline-runs", "1", *words, files=files)
    made.env["SLURM_CONF"] = os.environ["SLURM_CONF"]
    return made


def running(slurm: Slurm) -> str:
    """What Slurm calls the one job that runs."""
    [found] = studies.until(lambda: slurm.says("squeue", "-h", "--me", "--states=RUNNING", "-o", "%A").split())
    return str(found)


def test_a_study_on_slurm_with_two_slots_keeps_what_is_better_and_leaves_nothing_behind(tmp_path: Path) -> None:
    found = on_slurm(tmp_path, {}, "--budget", "4", "--slots", "2", "--gpus-per-run", "1")
    done = subprocess.run(found.command("run"), cwd=found.root, env=found.env, capture_output=True, text=True, check=False)
    rows = found.rows()
    folders = sorted(path.name for path in (found.root / ".overnight" / "jobs").glob("t-*"))
    names = sorted(f"t-{row['number']}.1" for row in rows)
    assert (done.returncode, len(rows), found.faults(rows), folders) == (0, 5, [], names), done.stderr
    assert [row["decision"] for row in rows if row["operator"] == "baseline"] == ["keep"]


def test_a_loop_that_is_killed_finds_its_run_on_the_cluster_again(tmp_path: Path) -> None:
    found = on_slurm(tmp_path, {}, "--budget", "1")
    found.gate(1, 0.5)
    loop = found.spawn(found.command("run"))
    assert len(found.waiting()) == 1
    loop.kill()
    loop.wait()
    again = found.spawn(found.command("run"))
    until(lambda: found.said().count("[loop] study t: ") > 1)
    found.open_gate()
    assert again.wait(studies.PATIENCE) == 0
    assert (found.runs(), [row["value"] for row in found.rows()], found.faults()) == (["exp-001", "exp-002"], [1.0, 0.5], [])


def test_a_run_that_is_put_back_into_the_queue_four_times_is_run_from_clean_files_until_it_ends(tmp_path: Path, slurm: Slurm) -> None:
    found = on_slurm(tmp_path, {}, "--budget", "1")
    found.gate(1, 0.5)
    loop = found.spawn(found.command("run"))
    for times in range(1, 5):
        until(lambda times=times: (found.out / "pids").exists() and len((found.out / "pids").read_text().split()) == times)  # type: ignore[misc]
        slurm.put_back(running(slurm))
    until(lambda: len((found.out / "pids").read_text().split()) == 5)
    found.open_gate()
    assert loop.wait(studies.PATIENCE) == 0
    rows = found.rows()
    assert ([row["decision"] for row in rows], found.runs(), found.faults(rows)) == (["keep", "keep"], ["exp-001", *["exp-002"] * 5], [])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--executor", "slrum"), "E-NO-EXECUTOR", "there is no executor 'slrum'; did you mean 'slurm'?"),
        (("--executor-args", "--partition=nowhere"), "E-SLURM", "invalid partition specified: nowhere"),
        (("--executor-args", "'"), "E-EXECUTOR-ARGS", "executor_args cannot be read: No closing quotation"),
        (("--gpus", "0,1"), "E-GPUS", "gpus names cards of this machine, and runs go to slurm"),
        (("--gpus-per-run", "64"), "E-SLURM", "Requested node configuration is not available"),
        (("--executor", "local", "--gpus-per-run", "1"), "E-GPUS-PER-RUN", "gpus_per_run is for clusters"),
        (("--executor", "local", "--executor-args", "--x"), "E-EXECUTOR-ARGS", "the local executor takes no words"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_made(
    tmp_path: Path, words: tuple[str, ...], code: str, said: str
) -> None:
    found = on_slurm(tmp_path, {})
    done = found.call("run", *words)
    refs = git(found.root, "for-each-ref", "--format=%(refname)").split()
    assert (done.code, f"error[{code}]" in done.err, said in done.err, "Traceback" in done.err, refs) == (
        2,
        True,
        True,
        False,
        ["refs/heads/main"],
    ), done.err


def test_runs_on_a_node_have_their_walls(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    script = f"import os\nprint('@loss=1.0', '@secret=' + str(int(os.path.exists({str(tmp_path / 'secret')!r}))), flush=True)\n"
    found = on_slurm(
        tmp_path,
        {},
        "--budget",
        "0",
        "--gpus-per-run",
        "1",
        "--no-unsafe-no-sandbox",
        files={"run.sh": "exec python3 train.py\n", "train.py": script},
    )
    done = found.call("run")
    rows = found.rows()
    assert (done.code, [(row["value"], row["metrics"]["secret"], row["sandbox"]) for row in rows]) == (0, [(1.0, 0.0, "bubblewrap")]), done
