"""A real relay for tests: nats-server, who answers guests, and members that have joined by a line; and a wire between that can be made bad."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from overnight.hub import certificates, enrol, folder, server, steering
from overnight.hub.credentials import Credentials
from overnight.hub.folder import Folder
from overnight.hub.link import Link
from ports import free_port

PATIENCE = 60.0


def until(found: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not (true := found()) and time.monotonic() < end:
        time.sleep(0.01)
    return true


class Relay:
    """A relay in a folder, which can be started and ended, and who has joined it."""

    def __init__(self, path: Path, host: str = "localhost", port: int = 0) -> None:
        self.folder: Folder = folder.make(path, host, port or free_port(), ("", ""), time.time())
        self.address = (host, self.folder.relay().port)
        self._running = contextlib.ExitStack()
        self.log: list[str] = []

    def start(self, *, enrolling: bool = True) -> None:
        self.folder.write_claims(time.time())
        process = self._running.enter_context(server.running(self.folder, os.environ, time.time()))
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()

        def read() -> None:
            assert process.stdout is not None
            with contextlib.suppress(ValueError):
                for line in server.readable(process.stdout):
                    self.log.append(line)
                    lines.put(line)
            lines.put("")

        threading.Thread(target=read, daemon=True).start()
        while line := lines.get(timeout=PATIENCE):
            if line.endswith("Server is ready"):
                break
        else:
            raise AssertionError(self.log)
        if enrolling:
            self._running.enter_context(enrol.serving(self.folder, 2**30, self.log.append))

    def end(self) -> None:
        self._running.close()

    def kill(self) -> None:
        """End the server as a power cut would."""
        os.kill(int((self.folder.path / "server.pid").read_text()), signal.SIGKILL)
        self.end()

    def restart(self) -> None:
        self.end()
        self.start(enrolling=False)

    def joined(self, kind: str, name: str) -> Credentials:
        return enrol.join(enrol.invite(self.folder, kind, name, time.time()).text())

    def hub(self) -> Link:
        return Link(steering.beside(self.folder, "hub", time.time()), self.folder.peers())

    def revoke(self, name: str) -> None:
        with self.folder.changing() as held:
            held[0] = folder.cut_off(held[0], name, time.time())
        self.folder.write_claims(time.time())
        steering.push_claims(self.folder)


@contextlib.contextmanager
def relay() -> Iterator[Relay]:
    """A relay that runs."""
    with tempfile.TemporaryDirectory(prefix="relay-") as path:
        found = Relay(Path(path) / "relay")
        try:
            found.start()
            yield found
        finally:
            found.end()


@contextlib.contextmanager
def answering(port: int, answer: Callable[[socket.socket], object], pair: certificates.Pair | None, tmp_path: Path) -> Iterator[None]:
    """Something else at the relay's address: with its certificate, so that TLS finds nothing wrong, or without TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if pair is not None:
        (tmp_path / "cert.pem").write_bytes(pair.certificate)
        (tmp_path / "key.pem").write_bytes(pair.key)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    def serve() -> None:
        while True:
            try:
                wire, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), wire, context.wrap_socket(wire, server_side=True) if pair else wire as found:
                found.settimeout(20)
                answer(found)

    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def said(status: bytes) -> Callable[[socket.socket], object]:
    """The answer of a web server that says this."""

    def answer(wire: socket.socket) -> None:
        if wire.recv(65536):
            wire.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    return answer
