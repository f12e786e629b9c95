"""Objects: bytes too many for one message, from a member to its hub or back, in sealed pieces.

An object has a bucket and a name, which only the two parties can read; it is complete once its last piece, the list of the others, is there. It is
held against its hash before anybody uses it. Pieces are called by what the whole is, so that somebody who hands over something else under the same name
at the same time changes nothing of what another one is reading. Asynchronous. Must not know what objects mean.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import nacl.public

from overnight.errors import NotFoundError, OvernightError, UsageError
from overnight.hub import streams
from overnight.hub.keeper import Keeper
from overnight.hub.keys import Identity, Peer
from overnight.hub.seal import Head, Seal, SealError

PIECE = 2**19  # bytes
MOST = 128 * 2**20
_AT_ONCE = 4
_BUCKET = re.compile(r"[A-Z]{1,16}")
_HASH = re.compile(r"[0-9a-f]{64}")


class Objects:
    """What is handed over between oneself and one peer."""

    def __init__(self, keeper: Keeper, own: Identity, peer: Peer, seal: Seal) -> None:
        self._keeper, self._own, self._peer, self._seal = keeper, own, peer, seal
        box = nacl.public.Box(nacl.public.PrivateKey(base64.b64decode(own.box)), nacl.public.PublicKey(base64.b64decode(peer.box)))
        self._secret = box.shared_key()

    async def put(self, bucket: str, name: str, source: bytes | Path, patience: float) -> None:
        """Hand an object over; it may be handed over again. Raises ``UsageError`` when it is larger than 128 MiB."""
        size = len(source) if isinstance(source, bytes) else await asyncio.to_thread(lambda: source.stat().st_size)
        if size > MOST:
            raise UsageError(
                "E-TOO-LARGE",
                f"{name[:80]}: {size:,} bytes are not handed over; the most is {MOST:,}",
                fix="overnight hub submit --help   # large files belong on storage that both sides reach",
            )
        subject, digest, count = self._subject(bucket, name, self._own.name, self._peer.name), await asyncio.to_thread(_digest, source), 0
        stamp, under_way = os.urandom(8).hex(), set[asyncio.Task[None]]()
        pieces = _pieces(source)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            under_way.add(asyncio.create_task(self._send(subject, self._part(digest, count), stamp, piece, patience)))
            count += 1
            if len(under_way) >= _AT_ONCE:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        await asyncio.gather(*under_way)
        listed = json.dumps({"pieces": count, "sha256": digest}).encode()
        await self._send(subject, "list", stamp, listed, patience)

    async def get(self, bucket: str, name: str, target: Path | None, patience: float) -> bytes:
        """An object that the peer has handed over; with a target it is written there, whole or not at all, and nothing is returned.

        Raises ``NotFoundError`` when it is not there, ``OvernightError`` when it is damaged.
        """
        subject = self._subject(bucket, name, self._peer.name, self._own.name)
        listed = await self._fetch(subject, "list", patience)
        if listed is None:
            raise NotFoundError(
                "E-NO-OBJECT",
                f"{bucket} {name[:80]} is not there (any more)",
                fix="overnight hub submit --help   # large files belong on storage that both sides reach",
            )
        try:
            row = json.loads(listed)
            count, wanted = int(row["pieces"]), str(row["sha256"])
        except (ValueError, KeyError, TypeError) as exc:
            raise _damaged(bucket, name) from exc
        if not 0 <= count <= MOST // PIECE + 1 or not _HASH.fullmatch(wanted):
            raise _damaged(bucket, name)
        if target is None:
            return await self._collect(subject, count, wanted, patience)
        partial = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
        try:
            with partial.open("xb") as file:
                digest = hashlib.sha256()
                for number in range(count):
                    piece = await self._fetch(subject, self._part(wanted, number), patience) or b""
                    digest.update(piece)
                    await asyncio.to_thread(file.write, piece)
            if digest.hexdigest() != wanted:
                raise _damaged(bucket, name)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        return b""

    async def _collect(self, subject: str, count: int, wanted: str, patience: float) -> bytes:
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int) -> bytes:
            async with limit:
                return await self._fetch(subject, self._part(wanted, number), patience) or b""

        found = b"".join(await asyncio.gather(*(one(number) for number in range(count))))
        if hashlib.sha256(found).hexdigest() != wanted:
            raise _damaged("an object", subject.rpartition(".")[2])
        return found

    async def _send(self, subject: str, part: str, stamp: str, piece: bytes, patience: float) -> None:
        data = self._seal.close(Head(f"{subject}.{part}"), piece)
        await streams.publish(self._keeper, f"{subject}.{part}", f"{subject}.{part}.{stamp}", data, patience)

    async def _fetch(self, subject: str, part: str, patience: float) -> bytes | None:
        data = await streams.direct(self._keeper, f"{subject}.{part}", patience)
        if data is None:
            return None
        try:
            head, piece = self._seal.open(data)
        except SealError:
            return None
        return piece if head.what == f"{subject}.{part}" else None

    def _subject(self, bucket: str, name: str, sender: str, receiver: str) -> str:
        if not _BUCKET.fullmatch(bucket):
            raise UsageError(
                "E-BUCKET",
                f"'{bucket[:40]}' is no bucket",
                fix="overnight hub submit --help   # large files belong on storage that both sides reach",
            )
        token = hashlib.blake2b(
            f"{sender} {bucket} {name}".encode(), key=self._secret, digest_size=16, person=b"overnight object"
        ).hexdigest()
        return f"obj.{bucket}.{sender}.{receiver}.{token}"

    def _part(self, digest: str, number: int) -> str:
        """What a piece of the object with this hash is called: the hash itself would tell whoever runs the relay what it is."""
        token = hashlib.blake2b(digest.encode(), key=self._secret, digest_size=16, person=b"overnight pieces").hexdigest()
        return f"{token}-{number}"


def _digest(source: bytes | Path) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pieces(source: bytes | Path) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield from (source[begin : begin + PIECE] for begin in range(0, len(source), PIECE))
        return
    with source.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _damaged(bucket: str, name: str) -> OvernightError:
    return OvernightError("E-DAMAGED", f"{bucket} {name[:80]} did not arrive as it was sent", fix="overnight relay status   # on the relay")
