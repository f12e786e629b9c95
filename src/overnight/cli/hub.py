"""The verb ``hub``: jobs on this machine or on any worker: submit, look, end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from overnight.app import hub as hubs
from overnight.app import joining, watching
from overnight.cli.options import json_option
from overnight.cli.prune import prune
from overnight.cli.serve import start
from overnight.errors import NotFoundError, UsageError
from overnight.kinds import parse_duration
from overnight.models import JobState
from overnight.printable import clean, one_line
from overnight.queue.fit import described
from overnight.queue.words import HubJob, OnLost, Query, Submission, WorkerState

_F = TypeVar("_F", bound=Callable[..., Any])
_FAILED = 6
_START = "overnight worker start"


def hub_option(function: _F) -> _F:
    """Add ``--hub``."""
    return click.option(
        "--hub", "folder", type=click.Path(path_type=Path), metavar="DIR", help="The hub's folder instead of your own (OVERNIGHT_HUB)."
    )(function)


def _reached(folder: Path | None) -> Any:
    return hubs.reached(folder, os.environ)


def _json(name: str, found: object) -> str:
    return json.dumps({"schema": "overnight/hub/1", name: found})


@click.group()
def hub() -> None:
    """Jobs for your workers: submit, list, watch, logs, cancel, retry, outputs; workers, drain and prune."""


@hub.command(context_settings={"ignore_unknown_options": False})
@click.argument("command", nargs=-1, required=True)
@click.option("--name", default="", help="What it is called in lists.")
@click.option(
    "--workdir", default=".", type=click.Path(path_type=Path), show_default=True, metavar="DIR", help="The code: it is taken as it is now."
)
@click.option("--no-code", is_flag=True, help="Take no code along: the command runs in an empty folder.")
@click.option("--gpu-count", default=0, type=int, metavar="N", help="GPUs that it needs.")
@click.option("--gpu-type", default="", help="Part of their name, such as h100.")
@click.option("--vram-gb", default=0.0, type=float, metavar="GB", help="Memory that each of them must have.")
@click.option("--cpus", default=0, type=int, metavar="N", help="Processors that it needs.")
@click.option("--memory-gb", default=0.0, type=float, metavar="GB", help="Memory that it needs, and is held to.")
@click.option("--tag", "tags", multiple=True, help="A tag that its worker must have. Repeatable.")
@click.option("--worker", "workers", multiple=True, metavar="NAME", help="Only this worker may run it. Repeatable: one of them.")
@click.option("--not-worker", "not_workers", multiple=True, metavar="NAME", help="This worker may not run it. Repeatable.")
@click.option("--exp-id", default="", help="The experiment that it belongs to, such as exp-043.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable for it; NAME alone takes its value from here. Repeatable.")
@click.option("--priority", default=0, type=int, metavar="N", help="-100 to 100; higher goes first.")
@click.option("--time-limit", default="", metavar="TIME", help="Ended after this, such as 8h; known limits let small jobs fill gaps.")
@click.option("--retries", default=0, type=int, metavar="N", help="Run it again so often when it fails, with growing pauses.")
@click.option("--needs", multiple=True, metavar="JOB", help="Start only after this job has succeeded. Repeatable.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="[NAME=]PATH",
    help="A path on the worker that it may read, linked as NAME; or NAME=URL#sha256=HEX, which the worker fetches once. Repeatable.",
)
@click.option("--output", "outputs", multiple=True, metavar="GLOB", help="Files that are brought back when it is over. Repeatable.")
@click.option("--metric", default="", help="The goal metric, when its name alone does not show that it is one.")
@click.option("--pipeline", default="", help="The pipeline that it belongs to.")
@click.option("--submission-key", default="", metavar="KEY", help="The same key again is the same job.")
@click.option(
    "--on-lost",
    default="stop",
    type=click.Choice([each.value for each in OnLost]),
    show_default=True,
    help="When its worker loses the hub: end it and run it elsewhere, or wait.",
)
@click.option(
    "--join", "line", default=None, metavar="LINE", help="Join the relay that has printed this line first, unless that was done before."
)
@click.option("--wait", is_flag=True, help="Stay queued although no worker could run it now.")
@hub_option
@json_option
def submit(command: tuple[str, ...], folder: Path | None, as_json: bool, **given: Any) -> None:
    """Queue a COMMAND, which follows --; prints the job's id and how to watch it."""
    asked = _asked(command, given)
    if given["line"] is not None:
        joining.come(os.environ, "client", given["line"], folder, lambda text: click.echo(text, err=True))
    with _reached(folder) as found:
        job = hubs.submit(found, asked, None if given["no_code"] else Path.cwd() / given["workdir"])
        workers = len(hubs.alive(found))
    if as_json:
        click.echo(_json("job", {**hubs.job_json(job), "workers": workers}))
        return
    known = f"{job.state}: it was queued before, with this submission key"
    click.echo(f"{job.id} is {'queued' if job.state is JobState.QUEUED else known}\nwatch it:  overnight hub watch {job.id}")
    if job.cause and job.state is JobState.QUEUED:
        click.echo(f"it waits: {one_line(job.cause, 200)}", err=True)
    if not workers:
        click.echo(f"no worker is running; start one:  {_START}", err=True)


