"""Requests and answers over a kept connection: the member's side and the hub's.

A request that got no answer because the connection broke, or its hub is gone, is asked again under the same mark, and the hub gives the answer it gave:
what is asked once is done once, as long as that hub lives. Where several hubs serve one relay, any of them answers a member's hello and all that this
member asks from then on; when it is gone, another one does. Asynchronous. Must not know what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from typing import Any

import nats.errors

from overnight import errors
from overnight.errors import OvernightError, UnreachableError, UsageError
from overnight.hub.dial import Client
from overnight.hub.keeper import Keeper, Message
from overnight.hub.keys import Identity, Peer
from overnight.hub.limits import PAYLOAD
from overnight.hub.seal import NOBODY, Head, Seal, SealError
from overnight.hub.sessions import Session, Sessions

Handler = Callable[[Peer, bytes], bytes]
_DONE, _FAILED, _NO_SESSION, _STALE, _BUSY = b"\0", b"\1", b"\2", b"\3", b"\4"
_AT_ONCE = 64  # requests of one session under way
_BREATH = 0.2  # seconds before asking again where nobody listens
_ALIVE, _AT_WORK = "alive", b"\1"  # whether the hub still works on a request
_SILENCE = 2.0  # seconds without an answer after which it is asked that
_GRACE = 3.0  # seconds for a hub that does not listen to be there again, before another one is asked
_PLACE = re.compile(r"[0-9a-f]{16}")
_ABSENT = 15.0  # seconds for which a hub that is not there is waited for: it may just be started again


class Asker:
    """A member's requests to its hub."""

    def __init__(self, keeper: Keeper, seal: Seal, name: str) -> None:
        self._keeper, self.seal, self._name = keeper, seal, name
        self._session, self._sequence = NOBODY, 0
        self._place = ""  # the hub that has made the session
        self._ear, self._heard = os.urandom(16), 0
        self._greeting = asyncio.Lock()

    async def ask(self, verb: str, payload: bytes, patience: float) -> bytes:
        """The hub's answer. Raises ``UnreachableError``, ``NotAllowedError``, and what the hub raised."""
        if len(payload) > PAYLOAD:
            raise too_large(len(payload))
        loop = asyncio.get_running_loop()
        deadline, mark, absent = loop.time() + patience, os.urandom(16), 0.0
        while (left := deadline - loop.time()) > 0 and not (absent and loop.time() > absent + _ABSENT):
            try:
                if self._session == NOBODY or (absent and loop.time() - absent > _GRACE):
                    await self._hello(left, self._session)
                status, answer = await self._once(verb, mark, payload, deadline - loop.time())
            except (nats.errors.NoRespondersError, ConnectionError) as exc:
                if isinstance(exc, nats.errors.NoRespondersError):
                    absent = absent or loop.time()
                    await asyncio.sleep(min(_BREATH, left))
                continue
            except TimeoutError:
                break
            absent = 0.0
            if status == _NO_SESSION:
                self._session = NOBODY
            elif status == _BUSY:
                await asyncio.sleep(min(_BREATH, left))
            elif status != _STALE:
                return _opened(status, answer)
        raise _silence(patience, nobody=absent > 0)

    async def greet(self, patience: float = 5.0) -> None:
        """Make oneself known, so that the hub can push; that nobody answers is no trouble yet."""
        with contextlib.suppress(OvernightError, nats.errors.Error, ConnectionError, TimeoutError):
            await self._hello(patience, NOBODY)

    def hear(self, message: Message) -> bytes | None:
        """What the hub has pushed; None if it is not new, not for this process, or not of the hub."""
        try:
            head, payload = self.seal.open(message.data)
        except SealError:
            return None
        if head.what != "push" or head.session != self._ear or head.sequence <= self._heard:
            return None
        self._heard = head.sequence
        return payload

    async def _hello(self, patience: float, before: bytes) -> None:
        """A session instead of the one before, unless its hub was away only: that one knows what it has answered."""
        async with self._greeting:
            if self._session != before:
                return
            _, answer = await self._once("hello", os.urandom(16), self._ear, patience)
            place = answer[16:].decode("ascii", "replace")
            if before != NOBODY and place == self._place:
                return
            self._session, self._sequence, self._place = answer[:16], 0, place if _PLACE.fullmatch(place) else ""

    async def _once(self, verb: str, mark: bytes, payload: bytes, patience: float) -> tuple[bytes, bytes]:
        """One try; raises ``ConnectionError`` when the connection, or the hub, went meanwhile."""
        client = await self._keeper.client(patience)
        answer = asyncio.ensure_future(self._send(client, verb, mark, payload, patience))
        gone = asyncio.ensure_future(self._keeper.gone())
        waiting: set[asyncio.Future[Any]] = {answer, gone}
        try:
            if not (await asyncio.wait(waiting, timeout=_SILENCE, return_when=asyncio.FIRST_COMPLETED))[0]:
                waiting.add(asyncio.ensure_future(self._until_forgotten(client, mark)))
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ConnectionError("the relay or the hub is gone")
            head, body = self.seal.open(answer.result().data)
        except (nats.errors.ConnectionClosedError, nats.errors.OutboundBufferLimitError, SealError) as exc:
            await asyncio.sleep(0.01)
            raise ConnectionError(str(exc)) from exc
        finally:
            for each in waiting:
                each.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await answer
        if head.what != f"answer {verb}" or head.mark != mark:
            raise ConnectionError("an answer to something else")
        return body[:1], body[1:]

    def _send(self, client: Client, verb: str, mark: bytes, payload: bytes, patience: float) -> Awaitable[Message]:
        self._sequence += 1
        data = self.seal.close(Head(f"ask {verb}", self._session if verb != "hello" else NOBODY, self._sequence, mark), payload)
        place = self._place if verb != "hello" else ""
        return client.request(f"hub.{self._name}.{place or verb}", data, timeout=max(patience, 0.05))

    async def _until_forgotten(self, client: Client, mark: bytes) -> None:
        """Returns when a request will not be answered any more, because the hub that it came to is gone.

        What is asked here comes to the hub after the request, and its answer back after that of the request.
        """
        while True:
            with contextlib.suppress(nats.errors.Error, SealError, TimeoutError):  # it is slow, or the way there is
                try:
                    own = os.urandom(16)
                    found = await self._send(client, _ALIVE, own, mark, _SILENCE)
                except nats.errors.NoRespondersError:
                    return
                head, body = self.seal.open(found.data)
                if head.mark == own and body not in (_DONE + _AT_WORK, _STALE) and not body.startswith(_FAILED):
                    return
            await asyncio.sleep(_SILENCE)


