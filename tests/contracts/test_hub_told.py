"""What every hub is told and tells: cancelling, needs, logs, workers and lists, however it is reached."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from hubs import LEASE, House, asked, ended, everything, held, log, offer, one, state
from overnight.errors import NotFoundError, UsageError
from overnight.models import JobState, JobStatus
from overnight.queue.words import Chunk, Ended, Output, Query, Started, Stream
from overnight.store.queue_rows import QUEUE_MIGRATIONS

QUEUED, RUNNING, DONE = JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED


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


# --- variables -------------------------------------------------------------------------------------------------------


def test_the_values_of_variables_go_to_the_worker_and_are_forgotten_when_the_job_is_over(hub: Any) -> None:
    job = hub.submit(asked(env={"TOKEN": "sesame", "EMPTY": ""}))
    hub.report("w", held(hub.claim(offer())), ended(JobState.CANCELLED, "its worker leaves"))  # it is queued again: not over
    second = hub.claim(offer())
    told = dict(second.job.submission.env)
    hub.report("w", held(second), ended(JobState.FAILED))
    assert (told, dict(one(hub, job.id).submission.env)) == ({"TOKEN": "sesame", "EMPTY": ""}, {"TOKEN": "", "EMPTY": ""})


def test_a_job_is_queued_again_only_with_the_values_of_all_its_variables(hub: Any) -> None:
    job = hub.submit(asked(env={"TOKEN": "sesame", "LR": "0.1"}))
    hub.cancel(job.id)
    with pytest.raises(UsageError, match="needs TOKEN again"):
        hub.retry(job.id, {"LR": "0.2"})
    again = hub.retry(job.id, {"LR": "0.2", "TOKEN": "open", "NEW": "1"})
    assert (again.state, dict(again.submission.env), dict(hub.claim(offer()).job.submission.env)) == (
        QUEUED, {"TOKEN": "open", "LR": "0.2", "NEW": "1"}, {"TOKEN": "open", "LR": "0.2", "NEW": "1"},
    )  # fmt: skip


def test_what_cannot_be_a_variable_is_refused_when_a_job_is_queued_again(hub: Any) -> None:
    job = hub.submit(asked())
    hub.cancel(job.id)
    with pytest.raises(UsageError, match="cannot be a variable"):
        hub.retry(job.id, {"NOT-ONE": "1"})


def test_no_byte_of_a_secret_is_left_in_the_file_once_its_jobs_are_over(tmp_path: Path) -> None:
    house = House(tmp_path / "hub.db")
    for number in range(40):
        job = house.desk.submit(asked(env={"TOKEN": f"sesame-{number}" * 20}))
        if number % 2:
            house.desk.report("w", held(house.desk.claim(offer())), ended())
        house.desk.cancel(job.id)
    for job in house.desk.jobs(Query(last=100)):
        house.desk.cancel(job.id)
    house.close()
    assert b"sesame" not in b"".join(path.read_bytes() for path in house.path.parent.iterdir())


def test_jobs_that_were_over_before_values_were_forgotten_lose_them_too(house: House) -> None:
    done, queued = house.desk.submit(asked(env={"TOKEN": "sesame"})), house.desk.submit(asked(env={"TOKEN": "sesame"}))
    house.desk.cancel(done.id)
    with contextlib.closing(sqlite3.connect(house.path)) as db, db:  # as an earlier version has left it
        db.execute("UPDATE job SET submission = json_set(submission, '$.env.TOKEN', 'sesame')")
        db.executescript(QUEUE_MIGRATIONS[1])
    assert [dict(one(house.desk, job.id).submission.env) for job in (done, queued)] == [{"TOKEN": ""}, {"TOKEN": "sesame"}]


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


def test_jobs_are_found_that_were_queued_before_or_after_another(hub: Any) -> None:
    ids = [hub.submit(asked()).id for _ in range(4)]
    queries = [Query(before=ids[2]), Query(before=ids[2], last=1), Query(after=ids[1]), Query(before="job-none"), Query(after="job-none")]
    assert [[ids.index(job.id) for job in hub.jobs(query)] for query in queries] == [[1, 0], [1], [3, 2], [], []]


def test_more_jobs_are_listed_than_one_message_holds(hub: Any) -> None:
    ids = [hub.submit(asked("x" * 60_000, str(number))).id for number in range(20)]
    assert [job.id for job in hub.jobs(Query(last=19))] == ids[:0:-1]


@pytest.mark.parametrize(
    ("more", "trouble"),
    [
        ({"priority": 1.5}, "priority: int was expected, not 1.5"),
        ({"gpu_count": True}, "gpu_count: int was expected, not True"),
        ({"name": "half \udcff"}, "name: a text with half a letter"),
        ({"env": {"A": 1}}, "env: str was expected, not 1"),
        ({"tags": ({1},)}, "Object of type set is not JSON serializable"),
    ],
)
def test_a_job_that_could_not_be_read_again_is_never_written_down(house: House, more: dict[str, Any], trouble: str) -> None:
    with pytest.raises(UsageError) as told:
        house.desk.submit(asked(**more))
    assert (told.value.code, told.value.message, house.desk.jobs(Query()), house.desk.claim(offer())) == ("E-SUBMIT", trouble, [], None)


def test_a_job_is_not_queued_again_with_what_could_not_be_read(house: House) -> None:
    job = house.desk.submit(asked(env={"A": "a"})).id
    house.desk.cancel(job)
    with pytest.raises(UsageError):
        house.desk.retry(job, {"A": "half \udcff"})
    assert one(house.desk, job).state == JobState.CANCELLED


# --- news -----------------------------------------------------------------------------------------------------------


def test_each_thing_that_happens_to_a_job_is_news_once(hub: Any) -> None:
    job = hub.submit(asked(retries=1))
    seen = [hub.news(Query(job.id))]

    def then(_done: object) -> None:
        seen.append(hub.news(Query(job.id)))

    grant = hub.claim(offer())
    then(grant)
    then(hub.report("w", held(grant), Started()))
    then(hub.report("w", held(grant), log(0, b"x")))
    then(hub.report("w", held(grant), Chunk(Stream.METRICS, 0, b'["loss", 1.0, null, 1.0]\n')))
    then(hub.report("w", held(grant), ended(JobState.FAILED)))
    then(hub.report("w", held(grant), log(1, b"y")))
    then(hub.cancel(job.id))
    assert (len(seen), len(set(seen)), hub.news(Query(job.id))) == (8, 8, seen[-1])


def test_what_happens_to_other_jobs_is_no_news(hub: Any) -> None:
    job = hub.submit(asked(priority=-1))
    before = hub.news(Query(job.id))
    other = hub.submit(asked())
    hub.report("w", held(hub.claim(offer())), ended())
    assert (hub.news(Query(job.id)), one(hub, other.id).state) == (before, JobState.SUCCEEDED)


def test_a_state_that_is_asked_for_a_thousand_times_is_one(hub: Any) -> None:
    job = hub.submit(asked())
    assert [each.id for each in hub.jobs(Query(states=(JobState.QUEUED, JobState.RUNNING) * 500))] == [job.id]


def test_who_waits_for_news_that_do_not_come_is_answered_when_the_time_is_over(hub: Any, house: House) -> None:
    seen, at = hub.news(Query(states=(JobState.RUNNING,))), house.clock.at
    assert (hub.news(Query(states=(JobState.RUNNING,)), seen, 5.0), house.clock.at) == (seen, at + 5.0)


def test_who_waits_for_news_that_have_come_already_is_answered_at_once(hub: Any, house: House) -> None:
    seen, at = hub.news(Query()), house.clock.at
    hub.submit(asked())
    assert (hub.news(Query(), seen, 5.0) != seen, house.clock.at) == (True, at)


# --- when it started -------------------------------------------------------------------------------------------------


def test_a_job_that_has_printed_has_started(hub: Any) -> None:
    job = hub.submit(asked())
    grant = hub.claim(offer())
    before = one(hub, job.id).started
    hub.report("w", held(grant), log(0, b"x"))
    assert (before, one(hub, job.id).started) == (None, 11_000.0)


def test_a_job_whose_end_is_the_first_that_is_told_had_started_before(hub: Any) -> None:
    job = hub.submit(asked())
    hub.report("w", held(hub.claim(offer())), ended(started=5.0, seconds=4.0))
    assert (one(hub, job.id).started, one(hub, job.id).finished) == (10_996.0, 11_000.0)


def test_a_job_that_was_never_begun_never_started(hub: Any) -> None:
    job = hub.submit(asked())
    hub.report("w", held(hub.claim(offer())), ended(JobState.CANCELLED))
    assert one(hub, job.id).started is None
