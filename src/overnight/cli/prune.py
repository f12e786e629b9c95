"""The verb ``hub prune``: what is old goes, and how much room that makes is said."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from overnight.cli.options import json_option
from overnight.errors import UsageError
from overnight.kinds import parse_duration

if TYPE_CHECKING:
    from overnight.app.pruning import Pruned


@click.command()
@click.option(
    "--older", default="30d", metavar="TIME", show_default=True, help="What was over, or last used, so long ago; an hour at least."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--hub", "folder", type=click.Path(path_type=Path), metavar="DIR", help="The hub's folder instead of your own (OVERNIGHT_HUB)."
)
@json_option
def prune(older: str, dry_run: bool, folder: Path | None, as_json: bool) -> None:
    """Remove what is old: jobs with their logs and files, code, pipelines, what dead workers have left. Experiments keep their numbers."""
    from overnight.app import pruning

    try:
        seconds = parse_duration(older)
    except ValueError as exc:
        raise UsageError("E-PRUNE", f"--older {older}: {exc}", fix="overnight hub prune --older 30d") from exc
    done = pruning.prune(os.environ, folder, seconds, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps({"schema": "overnight/hub/1", "dry_run": dry_run, "freed": done.freed, **asdict(done)}))
        return
    click.echo("\n".join(_told(done, dry_run=dry_run)))


def _told(done: Pruned, *, dry_run: bool) -> list[str]:
    counts = [
        f"{count} {word}{'s' * (count != 1)}{more}"
        for count, word, more in (
            (done.jobs, "job", ""),
            (done.trimmed, "job", " of experiments but for their numbers"),
            (done.pipelines, "pipeline", ""),
            (done.codes, "version", " of code"),
        )
        if count
    ]
    rows = [f"{where:<10} {_size(size):>10}" for where, size in sorted(done.bytes.items()) if size]
    verb = "would go" if dry_run else "gone"
    about = "about " if dry_run else ""
    return [
        f"{verb}: {', '.join(counts) or 'nothing'}; {about}{_size(done.freed)} freed".replace("; about 0 bytes freed", "").replace(
            "; 0 bytes freed", ""
        ),
        *rows,
        *(f"passed over: {why}" for why in done.passed_over),
    ]


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MB" if count >= 2**20 else f"{count:,} bytes"
