"""The verb ``doctor``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click

from overnight.app import agents
from overnight.app import doctor as looking
from overnight.app.walls import Standing
from overnight.cli.options import json_option, options_of, place_options, settings_options

_SHAPES = {True: "✔", False: "✖", None: "·"}


@click.command()
@settings_options
@place_options
@json_option
@click.option("--run", "do_run", is_flag=True, help="Run the baseline, to see whether it works and how noisy it is.")
@click.option(
    "--repeats", default=2, type=click.IntRange(min=1, max=100), metavar="N", show_default=True, help="How many times, with --run."
)
@click.option("--agent", default="", metavar="NAME", help="Ask this proposer for one edit in a scratch copy, to prove that it works.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def doctor(
    config_file: Path | None,
    state: Path | None,
    as_json: bool,
    do_run: bool,
    repeats: int,
    agent: str,
    command: tuple[str, ...],
    **given: Any,
) -> int:
    """Is everything there for a night? With --run: how noisy is the metric, and how long is the night."""
    options = options_of(config_file, state, command, given)
    if agent:
        said = agents.prove(options, agent)
        click.echo(json.dumps({"schema": "overnight/doctor/1", "ok": True, "agent": agent, "text": said}) if as_json else f"✔ {said}")
        return 0
    findings = list(looking.look(options))
    good = all(item.ok is not False for item in findings)
    if not as_json:
        for item in findings:
            fix = item.fix.replace("\n", "\n       ")
            click.echo(f"{_SHAPES[item.ok]} {item.text}" + (f"\n  fix: {fix}" if fix else ""))
    noise = looking.measure(options, repeats, lambda line: click.echo(f"  {line}", err=True)) if do_run and good else None
    if as_json:
        told = None
        if noise is not None:
            told = {
                "metric": noise.metric,
                "values": list(noise.values),
                "sd": None if math.isnan(noise.sd) else noise.sd,
                "believable": None if math.isnan(noise.sd) else noise.believable,
                "same_seed_apart": noise.again,
                "seconds": noise.seconds,
            }
        checks = [{"ok": item.ok, "text": item.text, "fix": item.fix or None} for item in findings]
        walls = next((_walls(item.walls) for item in findings if item.walls), None)
        click.echo(json.dumps({"schema": "overnight/doctor/1", "ok": good, "checks": checks, "walls": walls, "noise": told}))
    elif noise is not None:
        click.echo("\n".join(f"✔ {line}" for line in looking.words(noise)))
    if not as_json and good:
        click.echo(
            "next: overnight start --budget 8h"
            if do_run
            else "next: overnight doctor --run     (runs the baseline twice to measure the noise)"
        )
    return 0 if good else 1


def _walls(found: Standing) -> dict[str, Any]:
    probes = [
        {"name": probe.name, "ok": not probe.faults, "ms": round(1e3 * probe.seconds, 1), "faults": list(probe.faults)}
        for probe in found.probes
    ]
    return {
        "by": found.by, "what": found.what, "probes": probes, "why": found.why or None, "fix": found.fix or None,
        "user_namespaces": found.user_namespaces, "cgroups": found.cgroups or None,
    }  # fmt: skip
