"""Who follows a job sees all that it prints, in its order, whatever happens between two looks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hubs import House, asked, ended, held, log, offer
from overnight.app import watching
from overnight.app.hub import HubPlace, Reached
from overnight.models import JobState
from overnight.queue.words import Grant


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with closing(House(tmp_path / "hub.db")) as found:
        yield found


class Meanwhile:
    """The desk of a house where, each time after some output was read and before the jobs are, the next of the ``deeds`` is done."""

    def __init__(self, house: House, deeds: list[Callable[[], object]]) -> None:
        self._house = house
        self._deeds = deeds

    def part(self, *words: Any) -> Any:
        found = self._house.desk.part(*words)
        if self._deeds:
            self._deeds.pop(0)()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._house.desk, name)


def seen(house: House, job: str, *deeds: Callable[[], object]) -> list[str]:
    """What is shown of the job, without its id, to somebody who follows it until its end."""
    found = Reached(
        Meanwhile(house, list(deeds)),
        HubPlace(house.path.parent),
        lambda seconds, _query=None: house.pass_time(seconds),
        lambda _what: contextlib.nullcontext(),
        {},
    )
    return "".join(watching.streamed(found, job)).replace(f"[{job}] ", "").splitlines()


def printed(house: House, grant: Grant | None, start: int, data: bytes) -> None:
    assert house.desk.report("w", held(grant), log(start, data))


def over(house: House, grant: Grant | None, state: JobState = JobState.SUCCEEDED) -> None:
    assert house.desk.report("w", held(grant), ended(state))


def test_a_job_that_begins_and_ends_between_two_looks_is_shown_whole(house: House) -> None:
    job = house.desk.submit(asked()).id

    def at_once() -> None:
        grant = house.desk.claim(offer())
        printed(house, grant, 0, b"one\ntwo\n")
        over(house, grant)

    assert seen(house, job, at_once) == ["one", "two", "Status: SUCCEEDED"]


def test_what_a_job_prints_between_two_looks_comes_before_its_end(house: House) -> None:
    job = house.desk.submit(asked()).id
    grant = house.desk.claim(offer())
    printed(house, grant, 0, b"one\n")

    def end() -> None:
        printed(house, grant, 4, b"two\n")
        over(house, grant)

    assert seen(house, job, lambda: None, end) == ["Status: RUNNING on w", "one", "two", "Status: SUCCEEDED"]


def test_where_an_attempt_runs_is_said_before_the_first_that_it_prints(house: House) -> None:
    job = house.desk.submit(asked(retries=1)).id
    grants = [house.desk.claim(offer())]
    printed(house, grants[0], 0, b"one\n")

    def again() -> None:
        over(house, grants[0], JobState.FAILED)
        house.pass_time(600)
        grants.append(house.desk.claim(offer()))
        printed(house, grants[1], 0, b"two\n")

    told = seen(house, job, lambda: None, again, lambda: None, lambda: None, lambda: over(house, grants[1]))
    assert told == ["Status: RUNNING on w", "one", "Status: RUNNING on w, attempt 2", "two", "Status: SUCCEEDED"]


def test_a_job_that_is_cancelled_before_it_was_ever_begun_ends_the_looking(house: House) -> None:
    job = house.desk.submit(asked()).id
    assert seen(house, job, lambda: house.desk.cancel(job)) == ["Status: CANCELLED (cancelled: on request)"]


# --- all jobs --------------------------------------------------------------------------------------------------------


def seen_of_all(house: House, *deeds: Callable[[], object]) -> str:
    """What is shown to somebody who follows all jobs until nothing waits or runs; a deed is done each time when he waits."""
    left = list(deeds)

    def wait(seconds: float, _query: object = None) -> None:
        left.pop(0)() if left else house.pass_time(seconds)

    found = Reached(house.desk, HubPlace(house.path.parent), wait, lambda _what: contextlib.nullcontext(), {})
    return "".join(watching.streamed_all(found, set()))


def run(house: House, text: bytes) -> str:
    grant = house.desk.claim(offer())
    printed(house, grant, 0, text)
    over(house, grant)
    return grant.job.id if grant else ""


def test_who_watches_all_jobs_sees_those_too_that_came_and_went_between_two_looks(house: House) -> None:
    first, ids = house.desk.submit(asked()).id, []

    def short_ones() -> None:
        for number in range(3):
            house.desk.submit(asked(priority=1))
            ids.append(run(house, b"short %d\n" % number))

    told = seen_of_all(house, short_ones, lambda: run(house, b"first\n"))
    short = [line for number, job in enumerate(ids) for line in (f"[{job}] short {number}", f"[{job}] Status: SUCCEEDED")]
    rest = [f"[{first}] Status: QUEUED", f"[{first}] first", f"[{first}] Status: SUCCEEDED"]
    assert sorted(told.splitlines()) == sorted([*short, *rest])


def test_who_watches_all_jobs_sees_the_oldest_of_very_many(house: House) -> None:
    ids = [house.desk.submit(asked()).id for _ in range(250)]
    told = seen_of_all(house, lambda: [run(house, b"x\n") for _ in ids])
    assert [told.count(f"[{job}] x\n") for job in ids] == [1] * 250


def test_what_a_job_printed_before_it_was_queued_again_is_not_shown_anew_with_all(house: House) -> None:
    job, other = house.desk.submit(asked()).id, house.desk.submit(asked(priority=-1)).id
    told = seen_of_all(
        house,
        lambda: run(house, b"one\n"),
        lambda: house.desk.retry(job),
        lambda: (run(house, b"two\n"), run(house, b"other\n")),
    )
    assert [told.count(f"[{job}] one\n"), told.count(f"[{job}] two\n"), told.count(f"[{other}] other\n")] == [1, 1, 1]
