"""What every hub does with jobs and workers, however it is reached: in process, with every word as bytes, and over a real relay."""

from __future__ import annotations

from typing import Any

import pytest

from hubs import LEASE, House, asked, cards, ended, everything, held, log, offer, one, state
from overnight.errors import NotFoundError, UsageError
from overnight.models import JobState, MetricSummary
from overnight.queue.words import Chunk, Held, OnLost, Query, Started, Stream, Submission

QUEUED, RUNNING, DONE = JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED


# --- from submit to end ----------------------------------------------------------------------------------------------


def test_a_job_goes_from_the_queue_to_a_worker_and_to_its_end(hub: Any) -> None:
    job = hub.submit(asked("train", name="pose", exp_id="exp-043"))
    grant = hub.claim(offer())
    hub.report("w", held(grant), Started())
    hub.report("w", held(grant), ended(seconds=4.0, exit_code=0, metrics={"loss": MetricSummary(0.5, 0.5, 0.9, 3)}))
    found = one(hub, job.id)
    assert (job.state, grant.job.submission.name, grant.job.attempt, found.state, found.exit_code, dict(found.metrics)) == (
        QUEUED, "pose", 1, DONE, 0, {"loss": 0.5},
    )  # fmt: skip


def test_an_empty_queue_grants_nothing(hub: Any) -> None:
    assert hub.claim(offer()) is None


def test_a_claim_that_waits_ends_when_its_time_is_over(hub: Any, house: House) -> None:
    assert (hub.claim(offer(), 5.0), house.clock.at) == (None, 1005.0)


def test_the_same_submission_key_is_the_same_job(hub: Any) -> None:
    first, second = (hub.submit(asked(submission_key="01J")) for _ in range(2))
    assert (first.id, len(hub.jobs(Query()))) == (second.id, 1)


def test_the_same_submission_key_of_another_owner_is_another_job(house: House) -> None:
    first, second = (house.desk.submit(asked(submission_key="01J"), owner) for owner in ("ann", "bob"))
    assert first.id != second.id


