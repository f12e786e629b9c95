"""Durable streams at the relay: logs and events of the workers, and objects. What lies in them is sealed.

A message is published until the relay has said that it is on its disk; one that was published twice is there once. Who follows a stream begins at any
number and misses nothing, however often the connection breaks. Asynchronous. Must not know what is in the messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nats.errors
import nats.js.api
import nats.js.client
import nats.js.errors

from overnight.errors import OvernightError, StorageError, UnreachableError, UsageError
from overnight.hub.keeper import Keeper, Message

STREAMS = {"log": "LOG", "evt": "EVT"}
_TOKEN = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_ID = re.compile(r"[A-Za-z0-9._:/-]{1,120}")
_SHARES = {"EVT": 0.05, "LOG": 0.15, "OBJ": 0.15}  # of the disk's free bytes when the relay starts
_MOST = {"EVT": 2**32, "LOG": 2**34, "OBJ": 2**35}  # bytes
_TWICE = 600  # seconds within which a message that is published again is known
_ONE_TRY, _BREATH = 5.0, 0.2
_BATCH = 256
_DELIVERED = 64 * 2**20  # bytes on their way to who follows
_WEEK = 7 * 86400


@dataclass(frozen=True, slots=True)
class Stored:
    """One message of a stream, still sealed; ``sequence`` counts from 1 in its stream."""

    sequence: int
    subject: str
    message_id: str
    data: bytes


def definitions(free: int) -> list[dict[str, Any]]:
    """The streams of a relay on a disk with so many free bytes.

    Events are refused when there is no room, so that their makers keep them; logs and objects make room by losing the oldest.
    """
    plain = {"storage": "file", "retention": "limits", "num_replicas": 1, "allow_direct": True, "duplicate_window": _TWICE * 10**9}
    room = {name: max(2**20, min(_MOST[name], int(free * share))) for name, share in _SHARES.items()}
    return [
        {**plain, "name": "EVT", "subjects": ["evt.>"], "discard": "new", "max_bytes": room["EVT"]},
        {**plain, "name": "LOG", "subjects": ["log.>"], "discard": "old", "max_bytes": room["LOG"], "persist_mode": "async"},
        {
            **plain, "name": "OBJ", "subjects": ["obj.>"], "discard": "old", "max_bytes": room["OBJ"], "max_age": _WEEK * 10**9,
            "max_msgs_per_subject": 1,
        },
    ]  # fmt: skip


async def define(keeper: Keeper, free: int) -> None:
    """Make the streams, or bring those that are there up to date; their room stays what it was."""
    client = await keeper.client(_ONE_TRY)
    for row in definitions(free):
        held = await _api(client, f"STREAM.INFO.{row['name']}", {})
        if "config" in held:
            row = {**row, "max_bytes": held["config"]["max_bytes"], "persist_mode": held["config"].get("persist_mode", "")}  # noqa: PLW2901 - these two cannot be changed afterwards
            if not row["persist_mode"]:
                del row["persist_mode"]
        answer = await _api(client, f"STREAM.{'UPDATE' if 'config' in held else 'CREATE'}.{row['name']}", row)
        if "error" in answer:
            raise StorageError(
                "E-RELAY-STREAM", f"the relay cannot keep {row['name']}: {answer['error'].get('description', '')}", fix="df -h"
            )


async def publish(keeper: Keeper, subject: str, message_id: str, data: bytes, patience: float) -> int:
    """Its number in the stream, once it is on the relay's disk. Raises ``UnreachableError`` after so many seconds, ``StorageError`` when there is no room."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while (left := deadline - loop.time()) > 0:
        client = await keeper.client(left)
        try:
            answer = json.loads(
                (await _until_gone(keeper, client.request(subject, data, min(left, _ONE_TRY), headers=_named(message_id)))).data
            )
        except (nats.errors.Error, ConnectionError, TimeoutError, ValueError):
            await asyncio.sleep(min(_BREATH, max(left, 0.0)))
            continue
        if "error" in answer:
            why = str(answer["error"].get("description", ""))
            raise StorageError("E-RELAY-FULL-DISK", "the relay has no room for it", why=why, fix="overnight relay status   # on the relay")
        return int(answer["seq"])
    raise UnreachableError(
        "E-RELAY-SILENT", f"the relay has not taken a message within {patience:.0f} seconds", fix="overnight relay status"
    )


