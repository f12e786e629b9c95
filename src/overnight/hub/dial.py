"""One connection to a relay, and what can go wrong on the way to it.

The library below would try for minutes and say why on standard error; here a try is one try, and each trouble one clear error.
Must not know what is said over the connection.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import socket
import ssl
import time
import urllib.parse
from collections.abc import Awaitable, Callable

import aiohttp
import nats.aio.client
import nats.aio.transport
import nats.errors

from overnight.errors import NotAllowedError, OvernightError, UnreachableError
from overnight.hub import keys
from overnight.hub.credentials import Credentials
from overnight.hub.limits import PENDING
from overnight.hub.proxy import Proxy, away, refused, towards

PATIENCE = 10.0  # seconds for one try
PING = 10  # seconds; a wire over which two have got no answer is dead
_ANSWER = 5  # seconds for one step of it
_CLOSE = 2.0  # seconds for saying good-bye
_FRAME = 2 * PENDING  # bytes; the server may put all that waits for us into one
_OTHER_NAME, _NOT_YET, _EXPIRED = {62, 64}, {9}, {10}  # X509_V_ERR_… of openssl/x509_vfy.h

Client = nats.aio.client.Client


class _WebSocket(nats.aio.transport.WebSocketTransport):
    """As in the library, but through the HTTP proxy that it was given, with frames of a bounded size, and closed in time."""

    def __init__(self, proxy: Proxy | None) -> None:
        super().__init__()
        self._client.detach()
        self._proxy = proxy
        self._sockets: list[socket.socket] = []
        self._client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=self._socket))

    async def connect_tls(
        self, uri: str | urllib.parse.ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        del buffer_size, connect_timeout  # the whole try has one limit
        if self._ws is None or self._ws.closed:
            self._ws = await self._client.ws_connect(
                uri if isinstance(uri, str) else uri.geturl(),
                ssl=ssl_context,
                max_msg_size=_FRAME,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE),
                proxy=self._proxy.address if self._proxy else None,
                proxy_headers=self._proxy.headers() if self._proxy else None,
            )
            self._using_tls = True

    async def wait_closed(self) -> None:
        """Close all there is: TLS would wait half a minute for the other side's good-bye."""
        try:
            await super().wait_closed()  # type: ignore[no-untyped-call]
        finally:
            await self.discard()

    async def discard(self) -> None:
        """Close what is still open, without a good-bye."""
        if self._client is not None:
            await self._client.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        found = socket.socket(*address[:3])
        self._sockets.append(found)
        return found


async def dial(found: Credentials, lost: Callable[[], None]) -> Client:
    """A connection that is up; ``lost`` is called once when it is gone. Raises ``UnreachableError`` or ``NotAllowedError``."""
    logging.getLogger("nats").addHandler(logging.NullHandler())  # its words go nowhere unless somebody has asked for them
    client, outside, dialling = Client(), found.address.startswith("wss:"), True
    proxy = towards(urllib.parse.urlsplit(found.address).hostname or "") if outside else None
    if outside:
        client._transport = _WebSocket(proxy)  # noqa: SLF001 - there is no other way to give the library a transport

    async def failed(exc: Exception) -> None:
        if dialling:
            raise exc  # else it would try again

    async def closed() -> None:
        lost()

    try:
        async with asyncio.timeout(PATIENCE):
            await client.connect(
                found.address, name=found.name, error_cb=failed, closed_cb=closed, allow_reconnect=False, connect_timeout=_ANSWER,
                ping_interval=PING, max_outstanding_pings=2, tls=trust(found.authority) if outside else None,
                inbox_prefix=f"_INBOX.{found.name}", user_jwt_cb=lambda: bytearray(found.claims.encode()),
                signature_cb=lambda nonce: base64.b64encode(keys.sign(found.identity.seed, nonce.encode())),
            )  # fmt: skip
    except Exception as exc:
        dialling = False
        await hang_up(client)
        raise explained(exc, found.address, proxy) from exc
    dialling = False
    if not client.is_connected:
        await hang_up(client)
        raise _unreachable(found.address, "the greeting was cut short")
    return client


