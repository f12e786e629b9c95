"""The verb ``ideas``: what could reach the goal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from overnight.app import suggest
from overnight.cli.options import agent_options, json_option, options_of, place_options
from overnight.printable import one_line


def says(name: str, *, err: bool) -> Callable[[str], None]:
    """Prints lines under a name in brackets, those that go on below it indented as they are."""
    return lambda line: click.echo(line if line.startswith("  ") else f"[{name}] {line}", err=err)


@click.command()
@click.argument("goal", required=False, default="")
@click.option("--tag", default="", metavar="TAG", help="Which study gets them; the latest if not given, the next one if there is none.")
@agent_options("metric", "direction")
@place_options
@json_option
def ideas(goal: str, tag: str, config_file: Path | None, state: Path | None, as_json: bool, **given: Any) -> None:
    """Ask an agent for directions towards GOAL, and queue them, best first.

    GOAL is a sentence such as "improve 3D pose accuracy, currently MPJPE 48 mm, target < 25 mm"; not given = that of the settings.
    """
    told = suggest.ideas(options_of(config_file, state, (), given), goal, says("ideas", err=as_json), tag)
    if as_json:
        click.echo(json.dumps(suggest.told_json(told)))
        return
    lines = [] if told.ideas else ["[ideas] Nothing new was suggested."]
    for idea, item in told.ideas:
        lines += [f"{idea.id:>3}. {one_line(item.text, 300)}", f"     {one_line(item.told(told.goal.unit), 300)}"]
        lines += [f"     tried before: {one_line(each, 200)}" for each in item.before]
    lines += [f"  -  {one_line(item.title, 160)}: dropped, {one_line(why, 160)}" for item, why in told.suggested.dropped]
    if told.ideas:
        lines.append("[ideas] They are queued behind your own: overnight idea ls   ·   next: overnight plan")
    click.echo("\n".join(lines))