def _asked(command: tuple[str, ...], given: dict[str, Any]) -> Submission:
    taken = ("name", "gpu_count", "gpu_type", "vram_gb", "cpus", "memory_gb", "exp_id", "tags", "priority", "retries", "needs", "inputs", "outputs", "metric", "pipeline", "submission_key", "wait", "workers", "not_workers")  # fmt: skip
    try:
        limit = parse_duration(given["time_limit"]) if given["time_limit"] else 0.0
    except ValueError as exc:
        raise UsageError(
            "E-SUBMIT", f"--time-limit {given['time_limit']}: {exc}", fix="overnight hub submit --time-limit 8h -- python train.py"
        ) from exc
    return Submission(
        command=command,
        time_limit=limit,
        env=_variables(given["env"]),
        on_lost=OnLost(given["on_lost"]),
        **{name: given[name] for name in taken},
    )


def _variables(entries: tuple[str, ...]) -> dict[str, str]:
    env = {}
    for entry in entries:
        name, sign, value = entry.partition("=")
        if not sign and name not in os.environ:
            raise UsageError("E-SUBMIT", f"--env {name}: it is not set here", fix=f"export {name}=…")
        env[name] = value if sign else os.environ[name]
    return env


@hub.command("list")
@click.option("--all", "everything", is_flag=True, help="Also what is over.")
@click.option("--last", default=200, type=click.IntRange(min=1), metavar="N", show_default=True, help="Only the newest N.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([each.value for each in JobState]),
    metavar="STATE",
    help="Only jobs in this state. Repeatable.",
)
@click.option("--worker", default="", metavar="NAME", help="Only jobs of this worker.")
@click.option("--exp-id", default="", help="Only jobs of this experiment.")
@hub_option
@json_option
def list_(folder: Path | None, as_json: bool, everything: bool, last: int, states: tuple[str, ...], worker: str, exp_id: str) -> None:
    """Jobs that wait or run, and when they are expected to start."""
    with _reached(folder) as found:
        query = Query(states=tuple(JobState(each) for each in states), worker=worker, exp_id=exp_id)
        jobs = hubs.listed(found, everything=everything, last=last, query=query)
        waits = found.desk.waits()
        if as_json:
            click.echo(_json("jobs", [hubs.job_json(job, waits.get(job.id)) for job in jobs]))
            return
        head = ("job", "state", "name", "worker", "gpus", "time", "")
        click.echo(
            "\n".join(watching.table(head, [watching.row(job, waits.get(job.id)) for job in jobs]))
            or "no job waits or runs; all:  overnight hub list --all"
        )
    if len(jobs) == last:
        click.echo(f"these are the newest {last}; more:  overnight hub list --last {5 * last}{' --all' if everything else ''}", err=True)


