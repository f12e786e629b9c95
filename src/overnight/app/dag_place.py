"""Where pipelines live and run: the user's folder for them, the machine as they see it, and the walls around their tasks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from overnight import config, gpus
from overnight.app import place as places
from overnight.app import where
from overnight.app.data import data_paths, named_paths
from overnight.app.spreading import executor_over_hub, readable
from overnight.dag.fit import Card, Machine
from overnight.dag.words import Dag, Plan
from overnight.environment import for_run
from overnight.errors import BusyError, NotFoundError, StorageError, UsageError
from overnight.leavings import Outputs
from overnight.models import JobSpec
from overnight.protocols import Cluster, Executor
from overnight.sandbox import Walls, confined, interpreters, stand
from overnight.settings import Settings
from overnight.store.pipelines import Pipelines
from overnight.workspace import Parcels

_CODE = (".py", ".sh", ".toml", ".yaml", ".yml", ".json", ".cfg", ".ini", "Makefile", "justfile")
_BEGINNING = 30.0  # seconds from the writing down of a pipeline to its first conductor, at most
_FILES, _LONGEST = 400, 2**18  # files that are looked at for paths they name, bytes of each
_RUN = ("OVERNIGHT_SEED", "OVERNIGHT_EXPERIMENT_ID", "OVERNIGHT_TAG", "OVERNIGHT_TIME_BUDGET")
Wrap = Callable[[JobSpec], JobSpec]


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of all pipelines of one user, and what lies in it."""

    folder: Path

    @property
    def database(self) -> Path:
        """The record."""
        return self.folder / "dags.db"

    def part(self, name: str) -> Path:
        """``code``, ``jobs``, ``outputs``, ``runs``, ``walls``, ``logs`` or ``locks``."""
        return self.folder / "dags" / name

    def lock(self, number: int) -> Path:
        """Held by whoever conducts a pipeline."""
        return self.part("locks") / f"dag-{number}"


@dataclass(frozen=True, slots=True)
class Doors:
    """What a pipeline is begun and conducted with."""

    home: Home
    record: Pipelines
    parcels: Parcels
    outputs: Outputs


def home(environ: Mapping[str, str]) -> Home:
    """``$OVERNIGHT_HUB``, else ``$XDG_STATE_HOME/overnight/hub``, by default below ``~/.local/state``. Raises ``UsageError``.

    An empty or relative variable counts as not set (XDG Base Directory Specification 0.8).
    """
    if named := environ.get("OVERNIGHT_HUB"):
        return Home(Path(named).expanduser().absolute())
    base, person = Path(environ.get("XDG_STATE_HOME", "")), Path(environ.get("HOME", ""))
    if not base.is_absolute() and not person.is_absolute():
        raise UsageError("E-NO-HOME", "there is no home folder for the record of pipelines", fix="export OVERNIGHT_HUB=/a/folder/of/yours")
    return Home((base if base.is_absolute() else person / ".local" / "state") / "overnight" / "hub")


@contextlib.contextmanager
def opened(environ: Mapping[str, str]) -> Iterator[Doors]:
    """Everything open, for writing. Raises ``UsageError``, ``StorageError``."""
    found = home(environ)
    try:
        found.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found.part("locks").mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise StorageError(
            "E-STORE", f"{found.folder} cannot be made: {exc.strerror}", fix="export OVERNIGHT_HUB=/a/folder/of/yours"
        ) from exc
    with contextlib.closing(Pipelines(found.database)) as record, contextlib.closing(Parcels(found.part("code"))) as parcels:
        yield Doors(found, record, parcels, Outputs(found.part("outputs")))


@contextlib.contextmanager
def recorded(environ: Mapping[str, str]) -> Iterator[tuple[Home, Pipelines]]:
    """The record alone, for whoever looks. Raises ``NotFoundError`` (E-NO-DAG)."""
    found = home(environ)
    if not found.database.exists():
        raise NotFoundError("E-NO-DAG", "no pipeline was run yet", where=str(found.folder), fix="overnight dag run pipeline.yaml")
    with contextlib.closing(Pipelines(found.database)) as record:
        yield found, record


