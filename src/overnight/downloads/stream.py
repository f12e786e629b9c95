"""``python -m overnight.downloads.stream FD``: fetch one URL into an open file, through fsspec, with the keys and the network of who runs it.

The order is a line of JSON on standard input, what went wrong a JSON object on standard output, empty if nothing did. It ends when its standard
input does. The bytes are hashed as they come, and none is written for which there is no room.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import threading
from typing import Any
from urllib.parse import urljoin

from overnight.downloads import Order
from overnight.errors import JobError
from overnight.queue.inputs import is_below

_BLOCK = 4 * 2**20
_CONNECT, _SILENCE = 30.0, 60.0  # seconds
_AGAIN = "overnight hub retry last"
_DENIED = {401, 403, 407}
_NETWORK = {
    "ClientError",
    "TimeoutError",
    "FSTimeoutError",
    "EndpointConnectionError",
    "TransportError",
}  # of aiohttp, fsspec, botocore, httpx


class _Sink(io.RawIOBase):
    """Writes to an open file, hashes, and keeps room on the disk."""

    def __init__(self, handle: int, room: int) -> None:
        super().__init__()
        self._handle, self._room = handle, room
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        """Raises ``JobError`` (E-INPUT-SIZE)."""
        disk = os.fstatvfs(self._handle)
        if disk.f_bavail * disk.f_frsize - len(data) < self._room:
            raise JobError(
                "E-INPUT-SIZE", "an input is too large for the worker's disk", why=f"{self._room >> 20} MB must stay free", fix="df -h"
            )
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._handle, left) :]
        except OSError as exc:
            raise JobError("E-INPUT-SIZE", f"an input cannot be kept: {exc.strerror}", why="it was being fetched", fix="df -h") from exc
        self.digest.update(data)
        return len(data)


def fetch(order: Order, handle: int) -> None:
    """Write the file that the URL gives to ``handle``. Raises ``JobError`` if there is none, or not the one that is wanted."""
    sink, shown = _Sink(handle, order.room), order.url.partition("?")[0]
    try:
        _pour(order, sink)
    except JobError:
        raise
    except Exception as exc:
        raise _told(exc, shown) from exc
    if sink.digest.hexdigest() != order.sha256:
        raise JobError(
            "E-INPUT-HASH", f"{shown} is not what was asked for", why=f"its sha256 is {sink.digest.hexdigest()}, not {order.sha256}",
            fix=f"overnight hub submit --input NAME=URL#sha256={sink.digest.hexdigest()} -- …   # if that is the right one",
        )  # fmt: skip
    os.fsync(handle)


def _pour(order: Order, sink: _Sink) -> None:
    scheme = order.url.partition("://")[0]
    try:
        import fsspec
    except ImportError as exc:
        raise JobError(
            "E-INPUT-PACKAGE", "the worker cannot fetch URLs", why="fsspec is missing there", fix="pip install 'overnight[urls]'"
        ) from exc
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as exc:
        missing = (getattr(exc.__cause__, "name", "") or scheme).partition(".")[0]
        raise JobError("E-INPUT-PACKAGE", f"the worker cannot fetch {scheme}:// URLs", why=f"{missing} is missing there", fix=f"pip install {missing}") from exc  # fmt: skip
    except ValueError as exc:
        raise JobError("E-INPUT-URL", f"nobody knows {scheme}:// URLs", fix="overnight hub submit --help") from exc
    if scheme in ("http", "https"):
        kind(client_kwargs=_manners(order), skip_instance_cache=True).get_file(order.url, sink)
        return
    # The parts of fsspec.open without the chains (a::b) that it would read out of the URL.
    files = kind(**kind._get_kwargs_from_urls(order.url))  # noqa: SLF001 - for those who take URLs apart, by its documentation of file systems
    with files.open(kind._strip_protocol(order.url), "rb") as file:  # noqa: SLF001 - the same
        while block := file.read(_BLOCK):
            sink.write(block)


def _manners(order: Order) -> dict[str, Any]:
    """How aiohttp behaves: no limit on the whole, proxies and netrc as the environment says, redirects where they may lead."""
    import aiohttp

    async def look(_session: object, _context: object, told: aiohttp.TraceRequestRedirectParams) -> None:
        to = urljoin(str(told.url), told.response.headers.get("Location") or told.response.headers.get("URI") or "")
        if order.prefixes is not None and not is_below(to, order.prefixes):
            raise JobError(
                "E-INPUT-REDIRECT", f"{order.url.partition('?')[0]} leads to {to.partition('?')[0][:200]}", why="the worker's owner does not let clients fetch there",
                fix="overnight worker start --fetch https://host/folder/   # by the worker's owner",
            )  # fmt: skip

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(look)
    limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENCE)
    return {"timeout": limits, "trust_env": True, "trace_configs": [trace], "headers": {"Accept-Encoding": "identity"}}


def _told(exc: Exception, shown: str) -> JobError:
    """A foreign error as ours."""
    kinds = {each.__name__ for each in type(exc).__mro__}
    status = getattr(exc, "status", None) or getattr(getattr(exc, "response", None), "status_code", None)
    why = f"{type(exc).__name__}: {exc}"[:500]
    if isinstance(exc, FileNotFoundError) or status in (404, 410):
        return JobError("E-INPUT-MISSING", f"{shown} is not there", why=why, fix=_look(shown))
    if isinstance(exc, PermissionError) or status in _DENIED or any("Credential" in name for name in kinds):
        return JobError(
            "E-INPUT-DENIED", f"the worker may not read {shown}", why=why, fix="give the worker's user the keys, and start the worker again"
        )
    if (isinstance(exc, OSError) or kinds & _NETWORK) and not shown.startswith("file:"):
        return JobError("E-INPUT-NETWORK", f"{shown} could not be fetched", why=why, fix=_AGAIN)
    return JobError("E-INPUT-FETCH", f"{shown} could not be fetched", why=why, fix=_AGAIN)


def _look(shown: str) -> str:
    if shown.startswith("file://"):
        return f"ls -ld {shown.removeprefix('file://')}"
    if shown.startswith("http"):
        return f"curl -I {shown}"
    return "overnight hub submit --input NAME=URL#sha256=HEX -- …   # with another URL"


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    """Do what the first line of standard input says."""
    order = Order(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_end_with_input, daemon=True).start()
    said = {}
    try:
        fetch(order, int(sys.argv[1]))
    except JobError as exc:
        said = {"code": exc.code, "message": exc.message, "why": exc.why, "fix": exc.fix}
    sys.stdout.write(json.dumps(said))
    sys.stdout.flush()
    os._exit(0)  # whatever threads a library has left


if __name__ == "__main__":
    main()
