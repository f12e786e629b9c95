"""The verbs that only look: ``status``, ``ls``, ``show``, ``diff``, ``log``, ``best``, ``config``."""

from __future__ import annotations

import codecs
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from overnight.app import read
from overnight.cli import plot, table
from overnight.cli.options import json_option, options_of, place_options, state_option
from overnight.models import Experiment, Trust
from overnight.printable import clean, duration, moment, number, one_line


def _opened(state: Path | None, tag: str) -> Any:
    return read.opened(Path.cwd(), state, os.environ, tag)


@click.command()
@state_option
@json_option
@click.option("--exit-status", is_flag=True, help="Exit with 8 while the loop runs.")
def status(state: Path | None, tag: str, as_json: bool, exit_status: bool) -> int:
    """What the study is doing, in one screen."""
    with _opened(state, tag) as found:
        told = read.summary(found)
        if as_json:
            click.echo(json.dumps(read.summary_json(told)))
        else:
            rows = found.store.experiments(found.study.id, last=400)
            picture = plot.draw(rows, told.study.direction, width=72, height=6)
            click.echo("\n".join([*table.summary(told), *(["", *picture] if picture else [])]))
    return 8 if exit_status and told.holder else 0


@click.command()
@state_option
@json_option
@click.option("--last", default=0, type=click.IntRange(min=0), metavar="N", help="Only the last N.")
@click.option("--kept", is_flag=True, help="Only what was kept.")
def ls(state: Path | None, tag: str, as_json: bool, last: int, kept: bool) -> None:
    """Every experiment, one line each."""
    with _opened(state, tag) as found:
        if as_json:
            rows = found.store.experiments(found.study.id, last=last, kept=kept)
            click.echo(json.dumps([read.experiment_json(item) for item in rows]))
        else:
            rows = read.rows(found, last=last, kept=kept)
            click.echo("\n".join(table.experiments(rows, found.study.direction, values=read.parents(found, rows))))


@click.command()
@state_option
@json_option
def best(state: Path | None, tag: str, as_json: bool) -> None:
    """The best experiment so far."""
    with _opened(state, tag) as found:
        _print(read.which(found, "best"), found, as_json=as_json)


@click.command()
@click.argument("experiment")
@click.option("--hidden", is_flag=True, help="What the hidden hold-out says of it, for you alone: look late, and seldom.")
@state_option
@json_option
def show(experiment: str, hidden: bool, state: Path | None, tag: str, as_json: bool) -> None:
    """One experiment: idea, result, cause, metrics. EXPERIMENT is a number, best, last, baseline or a commit."""
    with _opened(state, tag) as found:
        item = read.which(found, experiment)
        _print(item, found, as_json=as_json, hidden=read.hidden(found, item) if hidden else None)


def _print(item: Experiment, found: read.Open, *, as_json: bool, hidden: read.Hidden | None = None) -> None:
    if as_json:
        jobs = [
            {**job, "submitted": moment(job["submitted"]), "finished": moment(job["finished"])}
            for job in found.store.jobs(found.study.id, item.number)
        ]
        told = {"hidden": asdict(hidden)} if hidden is not None else {}
        click.echo(json.dumps({"schema": "overnight/experiment/1", **read.experiment_json(item), "jobs": jobs, **told}))
        return
    metrics = "  ".join(f"{name} {number(value)}" for name, value in list(item.metrics.items())[:12])
    measured = item.trust is not Trust.SELF_REPORTED
    claims = ("claimed", f"{metrics} (printed by the run; none of it counts)" if metrics else "") if measured else ("metrics", metrics)
    rows: Iterable[tuple[str, str]] = [
        ("result", f"{number(item.value)}   {table.state(item)}   {item.trust}" + table.walls(item, "   {}")), ("cause", item.cause), ("believed", _believed(item)), ("hidden", _hidden(hidden)), ("let go on", item.spared), ("undone by", f"#{item.reverted}" if item.reverted else ""), ("parent", f"#{item.parent}" if item.parent else ""),
        ("repairs", f"#{item.repairs}" if item.repairs else ""), ("proposer", f"{item.proposer}{item.model and f', {item.model}'} ({duration(item.think_seconds)})"),
        ("spent", _spent(item)), ("run", f"{duration(item.seconds)}, {item.memory_gb:.2f} GB" if item.seconds else ""), claims, ("code", f"{item.lines} lines"),
        ("commit", item.commit), ("when", moment(item.started) or ""),
    ]  # fmt: skip
    click.echo(f"#{item.number}  {one_line(item.description)}")
    click.echo("\n".join(f"  {name:<9} {one_line(text, 400)}" for name, text in rows if text))


