"""Sealing: what two parties say to each other is signed by its maker, and read by nobody between them.

Inside the seal are sender, recipient, what it is, a session, a sequence number and a mark that ties an answer to its request. Must not know how
sealed bytes travel. Who carries them sees their size.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass

import nacl.exceptions
import nacl.public
import nacl.signing

from overnight.hub import keys
from overnight.hub.keys import Identity, Peer

NOBODY = bytes(16)  # the session or mark of what has none
_FORM = b"\x01"
_DOMAIN = b"overnight seal 1\0"  # so that a signature made here can mean nothing elsewhere
_TAIL = struct.Struct("!16sQ16s")
_SIGNATURE = 64


class SealError(ValueError):
    """These bytes were not sealed by the expected party for this one."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a sealed message says of itself."""

    what: str  # at most 255 bytes
    session: bytes = NOBODY
    sequence: int = 0
    mark: bytes = NOBODY


class Seal:
    """Between one's own identity and one peer. May be used by several threads."""

    def __init__(self, own: Identity, peer: Peer) -> None:
        self._own, self._peer = own, peer
        private = nacl.public.PrivateKey(base64.b64decode(own.box))
        self._box = nacl.public.Box(private, nacl.public.PublicKey(base64.b64decode(peer.box)))
        self._sign = nacl.signing.SigningKey(keys.secret(own.seed))
        self._verify = nacl.signing.VerifyKey(keys.raw(peer.sign))

    def close(self, head: Head, payload: bytes) -> bytes:
        """The payload, signed and sealed; at most 500 bytes longer."""
        names = b"".join(bytes([len(text)]) + text for text in (self._own.name.encode(), self._peer.name.encode(), head.what.encode()))
        body = names + _TAIL.pack(head.session, head.sequence, head.mark) + payload
        signature = self._sign.sign(_DOMAIN + body).signature
        return _FORM + bytes(self._box.encrypt(signature + body))

    def open(self, data: bytes) -> tuple[Head, bytes]:
        """What was sealed by the peer for us; raises ``SealError`` for everything else."""
        try:
            if data[:1] != _FORM:
                raise SealError("unknown form")
            plain = self._box.decrypt(data[1:])
            body = plain[_SIGNATURE:]
            self._verify.verify(_DOMAIN + body, plain[:_SIGNATURE])
            sender, rest = _named(body)
            recipient, rest = _named(rest)
            what, rest = _named(rest)
            session, sequence, mark = _TAIL.unpack_from(rest)
            head = Head(what.decode(), session, sequence, mark)
        except (nacl.exceptions.CryptoError, nacl.exceptions.ValueError, ValueError, IndexError, struct.error) as exc:
            raise SealError(f"not sealed by {self._peer.name} for {self._own.name}") from exc
        if (sender, recipient) != (self._peer.name.encode(), self._own.name.encode()):
            raise SealError("meant for somebody else")
        return head, rest[_TAIL.size :]


def _named(body: bytes) -> tuple[bytes, bytes]:
    end = 1 + body[0]
    if len(body) < end:
        raise SealError("cut short")
    return body[1:end], body[end:]
