"""The verb ``plan``: from ideas to requirements, a decision and tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from overnight.app import plan as plans
from overnight.cli.ideas import says
from overnight.cli.options import agent_options, json_option, options_of, place_options
from overnight.printable import one_line

_SHAPES = {"open": "·", "working": "▶", "written": "▶", "done": "✔", "failed": "✖", "skipped": "⊘"}


@click.command()
@click.argument("idea", nargs=-1, type=click.IntRange(min=1), metavar="[IDEA...]")
@click.option("--check", is_flag=True, help="Only check the files of a plan, after you have edited them; asks nobody.")
@click.option("--status", is_flag=True, help="Only say how far its tasks have come.")
@click.option("--name", default="", metavar="NAME", help="Name of the plan, its folder below plans/.")
@click.option("--force", is_flag=True, help="With --name: write over the files of that plan.")
@click.option("--tag", default="", metavar="TAG", help="The study whose ideas are meant; the latest if not given.")
@agent_options("protect")
@place_options
@json_option
def plan(
    idea: tuple[int, ...],
    check: bool,
    status: bool,
    name: str,
    force: bool,
    tag: str,
    config_file: Path | None,
    state: Path | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Have an agent plan IDEAs (their numbers; not given = the first of the queue) as files below plans/ that you can edit."""
    options = options_of(config_file, state, (), given)
    if check or status:
        files, works = plans.found(options, name)
    else:
        made = plans.make(options, idea, says("plan", err=as_json), (name, force), tag)
        files, works = made.files, {}
    if as_json:
        spent = {} if check or status else {"critique": list(made.critique), "agent": made.agent, "tokens": made.tokens, "cost": made.cost}
        click.echo(json.dumps({**plans.plan_json(files, works), **spent}))
        return 2 if check and files.fatal else 0
    if status:
        click.echo("\n".join(_status(files, works)))
        return 0
    click.echo("\n".join(_told(files, made=not check)))
    return 2 if check and files.fatal else 0


def _told(files: plans.Files, *, made: bool) -> list[str]:
    folder = f"{plans.FOLDER}/{files.slug}"
    lines = [] if not made else [f"[plan] wrote {folder}/: requirements.md, decision.md, tasks.md, critique.md"]
    lines += [f"{folder}/{item}" for item in files.problems]
    for task in files.plan.tasks[: 40 if made else 0]:
        after = f" (after {', '.join(task.depends)})" if task.depends else ""
        lines.append(f"  {task.name} {one_line(task.title, 120)}{after}: {one_line(', '.join((*task.files, *task.new)), 100)}")
    if files.fatal:
        return [*lines, f"[plan] it cannot be carried out yet: edit it, then: overnight plan --check --name {files.slug}"]
    told = f"{len(files.plan.requirements)} requirements, {len(files.plan.tasks)} tasks" + (
        f", {len(files.problems)} gaps" if files.problems else ", no gaps"
    )
    return [*lines, f"[plan] {told}; next: overnight implement 2"]


def _status(files: plans.Files, works: Any) -> list[str]:
    lines = [f"{files.slug}   {plans.counts(works, files.plan)}"]
    for task in files.plan.tasks:
        work = plans.work_of(task, works)
        where = work.merged[:7] if work.merged else ""
        lines.append(
            f"  {_SHAPES[work.state]} {task.name:<6} {work.state:<8} {where:<8} {one_line(task.title, 80)}"
            + (f" — {one_line(work.note, 160)}" if work.note else "")
        )
    return lines
