"""The verb ``brief``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from overnight.app import brief as briefs
from overnight.app import learned
from overnight.cli.options import json_option, state_option
from overnight.operators import SPOKEN


@click.command()
@click.option("--operator", default="improve", type=click.Choice(list(SPOKEN)), show_default=True, help="Which kind of step.")
@state_option
@json_option
def brief(operator: str, state: Path | None, tag: str, as_json: bool) -> None:
    """What the next proposer would be told; asks nobody and changes nothing."""
    with learned.opened(Path.cwd(), state, os.environ, tag) as found:
        told = briefs.told(found, operator, Path.cwd())
    if as_json:
        size = len(told.text.encode())
        row = {"operator": operator, "text": told.text, "bytes": size, "notes": list(told.notes), "idea": told.idea or None}
        click.echo(json.dumps({"schema": "overnight/brief/1", **row}))
    else:
        click.echo(told.text, nl=False)
