"""Workers as real processes: what they do with jobs, and what is left when anything is killed, frozen or missing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from overnight.app.api import Job
from overnight.errors import BusyError, JobError
from overnight.models import JobState
from overnight.testing import repository
from yards import PATIENCE, Yard, end, until

DONE = JobState.SUCCEEDED


def test_a_job_runs_prints_measures_and_succeeds(yard: Yard) -> None:
    yard.worker()
    job = yard.submit("echo hello; echo @loss=0.5; echo @loss=0.25", name="x", exp_id="exp-043")
    assert (job.wait(PATIENCE), job.logs(), job.metrics(), [point.value for point in job.points()]) == (
        DONE, "hello\n@loss=0.5\n@loss=0.25\n", {"loss": 0.25}, [0.5, 0.25],
    )  # fmt: skip


def test_a_job_has_its_own_gpus_and_names(yard: Yard) -> None:
    yard.worker("--gpus", "4", "--gpu-type", "H100", "--vram-gb", "80")
    script = f"echo $CUDA_VISIBLE_DEVICES $OVERNIGHT_JOB_ID $OVERNIGHT_EXPERIMENT_ID; touch {yard.told}/$OVERNIGHT_JOB_ID; while [ -e {yard.told}/hold ]; do sleep .02; done"
    (yard.told / "hold").touch()
    jobs = [yard.submit(script, gpu_count=2, gpu_type="h100", exp_id="exp-1") for _ in range(2)]
    none = yard.submit("echo none:$CUDA_VISIBLE_DEVICES:")
    until(lambda: len(yard.marks()) == 3)
    (yard.told / "hold").unlink()
    assert [job.wait(PATIENCE) for job in (*jobs, none)] == [DONE] * 3
    words = [job.logs().split() for job in jobs]
    assert (sorted(each[0] for each in words), [each[1:] for each in words], none.logs()) == (
        ["0,1", "2,3"], [[job.id, "exp-1"] for job in jobs], "none::\n",
    )  # fmt: skip


def test_slots_bound_how_many_run_at_once(yard: Yard) -> None:
    yard.worker("--slots", "2")
    script = (  # the first waits for a second
        f"cd {yard.told}; touch a$OVERNIGHT_JOB_ID; until n=$(ls | grep -c ^a); [ $n -ge 2 ] || [ -e both ]; do sleep .02; done; touch both;"
        " echo $n; sleep .1; rm a$OVERNIGHT_JOB_ID"
    )
    jobs = [yard.submit(script) for _ in range(6)]
    assert [job.wait(PATIENCE) for job in jobs] == [DONE] * 6
    assert max(int(job.logs()) for job in jobs) == 2


def test_the_code_is_that_of_the_folder_when_it_was_submitted(yard: Yard, tmp_path: Path) -> None:
    root = repository(tmp_path / "repo", {"sub/train.py": "print('committed')\n", ".gitignore": "data\n"})
    (root / "sub" / "train.py").write_text("print('as it was')\n")
    (root / "sub" / "new.txt").write_text("untracked\n")
    job = yard.submit("python train.py && cat new.txt; ls -a ..", workdir=root / "sub")
    (root / "sub" / "train.py").write_text("print('later')\n")
    yard.worker()
    job.wait(PATIENCE)
    assert job.logs().split("\n") == ["as it was", "untracked", ".", "..", ".gitignore", "sub", ""]


def test_inputs_are_linked_and_outputs_come_back_with_their_hashes(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "mnt" / "x.csv").write_text("1,2\n")
    yard.worker(unsafe=False)
    script = f"mkdir -p ckpt/deep; cat data/x.csv {tmp_path}/mnt/x.csv > ckpt/deep/best.pt; ln -s /etc/passwd ckpt/link.pt; mkfifo ckpt/pipe.pt; echo no > other"
    job = yard.submit(script, inputs=(f"data={tmp_path}/mnt", f"{tmp_path}/mnt"), outputs=("ckpt/**/*.pt",))
    assert (job.wait(PATIENCE), job.logs()) == (DONE, "")
    found = [(item.path, item.size, item.sha256) for item in job.told().outputs]
    assert found == [("ckpt/deep/best.pt", 8, hashlib.sha256(b"1,2\n1,2\n").hexdigest())]
    assert (job.outputs(tmp_path / "to") / "ckpt/deep/best.pt").read_text() == "1,2\n1,2\n"


def test_a_job_stands_behind_walls(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    yard.worker(unsafe=False)
    job = yard.submit(f"cat {tmp_path}/secret {yard.hub}/hub.db; touch {tmp_path}/x; echo own > own; cat own")
    job.wait(PATIENCE)
    assert ("secret" in job.logs().replace("/secret", ""), job.logs().endswith("own\n"), (tmp_path / "x").exists()) == (False, True, False)


def test_a_failed_job_tells_its_exit_code_and_is_run_again_if_that_was_asked_for(yard: Yard) -> None:
    yard.worker()
    once = yard.submit("exit 3")
    twice = yard.submit(f"touch {yard.told}/$OVERNIGHT_ATTEMPT; exit 4", retries=1)
    assert (once.wait(PATIENCE), twice.wait(PATIENCE), once.told().exit_code, twice.told().cause, yard.marks()) == (
        JobState.FAILED, JobState.FAILED, 3, "exit code 4", ["1", "2"],
    )  # fmt: skip


def test_a_time_limit_ends_a_job(yard: Yard) -> None:
    yard.worker()
    assert yard.submit("sleep 60", time_limit=0.2).wait(PATIENCE) == JobState.TIMED_OUT


def test_a_job_that_has_failed_can_be_waited_for_with_an_error(yard: Yard) -> None:
    yard.worker()
    with pytest.raises(JobError, match="FAILED"):
        yard.submit("exit 1").wait(PATIENCE, check=True)


def test_a_cancel_reaches_a_running_job_within_a_second(yard: Yard) -> None:
    yard.worker()
    job = yard.submit(f"touch {yard.told}/on; sleep 60")
    until(yard.marks)
    job.cancel("enough")
    assert (job.wait(PATIENCE), job.told().cause) == (JobState.CANCELLED, "cancelled: enough")


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"command": ("no-such-program", "x")}, "w: command not found: no-such-program"),
        ({"inputs": ("/no/such/place",)}, "w: there is no /no/such/place (it is an input of the job)"),
    ],
)
def test_what_the_worker_does_not_have_is_said_by_the_job(yard: Yard, more: dict[str, Any], cause: str) -> None:
    yard.worker()
    job = yard.submit(more.pop("command", "true"), **more)
    assert (job.wait(PATIENCE), job.told().cause) == (JobState.FAILED, cause)


def test_a_worker_on_a_full_disk_takes_nothing_and_says_so(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERNIGHT_WORKER_ROOM", str(2**60))
    job = yard.submit("true")
    full = yard.worker(name="full")
    until(lambda: "E-DISK-FULL" in yard.said("full"))
    waiting = job.state
    monkeypatch.setenv("OVERNIGHT_WORKER_ROOM", "0")
    yard.worker(name="roomy")
    assert (waiting, job.wait(PATIENCE), job.told().worker, full.poll()) == (JobState.QUEUED, DONE, "roomy", None)


def test_a_second_worker_of_the_same_name_is_refused(yard: Yard) -> None:
    yard.worker()
    until(lambda: yard.alive() == ["w"])
    second = yard.call("worker", "start", "--name", "w", "--unsafe-no-sandbox")
    assert (second.returncode, "E-BUSY" in second.stderr) == (BusyError.exit_code, True)


def test_once_ends_when_there_is_nothing_to_do(yard: Yard) -> None:
    jobs = [yard.submit("echo x") for _ in range(3)]
    assert (yard.worker("--once").wait(PATIENCE), [job.state for job in jobs], yard.alive()) == (0, [DONE] * 3, [])


# --- leaving ---------------------------------------------------------------------------------------------------------


def _running(yard: Yard, script: str = "sleep 60", **more: Any) -> tuple[subprocess.Popen[str], Job]:
    worker = yard.worker()
    job = yard.submit(f"touch {yard.told}/on-$OVERNIGHT_ATTEMPT; {script}", **more)
    until(yard.marks)
    return worker, job


def test_a_worker_that_drains_finishes_its_jobs_and_ends(yard: Yard) -> None:
    worker, job = _running(yard, f"while [ ! -e {yard.told}/go ]; do sleep .02; done")
    later = yard.submit("true")
    assert yard.call("hub", "drain", "w").returncode == 0
    until(lambda: "draining" in yard.said())
    (yard.told / "go").touch()
    assert (worker.wait(PATIENCE), job.wait(PATIENCE), later.state) == (0, DONE, JobState.QUEUED)


def test_a_worker_that_is_told_to_end_gives_its_jobs_back(yard: Yard) -> None:
    worker, job = _running(yard)
    assert (end(worker), job.state, job.told().attempt, job.told().losses) == (0, JobState.QUEUED, 1, 0)


# --- killed, frozen --------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_and_started_again_goes_on_with_its_jobs(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERNIGHT_HUB_LEASE", "60")  # a machine that is busy may need seconds to start a worker
    worker, job = _running(
        yard, f"for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep .05; done; while [ ! -e {yard.told}/go ]; do sleep .02; done; echo end"
    )
    end(worker, signal.SIGKILL)
    yard.worker()
    until(lambda: yard.alive() == ["w"])
    (yard.told / "go").touch()
    assert (job.wait(PATIENCE), job.told().attempt, job.logs().split("\n")) == (DONE, 1, [*(f"line {i}" for i in range(1, 9)), "end", ""])


def test_the_end_of_a_job_whose_worker_was_dead_is_told_by_the_next_one(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERNIGHT_HUB_LEASE", "60")
    worker, job = _running(yard, f"while [ ! -e {yard.told}/go ]; do sleep .02; done; echo end")
    end(worker, signal.SIGKILL)
    (yard.told / "go").touch()
    yard.worker()
    assert (job.wait(PATIENCE), job.told().attempt, job.logs()) == (DONE, 1, "end\n")


def test_the_jobs_of_a_worker_that_stays_dead_are_ended_before_another_may_run_them(yard: Yard) -> None:
    beat = f"while :; do date +%s.%N >> {yard.told}/beat-$OVERNIGHT_ATTEMPT; sleep .02; done"
    worker, job = _running(yard, beat)
    end(worker, signal.SIGKILL)
    yard.worker(name="other")
    until(lambda: (yard.told / "beat-2").exists() and "\n" in (yard.told / "beat-2").read_text())
    last = float((yard.told / "beat-1").read_text().split()[-1])
    first = float((yard.told / "beat-2").read_text().split()[0])
    assert (job.told().worker, job.told().losses, last < first) == ("other", 1, True)


def test_a_worker_that_was_frozen_beyond_its_lease_writes_nothing_and_ends_its_job(yard: Yard) -> None:
    worker, job = _running(yard, "echo first; sleep 60")
    until(lambda: job.logs() == "first\n")
    worker.send_signal(signal.SIGSTOP)
    until(lambda: not yard.alive())
    yard.worker(name="other")
    until(lambda: job.told().worker == "other")
    worker.send_signal(signal.SIGCONT)
    until(lambda: f"[{job.id}] let go" in yard.said())
    assert (job.told().attempt, job.told().worker, job.state, worker.poll()) == (2, "other", JobState.RUNNING, None)


def test_a_supervisor_that_is_killed_costs_one_attempt(yard: Yard) -> None:
    worker, job = _running(yard, "[ $OVERNIGHT_ATTEMPT = 2 ] || sleep 60")
    folder = next((yard.hub / "workers" / "w" / "jobs").iterdir())
    os.kill(json.loads((folder / "status.json").read_text())["pid"], signal.SIGKILL)
    assert (job.wait(PATIENCE), job.told().attempt, job.told().losses, worker.poll()) == (DONE, 2, 1, None)


def test_a_worker_leaves_nothing_behind_of_a_job_that_is_told(yard: Yard) -> None:
    yard.worker("--once")
    jobs = [yard.submit("echo x > file") for _ in range(2)]
    assert [job.wait(PATIENCE) for job in jobs] == [DONE] * 2
    own = yard.hub / "workers" / "w"
    until(lambda: not [path for name in ("jobs", "runs", "spool") for path in (own / name).iterdir()])