@hub.command()
@click.argument("job", required=False, default="")
@click.option("--exit-status", is_flag=True, help="Exit with 6 if the job, or one of them, did not succeed.")
@click.option("--until-idle", is_flag=True, help="Without a JOB: end when nothing waits or runs any more.")
@hub_option
@json_option
def watch(folder: Path | None, as_json: bool, job: str, exit_status: bool, until_idle: bool) -> int:
    """What a JOB prints, until its end; without one, what all print, now and later, until ^C. ^C only looks away."""
    if bool(job) == until_idle and (until_idle or exit_status):
        wrong = "--until-idle is for all jobs" if job else "--exit-status needs a JOB, or --until-idle: what is watched for ever has no end"
        raise UsageError("E-USAGE", wrong, fix="overnight hub watch --until-idle --exit-status")
    with _reached(folder) as found:
        if not job:
            seen: set[str] | None = set() if until_idle else None
            click.echo("\n".join(watching.overview(found)) or "no job waits or runs", err=True)
            _stream(watching.streamed_all(found, seen), as_json=as_json)
            return max((_status(hubs.which(found, each)) for each in seen or ()), default=0) if exit_status else 0
        chosen = hubs.which(found, job)
        _stream(watching.streamed(found, chosen.id), as_json=as_json)
        return _status(hubs.which(found, chosen.id)) if exit_status else 0


@hub.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until its end.")
@click.option("--since", default=0, type=click.IntRange(min=0), metavar="BYTE", help="Only what follows this byte of the log.")
@click.option("--attempt", default=0, type=click.IntRange(min=0), metavar="N", help="Of an earlier attempt; the latest if not given.")
@click.option("--exit-status", is_flag=True, help="Exit with 6 if the job did not succeed, with 8 if it is not over.")
@hub_option
@json_option
def logs(folder: Path | None, as_json: bool, job: str, follow: bool, since: int, attempt: int, exit_status: bool) -> int:
    """What a JOB has printed, as it printed it."""
    with _reached(folder) as found:
        chosen = hubs.which(found, job)
        if follow:
            _stream(watching.streamed(found, chosen.id, since, attempt), as_json=as_json)
        elif as_json:
            data = b"".join(watching.raw(found, chosen, since, attempt))
            click.echo(
                _json(
                    "log",
                    {
                        "job": chosen.id,
                        "attempt": attempt or chosen.attempt,
                        "since": since,
                        "next": since + len(data),
                        "text": data.decode("utf-8", "replace"),
                    },
                )
            )
        else:
            _plain(watching.raw(found, chosen, since, attempt))
        return _status(hubs.which(found, chosen.id)) if exit_status else 0


def _plain(pieces: Iterator[bytes]) -> None:
    """Raw where a program reads; harmless on a terminal."""
    for data in pieces:
        if sys.stdout.isatty():
            click.echo(clean(data.decode("utf-8", "replace"), lines=True), nl=False)
        else:
            sys.stdout.buffer.write(data)
    sys.stdout.flush()


def _stream(pieces: Iterator[str], *, as_json: bool) -> None:
    for text in pieces:
        if as_json:
            for line in text.splitlines():
                name, _, rest = line.partition("] ")
                click.echo(json.dumps({"schema": "overnight/hub/1", "job": name[1:], "line": rest}))
        else:
            sys.stdout.write(text)
        sys.stdout.flush()


def _status(job: HubJob) -> int:
    if not job.state.over:
        return 8
    return 0 if job.state is JobState.SUCCEEDED else _FAILED


@hub.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB…")
@click.option("--reason", default="", help="Why; it stays in the record.")
@hub_option
@json_option
def cancel(folder: Path | None, as_json: bool, jobs: tuple[str, ...], reason: str) -> None:
    """End a JOB, or take it out of the queue."""
    with _reached(folder) as found:
        ended = [found.desk.cancel(hubs.which(found, job).id, reason) for job in jobs]
    if as_json:
        click.echo(_json("jobs", [hubs.job_json(job) for job in ended]))
        return
    for job in ended:
        click.echo(f"{job.id} is {'told to end' if job.state is JobState.RUNNING else f'over: {job.state}'}")


