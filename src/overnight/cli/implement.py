"""The verb ``implement``: several agents carry out a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from overnight.app import implement as implementing
from overnight.app import plan as plans
from overnight.cli.options import agent_options, json_option, options_of, place_options
from overnight.printable import one_line


@click.command()
@click.argument("agents", type=click.IntRange(min=1, max=64), default=1, metavar="[N]")
@click.option("--name", default="", metavar="NAME", help="Which plan, its folder below plans/; the latest if not given.")
@agent_options("protect", "time_limit", "data", "pass_env")
@place_options
@json_option
def implement(agents: int, name: str, config_file: Path | None, state: Path | None, as_json: bool, **given: Any) -> int:
    """Carry out a plan with N agents at once; each task on a branch of its own, checked, and merged onto overnight/plan/NAME.

    The same command goes on after an interruption, and tries again what had failed.
    """

    def tell(task: str, text: str) -> None:
        click.echo(f"[{task or 'implement'}] {one_line(text, 400)}", err=as_json)

    ended = implementing.implement(options_of(config_file, state, (), given), agents, name, tell)
    if as_json:
        click.echo(json.dumps(implementing.ended_json(ended)))
        return ended.exit_code
    lines = [f"[implement] {ended.files.slug}: {plans.counts(ended.works, ended.files.plan)}; branch {ended.branch}"]
    if ended.exit_code == 0:
        lines += [f"NEXT      {ended.next}", f"TAKE IT   git merge {ended.branch}"]
    elif ended.exit_code == 1:
        lines.append(
            f"NEXT      edit plans/{ended.files.slug}/tasks.md, then the same command again   ·   overnight plan --status --name {ended.files.slug}"
        )
    click.echo("\n".join(lines))
    return ended.exit_code
