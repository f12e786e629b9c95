"""The verb ``dag``: pipelines of several stages from YAML."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from overnight.app import dag as dags
from overnight.app import dag_look, dag_prune, dag_study
from overnight.app.dag_handle import options_of
from overnight.app.dag_place import Doors, opened
from overnight.cli import silence
from overnight.cli.options import json_option
from overnight.dag.words import DagState, Row, TaskState
from overnight.printable import clean, duration, number, one_line

_SHAPES = {"WAITING": "·", "RUNNING": "▶", "SUCCEEDED": "✔", "FAILED": "✖", "TIMED_OUT": "✖", "CANCELLED": "◼", "SKIPPED": "↷"}


@click.group()
def dag() -> None:
    """Pipelines: stages of an experiment in YAML, run in the order of their needs, the independent ones at once."""


@dag.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--slots", type=click.IntRange(min=1), metavar="N", help="At most so many tasks at once (default: one per processor).")
@click.option("--gpus", default="", metavar="LIST", help="GPUs for tasks that ask for them, as in 0,1 (default: all that are found).")
@click.option(
    "--executor", default="", metavar="NAME", help="Where tasks run: local, hub, slurm or ray (default: as the settings say, else local)."
)
@click.option("--executor-args", default="", metavar="WORDS", help="Further words for the executor, as the setting executor_args.")
@click.option("--until", multiple=True, metavar="NODE", help="Only this node and what it needs. Repeatable.")
@click.option("--workdir", type=click.Path(path_type=Path), metavar="DIR", help="Where the code is (default: the folder of FILE).")
@click.option("--no-cache", is_flag=True, help="Run also what has not changed.")
@click.option("--detach", is_flag=True, help="Conduct it in the background.")
@click.option("--sandbox-network", is_flag=True, help="Let tasks reach the network.")
@click.option("--unsafe-no-sandbox", is_flag=True, help="Run tasks without walls around them.")
@json_option
def run(
    file: Path,
    slots: int | None,
    gpus: str,
    workdir: Path | None,
    no_cache: bool,
    detach: bool,
    as_json: bool,
    until: tuple[str, ...],
    **given: Any,
) -> int:
    """Run the pipeline in FILE to its end; exits with 6 when a node has failed.

    The code is packed as it is now; every task runs in a fresh copy of it.
    """
    options = options_of(
        {
            **given,
            "slots": slots,
            "gpus": [part.strip() for part in gpus.split(",") if part.strip()],
            "until": list(until),
            "cache": not no_cache,
        }
    )
    with opened(os.environ) as doors:
        begun = dags.begin(doors, dags.from_file(file, workdir, options), os.environ, time.time())
        if detach:
            _notes(begun, as_json=as_json)
            pid = dags.in_background(doors, begun.dag, os.environ)
            click.echo(
                json.dumps({"schema": "overnight/dag-start/1", "id": begun.dag.id, "pid": pid})
                if as_json
                else f"{begun.dag.id} runs in the background (pid {pid}): overnight dag watch {begun.dag.id}"
            )
            return 0
        return _conduct(doors, begun, as_json=as_json)


@dag.command()
@click.argument("dag_id", metavar="[DAG]", default="last")
@click.option(
    "--code", default="", metavar="now|begun", help="The code for what is left: as it is now, or as it was (default: now if a node failed)."
)
@click.option("--detach", is_flag=True, help="Conduct it in the background.")
@json_option
def resume(dag_id: str, code: str, detach: bool, as_json: bool) -> int:
    """Go on where a pipeline failed or was interrupted: what succeeded stays, what runs is taken over."""
    if code not in ("", "now", "begun"):
        raise click.UsageError(f"--code: '{code}' is neither now nor begun")
    with opened(os.environ) as doors:
        begun = dags.again(doors, dags.number_of(dag_id), os.environ, code)
        if detach:
            _notes(begun, as_json=as_json)
            pid = dags.in_background(doors, begun.dag, os.environ)
            click.echo(
                json.dumps({"schema": "overnight/dag-start/1", "id": begun.dag.id, "pid": pid})
                if as_json
                else f"{begun.dag.id} goes on in the background (pid {pid})"
            )
            return 0
        return _conduct(doors, begun, as_json=as_json)


@dag.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("node", default="")
@json_option
def inside(file: Path, node: str, as_json: bool) -> int:
    """What the run of a study with a pipeline runs: FILE from its beginning, here, behind the run's own walls, with the numbers of NODE alone."""
    state = dag_study.inside(file, node, os.environ, lambda line: click.echo(line, err=as_json))
    if as_json:
        click.echo(json.dumps({"schema": "overnight/dag-inside/1", "state": state}))
    return dags.exit_code(state)


