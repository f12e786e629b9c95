"""Keeps one connection to the relay up: dials again with growing, uneven pauses, and listens again to what was listened to.

Asynchronous; lives in one loop. Must not know what is said, nor of seals.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import nats.aio.msg

from overnight.errors import NotAllowedError, OvernightError, UnreachableError
from overnight.hub.credentials import Credentials
from overnight.hub.dial import Client, dial, hang_up

SHORTEST, LONGEST = 0.2, 30.0  # seconds between two tries
_REFUSALS = 3  # a relay that is just starting may not know everybody yet
_CLOSING = 6.0
_LOOK = 0.5  # seconds

Message = nats.aio.msg.Msg
Heard = Callable[[Message], Awaitable[None]]


def pause(outage: float, chance: float) -> float:
    """Seconds until the next try after an outage of so many seconds; ``chance`` (0 to 1) keeps thousands from coming back at once.

    Half of what the outage has lasted: who was away for four seconds is back two seconds after the relay is.
    """
    return max(SHORTEST, min(LONGEST, outage / 2) * (0.5 + chance / 2))


class Keeper:
    """A connection that comes back."""

    def __init__(self, found: Credentials) -> None:
        self._found = found
        self._client: Client | None = None
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self._why: OvernightError | None = None
        self._refused: OvernightError | None = None
        self._listening: list[tuple[str, str, Heard]] = []
        self._task: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def is_up(self) -> bool:
        """Whether the relay is reached now."""
        return self._up.is_set() and self._refused is None

    @property
    def trouble(self) -> OvernightError | None:
        """Why it is not reached; None while it is."""
        return None if self.is_up else self._refused or self._why

    async def start(self, *, patient: bool = False) -> None:
        """Come up once, or raise why not; ``patient`` keeps trying unless the relay refuses."""
        try:
            await self._dial()
        except UnreachableError as exc:
            if not patient:
                raise
            self._why = exc
            self._down.set()
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def client(self, patience: float) -> Client:
        """The connection, once it is up; raises ``UnreachableError`` after so many seconds, ``NotAllowedError`` when cut off."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while self._refused is None and (self._client is None or not self._up.is_set()):  # it may go again before we are told that it came
            try:
                await asyncio.wait_for(self._up.wait(), max(deadline - loop.time(), 0.0))
            except TimeoutError:
                raise _again(self._why or UnreachableError("E-RELAY-UNREACHABLE", f"{self._found.address} cannot be reached")) from None
        if self._refused is not None or self._client is None:
            raise _again(self._refused or UnreachableError("E-RELAY-CLOSED", "the connection was closed"))
        return self._client

    async def gone(self) -> None:
        """Returns when the connection of now is gone."""
        await self._down.wait()

    async def listen(self, subject: str, queue: str, heard: Heard) -> None:
        """Hear what comes on a subject, now and after every new connection."""
        self._listening.append((subject, queue, heard))
        if self._client is not None and self._up.is_set():
            await self._client.subscribe(subject, queue, heard)

    async def close(self) -> None:
        """Hang up for good."""
        self._refused = UnreachableError("E-RELAY-CLOSED", "the connection was closed")
        self._up.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._client is not None:
            self._hang_up(self._client)
        if self._closing:
            await asyncio.wait(self._closing, timeout=_CLOSING)

    async def _dial(self) -> None:
        self._down.clear()
        client = await dial(self._found, self._down.set)
        for subject, queue, heard in self._listening:
            await client.subscribe(subject, queue, heard)
        self._client = client
        self._up.set()

    async def _keep(self) -> None:
        while True:
            await self._lost()
            self._up.clear()
            if self._client is not None:
                self._hang_up(self._client)
                self._client = None
            try:
                await self._come_back()
            except NotAllowedError as exc:
                self._refused = exc
                self._up.set()
                return

    async def _lost(self) -> None:
        """Returns when the connection is gone; looks too, for the library may fail while it closes and then tells nobody."""
        while not self._down.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._down.wait(), _LOOK)
            if self._client is not None and self._client.is_closed:
                self._down.set()

    async def _come_back(self) -> None:
        loop = asyncio.get_running_loop()
        began, refusals = loop.time(), 0
        while True:
            await asyncio.sleep(pause(loop.time() - began, random.random()))
            try:
                await self._dial()
            except NotAllowedError:
                refusals += 1
                if refusals >= _REFUSALS:
                    raise
            except Exception as exc:  # noqa: BLE001 - whatever it was, the next try is all that can be done
                self._why = exc if isinstance(exc, OvernightError) else self._why
            else:
                return

    def _hang_up(self, client: Client) -> None:
        task = asyncio.get_running_loop().create_task(hang_up(client))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _again(error: OvernightError) -> OvernightError:
    """The same error, for another thread to raise: one object raised twice grows its traceback."""
    return type(error)(error.code, error.message, where=error.where, why=error.why, fix=error.fix)
