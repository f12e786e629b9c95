"""``overnight hub prune``: what is old in the hub's folder goes: logs, files that jobs left, code, pipelines, and what dead workers have left.

Never what is unfinished or needed by it; of experiments the rows with their numbers stay. Files go before rows, so that a kill in between
leaves nothing that nobody knows of.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from overnight import downloads
from overnight.app import dag_place, keeping
from overnight.app import hub as hubs
from overnight.app import place as places
from overnight.app import relay as relays
from overnight.app.inputs import CLIENTS
from overnight.errors import OvernightError, UsageError
from overnight.executors.local import LocalExecutor
from overnight.folders import remove
from overnight.queue import coding
from overnight.queue.inputs import address_of, input_of
from overnight.queue.words import HubJob
from overnight.store.database import Database
from overnight.store.pruning import JobsFile, OldJob, OldJobs, OldPipelines
from overnight.workspace.parcels import Parcels

LEAST = 3600.0  # seconds; what is younger may be on its way
_DAY = 86400.0


@dataclass(slots=True)
class Pruned:
    """What went, or would go: counts, and bytes by where they were. ``passed_over`` says in words what was left alone."""

    jobs: int = 0
    trimmed: int = 0  # jobs of experiments, whose rows stay
    codes: int = 0
    pipelines: int = 0
    bytes: dict[str, int] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)

    @property
    def freed(self) -> int:
        """Bytes in all."""
        return sum(self.bytes.values())

    def add(self, where: str, size: int) -> None:
        """Count bytes."""
        self.bytes[where] = self.bytes.get(where, 0) + size


def prune(environ: Mapping[str, str], hub: Path | None, older: float, *, dry_run: bool) -> Pruned:
    """Tidy up the hub of this machine, and what this machine keeps of hubs behind relays.

    ``older`` are seconds since something was over or used. Where the hub itself is elsewhere, its owner tidies it up there.
    Raises ``UsageError``, ``StorageError``; where a Postgres keeps the queue also ``UnreachableError``, ``NotAllowedError``.
    """
    if older < LEAST:
        raise UsageError("E-PRUNE", "what is younger than an hour may still be on its way", fix="overnight hub prune --older 1h")
    before, done = time.time() - older, Pruned()
    place = hubs.locate(hub, environ)
    if place.folder.is_dir():
        with keeping.opened(place.folder, environ) as held:
            if held:
                _hub(place, held, before, done, dry_run=dry_run)
    _fetched(place, before, done, dry_run=dry_run)
    home = dag_place.Home(place.folder)
    if home.database.exists():
        _pipelines(home, before, done, dry_run=dry_run)
    if hub is None and not environ.get("OVERNIGHT_HUB"):
        for folder in sorted(relays.state_folder(environ, "x").parent.glob("far-*")):
            _kept_of_far(hubs.HubPlace(folder), before, done, dry_run=dry_run)
    return done


def kept_for(environ: Mapping[str, str]) -> float:
    """Seconds for which a hub that serves a relay keeps what is over, by ``OVERNIGHT_HUB_KEEP``; 0: for ever. Raises ``UsageError``."""
    from overnight.kinds import parse_duration

    text = environ.get("OVERNIGHT_HUB_KEEP", "")
    try:
        found = parse_duration(text) if text else 0.0
    except ValueError as exc:
        raise UsageError("E-SETTING", f"OVERNIGHT_HUB_KEEP: {exc}", fix="export OVERNIGHT_HUB_KEEP=30d") from exc
    if found and found < LEAST:
        raise UsageError("E-SETTING", "OVERNIGHT_HUB_KEEP must be an hour at least", fix="export OVERNIGHT_HUB_KEEP=30d")
    return found


def daily(environ: Mapping[str, str], hub: Path, wait: Callable[[float], object]) -> None:
    """Tidy up now and every day until ``wait`` (seconds -> whether it is over) says so. The hub goes on, whatever its disk is like."""
    older = kept_for(environ)
    while True:
        with contextlib.suppress(OvernightError, OSError):
            prune(environ, hub, older, dry_run=False)
        if wait(_DAY):
            return


# --- the hub of this machine -------------------------------------------------------------------------------------------


def _hub(place: hubs.HubPlace, held: Sequence[Database], before: float, done: Pruned, *, dry_run: bool) -> None:
    records = [OldJobs(database) for database in held]
    finds = [record.found(before) for record in records]
    ids, known = {job.id for old in finds for job in old}, {job for record in records for job in record.known()}
    for folder in _entries(place.folder / "out"):
        if folder.name in ids or (folder.name not in known and _is_older(folder, before)):
            _drop(folder, "files", done, dry_run=dry_run)
    _workers(place, before, done, {attempt for record in records for attempt in record.running()}, dry_run=dry_run)
    _code(
        place.code, before, {code for record, old in zip(records, finds, strict=True) for code in record.codes(old)}, done, dry_run=dry_run
    )
    for database, old in zip(held, finds, strict=True):
        _rows(database, [job for job in old if job.size], done, dry_run=dry_run)


def _rows(database: Database, old: Sequence[OldJob], done: Pruned, *, dry_run: bool) -> None:
    """Forget what the queue says of them. A Postgres gives the room to what comes next by itself."""
    file = database if isinstance(database, JobsFile) and old and not dry_run else None
    size = file.size() if file else 0
    gone = old if dry_run else OldJobs(database).forget(old)
    done.jobs += sum(not job.stays for job in gone)
    done.trimmed += sum(job.stays for job in gone)
    done.add("record", max(0, size - file.shrink()) if file else sum(job.size for job in gone))


def _workers(place: hubs.HubPlace, before: float, done: Pruned, running: set[str], *, dry_run: bool) -> None:
    """What workers that are not at work have left of attempts that nobody waits for."""
    for folder in _entries(place.folder / "workers"):
        with _ours(folder / "lock") as free:
            if not free:
                continue
            executor = LocalExecutor(folder / "jobs")
            names = {entry.name for part in ("jobs", "runs") for entry in _entries(folder / part)}
            for name in sorted(names - running):
                if _is_older(folder / "jobs" / name, before) and executor.poll(name).state.over:
                    for part in ("jobs", "runs"):
                        _drop(folder / part / name, "workers", done, dry_run=dry_run)
                    for ending in ("grant", "json"):
                        _drop(folder / "spool" / f"{name}.{ending}", "workers", done, dry_run=dry_run)


def _fetched(place: hubs.HubPlace, before: float, done: Pruned, *, dry_run: bool) -> None:
    """Inputs with a URL that were last used before, as far as no job that was granted here names them."""
    named = (address_of(input_of(entry)[1]) for job in _granted(place) for entry in job.submission.inputs)
    needed = {address.sha256 for address in named if address is not None}
    for folder in (place.fetched, place.fetched / CLIENTS):
        for file in _entries(folder):
            if not file.is_dir() and downloads.sha_of(file) not in needed and _is_older(file, before):
                _drop(file, "fetched", done, dry_run=dry_run)


def _granted(place: hubs.HubPlace) -> Iterator[HubJob]:
    """The jobs of the workers of this folder."""
    for grant in (place.folder / "workers").glob("*/spool/*.grant"):
        with contextlib.suppress(OSError, ValueError):
            yield coding.read(HubJob, grant.read_bytes(), lenient=True)


@contextlib.contextmanager
def _ours(lock: Path) -> Iterator[bool]:
    """Whether no worker has this folder; while this lasts none can take it."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)


