"""The verb ``worker``: this machine's GPUs and processors, offered to the hub."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import click

from overnight.app import hub as hubs
from overnight.app import joining
from overnight.app import worker as workers
from overnight.cli.hub import hub_option
from overnight.cli.join import allow, forbid, install, worker_join
from overnight.cli.options import json_option
from overnight.printable import clean
from overnight.queue.fit import described


@click.group()
def worker() -> None:
    """Work for the hub."""


@worker.command()
@click.argument("line", required=False)
@click.option("--name", default="", help="What it is called; the host's name if not given.")
@click.option(
    "--gpus", default=None, type=click.IntRange(min=0), metavar="N", help="Offer N GPUs, 0 to N-1; those that are found if not given."
)
@click.option("--gpu-type", default="", help="What GPUs given by --gpus are called.")
@click.option("--vram-gb", default=0.0, type=click.FloatRange(min=0), metavar="GB", help="Memory of each GPU given by --gpus.")
@click.option(
    "--slots", default=None, type=click.IntRange(min=1), metavar="N", help="Jobs at the same time; one for each GPU if not given."
)
@click.option("--cpus", default=None, type=click.IntRange(min=0), metavar="N", help="Processors that it offers; all if not given.")
@click.option("--memory-gb", default=None, type=click.FloatRange(min=0), metavar="GB", help="Memory that it offers; all if not given.")
@click.option("--tag", "tags", multiple=True, help="A tag that jobs can ask for. Repeatable.")
@click.option("--executor", default="local", metavar="NAME", show_default=True, help="Where its jobs run: local, slurm or ray.")
@click.option("--executor-args", default="", metavar="WORDS", help="Further words for that executor, those of sbatch for slurm.")
@click.option(
    "--share",
    "shares",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Let jobs of clients read below this folder as their inputs; without it they read nothing but their own. Repeatable.",
)
@click.option(
    "--fetch",
    "fetches",
    multiple=True,
    metavar="URL",
    help="Let jobs of clients have URLs fetched that lie below this one, with your keys and from your network; without it none. Repeatable.",
)
@click.option("--network", is_flag=True, help="Let jobs reach the network.")
@click.option(
    "--cache", "caches", multiple=True, metavar="DIR", help="A folder that jobs may write, and later ones find again. Repeatable."
)
@click.option("--once", is_flag=True, help="End when there is nothing to do.")
@click.option("--unsafe-no-sandbox", "unsafe", is_flag=True, help="Run jobs without walls: they can read and change all that you can.")
@hub_option
@json_option
def start(line: str | None, folder: Path | None, as_json: bool, once: bool, **given: Any) -> None:
    """Claim jobs and run them. ^C: finish them and end; ^C ^C: give them back and end now.

    LINE is what the relay has printed for a worker: it is joined first, unless that was done before.
    """

    def say(text: str) -> None:
        text = clean(text, lines=True)
        click.echo(json.dumps({"schema": "overnight/worker/1", "said": text}) if as_json else text, err=not as_json)

    if line is not None:  # an empty one is a mistake, and no worker for this machine's own hub
        joining.come(os.environ, "worker", line, folder, say)
    with hubs.reached(folder, os.environ, "claim") as found, workers.ready(found, workers.Wanted(**given), say) as made:
        _listen(made, say)
        say(
            f"worker {made.machine.name}: {described(made.machine)}, {made.machine.slots} at a time"
            + ("" if not given["unsafe"] else ", without walls")
        )
        made.run(once=once)
        say(f"worker {made.machine.name} has ended")


@worker.command()
@click.argument("name")
@hub_option
@json_option
def trust(name: str, folder: Path | None, as_json: bool) -> None:
    """Take a worker out of quarantine: it gets jobs again. What it measured before still does not count."""
    with hubs.reached(folder, os.environ) as found:
        was = found.desk.trust(name)
    _tell_trust(name, f"{name} is trusted again" if was else f"{name} was not in quarantine", quarantine=False, as_json=as_json)


@worker.command()
@click.argument("name")
@click.option("--reason", default="on request", show_default=True, help="Why; it stands in the list of workers.")
@hub_option
@json_option
def distrust(name: str, reason: str, folder: Path | None, as_json: bool) -> None:
    """Put a worker in quarantine: it gets none of your jobs, and those that it has go to others."""
    with hubs.reached(folder, os.environ) as found:
        found.desk.quarantine(name, reason)
    _tell_trust(name, f"{name} is in quarantine; out of it:  overnight worker trust {name}", quarantine=True, as_json=as_json)


def _tell_trust(name: str, text: str, *, quarantine: bool, as_json: bool) -> None:
    click.echo(json.dumps({"schema": "overnight/worker/1", "name": name, "quarantine": quarantine}) if as_json else clean(text))


def _listen(made: Any, say: Any) -> None:
    """First ^C: finish; second, or SIGTERM: give back."""
    asked: list[int] = []

    def heard(number: int, _frame: object) -> None:
        asked.append(number)
        if number == signal.SIGTERM or len(asked) > 1:
            say("giving back what runs")
            made.leave()
        else:
            running = len(made.held())
            say(f"finishing {running} running job{'s' * (running != 1)}; ^C again gives them back" if running else "ending")
            made.drain()

    signal.signal(signal.SIGINT, heard)
    signal.signal(signal.SIGTERM, heard)


for _command in (worker_join, allow, forbid, install):
    worker.add_command(_command)
