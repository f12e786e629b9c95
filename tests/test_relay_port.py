"""Strangers at the relay's port: whatever they send, they get nothing and harm nothing."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator

import pytest

from overnight.hub.credentials import Credentials
from overnight.hub.link import Link
from relays import Relay, relay


@pytest.fixture(scope="module")
def house() -> Iterator[Relay]:
    with relay() as found:
        yield found


@pytest.fixture(scope="module")
def hub(house: Relay) -> Iterator[Link]:
    with house.hub() as found:
        yield found


@pytest.fixture(scope="module")
def one(house: Relay) -> Credentials:
    return house.joined("worker", "one")


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def _frame(payload: bytes, opcode: int = 2, *, masked: bool = True) -> bytes:
    size = len(payload)
    head = bytes([0x80 | opcode]) + (bytes([size | 128 * masked]) if size < 126 else bytes([126 | 128 * masked]) + size.to_bytes(2, "big"))
    return head + (bytes(4) if masked else b"") + payload


PROBES = {
    "nothing": b"", "one byte": b"G", "zeros": bytes(4096), "noise": bytes(range(256)) * 16, "newlines": b"\r\n" * 2000,
    "GET": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "no host": b"GET / HTTP/1.0\r\n\r\n", "POST": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    "PUT": b"PUT /varz HTTP/1.1\r\nHost: x\r\n\r\n", "DELETE": b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT localhost:22 HTTP/1.1\r\nHost: x\r\n\r\n", "TRACE": b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
    "monitoring": b"GET /varz HTTP/1.1\r\nHost: x\r\n\r\n", "connz": b"GET /connz?auth=1 HTTP/1.1\r\nHost: x\r\n\r\n", "jsz": b"GET /jsz?accounts=1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "traversal": b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", "encoded": b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "absolute": b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/9": b"GET / HTTP/9.9\r\n\r\n",
    "smuggled": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "long line": b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "many headers": b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(5000)) + b"\r\n",
    "long header": b"GET / HTTP/1.1\r\nX: " + b"y" * 2_000_000, "folded": b"GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n", "NUL": b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "old upgrade": UPGRADE.replace(b"13", b"8"), "no key": UPGRADE.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
    "foreign origin": UPGRADE.replace(b"Host:", b"Origin: https://evil.example\r\nHost:"), "h2c": UPGRADE.replace(b"websocket", b"h2c"),
    "leaf": UPGRADE.replace(b"GET /", b"GET /leafnode"), "mqtt": UPGRADE.replace(b"GET /", b"GET /mqtt"),
    "greeting unmasked": UPGRADE + _frame(b"CONNECT {}\r\nPING\r\n", masked=False), "greeting empty": UPGRADE + _frame(b"CONNECT {}\r\nPING\r\n"),
    "no greeting": UPGRADE + _frame(b"SUB > 1\r\nPING\r\n"), "publish": UPGRADE + _frame(b"PUB hub.one.ask 1\r\nx\r\n"), "text": UPGRADE + _frame(b"CONNECT {}\r\n", 1),
    "password": UPGRADE + _frame(b'CONNECT {"user":"admin","pass":"admin"}\r\nPING\r\n'), "token": UPGRADE + _frame(b'CONNECT {"auth_token":"x"}\r\nPING\r\n'),
    "bad claims": UPGRADE + _frame(b'CONNECT {"jwt":"a.b.c","sig":"x"}\r\nPING\r\n'), "reserved": UPGRADE + b"\xf2\x80\0\0\0\0", "huge frame": UPGRADE + b"\x82\xff" + b"\xff" * 8 + bytes(4),
    "long control": UPGRADE + _frame(b"CONNECT " + b"{" * 60000), "bare NATS": b"CONNECT {}\r\nPING\r\n", "ssh": b"SSH-2.0-OpenSSH_9.0\r\n", "redis": b"*1\r\n$4\r\nINFO\r\n",
}  # fmt: skip


def _probed(address: tuple[str, int], data: bytes, *, tls: bool) -> bytes:
    """All that comes back; the port has to hang up by itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    found = b""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection(address, 30))
        wire = stack.enter_context(context.wrap_socket(plain, server_hostname="localhost")) if tls else plain
        wire.sendall(data)
        if not data.startswith(UPGRADE):
            plain.shutdown(socket.SHUT_WR)
        while more := wire.recv(65536):
            found += more
    return found


@pytest.mark.parametrize("name", PROBES)
def test_a_stranger_at_the_port_gets_nothing_and_harms_nothing(house: Relay, name: str) -> None:
    for tls in (True, False):
        found = _probed(house.address, PROBES[name], tls=tls)
        body = found.partition(b"\r\n\r\n")[2] if found.startswith(b"HTTP/1.1 101") else b""
        assert not found or found.startswith(
            (b"HTTP/1.1 3", b"HTTP/1.1 4", b"HTTP/1.0 4", b"HTTP/1.1 5", b"HTTP/1.1 101", b"\x15\x03", b"Client sent")
        )
        assert b"PONG" not in body
        assert b"MSG" not in body


def test_after_all_probes_members_are_served(hub: Link, one: Credentials) -> None:
    hub.serve("ask", lambda _who, payload: payload)
    with Link(one) as link:
        assert link.request("ask", b"well") == b"well"


def test_who_says_nothing_is_hung_up_on(house: Relay) -> None:
    began = time.monotonic()
    _probed(house.address, UPGRADE, tls=True)
    assert time.monotonic() - began < 20


def test_many_strangers_who_say_nothing_keep_nobody_out(house: Relay, hub: Link, one: Credentials) -> None:
    hub.serve("ask", lambda _who, payload: payload)
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection(house.address, 30))
        with Link(one) as link:
            assert link.request("ask", b"well") == b"well"
