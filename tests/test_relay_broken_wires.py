"""Relays that go and come back, wires that are cut, swallow or crawl: nothing is lost, nothing is done twice, everybody is back soon."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from flaky import Wire, wire
from overnight.errors import UnreachableError
from overnight.hub import keeper
from overnight.hub.credentials import Credentials
from overnight.hub.keys import Peer
from overnight.hub.link import Link
from relays import Relay, relay, until

SOON = 5.0  # seconds within which everybody is back: what is promised


@pytest.fixture
def house() -> Iterator[Relay]:
    with relay() as found:
        yield found


def through(found: Credentials, by: Wire) -> Credentials:
    """The same member, whose wire leads through a bad one."""
    return replace(found, address=f"wss://localhost:{by.port}")


class Counted:
    """A handler that notes how often each payload was done."""

    def __init__(self) -> None:
        self.done: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def __call__(self, _who: object, payload: bytes) -> bytes:
        with self._lock:
            self.done[payload] = self.done.get(payload, 0) + 1
        return b"did " + payload


class Traffic:
    """A member that asks, one that publishes, and a hub that answers and follows, all the time, each in a thread."""

    def __init__(self, house: Relay, hub: Link) -> None:
        self.counted, self.followed, self.failed = Counted(), list[bytes](), list[BaseException]()
        self.one, self.two, self._hub = Link(house.joined("worker", "w1")), Link(house.joined("worker", "w2")), hub
        self.sent = 0
        self._stop = threading.Event()
        hub.serve("ask", self.counted)
        self._threads = [threading.Thread(target=self._guarded, args=(work,)) for work in (self._ask, self._publish, self._follow)]
        for thread in self._threads:
            thread.start()

    def is_back(self, followed: int, done: int) -> bool:
        return len(self.followed) > followed and len(self.counted.done) > done and self.one.is_up and self.two.is_up

    def end(self) -> None:
        """Ask and publish no longer, and follow to the end."""
        self._stop.set()
        for thread in self._threads[:2]:
            thread.join()
        self.two.publish("evt", "job", "last", b"last", 60)
        self._threads[2].join()
        self.one.close()
        self.two.close()

    def _ask(self) -> None:
        for number in itertools.takewhile(lambda _: not self._stop.is_set(), itertools.count()):
            assert self.one.request("ask", f"{number}".encode(), 60) == f"did {number}".encode()

    def _publish(self) -> None:
        while not self._stop.is_set():
            self.two.publish("evt", "job", f"{self.sent}", f"{self.sent}".encode(), 60)
            self.sent += 1

    def _follow(self) -> None:
        for each in self._hub.follow("evt", patience=60):
            if each.payload == b"last":
                return
            self.followed.append(each.payload)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - told by the test
            self.failed.append(exc)


def _restarts(house: Relay, count: int) -> list[float]:
    """Start the relay anew so often while members ask and publish; seconds until all were back, each time."""
    with house.hub() as hub:
        traffic, back = Traffic(house, hub), list[float]()
        for _ in range(count):
            seen = (len(traffic.followed), len(traffic.counted.done))
            house.restart()
            began = time.monotonic()
            assert until(partial(traffic.is_back, *seen)), (traffic.failed, len(traffic.followed), len(traffic.counted.done), traffic.sent)
            back.append(time.monotonic() - began)
        traffic.end()
    assert traffic.failed == []
    assert traffic.followed == [f"{number}".encode() for number in range(traffic.sent)]
    assert [text for text, times in traffic.counted.done.items() if times != 1] == []
    return back


def test_nothing_is_lost_or_done_twice_over_five_restarts_of_the_relay(house: Relay) -> None:
    assert len(_restarts(house, 5)) == 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_everybody_is_back_within_five_seconds_after_each_of_a_hundred_restarts(house: Relay) -> None:
    back = _restarts(house, 100)
    print(f"back after {sum(back) / len(back):.2f} s, {max(back):.2f} s at most")
    assert [seconds for seconds in back if seconds > SOON] == []


def _cuts(house: Relay, count: int) -> None:
    counted = Counted()
    with wire(house.address) as bad, house.hub() as hub, Link(through(house.joined("worker", "w1"), bad)) as link:
        hub.serve("ask", counted)
        stop = threading.Event()

        def cut() -> None:
            while bad.passed <= count and not stop.is_set():
                bad.reset()
                stop.wait(0.02)
                until(lambda: link.is_up or stop.is_set())

        thread = threading.Thread(target=cut)
        thread.start()
        asked = 0
        while bad.passed <= count:
            text = f"{asked}".encode()
            assert link.request("ask", text, 60) == b"did " + text
            link.publish("log", "job", f"{asked}", text, 60)
            asked += 1
        stop.set()
        thread.join()
        assert [each.payload for each in hub.follow("log", patience=0.5)] == [f"{number}".encode() for number in range(asked)]
        assert counted.done == {f"{number}".encode(): 1 for number in range(asked)}


def test_nothing_is_lost_or_done_twice_when_the_wire_is_cut_again_and_again(house: Relay) -> None:
    _cuts(house, 10)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_is_lost_or_done_twice_over_a_thousand_cuts(house: Relay) -> None:
    _cuts(house, 1000)


def test_a_request_that_was_cut_after_it_was_done_gets_the_answer_that_was_given(house: Relay) -> None:
    counted = Counted()
    with wire(house.address) as bad, house.hub() as hub, Link(through(house.joined("worker", "w1"), bad)) as link:
        hub.serve("ask", counted)
        link.request("ask", b"first")
        bad.swallow = frozenset({"back"})
        found: list[bytes] = []
        thread = threading.Thread(target=lambda: found.append(link.request("ask", b"second", 60)))
        thread.start()
        assert until(lambda: counted.done.get(b"second") == 1)
        bad.swallow = frozenset()
        bad.reset()
        thread.join()
    assert (found, counted.done) == ([b"did second"], {b"first": 1, b"second": 1})


def test_a_request_that_its_hub_took_along_is_answered_by_the_next_hub(house: Relay) -> None:
    found, asked, done = queue.SimpleQueue[bytes](), threading.Event(), threading.Event()

    def never(_who: object, _payload: bytes) -> bytes:
        asked.set()
        done.wait()
        return b"of the first"

    with contextlib.ExitStack() as stack:
        stack.callback(done.set)
        link = stack.enter_context(Link(house.joined("worker", "left")))
        with house.hub() as first:
            first.serve("ask", never)
            thread = threading.Thread(target=lambda: found.put(link.request("ask", b"", 60)))
            thread.start()
            assert asked.wait(60)
        second = stack.enter_context(house.hub())
        second.serve("ask", lambda _who, _payload: b"of the second")
        thread.join()
    assert found.get_nowait() == b"of the second"


def test_a_request_that_takes_long_is_done_once(house: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overnight.hub.asking._SILENCE", 0.02)
    monkeypatch.setattr("overnight.hub.sessions.KEPT", 2)
    found, count, go_on = queue.SimpleQueue[bytes](), [], threading.Event()

    def slow(_who: object, payload: bytes) -> bytes:
        count.append(payload)
        go_on.wait(60 if payload == b"long" else 0)
        return payload

    with house.hub() as hub, Link(house.joined("worker", "patient")) as link:
        hub.serve("ask", slow)
        thread = threading.Thread(target=lambda: found.put(link.request("ask", b"long", 60)))
        thread.start()
        assert until(lambda: count == [b"long"])
        sessions = hub._answerer._sessions.alive("patient", 0.0)
        for _ in range(5):
            link.request("ask", b"short")
        heard = max(each.heard for each in sessions)
        assert until(lambda: max(each.heard for each in sessions) > heard + 4)  # it was asked after
        go_on.set()
        thread.join()
    assert (found.get_nowait(), count) == (b"long", [b"long", *[b"short"] * 5])


@pytest.mark.parametrize("way", ["there", "back"])
def test_a_wire_that_passes_one_way_only_is_noticed(house: Relay, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overnight.hub.dial.PING", 0.3)
    with wire(house.address) as bad, Link(through(house.joined("worker", "w1"), bad)) as link:
        bad.swallow = frozenset({way})
        assert until(lambda: not link.is_up)
        bad.swallow = frozenset()
        bad.reset()
        assert until(lambda: link.is_up)


def test_a_request_into_a_black_hole_ends_when_its_time_is_over(house: Relay) -> None:
    with wire(house.address) as bad, house.hub() as hub, Link(through(house.joined("worker", "w1"), bad)) as link:
        hub.serve("ask", Counted())
        link.request("ask", b"x")
        bad.swallow = frozenset({"there", "back"})
        with pytest.raises(UnreachableError, match="has not answered within 1 seconds") as found:
            link.request("ask", b"y", 1.0)
        bad.reset()
    assert found.value.exit_code == 7


def test_a_relay_behind_a_black_hole_is_unreachable_within_seconds(house: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overnight.hub.dial.PATIENCE", 1.0)
    found = house.joined("worker", "w1")
    with wire(house.address) as bad:
        bad.swallow = frozenset({"there", "back"})
        with pytest.raises(UnreachableError, match="no answer within 1 seconds"):
            Link(through(found, bad))


def test_who_does_not_read_at_all_slows_nobody_and_gets_all_in_the_end(house: Relay) -> None:
    asked, found = queue.SimpleQueue[str](), list[bytes]()

    def answer(who: Peer, payload: bytes) -> bytes:
        asked.put(who.name)
        return payload * 1000

    with wire(house.address) as bad, house.hub() as hub:
        slow, quick = Link(through(house.joined("client", "slow"), bad)), Link(house.joined("client", "quick"))
        with slow, quick:
            hub.serve("ask", answer)
            slow.request("ask", b"1")
            bad.stall = frozenset({"back"})
            thread = threading.Thread(target=lambda: found.append(slow.request("ask", b"2" * 300, 60)))
            thread.start()
            assert [asked.get(timeout=60) for _ in range(2)] == ["slow", "slow"]
            answers, meanwhile = {quick.request("ask", b"3") for _ in range(50)}, list(found)
            bad.stall = frozenset()
            thread.join()
    assert (answers, meanwhile, found) == ({b"3" * 1000}, [], [b"2" * 300_000])


def test_a_patient_link_comes_up_when_its_relay_does(house: Relay) -> None:
    found = house.joined("worker", "w1")
    house.end()
    with Link(found, patient=True) as link:
        before = link.is_up
        house.start()
        assert (before, until(lambda: link.is_up)) == (False, True)


def test_a_link_is_closed_at_once_also_while_its_relay_is_away(house: Relay) -> None:
    link = Link(house.joined("worker", "w1"))
    house.end()
    assert until(lambda: not link.is_up)
    waiting: list[BaseException] = []

    def ask() -> None:
        try:
            link.request("ask", b"", 60)
        except UnreachableError as exc:
            waiting.append(exc)

    thread = threading.Thread(target=ask)
    thread.start()
    link.close()
    thread.join(60)
    assert len(waiting) == 1


def test_what_was_stored_is_there_after_the_relay_was_killed(house: Relay) -> None:
    with Link(house.joined("worker", "w1")) as link:
        for number in range(20):
            link.publish("evt", "job", f"{number}", f"{number}".encode())
    house.kill()
    house.start(enrolling=False)
    with house.hub() as hub:
        assert [each.payload for each in hub.follow("evt", patience=0.5)] == [f"{number}".encode() for number in range(20)]


@pytest.mark.parametrize(("outage", "least", "most"), [(0.0, 0.2, 0.2), (1.0, 0.25, 0.5), (8.0, 2.0, 4.0), (3600.0, 15.0, 30.0)])
def test_pauses_grow_with_the_outage_and_differ(outage: float, least: float, most: float) -> None:
    assert (keeper.pause(outage, 0.0), keeper.pause(outage, 1.0)) == (least, most)