def _code(folder: Path, before: float, kept: Iterable[str], done: Pruned, *, dry_run: bool) -> None:
    if not folder.is_dir():
        return
    with contextlib.closing(Parcels(folder)) as parcels:
        size = _size(folder)
        done.codes += (gone := parcels.forget(before, kept, dry_run=dry_run))
        if gone and not dry_run:
            done.add("code", max(0, size - _size(folder)))


# --- pipelines ---------------------------------------------------------------------------------------------------------


def _pipelines(home: dag_place.Home, before: float, done: Pruned, *, dry_run: bool) -> None:
    if any(places.is_held(lock) for lock in _entries(home.part("locks"))):
        done.passed_over.append("pipelines, since one is under way")
        return
    with contextlib.closing(OldPipelines(home.database)) as record:
        old = record.found(before)
        if not old:
            return
        kept = record.files(old)
        for folder in _entries(home.part("outputs")):
            for file in _entries(folder):
                if file.name not in kept and _is_older(file, before):
                    _drop(file, "pipelines", done, dry_run=dry_run)
        for job in sorted(record.jobs(old)):
            _drop(home.part("jobs") / job, "pipelines", done, dry_run=dry_run)
        for number in old:
            for place in (home.part("logs") / f"dag-{number}.log", home.lock(number)):
                _drop(place, "pipelines", done, dry_run=dry_run)
        _code(home.part("code"), before, record.codes(old), done, dry_run=dry_run)
        done.pipelines += len(old)
        if not dry_run:
            size = record.size()
            record.forget(old)
            done.add("record", max(0, size - record.shrink()))


# --- what is kept of hubs behind relays --------------------------------------------------------------------------------


def _kept_of_far(place: hubs.HubPlace, before: float, done: Pruned, *, dry_run: bool) -> None:
    """Copies of files that were fetched, and code that no job of a worker here needs."""
    for folder in _entries(place.folder / "out"):
        if _is_older(folder, before):
            _drop(folder, "files", done, dry_run=dry_run)
    needed = {job.submission.code for job in _granted(place)}
    _workers(place, before, done, set(), dry_run=dry_run)
    _fetched(place, before, done, dry_run=dry_run)
    _code(place.code, before, needed, done, dry_run=dry_run)


# --- files -------------------------------------------------------------------------------------------------------------


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_older(place: Path, before: float) -> bool:
    try:
        return place.lstat().st_mtime < before
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _drop(place: Path, where: str, done: Pruned, *, dry_run: bool) -> None:
    done.add(where, _size(place))
    if dry_run:
        return
    if place.is_dir() and not place.is_symlink():
        remove(place)
    else:
        place.unlink(missing_ok=True)


def _size(place: Path) -> int:
    """Bytes on the disk of a file or of all below a folder."""
    return sum(_blocks(path) for path in _below(place))


def _below(place: Path) -> Iterator[Path]:
    yield place
    if place.is_dir() and not place.is_symlink():
        for folder, folders, files in os.walk(place):
            yield from (Path(folder, name) for name in (*folders, *files))


def _blocks(place: Path) -> int:
    try:
        return place.lstat().st_blocks * 512
    except OSError:
        return 0
