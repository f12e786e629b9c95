"""A wire that can be made bad: a TCP proxy of our own that resets, refuses, swallows, or lets wait, both ways or one."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

_PIECE = 65536
_LOOK = 0.02  # seconds between two looks at whether bytes may go on


class Wire:
    """Listens on ``port`` and passes on to another address; what it does to bytes can be changed while it does it."""

    def __init__(self, to: tuple[str, int]) -> None:
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.swallow: frozenset[str] = frozenset()  # of "there" and "back": bytes of this way go nowhere
        self.refuse = False  # whoever comes is sent away
        self.hurt = 0  # how often it was bad to somebody
        self.stall: frozenset[str] = frozenset()  # of "there" and "back": bytes of this way wait until it is taken away
        self.passed = 0  # connections
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._ended = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def reset(self) -> int:
        """Cut every connection of now, without a good-bye; returns how many."""
        with self._lock:
            found, self._open = self._open, set()
        for each in found:
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.shutdown(socket.SHUT_RDWR)
        return len(found) // 2

    def close(self) -> None:
        self._ended.set()
        self.stall = frozenset()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.passed += 1
            if self.refuse:
                self.hurt += 1
                near.close()
                continue
            try:
                far = socket.create_connection(self._to, 10)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for source, sink, way in ((near, far, "there"), (far, near, "back")):
                threading.Thread(target=self._pump, args=(source, sink, way), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                if way in self.swallow:
                    self.hurt += 1
                    continue
                self.hurt += way in self.stall
                while way in self.stall:
                    time.sleep(_LOOK)
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {source}
        source.close()


@contextlib.contextmanager
def wire(to: tuple[str, int]) -> Iterator[Wire]:
    found = Wire(to)
    try:
        yield found
    finally:
        found.close()
