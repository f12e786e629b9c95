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
@click.argument("line", required=False, default="")
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
@click.option("--network", is_flag=True, help="Let jobs reach the network.")
@click.option(
    "--cache", "caches", multiple=True, metavar="DIR", help="A folder that jobs may write, and later ones find again. Repeatable."
)
@click.option("--once", is_flag=True, help="End when there is nothing to do.")
@click.option("--unsafe-no-sandbox", "unsafe", is_flag=True, help="Run jobs without walls: they can read and change all that you can.")
@hub_option
@json_option
def start(line: str, folder: Path | None, as_json: bool, once: bool, **given: Any) -> None:
    """Claim jobs and run them. ^C: finish them and end; ^C ^C: give them back and end now.

    LINE is what the relay has printed for a worker: it is joined first, unless that was done before.
    """

    def say(text: str) -> None:
        text = clean(text, lines=True)
        click.echo(json.dumps({"schema": "overnight/worker/1", "said": text}) if as_json else text, err=not as_json)

    if line:
        joining.come(os.environ, "worker", line, folder, say)
    with hubs.reached(folder, os.environ, "claim") as found, workers.ready(found, workers.Wanted(**given), say) as made:
        _listen(made, say)
        say(
            f"worker {made.machine.name}: {described(made.machine)}, {made.machine.slots} at a time"
            + ("" if not given["unsafe"] else ", without walls")
        )
        made.run(once=once)
        say(f"worker {made.machine.name} has ended")


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
