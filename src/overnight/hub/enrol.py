"""Enrolment, both sides: a guest shows that it has the code, names its keys, and is given its claims.

The guest signs its keys with the key that the code makes, so that nobody in between can put others in their place; the answer is signed by the hub, whose
keys the join line has named. An invitation is used up before it is answered; the same guest with the same keys may ask again.
"""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nacl.exceptions
import nacl.signing

from overnight.errors import NotAllowedError, OvernightError, UnreachableError
from overnight.hub import certificates, claims, invitation, keys, steering, streams
from overnight.hub.credentials import Credentials
from overnight.hub.dial import dial, explained, hang_up
from overnight.hub.folder import Folder, Invitation, Member, Roster, admit
from overnight.hub.invitation import Line
from overnight.hub.keeper import Keeper, Message
from overnight.hub.keys import Identity, Peer
from overnight.hub.loop import Loop

SKEW = 30.0  # seconds by which clocks may differ before it is said
_PATIENCE = 20.0
_MOST = 4096
_INVITE = "overnight relay invite worker NAME   # on the relay: a new line, good for ten minutes"


def invite(folder: Folder, kind: str, name: str, now: float) -> Line:
    """A new join line for a name that nobody has. Raises ``UsageError`` or ``NotAllowedError``."""
    keys.check_name(name)
    relay, secrets = folder.relay(), folder.secrets()
    pin = certificates.pin(folder.authority()) if relay.own else invitation.SYSTEM
    host = f"[{relay.host}]" if ":" in relay.host else relay.host
    line = invitation.new(
        (host, relay.port), kind, (pin, folder.hub().peer().fingerprint()), relay.account, secrets[claims.GUEST], int(now)
    )
    with folder.changing() as held:
        member = held[0].members.get(name)
        if member is not None and not member.revoked:
            raise NotAllowedError(
                "E-NAME-TAKEN",
                f"'{name}' has joined already, as a {member.kind}",
                fix=f"overnight relay revoke {name}   # or choose another name",
            )
        open_ones = {key: row for key, row in held[0].invitations.items() if row.expires > now - 86400 and row.name != name}
        made = Invitation(name, kind, keys.public(line.seed), line.expires)
        held[0] = replace(held[0], invitations={**open_ones, line.id: made})
    return line


class Enroller:
    """Answers guests at the relay, whose folder it may write."""

    def __init__(self, folder: Folder, clock: Callable[[], float] = time.time, say: Callable[[str], None] = lambda _text: None) -> None:
        self._folder, self._clock, self._say = folder, clock, say

    async def serve(self, keeper: Keeper) -> None:
        """Answer from now on."""

        async def heard(message: Message) -> None:
            guest = message.subject.partition(".")[2]
            if message.reply.startswith(f"_INBOX.{guest}."):
                client = await keeper.client(0.0)
                await client.publish(message.reply, self.answer(guest, message.data))

        await keeper.listen("enrol.*", "", heard)

    def answer(self, guest: str, data: bytes) -> bytes:
        """What a guest is told, signed by the hub."""
        try:
            told = self._admitted(guest, data)
        except OvernightError as exc:
            told = {"error": exc.as_dict()}
        except (ValueError, KeyError, TypeError, AttributeError):
            told = {
                "error": {
                    "code": "E-JOIN",
                    "message": "the relay does not understand what it is asked",
                    "hint": "pip install --upgrade overnight",
                }
            }
        body = json.dumps({**told, "time": self._clock()}).encode()
        return keys.sign(self._folder.hub().seed, b"overnight join\0" + body) + body

    def _admitted(self, guest: str, data: bytes) -> dict[str, object]:
        now = self._clock()
        with self._folder.changing() as held:
            found = held[0].invitations.get(guest)
            if found is None:
                raise NotAllowedError("E-INVITE-VOID", "this invitation was taken back", fix=_INVITE)
            peer = _asked(found, data)
            if found.expires < now:
                raise NotAllowedError("E-INVITE-EXPIRED", f"this invitation expired {now - found.expires:.0f} seconds ago", fix=_INVITE)
            if found.used not in ("", peer.sign):
                raise NotAllowedError("E-INVITE-USED", f"this invitation was used already, and '{found.name}' has joined", fix=_INVITE)
            if not found.used:
                held[0] = _in(held[0], found, peer, guest, now)
        relay = self._folder.relay()
        jwt = claims.user(self._folder.secrets()[found.kind], relay.account, peer.sign, found.name, int(now))
        hub = self._folder.hub().peer()
        self._say(f"{found.kind} {found.name} has joined")
        return {"name": found.name, "kind": found.kind, "claims": jwt, "hub": {"sign": hub.sign, "box": hub.box}}


@contextlib.contextmanager
def serving(folder: Folder, free: int, say: Callable[[str], None], clock: Callable[[], float] = time.time) -> Iterator[None]:
    """Answer guests over the running server while this lasts, and make its streams first; ``free`` are the bytes that its disk has left."""
    loop, found = Loop("relay-enroller"), steering.beside(folder, claims.ENROLLER, time.time())

    async def begin() -> Keeper:
        keeper = Keeper(found)
        await keeper.start(patient=True)
        await keeper.client(_PATIENCE)
        await streams.define(keeper, free)
        await Enroller(folder, clock, say).serve(keeper)
        return keeper

    try:
        keeper = loop.run(begin())
        yield
        loop.run(keeper.close())
    finally:
        loop.close()


