"""What a member, a stranger and whoever runs the relay cannot do. The relay is a real one; members speak to it as rudely as the library lets them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overnight.errors import NotAllowedError, OvernightError, UnreachableError
from overnight.hub import certificates, steering
from overnight.hub.credentials import Credentials
from overnight.hub.dial import Client, dial, hang_up
from overnight.hub.keys import new_identity
from overnight.hub.link import Link
from overnight.hub.seal import Head, Seal
from relays import Relay, relay, until

SECRET = b"the-weights-of-the-night"


@pytest.fixture(scope="module")
def house() -> Iterator[Relay]:
    with relay() as found:
        yield found


@pytest.fixture(scope="module")
def hub(house: Relay) -> Iterator[Link]:
    with house.hub() as found:
        yield found


@pytest.fixture(scope="module")
def one(house: Relay) -> Credentials:
    return house.joined("worker", "one")


@pytest.fixture(scope="module")
def laptop(house: Relay) -> Credentials:
    return house.joined("client", "laptop")


@pytest.fixture(scope="module", autouse=True)
def two(house: Relay) -> Credentials:
    return house.joined("worker", "two")


def over(found: Credentials, work: Callable[[Client], Coroutine[Any, Any, Any]], *, refused: bool = False) -> list[str]:
    """Do something on a bare connection; returns what the server has said against it, which is waited for when it must come."""

    async def all_of_it() -> list[str]:
        said: list[str] = []
        complained = asyncio.Event()

        async def complain(exc: Exception) -> None:
            said.append(str(exc))
            complained.set()

        client = await dial(found, lambda: None)
        client._error_cb = complain
        try:
            await work(client)
            await client.flush()
            if refused:
                await asyncio.wait_for(complained.wait(), 60)
        finally:
            await hang_up(client)
        return said

    return asyncio.run(all_of_it())


def noting(done: list[bytes]) -> Callable[[object, bytes], bytes]:
    """A handler that remembers what it was asked."""

    def handle(_who: object, payload: bytes) -> bytes:
        done.append(payload)
        return b""

    return handle


@pytest.mark.parametrize(
    "subject",
    ["hub.two.ask", "hub.hub.ask", "log.two.job", "evt.two.job", "obj.CODE.two.hub.x.0", "_INBOX.two.abc", "ctl.two", "ctl.one", "enrol.guest", "x", "$SYS.REQ.SERVER.PING"],
)  # fmt: skip
def test_a_worker_cannot_speak_for_others(one: Credentials, subject: str) -> None:
    said = over(one, lambda client: client.publish(subject, b"forged"), refused=True)
    assert [line.lower() for line in said] == [f'nats: permissions violation for publish to "{subject.lower()}"']


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.API.STREAM.DELETE.EVT", "$JS.API.STREAM.PURGE.LOG", "$JS.API.STREAM.MSG.GET.EVT", "$JS.API.STREAM.INFO.EVT", "$JS.API.CONSUMER.CREATE.LOG",
        "$JS.API.STREAM.CREATE.MINE", "$JS.API.DIRECT.GET.LOG", "$JS.API.DIRECT.GET.EVT.evt.two.job", "$JS.API.DIRECT.GET.OBJ",
        "$JS.API.DIRECT.GET.OBJ.obj.CODE.hub.two.abc.list", "$JS.API.DIRECT.GET.OBJ.obj.CODE.two.hub.abc.list",
    ],
)  # fmt: skip
def test_a_worker_cannot_read_or_change_what_others_have_stored(one: Credentials, subject: str) -> None:
    said = over(one, lambda client: client.publish(subject, b"{}", reply="_INBOX.one.x"), refused=True)
    assert [line.lower() for line in said] == [f'nats: permissions violation for publish to "{subject.lower()}"']


@pytest.mark.parametrize("subject", [">", "*.>", "hub.>", "hub.two.*", "ctl.two", "ctl.*", "log.>", "evt.two.>", "_INBOX.>", "_INBOX.two.>", "enrol.*", "$SYS.>", "$JS.>"])  # fmt: skip
def test_a_worker_cannot_listen_to_others(one: Credentials, subject: str) -> None:
    said = over(one, lambda client: client.subscribe(subject), refused=True)
    assert "permissions violation for subscription" in said[0].lower()


@pytest.mark.parametrize("subject", ["log.laptop.job", "evt.laptop.job"])
def test_a_client_cannot_publish_what_only_workers_do(laptop: Credentials, subject: str) -> None:
    assert "permissions violation" in over(laptop, lambda client: client.publish(subject, b"x"), refused=True)[0].lower()


def test_an_answer_is_not_sent_where_the_asker_may_not_write(hub: Link, one: Credentials, two: Credentials) -> None:
    hub.serve("ask", lambda _who, payload: payload)
    heard: list[bytes] = []

    async def work(client: Client) -> None:
        data = Seal(one.identity, one.hub).close(Head("ask hello", sequence=1, mark=os.urandom(16)), bytes(16))
        await client.publish("hub.one.hello", data, reply="ctl.two")
        await client.publish("hub.one.hello", data, reply="hub.two.ask")

    async def listen(client: Client) -> None:
        subscribed = await client.subscribe("ctl.two")
        await client.flush()
        await asyncio.to_thread(over, one, work)
        with Link(one) as proper:
            await asyncio.to_thread(proper.request, "ask", b"")  # the hub has seen the others by now
        with contextlib.suppress(Exception):
            heard.append((await subscribed.next_msg(0.2)).data)

    over(two, listen)
    assert heard == []


def test_nobody_comes_in_without_credentials(one: Credentials) -> None:
    nobody = replace(one, claims="")
    with pytest.raises(NotAllowedError, match="does not let this machine in"):
        over(nobody, lambda client: client.flush())


def test_claims_are_of_no_use_without_their_key(one: Credentials) -> None:
    thief = replace(one, identity=new_identity("one", "worker"))
    with pytest.raises(NotAllowedError, match="does not let this machine in"):
        over(thief, lambda client: client.flush())


def test_claims_signed_by_another_relay_are_refused(one: Credentials, tmp_path: Any) -> None:
    other = Relay(tmp_path / "other")
    foreign = steering.beside(other.folder, "hub", time.time())
    with pytest.raises(NotAllowedError, match="does not let this machine in"):
        over(replace(one, claims=foreign.claims, identity=foreign.identity), lambda client: client.flush())


def test_a_relay_with_another_authority_is_not_trusted(one: Credentials) -> None:
    other = certificates.authority(time.time()).certificate.decode()
    with pytest.raises(NotAllowedError, match="is not the relay that this machine has joined"):
        Link(replace(one, authority=other))


def test_the_system_does_not_trust_the_relays_own_authority(one: Credentials) -> None:
    with pytest.raises(NotAllowedError, match="is not the relay"):
        Link(replace(one, authority=""))


def test_a_relay_is_not_spoken_to_without_encryption(one: Credentials) -> None:
    with pytest.raises(UnreachableError):
        Link(replace(one, address=one.address.replace("wss:", "ws:")))


def test_a_member_cannot_come_by_the_hubs_door(house: Relay, one: Credentials) -> None:
    with pytest.raises(NotAllowedError, match="does not let this machine in"):
        Link(replace(one, address=f"nats://127.0.0.1:{house.folder.relay().local}"))


def test_the_hubs_credentials_are_of_no_use_from_outside(house: Relay, one: Credentials) -> None:
    hub = steering.beside(house.folder, "hub", time.time())
    with pytest.raises(NotAllowedError, match="does not let this machine in"):
        Link(replace(hub, address=one.address, authority=one.authority))


def test_the_hubs_door_is_on_the_loopback_alone(house: Relay) -> None:
    port = house.folder.relay().local
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A"]
    assert [address for address in listening if int(address.split(":")[1], 16) == port] == [f"0100007F:{port:04X}"]


def test_who_is_cut_off_is_gone_at_once_and_stays_away(house: Relay, hub: Link) -> None:
    hub.serve("ask", lambda _who, payload: payload)
    found = house.joined("worker", "bad")
    with Link(found) as link:
        assert link.request("ask", b"1") == b"1"
        house.revoke("bad")
        assert until(lambda: not link.is_up)
        with pytest.raises(NotAllowedError, match="does not let this machine in"):
            link.request("ask", b"2")
    with pytest.raises(NotAllowedError, match="does not let this machine in"):
        Link(found)


def test_cutting_one_off_does_not_touch_the_others(house: Relay, hub: Link, two: Credentials) -> None:
    hub.serve("ask", lambda _who, payload: payload)
    house.joined("worker", "worse")
    with Link(two) as link:
        link.request("ask", b"1")
        house.revoke("worse")
        assert (link.is_up, link.request("ask", b"2")) == (True, b"2")


def test_a_name_may_be_given_again_and_the_old_key_stays_out(house: Relay, hub: Link) -> None:
    hub.serve("ask", lambda who, _payload: who.sign.encode())
    old = house.joined("worker", "again")
    house.revoke("again")
    new = house.joined("worker", "again")
    with Link(new) as link:
        assert link.request("ask", b"") == new.identity.peer().sign.encode()
    with pytest.raises(NotAllowedError):
        Link(old)


def _listening(house: Relay, subject: str, work: Callable[[], object]) -> list[tuple[str, bytes]]:
    """What whoever runs the relay sees on a subject while something is done."""
    found: list[tuple[str, bytes]] = []

    async def listen(client: Client) -> None:
        async def hear(message: Any) -> None:
            found.append((message.subject, message.data))

        await client.subscribe(subject, cb=hear)
        await client.flush()
        await asyncio.to_thread(work)
        await client.flush()

    over(steering.beside(house.folder, "hub", time.time()), listen)
    return found


def _pushed(found: Credentials, subject: str, data: bytes) -> bytes | None:
    """What comes back when bytes are put on a subject under a member's name."""
    back: list[bytes] = []

    async def work(client: Client) -> None:
        with contextlib.suppress(Exception):
            back.append((await client.request(subject, data, timeout=0.3)).data)

    over(found, work)
    return back[0] if back else None


