"""``overnight worker start``: what this machine offers, the walls around jobs, and the worker that is put together from them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from overnight import gpus
from overnight.app import handed
from overnight.app import hub as hubs
from overnight.app.bringing import brought
from overnight.app.inputs import Inputs, room_of
from overnight.app.keeping import boot, clock
from overnight.app.parking import Parking
from overnight.app.strangers import Strangers
from overnight.app.where import devices_elsewhere, executor_named
from overnight.attempt import Hands
from overnight.environment import for_run
from overnight.errors import BusyError, JobError, StorageError, UsageError
from overnight.executors.local import LocalExecutor
from overnight.models import Confined, JobSpec, JobState
from overnight.queue.inputs import check_prefix
from overnight.queue.words import NETWORK, OURS, Card, HubJob, Machine, Output, Submission, cache_tag, is_worker_name
from overnight.sandbox import By, Walls, confined, interpreters, stand
from overnight.worker import Around, Worker, place_at
from overnight.workspace.parcels import Parcels


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the person said of the worker; None = as it is found."""

    name: str = ""
    gpus: int | None = None  # declared, whether they are found or not
    gpu_type: str = ""  # of declared ones
    vram_gb: float = 0.0  # of declared ones
    slots: int | None = None
    cpus: int | None = None
    memory_gb: float | None = None
    tags: tuple[str, ...] = ()
    executor: str = "local"
    executor_args: str = ""
    network: bool = False
    caches: tuple[str, ...] = ()  # folders that jobs may write and later ones find again
    unsafe: bool = False
    shares: tuple[Path, ...] = ()  # folders below which jobs of clients may name inputs
    fetches: tuple[str, ...] = ()  # beginnings of URLs that jobs of clients may have fetched


@contextlib.contextmanager
def ready(reached: hubs.Reached, wanted: Wanted, say: Callable[[str], None]) -> Iterator[Worker]:
    """A worker of this machine for the hub, ready to run. Raises ``UsageError``, ``BusyError``, ``StorageError``."""
    place = reached.place
    if reached.trouble is not None:  # the first claim would say it, a minute later
        say(f"{reached.trouble}\nit is tried again until it works")
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(_named(place, _called(reached, wanted)))
        own = place_at(place.worker(name))
        machine = machine_of(name, wanted, dict(reached.environ))
        wrap, standing = _walls(place, reached, wanted, machine)
        executor = executor_named(wanted.executor, own.jobs, wanted.executor_args, "overnight worker start")
        stack.callback(getattr(executor, "close", lambda: None))
        if isinstance(executor, LocalExecutor) and standing is Confined.BUBBLEWRAP:
            first = JobSpec("first", ("/bin/sh", "-c", ""), str(own.runs), for_run(reached.environ))
            parking = Parking(
                own.runs, wrap, executor, (HubJob("first", Submission(("true",)), JobState.QUEUED, owner=reached.name), first)
            )
            wrap = parking.wrap
            parking.begin()
            stack.callback(parking.close)
        parcels = stack.enter_context(contextlib.closing(Parcels(place.code)))
        inputs = Inputs(place.fetched, machine, reached, say)
        inputs.sweep()
        hands = Hands(
            reached.desk, executor, lambda job, folder: _fetched(reached, (parcels, inputs), job, folder),
            lambda job, folder: _outputs(reached, parcels, job, folder), wrap,
            for_run(reached.environ), inputs.readable, inputs.fetch, lambda given: class_of(machine, given), standing.word,
        )  # fmt: skip
        bell = stack.enter_context(reached.bell("stop"))
        handed.sweep(place.handed)
        around = Around(clock, boot(), bell.wait, say, room=room_of(reached.environ), clients=reached.clients)
        if wanted.gpus is None and wanted.executor == "local" and machine.cards:  # of declared cards nobody can be asked
            around = replace(around, leftover=Strangers([card.index for card in machine.cards], clock, say))
        yield Worker(machine, hands, own, around)


