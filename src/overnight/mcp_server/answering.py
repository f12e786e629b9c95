"""How a tool answers: its work runs in a thread, says its progress, hears when nobody wants it any more, and an error is data.

The only room of this face that is asynchronous. Knows no verb.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.lowlevel import current_token
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.types import CallToolResult, TextContent
from pydantic import BaseModel, ValidationError

from overnight.cli import refused
from overnight.errors import NotFoundError, OvernightError, UsageError, nearest
from overnight.printable import clean

_MOST = 64  # long calls at once; short ones have threads of their own
_LONGEST = 500  # letters of a line of progress


@dataclass(frozen=True, slots=True)
class Call:
    """What a tool's work is given besides its arguments: where it is, how it says its progress, and whether it was cancelled."""

    say: Callable[[str], None]
    stopped: threading.Event
    environ: Mapping[str, str]

    def folder(self, named: str) -> Path:
        """The folder that is meant: relative ones lie below that in which the server was started. Raises ``NotFoundError``."""
        found = (Path.cwd() / Path(named or ".").expanduser()).absolute()
        if not found.is_dir():
            raise NotFoundError("E-NO-FOLDER", f"there is no folder {found}", fix=f"ls {found.parent}")
        return found


Work = Callable[..., BaseModel]


def tool_of(work: Work) -> Callable[..., Any]:
    """A tool function of the SDK around ``work(call, …)``: the same arguments and result, on a thread."""
    signature = inspect.signature(work, eval_str=True)
    given = [each for name, each in signature.parameters.items() if name != "call"]
    ctx = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=Context)
    given = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in given]

    async def tool(ctx: Context[Any, Any], **arguments: Any) -> BaseModel:
        return await _answered(ctx, functools.partial(work, **arguments))

    tool.__name__, tool.__doc__ = work.__name__, work.__doc__
    tool.__signature__ = signature.replace(parameters=[ctx, *given])  # type: ignore[attr-defined] # what inspect reads first
    tool.__annotations__ = {"ctx": Context, **{each.name: each.annotation for each in given}, "return": signature.return_annotation}
    return tool


async def _answered(ctx: Context[Any, Any], work: Callable[[Call], BaseModel]) -> BaseModel:
    stopped, token, count = threading.Event(), current_token(), itertools.count(1)

    def say(text: str) -> None:
        if not stopped.is_set():
            anyio.from_thread.run(ctx.report_progress, next(count), None, clean(text)[:_LONGEST], token=token)

    try:
        return await anyio.to_thread.run_sync(work, Call(say, stopped, os.environ), abandon_on_cancel=True, limiter=_threads())
    finally:
        stopped.set()


@functools.cache
def _threads() -> anyio.CapacityLimiter:
    return anyio.CapacityLimiter(_MOST)


def error_of(exc: BaseException) -> OvernightError:
    """Whatever was raised, as one of our errors."""
    if isinstance(exc, OvernightError):
        return exc
    if (told := refused(exc)) is not None:
        return told
    what = f"{type(exc).__name__}: {exc}"
    return OvernightError("E-UNEXPECTED", what, why="this is a fault of overnight", fix="OVERNIGHT_DEBUG=1 shows the details")


def _why(exc: ToolError) -> OvernightError:
    """The error behind what the SDK raises: arguments that do not fit its schema, or what our work has raised."""
    cause = exc.__cause__
    if isinstance(exc, UnexpectedToolError) and cause is not None:
        return error_of(cause)
    if isinstance(cause, ValidationError):
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in cause.errors(include_input=False))
        return UsageError("E-USAGE", wrong, why="the arguments do not fit the tool's schema", fix="overnight --help")
    return UsageError("E-USAGE", str(exc), fix="overnight --help")


class Server(MCPServer):
    """The SDK's server, whose errors are data: ``{"ok": false, "error": {code, message, hint}}``, as ``--json`` prints them."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None) -> Any:
        """Call a tool by its name; never raises for what went wrong in it."""
        try:
            known = {tool.name: tool.input_schema.get("properties", {}) for tool in await self.list_tools()}.get(name)
            if known is not None and (odd := sorted(arguments.keys() - known.keys())):
                return _refused(_unknown(name, odd[0], sorted(known)))
            return await super().call_tool(name, arguments, context)
        except ToolError as exc:
            return _refused(_why(exc))


def _refused(error: OvernightError) -> CallToolResult:
    # As text: some clients hold whatever is structured to the schema of a success.
    return CallToolResult(content=[TextContent(type="text", text=json.dumps({"ok": False, "error": error.as_dict()}))], is_error=True)


def _unknown(tool: str, odd: str, known: Sequence[str]) -> OvernightError:
    """The SDK passes over what it does not know: the tool would then speak of something else than what was asked for."""
    why = f"its arguments are {', '.join(known)}" if known else "it has no arguments"
    return UsageError("E-USAGE", f"{tool} takes no '{odd}'{nearest(odd, known)}", why=why, fix="overnight --help")
