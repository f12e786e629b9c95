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
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overnight.app import courier, handed, joining, keeping, pruning
from overnight.app import hub as hubs
from overnight.app import relay as relays
from overnight.desk import Bell, Desk
from overnight.doorbell import Doorbell, ring
from overnight.errors import OvernightError
from overnight.queue.wire import LONGEST_WAIT, Counter, Remote, Role, Who, answer
from overnight.queue.words import Query
from overnight.workspace.parcels import Parcels

if TYPE_CHECKING:
    from overnight.hub.keys import Peer
    from overnight.hub.link import Link

VERB = "ask"
PATIENCE = LONGEST_WAIT + 15.0  # seconds; a claim may be parked
_WORKER = 15.0  # seconds; a worker parks its claims for one, tries everything again, and may be asked to leave meanwhile
_LOOK = 0.25  # seconds after which who waits for a far hub looks again, where it is not told
_RATE, _BURST = 20, 20.0  # looks a second at a hub where much happens; so many may follow at once
_KNOWN = 1000  # marks of what threads have seen


def serve(link: Link, answered: Callable[[Who, bytes], bytes], also: Mapping[str, Callable[[Peer, bytes], bytes]] | None = None) -> None:
    """Answer what workers and clients ask over the relay from now on; who asks is what the link vouches for. ``also`` are further verbs."""

    def handle(who: Peer, data: bytes) -> bytes:
        return answered(Who(who.name, Role(who.kind)), data)

    link.serve_all({**(also or {}), VERB: handle})


def remote(link: Link, patience: float = PATIENCE) -> Remote:
    """The hub on the other side of the relay: ``Hub``, ``Orders`` and ``Views`` in one; no answer within ``patience`` seconds is none."""
    return Remote(lambda data: link.request(VERB, data, patience))


def serve_hub(link: Link, desk: Counter, parcels: Parcels, place: hubs.HubPlace) -> None:
    """Let a desk answer over the relay from now on, with the code and the outputs of its jobs."""
    handed.sweep(place.handed)
    carried = courier.Counterpart(link, desk, parcels, (place.outputs, place.handed))
    serve(link, lambda who, data: answer(desk, who, data), carried.verbs())


def start(environ: Mapping[str, str], hub: Path | None, relay: Path | None, store: str, say: Callable[[str], None]) -> None:
    """Serve the hub over the relay beside it until ^C or SIGTERM. Raises what ``open_hub`` raises."""
    keeping.check_named(store)
    asked = threading.Event()
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with open_hub(environ, hub, relay, store) as (link, place):
            say(f"the hub {place} answers" if link.is_up else "the hub waits for the relay: overnight relay start")
            _say_left(hubs.locate(hub, environ).folder, place, say)
            asked.wait()
        say("the hub has ended; workers go on with what they run")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_left(folder: Path, place: str, say: Callable[[str], None]) -> None:
    """Say which jobs the hub had in its own file before its queue was elsewhere."""
    if place != str(folder) and (count := keeping.left_behind(folder)):
        whose = f"{count} job{'s' * (count != 1)} of before, now over, stay{'s' * (count == 1)} in {folder / keeping.FILE}"
        say(f"{whose}: not listed any more, and removed when old by  overnight hub prune")


@contextlib.contextmanager
def open_hub(environ: Mapping[str, str], hub: Path | None, relay: Path | None, store: str = "") -> Iterator[tuple[Link, str]]:
    """The hub, answering over the relay while this lasts, and where its queue is. ``store``: the Postgres that keeps it.

    Raises ``BusyError``, ``NotFoundError``, ``UsageError``, ``UnreachableError``, ``NotAllowedError``.
    """
    relays.folder(environ, relay).relay()  # says it when there is none
    place = hubs.locate(hub, environ)
    place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(keeping.kept(place.folder, environ, store))
        over = str(relays.folder(environ, relay).path)
        if not kept.shared:
            tell = stack.enter_context(relays.held(place.folder / keeping.SERVING))
            tell({"pid": os.getpid(), "relay": over})
        parcels = stack.enter_context(contextlib.closing(Parcels(place.code)))
        link = stack.enter_context(joining.hub_linked(environ, relay, patient=True))
        wait = stack.enter_context(_woken(kept.bell, lambda: link.control_all("worker", b"stop")))
        desk = Desk(
            kept.queue, kept.now, Bell(kept.ring, wait, partial(kept.bell, "log")), lease=keeping.lease_of(environ), era=kept.era, restarted=True, revoked=hubs.cut_off(lambda: over),
        )  # fmt: skip
        serve_hub(link, desk, parcels, place)
        stack.enter_context(_tidied(environ, place.folder))
        yield link, kept.shared or str(place.folder)