def machine_of(name: str, wanted: Wanted, environ: dict[str, str]) -> Machine:
    """What the worker has: as it is found, or as it is declared. Raises ``UsageError`` (E-SHARE, E-FETCH)."""
    if wanted.gpus is None:
        cards = tuple(Card(gpu.index, gpu.name, gpu.memory_mb) for gpu in gpus.found(environ.get("CUDA_VISIBLE_DEVICES")))
    else:
        cards = tuple(Card(str(index), wanted.gpu_type, int(wanted.vram_gb * 1000)) for index in range(wanted.gpus))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    slots = wanted.slots if wanted.slots is not None else max(1, len(cards))
    home = environ.get("HOME", "")
    for prefix in wanted.fetches:
        check_prefix(prefix)
    granted = (*([NETWORK] if wanted.network or wanted.unsafe else []), *(cache_tag(str(path), home) for path in _caches(wanted)))
    kind = " + ".join(card.name or f"GPU {card.index}" for card in cards) or gpus.processor()
    return Machine(
        name, slots, cards, cores if wanted.cpus is None else wanted.cpus, round(memory if wanted.memory_gb is None else wanted.memory_gb, 1),
        (*wanted.tags, *granted), os.uname().nodename, kind, shares=tuple(map(_share, wanted.shares)), fetches=wanted.fetches,
    )  # fmt: skip


def _caches(wanted: Wanted) -> tuple[Path, ...]:
    """The folders that are granted, absolute."""
    return tuple(Path(os.path.abspath(Path(path).expanduser())) for path in wanted.caches)


def _share(folder: Path) -> str:
    """Where a folder that is shared really lies. Raises ``UsageError`` (E-SHARE)."""
    try:
        return str(folder.expanduser().resolve(strict=True))
    except (OSError, RuntimeError) as exc:
        raise UsageError("E-SHARE", f"{folder} cannot be shared: {exc}", fix=f"ls -ld {folder}") from exc


def class_of(machine: Machine, given: Sequence[str]) -> str:
    """The class of machine of a job that was given these GPUs: their models, else the processor."""
    names = {card.index: card.name for card in machine.cards}
    return " + ".join(names.get(index) or f"GPU {index}" for index in given) or gpus.processor()


def lay_out(parcels: Parcels, job: HubJob, folder: Path, inputs: Inputs) -> None:
    """The code of a job in a new folder, with its inputs linked; those of clients are open to them. Raises ``JobError``, ``NotFoundError``, ``StorageError``."""
    asked = job.submission
    if asked.code:
        parcels.export(asked.code, folder)
    try:
        (folder / asked.folder).mkdir(parents=True, exist_ok=True)
        for entry in (*asked.inputs, *asked.extras):
            name, path = inputs.placed(job, entry)
            there, is_open = os.path.exists(path), inputs.is_open(job, entry)
            if entry in asked.extras and not (there and is_open):
                continue
            if not is_open:
                raise JobError(
                    "E-NOT-SHARED", f"jobs of '{job.owner}' may not read {path}", why="this worker does not share it",
                    fix=f"overnight worker start --share {path}   # by the worker's owner",
                )  # fmt: skip
            if not there:
                raise JobError("E-NO-INPUT", f"there is no {path}", why="it is an input of the job", fix=f"ls -ld {path}")
            if name:
                _link(folder, name, path)
    except OSError as exc:
        raise StorageError(
            "E-STORAGE", f"the folder of {job.id} cannot be made: {exc.strerror}", where=str(folder), fix=f"df -h {folder.parent}"
        ) from exc
    _find(asked.command, job, folder / asked.folder)


def _link(folder: Path, name: str, path: str) -> None:
    """Put a link into the folder, never through another one."""
    place = Path(os.path.normpath(folder / name))
    if folder not in place.parents:
        raise JobError("E-NO-INPUT", f"{name} leads out of the folder of the job", fix="overnight hub submit --input data=/mnt/data")
    for parent in reversed([each for each in place.parents if folder in each.parents]):
        if parent.is_symlink():
            raise JobError("E-NO-INPUT", f"{name} lies behind a link", fix="overnight hub submit --input data=/mnt/data")
        parent.mkdir(exist_ok=True)
    if place.is_symlink() or place.is_file():
        place.unlink()
    if place.exists():
        raise JobError("E-NO-INPUT", f"{name} is a folder of the code, and cannot be an input as well", fix="name the input otherwise")
    place.symlink_to(path)


