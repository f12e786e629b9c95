"""Jobs for the tests of the supervisor: real commands, how to run them, and how to see what they leave behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from overnight.models import JobSpec, JobStatus
from overnight.protocols import Executor

PATIENCE = 60.0
ENV = {"PATH": os.environ.get("PATH", os.defpath)}
SOURCE = str(Path(__file__).parents[1] / "src")


def shell(script: str, **more: Any) -> JobSpec:
    return JobSpec(**{"id": "job.1", "argv": ("sh", "-c", script), "cwd": "/", "env": ENV, **more})


def python(script: str, *arguments: str, **more: Any) -> JobSpec:
    return shell("", argv=(sys.executable, "-I", "-S", "-c", script, *arguments), **more)


def run(executor: Executor, spec: JobSpec) -> JobStatus:
    executor.submit(spec)
    return executor.poll(spec.id, PATIENCE)


def until(found: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not found() and time.monotonic() < end:
        time.sleep(0.005)
    return found()


def processes(mark: str) -> list[str]:
    """The command lines in which a mark appears."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(file.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
    return [line for line in found if mark in line]


def running(executor: Executor, spec: JobSpec) -> JobStatus:
    """Submit a job that prints a metric, and wait for it."""
    executor.submit(spec)
    assert until(lambda: bool(executor.tail(spec.id, 0)[0]))
    return executor.poll(spec.id)


def supervise(folder: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the supervisor as a program of its own on a job folder."""
    env = {**ENV, "PYTHONPATH": SOURCE}
    return subprocess.run([sys.executable, "-m", "overnight.supervisor", str(folder)], env=env, capture_output=True, text=True, **more)  # noqa: PLW1510 - the exit code is for the caller
