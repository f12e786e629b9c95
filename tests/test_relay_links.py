"""What goes over a link to a relay: requests and answers, pushes, streams, objects. The relay is a real one."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import nats.js.client
import pytest

from overnight.errors import NotFoundError, UnreachableError, UsageError
from overnight.hub.link import Link
from overnight.hub.objects import Objects
from relays import Relay, relay, until

PushSubscription = nats.js.client.JetStreamContext.PushSubscription


@pytest.fixture(scope="module")
def house() -> Iterator[Relay]:
    with relay() as found:
        yield found


@pytest.fixture(scope="module")
def hub(house: Relay) -> Iterator[Link]:
    with house.hub() as found:
        yield found


@pytest.fixture(scope="module")
def worker(house: Relay, hub: Link) -> Iterator[Link]:  # noqa: ARG001 - the hub is there before its worker
    with Link(house.joined("worker", "w1")) as found:
        yield found


def test_an_answer_comes_from_the_hub_and_knows_who_has_asked(hub: Link, worker: Link) -> None:
    hub.serve("who", lambda who, payload: f"{who.kind} {who.name} {payload.decode()}".encode())
    assert worker.request("who", b"?") == b"worker w1 ?"


def test_a_mebibyte_goes_both_ways(hub: Link, worker: Link) -> None:
    hub.serve("back", lambda _who, payload: payload)
    data = os.urandom(2**20)
    assert worker.request("back", data) == data


def test_more_than_a_mebibyte_is_refused_before_it_is_sent(worker: Link) -> None:
    with pytest.raises(UsageError, match="1,048,577 bytes is not carried"):
        worker.request("back", bytes(2**20 + 1))


def test_an_error_of_the_hub_is_raised_where_it_was_asked(hub: Link, worker: Link) -> None:
    def fail(_who: object, _payload: bytes) -> bytes:
        raise NotFoundError("E-NO-JOB", "there is no job 7", fix="overnight ls")

    hub.serve("fail", fail)
    with pytest.raises(NotFoundError, match="there is no job 7") as found:
        worker.request("fail", b"")
    assert (found.value.code, found.value.fix, found.value.exit_code) == ("E-NO-JOB", "overnight ls", 3)


def test_a_fault_in_a_handler_is_told_and_the_hub_goes_on(hub: Link, worker: Link) -> None:
    hub.serve("fault", lambda _who, _payload: bytes([1 // 0]))
    hub.serve("back", lambda _who, payload: payload)
    with pytest.raises(UnreachableError, match="the hub failed: ZeroDivisionError"):  # workers try again, and no job fails for it
        worker.request("fault", b"")
    assert worker.request("back", b"on") == b"on"


def test_a_verb_that_the_hub_does_not_know_is_said(hub: Link, worker: Link) -> None:
    hub.serve("back", lambda _who, payload: payload)
    with pytest.raises(UsageError, match="knows no 'dance'"):
        worker.request("dance", b"")


def test_requests_of_many_threads_are_all_answered(hub: Link, worker: Link) -> None:
    hub.serve("back", lambda _who, payload: payload)
    found: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def ask(number: int) -> None:
        for each in range(10):
            found.put(worker.request("back", f"{number} {each}".encode()))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found.get() for _ in range(80)) == sorted(f"{number} {each}".encode() for number in range(8) for each in range(10))


def test_a_request_that_waits_does_not_hold_up_others(hub: Link, worker: Link) -> None:
    hold = threading.Event()
    hub.serve("park", lambda _who, _payload: b"late" if hold.wait(60) else b"")
    hub.serve("back", lambda _who, payload: payload)
    parked: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: parked.put(worker.request("park", b"")))
    thread.start()
    first = worker.request("back", b"soon")
    hold.set()
    thread.join()
    assert (first, parked.get()) == (b"soon", b"late")


def test_what_nobody_answers_in_time_ends_with_exit_code_7(hub: Link, worker: Link) -> None:
    hold = threading.Event()
    hub.serve("never", lambda _who, _payload: bytes(hold.wait(60)))
    with pytest.raises(UnreachableError, match="has not answered within 0 seconds") as found:
        worker.request("never", b"", 0.3)
    hold.set()
    assert found.value.exit_code == 7


def test_a_relay_without_a_hub_is_told_from_no_relay() -> None:
    with relay() as alone, Link(alone.joined("client", "laptop")) as client, pytest.raises(UnreachableError, match="no hub is there"):
        client.request("jobs", b"", 0.5)


def test_a_push_reaches_the_member_that_it_is_for(house: Relay, hub: Link, worker: Link) -> None:
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    other: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    hub.serve("back", lambda _who, payload: payload)
    worker.on_control(heard.put)
    with Link(house.joined("worker", "w2")) as second:
        second.on_control(other.put)
        sent = hub.control("w1", b"stop job-1")
        assert (sent, heard.get(timeout=60), hub.control("w2", b"drain"), other.get(timeout=60)) == (1, b"stop job-1", 1, b"drain")
        assert (heard.empty(), other.empty()) == (True, True)


def test_a_push_to_all_workers_reaches_no_client(house: Relay, hub: Link, worker: Link) -> None:
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    hub.serve("back", lambda _who, payload: payload)
    with Link(house.joined("client", "c-push")) as client:
        client.on_control(heard.put)
        client.request("back", b"")
        worker.request("back", b"")
        assert hub.control_all("worker", b"look") >= 1
        hub.control("c-push", b"after")
        assert heard.get(timeout=60) == b"after"


def test_events_come_in_order_under_the_name_of_their_worker(hub: Link, worker: Link) -> None:
    for number in range(5):
        worker.publish("evt", "job-a", f"job-a-1-{number}", f"event {number}".encode())
    found = list(hub.follow("evt.w1.job-a", patience=0.5))
    assert [(each.who, each.subject, each.message_id, each.payload) for each in found] == [
        ("w1", "evt.w1.job-a", f"job-a-1-{number}", f"event {number}".encode()) for number in range(5)
    ]


def test_what_is_published_twice_is_there_once(hub: Link, worker: Link) -> None:
    numbers = [worker.publish("evt", "job-b", "job-b-1-0", b"done") for _ in range(3)]
    assert (len(set(numbers)), len(list(hub.follow("evt.w1.job-b", patience=0.5)))) == (1, 1)


def test_one_follows_a_stream_from_where_one_was(hub: Link, worker: Link) -> None:
    numbers = [worker.publish("log", "job-c", f"job-c-1-{number}", f"{number}".encode()) for number in range(6)]
    assert [each.payload for each in hub.follow("log.w1.job-c", numbers[2] + 1, patience=0.5)] == [b"3", b"4", b"5"]


def test_one_who_follows_hears_of_what_is_published_later(hub: Link, worker: Link) -> None:
    following = hub.follow("evt.w1.job-d")
    first = worker.publish("evt", "job-d", "0", b"before")
    assert next(following).sequence == first
    threading.Thread(target=worker.publish, args=("evt", "job-d", "1", b"later")).start()
    assert next(following).payload == b"later"
    following.close()


def test_megabytes_of_log_are_followed_without_a_gap(hub: Link, worker: Link) -> None:
    chunks = [os.urandom(200_000) for _ in range(40)]
    for number, chunk in enumerate(chunks):
        worker.publish("log", "job-e", f"{number}", chunk)
    assert b"".join(each.payload for each in hub.follow("log.w1.job-e", patience=0.5)) == b"".join(chunks)


@pytest.mark.parametrize("kind", ["lost", "doubled"])
def test_who_follows_gets_each_message_once_though_one_is_dropped_or_doubled_on_the_way(
    hub: Link, worker: Link, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    real, seen = PushSubscription.next_msg, list[Any]()

    async def next_msg(self: PushSubscription, patience: float | None = 1.0) -> Any:
        seen.append(await real(self, patience) if len(seen) != 3 or kind == "lost" else seen[-1])
        return seen[-1] if len(seen) != 3 or kind == "doubled" else await next_msg(self, patience)

    monkeypatch.setattr(PushSubscription, "next_msg", next_msg)
    numbers = [worker.publish("evt", f"job-{kind}", f"{number}", b"x") for number in range(8)]
    assert [each.sequence for each in islice(hub.follow(f"evt.w1.job-{kind}", patience=5), len(numbers))] == numbers


def test_what_is_kept_elsewhere_can_be_forgotten(hub: Link, worker: Link) -> None:
    numbers = [worker.publish("evt", "job-f", f"{number}", b"x") for number in range(3)]
    hub.trim("evt", numbers[2])
    assert [each.sequence for each in hub.follow("evt.w1.job-f", patience=0.5)] == numbers[2:]


@pytest.mark.parametrize("subject", ["evt.>", "evt.*.job", "evt job", "other.x", "evt..x", "$JS.x", "evt.w1.job\r\n"])
def test_a_subject_that_is_not_ours_is_not_followed(hub: Link, subject: str) -> None:
    with pytest.raises(UsageError, match="no subject of a stream"):
        next(hub.follow(subject))


@pytest.mark.parametrize(("stream", "tail"), [("evt", ">"), ("evt", "a b"), ("evt", ""), ("ctl", "job"), ("evt", "job\r\nPUB x")])
def test_nothing_is_published_on_a_subject_that_is_not_ours(worker: Link, stream: str, tail: str) -> None:
    with pytest.raises(UsageError, match="no subject of a stream"):
        worker.publish(stream, tail, "1", b"")


def test_a_message_id_that_could_be_a_header_is_refused(worker: Link) -> None:
    with pytest.raises(UsageError, match="cannot be the id"):
        worker.publish("evt", "job", "1\r\nNats-Rollup: all", b"")


def test_an_object_arrives_as_it_was_handed_over(hub: Link, worker: Link, tmp_path: Path) -> None:
    data = os.urandom(3 * 2**19 + 17)
    (tmp_path / "weights.bin").write_bytes(data)
    worker.put("ART", "job-1/weights.bin", tmp_path / "weights.bin")
    hub.put("CODE", "abc", data, to="w1")
    worker.get("CODE", "abc", tmp_path / "bundle")
    assert (hub.get("ART", "job-1/weights.bin", source="w1"), (tmp_path / "bundle").read_bytes()) == (data, data)


def test_an_empty_object_arrives_too(hub: Link, worker: Link) -> None:
    worker.put("ART", "empty", b"")
    assert hub.get("ART", "empty", source="w1") == b""


def test_an_object_that_nobody_has_handed_over_is_not_found(hub: Link, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="is not there"):
        hub.get("ART", "nothing", tmp_path / "nothing", source="w1")
    assert list(tmp_path.iterdir()) == []


def test_the_newer_object_of_a_name_takes_the_place_of_the_older(hub: Link, worker: Link) -> None:
    worker.put("ART", "twice", os.urandom(2**20))
    worker.put("ART", "twice", b"newer")
    assert hub.get("ART", "twice", source="w1") == b"newer"


def test_two_who_hand_over_different_objects_under_one_name_at_once_leave_one_of_them_whole(
    hub: Link, worker: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, go, send = threading.Event(), threading.Event(), Objects._send

    async def late(self: Objects, subject: str, part: str, *rest: Any) -> None:
        if part == "list" and not ready.is_set():
            ready.set()
            await asyncio.to_thread(go.wait, 60)
        await send(self, subject, part, *rest)

    monkeypatch.setattr(Objects, "_send", late)
    first = threading.Thread(target=worker.put, args=("CODE", "both", b"first" * 1000))
    first.start()
    assert ready.wait(60)
    worker.put("CODE", "both", b"second" * 1000)
    go.set()
    first.join()
    assert hub.get("CODE", "both", source="w1") == b"first" * 1000


def test_an_object_too_large_for_the_relay_is_refused_before_it_is_sent(worker: Link, tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(128 * 2**20 + 1)
    with pytest.raises(UsageError, match="are not handed over"):
        worker.put("ART", "huge", tmp_path / "huge")


def test_the_hub_serves_who_joins_while_it_runs(house: Relay, hub: Link) -> None:
    hub.serve("back", lambda _who, payload: payload)
    with Link(house.joined("client", "late")) as late:
        assert late.request("back", b"here") == b"here"


def test_two_processes_of_one_member_do_not_disturb_each_other(house: Relay, hub: Link) -> None:
    hub.serve("back", lambda _who, payload: payload)
    found = house.joined("client", "twice")
    with Link(found) as one, Link(found) as two:
        assert [one.request("back", b"1"), two.request("back", b"2"), one.request("back", b"3")] == [b"1", b"2", b"3"]


def test_a_link_that_was_closed_says_so(house: Relay) -> None:
    found = Link(house.joined("client", "closed"))
    found.close()
    found.close()
    with pytest.raises(UnreachableError, match="closed"):
        found.request("back", b"")
    assert until(lambda: not any(thread.name == "relay-closed" for thread in threading.enumerate()))
