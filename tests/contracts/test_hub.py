"""What every hub does with jobs and workers, however it is reached: in process, with every word as bytes, and over a real relay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hubs import LEASE, House, asked, cards, ended, everything, held, log, offer, one, state
from overnight.app.serving import remote, serve
from overnight.errors import NotFoundError, UsageError
from overnight.hub.link import Link
from overnight.models import JobState, JobStatus, MetricSummary
from overnight.queue.wire import Remote, Role, Who, answer
from overnight.queue.words import Chunk, Ended, Held, OnLost, Output, Query, Started, Stream, Submission
from relays import relay

QUEUED, RUNNING, DONE = JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    found = House(tmp_path / "hub.db")
    yield found
    found.close()


@pytest.fixture(scope="module")
def line() -> Iterator[tuple[Link, Link]]:
    """A hub's and a client's ends of a real relay."""
    with relay() as found, found.hub() as hub, Link(found.joined("client", "laptop")) as client:
        yield hub, client


@pytest.fixture(params=["desk", "wire", "relay"])
def hub(request: pytest.FixtureRequest, house: House) -> Any:
    """The hub in process, behind bytes, or behind a relay; all stay what they are when the house is started again."""
    if request.param == "relay":
        serving, asking = request.getfixturevalue("line")
        serve(serving, lambda _who, data: answer(house.desk, Who("w", Role.OWNER), data))
        return remote(asking)
    if request.param == "wire":
        return Remote(lambda data: answer(house.desk, Who("w", Role.OWNER), data))

    class Here:
        def __getattr__(self, name: str) -> Any:
            return getattr(house.desk, name)

    return Here()


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


# --- cancel ----------------------------------------------------------------------------------------------------------


def test_a_queued_job_that_is_cancelled_is_over_at_once(hub: Any) -> None:
    job = hub.submit(asked())
    assert (hub.cancel(job.id, "why not").cause, state(hub, job.id), hub.claim(offer())) == ("cancelled: why not", JobState.CANCELLED, None)


def test_the_worker_of_a_running_job_hears_that_it_is_cancelled_until_it_has_ended(hub: Any) -> None:
    job = hub.submit(asked(retries=3))
    grant = held(hub.claim(offer()))
    hub.cancel(job.id, "enough")
    heard = [hub.renew("w", [grant]).cancelled for _ in range(2)]
    hub.report("w", grant, ended(JobState.CANCELLED, "cancelled: enough"))
    assert (heard, state(hub, job.id)) == ([((grant, "enough"),)] * 2, JobState.CANCELLED)


def test_a_job_that_succeeded_before_its_cancel_was_heard_has_succeeded(hub: Any) -> None:
    job = hub.submit(asked())
    grant = held(hub.claim(offer()))
    hub.cancel(job.id)
    hub.report("w", grant, ended())
    assert state(hub, job.id) == DONE


def test_a_cancelled_job_whose_worker_is_lost_is_not_run_again(hub: Any, house: House) -> None:
    job = hub.submit(asked())
    hub.claim(offer("a"))
    hub.cancel(job.id)
    house.pass_time(LEASE + 1)
    assert (hub.claim(offer("b")), state(hub, job.id)) == (None, JobState.CANCELLED)


def test_cancelling_what_is_over_changes_nothing(hub: Any) -> None:
    job = hub.submit(asked())
    hub.report("w", held(hub.claim(offer())), ended())
    assert hub.cancel(job.id).state == DONE


# --- needs -----------------------------------------------------------------------------------------------------------


def test_a_job_waits_for_all_that_it_needs(hub: Any) -> None:
    first, second = hub.submit(asked(name="1")), hub.submit(asked(name="2"))
    last = hub.submit(asked(needs=(first.id, second.id, first.id)))
    one_, two = held(hub.claim(offer(slots=9))), held(hub.claim(offer(slots=9)))
    hub.report("w", one_, ended())
    early = hub.claim(offer(slots=9))
    hub.report("w", two, ended())
    assert (early, hub.claim(offer(slots=9)).job.id) == (None, last.id)


def test_what_needs_a_job_that_failed_is_cancelled_all_the_way_down(hub: Any) -> None:
    first = hub.submit(asked())
    second = hub.submit(asked(needs=(first.id,)))
    third = hub.submit(asked(needs=(second.id,)))
    hub.report("w", held(hub.claim(offer())), ended(JobState.FAILED))
    assert (state(hub, third.id), one(hub, second.id).cause) == (JobState.CANCELLED, f"{first.id}, which it needs, has ended: FAILED")


def test_a_job_can_need_one_that_has_succeeded_already(hub: Any) -> None:
    first = hub.submit(asked())
    hub.report("w", held(hub.claim(offer())), ended())
    job = hub.submit(asked(needs=(first.id,)))
    assert hub.claim(offer()).job.id == job.id


def test_a_job_cannot_need_what_does_not_exist_or_has_failed(hub: Any) -> None:
    first = hub.submit(asked())
    hub.cancel(first.id)
    with pytest.raises(UsageError, match="has ended: CANCELLED"):
        hub.submit(asked(needs=(first.id,)))
    with pytest.raises(NotFoundError):
        hub.submit(asked(needs=("job-none",)))


# --- streams ---------------------------------------------------------------------------------------------------------


def test_a_log_is_what_was_told_however_often_and_in_whatever_order(hub: Any) -> None:
    job = hub.submit(asked())
    grant = held(hub.claim(offer()))
    for start, end in ((0, 3), (6, 9), (2, 5), (0, 3), (4, 6), (3, 9), (9, 10)):
        assert hub.report("w", grant, log(start, b"0123456789"[start:end]))
    assert everything(hub, job.id) == b"0123456789"


def test_what_comes_after_a_gap_is_not_seen_before_the_gap_is_closed(hub: Any) -> None:
    job = hub.submit(asked())
    grant = held(hub.claim(offer()))
    hub.report("w", grant, log(5, b"56789"))
    before = everything(hub, job.id)
    hub.report("w", grant, log(0, b"01234"))
    assert (before, everything(hub, job.id)) == (b"", b"0123456789")


def test_a_log_that_comes_after_the_end_of_its_attempt_still_counts(hub: Any) -> None:
    job = hub.submit(asked())
    grant = held(hub.claim(offer()))
    hub.report("w", grant, ended())
    assert (hub.report("w", grant, log(0, b"last words")), everything(hub, job.id)) == (True, b"last words")


def test_a_reader_goes_on_where_it_was(hub: Any) -> None:
    job = hub.submit(asked())
    grant = held(hub.claim(offer()))
    hub.report("w", grant, log(0, b"0123456789"))
    hub.report("w", grant, ended())
    part = hub.part(job.id, Stream.LOG, since=7)
    assert (part.start, part.data, part.next, part.last, part.state) == (7, b"789", 10, True, DONE)


def test_a_reader_who_asks_for_more_than_there_is_is_told_where_the_end_is(hub: Any) -> None:
    job = hub.submit(asked())
    queued = hub.part(job.id, Stream.LOG, since=10**12).next
    hub.report("w", held(hub.claim(offer())), log(0, b"abc"))
    assert (queued, hub.part(job.id, Stream.LOG, since=10**12).next) == (0, 3)


def test_a_large_log_is_read_piece_by_piece(hub: Any) -> None:
    job = hub.submit(asked())
    grant = held(hub.claim(offer()))
    data = bytes(range(256)) * 1024
    for number in range(5):
        hub.report("w", grant, log(number * len(data), data))
    assert everything(hub, job.id) == data * 5


def test_each_attempt_has_a_log_of_its_own(hub: Any, house: House) -> None:
    job = hub.submit(asked(retries=1))
    for word in (b"first", b"second"):
        grant = held(hub.claim(offer()))
        hub.report("w", grant, log(0, word))
        hub.report("w", grant, ended(JobState.FAILED))
        house.pass_time(10)
    assert (everything(hub, job.id, attempt=1), everything(hub, job.id)) == (b"first", b"second")


def test_an_attempt_that_there_never_was_is_said_to_be_unknown(hub: Any) -> None:
    job = hub.submit(asked())
    with pytest.raises(NotFoundError) as caught:
        hub.part(job.id, Stream.LOG, 7)
    assert caught.value.code == "E-NO-ATTEMPT"


def test_log_and_metrics_do_not_mix(hub: Any) -> None:
    job = hub.submit(asked())
    grant = held(hub.claim(offer()))
    hub.report("w", grant, log(0, b"text"))
    hub.report("w", grant, Chunk(Stream.METRICS, 0, b'["a", 1, 0, 0.1]\n'))
    assert (everything(hub, job.id), everything(hub, job.id, Stream.METRICS)) == (b"text", b'["a", 1, 0, 0.1]\n')


# --- workers ---------------------------------------------------------------------------------------------------------


def test_workers_are_known_with_what_they_have_and_do(hub: Any, house: House) -> None:
    job = hub.submit(asked(gpu_count=1))
    hub.claim(offer("b", gpus=2, tags=("eu",)))
    hub.claim(offer("a"))
    house.pass_time(LEASE / 2)
    hub.claim(offer("a"))
    house.pass_time(LEASE / 2 + 1)
    found = {each.machine.name: (each.alive, each.jobs, len(each.machine.cards), each.machine.tags) for each in hub.workers()}
    assert found == {"a": (True, (), 0, ()), "b": (False, (job.id,), 2, ("eu",))}


def test_a_worker_that_drains_gets_nothing_and_hears_of_it(hub: Any) -> None:
    hub.claim(offer())
    hub.drain("w")
    hub.submit(asked())
    drained = (hub.claim(offer()), hub.renew("w", []).drain)
    hub.drain("w", on=False)
    assert (drained, hub.claim(offer()) is None, hub.renew("w", []).drain) == ((None, True), False, False)


def test_a_worker_that_has_said_goodbye_is_gone_at_once(hub: Any) -> None:
    hub.claim(offer())
    hub.renew("w", [], leaving=True)
    gone = hub.workers()[0].alive
    hub.claim(offer())
    assert (gone, hub.workers()[0].alive) == (False, True)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", "x" * 65, "a\n"])
def test_a_worker_with_an_unfit_name_gets_nothing(house: House, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        house.desk.claim(offer(name))
    assert caught.value.code == "E-WORKER-NAME"


def test_outputs_are_known_with_their_hashes(hub: Any) -> None:
    job = hub.submit(asked(outputs=("*.pt",)))
    files = (Output("best.pt", 3, "ab" * 32),)
    hub.report("w", held(hub.claim(offer())), Ended(JobStatus(DONE), files))
    assert one(hub, job.id).outputs == files


def test_jobs_are_found_by_beginning_state_worker_experiment_and_pipeline(hub: Any) -> None:
    ids = [hub.submit(asked(exp_id=f"exp-{number}", pipeline="p" if number else "")).id for number in range(3)]
    hub.claim(offer())
    queries = [Query(ids[0][:10]), Query(states=(QUEUED,)), Query(worker="w"), Query(exp_id="exp-2"), Query(pipeline="p"), Query(last=1)]
    found = [[ids.index(job.id) for job in hub.jobs(query)] for query in queries]
    assert found == [[0], [2, 1], [0], [2], [2, 1], [2]]
