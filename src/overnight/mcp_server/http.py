"""The server over streamable HTTP: for programs on this machine, each with the token; plain HTTP, so nothing leaves it unless a person says so."""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp.server.transport_security import TransportSecuritySettings

from overnight.errors import NotAllowedError, UsageError
from overnight.mcp_server.server import leaving, made

VARIABLE = "OVERNIGHT_MCP_TOKEN"
_SHORTEST = 16  # letters of a token

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def shown(self) -> str:
        """As it is written in an address of the web."""
        return f"[{self.host}]" if ":" in self.host else self.host


def address(text: str, *, remote: bool) -> Address:
    """``HOST:PORT``, ``[::1]:PORT`` or ``PORT`` (on 127.0.0.1). Raises ``UsageError``, ``NotAllowedError``."""
    host, sign, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if sign else "127.0.0.1"
    if not port.isascii() or not port.isdigit() or not int(port) < 65536 or not host:
        raise UsageError("E-ADDRESS", f"'{text}' is no address", why="HOST:PORT is wanted", fix="overnight mcp --http 127.0.0.1:8765")
    found = Address(host, int(port))
    if not found.local and not remote:
        raise NotAllowedError(
            "E-NOT-LOCAL", f"{host} can be reached from other machines", why="it is plain HTTP: the token would travel in the clear",
            fix=f"overnight mcp --http 127.0.0.1:{port}   # and: ssh -L {port}:127.0.0.1:{port} this-machine",
        )  # fmt: skip
    return found


def token(file: Path | None, environ: Mapping[str, str]) -> tuple[str, Path | None]:
    """The token, and the file that holds it: the variable's, or the file's, which is made when missing. Raises ``UsageError``, ``NotAllowedError``."""
    if file is None and (found := environ.get(VARIABLE, "")):
        return _long(found, VARIABLE), None
    path = (file or _place(environ)).expanduser().absolute()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return _read(path), path
    except OSError as exc:
        raise UsageError("E-TOKEN", f"{path} cannot be made: {exc.strerror}", fix=f"export {VARIABLE}=…") from exc
    with os.fdopen(handle, "w", encoding="ascii") as stream:
        os.fchmod(handle, 0o600)
        stream.write((found := secrets.token_urlsafe(32)) + "\n")
    return found, path


def _place(environ: Mapping[str, str]) -> Path:
    state = environ.get("XDG_STATE_HOME", "")
    root = Path(state) if state.startswith("/") else Path(environ.get("HOME") or "/nonexistent") / ".local" / "state"
    return root / "overnight" / "mcp.token"


def _read(path: Path) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(handle, encoding="utf-8", errors="replace") as stream:
            told = os.fstat(handle)
            text = stream.read(4096).strip()
    except OSError as exc:
        raise UsageError("E-TOKEN", f"{path} cannot be read: {exc.strerror}", fix=f"rm {path}   # then the same again") from exc
    if not stat.S_ISREG(told.st_mode) or stat.S_IMODE(told.st_mode) & 0o077 or told.st_uid != os.geteuid():
        raise NotAllowedError(
            "E-TOKEN-OPEN", f"others may read {path}", why="who has the token may run commands as you", fix=f"chmod 600 {path}"
        )
    return _long(text, str(path))


def _long(text: str, where: str) -> str:
    if len(text) < _SHORTEST or not text.isascii():
        raise UsageError(
            "E-TOKEN", f"the token in {where} is too short or not ASCII", why=f"{_SHORTEST} letters at least", fix="openssl rand -hex 32"
        )
    return text


def guarded(app: App, wanted: str) -> App:
    """Lets requests pass that carry ``Authorization: Bearer`` with the token; says nothing to others."""
    expected = f"Bearer {wanted}".encode("ascii")

    async def guard(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
        given = [value for name, value in scope.get("headers", ()) if name == b"authorization"]
        if scope["type"] == "lifespan" or (len(given) == 1 and hmac.compare_digest(given[0], expected)):
            await app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send(
            {
                "type": "http.response.body",
                "body": b'{"ok": false, "error": {"code": "E-TOKEN", "message": "no token, or a wrong one", "hint": ""}}',
            }
        )

    return guard


def serve(where: Address, wanted: str, begun: Callable[[str], None]) -> None:
    """Serve at an address until we are told to end; ``begun`` hears the address once it can be reached. Raises ``UsageError``."""
    import uvicorn

    try:
        listening = socket.create_server((where.host, where.port), family=socket.AF_INET6 if ":" in where.host else socket.AF_INET)
    except OSError as exc:
        raise UsageError(
            "E-ADDRESS", f"{where.shown}:{where.port} cannot be listened at: {exc.strerror}", fix="overnight mcp --http 127.0.0.1:0"
        ) from exc
    with listening:
        port = listening.getsockname()[1]
        names = {where.shown, *(("127.0.0.1", "localhost", "[::1]") if where.local else ())}
        hosts = sorted(f"{name}:{port}" for name in names)
        security = TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=[f"http://{host}" for host in hosts])
        app = made().streamable_http_app(host=where.host, transport_security=security)
        begun(f"http://{where.shown}:{port}/mcp")
        config = uvicorn.Config(guarded(app, wanted), log_level="warning", timeout_graceful_shutdown=3)
        with leaving():  # it raises the signal that has ended it once more when it is done
            uvicorn.Server(config).run(sockets=[listening])
