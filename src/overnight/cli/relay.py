"""The verb ``relay``: the public point that workers and clients dial out to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from overnight.app import founding, recipes
from overnight.app import relay as relays
from overnight.cli.options import json_option
from overnight.errors import UsageError
from overnight.printable import one_line

_F = TypeVar("_F", bound=Callable[..., Any])


def relay_option(function: _F) -> _F:
    """Add ``--relay``."""
    return click.option(
        "--relay", "place", type=click.Path(path_type=Path), metavar="DIR", help="The relay's folder, if it is not the user's own."
    )(function)


@click.group()
def relay() -> None:
    """The public point that workers and clients dial out to, and who may come."""


@relay.command()
@click.option("--host", default="", metavar="NAME", help="The name or number that others reach this machine by; its own name if not given.")
@click.option(
    "--port", default=relays.PORT, type=click.IntRange(1, 65535), metavar="N", show_default=True, help="For everybody: WebSocket over TLS."
)
@click.option("--cert", type=click.Path(path_type=Path), metavar="FILE", help="Show this certificate instead of one of the relay's own.")
@click.option("--key", type=click.Path(path_type=Path), metavar="FILE", help="The private key of --cert.")
@relay_option
@json_option
def init(host: str, port: int, cert: Path | None, key: Path | None, place: Path | None, as_json: bool) -> None:
    """Make the relay: its keys, its certificate, nobody in it."""
    if (cert is None) != (key is None):
        raise UsageError("E-USAGE", "--cert and --key go together", fix="overnight relay init --cert FILE --key FILE")
    given = (cert, key) if cert is not None and key is not None else None
    found = relays.init(os.environ, place, (host or relays.this_host(), port), given)
    made = found.relay()
    if as_json:
        _say_json(folder=str(found.path), host=made.host, port=made.port)
        return
    click.echo(f"a relay for wss://{made.host}:{made.port} is in {found.path}\nnext: overnight relay start")


@relay.command()
@click.option("--host", default="", metavar="NAME", help="Make the relay first, if there is none, for this name or number of this machine.")
@click.option(
    "--port", default=None, type=click.IntRange(1, 65535), metavar="N", help="The port of a relay that is made; 8443 if not given."
)
@click.option(
    "--with-hub/--alone",
    "with_hub",
    default=None,
    help="With the hub beside it, or without; a relay made here by --host has it, if not given.",
)
@click.option("--background", is_flag=True, help="In a session of its own; returns when it is up.")
@relay_option
@json_option
def start(background: bool, place: Path | None, as_json: bool, **given: Any) -> None:
    """Run the relay here until ^C or `overnight relay stop`; while nobody has joined it says how the first ones do."""
    found = founding.founded(os.environ, place, given["host"], given["port"], hub=given["with_hub"] is not False)
    with_hub = found.relay().hub if given["with_hub"] is None else given["with_hub"]
    if not background:
        founding.start(os.environ, found, _log_json if as_json else _log, with_hub=with_hub)
        return
    pid, log = relays.start_behind(os.environ, found, with_hub=with_hub)
    lines = founding.first_lines(found) if with_hub else {}
    if as_json:
        _say_json(pid=pid, log=str(log), join=lines)
        return
    click.echo("\n".join([f"the relay is up (pid {pid}); its log: {log}", *founding.told(lines)]))


@relay.command()
@relay_option
@json_option
def stop(place: Path | None, as_json: bool) -> None:
    """End the relay; workers go on with what they run and come back when it does."""
    pid = relays.stop(relays.folder(os.environ, place))
    if as_json:
        _say_json(pid=pid)
        return
    click.echo(f"the relay (pid {pid}) has ended")


@relay.command()
@relay_option
@json_option
def status(place: Path | None, as_json: bool) -> int:
    """Is it up, who has joined, who is connected, what it holds; exit code 7 if it is down."""
    found = relays.status(relays.folder(os.environ, place))
    if as_json:
        members = [{**asdict(row), "revoked": row.revoked or None, "connected": bool(row.address)} for row in found.members]
        streams = {name: {"messages": count, "bytes": size} for name, (count, size) in found.streams.items()}
        _say_json(**{**asdict(found), "members": members, "streams": streams})
        return 0 if found.up else 7
    click.echo(f"{found.address} is " + (f"up since {found.uptime}" if found.up else "down; next: overnight relay start"))
    if found.up:
        click.echo(f"nats-server {found.version}, {_size(found.memory)} of memory; the hub is {'' if found.hub else 'not '}connected")
        click.echo(
            "kept: " + (", ".join(f"{name} {count} in {_size(size)}" for name, (count, size) in sorted(found.streams.items())) or "nothing")
        )
    for row in found.members:
        state = "cut off" if row.revoked else f"connected from {one_line(row.address, 45)}, {row.rtt}" if row.address else "away"
        click.echo(f"{row.kind:<8} {row.name:<32} {state}")
    return 0 if found.up else 7


@relay.command()
@click.argument("kind", type=click.Choice(["worker", "client"]))
@click.argument("name")
@relay_option
@json_option
def invite(kind: str, name: str, place: Path | None, as_json: bool) -> None:
    """Print the line with which one worker or client joins, once, within ten minutes."""
    line, seconds = relays.invite(relays.folder(os.environ, place), kind, name)
    command = f"overnight {'worker join' if kind == 'worker' else 'join'} {line}"
    if as_json:
        _say_json(name=name, kind=kind, line=line, command=command, seconds=seconds)
        return
    click.echo(command)
    click.echo(f"good for {seconds // 60} minutes, once: run it on the machine that becomes {kind} {name}", err=True)


@relay.command()
@click.argument("name")
@relay_option
@json_option
def revoke(name: str, place: Path | None, as_json: bool) -> None:
    """Cut a worker or client off, at once and for good; an invitation to it is void."""
    live = relays.revoke(relays.folder(os.environ, place), name)
    if as_json:
        _say_json(name=name, live=live)
        return
    click.echo(f"{name} is cut off" + ("" if live else "; the relay does not run now, and will not let it in when it does"))


@relay.command()
@click.option("--print", "kind", required=True, type=click.Choice(["systemd"]), help="What brings the relay up.")
@json_option
def install(kind: str, as_json: bool) -> None:
    """Print a recipe that keeps the relay and its hub running: look it through, then use it."""
    text = recipes.recipe(kind, "relay")
    click.echo(json.dumps({"schema": "overnight/recipe/1", "kind": kind, "text": text}) if as_json else text, nl=as_json)


def _say_json(**row: object) -> None:
    click.echo(json.dumps({"schema": "overnight/relay/1", **row}))


def _log(text: str) -> None:
    click.echo(one_line(text, 1000))


def _log_json(text: str) -> None:
    _say_json(log=text)


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MB"
