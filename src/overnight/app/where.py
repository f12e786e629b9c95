"""Where the jobs of a study run: the executor that its settings name, and whether it would take them."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from overnight import gpus
from overnight.errors import UsageError, nearest
from overnight.executors import EXECUTORS
from overnight.protocols import Cluster, Executor
from overnight.settings import Settings

_DEVICES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps", "kfd", "dri", *(f"nvidia{minor}" for minor in range(16)))


def executor_at(state: Path, settings: Settings | None = None) -> Executor:
    """Where runs go by the settings; without settings this machine. Job folders lie below ``state``. Raises ``UsageError``."""
    name = settings.executor if settings else "local"
    if name not in EXECUTORS and ":" not in name:
        raise UsageError(
            "E-NO-EXECUTOR", f"there is no executor '{name}'{nearest(name, EXECUTORS)}", why=f"known: {', '.join(sorted(EXECUTORS))}",
            fix="overnight run --executor local",
        )  # fmt: skip
    if settings is None or name == "local":
        if settings is not None and settings.executor_args:
            raise UsageError("E-EXECUTOR-ARGS", "the local executor takes no words", fix="overnight run --executor slurm --executor-args …")
        here: Executor = _made(name)(state / "jobs")
        return here
    try:
        words = tuple(shlex.split(settings.executor_args))
    except ValueError as exc:
        raise UsageError("E-EXECUTOR-ARGS", f"executor_args cannot be read: {exc}", fix="close its quotes") from exc
    there: Executor = _made(name)(state / "jobs", words)
    return there


def check(settings: Settings, state: Path) -> None:
    """Refuse what cannot work: GPUs that are not there, a cluster that would not take the jobs. Raises ``UsageError``, ``UnreachableError``."""
    named = [part.strip() for item in settings.gpus for part in item.split(",")]
    if settings.executor == "local":
        executor_at(state, settings)
        gpus.check(named)
        if settings.gpus_per_run:
            raise UsageError(
                "E-GPUS-PER-RUN", "gpus_per_run is for clusters", why="on this machine each slot gets its share of gpus",
                fix="overnight run --gpus 0,1 --slots 2",
            )  # fmt: skip
        return
    if named:
        raise UsageError(
            "E-GPUS", f"gpus names cards of this machine, and runs go to {settings.executor}", why="there the cluster hands cards out",
            fix=f"overnight run --executor {settings.executor} --gpus-per-run {len(named)}",
        )  # fmt: skip
    executor = executor_at(state, settings)
    if isinstance(executor, Cluster):
        executor.check(settings.limit, settings.gpus_per_run)


def devices(settings: Settings) -> tuple[Path, ...]:
    """Device files that walls let through on a machine that is not known yet; which of them a run may use is held there by the cluster."""
    asks = settings.gpus_per_run or any(word in settings.executor_args.lower() for word in ("gpu", "gres"))
    return tuple(Path("/dev", name) for name in _DEVICES) if settings.executor != "local" and asks else ()


def _made(name: str) -> Callable[..., Any]:
    module, _, kind = EXECUTORS.get(name, name).partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError) as exc:
        raise UsageError("E-NO-PLUGIN", f"'{name}' cannot be loaded: {exc}", fix="name it as package.module:Class") from exc
    return found
