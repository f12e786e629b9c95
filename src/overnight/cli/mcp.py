"""The verb ``mcp``: the tools for agents, over standard input and output or HTTP."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from overnight.cli.options import json_option
from overnight.errors import UsageError


@click.command()
@click.option(
    "--http", "address", default="", metavar="HOST:PORT", help="Serve streamable HTTP there instead of standard input and output."
)
@click.option(
    "--token-file", default=None, type=click.Path(path_type=Path), metavar="FILE",
    help="Holds the token of --http, for you alone (0600); made when missing. OVERNIGHT_MCP_TOKEN goes before the usual place.",
)  # fmt: skip
@click.option("--allow-remote", is_flag=True, help="Let --http listen where other machines reach it; the token then travels in the clear.")
@json_option
def mcp(address: str, token_file: Path | None, allow_remote: bool, as_json: bool) -> None:
    """Serve coding agents and other programs by the Model Context Protocol: hub, pipelines, loop, ideas, plans, notes, report.

    An agent's program starts it by itself: overnight install puts that in place.
    """
    try:
        from overnight.mcp_server import http, server
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.split(".")[0] == "overnight":
            raise
        raise UsageError(
            "E-MISSING-EXTRA", f"{exc.name} is not installed", why="the server is built on it", fix='pip install "overnight[mcp]"'
        ) from exc
    if not address:
        if token_file is not None or allow_remote:
            raise UsageError("E-USAGE", "--token-file and --allow-remote belong to --http", fix="overnight mcp --http 127.0.0.1:8765")
        server.stdio()
        return
    where = http.address(address, remote=allow_remote)
    token, file = http.token(token_file, os.environ)

    def begun(url: str) -> None:
        held = f"in {file}" if file else f"that of {http.VARIABLE}"
        told = {"schema": "overnight/mcp/1", "url": url, "token_file": str(file) if file else None}
        click.echo(json.dumps(told) if as_json else f"serving {url}\ntoken: {held}; send it as  Authorization: Bearer TOKEN")

    http.serve(where, token, begun)
