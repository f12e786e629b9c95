"""Where the jobs of a study run: the executor that its settings name, and whether it would take them."""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from overnight import gpus
from overnight.errors import UsageError, nearest
from overnight.executors import EXECUTORS
from overnight.models import JobSpec
from overnight.protocols import Cluster, Executor
from overnight.settings import Settings

_DEVICES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps", "kfd", "dri", *(f"nvidia{minor}" for minor in range(16)))


def executor_at(state: Path, settings: Settings | None = None) -> Executor:
    """Where runs go by the settings; without settings this machine. Job folders lie below ``state``. Raises ``UsageError``."""
    if settings is None:
        return executor_named("local", state / "jobs")
    if settings.executor == "hub":
        from overnight.app.spreading import executor_over_hub

        return executor_over_hub(state / "jobs", words_of(settings.executor_args), settings, os.environ)
    return executor_named(settings.executor, state / "jobs", settings.executor_args)


def executor_named(name: str, root: Path, args: str = "", verb: str = "overnight run") -> Executor:
    """The executor of a row, or of a plugin, with its job folders in ``root``; ``args`` are its own words. Raises ``UsageError``."""
    check_name(name, verb)
    if name == "hub":
        raise UsageError("E-NO-EXECUTOR", "the hub is an executor of studies and pipelines alone", fix=f"{verb} --executor local")
    if name == "local":
        if args:
            raise UsageError("E-EXECUTOR-ARGS", "the local executor takes no words", fix=f"{verb} --executor slurm --executor-args …")
        here: Executor = _made(name)(root)
        return here
    there: Executor = _made(name)(root, words_of(args))
    return there


def check_name(name: str, verb: str) -> None:
    """Refuse an executor that is neither a row nor the path of a plugin. Raises ``UsageError`` (E-NO-EXECUTOR)."""
    if name not in EXECUTORS and ":" not in name:
        raise UsageError(
            "E-NO-EXECUTOR", f"there is no executor '{name[:80]}'{nearest(name, EXECUTORS)}", why=f"known: {', '.join(sorted(EXECUTORS))}",
            fix=f"{verb} --executor local",
        )  # fmt: skip


def words_of(args: str) -> tuple[str, ...]:
    """The words of ``executor_args``. Raises ``UsageError``."""
    try:
        return tuple(shlex.split(args))
    except ValueError as exc:
        raise UsageError("E-EXECUTOR-ARGS", f"executor_args cannot be read: {exc}", fix="close its quotes") from exc


def check(settings: Settings, state: Path) -> None:
    """Refuse what cannot work: GPUs that are not there, a cluster that would not take the jobs. Raises ``UsageError``, ``UnreachableError``."""
    named = [part.strip() for item in settings.gpus for part in item.split(",")]
    _check_verify(settings)
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
            "E-GPUS", f"gpus names cards of this machine, and runs go to {settings.executor}", why="there cards are handed out",
            fix=f"overnight run --executor {settings.executor} --gpus-per-run {len(named)}",
        )  # fmt: skip
    executor = executor_at(state, settings)
    try:
        if isinstance(executor, Cluster):
            executor.check(JobSpec("check", ("true",), "/", time_limit=settings.limit, gpus=tuple(map(str, range(settings.gpus_per_run)))))
    finally:
        getattr(executor, "close", lambda: None)()


def _check_verify(settings: Settings) -> None:
    """Second opinions need workers with names."""
    if settings.verify == "off":
        return
    if settings.executor != "hub":
        raise UsageError(
            "E-VERIFY", "there is no second worker that could verify a result", why=f"runs go to the executor {settings.executor}",
            fix=f"overnight run --executor hub --verify {settings.verify}   # or --verify off",
        )  # fmt: skip


def devices(settings: Settings) -> tuple[Path, ...]:
    """Device files that walls let through on a machine that is not known yet; which of them a run may use is held there by the cluster."""
    asks = settings.gpus_per_run or any(word in settings.executor_args.lower() for word in ("gpu", "gres"))
    return devices_elsewhere() if settings.executor not in ("local", "hub") and asks else ()


def devices_elsewhere() -> tuple[Path, ...]:
    """Every device file that a GPU of another machine may have."""
    return tuple(Path("/dev", name) for name in _DEVICES)


def _made(name: str) -> Callable[..., Any]:
    module, _, kind = EXECUTORS.get(name, name).partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError) as exc:
        raise UsageError("E-NO-PLUGIN", f"'{name}' cannot be loaded: {exc}", fix="name it as package.module:Class") from exc
    return found