def _conduct(doors: Doors, begun: dags.Begun, *, as_json: bool) -> int:
    say = _sayer(as_json=as_json)
    say("", f"{begun.dag.id}: {begun.dag.name}, {len(begun.plan.tasks)} {'task' if len(begun.plan.tasks) == 1 else 'tasks'}")
    _notes(begun, as_json=as_json)
    with dags.interruptible(lambda text: say("", text)) as (caught, asked):
        state = dags.conduct(doors, begun, os.environ, say, asked)
    found = dag_look.seen(os.environ, begun.dag.id)
    if as_json:
        click.echo(json.dumps(dag_look.dag_json(found)))
    elif state is DagState.RUNNING:
        say("", f"{begun.dag.id} is interrupted: overnight dag resume {begun.dag.id}   # or: dag cancel")
    else:
        say("", f"{begun.dag.id} {state}: {_counted(found)}")
        if state is DagState.FAILED:
            first = next(row.task for row in found.rows if row.state.failed)
            say("", f"output: overnight dag log {begun.dag.id} '{first}'   ·   mend it, then: overnight dag resume {begun.dag.id}")
    return dags.exit_code(state, caught)


def _sayer(*, as_json: bool) -> Callable[[str, str], None]:
    """Prints lines until nobody reads them."""

    def say(task: str, line: str) -> None:
        try:
            click.echo(f"[{task or 'dag'}] {line}", err=as_json)
        except OSError:
            silence(sys.stderr if as_json else sys.stdout)

    return say


def _notes(begun: dags.Begun, *, as_json: bool) -> None:
    for note in begun.notes:
        click.echo(f"[dag] {one_line(note, 400)}", err=as_json)


def _counted(found: dag_look.Seen) -> str:
    counts: dict[str, int] = {}
    for row in found.rows:
        word = "cached" if row.cached_from else row.state.lower().replace("_", " ")
        counts[word] = counts.get(word, 0) + 1
    return ", ".join(f"{count} {word}" for word, count in counts.items())


@dag.command()
@click.argument("dag_id", metavar="[DAG]", default="last")
@click.option("--exit-status", is_flag=True, help="Exit with 6 when a node has failed, with 8 while it runs.")
@json_option
def status(dag_id: str, exit_status: bool, as_json: bool) -> int:
    """What has become of each task; of the latest pipeline unless DAG is named."""
    found = dag_look.seen(os.environ, dag_id)
    if as_json:
        click.echo(json.dumps(dag_look.dag_json(found)))
    else:
        click.echo(f"{found.dag.id}  {clean(found.dag.name, limit=60)}  {found.state}: {_counted(found)}")
        wide = min(40, max(len(row.task) for row in found.rows))
        for row in found.rows:
            told = "  ".join(f"@{name}={number(value)}" for name, value in list(row.values.items())[:4])
            what = row.cause or (f"cached: nothing changed since dag-{row.cached_from}" if row.cached_from else row.note)
            took = duration(row.seconds) if row.state is TaskState.SUCCEEDED and not row.cached_from else ""
            click.echo(
                f"  {_SHAPES[row.state]} {clean(row.task):<{wide}}  {row.state:<9}  {took:>7}  {told}{'  ' if told and what else ''}{one_line(what, 160)}".rstrip()
            )
        if found.state == dag_look.INTERRUPTED:
            click.echo(f"nobody conducts it: overnight dag resume {found.dag.id}   # or: dag cancel")
    if not exit_status:
        return 0
    return 8 if found.state in ("RUNNING", dag_look.INTERRUPTED) else dags.exit_code(found.dag.state)


@dag.command()
@click.argument("dag_id", metavar="[DAG]", default="last")
@click.option("--exit-status", is_flag=True, help="Exit with 6 when a node has failed.")
@json_option
def watch(dag_id: str, exit_status: bool, as_json: bool) -> int:
    """Everything that is said of a pipeline, from its beginning to its end; ^C only ends the watching."""
    say = _sayer(as_json=as_json)
    name = dag_look.seen(os.environ, dag_id).dag.id  # the latest may be another at the end
    for task, line in dag_look.followed(os.environ, name):
        say(task, line)
    found = dag_look.seen(os.environ, name)
    say("", f"{found.dag.id} {found.state}: {_counted(found)}")
    if as_json:
        click.echo(json.dumps(dag_look.dag_json(found)))
    return dags.exit_code(found.dag.state) if exit_status else 0


