"""The verb ``join``, and the parts of ``worker`` that have to do with a relay: ``join``, ``allow``, ``forbid``, ``install``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from overnight.app import joining, recipes
from overnight.cli.options import json_option
from overnight.printable import one_line

_F = TypeVar("_F", bound=Callable[..., Any])


def credentials_option(function: _F) -> _F:
    """Add ``--credentials``."""
    return click.option(
        "--credentials",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Where to keep what was joined, instead of the user's own place.",
    )(function)


@click.command()
@click.argument("line")
@credentials_option
@json_option
def join(line: str, credentials: Path | None, as_json: bool) -> None:
    """Join a relay as a client: LINE is what `overnight relay invite client NAME` has printed there."""
    _join("client", line, credentials, as_json=as_json)


@click.command("join")
@click.argument("line")
@credentials_option
@json_option
def worker_join(line: str, credentials: Path | None, as_json: bool) -> None:
    """Join a relay as a worker: LINE is what `overnight relay invite worker NAME` has printed there."""
    _join("worker", line, credentials, as_json=as_json)


@click.command()
@click.argument("names", nargs=-1)
@json_option
def allow(names: tuple[str, ...], as_json: bool) -> None:
    """Let only jobs of these clients run here, besides those allowed before; `all` allows everybody, no name shows the list."""
    now = joining.allow(os.environ, names) if names else joining.allowed(os.environ)
    _tell_allowed(now if names != (joining.ALL,) else None, as_json=as_json)


@click.command()
@click.argument("name")
@json_option
def forbid(name: str, as_json: bool) -> None:
    """Take one client off the list of those whose jobs may run here."""
    _tell_allowed(joining.forbid(os.environ, name), as_json=as_json)


@click.command()
@click.option("--print", "kind", required=True, type=click.Choice(recipes.KINDS), help="What brings the worker up.")
def install(kind: str) -> None:
    """Print a recipe that keeps a worker running: look it through, then use it."""
    click.echo(recipes.recipe(kind), nl=False)


def _join(kind: str, line: str, credentials: Path | None, *, as_json: bool) -> None:
    found, path = joining.join(os.environ, kind, line, credentials, lambda text: click.echo(text, err=True))
    if as_json:
        row = {"name": found.name, "kind": kind, "address": found.address, "file": str(path)}
        click.echo(json.dumps({"schema": "overnight/join/1", **row}))
        return
    click.echo(
        f"joined {found.address} as {kind} {one_line(found.name, 40)}; next: overnight {'worker start' if kind == 'worker' else 'hub submit'}"
    )


def _tell_allowed(names: tuple[str, ...] | None, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"schema": "overnight/allowed/1", "clients": None if names is None else list(names)}))
        return
    click.echo(
        "jobs of all clients of the hub may run here"
        if names is None
        else "jobs of these clients may run here: " + (", ".join(names) or "nobody")
    )
