"""Speaks the Agent Client Protocol to one agent: a program that is the command of a proposal's job, so that both stand behind the same walls.

    python -I acp_client.py PLAN AGENT WORDS… < brief

``PLAN`` is a JSON object: ``editable`` (paths that the agent may change), ``mode`` and ``method`` (of the session and of a login, where the agent
has them) and ``until``, the time at which the turn is called off (0 = never). The working directory is the copy. One JSON object on standard output tells the end.
An edit of an editable file is allowed, reading too, all else is denied; nobody is asked anything. What the agent does without asking is for
walls and scope check to hold.

Imports nothing of the project. ``await`` stays in this room.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import acp
from acp import schema

_LONGEST = 16 * 2**20  # bytes of one message
_STRAY = 200  # lines in a row that are no message: then it does not speak the protocol
_LEAVE = 2.0  # seconds in which a turn that was called off may come to its end
_TEXT = 65536  # characters of what it said that are kept
_LATE = "out of time"
_HARMLESS = ("read", "search", "think")
_PATHS = ("path", "file_path", "filePath", "abs_path", "absolute_path", "notebook_path", "filename", "fileName")


class Person:
    """Answers in the person's place. ``editable`` are absolute paths without links in them."""

    def __init__(self, folder: str, editable: Sequence[str]) -> None:
        self._folder = folder
        self._editable = {os.path.join(folder, path) for path in editable}
        self._kinds: dict[str, str] = {}  # of tool calls that were announced
        self._touched: dict[str, set[str]] = {}
        self.text = ""
        self.denied: list[str] = []
        self.cost: dict[str, Any] = {}
        self.usage: list[Mapping[str, Any]] = []  # of single answers, from agents that tell it with them
        self._parted = False

    def _real(self, path: str) -> str:
        return os.path.realpath(os.path.join(self._folder, path.removeprefix("file://")))

    def may_edit(self, path: str) -> bool:
        """Whether the file is one of the editable ones, whatever links lead to it."""
        return self._real(path) in self._editable

    def _is_inside(self, path: str) -> bool:
        return self._real(path) == self._folder or self._real(path).startswith(self._folder + os.sep)

    async def request_permission(
        self, session_id: str, tool_call: schema.ToolCallUpdate, options: list[schema.PermissionOption], **_: Any
    ) -> schema.RequestPermissionResponse:
        """Allow an edit of editable files, and reading in the copy; deny the rest."""
        del session_id
        self._learn(tool_call)
        kind, paths = self._kinds.get(tool_call.tool_call_id, "other"), self._touched.get(tool_call.tool_call_id, set())
        good = bool(paths) and all(map(self.may_edit, paths)) if kind == "edit" else kind in _HARMLESS and all(map(self._is_inside, paths))
        if not good:
            self._deny(f"{kind} {', '.join(sorted({self._real(path) for path in paths})) or tool_call.title or ''}")
        wanted = ("allow_once", "allow_always") if good else ("reject_once", "reject_always")
        chosen = next((option.option_id for each in wanted for option in options if option.kind == each), None)
        if chosen is None:
            return schema.RequestPermissionResponse(outcome=schema.DeniedOutcome(outcome="cancelled"))
        return schema.RequestPermissionResponse(outcome=schema.AllowedOutcome(outcome="selected", option_id=chosen))

    def _deny(self, what: str) -> None:
        self.denied.append(what.replace(self._folder + os.sep, "").strip()[:200])

    def _learn(self, call: Any) -> None:
        """What a tool call is and which files it is about; an edit that says so later is one."""
        known = call.tool_call_id
        content = call.content or ()
        diffs = [each.path for each in content if getattr(each, "type", "") == "diff"]
        if kind := "edit" if diffs and call.kind in (None, "edit", "other") else call.kind:
            self._kinds[known] = kind
        given = call.raw_input if isinstance(call.raw_input, Mapping) else {}
        named = [str(given[name]) for name in _PATHS if isinstance(given.get(name), str)]
        self._touched.setdefault(known, set()).update((*diffs, *named, *(place.path for place in call.locations or ())))

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        """Keep what it says, what it is about to do, and what it has cost."""
        del session_id
        if isinstance(update, schema.AgentMessageChunk):
            if isinstance(told := (update.field_meta or {}).get("usage"), Mapping):
                self.usage.append(told)
            if isinstance(update.content, schema.TextContentBlock):
                self.text = (self.text + ("\n\n" if self._parted and self.text else "") + update.content.text)[-_TEXT:]
                self._parted = False
            return
        self._parted = True
        if isinstance(update, schema.ToolCallStart | schema.ToolCallProgress):
            self._learn(update)
        elif isinstance(update, schema.UsageUpdate) and update.cost is not None:
            self.cost = {"amount": update.cost.amount, "currency": update.cost.currency}

    async def read_text_file(
        self, session_id: str, path: str, line: int | None = None, limit: int | None = None, **_: Any
    ) -> schema.ReadTextFileResponse:
        """A file of the copy, or ``limit`` lines of it from ``line`` on."""
        del session_id
        if not self._is_inside(path):
            raise acp.RequestError.invalid_params({"reason": f"{path} is not in the working directory"})
        try:
            text = _read(self._real(path))
        except OSError as exc:
            raise acp.RequestError.resource_not_found(path) from exc
        if line or limit:
            lines = text.splitlines(keepends=True)[max(0, (line or 1) - 1) :]
            text = "".join(lines[:limit] if limit else lines)
        return schema.ReadTextFileResponse(content=text)

    async def write_text_file(self, session_id: str, path: str, content: str, **_: Any) -> None:
        """Write an editable file; raises the protocol's error for any other."""
        del session_id
        if not self.may_edit(path):
            self._deny(f"write {path}")
            raise acp.RequestError.invalid_params({"reason": f"{path} is protected"})
        _write(self._real(path), content)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        return file.read(_LONGEST)


