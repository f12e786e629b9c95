"""A hub and its workers as real processes, for tests: jobs are shell lines, leases are short."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import warm
from overnight.app import hub as hubs
from overnight.app.api import Job, hub_submit
from overnight.queue.words import HubJob, Query

PATIENCE = 60.0
LEASE = 2.0


@dataclass
class Yard:
    """A hub in ``root``/hub; ``told`` is a folder that jobs write to."""

    root: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def hub(self) -> Path:
        return self.root / "hub"

    @property
    def told(self) -> Path:
        return self.root / "told"

    def worker(self, *words: str, name: str = "w", unsafe: bool = True) -> subprocess.Popen[str]:
        """A worker that is ready."""
        argv = [sys.executable, "-m", "overnight", "worker", "start", "--name", name, *(["--unsafe-no-sandbox"] if unsafe else []), *words]
        with (self.root / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                cwd=self.root,
                env=os.environ | {"OVERNIGHT_HUB": str(self.hub)},
            )
        self.started.append(process)
        return process

    def said(self, name: str = "w") -> str:
        return (self.root / f"{name}.log").read_text()

    def submit(self, script: str, **more: Any) -> Job:
        """A job that is a line for the shell, without code."""
        return hub_submit(script, hub=self.hub, workdir=more.pop("workdir", None), **more)

    def jobs(self) -> list[HubJob]:
        with hubs.reached(self.hub, os.environ) as found:
            return found.desk.jobs(Query(last=10_000))

    def alive(self) -> list[str]:
        with hubs.reached(self.hub, os.environ) as found:
            return [each.machine.name for each in hubs.alive(found)]

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """An ``overnight`` command, to its end."""
        return warm.run(words, self.root, os.environ | {"OVERNIGHT_HUB": str(self.hub)})

    def json(self, *words: str) -> Any:
        done = self.call(*words, "--json")
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    def marks(self) -> list[str]:
        """What jobs have written to ``told``, by name."""
        return sorted(path.name for path in self.told.iterdir())


def until(found: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What ``found`` gives as soon as it is true."""
    end = time.monotonic() + seconds
    while not (got := found()) and time.monotonic() < end:
        time.sleep(0.01)
    assert got
    return got


def end(process: subprocess.Popen[Any], number: int = signal.SIGTERM) -> int:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
    return process.wait(PATIENCE)