def is_conducted(found: Home, number: int) -> bool:
    """Whether somebody conducts the pipeline now."""
    return places.is_held(found.lock(number))


def is_left(found: Home, dag: Dag, now: float) -> bool:
    """Whether nobody conducts a pipeline that is not over, nor is about to: one that has just been begun was not locked by anybody yet."""
    return not is_conducted(found, dag.number) and (found.lock(dag.number).exists() or now - dag.created > _BEGINNING)


@contextlib.contextmanager
def conducted(found: Home, dag: Dag) -> Iterator[None]:
    """Be the one who conducts the pipeline; it ends with the process. Raises ``BusyError``."""
    handle = os.open(found.lock(dag.number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not places.try_lock(handle):
            raise BusyError("E-BUSY", f"{dag.id} is conducted by another process", fix=f"overnight dag watch {dag.id}")
        yield
    finally:
        os.close(handle)


# --- where tasks run --------------------------------------------------------------------------------------------------


def settings_for(workdir: Path, options: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
    """The settings that concern tasks as they concern runs: walls, caches, data, variables, GPUs. Raises ``UsageError``."""
    flags = {name: options[name] for name in ("unsafe_no_sandbox", "sandbox_network", "gpus") if options.get(name)}
    root = places.default(workdir).state.parent
    return config.load(root, flags, environ).settings


def placed(options: Mapping[str, object], settings: Settings) -> dict[str, object]:
    """The options with the executor that counts, and its words: as given, else as the settings say; nothing for this machine.

    Raises ``UsageError`` (E-NO-EXECUTOR, E-GPUS, E-EXECUTOR-ARGS).
    """
    name = str(options.get("executor") or settings.executor)
    args = str(options.get("executor_args") or (settings.executor_args if name == settings.executor else ""))
    rest = {key: value for key, value in options.items() if key not in ("executor", "executor_args")}
    where.check_name(name, "overnight dag run pipeline.yaml")
    if name == "local":
        if args:
            where.executor_named(name, Path(), args, "overnight dag run pipeline.yaml")
        return rest
    if cards := rest.get("gpus"):
        raise UsageError(
            "E-GPUS", f"--gpus names cards of this machine, and tasks go to {name}", why=f"{', '.join(map(str, cards))} would say nothing there",  # type: ignore[call-overload] # a list
            fix=f"overnight dag run pipeline.yaml --executor {name}",
        )  # fmt: skip
    return {**rest, "executor": name, **({"executor_args": args} if args else {})}


def executor_of(found: Home, options: Mapping[str, object], settings: Settings, environ: Mapping[str, str]) -> Executor:
    """The executor of a pipeline, with its job folders. Raises ``UsageError``, ``UnreachableError``."""
    name, args = str(options.get("executor", "local")), str(options.get("executor_args", ""))
    if name == "hub":
        return executor_over_hub(found.part("jobs"), where.words_of(args), settings, environ)
    return where.executor_named(name, found.part("jobs"), args, "overnight dag run pipeline.yaml")


def check(found: Home, plan: Plan, options: Mapping[str, object], settings: Settings, environ: Mapping[str, str]) -> None:
    """Refuse a node that could never run where it is to. Raises ``UsageError`` with ``file:line:``, ``UnreachableError``."""
    nodes = tuple({task.node.name: task.node for task in plan.tasks}.values())
    machine(options, settings, environ).check(replace(plan.pipeline, nodes=nodes))
    if options.get("executor", "local") == "local":
        return
    executor = executor_of(found, options, settings, environ)
    try:
        asked: list[JobSpec] = []
        for node in nodes:
            spec = JobSpec(
                "check", ("true",), "/", time_limit=node.time_limit, gpus=tuple(map(str, range(node.gpu_count))), cpus=node.cpus,
                gpu_type=node.gpu_type, vram_gb=node.vram_gb, memory_limit=int(node.memory_gb * 2**30),
            )  # fmt: skip
            if isinstance(executor, Cluster) and spec not in asked:
                asked.append(spec)
                _checked(executor, spec, f"{plan.pipeline.file}:{node.line}: node '{node.name}'")
    finally:
        getattr(executor, "close", lambda: None)()


def _checked(executor: Cluster, spec: JobSpec, node: str) -> None:
    try:
        executor.check(spec)
    except UsageError as exc:
        if exc.code == "E-NO-WORKERS":
            raise
        raise UsageError(exc.code, f"{node}: {exc.message}", where=exc.where, why=exc.why, fix=exc.fix) from exc


def machine(options: Mapping[str, object], settings: Settings, environ: Mapping[str, str]) -> Machine:
    """What there is to run tasks on; another executor than ``local`` sees to that itself. Raises ``UsageError`` (E-NO-GPU)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    slots = options.get("slots") or cores
    assert isinstance(slots, int)
    if options.get("executor", "local") != "local":
        return Machine(int(options.get("slots") or 64))  # type: ignore[call-overload] # an int, as above
    named = [part.strip() for item in settings.gpus for part in item.split(",") if part.strip()]
    gpus.check(named)
    there = {gpu.index: Card(gpu.index, gpu.name, gpu.memory_mb / 1024) for gpu in gpus.found(environ.get("CUDA_VISIBLE_DEVICES"))}
    cards = tuple(there.get(name, Card(name)) for name in named) if named else tuple(there.values())
    return Machine(slots, cards, float(cores), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of every task; of a pipeline inside a run also what the run is told of itself."""
    return for_run(environ, (*settings.pass_env, *_RUN))


def walls(found: Home, dag: Dag, plan: Plan, settings: Settings, environ: Mapping[str, str]) -> Wrap:
    """What puts a task behind the walls that runs have, proven to stand; a hub's workers have walls of their own. Raises ``UsageError`` (E-NO-SANDBOX)."""
    workdir, env, executor = Path(dag.workdir), environment(settings, environ), dag.options.get("executor", "local")
    person = Path(environ.get("HOME") or "/nonexistent")
    if executor == "hub":
        return partial(readable, settings, named_paths(_code_of(workdir), person), environ)
    if settings.unsafe_no_sandbox:
        return lambda spec: spec
    programs = {words for task in plan.tasks for words in [_words(task.node.command)]}
    tools = {path: None for words in sorted(programs) for path in interpreters(env, words, workdir)}
    outside = [Path(os.path.normpath((workdir / path).parent / target)) for path, target in dag.links.items()]
    elsewhere = executor != "local" and any(task.node.gpu_count for task in plan.tasks)
    made = Walls(
        keep=found.part("walls"),
        readable=(*tools, *data_paths(settings.data, environ), *named_paths(_code_of(workdir), person), *outside),
        writable=tuple((workdir / Path(path).expanduser()).absolute() for path in settings.caches),
        hidden=(workdir, found.folder),
        devices=where.devices_elsewhere() if elsewhere else (),
        network=settings.sandbox_network,
        home=person,
    )
    standing = replace(made, by=stand(made).by)
    return lambda spec: confined(standing, spec)


def _words(command: str | tuple[str, ...]) -> tuple[str, ...]:
    return ("/bin/sh", "-c", command) if isinstance(command, str) else command


def _code_of(workdir: Path) -> Iterator[str]:
    """The texts of the person's code, which may name data outside of it; no task can add to that."""
    seen = 0
    for folder, folders, files in os.walk(workdir):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in ("venv", "node_modules", "__pycache__"))
        for name in sorted(files):
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                if name.endswith(_CODE) and path.is_file() and path.stat().st_size <= _LONGEST:
                    seen += 1
                    yield path.read_text(encoding="utf-8", errors="replace")
            if seen >= _FILES:
                return
