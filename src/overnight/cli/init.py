"""The verb ``init``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from overnight.app import start
from overnight.app.init import describe, values
from overnight.cli.options import json_option


@click.command()
@click.option("--force", is_flag=True, help="Replace an overnight.toml that is there; program.md is never replaced.")
@json_option
def init(force: bool, as_json: bool) -> None:
    """Look at this repository and write overnight.toml (and program.md, if there is none). Runs nothing."""
    findings, written = start.init(Path.cwd(), force=force)
    if as_json:
        program = str(written.program) if written.program else None
        click.echo(json.dumps({"schema": "overnight/init/1", "config": str(written.config), "program": program, "found": values(findings)}))
        return
    click.echo("\n".join(describe(findings)))
    click.echo(f"{written}; .overnight/ and results.tsv are excluded from git. Nothing was run yet.")
    command = "" if findings.command else " -- COMMAND"
    click.echo(f"next: overnight run --budget 20{command}     (the first run is the baseline)")