def test_a_request_that_is_played_again_is_not_done_again(house: Relay, hub: Link, one: Credentials) -> None:
    done: list[bytes] = []
    hub.serve("ask", noting(done))
    with Link(one) as link:
        seen = _listening(house, "hub.one.*", lambda: [link.request("ask", b"a"), link.request("ask", b"b")])
        for subject, data in seen:
            _pushed(one, subject, data)
        assert (done, link.request("ask", b"c"), done) == ([b"a", b"b", b"c"], b"", [b"a", b"b", b"c"])


def test_requests_in_another_order_are_refused(hub: Link, one: Credentials) -> None:
    done: list[bytes] = []
    hub.serve("ask", noting(done))
    with Link(one) as link:
        link.request("ask", b"first")
        session = link._asker._session
        seal = Seal(one.identity, one.hub)
        later, sooner = (
            seal.close(Head("ask ask", session, number, os.urandom(16)), text) for number, text in ((900, b"later"), (899, b"sooner"))
        )
        _pushed(one, "hub.one.ask", later)
        _pushed(one, "hub.one.ask", sooner)
    assert done == [b"first", b"later"]


def test_a_request_of_one_verb_is_no_request_of_another(hub: Link, one: Credentials) -> None:
    done: list[bytes] = []
    hub.serve("ask", lambda _who, _payload: b"")
    hub.serve("cancel", noting(done))
    with Link(one) as link:
        link.request("ask", b"")
        data = Seal(one.identity, one.hub).close(Head("ask ask", link._asker._session, 900, os.urandom(16)), b"")
        assert (_pushed(one, "hub.one.cancel", data), done) == (None, [])


