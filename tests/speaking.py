"""A program that speaks the Agent Client Protocol by the agent's side of its library, and does what a list of steps says."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

Step = Sequence[object]

_BODY = """\
import asyncio, json, os, sys
import acp
from acp import schema

OPTIONS = [schema.PermissionOption(option_id=each, name=each, kind=each) for each in ("allow_always", "allow_once", "reject_once")]


class Scripted:
    def __init__(self):
        self.client, self.mode = None, ""
        self.cancelled = asyncio.Event()

    def on_connect(self, client):
        self.client = client

    async def initialize(self, protocol_version, client_capabilities=None, client_info=None, **more):
        return schema.InitializeResponse(protocol_version=1)

    async def new_session(self, cwd, mcp_servers=None, **more):
        if STEPS[0][0] == "refuse":
            raise acp.RequestError.auth_required({"details": "401 please log in"})
        modes = schema.SessionModeState(current_mode_id="auto", available_modes=[schema.SessionMode(id=each, name=each) for each in ("auto", "default")])
        return schema.NewSessionResponse(session_id="s-1", modes=modes)

    async def set_session_mode(self, session_id, mode_id, **more):
        self.mode = mode_id

    async def cancel(self, session_id, **more):
        self.cancelled.set()

    async def asks(self, number, kind, path, **more):
        call = schema.ToolCallUpdate(tool_call_id=str(number), kind=kind, title=f"{kind} it", locations=[schema.ToolCallLocation(path=path)] if path else [], **more)
        answer = await self.client.request_permission(session_id="s-1", tool_call=call, options=OPTIONS)
        return getattr(answer.outcome, "option_id", "cancelled")

    async def tell(self, text):
        await self.client.session_update(session_id="s-1", update=acp.update_agent_message_text(text))

    async def prompt(self, prompt, session_id, **more):
        heard, answers = prompt[0].text, []
        for number, (what, *words) in enumerate(STEPS):
            if what == "say":
                await self.tell(words[0])
            elif what == "hear":
                open(words[0], "w").write(heard + f"|mode {self.mode}")
            elif what == "edit":
                answer = await self.asks(number, "edit", os.path.abspath(words[0]))
                answers.append(answer)
                if answer == "allow_once":
                    open(words[0], "w").write(words[1])
            elif what == "ask":
                answers.append(await self.asks(number, words[0], words[1]))
            elif what == "write":
                try:
                    await self.client.write_text_file(session_id="s-1", path=os.path.abspath(words[0]), content=words[1])
                except acp.RequestError as exc:
                    answers.append(str(exc.data["reason"]))
            elif what == "read":
                try:
                    answers.append((await self.client.read_text_file(session_id="s-1", path=os.path.abspath(words[0]), line=2, limit=1)).content)
                except acp.RequestError as exc:
                    answers.append("refused")
            elif what == "note":
                open(words[0], "w").write(json.dumps(answers))
            elif what == "child":
                if os.fork() == 0:
                    os.execvp("sleep", ["sleep", "60"])
            elif what == "link":
                os.symlink(words[0], words[1])
            elif what == "open":
                try:
                    answers.append(open(words[0]).read())
                except OSError as exc:
                    answers.append(type(exc).__name__)
            elif what == "cost":
                update = schema.UsageUpdate(session_update="usage_update", used=9, size=99, cost=schema.Cost(amount=words[0], currency=words[1]))
                await self.client.session_update(session_id="s-1", update=update)
            elif what == "garbage":
                for _ in range(words[0]):
                    print("this is no message", flush=True)
            elif what == "crash":
                print(words[0], file=sys.stderr, flush=True)
                os._exit(3)
            elif what == "fail":
                raise acp.RequestError(-32603, "Internal error", {"details": words[0]})
            elif what == "hang":
                await self.cancelled.wait()
                open(words[0], "w").write("cancelled in time")
                return schema.PromptResponse(stop_reason="cancelled", usage=schema.Usage(total_tokens=30, input_tokens=20, output_tokens=10))
            elif what == "meta":
                update = acp.update_agent_message_text("")
                update.field_meta = {"usage": {"inputTokens": words[0], "outputTokens": 5, "cachedReadTokens": 2}}
                await self.client.session_update(session_id="s-1", update=update)
            elif what == "quota":
                return schema.PromptResponse(stop_reason="end_turn", field_meta={"quota": {"token_count": {"input_tokens": 40, "output_tokens": 4}}})
            elif what == "end":
                return schema.PromptResponse(stop_reason=words[0])
        usage = schema.Usage(total_tokens=60, input_tokens=20, output_tokens=10, cached_read_tokens=30)
        return schema.PromptResponse(stop_reason="end_turn", usage=usage)


asyncio.run(acp.run_agent(Scripted()))
"""


def speaking(path: Path, *steps: Step) -> Path:
    """An executable that takes these steps in its first turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable} -I\nimport json\nSTEPS = json.loads({json.dumps(json.dumps(steps))})\n{_BODY}")
    path.chmod(0o755)
    return path
