"""The verb ``trial``: one experiment by whoever calls, measured and decided as the loop does it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from overnight.app import trial as trials
from overnight.app import trial_look as looks
from overnight.app.trial_look import View
from overnight.app.wiring import Listen
from overnight.cli.options import base_option, json_option, options_of, place_options, settings_options, state_option
from overnight.cli.plain import result
from overnight.models import Experiment, Operator
from overnight.operators import SPOKEN
from overnight.printable import duration, number, one_line

_SECONDS = "Answer after so many seconds also when something still runs: it goes on, and the same command waits for it again. Exit code 8."


@click.group()
def trial() -> None:
    """You, or your own coding agent, as the researcher: edit a copy, have it measured and decided as the loop would. Asks no model."""


@trial.command()
@click.option("--operator", default="improve", type=click.Choice(list(SPOKEN)), show_default=True, help="Which kind of step.")
@click.option("--another", is_flag=True, help="Beside a trial that is open; runs take turns.")
@click.option("--seconds", default=None, type=click.FloatRange(min=0), metavar="N", help=_SECONDS)
@settings_options
@base_option
@place_options
@json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def begin(
    operator: str,
    another: bool,
    seconds: float | None,
    config_file: Path | None,
    state: Path | None,
    as_json: bool,
    command: tuple[str, ...],
    **given: Any,
) -> None:
    """Make a copy of the best version so far, and tell what is known; the baseline is measured first where there is none.

    What the study was last run with stays, unless overnight.toml or an option says otherwise.
    """
    options = options_of(config_file, state, command, given)
    seen = trials.begin(options, trials.Asked(operator, another), trials.Wait(seconds), _told(as_json=as_json))
    _show(seen, as_json=as_json)


@trial.command()
@click.argument("trial_id", type=click.IntRange(min=1), required=False, metavar="[ID]")
@click.option("-m", "--message", default="", metavar="HYPOTHESIS", help="What you changed, and why it should help.")
@click.option("--seconds", default=None, type=click.FloatRange(min=0), metavar="N", help=_SECONDS)
@state_option
@json_option
def run(trial_id: int | None, message: str, seconds: float | None, state: Path | None, tag: str, as_json: bool) -> int:
    """Commit what is in the copy and run it, behind walls and under the study's limits, until it can be decided.

    ID may be left out while one trial is open. The same command goes on after any interruption. ^C puts the run back.
    """
    options = options_of(None, state, (), {"tag": tag or None})
    seen = trials.run(options, trial_id or 0, message, trials.Wait(seconds), _told(as_json=as_json))
    _show(seen, as_json=as_json)
    return seen.exit_code


@trial.command()
@click.argument("trial_id", type=click.IntRange(min=1), required=False, metavar="[ID]")
@click.option("--discard", is_flag=True, help="Give it up: no keep, whatever was measured; a run that is under way is ended.")
@click.option("-m", "--message", default="not wanted", metavar="WHY", help="Why it is given up.")
@state_option
@json_option
def settle(trial_id: int | None, discard: bool, message: str, state: Path | None, tag: str, as_json: bool) -> int:
    """Have it decided: keep, discard or crash, by the rules of the loop; branch, table and notes follow. Nothing makes a keep of a discard."""
    options = options_of(None, state, (), {"tag": tag or None})
    why = one_line(message, 200) or "not wanted"
    seen = trials.settle(options, trial_id or 0, why if discard else None, trials.Wait(), _told(as_json=as_json))
    _show(seen, as_json=as_json)
    return seen.exit_code


@trial.command()
@click.option("--all", "everything", is_flag=True, help="Also those that are over.")
@state_option
@json_option
def ls(everything: bool, state: Path | None, tag: str, as_json: bool) -> None:
    """The trials that are open."""
    rows = looks.listed(options_of(None, state, (), {"tag": tag or None}), everything=everything)
    if as_json:
        click.echo(json.dumps({"schema": "overnight/trials/1", "trials": [looks.trial_json(seen) for seen in rows]}))
        return
    lines = [f"{seen.trial.number:>4}  {seen.state:<9}  {_row(seen)}" for seen in rows]
    click.echo("\n".join(lines) or "no trial is open")


@trial.command()
@click.argument("trial_id", type=click.IntRange(min=1), required=False, metavar="[ID]")
@state_option
@json_option
def show(trial_id: int | None, state: Path | None, tag: str, as_json: bool) -> None:
    """One trial: its copy and brief while it is open, then its numbers and what would be decided now."""
    _show(looks.shown(options_of(None, state, (), {"tag": tag or None}), trial_id or 0), as_json=as_json)


def _told(*, as_json: bool) -> Listen:
    """Prints what happens; beside JSON it goes to standard error."""

    def listen(event: str, item: Experiment | None, text: str) -> None:
        said = one_line(text, 400)
        if item is not None and event == "started":
            base = item.operator is Operator.BASELINE
            said = "the baseline comes first" if base else f"#{item.number} {item.commit[:7]}: {one_line(item.description, 200)}"
        elif item is not None and event == "settled":
            said = f"baseline #{item.number}: {number(item.value)}" if item.operator is Operator.BASELINE else ""
        if said:
            click.echo(f"[trial] {said}", err=as_json)

    return listen


def _show(seen: View, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(looks.trial_json(seen)))
        return
    best = f"   best {number(seen.best.value)} (#{seen.best.number})" if seen.best else ""
    arrow = "↑" if seen.study.direction == "maximize" else "↓"
    lines = [f"trial {seen.trial.number} of {seen.study.tag}   {seen.state}   {seen.study.metric} {arrow}{best}"]
    lines += [f"NOTE      {note}" for note in seen.notes]
    if seen.state == "open":
        lines += [f"COPY      {seen.copy}", f"EDIT      {', '.join(one_line(path, 120) for path in seen.editable[:12])}"]
    if seen.experiment is not None:
        lines += _numbers(seen, seen.experiment)
    if seen.expected is not None:
        lines.append(f"EXPECTED  {seen.expected.decision} — {one_line(seen.expected.verdict.cause, 300)}")
    lines += [f"GOAL      {seen.goal}"] if seen.goal else []
    more = "   ·   overnight trial settle --discard" if seen.state in ("open", "running", "measured") else ""
    lines.append(f"NEXT      {looks.following(seen)}{more}")
    click.echo("\n".join([*lines, *(["", seen.brief.rstrip()] if seen.brief else [])]))


def _numbers(seen: View, item: Experiment) -> list[str]:
    values = [number(run.value) if run.value is not None else run.crash_kind for run in seen.runs]
    measured = seen.state in ("measured", "settled")
    cost = f"   {duration(item.seconds)}, {item.memory_gb:.2g} GB" if measured and values else ""
    lines = [f"TRIED     #{item.number} {item.commit[:7]} {one_line(item.description, 200)}"]
    lines += [f"VALUES    {', '.join(values)}{cost}"] if values else []
    if item.crash_kind and item.decision is None and measured:
        lines.append(f"CRASHED   {one_line(item.cause, 300)}   ·   overnight log {item.number}")
    return [*lines, *([f"DECIDED   {result(item, seen.study.metric)}"] if item.decision is not None else [])]


def _row(seen: View) -> str:
    if seen.experiment is None:
        return str(seen.copy) if seen.trial.ended is None else "not run"
    return f"#{seen.experiment.number} {one_line(seen.experiment.description, 60)}   {seen.experiment.decision or ''}".rstrip()
