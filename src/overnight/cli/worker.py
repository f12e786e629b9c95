"""The verb ``worker``: this machine's part in running jobs."""

from __future__ import annotations

import click

from overnight.cli.join import allow, forbid, install, worker_join


@click.group()
def worker() -> None:
    """This machine as one that runs jobs."""


for _command in (worker_join, allow, forbid, install):
    worker.add_command(_command)
