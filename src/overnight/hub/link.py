"""The link to a relay, for everybody who is not asynchronous: requests and answers, streams, pushes, objects, all sealed.

A link comes back by itself after whatever has broken it. Carries bytes and never looks into them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from overnight.errors import NotFoundError, OvernightError
from overnight.hub import streams
from overnight.hub.asking import Answerer, Asker, Handler, too_large
from overnight.hub.credentials import Credentials
from overnight.hub.keeper import Keeper, Message
from overnight.hub.keys import Peer
from overnight.hub.limits import PAYLOAD
from overnight.hub.loop import Loop
from overnight.hub.objects import Objects
from overnight.hub.seal import Head, Seal, SealError

_HANDLERS = 128  # threads, made when they are needed; a parked request holds one
_WAIT = 30.0


@dataclass(frozen=True, slots=True)
class Record:
    """One message of a stream: its number there (from 1, growing, the same for ever), who published it, on what subject, under what id."""

    sequence: int
    who: str
    subject: str
    message_id: str
    payload: bytes


class Link:
    """A party's connection to its relay; ``name`` is its own, ``hub`` the hub's public key. Every method may be called by any thread; close it when done."""

    def __init__(self, found: Credentials, peers: Callable[[str], Peer | None] | None = None, *, patient: bool = False) -> None:
        """Come up, or raise ``UnreachableError`` or ``NotAllowedError``. ``peers`` are the members' keys, for a hub.

        ``patient`` returns though the relay is not reached, and keeps trying.
        """
        self.name, self.hub = found.name, found.hub.sign
        self._own = found.identity
        self._peers = peers or {found.hub.name: found.hub}.get
        self._pool = ThreadPoolExecutor(_HANDLERS, thread_name_prefix="hub-handler")
        self._closed = threading.Event()
        self._loop = Loop(f"relay-{found.name}")
        self._keeper = Keeper(found)
        self._asker = Asker(self._keeper, Seal(found.identity, found.hub), found.name)
        self._answerer = Answerer(self._keeper, found.identity, self._peers, self._pool)
        self._objects: dict[str, tuple[Peer, Objects]] = {}
        try:
            self._loop.run(self._keeper.start(patient=patient))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def is_up(self) -> bool:
        """Whether the relay is reached now."""
        return self._keeper.is_up

    @property
    def trouble(self) -> OvernightError | None:
        """Why the relay is not reached now; None while it is."""
        return self._keeper.trouble

    def request(self, verb: str, payload: bytes, timeout: float = _WAIT) -> bytes:
        """What the hub answers to a request of at most a mebibyte. Raises ``UnreachableError`` (exit code 7), ``NotAllowedError`` (4), and what the hub raised.

        A request that is cut short is asked again and done once, unless the hub itself was restarted in between.
        """
        return self._loop.run(self._asker.ask(verb, payload, timeout))

    def serve(self, verb: str, handler: Handler) -> None:
        """Answer a verb: ``handler(who, payload) -> bytes`` is called in threads, with the name and kind that relay and seal vouch for."""
        self.serve_all({verb: handler})

    def serve_all(self, handlers: Mapping[str, Handler]) -> None:
        """Answer several verbs; whoever asks meanwhile finds all of them, or nobody."""
        self._loop.run(self._answerer.serve(handlers))

    def control(self, name: str, payload: bytes) -> int:
        """Push something to a member; returns to how many of its processes. It may be lost: a push only saves time."""
        try:
            return self._loop.run(self._answerer.push(name, payload))
        except OvernightError:
            return 0

    def control_all(self, kind: str, payload: bytes) -> int:
        """Push something to every member of a kind (``worker``, ``client``)."""
        try:
            return self._loop.run(self._answerer.push_all(kind, payload))
        except OvernightError:
            return 0

    def on_control(self, heard: Callable[[bytes], object]) -> None:
        """Call ``heard`` in a thread with what the hub pushes from now on."""

        async def come(message: Message) -> None:
            payload = self._asker.hear(message)
            if payload is not None:
                with contextlib.suppress(RuntimeError):  # while it is being closed
                    self._pool.submit(heard, payload)

        async def begin() -> None:
            await self._keeper.listen(f"ctl.{self.name}", "", come)
            if self._keeper.is_up:  # else the first request makes us known
                await self._asker.greet()

        self._loop.run(begin())

    def publish(self, stream: str, tail: str, message_id: str, payload: bytes, timeout: float = _WAIT) -> int:
        """Put a message on ``stream`` (log or evt) under ``stream.<own name>.<tail>``; returns its number once it is on the relay's disk.

        One that is published twice within ten minutes is there once. Raises ``UnreachableError`` and ``StorageError``.
        """
        if len(payload) > PAYLOAD:
            raise too_large(len(payload))
        subject = streams.check_subject(f"{stream}.{self.name}.{tail}")
        data = self._asker.seal.close(Head(_what(subject, streams.check_id(message_id))), payload)
        return self._loop.run(streams.publish(self._keeper, subject, f"{subject} {message_id}", data, timeout))

    def follow(self, subject: str, since: int = 1, patience: float | None = None) -> Generator[Record]:
        """Messages from number ``since`` on, in order and without a gap, for ever; for the hub.

        ``subject`` is a stream (``evt``) or what lies below (``evt.<worker>.<job>``). Ends when the link is closed, or when nothing has come for
        ``patience`` seconds. What was not sealed by the worker that its subject names is passed over.
        """
        follower = streams.Follower(self._keeper, subject, since)
        try:
            while not self._closed.is_set():
                found = self._loop.run(follower.more(min(patience, 1.0) if patience is not None else 1.0))
                if not found and patience is not None:
                    if patience <= 1.0:
                        return
                    found = self._loop.run(follower.more(patience - 1.0))
                    if not found:
                        return
                yield from filter(None, map(self._opened, found))
        finally:
            if not self._closed.is_set():
                self._loop.run(follower.stop())

    def trim(self, stream: str, below: int) -> None:
        """Let the relay forget messages below a number, because they are kept elsewhere."""
        self._loop.run(streams.trim(self._keeper, stream, below))

    def put(self, bucket: str, name: str, source: bytes | Path, to: str = "hub", timeout: float = _WAIT) -> None:
        """Hand bytes or a file over to the hub, or to a member if one is the hub; ``timeout`` is for each piece of 512 KiB."""
        self._loop.run(self._between(to).put(bucket, name, source, timeout))

    def get(self, bucket: str, name: str, target: Path | None = None, source: str = "hub", timeout: float = _WAIT) -> bytes:
        """What ``source`` has handed over under this name, as bytes, or written to ``target``. Raises ``NotFoundError``."""
        return self._loop.run(self._between(source).get(bucket, name, target, timeout))

    def close(self) -> None:
        """Hang up; what is under way fails."""
        if not self._closed.is_set():
            self._closed.set()
            self._loop.run(self._keeper.close())
            self._loop.close()
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _between(self, name: str) -> Objects:
        peer = self._peers(name)
        if peer is None:
            raise NotFoundError("E-NO-MEMBER", f"'{name[:80]}' has not joined this relay", fix="overnight relay status")
        held = self._objects.get(name)
        if held is None or held[0] != peer:
            held = self._objects[name] = (peer, Objects(self._keeper, self._own, peer, Seal(self._own, peer)))
        return held[1]

    def _opened(self, found: streams.Stored) -> Record | None:
        who = found.subject.split(".")[1]
        seal = self._answerer.seal(who)
        message_id = found.message_id.partition(" ")[2]
        if seal is None:
            return None
        try:
            head, payload = seal.open(found.data)
        except SealError:
            return None
        return Record(found.sequence, who, found.subject, message_id, payload) if head.what == _what(found.subject, message_id) else None


def _what(subject: str, message_id: str) -> str:
    return f"{subject} {message_id}"[:255]