def test_what_was_said_to_a_hub_that_was_started_again_is_worth_nothing() -> None:
    done: list[bytes] = []
    with relay() as house:
        one = house.joined("worker", "one")
        with house.hub() as first, Link(one) as link:
            first.serve("ask", lambda _who, payload: payload)
            seen = _listening(house, "hub.one.*", lambda: link.request("ask", b"x"))
        with house.hub() as second:
            second.serve("ask", noting(done))
            for _, data in seen:
                _pushed(one, "hub.one.ask", data)
    assert done == []


def test_whoever_runs_the_relay_reads_nothing(house: Relay, hub: Link, one: Credentials) -> None:
    hub.serve("ask", lambda _who, payload: payload + SECRET)

    def everything() -> None:
        with Link(one) as link:
            link.on_control(lambda _payload: None)
            link.request("ask", SECRET)
            link.publish("log", "job", "secret-1", SECRET)
            link.publish("evt", "job", "secret-1", SECRET)
            link.put("ART", SECRET.decode(), SECRET)
            hub.put("CODE", SECRET.decode(), SECRET, to="one")
            hub.control("one", SECRET)

    seen = [pair for subject in ("hub.*.*", "log.>", "evt.>") for pair in _listening(house, subject, everything)]
    kept = b"".join(path.read_bytes() for path in house.folder.streams.rglob("*") if path.is_file())
    assert (len(seen) >= 4, [subject for subject, data in seen if SECRET in data], SECRET in kept) == (True, [], False)


