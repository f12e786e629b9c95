"""The verbs ``install`` and ``uninstall``: the plugin for a coding agent."""

from __future__ import annotations

import json
import os

import click

from overnight.app import install as installing
from overnight.app.plugins import AGENTS
from overnight.cli.options import json_option

_NEXT = {
    "claude": "In Claude Code: /overnight:pi  /overnight:plan  /overnight:run  /overnight:loop  /overnight:report",
    "codex": "In Codex: /prompts:overnight-pi  …-plan  …-run  …-loop  …-report",
    "gemini": "In Gemini CLI: /overnight:pi  /overnight:plan  /overnight:run  /overnight:loop  /overnight:report",
    "opencode": "In OpenCode: /overnight-pi  /overnight-plan  /overnight-run  /overnight-loop  /overnight-report",
}


@click.command()
@click.argument("agent", type=click.Choice(list(AGENTS)))
@click.option(
    "--short",
    is_flag=True,
    help="The commands also by their bare names: /pi /plan /run /loop /report, which may hide commands of the program's own.",
)
@json_option
def install(agent: str, short: bool, as_json: bool) -> None:
    """Put commands, skill and tools in place for the AGENT that you use yourself; touches nothing else."""
    done = installing.install(agent, os.environ, short=short)
    if as_json:
        click.echo(json.dumps({"schema": "overnight/install/1", "agent": agent, "folder": str(done.folder), "written": list(done.written)}))
        return
    click.echo("\n".join(f"wrote {done.folder / path}" for path in done.written))
    click.echo(f"{_NEXT[agent]}\ntake it away: overnight uninstall {agent}")


@click.command()
@click.argument("agent", type=click.Choice(list(AGENTS)))
@json_option
def uninstall(agent: str, as_json: bool) -> None:
    """Take away what install has put there; files of your own are as they were before."""
    done = installing.uninstall(agent, os.environ)
    if as_json:
        told = {"agent": agent, "folder": str(done.folder), "removed": list(done.removed), "left": list(done.left)}
        click.echo(json.dumps({"schema": "overnight/install/1", **told}))
        return
    lines = [f"removed from {done.folder / path}" if path == "config.toml" else f"removed {done.folder / path}" for path in done.removed]
    lines += [f"left {done.folder / path}: it is not as it was written" for path in done.left]
    click.echo("\n".join(lines))
