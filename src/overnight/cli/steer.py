"""The verbs that steer a running loop: ``stop``, ``pause``, ``resume``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from overnight.app import control
from overnight.cli.options import json_option, state_option


def _say(text: str, *, as_json: bool, wanted: str) -> None:
    click.echo(json.dumps({"schema": "overnight/control/1", "wanted": wanted, "message": text}) if as_json else text)


@click.command()
@click.option("--now", is_flag=True, help="Do not finish the running experiments: put them back, they run again with the next start.")
@click.option("--wait", default=None, type=float, metavar="SECONDS", help="Wait so long for the end; exit 8 if it is still running then.")
@state_option
@json_option
def stop(now: bool, wait: float | None, state: Path | None, tag: str, as_json: bool) -> int:
    """Finish the running experiments, then end the loop."""
    wanted = "stop-now" if now else "stop"
    holder = control.ask(Path.cwd(), state, os.environ, wanted, tag)
    patience = wait if wait is not None else 20.0 if now else 0.0
    gone = control.wait_for_end(Path.cwd(), state, os.environ, patience) if patience else False
    text = "stopped" if gone else f"the loop ({holder}) ends {'now' if now else 'after the running experiments'}"
    _say(text, as_json=as_json, wanted=wanted)
    return 8 if patience and not gone else 0


@click.command()
@state_option
@json_option
def pause(state: Path | None, tag: str, as_json: bool) -> None:
    """Start nothing new until `overnight resume`; what runs goes on."""
    control.ask(Path.cwd(), state, os.environ, "pause", tag)
    _say("paused: running experiments finish, nothing new starts; overnight resume goes on", as_json=as_json, wanted="pause")


@click.command()
@state_option
@json_option
def resume(state: Path | None, tag: str, as_json: bool) -> None:
    """Go on after `overnight pause`."""
    control.ask(Path.cwd(), state, os.environ, "run", tag)
    _say("going on", as_json=as_json, wanted="run")