def _believed(item: Experiment) -> str:
    """What its true level is believed to be, where there is noise."""
    if item.believed is None or not item.believed_sd:
        return ""
    return f"{number(item.believed)} ± {item.believed_sd:.2g}" + (
        f"   after {item.retests} re-test{'s' * (item.retests > 1)}" if item.retests else ""
    )


def _hidden(found: read.Hidden | None) -> str:
    if found is None:
        return ""
    if found.value is None or found.holds is None:
        return " ".join(part for part in (number(found.value) if found.value is not None else "", found.cause) if part) or "the reference"
    word = "holds" if found.holds else "DOES NOT HOLD: the search may have fitted itself to the first hold-out"
    return f"{number(found.value)}   gain over the baseline {found.gain:+.3g}: {word}"


def _spent(item: Experiment) -> str:
    """Tokens and money of the proposal."""
    money = f", ${item.cost:.4f}{' by list prices' if item.estimated else ''}" if item.cost else ""
    return f"{item.tokens} tokens{money}" if item.tokens or item.cost else ""


@click.command()
@click.argument("experiment")
@click.option("--against", default="parent", metavar="EXPERIMENT", help="parent (default), baseline, best or a number.")
@state_option
@json_option
def diff(experiment: str, against: str, state: Path | None, tag: str, as_json: bool) -> None:
    """The change of an experiment, as a patch."""
    with _opened(state, tag) as found:
        item = read.which(found, experiment)
        text = read.diff(found, item, against)
    if as_json:
        click.echo(json.dumps({"schema": "overnight/diff/1", "number": item.number, "against": against, "diff": text}))
    elif text:
        click.echo(clean(text, lines=True), nl=not text.endswith("\n"))
    else:
        click.echo(f"nothing differs between #{item.number} and {one_line(against, 40)}", err=True)


@click.command()
@click.argument("experiment")
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows, until the run is over.")
@state_option
@json_option
def log(experiment: str, follow: bool, state: Path | None, tag: str, as_json: bool) -> None:
    """The output of an experiment's latest run."""
    with _opened(state, tag) as found:
        item = read.which(found, experiment)
        if follow and not as_json:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            for chunk in read.follow(found, item, lambda: time.sleep(0.2)):
                click.echo(clean(decoder.decode(chunk).replace("\r", "\n"), lines=True), nl=False)
            return
        path = read.log_file(found, item)
        text = path.read_bytes().decode("utf-8", "replace")
    click.echo(
        json.dumps({"schema": "overnight/log/1", "number": item.number, "path": str(path), "log": text})
        if as_json
        else clean(text.replace("\r", "\n"), lines=True),
        nl=as_json,
    )


@click.command()
@place_options
@json_option
def config(config_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Every setting, its value and where it comes from."""
    from overnight.app import prepare

    loaded = prepare.resolved(options_of(config_file, state, (), {}))
    values = read.settings_json(loaded.settings)
    if as_json:
        click.echo(json.dumps({name: {"value": value, "origin": loaded.origin[name]} for name, value in values.items()}))
        return
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo("\n".join(f"{name:<20} {json.dumps(value):<30} {loaded.origin[name]}" for name, value in values.items()))


EXIT_CODES = {
    0: "done, also when a budget is used up", 1: "failed", 2: "wrong use or wrong configuration", 3: "not found", 4: "not authorised",
    5: "ended without reaching the target (only with --exit-status)", 6: "a job failed (only with --exit-status), or a node of a pipeline", 7: "a hub or worker cannot be reached", 8: "still running (status --exit-status, stop --wait)",
    124: "time limit", 130: "interrupted (^C)", 143: "terminated",
}  # fmt: skip


@click.command(name="exit-codes")
@json_option
def exit_codes(as_json: bool) -> None:
    """What the exit codes mean."""
    click.echo(json.dumps(EXIT_CODES) if as_json else "\n".join(f"{code:>4}  {text}" for code, text in EXIT_CODES.items()))