class Answerer:
    """The hub's side: who asks is what the relay's permissions let through and the seal proves."""

    def __init__(self, keeper: Keeper, own: Identity, peers: Callable[[str], Peer | None], pool: Executor) -> None:
        self._keeper, self._own, self._peers, self._pool = keeper, own, peers, pool
        self._handlers: dict[str, Handler] = {}
        self._place = os.urandom(8).hex()  # where those ask who have said hello here
        self._seals: dict[str, tuple[Peer, Seal]] = {}
        self._sessions = Sessions()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, handlers: Mapping[str, Handler]) -> None:
        """Answer these verbs from now on."""
        first, new = not self._handlers, [verb for verb in handlers if verb not in self._handlers]
        self._handlers.update(handlers)
        for verb in new:
            await self._keeper.listen(f"hub.*.{verb}", "hub", self._heard)
        if first:
            await self._keeper.listen(f"hub.*.{self._place}", "", self._heard)
            await self._keeper.listen("hub.*.hello", "hub", self._heard)

    async def push_all(self, kind: str, payload: bytes) -> int:
        """Tell every member of a kind something; returns how many processes it was sent to."""
        peers = [peer for name in self._sessions.members() if (peer := self._peers(name)) is not None]
        return sum([await self.push(peer.name, payload) for peer in peers if peer.kind == kind])

    async def push(self, name: str, payload: bytes) -> int:
        """Tell a member something; returns how many of its processes it was sent to."""
        seal = self.seal(name)
        found = self._sessions.alive(name, asyncio.get_running_loop().time()) if seal else []
        for session in found:
            session.said += 1
            data = seal.close(Head("push", session.ear, session.said), payload) if seal else b""
            client = await self._keeper.client(0.0)
            await client.publish(f"ctl.{name}", data)
        return len(found)

    def seal(self, name: str) -> Seal | None:
        """The seal between hub and member; None if the name is nobody's."""
        return self._known(name)[1]

    def _known(self, name: str) -> tuple[Peer, Seal] | tuple[None, None]:
        """Whose name it is now, with the seal."""
        peer = self._peers(name)
        if peer is None:
            self._seals.pop(name, None)
            return None, None
        held = self._seals.get(name)
        if held is None or held[0] != peer:
            held = self._seals[name] = (peer, Seal(self._own, peer))
        return held

    async def _heard(self, message: Message) -> None:
        _, name, last = message.subject.split(".")
        peer, seal = self._known(name)
        if (
            seal is None or peer is None or not message.reply.startswith(f"_INBOX.{name}.")
        ):  # an answer must not go where the asker may not write
            return
        try:
            head, payload = seal.open(message.data)
        except SealError:
            return
        verb = head.what.removeprefix("ask ")
        if head.what == f"ask {verb}" and last in (verb, self._place):
            task = asyncio.get_running_loop().create_task(self._answer(message, peer, verb, head, payload))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Message, who: Peer, verb: str, head: Head, payload: bytes) -> None:
        body = await self._body(who, verb, head, payload)
        if len(body) > PAYLOAD + 1:
            body = _FAILED + _written(too_large(len(body)))
        seal = self.seal(who.name)
        if seal is not None:
            with contextlib.suppress(nats.errors.Error, OvernightError, OSError):
                client = await self._keeper.client(_GRACE)  # it may hear before it is all up again
                await client.publish(message.reply, seal.close(Head(f"answer {verb}", mark=head.mark), body))

    async def _body(self, who: Peer, verb: str, head: Head, payload: bytes) -> bytes:
        now = asyncio.get_running_loop().time()
        if verb == "hello":
            return _DONE + self._sessions.open(who.name, payload[:16], now).key + self._place.encode()
        session = self._sessions.find(who.name, head.session)
        if session is None:
            return _NO_SESSION
        if not session.accept(head.sequence, now):
            return _STALE
        if verb == _ALIVE:
            asked = session.answers.get(payload)
            return _DONE + (_AT_WORK if asked is not None and not asked.done() else b"")
        if head.mark in session.answers:
            return await asyncio.shield(session.answers[head.mark])
        return await self._work(session, who, verb, head.mark, payload)

    async def _work(self, session: Session, who: Peer, verb: str, mark: bytes, payload: bytes) -> bytes:
        handler = self._handlers.get(verb)
        if handler is None:
            return _FAILED + _written(
                UsageError("E-VERB", f"this hub knows no '{verb}'", fix="pip install --upgrade overnight   # on both sides")
            )
        if session.waiting() >= _AT_ONCE:
            return _BUSY
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        session.keep(mark, answer)
        try:
            body = _DONE + await asyncio.get_running_loop().run_in_executor(self._pool, handler, who, payload)
        except OvernightError as exc:
            body = _FAILED + _written(exc)
        except Exception as exc:  # noqa: BLE001 - whoever asks must hear of it; the hub goes on
            body = _FAILED + _written(_fault(exc))
        except BaseException:
            answer.cancel()
            raise
        answer.set_result(body)
        return body


