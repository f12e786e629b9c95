"""The verb ``hub start``: the hub, answering over the relay beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from overnight.cli.options import json_option
from overnight.cli.relay import relay_option


@click.command()
@click.option(
    "--hub", "folder", type=click.Path(path_type=Path), metavar="DIR", help="The hub's folder instead of your own (OVERNIGHT_HUB)."
)
@relay_option
@click.option(
    "--store",
    default="",
    metavar="ADDRESS",
    help="Keep the queue in a Postgres, which several hubs may share: postgres://user@host/database. Remembered in the hub's folder (OVERNIGHT_HUB_STORE).",
)
@json_option
def start(folder: Path | None, place: Path | None, as_json: bool, store: str) -> None:
    """Answer workers and clients over the relay of this machine, until ^C; jobs of this machine's own hub, and theirs."""
    from overnight.app import serving

    def say(text: str) -> None:
        click.echo(json.dumps({"schema": "overnight/hub/1", "said": text}) if as_json else text)

    serving.start(os.environ, folder, place, store, say)
