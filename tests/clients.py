"""Clients of the server for agents: those of the SDK, which are not ours."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

import studies
from overnight.mcp_server import server

SERVE = ["-m", "overnight", "mcp"]
PATIENCE = 60


def spoken(root: Path, env: dict[str, str], work: Callable[[Client], Awaitable[Any]]) -> Any:
    """What ``work`` gives with a client of a server that was started in ``root``, over its standard input and output."""

    async def main() -> Any:
        parameters = StdioServerParameters(command=sys.executable, args=SERVE, cwd=root, env={"PATH": os.environ["PATH"], **env})
        with (root.parent / "server.log").open("w") as log:
            async with Client(stdio_client(parameters, errlog=log)) as client:
                with anyio.fail_after(PATIENCE):
                    return await work(client)

    return anyio.run(main)


def answer(found: Any) -> dict[str, Any]:
    """What a tool has answered: its structure, or the error as data."""
    return dict(json.loads(found.content[0].text) if found.is_error else found.structured_content)


def asked(root: Path, env: dict[str, str], *calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The structured answers to several calls of one client, one after the other."""

    async def work(client: Client) -> list[dict[str, Any]]:
        return [answer(await client.call_tool(name, arguments)) for name, arguments in calls]

    found: list[dict[str, Any]] = spoken(root, env, work)
    return found


def settings(folder: Path, rows: dict[str, Any]) -> None:
    """Write the settings of a repository."""
    (folder / "overnight.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in rows.items()))


def in_process(work: Callable[[Client], Awaitable[Any]]) -> Any:
    """What ``work`` gives with a client of a server in this process."""

    async def main() -> Any:
        async with Client(server.made()) as client:
            return await work(client)

    return anyio.run(main)


class Heard(list[str]):
    """What a call has told of its progress."""

    async def hear(self, progress: float, total: float | None, message: str | None) -> None:
        assert (progress, total) == (len(self) + 1, None)
        self.append(message or "")


def study(folder: Path) -> studies.Study:
    """A repository whose settings say all that a loop needs."""
    made = studies.study(folder)
    rows = {
        "metric": "loss",
        "direction": "minimize",
        "baseline_runs": 1,
        "ahead": False,
        "unsafe_no_sandbox": True,
        "command": ["sh", "run.sh"],
    }
    settings(made.root, {**rows, "proposer_command": f"sh {made.out}/agent.sh"})
    return made
