"""The hub over a relay: its words carried as sealed requests, both sides.

One verb carries every word of ``queue.wire``, so that whoever runs the relay cannot even tell a claim from a submit but by its size.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from overnight.app import courier, joining
from overnight.app import hub as hubs
from overnight.app import relay as relays
from overnight.desk import Bell, Desk
from overnight.doorbell import Doorbell, ring
from overnight.queue.wire import LONGEST_WAIT, Counter, Remote, Role, Who, answer
from overnight.queue.words import Now
from overnight.store.queue import Queue
from overnight.workspace.parcels import Parcels

if TYPE_CHECKING:
    from overnight.hub.keys import Peer
    from overnight.hub.link import Link

VERB = "ask"
PATIENCE = LONGEST_WAIT + 15.0  # seconds; a claim may be parked
_LOOK = 0.25  # seconds after which who waits for a far hub looks again


def serve(link: Link, answered: Callable[[Who, bytes], bytes]) -> None:
    """Answer what workers and clients ask over the relay from now on; who asks is what the link vouches for."""

    def handle(who: Peer, data: bytes) -> bytes:
        return answered(Who(who.name, Role(who.kind)), data)

    link.serve(VERB, handle)


def remote(link: Link) -> Remote:
    """The hub on the other side of the relay: ``Hub``, ``Orders`` and ``Views`` in one."""
    return Remote(lambda data: link.request(VERB, data, PATIENCE))


def serve_hub(link: Link, desk: Counter, parcels: Parcels, place: hubs.HubPlace) -> None:
    """Let a desk answer over the relay from now on, with the code and the outputs of its jobs."""
    courier.Counterpart(link, desk, parcels, place.outputs).serve()
    serve(link, lambda who, data: answer(desk, who, data))


def start(environ: Mapping[str, str], hub: Path | None, relay: Path | None, say: Callable[[str], None]) -> None:
    """Serve the hub over the relay beside it until ^C or SIGTERM. Raises ``BusyError``, ``NotFoundError`` (no relay), ``UsageError``."""
    asked = threading.Event()
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with open_hub(environ, hub, relay) as link:
            say(
                f"the hub {hubs.locate(hub, environ).folder} answers"
                if link.is_up
                else "the hub waits for the relay: overnight relay start"
            )
            asked.wait()
        say("the hub has ended; workers go on with what they run")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def open_hub(environ: Mapping[str, str], hub: Path | None, relay: Path | None) -> Iterator[Link]:
    """The hub, answering over the relay while this lasts. Raises ``BusyError``, ``NotFoundError``, ``UsageError``."""
    relays.folder(environ, relay).relay()  # says it when there is none
    place = hubs.locate(hub, environ)
    place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        tell = stack.enter_context(relays.held(place.folder / hubs.SERVING))
        tell({"pid": os.getpid(), "relay": str(relays.folder(environ, relay).path)})
        queue = stack.enter_context(contextlib.closing(Queue(place.database)))
        parcels = stack.enter_context(contextlib.closing(Parcels(place.code)))
        link = stack.enter_context(joining.hub_linked(environ, relay, patient=True))
        wait = stack.enter_context(_woken(place, lambda: link.control_all("worker", b"stop")))
        bell = Bell(lambda kind: ring(place.wake, kind), wait)
        desk = Desk(
            queue,
            lambda: Now(hubs.clock(), time.time()),
            bell,
            lease=hubs.lease_of(environ),
            era=hubs.boot(),
            restarted=True,
            revoked=hubs.cut_off(place),
        )
        serve_hub(link, desk, parcels, place)
        yield link


@contextlib.contextmanager
def far(environ: Mapping[str, str], kind: str) -> Iterator[hubs.Reached]:
    """The hub of the relay that this machine has joined as a ``kind``. Raises ``UnreachableError``, ``NotAllowedError``, ``UsageError``."""
    with joining.linked(environ, kind, patient=kind == "worker") as link:
        place = hubs.HubPlace(relays.state_folder(environ, f"far-{hashlib.sha256(f'{link.hub} {link.name}'.encode()).hexdigest()[:12]}"))
        place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if kind == "worker":
            link.on_control(lambda _payload: ring(place.wake, "stop"))
        yield hubs.Reached(
            remote(link), place, lambda seconds: time.sleep(max(0.0, min(seconds, _LOOK))), environ, courier.member(link),
            link.name if kind == "worker" else "", lambda owner: joining.check_allowed(environ, owner),
            lambda: joining.welcome(environ), "" if kind == "worker" else link.name,
        )  # fmt: skip


@contextlib.contextmanager
def _woken(place: hubs.HubPlace, stop: Callable[[], object]) -> Iterator[Callable[[float], object]]:
    """A wait that a ring ends for all who wait at once; and what is to be done when something must end."""
    ended, come = threading.Event(), threading.Condition()

    def listen(bell: Doorbell, then: Callable[[], object]) -> None:
        while not ended.is_set():
            if bell.wait(1.0):
                then()

    def wake() -> None:
        with come:
            come.notify_all()

    def wait(seconds: float) -> object:
        with come:
            return come.wait(seconds)

    with Doorbell(place.wake, "claim") as claims, Doorbell(place.wake, "stop") as stops:
        threads = [threading.Thread(target=listen, args=pair, daemon=True) for pair in ((claims, wake), (stops, stop))]
        for thread in threads:
            thread.start()
        try:
            yield wait
        finally:
            ended.set()
            for thread in threads:
                thread.join()
