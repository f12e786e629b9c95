"""Waking the processes of one machine that wait for the hub: a datagram to every socket in a folder, whose bearer then looks by itself.

A ring that is lost only makes somebody look a little later. Sockets of processes that are gone are removed by whoever rings in vain.
Must not know what there is to be seen.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

_LONGEST = 100  # bytes of a socket's name that the kernel takes; a longer one is reached through a descriptor of its folder


class Doorbell:
    """One who waits in ``folder`` for what concerns ``kind``; made if need be. Where no socket can be made, it only sleeps."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._place = folder / f"{kind}-{os.getpid()}-{secrets.token_hex(4)}"
        self._turn = threading.Condition()
        self._listening = False  # one of the threads that wait listens for all
        self._rings = 0
        self._mine = threading.local()  # how many this thread has heard
        self._socket: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _short(self._place) as name:
                self._socket.bind(name)
        except OSError:
            self._socket.close()
            self._socket = None

    def wait(self, seconds: float) -> bool:
        """Sleep until it rings, ``seconds`` at most; whether it rang. Rings that came since this thread waited last count. Wakes all threads that wait here."""
        until = time.monotonic() + seconds
        with self._turn:
            heard = getattr(self._mine, "heard", 0)
            while self._listening and self._rings == heard and (left := until - time.monotonic()) > 0:
                self._turn.wait(left)
            if self._rings != heard:
                self._mine.heard = self._rings
                return True
            if self._listening:
                return False
            self._listening = True
        rang = False
        try:
            rang = self._listen(until - time.monotonic())
        finally:
            with self._turn:
                self._listening = False
                self._rings += rang
                self._mine.heard = self._rings
                self._turn.notify_all()  # also lest nobody listens
        return rang

    def _listen(self, seconds: float) -> bool:
        bell = self._socket
        if bell is None:
            select.select([], [], [], min(max(0.0, seconds), 0.05))
            return True
        poll = select.poll()
        poll.register(bell, select.POLLIN)
        if not poll.poll(max(0.0, seconds) * 1000):
            return False
        with contextlib.suppress(OSError):  # there is nothing more, or it was taken down meanwhile
            while True:
                bell.recv(16, socket.MSG_DONTWAIT)
        return True

    def close(self) -> None:
        """Take the bell down."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            with contextlib.suppress(OSError):
                self._place.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ring(folder: Path, *kinds: str) -> None:
    """Wake all who wait for one of these kinds."""
    try:
        names = [name for name in os.listdir(folder) if name.partition("-")[0] in kinds]
    except OSError:
        return
    for name in names:
        try:
            with _short(folder / name) as address, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"!", socket.MSG_DONTWAIT, address)
        except ConnectionRefusedError:  # nobody is there any more
            with contextlib.suppress(OSError):
                os.unlink(folder / name)
        except OSError:  # it has rung often enough
            continue


@contextlib.contextmanager
def _short(place: Path) -> Iterator[str]:
    """A name of the socket that is short enough for the kernel."""
    if len(os.fsencode(place)) < _LONGEST:
        yield str(place)
        return
    handle = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{place.name}"
    finally:
        os.close(handle)