async def direct(keeper: Keeper, subject: str, patience: float) -> bytes | None:
    """The last message on a subject of the objects, None if there is none. Raises ``UnreachableError``."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while (left := deadline - loop.time()) > 0:
        client = await keeper.client(left)
        try:
            found = await _until_gone(keeper, client.request(f"$JS.API.DIRECT.GET.OBJ.{subject}", b"", min(left, _ONE_TRY)))
        except (nats.errors.Error, ConnectionError, TimeoutError):
            await asyncio.sleep(min(_BREATH, max(left, 0.0)))
            continue
        return None if (found.headers or {}).get("Status") == "404" else found.data
    raise UnreachableError("E-RELAY-SILENT", f"the relay has not answered within {patience:.0f} seconds", fix="overnight relay status")


async def trim(keeper: Keeper, stream: str, below: int) -> None:
    """Let the relay forget a stream's messages below a number: they are kept elsewhere."""
    client = await keeper.client(_ONE_TRY)
    with contextlib.suppress(nats.errors.Error):
        await _api(client, f"STREAM.PURGE.{STREAMS[stream]}", {"seq": below})


class Follower:
    """One who follows a stream from a number on."""

    def __init__(self, keeper: Keeper, subject: str, since: int) -> None:
        check_subject(subject)
        self._keeper, self._next = keeper, since
        self._subject = f"{subject}.>" if subject.count(".") < 2 else subject
        self._stream = STREAMS[subject.partition(".")[0]]
        self._found: nats.js.client.JetStreamContext.PushSubscription | None = None
        self._expected = 1

    async def more(self, patience: float) -> list[Stored]:
        """The next messages in order, at least one; empty when nothing came within so many seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while (left := deadline - loop.time()) > 0:
            try:
                if self._found is None:
                    await self._begin(left)
                got = await self._batch(left)
            except UnreachableError:
                self._found = None
                return []
            except (nats.errors.Error, nats.js.errors.Error, ConnectionError):
                await self.stop()
                await asyncio.sleep(min(_BREATH, max(left, 0.0)))
                continue
            except TimeoutError:
                return []
            if got:
                return got
        return []

    async def stop(self) -> None:
        """Follow no longer."""
        if self._found is not None:
            with contextlib.suppress(Exception):  # the connection may be gone, and with it what is stopped here
                await self._found.unsubscribe()
        self._found = None

    async def _begin(self, patience: float) -> None:
        client = await self._keeper.client(patience)
        config = nats.js.api.ConsumerConfig(
            deliver_policy=nats.js.api.DeliverPolicy.BY_START_SEQUENCE if self._next > 1 else nats.js.api.DeliverPolicy.ALL,
            opt_start_seq=self._next if self._next > 1 else None,
        )
        self._expected = 1
        self._found = await client.jetstream(timeout=_ONE_TRY).subscribe(
            self._subject, stream=self._stream, config=config, ordered_consumer=True, pending_bytes_limit=_DELIVERED
        )

    async def _batch(self, patience: float) -> list[Stored]:
        """Messages that are there, at least one; raises ``ConnectionError`` when the next one is not: it is fetched anew."""
        assert self._found is not None
        message, got = await _until_gone(self._keeper, self._found.next_msg(max(patience, 0.01))), list[Stored]()
        while self._is_next(message):
            number = message.metadata.sequence
            self._expected, self._next = number.consumer + 1, number.stream + 1
            got.append(Stored(number.stream, message.subject, (message.headers or {}).get("Nats-Msg-Id", ""), message.data))
            if len(got) >= _BATCH or not self._found.pending_msgs:
                return got
            try:
                message = await self._found.next_msg(_ONE_TRY)
            except (nats.errors.Error, TimeoutError):  # what is here is given out first
                break
        if not got:
            raise ConnectionError("a gap")
        await self.stop()
        return got

    def _is_next(self, message: Message) -> bool:
        number = message.metadata.sequence
        return number.consumer == self._expected and number.stream >= self._next


def check_subject(subject: str) -> str:
    """The subject, if it is one of ours; raises ``UsageError``."""
    if not _TOKEN.fullmatch(subject) or subject.partition(".")[0] not in STREAMS:
        raise UsageError("E-SUBJECT", f"'{subject[:80]}' is no subject of a stream", fix="overnight relay status")
    return subject


def check_id(message_id: str) -> str:
    """The message's id, if a header can carry it; raises ``UsageError``."""
    if not _ID.fullmatch(message_id):
        raise UsageError("E-SUBJECT", f"{message_id[:80]!r} cannot be the id of a message", fix="overnight relay status")
    return message_id


def _named(message_id: str) -> dict[str, str]:
    return {"Nats-Msg-Id": message_id}


async def _until_gone(keeper: Keeper, work: Any) -> Message:
    """What the work returns; raises ``ConnectionError`` when the connection goes first."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(keeper.gone())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ConnectionError("the relay is gone")
        found: Message = task.result()
        return found
    finally:
        gone.cancel()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


async def _api(client: Any, verb: str, row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((await client.request(f"$JS.API.{verb}", json.dumps(row).encode(), timeout=_ONE_TRY)).data)
    except (nats.errors.Error, ValueError, TimeoutError) as exc:
        raise OvernightError("E-RELAY-STREAM", f"the relay does not answer {verb}: {exc}", fix="overnight relay status") from exc
    return found