def _find(command: tuple[str, ...], job: HubJob, folder: Path) -> None:
    """Say that a command does not exist here, before anything is started."""
    import shutil

    if len(command) < 2 or command[0] == OURS:
        return
    search = job.submission.env.get("PATH") or for_run(os.environ)["PATH"]
    there = (folder / command[0]).exists() if "/" in command[0] else shutil.which(command[0], path=search)
    if not there:
        raise JobError("E-NO-COMMAND", f"command not found: {command[0]}", fix=f"which {command[0]}")


def _fetched(reached: hubs.Reached, keep: tuple[Parcels, Inputs], job: HubJob, folder: Path) -> None:
    reached.admit(job.owner)
    parcels, inputs = keep
    reached.courier.fetch_code(parcels, job)
    store = reached.place.handed
    reached.courier.fetch_handed(job, handed.missing(store, job), store)
    lay_out(parcels, job, folder, inputs)
    if job.submission.handed:
        handed.lay(store, job, folder)


def _called(reached: hubs.Reached, wanted: Wanted) -> str:
    """What it is called: behind a relay as it has joined. Raises ``UsageError``."""
    if reached.name and wanted.name not in ("", reached.name):
        raise UsageError("E-WORKER-NAME", f"this worker has joined as {reached.name}", fix=f"overnight worker start --name {reached.name}")
    return reached.name or wanted.name


def _outputs(reached: hubs.Reached, parcels: Parcels, job: HubJob, folder: Path) -> tuple[Output, ...]:
    place = reached.place.outputs(job)
    found = brought(parcels, job, folder, place)
    reached.courier.hand_in(job, found, place)
    return found


def _walls(
    place: hubs.HubPlace, reached: hubs.Reached, wanted: Wanted, machine: Machine
) -> tuple[Callable[[HubJob, JobSpec], JobSpec], Confined]:
    """What puts a job behind its walls, proven to stand, and which ones. Raises ``UsageError`` (E-NO-SANDBOX)."""
    if wanted.unsafe:
        return lambda _job, spec: spec, Confined.NONE
    keep = place.folder / "walls"
    env = for_run(reached.environ)
    home = Path(reached.environ.get("HOME") or "/nonexistent")
    walls = Walls(
        keep=keep, readable=tuple(interpreters(env, ("/bin/sh",), place.folder, checkouts=False)), hidden=(place.folder,),
        devices=devices_elsewhere() if machine.cards and wanted.executor != "local" else (), network=wanted.network, home=home, writable=_caches(wanted),
    )  # fmt: skip
    walls = stand(walls)

    def wrap(job: HubJob, spec: JobSpec) -> JobSpec:
        if job.owner:  # what a client's job names, in its variables or by links of its code, opens nothing
            return confined(walls, spec)
        return confined(replace(walls, readable=tuple(interpreters(spec.env, spec.argv, Path(spec.cwd), checkouts=False))), spec)

    return wrap, Confined.LANDLOCK if walls.by is By.LANDLOCK else Confined.BUBBLEWRAP


@contextlib.contextmanager
def _named(place: hubs.HubPlace, wanted: str) -> Iterator[str]:
    """A name that no other worker on this machine has, held as long as we live. Raises ``BusyError``, ``UsageError``."""
    host = (
        "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in os.uname().nodename.split(".")[0])[:40].lstrip("._-")
        or "worker"
    )
    names = [wanted] if wanted else [host, *(f"{host}-{number}" for number in range(2, 100))]
    if wanted and not is_worker_name(wanted):
        raise UsageError("E-WORKER-NAME", f"a worker cannot be called {wanted[:80]!r}", why="letters, digits and ._@+- are taken", fix="overnight worker start --name gpu-box")  # fmt: skip
    for name in names:
        handle = _held(place.worker(name))
        if handle >= 0:
            try:
                yield name
            finally:
                os.close(handle)
            return
    raise BusyError(
        "E-BUSY", f"a worker {names[0]} is at work here already", where=str(place.worker(names[0])), fix="overnight hub workers"
    )


def _held(folder: Path) -> int:
    """The lock of a worker's folder, -1 if another has it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StorageError("E-STORE", f"{folder} cannot be made: {exc.strerror}", fix=f"df -h {folder.parent}") from exc
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return -1
    return handle
