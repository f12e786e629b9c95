"""The verb ``note``: what was learned by experiments or written down by a person."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import click

from overnight.app import learned, notes
from overnight.cli.options import json_option, state_option
from overnight.notes import Edge, Note
from overnight.printable import clean, one_line

_SHAPES = {"win": "✔", "dead-end": "·", "failure": "✖", "retest": "↻", "remark": "✎"}


@click.group()
def note() -> None:
    """What was learned or written down; briefs are made from it."""


@note.command()
@click.argument("text")
@click.option("--experiment", default=None, type=click.IntRange(min=1), metavar="N", help="The experiment that it is about.")
@state_option
@json_option
def add(text: str, experiment: int | None, state: Path | None, tag: str, as_json: bool) -> None:
    """Write TEXT down: briefs tell your latest notes, and those that fit the task."""
    made = notes.add(Path.cwd(), state, os.environ, tag, text, experiment or 0)
    click.echo(_json("note", notes.note_json(made)) if as_json else f"note {made.id}: {one_line(made.text, 100)}")


@note.command()
@click.option("--last", default=20, type=click.IntRange(min=0), metavar="N", show_default=True, help="Only the last N; 0 = all.")
@click.option("--experiment", default=None, type=click.IntRange(min=1), metavar="N", help="Only those about this experiment.")
@click.option("--all", "retracted", is_flag=True, help="Also what was taken back.")
@state_option
@json_option
def ls(last: int, experiment: int | None, retracted: bool, state: Path | None, tag: str, as_json: bool) -> None:
    """Notes, one line each, the newest last."""
    with learned.opened(Path.cwd(), state, os.environ, tag) as found:
        rows, edges = notes.listed(found, last, experiment or 0, retracted=retracted)
    if as_json:
        click.echo(_json("notes", [notes.note_json(item, edges.get(item.id, ())) for item in rows]))
        return
    click.echo("\n".join(_line(item, item.text, edges.get(item.id, ())) for item in rows) or "no notes yet")


@note.command()
@click.argument("query")
@click.option("--limit", default=10, type=click.IntRange(min=1, max=1000), metavar="N", show_default=True, help="At most so many.")
@state_option
@json_option
def search(query: str, limit: int, state: Path | None, tag: str, as_json: bool) -> None:
    """Notes that hold any word of QUERY, best first, from all studies of the project."""
    with learned.opened(Path.cwd(), state, os.environ, tag) as found:
        hits, edges = notes.searched(found, query, limit)
    told = [edges.get(hit.note.id, ()) if not hit.project else () for hit in hits]
    if as_json:
        click.echo(_json("notes", [notes.hit_json(hit, ties) for hit, ties in zip(hits, told, strict=True)]))
        return
    lines = [
        (f"{one_line(hit.project, 40)} " if hit.project else "") + _line(hit.note, hit.snippet, ties)
        for hit, ties in zip(hits, told, strict=True)
    ]
    click.echo("\n".join(lines) or "nothing found")


@note.command()
@click.argument("note_id", type=int, metavar="ID")
@state_option
@json_option
def retract(note_id: int, state: Path | None, tag: str, as_json: bool) -> None:
    """Take a note back: it stays in the record and is told to nobody any more."""
    made = notes.retract(Path.cwd(), state, os.environ, tag, note_id)
    click.echo(_json("note", notes.note_json(made)) if as_json else f"note {made.id} is taken back")


def _json(name: str, found: object) -> str:
    return json.dumps({"schema": "overnight/notes/1", name: found})


def _line(item: Note, text: str, edges: Sequence[Edge]) -> str:
    ties = ", ".join(f"{edge.tie} {f'#{edge.experiment}' if edge.experiment else f'note {edge.other}'}" for edge in edges[:4])
    about = f"{item.tag} #{item.experiment}" if item.experiment else item.tag
    gone = " (taken back)" if item.retracted is not None else ""
    return f"{item.id:>5}  {_SHAPES[item.kind]} {item.kind:<8}  {clean(about):<12}  {one_line(text, 300)}{gone}" + (
        f"\n       {ties}" if ties else ""
    )
