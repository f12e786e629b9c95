"""A plain model as a proposer: one question with the brief and the files, one answer with exact replacements; no tools, no program.

Speaks to any endpoint of the OpenAI chat or the Anthropic messages kind ($OPENAI_BASE_URL, $ANTHROPIC_BASE_URL), local ones too. An answer whose
replacements do not fit goes back once, with what was wrong. The keys never leave this process. httpx2 was chosen for its size: 4 MB and 0.1 s of
import, where a library of agents takes 119 MB and 1.8 s for the same one call.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from overnight.errors import ProposalError
from overnight.models import Experiment, Idea
from overnight.printable import one_line
from overnight.proposers import prices, troubles
from overnight.proposers.reports import Report
from overnight.protocols import Request

if TYPE_CHECKING:
    import httpx2

_LARGEST = 8 * 2**20  # bytes of an answer
_FILE = 200_000  # characters of a file that are shown; a longer one is cut off
_WRITTEN = 16_000  # tokens that an answer may have
_STEP = 0.1  # seconds between two looks whether the answer is still wanted
_SILENCE = 600.0  # seconds without a byte after which a connection is given up, where no time limit is set
_OPENAI, _ANTHROPIC = "https://api.openai.com/v1", "https://api.anthropic.com"
_FORM = """\
## The form of your answer

You have no tools. Answer with one JSON object and nothing else:

{"hypothesis": "what you change and why you expect it to help, in one line",
 "edits": [{"path": "train.py", "search": "lines that stand there now", "replace": "lines that stand there afterwards"}]}

