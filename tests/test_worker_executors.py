"""A worker whose jobs run elsewhere: on a real Slurm of one node, which sees the hub's folder."""

from __future__ import annotations

from clusters import Slurm
from overnight.models import JobState
from yards import Yard, until


def test_a_worker_hands_its_jobs_to_slurm_with_further_words(yard: Yard, slurm: Slurm) -> None:
    yard.worker("--executor", "slurm", "--executor-args=--time=7", "--slots", "2", name="door")
    until(yard.alive)
    job = yard.submit(f"echo @n=1; until [ -e {yard.told}/go ]; do sleep 0.05; done")
    until(job.logs)
    limits = until(lambda: slurm.says("squeue", "-h", "-o", "%l").split())
    (yard.told / "go").touch()
    assert (limits, job.wait(120), job.metrics()) == (["7:00"], JobState.SUCCEEDED, {"n": 1.0})


def test_a_worker_of_a_cluster_cancels_there_what_somebody_wants_to_end(yard: Yard, slurm: Slurm) -> None:
    yard.worker("--executor", "slurm", name="door")
    job = yard.submit("echo up; sleep 1000", wait=True)
    until(job.logs)
    job.cancel("seen enough")
    assert (job.wait(120), job.told().cause, until(lambda: not slurm.says("squeue", "-h").strip())) == (
        JobState.CANCELLED,
        "cancelled: seen enough",
        True,
    )


def test_an_executor_that_takes_no_words_or_is_the_hub_itself_is_refused(yard: Yard) -> None:
    done = [
        yard.call("worker", "start", "--unsafe-no-sandbox", *words)
        for words in (("--executor-args=--x",), ("--executor", "hub"), ("--executor", "slrum"))
    ]
    assert [(each.returncode, each.stderr.split("]")[0]) for each in done] == [
        (2, "error[E-EXECUTOR-ARGS"),
        (2, "error[E-NO-EXECUTOR"),
        (2, "error[E-NO-EXECUTOR"),
    ]
