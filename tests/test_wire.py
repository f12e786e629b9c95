"""The hub's verbs as bytes: who may say what, and ten thousand hostile requests and answers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hubs import House, asked, ended, held, offer
from overnight.errors import NotAllowedError, NotFoundError, OvernightError, UnreachableError
from overnight.models import JobState, JobStatus
from overnight.queue import coding
from overnight.queue.wire import Remote, Role, Who, answer, verb_of
from overnight.queue.words import Chunk, Ended, Held, Query, Stream, Submission
from overnight.store.queue import QueueFile
from test_hostile_input import hostile


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    found = House(tmp_path / "hub.db")
    yield found
    found.close()


def remote(house: House, name: str, role: Role) -> Remote:
    return Remote(lambda data: answer(house.desk, Who(name, role), data))


def told(house: House, request: Any, role: Role = Role.OWNER) -> Any:
    data = request if isinstance(request, bytes) else json.dumps(request).encode()
    return json.loads(answer(house.desk, Who("w", role), data))


# --- rights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda hub: hub.claim(offer("other")),
        lambda hub: hub.renew("other", []),
        lambda hub: hub.report("other", Held("job-1", 1), ended()),
        lambda hub: hub.submit(asked()),
        lambda hub: hub.cancel("job-1"),
        lambda hub: hub.retry("job-1"),
        lambda hub: hub.jobs(Query()),
        lambda hub: hub.part("job-1", Stream.LOG),
        lambda hub: hub.workers(),
        lambda hub: hub.drain("w"),
    ],
)
def test_a_worker_may_only_work_and_only_for_itself(house: House, call: Any) -> None:
    with pytest.raises(NotAllowedError):
        call(remote(house, "w", Role.WORKER))


@pytest.mark.parametrize(
    "call",
    [
        lambda hub: hub.claim(offer("c")),
        lambda hub: hub.renew("c", []),
        lambda hub: hub.report("c", Held("job-1", 1), ended()),
        lambda hub: hub.drain("w"),
    ],
)
def test_a_client_may_not_work_or_drain(house: House, call: Any) -> None:
    with pytest.raises(NotAllowedError):
        call(remote(house, "c", Role.CLIENT))


def test_a_client_sees_and_ends_its_own_jobs_alone(house: House) -> None:
    ann, bob = remote(house, "ann", Role.CLIENT), remote(house, "bob", Role.CLIENT)
    job = ann.submit(asked())
    for call in (bob.cancel, bob.retry, lambda name: bob.part(name, Stream.LOG)):
        with pytest.raises(NotFoundError):
            call(job.id)
    assert (bob.jobs(Query()), [each.id for each in ann.jobs(Query())], ann.cancel(job.id).state) == ([], [job.id], JobState.CANCELLED)


def test_a_client_cannot_take_another_name_in_a_query(house: House) -> None:
    remote(house, "ann", Role.CLIENT).submit(asked())
    assert remote(house, "bob", Role.CLIENT).jobs(Query(owner="ann")) == []


def test_a_worker_works_under_its_own_name(house: House) -> None:
    house.desk.submit(asked())
    hub = remote(house, "w", Role.WORKER)
    grant = hub.claim(offer("w"))
    assert hub.report("w", held(grant), ended()) is True


# --- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (b"", "Expecting value"), (b"[]", "there is no verb"), ({}, "there is no verb"), ({"verb": 3}, "there is no verb"), ({"verb": "rm"}, "nobody knows the verb 'rm'"),
        ({"verb": "cancel"}, "job is missing"), ({"verb": "cancel", "job": 3}, "str was expected, not 3"), ({"verb": "workers", "x": 1}, "nobody knows 'x'"),
        ({"verb": "jobs", "query": {"states": ["GONE"]}}, "'GONE' is not a valid JobState"), ({"verb": "jobs", "query": {"last": 1e3}}, "int was expected"),
        ({"verb": "jobs", "query": {"last": 10**20}}, "int was expected"), (b'{"verb":"workers","verb":"jobs"}', "a key is there twice"),
        ({"verb": "submit", "submission": {"command": "rm"}}, "a list was expected"), (b'{"verb":"submit","submission":{"command":["\\ud800"]}}', "half a letter"),
        (b"[" * 100_000, "levels"), (b'{"verb": ' + b"[" * 40 + b"]" * 40 + b"}", "levels"), (b'{"verb":NaN}', "NaN is no number of JSON"),
        (b" " * 2**21, "at most 1048576 are taken"), ({"verb": "claim", "offer": {"machine": {"name": "w"}, "slots": 1}}, "slots is missing"),
        ({"verb": "report", "worker": "w", "held": {"job": "j", "attempt": 1}, "chunk": {"stream": "log", "start": 0, "data": "§"}}, "no base64"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_read_is_answered_with_what_is_wrong(house: House, request_: Any, why: str) -> None:
    found = told(house, request_)["error"]
    assert (found["code"], why in found["message"]) == ("E-WIRE", True)


def test_a_chunk_before_the_beginning_or_beyond_all_bounds_changes_nothing(house: House) -> None:
    house.desk.submit(asked())
    grant = held(house.desk.claim(offer("w")))
    for start in (-5, 10**14):
        house.desk.report("w", grant, Chunk(Stream.LOG, start, b"abc"))
    assert house.desk.part(grant.job, Stream.LOG).data == b""


def test_an_answer_with_more_than_we_know_is_understood(house: House) -> None:
    house.desk.submit(asked())
    newer = Remote(lambda data: answer(house.desk, Who("o", Role.OWNER), data).replace(b'{"id":', b'{"news":1,"id":'))
    assert len(newer.jobs(Query())) == 1


@pytest.mark.parametrize("reply", [b"", b"{}", b"[1]", b'{"ok": 3}', b'{"ok": [{"id": 1}]}', b"\xff", b'{"error": {"kind": "__class__"}}'])
def test_an_answer_that_cannot_be_read_is_an_error_that_says_so(reply: bytes) -> None:
    with pytest.raises(OvernightError) as caught:
        Remote(lambda _: reply).jobs(Query())
    assert isinstance(caught.value, UnreachableError) or b"error" in reply


def test_numbers_that_json_does_not_know_and_bytes_survive_the_way() -> None:
    for record in (
        Ended(JobStatus(JobState.FAILED, "x", seconds=float("inf"), exit_code=0)),
        Chunk(Stream.LOG, 7, bytes(range(256))),
        Submission(("a", "ü\n"), env={"A": ""}),
    ):
        assert coding.read(type(record), coding.written(record)) == record


def _request(number: int) -> bytes:
    """A request that is nearly right: one that was, with parts of it changed."""
    chance = random.Random(number)
    job, text = chance.choice(["job-1", "", "x" * 90]), chance.choice(["", "a", "../..", "\0", "é" * 9])
    whole: dict[str, Any] = chance.choice(
        [
            {"verb": "claim", "offer": coding.plain(offer("w", gpus=2)), "wait": chance.choice([0, -1, 0.001])},
            {"verb": "renew", "worker": "w", "held": [{"job": job, "attempt": 1}], "fresh": chance.random() < 0.5},
            {
                "verb": "report",
                "worker": "w",
                "held": {"job": job, "attempt": chance.choice([0, -1, 10**14])},
                "ended": coding.plain(JobStatus(JobState.FAILED)),
            },
            {"verb": "submit", "submission": coding.plain(asked(text or "true", name=text, wait=True))},
            {"verb": "cancel", "job": job, "reason": text},
            {"verb": "part", "job": job, "stream": "log", "since": chance.choice([-1, 0, 10**15])},
            {"verb": "jobs", "query": {"id": text, "last": chance.choice([-1, 0, 3])}},
            {"verb": "waits"},
        ]
    )
    data = json.dumps(whole).encode()
    if chance.random() < 0.7:
        at = chance.randrange(len(data))
        data = data[:at] + hostile(number)[: chance.randrange(60)] + data[at + chance.randrange(8) :]
    return data


def _try(house: House, numbers: range) -> None:
    for number in numbers:
        data = hostile(number) if number % 5 == 0 else _request(number)
        found = json.loads(answer(house.desk, Who("w", random.Random(number).choice(list(Role))), data))
        assert found.keys() in ({"ok"}, {"error"})
        verb_of(data)
        with pytest.raises(OvernightError):
            Remote(lambda _, data=data: data).jobs(Query())  # type: ignore[misc]


def test_ten_thousand_hostile_requests_are_answered(house: House) -> None:
    assert isinstance(house.database, QueueFile)
    house.database._db.execute("PRAGMA synchronous=OFF")
    _try(house, range(10_000))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_million_hostile_requests_are_answered(house: House) -> None:
    _try(house, range(10_000, 1_000_000))