Each "search" must occur exactly once in its file, blanks and line ends included."""


class _UnfitError(ValueError):
    """An answer that cannot be applied; the words go back to the model."""


@dataclass(slots=True)
class _Talk:
    """A conversation, and what it has cost so far."""

    messages: list[dict[str, str]]
    model: str = ""
    tokens_read: int = 0
    tokens_cached: int = 0
    tokens_written: int = 0

    @property
    def report(self) -> Report:
        return Report(tokens_read=self.tokens_read, tokens_cached=self.tokens_cached, tokens_written=self.tokens_written, model=self.model)


@dataclass(slots=True)
class _Call:
    """One request on its way, in a thread of its own."""

    status: int = 0
    body: bytes = b""
    failed: str = ""
    done: threading.Event = field(default_factory=threading.Event)


class LlmProposer:
    """Asks ``model`` (openai/NAME, anthropic/NAME, or NAME at $OPENAI_BASE_URL). ``time_limit`` is in seconds, for all rounds together."""

    name = "llm"

    def __init__(self, model: str, time_limit: float, environ: Mapping[str, str]) -> None:
        kind, _, rest = model.partition("/")
        self._anthropic = kind == "anthropic"
        self._model = rest if kind in ("openai", "anthropic") else model
        self._time_limit = time_limit
        variable, base = ("ANTHROPIC", _ANTHROPIC) if self._anthropic else ("OPENAI", _OPENAI)
        self._base = (environ.get(f"{variable}_BASE_URL") or base).rstrip("/")
        self._key = environ.get(f"{variable}_API_KEY", "")
        self._login = f"export {variable}_API_KEY=…"

    def ask(self, request: Request) -> Idea:
        """Ask, apply, and ask once more if that did not work; raises ``ProposalError``."""
        if not self._key and urlsplit(self._base).hostname in ("api.openai.com", "api.anthropic.com"):
            raise ProposalError("E-AGENT-LOGIN", "llm has no key", outage=True, fix=self._login, wait=120.0)
        files = {path: (request.copy / path).read_bytes().decode("utf-8", "replace") for path in request.editable}
        talk = _Talk([{"role": "user", "content": _question(request, files)}])
        until = time.monotonic() + (self._time_limit or _SILENCE)
        try:
            hypothesis, edited = self._answer(talk, files, (until, request.cancelled))
        except ProposalError as exc:
            exc.tokens, exc.cost = talk.tokens_read + talk.tokens_written, prices.estimated(talk.report, talk.model)
            raise
        for path, text in edited.items():
            (request.copy / path).write_bytes(text.encode())
        cost = prices.estimated(talk.report, talk.model or self._model)
        return Idea(
            hypothesis,
            self.name,
            talk.tokens_read + talk.tokens_written,
            cost,
            estimated=cost > 0,
            model=one_line(talk.model or self._model, 100),
        )

    def tell(self, experiment: Experiment, files: Callable[[], Mapping[str, bytes]]) -> None:
        """Nothing to learn here: the next brief carries the history."""

    def _answer(self, talk: _Talk, files: Mapping[str, str], wanted: tuple[float, Callable[[], bool]]) -> tuple[str, dict[str, str]]:
        for last in (False, True):
            said = self._said(talk, wanted)
            if not said.strip():
                raise ProposalError("E-AGENT-EMPTY", "llm answered nothing", outage=True)
            try:
                return _applied(said, files)
            except _UnfitError as exc:
                if last:
                    code = "E-NO-EDIT" if said.lstrip().startswith("{") else "E-AGENT-GARBAGE"
                    raise ProposalError(code, f"llm gave no edit that fits: {exc}", outage=True, why=one_line(said[-300:], 200)) from exc
                again = f"That cannot be applied: {exc}. Answer again with the whole JSON object, and nothing else."
                talk.messages += [{"role": "assistant", "content": said}, {"role": "user", "content": again}]
        raise AssertionError

    def _said(self, talk: _Talk, wanted: tuple[float, Callable[[], bool]]) -> str:
        """The text of one answer."""
        call = self._called(self._body(talk), wanted)
        if call.failed:
            raise troubles.told_apart(self.name, self._login, call.failed)
        if call.status != 200:
            raise troubles.told_apart(self.name, self._login, f"{call.status} {call.body[:500].decode('utf-8', 'replace')}")
        try:
            return (_read_messages if self._anthropic else _read_chat)(json.loads(call.body), talk)
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            why = one_line(call.body[:300].decode("utf-8", "replace"), 200)
            raise ProposalError("E-AGENT-GARBAGE", "llm answered what nobody understands", outage=True, why=why) from exc

    def _body(self, talk: _Talk) -> dict[str, object]:
        most = {"max_tokens": _WRITTEN} if self._anthropic else {}
        return {"model": self._model, "messages": talk.messages, **most}

    def _called(self, body: Mapping[str, object], wanted: tuple[float, Callable[[], bool]]) -> _Call:
        """Send a request and wait for its end, or for the moment when it is not wanted any more."""
        import httpx2

        until, cancelled = wanted
        call = _Call()
        with httpx2.Client(timeout=httpx2.Timeout(_SILENCE, connect=20.0)) as client:
            threading.Thread(target=self._send, args=(client, body, call), daemon=True).start()
            while not call.done.wait(_STEP):
                if cancelled():
                    raise ProposalError("E-CANCELLED", "the proposer was stopped", outage=True)
                if time.monotonic() > until:
                    raise ProposalError(
                        "E-PROPOSER-SLOW", f"llm did not answer within {self._time_limit:g} s", outage=True, fix="--proposer-time-limit 60m"
                    )
        return call

    def _send(self, client: httpx2.Client, body: Mapping[str, object], call: _Call) -> None:
        import httpx2

        if self._anthropic:
            url, headers = f"{self._base}/v1/messages", {"x-api-key": self._key, "anthropic-version": "2023-06-01"}
        else:
            url, headers = f"{self._base}/chat/completions", {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            with client.stream("POST", url, json=body, headers=headers) as answer:
                call.status = answer.status_code
                for part in answer.iter_bytes():
                    call.body += part
                    if len(call.body) > _LARGEST:
                        call.failed = f"more than {_LARGEST >> 20} MiB were answered"
                        break
        except (httpx2.HTTPError, httpx2.InvalidURL, RuntimeError, UnicodeError) as exc:  # RuntimeError: the client was closed
            call.failed = f"connection error: {exc}"
        finally:
            call.done.set()


def _question(request: Request, files: Mapping[str, str]) -> str:
    """The brief, the files, and the form of the answer."""
    shown = (f"### {path}\n\n~~~~~~\n{text[:_FILE]}\n~~~~~~" for path, text in files.items())
    return "\n\n".join([request.brief, "## The files", *shown, _FORM])


def _read_chat(found: Any, talk: _Talk) -> str:
    usage = found.get("usage") or {}
    talk.model = str(found.get("model") or "")
    talk.tokens_read += int(usage.get("prompt_tokens") or 0)
    talk.tokens_cached += int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
    talk.tokens_written += int(usage.get("completion_tokens") or 0)
    return str(found["choices"][0]["message"]["content"] or "")


def _read_messages(found: Any, talk: _Talk) -> str:
    usage = found.get("usage") or {}
    cached = int(usage.get("cache_read_input_tokens") or 0)
    talk.model = str(found.get("model") or "")
    talk.tokens_read += int(usage.get("input_tokens") or 0) + int(usage.get("cache_creation_input_tokens") or 0) + cached
    talk.tokens_cached += cached
    talk.tokens_written += int(usage.get("output_tokens") or 0)
    return "".join(str(part.get("text") or "") for part in found["content"] if part.get("type") == "text")


def _applied(said: str, files: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Hypothesis and changed files of an answer. Raises ``_UnfitError`` in words for the model."""
    match = re.search(r"\{.*\}", said, re.DOTALL)
    try:
        found = json.loads(match[0] if match else said)
    except ValueError as exc:
        raise _UnfitError(f"it is no JSON object ({exc})") from exc
    edits = found.get("edits") if isinstance(found, dict) else None
    if not isinstance(edits, list) or not edits:
        raise _UnfitError('it has no list "edits" with at least one edit')
    now = dict(files)
    for number, edit in enumerate(edits, 1):
        path, search, replace = (edit.get(name) if isinstance(edit, dict) else None for name in ("path", "search", "replace"))
        if not (isinstance(path, str) and isinstance(search, str) and isinstance(replace, str)):
            raise _UnfitError(f'edit {number} needs the texts "path", "search" and "replace"')
        if path not in now:
            raise _UnfitError(f"edit {number}: {one_line(path, 100)} may not be edited, only {', '.join(files)}")
        times = now[path].count(search) if search else int(not now[path])
        if times != 1:
            raise _UnfitError(f"edit {number}: its search text occurs {times} times in {path}, not once")
        now[path] = now[path].replace(search, replace, 1)
    changed = {path: text for path, text in now.items() if text != files[path]}
    if not changed:
        raise _UnfitError("the edits change nothing")
    return one_line(str(found.get("hypothesis") or ""), 300) or "no description", changed