def too_large(size: int) -> UsageError:
    """The error for a message that is not carried."""
    return UsageError(
        "E-TOO-LARGE",
        f"a message of {size:,} bytes is not carried",
        why=f"the most is {PAYLOAD:,} bytes",
        fix="overnight hub submit --help   # large files belong on storage that both sides reach",
    )


def _fault(exc: Exception) -> UnreachableError:
    """A hub that fails has not heard what it was told: whoever asked asks again, as of a hub that is away."""
    return UnreachableError(
        "E-HUB-FAULT", f"the hub failed: {type(exc).__name__}: {exc}"[:500], fix="overnight relay status   # on the relay's machine"
    )


def _written(error: OvernightError) -> bytes:
    return json.dumps({"kind": type(error).__name__, **error.as_dict()}).encode()


def _opened(status: bytes, answer: bytes) -> bytes:
    if status == _DONE:
        return answer
    try:
        row = json.loads(answer)
        kind = getattr(errors, str(row["kind"]), OvernightError)
        told = [str(row.get(key, ""))[:2000] for key in ("code", "message", "where", "why", "hint")]
    except (ValueError, KeyError, TypeError) as exc:
        raise OvernightError("E-HUB-FAULT", "the hub has answered something that this version does not know") from exc
    if not (isinstance(kind, type) and issubclass(kind, OvernightError)):
        kind = OvernightError
    raise kind(told[0], told[1], where=told[2], why=told[3], fix=told[4])


def _silence(patience: float, *, nobody: bool) -> UnreachableError:
    if nobody:
        return UnreachableError(
            "E-HUB-UNREACHABLE", "the relay is reached, but no hub is there", fix="overnight hub start   # on the relay's machine"
        )
    return UnreachableError(
        "E-HUB-SILENT", f"the hub has not answered within {patience:.0f} seconds", fix="overnight relay status   # on the relay's machine"
    )
