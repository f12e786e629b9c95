"""The verb ``idea``: what a person wants to be tried."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from overnight.app import ideas
from overnight.cli.options import json_option, state_option
from overnight.notes import QueuedIdea
from overnight.printable import one_line


@click.group()
def idea() -> None:
    """What you want to be tried; the next proposal takes the first idea of the queue."""


@idea.command()
@click.argument("text")
@click.option("--pin", is_flag=True, help="Before all that is not pinned, as a wish of yours that is to be followed.")
@state_option
@json_option
def add(text: str, pin: bool, state: Path | None, tag: str, as_json: bool) -> None:
    """Put TEXT into the queue."""
    item, read = ideas.add(Path.cwd(), state, os.environ, tag, text, pinned=pin)
    _say(item, "is queued" if read else "waits for a proposer that reads briefs (optuna does not)", as_json=as_json)


@idea.command()
@click.option("--all", "everything", is_flag=True, help="Also what is done or vetoed.")
@state_option
@json_option
def ls(everything: bool, state: Path | None, tag: str, as_json: bool) -> None:
    """The queue in the order in which it is taken."""
    with ideas.opened(Path.cwd(), state, os.environ, tag) as found:
        rows = ideas.listed(found, everything=everything)
    if as_json:
        click.echo(json.dumps({"schema": "overnight/ideas/1", "ideas": [ideas.idea_json(*row) for row in rows]}))
        return
    lines = [
        f"{item.id:>5}  {'pinned' if item.pinned else 'agent' if item.rank else '':<6}  {ideas.word(item, taken):<16}  {one_line(item.text, 300)}"
        for item, taken in rows
    ]
    click.echo("\n".join(lines) or "no ideas are queued")


@idea.command()
@click.argument("idea_id", type=int, metavar="ID")
@state_option
@json_option
def veto(idea_id: int, state: Path | None, tag: str, as_json: bool) -> None:
    """Say that an idea must not be tried: every brief says so."""
    _say(ideas.mark(Path.cwd(), state, os.environ, tag, idea_id, "veto"), "is vetoed", as_json=as_json)


@idea.command()
@click.argument("idea_id", type=int, metavar="ID")
@state_option
@json_option
def up(idea_id: int, state: Path | None, tag: str, as_json: bool) -> None:
    """Move an idea to the front; one that was taken or vetoed is open again."""
    _say(ideas.mark(Path.cwd(), state, os.environ, tag, idea_id, "up"), "is next", as_json=as_json)


@idea.command()
@click.argument("idea_id", type=int, metavar="ID")
@state_option
@json_option
def done(idea_id: int, state: Path | None, tag: str, as_json: bool) -> None:
    """Say that an idea needs no proposal any more."""
    _say(ideas.mark(Path.cwd(), state, os.environ, tag, idea_id, "done"), "is done", as_json=as_json)


def _say(item: QueuedIdea, what: str, *, as_json: bool) -> None:
    told = {"schema": "overnight/ideas/1", "idea": ideas.idea_json(item)}
    click.echo(json.dumps(told) if as_json else f"idea {item.id} {what}: {one_line(item.text, 100)}")
