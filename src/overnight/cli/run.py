"""The verbs that run a study: ``run``, ``start``, ``demo``."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from overnight.app import control, read
from overnight.app import demo as demonstration
from overnight.app import run as running
from overnight.app.options import Options
from overnight.cli import plot, silence, table
from overnight.cli.options import base_option, json_option, options_of, place_options, settings_options
from overnight.cli.plain import Lines


def _say(*, err: bool) -> Callable[[str], None]:
    """Prints lines until nobody reads them: `| head` or a lost terminal must not end the night."""

    def say(line: str) -> None:
        try:
            click.echo(line, err=err)
        except OSError:
            silence(sys.stderr if err else sys.stdout)

    return say


def _run(options: Options, *, as_json: bool, live: bool) -> running.Ended:
    lines = Lines(_say(err=as_json))
    if live and not as_json and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("CI"):
        from overnight.cli.live import Screen

        with Screen() as screen:
            return running.run(options, screen.listen, screen.begin)
    return running.run(options, lines, lines.learn)


@click.command(context_settings={"ignore_unknown_options": False})
@settings_options
@base_option
@place_options
@json_option
@click.option("--plain", is_flag=True, help="Print lines, also on a terminal.")
@click.option("--exit-status", is_flag=True, help="Exit with 5 when the loop ends without reaching the target.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def run(
    config_file: Path | None, state: Path | None, as_json: bool, plain: bool, exit_status: bool, command: tuple[str, ...], **given: Any
) -> int:
    """Run the study here, until its goal or budget is reached or you stop it.

    The COMMAND of one experiment follows `--`, as in: overnight run --budget 20 -- python train.py
    """
    ended = _run(options_of(config_file, state, command, given), as_json=as_json, live=not plain)
    told = ended.summary
    if as_json:
        click.echo(json.dumps({**read.summary_json(told), "exit_code": ended.exit_code}))
    else:
        click.echo("\n".join(table.summary(told)))
        if told.best is not None and told.baseline is not None and told.best.number != told.baseline.number:
            click.echo(f"TAKE IT   git merge {told.study.branch}   ·   overnight ls   ·   overnight diff best --against baseline")
    if exit_status and not ended.exit_code and "goal reached" not in ended.reason:
        return 5
    return ended.exit_code


@click.command()
@settings_options
@base_option
@place_options
@json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def start(config_file: Path | None, state: Path | None, as_json: bool, command: tuple[str, ...], **given: Any) -> None:
    """Run the study in the background; steer it with status, stop, pause and resume."""
    options = options_of(config_file, state, command, given)
    words = _words(sys.argv)
    pid, log = control.start(options, words)
    if as_json:
        click.echo(json.dumps({"schema": "overnight/start/1", "pid": pid, "log": str(log)}))
        return
    click.echo(f"started in the background (pid {pid}), log {log}")
    click.echo("watch: overnight status   ·   log: overnight log last -f   ·   stop: overnight stop")


def _words(argv: list[str]) -> list[str]:
    """What followed ``start``, less ``--json``: it is for this command, not for the loop's log."""
    words = argv[argv.index("start") + 1 :]
    cut = words.index("--") if "--" in words else len(words)
    return [*(word for word in words[:cut] if word != "--json"), *words[cut:]]


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), metavar="DIR", help="Where the study goes (default ~/overnight-demo).")
@click.option(
    "--budget", default=24, type=click.IntRange(min=0), metavar="N", show_default=True, help="How many experiments after the baseline."
)
@click.option("--seed", default=4, type=click.IntRange(min=0), metavar="N", show_default=True, help="Seed of the search.")
@json_option
def demo(folder: Path | None, budget: int, seed: int, as_json: bool) -> int:
    """Real experiments on this CPU with the embedded search: no key, no network."""
    target = demonstration.folder(folder, os.environ)
    click.echo(f"overnight demo: {budget} real experiments on this CPU, no API key, nothing leaves this machine", err=as_json)
    demonstration.make(target, os.environ)
    click.echo(f"  a small network on handwritten digits was copied to {target}", err=as_json)
    options = Options(target, {"budget": (str(budget),), "seed": seed, "slots": str(min(2, os.cpu_count() or 1))}, os.environ)
    lines = Lines(_say(err=as_json))
    ended = running.run(options, lines, lines.learn)
    told = ended.summary
    with read.opened(target, None, {}) as found:
        rows = found.store.experiments(found.study.id)
    if as_json:
        experiments = [read.experiment_json(item) for item in rows]
        click.echo(json.dumps({**read.summary_json(told), "schema": "overnight/demo/1", "folder": str(target), "rows": experiments}))
        return ended.exit_code
    shown = ["", *table.experiments(rows, told.study.direction), "", *plot.draw(rows, told.study.direction), "", *table.summary(told)]
    click.echo("\n".join(shown))
    called = shlex.quote(os.path.abspath(sys.argv[0]))
    program = (
        "overnight"
        if shutil.which("overnight")
        else f"{shlex.quote(sys.executable)} -m overnight"
        if sys.argv[0].endswith(".py")
        else called
    )
    click.echo(f"LOOK      cd {shlex.quote(str(target))} && {program} diff best --against baseline")
    click.echo(f"NEXT      cd your-repository && {program} init")
    return ended.exit_code
