"""The verb ``retest``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from overnight.app import retest as again
from overnight.cli.options import json_option, options_of, state_option
from overnight.printable import number as shown


@click.command()
@click.argument("names", nargs=-1, metavar="[EXPERIMENT]...")
@click.option("--unconfirmed", is_flag=True, help="Every keep that is not as sure as the profile asks (also without any name).")
@click.option("--runs", default=2, type=click.IntRange(min=1, max=50), metavar="N", show_default=True, help="How many runs of each.")
@state_option
@json_option
def retest(names: tuple[str, ...], unconfirmed: bool, runs: int, state: Path | None, tag: str, as_json: bool) -> None:
    """Run kept experiments again with fresh seeds. EXPERIMENT is a number, best, last, baseline or a commit. The branch stays as it is."""
    options = options_of(None, state, (), {"tag": tag or None})
    found = again.retest(options, () if unconfirmed else names, runs, lambda line: click.echo(f"  {line}", err=True))
    if as_json:
        rows = [
            {
                "number": item.looked.experiment.number,
                "values": list(item.values),
                "p": item.looked.p,
                "gain": item.looked.gain,
                "word": item.looked.word,
            }
            for item in found
        ]
        click.echo(json.dumps({"schema": "overnight/retest/1", "experiments": rows}))
        return
    for item in found:
        values, looked = ", ".join(shown(value) for value in item.values), item.looked
        rival = looked.experiment.rival
        said = (
            f"{looked.word:<12} {looked.gain:+.2g} expected over #{rival}, P = {looked.p:.2f} that it is better"
            if rival
            else "compared with nothing"
        )
        click.echo(f"#{looked.experiment.number:<4} {said}   {values}")
    if not found:
        click.echo("nothing to look at again: every keep is confirmed")
