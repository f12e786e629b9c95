"""The HTTP proxy through which a machine has to go out, as the environment names it, and what can be wrong with it.

HTTPS_PROXY (or ALL_PROXY, also in small letters) names it, with a name and a password if it wants them; NO_PROXY names hosts that are reached
without it, in the forms that Python's own library reads. Must not know what is said through it.
"""

from __future__ import annotations

import base64
import socket
import urllib.parse
import urllib.request
from dataclasses import dataclass

from overnight.errors import UnreachableError, UsageError

_HEAD = 8192  # bytes of an answer's head, at most


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where it is, and the header that lets us in (empty: none)."""

    host: str
    port: int
    authorization: str = ""

    @property
    def address(self) -> str:
        """Its address, without name and password."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def headers(self) -> dict[str, str]:
        """What is said to it beside the address."""
        return {"Proxy-Authorization": self.authorization} if self.authorization else {}


def towards(host: str) -> Proxy | None:
    """The proxy on the way to a host; None if there is none. Raises ``UsageError`` for one that cannot be used."""
    bare, named = host.strip("[]"), urllib.request.getproxies_environment()
    text = named.get("https") or named.get("all") or ""
    if not text or urllib.request.proxy_bypass(bare):
        return None
    try:
        found = urllib.parse.urlsplit(text if "://" in text else f"http://{text}")
        port = found.port or 80
    except ValueError as exc:
        raise _unfit(str(exc)) from exc
    if found.scheme != "http" or not found.hostname:
        raise _unfit(f"it begins with {found.scheme[:20]}://" if found.hostname else "it names no host")
    login = f"{urllib.parse.unquote(found.username or '')}:{urllib.parse.unquote(found.password or '')}"
    return Proxy(found.hostname, port, f"Basic {base64.b64encode(login.encode()).decode()}" if found.username else "")


def connected(host: str, port: int, patience: float) -> socket.socket:
    """A connection to a host, through the proxy if there is one on the way. Raises ``OSError``, ``UnreachableError``, ``UsageError``."""
    proxy = towards(host)
    if proxy is None:
        return socket.create_connection((host.strip("[]"), port), patience)
    try:
        found = socket.create_connection((proxy.host, proxy.port), patience)
    except OSError as exc:
        raise away(proxy, exc.strerror or str(exc)) from exc
    try:
        lines = [
            f"CONNECT {host}:{port} HTTP/1.1",
            f"Host: {host}:{port}",
            *(f"{name}: {value}" for name, value in proxy.headers().items()),
        ]
        found.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        status = _status(found)
    except BaseException:
        found.close()
        raise
    if status != 200:
        found.close()
        raise refused(proxy, f"{host}:{port}", status)
    return found


def _status(wire: socket.socket) -> int:
    """The status of the proxy's answer, whose head is read to its end and no further; 0 for what is none."""
    head = b""
    while not head.endswith(b"\r\n\r\n") and len(head) < _HEAD and (byte := wire.recv(1)):
        head += byte
    words = head.split(b"\r\n")[0].split()
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() else 0


def refused(proxy: Proxy, address: str, status: int) -> UnreachableError:
    """The error for a proxy that does not let us through."""
    if status == 407:
        what = "does not take our name and password" if proxy.authorization else "wants a name and a password"
        return UnreachableError(
            "E-RELAY-PROXY", f"the proxy {proxy.address} {what}", why="HTTPS_PROXY names it",
            fix=f"export HTTPS_PROXY=http://NAME:PASSWORD@{proxy.host}:{proxy.port}",
        )  # fmt: skip
    return UnreachableError(
        "E-RELAY-PROXY", f"the proxy {proxy.address} does not let us through to {address}: {f'HTTP {status}' if status else 'no answer of HTTP'}",
        why="HTTPS_PROXY names it", fix=f"export NO_PROXY={address.removeprefix('wss://').rpartition(':')[0]}   # if it can be reached without the proxy",
    )  # fmt: skip


def away(proxy: Proxy, why: str) -> UnreachableError:
    """The error for a proxy that is not there."""
    return UnreachableError(
        "E-RELAY-PROXY", f"the proxy {proxy.address} cannot be reached", why=f"{why}; HTTPS_PROXY names it", fix="env | grep -i _proxy"
    )


def _unfit(why: str) -> UsageError:
    return UsageError(
        "E-PROXY", f"HTTPS_PROXY cannot be used: {why}", why="a proxy is named as http://HOST:PORT", fix="env | grep -i _proxy"
    )
