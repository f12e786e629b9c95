"""Key pairs: who a relay, an account, a worker or a client is.

A party has two pairs: an Ed25519 pair in the form of NATS (an nkey) to sign with, and an X25519 pair to seal to. Seeds are made here
and leave the machine never. Must not know where keys are kept.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from dataclasses import dataclass

import nacl.public
import nkeys  # type: ignore[import-untyped]

from overnight.errors import UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_RESERVED = {"hub", "relay", "enroller", "system", "all"}

OPERATOR: int = nkeys.PREFIX_BYTE_OPERATOR
ACCOUNT: int = nkeys.PREFIX_BYTE_ACCOUNT
USER: int = nkeys.PREFIX_BYTE_USER


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of the other side: its name, what it is (worker, client or hub), and its public keys as text."""

    name: str
    kind: str
    sign: str  # an nkey, U…
    box: str  # base64 of 32 bytes

    def fingerprint(self) -> bytes:
        """16 bytes that stand for both keys."""
        return hashlib.blake2b(f"{self.sign} {self.box}".encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Identity:
    """A party's own secrets; never printed, never sent."""

    name: str
    kind: str
    seed: str  # an nkey seed, SU…
    box: str  # base64 of 32 bytes

    def __repr__(self) -> str:
        return f"Identity({self.name!r}, {self.kind!r})"

    def peer(self) -> Peer:
        """The public half."""
        private = nacl.public.PrivateKey(base64.b64decode(self.box))
        return Peer(self.name, self.kind, public(self.seed), base64.b64encode(bytes(private.public_key)).decode())


def new_identity(name: str, kind: str) -> Identity:
    """Fresh secrets for a party."""
    return Identity(name, kind, new_seed(USER), base64.b64encode(os.urandom(32)).decode())


def new_seed(prefix: int) -> str:
    """A fresh nkey seed for an operator, an account or a user."""
    return seed_of(os.urandom(32), prefix)


def seed_of(secret: bytes, prefix: int) -> str:
    """The nkey seed that 32 secret bytes are."""
    found: bytes = nkeys.encode_seed(secret, prefix)
    return found.decode()


def public(seed: str) -> str:
    """The public nkey of a seed."""
    found: bytes = nkeys.from_seed(bytearray(seed.encode())).public_key
    return found.decode()


def sign(seed: str, data: bytes) -> bytes:
    """64 bytes."""
    found: bytes = nkeys.from_seed(bytearray(seed.encode())).sign(data)
    return found


def raw(key: str) -> bytes:
    """The 32 bytes of a public nkey; raises ``ValueError`` for anything else."""
    found = base64.b32decode(key + "=" * (-len(key) % 8))
    if len(found) != 35:
        raise ValueError("no public key")
    return found[1:33]


def spelled(key: bytes, prefix: int) -> str:
    """The public nkey that 32 bytes are, with its check sum."""
    body = bytes([prefix]) + key
    found: int = nkeys.crc16(bytearray(body))
    return base64.b32encode(body + found.to_bytes(2, "little")).decode().rstrip("=")


def check_name(name: str) -> str:
    """The name, if it is one that subjects and files can carry; raises ``UsageError``."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise UsageError(
            "E-NAME",
            f"'{name[:80]}' cannot be the name of a worker or client",
            why="a name is 1 to 32 of a-z, 0-9, - and _, begins with a letter or digit, and is not one of " + ", ".join(sorted(_RESERVED)),
            fix="overnight relay invite worker gpu-1",
        )
    return name


def secret(seed: str) -> bytes:
    """The 32 secret bytes of an nkey seed."""
    _, found = nkeys.decode_seed(seed.encode())
    return bytes(found[:32])
