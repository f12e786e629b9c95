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
from overnight.queue.words import Grant, Query


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


class EnoughError(Exception):
    """Nothing more happens."""


def seen_of_all(house: House, *deeds: Callable[[], object], seen: set[str] | None = None) -> str:
    """What is shown to somebody who follows all jobs, until nothing happens any more; each time when there was nothing new, the next of the deeds is done."""
    todo = list(deeds)

    def wait(_seconds: float, _query: object = None) -> None:
        if not todo:
            raise EnoughError
        todo.pop(0)()

    found, shown = Reached(house.desk, HubPlace(house.path.parent), wait, lambda _what: contextlib.nullcontext(), {}), ""
    with contextlib.suppress(EnoughError):
        for text in watching.streamed_all(found, seen):
            shown += text
    return shown


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


def test_who_follows_all_sees_also_a_job_that_comes_and_goes_between_two_looks(house: House) -> None:
    first, names = house.desk.submit(asked()), set[str]()
    grant = house.desk.claim(offer("w", 4))

    def come_and_go() -> None:
        house.desk.submit(asked("short"))
        short = house.desk.claim(offer("w", 4))
        printed(house, short, 0, b"brief\n")
        over(house, short, JobState.FAILED)
        over(house, grant)

    shown = seen_of_all(house, come_and_go, seen=names)
    short = house.desk.jobs(Query(last=1))[0].id
    lines = [f"[{short}] brief", f"[{short}] Status: FAILED"]
    assert (names, [line for line in shown.splitlines() if short in line]) == ({first.id, short}, lines)


def test_who_follows_all_sees_what_runs_however_much_waits_behind_it(house: House) -> None:
    house.desk.submit(asked(priority=1))
    grant = house.desk.claim(offer("w"))
    printed(house, grant, 0, b"here\n")
    for _ in range(Query().last):
        house.desk.submit(asked())
    assert f"[{held(grant).job}] here\n" in seen_of_all(house)
