"""The join line: one word that brings a stranger to the relay once, within ten minutes.

It carries the address, a hash of the relay's authority, a hash of the hub's keys, a one-time code, and the signature of a guest's claims, which both
sides can write out themselves. The code makes a key pair; it is never sent. Pure but for chance in ``new``.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import struct
import zlib
from dataclasses import dataclass

from overnight.errors import UsageError
from overnight.hub import claims, keys

LIFETIME = 600  # seconds
SYSTEM = bytes(16)  # instead of an authority's hash: whom the system trusts
_FORM = 1
_BODY = struct.Struct("!BB16sI16s16s32s32s64s")
_KINDS = (claims.WORKER, claims.CLIENT)
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]{1,253}):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Line:
    """What a join line says."""

    host: str
    port: int
    kind: str
    code: bytes  # 16 bytes
    issued: int  # Unix seconds
    authority: bytes  # 16 bytes of the hash over the relay's authority
    hub: bytes  # fingerprint of the hub's keys
    account: str
    signer: str
    signature: bytes

    @property
    def expires(self) -> int:
        """Unix seconds."""
        return self.issued + LIFETIME

    @property
    def seed(self) -> str:
        """The guest's seed, made from the code."""
        return _seed(self.code)

    @property
    def id(self) -> str:
        """The guest's name at the relay: no secret."""
        return guest(keys.public(self.seed))

    def claims(self) -> str:
        """The guest's claims as the server reads them."""
        key = keys.public(self.seed)
        return claims.joined(claims.user_payload(self.signer, self.account, key, guest(key), self.issued, self.expires), self.signature)

    def text(self) -> str:
        """The line."""
        body = _BODY.pack(
            _FORM, _KINDS.index(self.kind), self.code, self.issued, self.authority, self.hub, keys.raw(self.account), keys.raw(self.signer),
            self.signature,
        )  # fmt: skip
        body += struct.pack("!I", zlib.crc32(f"{self.host}:{self.port}".encode() + body))
        return f"{self.host}:{self.port}/{base64.urlsafe_b64encode(body).decode().rstrip('=')}"


def new(address: tuple[str, int], kind: str, trust: tuple[bytes, bytes], account: str, signer: str, issued: int) -> Line:
    """An invitation of a new guest; ``trust`` are the hashes of authority and hub, ``signer`` is the seed that signs for guests."""
    code = os.urandom(16)
    key = keys.public(_seed(code))
    payload = claims.user_payload(keys.public(signer), account, key, guest(key), issued, issued + LIFETIME)
    signature = keys.sign(signer, claims.unsigned(payload))
    return Line(*address, kind, code, issued, *trust, account, keys.public(signer), signature)


def read(text: str) -> Line:
    """The line that ``text`` is; raises ``UsageError`` for anything else."""
    try:
        return _parsed(text.strip().removeprefix("wss://"))
    except ValueError as exc:
        raise UsageError(
            "E-JOIN-LINE",
            "this is no join line, or not all of it",
            why="a join line is one word of about 280 letters, HOST:PORT/…, with a check sum over all of it",
            fix="overnight relay invite worker NAME   # on the relay; copy the whole line",
        ) from exc


def _parsed(text: str) -> Line:
    address, _, blob = text.partition("/")
    match = _ADDRESS.fullmatch(address)
    data = base64.b64decode(blob + "=" * (-len(blob) % 4), altchars=b"-_", validate=True)
    if match is None or len(data) != _BODY.size + 4:
        raise ValueError(address)
    host, port, body = match["host"], int(match["port"]), data[:-4]
    form, kind, code, issued, authority, hub, account, signer, signature = _BODY.unpack(body)
    if (
        zlib.crc32(f"{host}:{port}".encode() + body) != struct.unpack("!I", data[-4:])[0]
        or form != _FORM
        or kind >= len(_KINDS)
        or port > 65535
    ):
        raise ValueError(address)
    account, signer = (keys.spelled(key, keys.ACCOUNT) for key in (account, signer))
    return Line(host, port, _KINDS[kind], code, issued, authority, hub, account, signer, signature)


def guest(key: str) -> str:
    """The name of a guest, from its public key."""
    return "guest-" + hashlib.sha256(key.encode()).hexdigest()[:24]


def _seed(code: bytes) -> str:
    return keys.seed_of(hashlib.blake2b(code, digest_size=32, person=b"overnight join").digest(), keys.USER)
