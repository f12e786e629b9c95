"""Going out through an HTTP proxy that the environment names, as most offices want it: a real one, small, with a password or without."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from overnight.errors import OvernightError, UsageError
from overnight.hub import enrol
from overnight.hub.invitation import Line
from overnight.hub.link import Link
from overnight.hub.proxy import Proxy, towards
from ports import free_port
from relays import Relay, relay


class Office:
    """A proxy that knows CONNECT alone; ``status`` is what it answers instead of letting through."""

    def __init__(self, login: str = "", status: bytes = b"") -> None:
        self._login, self._status = login, status
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.asked: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                wire, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(wire,), daemon=True).start()

    def _answer(self, wire: socket.socket) -> None:
        head = b""
        with contextlib.suppress(OSError), wire:
            while b"\r\n\r\n" not in head and (more := wire.recv(65536)):
                head += more
            verb, _, rest = head.decode().partition(" ")
            self.asked.append(f"{verb} {rest.split()[0]}")
            wanted = f"Proxy-Authorization: Basic {base64.b64encode(self._login.encode()).decode()}\r\n"
            status = self._status or (b"407 Proxy Authentication Required" if self._login and wanted not in head.decode() else b"")
            if status:
                wire.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
                return
            host, _, port = rest.split()[0].rpartition(":")
            with socket.create_connection((host, int(port)), 10) as far:
                wire.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                other = threading.Thread(target=_pour, args=(far, wire), daemon=True)
                other.start()
                _pour(wire, far)
                other.join()


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def house() -> Iterator[Relay]:
    with relay() as found:
        yield found


@pytest.fixture
def line(house: Relay, request: pytest.FixtureRequest) -> Line:
    return enrol.invite(house.folder, "worker", f"w{abs(hash(request.node.nodeid)) % 10**9}", time.time())


@contextlib.contextmanager
def office(monkeypatch: pytest.MonkeyPatch, login: str = "", status: bytes = b"", shown: str = "") -> Iterator[Office]:
    """The proxy, and an environment that names it (and nothing else) with ``shown`` as name and password."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    found = Office(login, status)
    monkeypatch.setenv("HTTPS_PROXY", f"http://{shown}127.0.0.1:{found.port}")
    try:
        yield found
    finally:
        found.close()


@pytest.mark.parametrize(("login", "shown"), [("", ""), ("anna:s@same", "anna:s%40same@")], ids=["open", "password"])
def test_a_machine_joins_and_works_through_the_proxy(
    house: Relay, line: Line, monkeypatch: pytest.MonkeyPatch, login: str, shown: str
) -> None:
    with house.hub() as hub:
        hub.serve("ask", lambda who, _payload: who.name.encode())
        with office(monkeypatch, login, shown=shown) as found, Link(enrol.join(line.text())) as link:
            assert link.request("ask", b"") == link.name.encode()
    assert (set(found.asked), len(found.asked)) == ({f"CONNECT localhost:{house.address[1]}"}, 3)  # certificate, guest, member


@pytest.mark.parametrize(
    ("login", "shown", "status", "said"),
    [
        ("anna:sesame", "", b"", "wants a name and a password"),
        ("anna:sesame", "anna:secret@", b"", "does not take our name and password"),
        ("", "", b"403 Forbidden", "does not let us through"),
        ("", "", b"502 Bad Gateway", "HTTP 502"),
    ],
)
def test_a_proxy_that_refuses_is_told_from_a_relay_that_is_away(
    line: Line, monkeypatch: pytest.MonkeyPatch, login: str, shown: str, status: bytes, said: str
) -> None:
    with office(monkeypatch, login, status, shown), pytest.raises(OvernightError) as found:
        enrol.join(line.text())
    assert (found.value.code, found.value.exit_code, said in str(found.value), "secret" in str(found.value)) == (
        "E-RELAY-PROXY",
        7,
        True,
        False,
    )


@pytest.mark.parametrize("status", [b"403 Forbidden", b"407 Proxy Authentication Required"])
def test_a_proxy_that_refuses_later_is_said_too(house: Relay, line: Line, monkeypatch: pytest.MonkeyPatch, status: bytes) -> None:
    joined = enrol.join(line.text())
    with office(monkeypatch, status=status), pytest.raises(OvernightError) as found, Link(joined):
        pass
    assert (found.value.code, house.address[0] in joined.address) == ("E-RELAY-PROXY", True)


def test_a_proxy_that_is_not_there_is_named(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = enrol.join(line.text())
    with office(monkeypatch):
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{free_port()}")
        for come in (lambda: enrol.join(line.text()), lambda: Link(joined)):
            with pytest.raises(OvernightError, match=r"the proxy http://127\.0\.0\.1:\d+ cannot be reached"):
                come()


def test_a_host_that_no_proxy_names_is_reached_without_it(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    with office(monkeypatch) as found:
        monkeypatch.setenv("NO_PROXY", "example.org,localhost")
        with Link(enrol.join(line.text())):
            pass
    assert found.asked == []


@pytest.mark.parametrize("text", ["socks5://127.0.0.1:1080", "https://proxy:443", "http://", "http://x:99999"])
def test_a_proxy_of_another_kind_is_refused_with_what_is_taken(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with office(monkeypatch):
        monkeypatch.setenv("HTTPS_PROXY", text)
        with pytest.raises(UsageError, match="HTTPS_PROXY cannot be used"):
            towards("relay.example.org")


def test_small_letters_and_a_proxy_without_its_scheme_are_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with office(monkeypatch):
        monkeypatch.delenv("HTTPS_PROXY")
        monkeypatch.setenv("all_proxy", "proxy.example.org:3128")
        assert towards("relay.example.org") == Proxy("proxy.example.org", 3128)