def trust(authority: str) -> ssl.SSLContext:
    """How to check the relay: by this authority (PEM) alone, or by those that the system trusts if it is empty. TLS 1.2 or newer."""
    context = ssl.create_default_context(cadata=authority or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def hang_up(client: Client) -> None:
    """Close a connection in whatever state it is: the library gives up half way when the wire is broken."""
    wire = client._transport  # noqa: SLF001 - nobody else closes it then
    for close in (client.close, wire.discard if isinstance(wire, _WebSocket) else _closing(wire)):
        with contextlib.suppress(Exception):  # a connection that is broken may say so while it is closed
            await close()


def _closing(wire: nats.aio.transport.Transport | None) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        if wire is not None:
            wire.close()  # type: ignore[no-untyped-call]

    return close


def explained(exc: BaseException, address: str, proxy: Proxy | None = None) -> OvernightError:
    """The error for what happened on the way to ``address``, by this proxy if there is one."""
    found: BaseException | None = exc
    while found is not None:
        if isinstance(found, aiohttp.ClientConnectorCertificateError):
            found = found.certificate_error
        if proxy is not None and isinstance(found, aiohttp.ClientHttpProxyError):
            return refused(proxy, address, found.status)
        if proxy is not None and isinstance(found, aiohttp.ClientProxyConnectionError):
            return away(proxy, found.strerror or str(found.os_error))
        if (told := _named(found, address)) is not None:
            return told
        found = found.__cause__ or found.__context__
    return _unreachable(address, str(exc) or type(exc).__name__)


def _named(exc: BaseException, address: str) -> OvernightError | None:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return _certificate(exc, address)
    if isinstance(exc, aiohttp.WSServerHandshakeError):
        return UnreachableError(
            "E-RELAY-WEBSOCKET",
            f"{address} answers, but does not speak WebSocket: HTTP {exc.status}",
            why="it is no relay, or a proxy between here and there does not let WebSocket through",
            fix="overnight relay status   # on the relay; a reverse proxy must pass the Upgrade and Connection headers on",
        )
    if isinstance(exc, nats.errors.Error) and "maximum connections" in str(exc):
        return UnreachableError("E-RELAY-FULL", f"{address} takes no more connections", fix="overnight relay status   # on the relay")
    if isinstance(exc, nats.errors.AuthorizationError) or "authorization" in str(exc).lower():
        return NotAllowedError(
            "E-RELAY-REFUSED",
            f"{address} does not let this machine in",
            why="it was cut off, or its invitation is not known there",
            fix="overnight relay invite worker NAME   # on the relay: a new invitation",
        )
    if isinstance(exc, aiohttp.ClientConnectorSSLError | ssl.SSLError | aiohttp.ServerDisconnectedError):
        return UnreachableError(
            "E-RELAY-TLS",
            f"{address} answers, but does not speak TLS",
            why=str(exc)[:200],
            fix="overnight relay status   # on the relay: is this its port?",
        )
    if isinstance(exc, TimeoutError):
        return _unreachable(address, f"no answer within {PATIENCE:.0f} seconds")
    return _unreachable(address, exc.strerror or str(exc)) if isinstance(exc, OSError) else None


def _certificate(exc: ssl.SSLCertVerificationError, address: str) -> OvernightError:
    now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    if exc.verify_code in _OTHER_NAME:
        return NotAllowedError(
            "E-RELAY-NAME",
            f"{address} shows a certificate for another name",
            why=exc.verify_message,
            fix="overnight relay init --host NAME   # on the relay, with the name that others reach it by",
        )
    if exc.verify_code in _NOT_YET:
        why = f"its certificate is not valid yet, and by this machine's clock it is {now} UTC"
        return UnreachableError("E-RELAY-CLOCK", f"{address} cannot be trusted", why=why, fix="timedatectl   # is the clock right?")
    if exc.verify_code in _EXPIRED:
        why = f"its certificate has expired, and by this machine's clock it is {now} UTC"
        return UnreachableError(
            "E-RELAY-CLOCK",
            f"{address} cannot be trusted",
            why=why,
            fix="timedatectl   # is the clock right? else, on the relay: overnight relay start",
        )
    return NotAllowedError(
        "E-RELAY-CERTIFICATE",
        f"{address} is not the relay that this machine has joined",
        why=f"its certificate is signed by somebody else: {exc.verify_message}",
        fix="overnight relay invite worker NAME   # on the relay, if it was made anew; else somebody is in between",
    )


def _unreachable(address: str, why: str) -> UnreachableError:
    return UnreachableError(
        "E-RELAY-UNREACHABLE", f"{address} cannot be reached", why=why, fix="overnight relay status   # on the relay: does it run?"
    )