def test_a_worker_who_publishes_unsealed_events_is_not_heard(hub: Link, one: Credentials) -> None:
    def work(client: Client) -> Coroutine[Any, Any, Any]:
        return client.jetstream().publish("evt.one.forged", b"SUCCEEDED")

    over(one, work)
    with Link(one) as link:
        link.publish("evt", "forged", "1", b"true")
    assert [each.payload for each in hub.follow("evt.one.forged", patience=0.3)] == [b"true"]


def test_ten_thousand_frames_of_garbage_do_not_hurt_the_hub(hub: Link, one: Credentials) -> None:
    hub.serve("ask", lambda _who, payload: payload)
    sealed = Seal(one.identity, one.hub).close(Head("ask ask"), b"x" * 40)

    async def work(client: Client) -> None:
        for number in range(10_000):
            cut = number % len(sealed)
            data = [os.urandom(number % 300), sealed[:cut], sealed[:cut] + bytes([sealed[cut] ^ 1]) + sealed[cut + 1 :], b"\1" * cut][
                number % 4
            ]
            await client.publish(f"hub.one.{'ask' if number % 3 else 'hello'}", data, reply=f"_INBOX.one.{number}")

    assert over(one, work) == []
    with Link(one) as link:
        assert link.request("ask", b"well") == b"well"


def test_secrets_are_not_printed_by_accident(one: Credentials) -> None:
    told = f"{one!r} {one.identity} {[one]}"
    assert [secret for secret in (one.identity.seed, one.identity.box) if secret in told] == []


def test_a_slow_member_slows_nobody(hub: Link, one: Credentials, two: Credentials) -> None:
    """One asks for megabytes and does not read them: its answers are dropped with its connection."""
    hub.serve("ask", lambda _who, payload: payload)
    hub.serve("much", lambda _who, _payload: bytes(2**20))
    stuck, answered = threading.Event(), queue.SimpleQueue[bytes]()

    async def work(client: Client) -> None:
        seal, session = Seal(one.identity, one.hub), b""
        answer = await client.request(
            "hub.one.hello", seal.close(Head("ask hello", sequence=1, mark=os.urandom(16)), bytes(16)), timeout=10
        )
        session = seal.open(answer.data)[1][1:17]
        for number in range(1, 40):
            await client.publish("hub.one.much", seal.close(Head("ask much", session, number, os.urandom(16)), b""), reply="_INBOX.one.x")
        await client.flush()
        stuck.set()
        time.sleep(0.5)  # noqa: ASYNC251 - the loop does not read meanwhile: that is what is tried

    def be_slow() -> None:
        with contextlib.suppress(OvernightError, Exception):
            over(one, work)

    thread = threading.Thread(target=be_slow)
    thread.start()
    assert stuck.wait(60)
    with Link(two) as link:
        answered.put(link.request("ask", b"quick"))
    thread.join()
    assert answered.get() == b"quick"