@dag.command()
@click.argument("dag_id", metavar="DAG")
@json_option
def cancel(dag_id: str, as_json: bool) -> None:
    """End a pipeline with all its tasks."""
    with opened(os.environ) as doors:
        dags.cancel(doors, dags.number_of(dag_id), os.environ)
    found = dag_look.seen(os.environ, dag_id)
    click.echo(json.dumps(dag_look.dag_json(found)) if as_json else f"{found.dag.id} {found.state}: {_counted(found)}")


@dag.command()
@click.argument("what", metavar="[FILE|DAG]", default="last")
@click.option("--svg", type=click.Path(path_type=Path), metavar="PATH", help="Write the picture there instead.")
@json_option
def graph(what: str, svg: Path | None, as_json: bool) -> None:
    """Draw a pipeline: of a FILE as it would run, of a DAG with what has become of each node."""
    rows: Sequence[Row] = ()
    if Path(what).suffix in (".yaml", ".yml") or Path(what).is_file():
        wanted = dags.from_file(Path(what), None, {})
        plan, name = dags.planned(wanted.text, wanted.file), wanted.file
        lines = dag_look.tree_of(plan)
    else:
        found = dag_look.seen(os.environ, what)
        plan, rows, lines, name = found.plan, found.rows, dag_look.tree(found), found.dag.id
    if svg is not None:
        svg.write_text(dag_look.picture(plan, rows), encoding="utf-8")
        lines = [f"{name} is drawn in {svg}"]
    if as_json:
        nodes = [
            {"task": task.id, "node": task.node.name, "matrix": dict(task.matrix), "needs": [plan.tasks[need].id for need in task.needs]}
            for task in plan.tasks
        ]
        click.echo(
            json.dumps({"schema": "overnight/dag-graph/1", "name": plan.pipeline.name, "nodes": nodes, "svg": str(svg) if svg else None})
        )
        return
    click.echo("\n".join(clean(line, limit=400) for line in lines))


@dag.command()
@click.option("--last", default=20, type=click.IntRange(min=0), metavar="N", show_default=True, help="Only the last N; 0 = all.")
@json_option
def ls(last: int, as_json: bool) -> None:
    """Pipelines, one line each, the newest last."""
    rows = dag_look.listed(os.environ, last)
    if as_json:
        click.echo(json.dumps({"schema": "overnight/dags/1", "dags": rows}))
        return
    for row in rows:
        done = f"{row['tasks'].get('SUCCEEDED', 0)}/{row['total']}"
        click.echo(
            f"{row['id']:<8}  {row['state']:<11}  {done:>9}  {duration(row['seconds']):>7}  {row['created'][:16].replace('T', ' ')}  {clean(row['name'], limit=60)}"
        )


@dag.command()
@click.argument("dag_id", metavar="DAG")
@click.argument("task", metavar="TASK")
@click.option("--raw", is_flag=True, help="The bytes as they were printed, terminal codes and all.")
@json_option
def log(dag_id: str, task: str, raw: bool, as_json: bool) -> None:
    """The output of a TASK, as in train or 'train[seed=0]'."""
    path = dag_look.output(os.environ, dag_id, task)
    data = path.read_bytes()
    text = clean(data.decode("utf-8", "replace"), lines=True)
    if as_json:
        click.echo(json.dumps({"schema": "overnight/dag-log/1", "task": task, "path": str(path), "text": text}))
    else:
        click.echo(data if raw else text, nl=False)


@dag.command()
@click.option("--older", default="30d", metavar="TIME", show_default=True, help="Those that ended longer ago than this.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
def prune(older: str, dry_run: bool, as_json: bool) -> None:
    """Clear away old pipelines with all they have left; what later ones took from their cache stays.

    What runs or was interrupted is never touched. A node whose result is gone is run again by the next pipeline that wants it.
    """
    with opened(os.environ) as doors:
        found = dag_prune.prune(doors, dag_prune.seconds_of(older), time.time(), dry=dry_run)
    if as_json:
        told = {"removed": found.removed, "bytes": found.size, "left": found.left, "interrupted": found.interrupted, "dry_run": dry_run}
        click.echo(json.dumps({"schema": "overnight/dag-prune/1", **told}))
        return
    ids = found.removed
    named = f" ({ids[0]}{f' to {ids[-1]}' if len(ids) > 1 else ''})" if ids else ""
    click.echo(
        f"{'would remove' if dry_run else 'removed'} {len(ids)} {'pipeline' if len(ids) == 1 else 'pipelines'}{named}, {found.size / 1e6:.1f} MB; {found.left} {'is' if found.left == 1 else 'are'} left"
    )
    if found.interrupted:
        click.echo(f"interrupted, and kept: {' '.join(found.interrupted[:8])}   # overnight dag resume DAG, or: overnight dag cancel DAG")