@hub.command()
@click.argument("job")
@click.option(
    "--env", multiple=True, metavar="NAME=VALUE", help="A variable of it again; NAME alone takes its value from here. Repeatable."
)
@hub_option
@json_option
def retry(folder: Path | None, as_json: bool, job: str, env: tuple[str, ...]) -> None:
    """Queue a JOB again that is over, with the same code. The hub has forgotten the values of its variables."""
    with _reached(folder) as found:
        before = hubs.which(found, job)
        if not before.state.over:
            raise UsageError(
                "E-NOT-OVER",
                f"{before.id} is {before.state}",
                why="only a job that is over can be run again",
                fix=f"overnight hub cancel {before.id}",
            )
        again = found.desk.retry(before.id, _variables(env))
    click.echo(_json("job", hubs.job_json(again)) if as_json else f"{again.id} is queued again")


@hub.command()
@click.argument("job")
@click.option("--to", "dest", default=None, type=click.Path(path_type=Path), metavar="DIR", help="Copy them into this new folder.")
@hub_option
@json_option
def outputs(folder: Path | None, as_json: bool, job: str, dest: Path | None) -> None:
    """What a JOB has left: its files that match --output, with their SHA-256."""
    with _reached(folder) as found:
        chosen = hubs.which(found, job)
        if dest is not None:
            hubs.fetch_outputs(found, chosen, Path.cwd() / dest)
        if not chosen.outputs and not as_json and dest is None:
            raise NotFoundError(
                "E-NO-OUTPUTS", f"{chosen.id} has left nothing", why=f"it is {chosen.state}", fix=f"overnight hub logs {chosen.id}"
            )
        where = found.place.outputs(chosen)
    if as_json:
        click.echo(_json("outputs", {"job": chosen.id, "folder": str(where), "files": hubs.job_json(chosen)["outputs"]}))
        return
    lines = [f"{item.sha256}  {item.size:>12}  {clean(item.path)}" for item in chosen.outputs]
    click.echo("\n".join([*lines, f"copied to {dest}" if dest is not None else f"they lie in {where}"]))


@hub.command()
@hub_option
@json_option
def workers(folder: Path | None, as_json: bool) -> None:
    """Every worker: what it has, and what it does."""
    with _reached(folder) as found:
        all_ = found.desk.workers()
    if as_json:
        click.echo(_json("workers", [hubs.worker_json(each) for each in all_]))
        return
    rows = [
        (
            each.machine.name, _worker_state(each, found.owner), f"{len(each.jobs)}/{each.machine.slots}", described(each.machine), one_line(" ".join(each.jobs), 60),
            one_line("; ".join(f"{doubt.owner}: {doubt.reason}" if doubt.owner else doubt.reason for doubt in each.doubts), 100),
        )
        for each in all_
    ]  # fmt: skip
    click.echo(
        "\n".join(watching.table(("worker", "state", "jobs", "has", "runs", "why"), rows))
        or f"no worker was ever here; start one:  {_START}"
    )


def _worker_state(found: WorkerState, owner: str) -> str:
    if found.revoked:
        return "revoked"
    if found.doubted_by(owner):
        return "quarantine"
    return "gone" if not found.alive else "draining" if found.draining else "here"


@hub.command()
@click.argument("worker")
@click.option("--undo", is_flag=True, help="Give it jobs again.")
@hub_option
@json_option
def drain(folder: Path | None, as_json: bool, worker: str, undo: bool) -> None:
    """Give a WORKER nothing more: it ends when its jobs are over."""
    with _reached(folder) as found:
        found.desk.drain(worker, on=not undo)
    click.echo(
        _json("worker", {"name": worker, "draining": not undo})
        if as_json
        else f"{worker} {'gets jobs again' if undo else 'gets nothing more'}"
    )


hub.add_command(prune)
hub.add_command(start)
