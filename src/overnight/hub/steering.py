"""Steering a running relay over its system account, from this machine: who is cut off, how it is.

Must not know who asks for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

import nats.errors

from overnight.errors import OvernightError, UnreachableError
from overnight.hub import claims, keys
from overnight.hub.credentials import Credentials
from overnight.hub.dial import Client, dial, hang_up
from overnight.hub.folder import Folder
from overnight.hub.keys import Identity, Peer
from overnight.hub.loop import Loop

_ANSWER = 5.0
_PAGE = 1024


@dataclass(frozen=True, slots=True)
class Connected:
    """Who is connected now: name and kind as joined (kind ``hub`` beside the relay), from where, since when (ISO 8601), round trip time."""

    name: str
    kind: str
    address: str
    since: str
    rtt: str


@dataclass(frozen=True, slots=True)
class Health:
    """How a running relay is. Bytes; seconds."""

    version: str
    uptime: str
    memory: int
    connections: tuple[Connected, ...]
    streams: dict[str, tuple[int, int]]  # name: messages, bytes


DOWN = Health("", "", 0, (), {})


def beside(folder: Folder, role: str, now: float) -> Credentials:
    """What a process of the relay's own machine comes with: the hub (``hub``) or who answers guests (``enroller``)."""
    relay, secrets, hub = folder.relay(), folder.secrets(), folder.hub()
    own = hub if role == claims.HUB else Identity(role, role, secrets[f"{role}_user"], hub.box)
    jwt = claims.user(secrets[role], relay.account, keys.public(own.seed), own.name, int(now))
    return Credentials(own, f"nats://127.0.0.1:{relay.local}", "", jwt, hub.peer())


def push_claims(folder: Folder) -> None:
    """Tell the running server who is cut off, at once. Raises ``UnreachableError`` when it does not run."""
    relay = folder.relay()

    async def work(client: Client) -> None:
        text = folder.account_claims(time.time())
        answer = await client.request(f"$SYS.REQ.ACCOUNT.{relay.account}.CLAIMS.UPDATE", text.encode(), timeout=_ANSWER)
        row = json.loads(answer.data)
        if "error" in row:
            raise OvernightError("E-RELAY-CLAIMS", f"the relay has not taken it: {row['error']}", fix="overnight relay start   # anew")

    with folder.changing():  # who is cut off meanwhile is told after us
        _over_system(folder, work)


def health(folder: Folder) -> Health:
    """How the running server is. Raises ``UnreachableError`` when it does not run."""
    roster = folder.roster()
    known = {member.sign: member for member in roster.members.values()}
    hub = folder.hub().peer().sign
    found: list[Health] = []

    async def work(client: Client) -> None:
        about = await _asked(client, "VARZ", {})
        rows, total = list[dict[str, Any]](), 1
        while len(rows) < total:
            page = await _asked(client, "CONNZ", {"auth": True, "limit": _PAGE, "offset": len(rows), "acc": folder.relay().account})
            rows += page["connections"]
            total = page["total"] if page["connections"] else 0
        jetstream = await _asked(client, "JSZ", {"accounts": True, "streams": True})
        streams = {row["name"]: (row["state"]["messages"], row["state"]["bytes"]) for each in jetstream.get("account_details", ()) for row in each.get("stream_detail", ())}  # fmt: skip
        connections = []
        for row in rows:
            key = row.get("authorized_user", "")
            name, kind = (known[key].name, known[key].kind) if key in known else ("hub", "hub") if key == hub else ("", "")
            if name:
                connections.append(Connected(name, kind, row.get("ip", ""), row.get("start", "")[:19] + "Z", row.get("rtt", "")))
        found.append(Health(about["version"], about["uptime"], about["mem"], tuple(connections), streams))

    _over_system(folder, work)
    return found[0]


async def _asked(client: Client, what: str, row: dict[str, Any]) -> dict[str, Any]:
    answer = await client.request(f"$SYS.REQ.SERVER.PING.{what}", json.dumps(row).encode(), timeout=_ANSWER)
    data: dict[str, Any] = json.loads(answer.data)["data"]
    return data


def _over_system(folder: Folder, work: Any) -> None:
    relay, secrets = folder.relay(), folder.secrets()
    seed = secrets["system_user"]
    jwt = claims.system_user(secrets["system"], keys.public(seed), int(time.time()))
    found = Credentials(Identity("system", "system", seed, ""), f"nats://127.0.0.1:{relay.local}", "", jwt, Peer("", "", "", ""))

    async def all_of_it() -> None:
        client = await dial(found, lambda: None)
        try:
            await work(client)
        except (nats.errors.Error, TimeoutError, ValueError, KeyError) as exc:
            raise UnreachableError("E-RELAY-SILENT", f"the relay does not answer: {exc}", fix="overnight relay start") from exc
        finally:
            await hang_up(client)

    loop = Loop("relay-system")
    try:
        loop.run(asyncio.wait_for(all_of_it(), 4 * _ANSWER))
    finally:
        loop.close()