@pytest.mark.parametrize(
    "wrong",
    [
        {"priority": 101}, {"gpu_count": -1}, {"time_limit": float("nan")}, {"outputs": ("../x",)}, {"outputs": ("/etc/*",)}, {"inputs": ("data",)},
        {"env": {"A=B": "1"}}, {"env": {"A": "\0"}}, {"code": "HEAD"}, {"folder": "../x"}, {"name": "x" * 300}, {"command": ()}, {"command": ("a\0",)},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(house: House, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        house.desk.submit(Submission(**{"command": ("true",), **wrong}))
    assert caught.value.code == "E-SUBMIT"


@pytest.mark.parametrize("call", ["cancel", "retry", "part"])
def test_an_unknown_job_is_said_to_be_unknown(hub: Any, call: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        getattr(hub, call)("job-none", **({"stream": Stream.LOG} if call == "part" else {}))
    assert caught.value.code == "E-NO-JOB"


def test_an_unknown_worker_is_said_to_be_unknown(hub: Any) -> None:
    with pytest.raises(NotFoundError) as caught:
        hub.drain("nobody")
    assert caught.value.code == "E-NO-WORKER"


# --- which job -------------------------------------------------------------------------------------------------------


def test_higher_priority_goes_first_then_age(hub: Any) -> None:
    names = [
        hub.submit(asked(name=name, priority=priority)).submission.name for name, priority in (("a", 0), ("b", 5), ("c", 5), ("d", -1))
    ]
    found = [hub.claim(offer()).job.submission.name for _ in names]
    assert found == ["b", "c", "a", "d"]


def test_a_job_gets_the_smallest_gpus_that_will_do(hub: Any) -> None:
    hub.submit(asked(gpu_count=1, vram_gb=16))
    mixed = (*cards(1, "H100"), *[card for card in cards(3, "RTX 4090", 24564) if card.index != "0"])
    assert hub.claim(offer(cards=mixed)).job.gpus == ("1",)


def test_a_job_that_wants_a_type_of_gpu_gets_no_other(hub: Any) -> None:
    job = hub.submit(asked(gpu_count=1, gpu_type="a100", wait=True))
    other, right = hub.claim(offer("x", cards=cards(2, "H100"))), hub.claim(offer("y", cards=cards(2, "NVIDIA A100-SXM4-40GB", 40960)))
    assert (other, right.job.id) == (None, job.id)


def test_a_job_with_tags_goes_to_a_worker_that_has_them_all(hub: Any) -> None:
    job = hub.submit(asked(tags=("fast", "eu")))
    assert (hub.claim(offer("x", tags=("eu",))), hub.claim(offer("y", tags=("eu", "fast", "big"))).job.id) == (None, job.id)


def test_processors_and_memory_are_counted(hub: Any) -> None:
    job = hub.submit(asked(cpus=8, memory_gb=32))
    small, busy = offer("x", cpus=4, memory_gb=64), offer("y", cpus=16, memory_gb=64, free_cpus=4)
    assert (hub.claim(small), hub.claim(busy), hub.claim(offer("z", cpus=16, memory_gb=64)).job.id) == (None, None, job.id)


def test_more_than_any_worker_has_is_refused_with_what_they_have(hub: Any) -> None:
    hub.claim(offer("box", gpus=2))
    with pytest.raises(UsageError, match="asks for 8 GPUs") as caught:
        hub.submit(asked(gpu_count=8))
    assert (caught.value.code, caught.value.why) == ("E-NO-FIT", "box has 2 H100 (82 GB)")


def test_more_than_any_worker_has_stays_queued_when_that_is_wanted(hub: Any) -> None:
    hub.claim(offer("box", gpus=2))
    job = hub.submit(asked(gpu_count=8, wait=True))
    assert (state(hub, job.id), hub.claim(offer("big", gpus=8)).job.id) == (QUEUED, job.id)


def test_without_any_worker_everything_is_taken(hub: Any) -> None:
    assert hub.submit(asked(gpu_count=64)).state == QUEUED


def test_a_large_job_that_waits_is_not_overtaken_by_one_without_end(hub: Any) -> None:
    hub.submit(asked(gpu_count=1))
    hub.claim(offer(slots=4, gpus=4))
    hub.submit(asked(gpu_count=4))
    hub.submit(asked(gpu_count=1))
    assert hub.claim(offer(slots=3, of=4, gpus=4, free=("1", "2", "3"))) is None


def test_a_short_job_fills_the_gap_before_a_large_one(hub: Any) -> None:
    hub.submit(asked(gpu_count=1, time_limit=100))
    hub.claim(offer(slots=4, gpus=4))
    hub.submit(asked(gpu_count=4))
    hub.submit(asked(gpu_count=1, time_limit=200))
    short = hub.submit(asked(gpu_count=1, time_limit=50))
    assert hub.claim(offer(slots=3, of=4, gpus=4, free=("1", "2", "3"))).job.id == short.id


def test_a_large_job_holds_back_only_the_worker_on_which_it_starts_first(hub: Any) -> None:
    for name, limit in (("x", 100), ("y", 500)):
        hub.submit(asked(gpu_count=2, time_limit=limit))
        hub.claim(offer(name, slots=4, gpus=4))
    hub.submit(asked(gpu_count=4))
    small = hub.submit(asked(gpu_count=1))
    free: dict[str, Any] = {"slots": 3, "of": 4, "gpus": 4, "free": ("2", "3")}
    assert (hub.claim(offer("x", **free)), hub.claim(offer("y", **free)).job.id) == (None, small.id)


def test_the_wait_is_told_from_limits_and_from_what_the_same_command_took(hub: Any) -> None:
    hub.submit(asked("a"))
    hub.report("w", held(hub.claim(offer())), ended(seconds=30.0))
    hub.submit(asked("x", time_limit=100))
    hub.claim(offer())
    second, third = hub.submit(asked("a")), hub.submit(asked("b"))
    assert hub.waits() == {second.id: pytest.approx(100), third.id: pytest.approx(130)}


# --- fences and leases -----------------------------------------------------------------------------------------------


def test_a_job_that_is_granted_is_granted_to_nobody_else(hub: Any) -> None:
    hub.submit(asked())
    assert (hub.claim(offer("a")) is None, hub.claim(offer("b"))) == (False, None)


def test_a_lease_that_is_not_renewed_ends_and_the_job_is_run_again(hub: Any, house: House) -> None:
    hub.submit(asked())
    first = hub.claim(offer("a"))
    house.pass_time(LEASE + 1)
    second = hub.claim(offer("b"))
    assert (second.job.id, second.job.attempt, second.job.losses) == (first.job.id, 2, 1)


def test_a_lease_that_is_renewed_does_not_end(hub: Any, house: House) -> None:
    hub.submit(asked())
    grant = hub.claim(offer("a"))
    for _ in range(5):
        house.pass_time(LEASE / 2)
        assert hub.renew("a", [held(grant)]).lost == ()
    assert hub.claim(offer("b")) is None


@pytest.mark.parametrize(
    "what", [Started(), log(0, b"late"), ended(), Chunk(Stream.METRICS, 0, b"x")], ids=lambda what: type(what).__name__
)
def test_an_attempt_whose_lease_is_over_writes_nothing(hub: Any, house: House, what: Any) -> None:
    job = hub.submit(asked())
    grant = hub.claim(offer("a"))
    house.pass_time(LEASE + 1)
    told = hub.report("a", held(grant), what)
    assert (told, state(hub, job.id), everything(hub, job.id, attempt=1), hub.renew("a", [held(grant)]).lost) == (
        False, QUEUED, b"", (held(grant),),
    )  # fmt: skip


def test_an_old_attempt_cannot_end_a_new_one(hub: Any, house: House) -> None:
    job = hub.submit(asked())
    old = held(hub.claim(offer("a")))
    house.pass_time(LEASE + 1)
    new = held(hub.claim(offer("a")))
    assert (hub.report("a", old, ended(JobState.FAILED)), state(hub, job.id), hub.report("a", new, ended()), state(hub, job.id)) == (
        False, RUNNING, True, DONE,
    )  # fmt: skip


def test_another_worker_cannot_speak_for_an_attempt(house: House) -> None:
    house.desk.submit(asked())
    grant = held(house.desk.claim(offer("a")))
    assert [house.desk.report("b", grant, what) for what in (Started(), log(0, b"x"), ended())] == [False] * 3


def test_an_end_that_is_told_three_times_counts_once(hub: Any) -> None:
    job = hub.submit(asked())
    grant = held(hub.claim(offer()))
    told = [hub.report("w", grant, ended(JobState.FAILED, "exit code 1")) for _ in range(3)]
    assert (told, one(hub, job.id).failures, state(hub, job.id)) == ([True] * 3, 1, JobState.FAILED)


def test_after_a_restart_of_the_hub_every_lease_is_extended_once_by_a_whole_lease(hub: Any, house: House) -> None:
    job = hub.submit(asked())
    grant = held(hub.claim(offer("a")))
    house.pass_time(10 * LEASE)
    house.restart()
    house.pass_time(LEASE - 1)
    kept = hub.renew("a", [])  # which does not name it, and so does not extend it
    before = state(hub, job.id)
    house.pass_time(2)
    hub.claim(offer("b", slots=0))
    assert (kept.lost, before, hub.report("a", grant, ended())) == ((), RUNNING, False)


def test_after_a_new_start_of_the_machine_the_clock_of_leases_begins_anew(hub: Any, house: House) -> None:
    job = hub.submit(asked())
    hub.claim(offer("a"))
    house.era, house.clock.at = "another boot", 5.0
    house.restart()
    assert (state(hub, job.id), [each.alive for each in hub.workers()]) == (RUNNING, [False])
    house.pass_time(LEASE + 1)
    assert hub.claim(offer("a")).job.attempt == 2


def test_a_worker_that_starts_anew_gives_up_what_it_does_not_name_and_keeps_the_rest(hub: Any) -> None:
    for _ in range(2):
        hub.submit(asked())
    kept, gone = (held(hub.claim(offer("a", slots=2))) for _ in range(2))
    hub.report("a", kept, log(0, b"12345"))
    renewal = hub.renew("a", [kept, Held("job-x", 1)], fresh=True)
    assert (renewal.lost, renewal.known, state(hub, kept.job), state(hub, gone.job)) == (
        (Held("job-x", 1),),
        ((kept, 5, 0),),
        RUNNING,
        QUEUED,
    )


def test_a_job_that_is_to_be_waited_for_never_loses_its_lease(hub: Any, house: House) -> None:
    job = hub.submit(asked(on_lost=OnLost.WAIT))
    grant = held(hub.claim(offer("a")))
    house.pass_time(1e7)
    house.restart()
    house.pass_time(1e7)
    assert (hub.claim(offer("b")), hub.report("a", grant, ended()), state(hub, job.id)) == (None, True, DONE)


def test_a_job_that_is_lost_again_and_again_is_given_up(hub: Any, house: House) -> None:
    job = hub.submit(asked())
    grants = 0
    while hub.claim(offer()) is not None:
        grants += 1
        house.pass_time(LEASE + 1)
    assert (grants, state(hub, job.id)) == (11, JobState.LOST)


# --- again -----------------------------------------------------------------------------------------------------------


def test_a_failed_job_is_run_again_after_a_pause_as_often_as_was_asked_for(hub: Any, house: House) -> None:
    job = hub.submit(asked(retries=2))
    seen = []
    for _ in range(3):
        hub.report("w", held(hub.claim(offer())), ended(JobState.FAILED, "exit code 1"))
        seen.append((state(hub, job.id), hub.claim(offer())))
        house.pass_time(10)
    assert seen == [(QUEUED, None), (QUEUED, None), (JobState.FAILED, None)]


def test_an_attempt_that_its_worker_gave_back_counts_against_nobody(hub: Any) -> None:
    job = hub.submit(asked())
    hub.report("w", held(hub.claim(offer())), ended(JobState.CANCELLED, "its worker leaves"))
    found = one(hub, job.id)
    assert (found.state, found.failures, found.losses, hub.claim(offer()).job.attempt) == (QUEUED, 0, 0, 2)


def test_a_job_that_is_over_can_be_queued_again_under_a_new_attempt(hub: Any) -> None:
    job = hub.submit(asked())
    hub.report("w", held(hub.claim(offer())), ended(JobState.FAILED))
    assert (hub.retry(job.id).state, hub.claim(offer()).job.attempt) == (QUEUED, 2)


def test_a_job_that_runs_is_not_queued_again(hub: Any) -> None:
    job = hub.submit(asked())
    hub.claim(offer())
    assert hub.retry(job.id).state == RUNNING