def _write(path: str, content: str) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(content)


class _SilentError(Exception):
    """The agent does not speak the protocol, or not any more."""


async def _messages(source: asyncio.StreamReader, target: asyncio.StreamReader) -> None:
    """Hand on what is a message; raises ``_SilentError`` when there is too much else, or no more."""
    rest, stray = b"", 0
    while chunk := await source.read(65536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in (*lines, *([rest] if len(rest) > _LONGEST else [])):
            is_message = False
            if len(line) <= _LONGEST and line.lstrip().startswith(b"{"):
                with contextlib.suppress(ValueError):
                    is_message = isinstance(json.loads(line), dict)
            if is_message:
                target.feed_data(line + b"\n")
            stray = 0 if is_message else stray + bool(line.strip())
            if stray > _STRAY or len(line) > _LONGEST:
                raise _SilentError(f"not valid JSON: {line[:200].decode('utf-8', 'replace')}")
    raise _SilentError("")


async def _talk(agent: Any, person: Person, plan: Mapping[str, Any], brief: str) -> dict[str, Any]:
    """One turn, from the greeting to its end."""
    files = schema.FileSystemCapabilities(read_text_file=True, write_text_file=True)
    hello = await agent.initialize(
        protocol_version=acp.PROTOCOL_VERSION,
        client_capabilities=schema.ClientCapabilities(fs=files, terminal=False),
        client_info=schema.Implementation(name="overnight", version="1"),
    )
    if any(method.id == plan["method"] for method in hello.auth_methods or ()):
        await agent.authenticate(method_id=plan["method"])
    session = await agent.new_session(cwd=os.getcwd(), mcp_servers=[])
    modes = session.modes.available_modes if session.modes else []
    if any(mode.id == plan["mode"] for mode in modes):
        await agent.set_session_mode(session_id=session.session_id, mode_id=plan["mode"])
    asked = asyncio.ensure_future(agent.prompt(session_id=session.session_id, prompt=[acp.text_block(brief)]))
    try:
        done = await asyncio.wait_for(asyncio.shield(asked), (plan["until"] and max(0.1, plan["until"] - time.time())) or None)
        stopped = done.stop_reason
    except (TimeoutError, asyncio.CancelledError) as exc:
        stopped, done = _LATE if isinstance(exc, TimeoutError) else "cancelled", None
        await agent.cancel(session_id=session.session_id)
        with contextlib.suppress(TimeoutError, asyncio.CancelledError, acp.RequestError):
            done = await asyncio.wait_for(asked, _LEAVE)
    return _record(person, stopped, done, session.session_id)


def _record(person: Person, stopped: str, done: Any, session: str) -> dict[str, Any]:
    return {
        "type": "result", "stop": stopped, "text": person.text, "denied": person.denied[:16], "usage": _usage(done, person.usage),
        "cost": person.cost, "session": session,
    }  # fmt: skip


def _usage(done: Any, answers: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Tokens read (cached ones included), cached and written: as the protocol has it, else as Gemini CLI or Qwen Code tell it beside it."""
    if done is not None and done.usage is not None:
        told = done.usage  # some count what was cached among the input, some do not: the total is the same
        written = told.output_tokens + (told.thought_tokens or 0)
        return {"read": max(told.total_tokens - written, 0), "cached": told.cached_read_tokens or 0, "written": written}
    quota = ((done.field_meta if done is not None else None) or {}).get("quota")
    count = quota.get("token_count") if isinstance(quota, Mapping) else None
    if isinstance(count, Mapping):
        return {"read": count.get("input_tokens", 0), "cached": 0, "written": count.get("output_tokens", 0)}
    names = (("read", "inputTokens"), ("cached", "cachedReadTokens"), ("written", "outputTokens"))
    return {name: sum(int(each.get(key) or 0) for each in answers) for name, key in names}


async def _turn(plan: Mapping[str, Any], command: Sequence[str], brief: str) -> dict[str, Any] | None:
    """Start the agent, talk, and end it; None if it ended without a word that could be understood."""
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    person, messages = Person(os.getcwd(), plan["editable"]), asyncio.StreamReader(limit=2 * _LONGEST)
    agent = acp.connect_to_agent(person, process.stdin, messages)  # type: ignore[arg-type] # it lacks the methods for what is not offered
    talk, pump = asyncio.ensure_future(_talk(agent, person, plan, brief)), asyncio.ensure_future(_messages(process.stdout, messages))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, talk.cancel)
    try:
        await asyncio.wait((talk, pump), return_when=asyncio.FIRST_COMPLETED)
        if not talk.done():
            words = str(pump.exception() or "")
            messages.feed_eof()
            if words or not (await asyncio.wait((talk,), timeout=_LEAVE))[0]:  # its last words may have come with its end
                return {"type": "result", "stop": "error", "error": words, "text": person.text} if words else None
        return talk.result()
    except acp.RequestError as exc:
        data = json.dumps(exc.data) if exc.data else ""
        return {"type": "result", "stop": "error", "error": f"{exc} {data}".strip(), "text": person.text, "cost": person.cost}
    except ConnectionError:
        return None
    finally:
        for task in (talk, pump):
            task.cancel()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _LEAVE / 2)
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # its end is not waited for: a child of it may hold the pipe, and who runs the job ends all of them


def main(plan: str, command: Sequence[str]) -> int:
    """Run one turn and print its end; returns 0, or 1 if there was none."""
    logging.disable(logging.CRITICAL)  # the library's tracebacks are no words of the agent
    wanted = {"mode": "", "method": "", "until": 0.0, **json.loads(plan)}
    found = asyncio.run(_turn(wanted, command, sys.stdin.read()))
    if found is None:
        return 1
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    if found["stop"] == _LATE:
        signal.pause()  # whoever has set the limit says so
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1], sys.argv[2:])
    os._exit(code)  # at once: what the agent has left open is not ours to wait for