@contextlib.contextmanager
def _tidied(environ: Mapping[str, str], folder: Path) -> Iterator[None]:
    """What is over since long goes every day while this lasts, if that is wanted. Raises ``UsageError``."""
    if not pruning.kept_for(environ):
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=pruning.daily, args=(environ, folder, ended.wait), name="pruning", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


@contextlib.contextmanager
def far(environ: Mapping[str, str], kind: str) -> Iterator[hubs.Reached]:
    """The hub of the relay that this machine has joined as a ``kind``. Raises ``UnreachableError``, ``NotAllowedError``, ``UsageError``."""
    with joining.linked(environ, kind, patient=kind == "worker") as link:
        place = hubs.HubPlace(relays.state_folder(environ, f"far-{hashlib.sha256(f'{link.hub} {link.name}'.encode()).hexdigest()[:12]}"))
        place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if kind == "worker":
            link.on_control(lambda _payload: ring(place.wake, "stop"))
        desk = remote(link, _WORKER if kind == "worker" else PATIENCE)
        yield hubs.Reached(
            desk, place, _News(desk),
            partial(Doorbell, place.wake), environ, courier.member(link),
            link.name if kind == "worker" else "", link.trouble, lambda owner: joining.check_allowed(environ, owner),
            lambda: joining.welcome(environ), "" if kind == "worker" else link.name,
        )  # fmt: skip


class _News:
    """Sleeps until a far hub has news of the jobs of a query since this thread slept last for them; without a query only a little."""

    def __init__(self, desk: Remote) -> None:
        self._desk = desk
        self._seen: dict[tuple[int, Query], str] = {}
        self._turn = threading.Lock()
        self._left, self._since = _BURST, time.monotonic()

    def __call__(self, seconds: float, query: Query | None = None) -> None:
        """Not longer than ``seconds``, unless the hub is asked in vain."""
        until = time.monotonic() + seconds
        time.sleep(max(0.0, min(seconds, self._owed() if query else _LOOK)))
        if query is None or (left := until - time.monotonic()) <= 0:
            return
        who = (threading.get_ident(), query)
        seen = found = self._seen.get(who, "")
        with contextlib.suppress(OvernightError):  # whoever looks next is told, or the hub is older than this question
            found = self._desk.news(query, seen, left)
        if found == seen and (left := until - time.monotonic()) > 0:  # nor does it keep everybody waiting who comes
            time.sleep(min(left, _LOOK))
        if len(self._seen) >= _KNOWN:
            self._seen.clear()
        self._seen[who] = found

    def _owed(self) -> float:
        """Seconds to wait, lest somebody who looks at what changes all the time keeps the hub busy."""
        with self._turn:
            now = time.monotonic()
            self._left, self._since = min(_BURST, self._left + (now - self._since) * _RATE) - 1, now
            return max(0.0, -self._left / _RATE)


@contextlib.contextmanager
def _woken(bells: Callable[[str], AbstractContextManager[Any]], stop: Callable[[], object]) -> Iterator[Callable[[float], object]]:
    """A wait that a ring ends for all who wait at once; and what is to be done when something must end."""
    ended, come, mine, rings = threading.Event(), threading.Condition(), threading.local(), 0

    def listen(bell: Any, then: Callable[[], object]) -> None:
        while not ended.is_set():
            if bell.wait(1.0):
                then()

    def wake() -> None:
        nonlocal rings
        with come:
            rings += 1
            come.notify_all()

    def wait(seconds: float) -> object:
        with come:  # a ring that came after this thread has looked, and before it waits, counts too
            rang = come.wait_for(lambda: rings != getattr(mine, "heard", 0), seconds)
            mine.heard = rings
            return rang

    with bells("claim") as claims, bells("stop") as stops:
        threads = [threading.Thread(target=listen, args=pair, daemon=True) for pair in ((claims, wake), (stops, stop))]
        for thread in threads:
            thread.start()
        try:
            yield wait
        finally:
            ended.set()
            for thread in threads:
                thread.join()