def join(text: str, say: Callable[[str], None] = lambda _text: None) -> Credentials:
    """Use a join line: make keys here, show the code, and come back with what is needed to come again.

    Raises ``UsageError`` (no join line), ``NotAllowedError`` (expired, used, another relay), ``UnreachableError``.
    """
    line = invitation.read(text)
    address = f"wss://{line.host}:{line.port}"
    authority = _authority(line, address)
    own = keys.new_identity(line.id, line.kind)
    guest = Credentials(Identity(line.id, "guest", line.seed, own.box), address, authority, line.claims(), Peer("hub", "hub", "", ""))
    loop = Loop("join")
    try:
        told = loop.run(_ask(guest, line, _request(line, own.peer())))
    except NotAllowedError as exc:
        raise _refused(exc, line) from exc
    finally:
        loop.close()
    row = _checked(told, line)
    skew = time.time() - float(row["time"])
    if abs(skew) > SKEW:
        say(
            f"warning: this machine's clock is {abs(skew):.0f} seconds {'ahead of' if skew > 0 else 'behind'} the relay's; leases do not mind, people may"
        )
    hub = Peer("hub", "hub", row["hub"]["sign"], row["hub"]["box"])
    return Credentials(Identity(str(row["name"]), line.kind, own.seed, own.box), address, authority, str(row["claims"]), hub, line.id)


async def _ask(guest: Credentials, line: Line, data: bytes) -> bytes:
    client = await dial(guest, lambda: None)
    try:
        found = await client.request(f"enrol.{line.id}", data, timeout=_PATIENCE)
    except Exception as exc:
        raise UnreachableError(
            "E-RELAY-SILENT",
            f"{guest.address} is there, but nobody answers guests",
            why=str(exc),
            fix="overnight relay start   # on the relay",
        ) from exc
    finally:
        await hang_up(client)
    answer: bytes = found.data
    return answer


def _request(line: Line, peer: Peer) -> bytes:
    body = json.dumps({"sign": peer.sign, "box": peer.box}).encode()
    return keys.sign(line.seed, b"overnight guest\0" + body) + body


def _asked(found: Invitation, data: bytes) -> Peer:
    """The keys that a guest has named; raises ``NotAllowedError`` unless it has the code."""
    try:
        if len(data) > _MOST:
            raise ValueError(len(data))
        nacl.signing.VerifyKey(keys.raw(found.key)).verify(b"overnight guest\0" + data[64:], data[:64])
        row = json.loads(data[64:])
        sign, box = str(row["sign"]), str(row["box"])
        if keys.spelled(keys.raw(sign), keys.USER) != sign or len(base64.b64decode(box, validate=True)) != 32:
            raise ValueError(sign)
    except (nacl.exceptions.CryptoError, nacl.exceptions.ValueError) as exc:
        raise NotAllowedError("E-INVITE-CODE", "this is not the code of the invitation", fix=_INVITE) from exc
    return Peer(found.name, found.kind, sign, box)


def _in(roster: Roster, found: Invitation, peer: Peer, guest: str, now: float) -> Roster:
    member = roster.members.get(found.name)
    if member is not None and not member.revoked:
        raise NotAllowedError(
            "E-NAME-TAKEN", f"'{found.name}' has joined already", fix=f"overnight relay revoke {found.name}   # on the relay"
        )
    return admit(roster, Member(found.name, found.kind, peer.sign, peer.box, int(now)), guest)


def _checked(told: bytes, line: Line) -> dict[str, Any]:
    """The answer, if the hub has signed it that the line has named; raises what it says."""
    damaged = NotAllowedError("E-RELAY-CERTIFICATE", "the answer does not come from the hub of this join line", fix=_INVITE)
    try:
        row = json.loads(told[64:])
        if "error" in row:
            error = row["error"]
            kind = UnreachableError if error["code"] == "E-JOIN" else NotAllowedError
            raise kind(str(error["code"]), str(error["message"])[:500], fix=str(error.get("hint", ""))[:500])
        hub = Peer("hub", "hub", str(row["hub"]["sign"]), str(row["hub"]["box"]))
        if hub.fingerprint() != line.hub:
            raise damaged
        nacl.signing.VerifyKey(keys.raw(hub.sign)).verify(b"overnight join\0" + told[64:], told[:64])
        keys.check_name(str(row["name"]))
        float(row["time"])
    except (nacl.exceptions.CryptoError, nacl.exceptions.ValueError, ValueError, KeyError, TypeError) as exc:
        raise damaged from exc
    return dict(row)


def _authority(line: Line, address: str) -> str:
    """The relay's authority (PEM), taken from what it shows and held against the line; empty where the system's are meant."""
    if line.authority == invitation.SYSTEM:
        return ""
    try:
        return certificates.carried(certificates.shown(line.host, line.port), line.authority)
    except OSError as exc:
        raise explained(exc, address) from exc
    except ValueError as exc:
        raise NotAllowedError(
            "E-RELAY-CERTIFICATE",
            f"{address} is not the relay that this line was made by: {exc}",
            why="somebody else answers at this address, or the relay was made anew",
            fix=_INVITE,
        ) from exc


def _refused(exc: NotAllowedError, line: Line) -> OvernightError:
    """What a refusal at the door means for a guest, as far as its own clock can tell."""
    if exc.code != "E-RELAY-REFUSED":
        return exc
    now = time.time()
    if now > line.expires:
        return NotAllowedError("E-INVITE-EXPIRED", f"this invitation has expired {now - line.expires:.0f} seconds ago", fix=_INVITE)
    if now < line.issued - SKEW:
        why = f"by this machine's clock it will only be made in {line.issued - now:.0f} seconds"
        return NotAllowedError(
            "E-RELAY-CLOCK", "this invitation is not accepted (any more)", why=why, fix="timedatectl   # is the clock right?"
        )
    return NotAllowedError("E-INVITE-CODE", "the relay does not know this invitation", why="it was made by another relay", fix=_INVITE)


def file_for(folder: Path, kind: str) -> Path:
    """Where a machine keeps what it has joined as."""
    return folder / f"{kind}.json"
