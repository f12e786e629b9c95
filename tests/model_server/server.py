"""The HTTP side: loopback only, bounded, one thread a connection; it notes what it was asked."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from model_server.steps import Edit, Empty, Fail, Flood, Garbage, Hang, Read, Say, Shell, Step, Use, as_call, in_words
from model_server.wires import Answer, Asked, parse, render

_LARGEST = 32 * 2**20
_KINDS = {400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
          429: "rate_limit_error", 500: "api_error", 503: "overloaded_error", 529: "overloaded_error"}  # fmt: skip
_WORDS = {
    401: "invalid x-api-key",
    402: "Your credit balance is too low",
    429: "Rate limit reached for requests",
    503: "overloaded",
    529: "Overloaded",
}


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    step: str  # what it was answered with


class ModelServer:
    """Answers by ``steps``; a conversation with n tool results gets the n-th. ``with ModelServer([...]) as server: server.url``."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)
        self.seen: list[Seen] = []
        self.saying: Callable[[Asked], str] | None = None  # answers every request instead of the steps
        self._failed: dict[int, int] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.owner = self  # type: ignore[attr-defined]
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: Mapping[str, Any], text: str, headers: Mapping[str, str]) -> tuple[int, bytes, bool]:
        """Status, body, and whether it is a stream."""
        asked = parse(path, body, text)
        if asked is None:
            self._note(path, body, headers, "other")
            return _other(path)
        step = Say(self.saying(asked)) if self.saying else self._step(asked)
        self._note(path, body, headers, type(step).__name__)
        if isinstance(step, Hang):
            self._closing.wait()
        if isinstance(step, Fail):
            return step.status, _error(asked.wire, step.status), False
        if isinstance(step, Garbage):
            return 200, b"\x00\xff<html>it works!</html>", False
        return 200, render(asked, self._said(asked, step)), asked.stream

    def _note(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str], step: str) -> None:
        with self._lock:
            self.seen.append(Seen(path, body, headers, step))

    def _step(self, asked: Asked) -> Step:
        for at in range(min(asked.results, len(self.steps)), len(self.steps)):
            step = self.steps[at]
            if isinstance(step, Fail) and step.times:
                with self._lock:
                    self._failed[at] = self._failed.get(at, 0) + 1
                    if self._failed[at] > step.times:
                        continue
            return step
        return Say("nothing more to do")

    def _said(self, asked: Asked, step: Step) -> Answer:
        if isinstance(step, Empty):
            return Answer()
        if isinstance(step, Flood):
            return Answer("x" * step.size)
        if isinstance(step, Say):
            return Answer(step.text)
        if not asked.tools:
            return Answer(in_words(self.steps, asked.text) or "A title")
        call = as_call(step, asked.tools, asked.folder) if isinstance(step, Read | Edit | Shell | Use) else None
        return Answer(call=call) if call else Answer("there is no tool for this")


def _other(path: str) -> tuple[int, bytes, bool]:
    route = path.partition("?")[0]
    if "count" in route.rsplit("/", 1)[-1].lower():
        return 200, b'{"input_tokens": 1000, "totalTokens": 1000}', False
    if route.endswith("/models"):
        return 200, b'{"object": "list", "data": [], "models": []}', False
    return 404, b'{"error": {"message": "no such address", "type": "not_found_error"}}', False


def _error(wire: str, status: int) -> bytes:
    message = _WORDS.get(status, f"error {status}")
    if wire == "messages":
        return json.dumps({"type": "error", "error": {"type": _KINDS.get(status, "api_error"), "message": message}}).encode()
    if wire == "gemini":
        return json.dumps(
            {"error": {"code": status, "message": message, "status": "UNAUTHENTICATED" if status == 401 else "RESOURCE_EXHAUSTED"}}
        ).encode()
    return json.dumps({"error": {"message": message, "type": _KINDS.get(status, "api_error"), "code": str(status)}}).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send(*self._owner().answer(self.path, {}, "", dict(self.headers)))

    def do_HEAD(self) -> None:
        self._send(200, b"", False)

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if size > _LARGEST:
            self._send(413, b"{}", False)
            return
        raw = self._chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(size)
        coding = self.headers.get("Content-Encoding", "")
        if coding == "gzip":
            raw = gzip.decompress(raw)
        elif coding == "deflate":
            raw = zlib.decompress(raw)
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            body = {}
        self._send(
            *self._owner().answer(self.path, body if isinstance(body, dict) else {}, raw.decode("utf-8", "replace"), dict(self.headers))
        )

    def _chunks(self) -> bytes:
        found = b""
        while (size := int(self.rfile.readline().split(b";")[0] or b"0", 16)) and len(found) < _LARGEST:
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _owner(self) -> ModelServer:
        return self.server.owner  # type: ignore[attr-defined,no-any-return]

    def _send(self, status: int, body: bytes, stream: bool) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "text/event-stream" if stream else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Say nothing: requests are noted in ``seen``."""
