"""Commands that must succeed on a commit: each runs as a job behind walls, in a fresh export of its own, without network.

Knows the Executor protocol and the workspace; must not know why something is checked, nor what follows.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from overnight.errors import JobError
from overnight.folders import remove
from overnight.models import JobSpec, JobState, JobStatus
from overnight.protocols import Executor
from overnight.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Where:
    """What every check runs with. ``time_limit`` in seconds, sizes in bytes; 0 = no limit. ``wrap`` puts a job behind its walls."""

    folder: Path  # for the exports
    env: Mapping[str, str]
    links: Mapping[str, Path]
    wrap: Callable[[JobSpec], JobSpec]
    time_limit: float = 600.0
    memory_limit: int = 0
    process_limit: int = 0
    disk_limit: int = 0
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """A check that did not pass: the command, why in words, and the end of its output."""

    check: str
    cause: str
    output: str


class Checker:
    """Runs checks; safe to use from several threads. ``stopping`` ends those that run."""

    def __init__(self, executor: Executor, workspace: Workspace, where: Where, stopping: threading.Event) -> None:
        self._executor = executor
        self._workspace = workspace
        self._where = where
        self._stopping = stopping

    def run(self, name: str, commit: str, commands: Sequence[str]) -> Failure | None:
        """The first of the commands that fails on a commit, or None. Raises ``JobError``, also (E-CANCELLED) when it was stopped."""
        for command in dict.fromkeys(commands):
            status = self._once(name, commit, command)
            if self._stopping.is_set():
                raise JobError("E-CANCELLED", "the checks were stopped")
            if status.state is not JobState.SUCCEEDED:
                return Failure(command, status.cause or status.state.lower(), status.end)
        return None

    def _once(self, name: str, commit: str, command: str) -> JobStatus:
        where = self._where
        job = f"check-{name}-{secrets.token_hex(6)}"
        copy = where.folder / job
        try:
            self._workspace.export(commit, {}, copy, where.links)
            spec = JobSpec(
                id=job, argv=("/bin/sh", "-c", command), cwd=str(copy), env=where.env, time_limit=where.time_limit, memory_limit=where.memory_limit,
                process_limit=where.process_limit, disk_limit=where.disk_limit, gpus=where.gpus, log_head=2**20, log_tail=2**18, durable=False,
            )  # fmt: skip
            self._executor.submit(where.wrap(spec))
            asked = False
            while not (status := self._executor.poll(job, 0.25)).state.over:
                if self._stopping.is_set() and not asked:
                    self._executor.cancel(job, "stopped")
                    asked = True
            return status
        finally:
            remove(copy)
