"""Clearing away old pipelines: their rows, job folders, code, and the files that nothing speaks of any more.

What a later pipeline took from the cache stays, with its log. What only an old one knew is run again by the next that needs it, and nothing
is lost but the time. A pipeline that runs or can be taken up again is never touched.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from overnight.app import dag_place
from overnight.app.dag_place import Doors
from overnight.dag.caching import parts_from_json
from overnight.dag.words import Dag
from overnight.errors import BusyError, UsageError
from overnight.folders import remove
from overnight.kinds import parse_duration

_GRACE = 3600.0  # seconds for which a file may be on its way into the record of a pipeline that runs now


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was cleared away, or would be: ids, bytes, and how many pipelines there are after it."""

    removed: tuple[str, ...]
    size: int
    left: int
    interrupted: tuple[str, ...]  # old ones that stay, since they can be taken up again


def seconds_of(text: str) -> float:
    """The seconds of ``30d``. Raises ``UsageError`` (E-USAGE)."""
    try:
        return parse_duration(text)
    except ValueError as exc:
        raise UsageError("E-USAGE", f"--older: {exc}", fix="overnight dag prune --older 30d") from exc


def prune(doors: Doors, older: float, now: float, *, dry: bool = False) -> Pruned:
    """Forget pipelines that ended more than ``older`` seconds before ``now``. ``dry``: only say what would go. Raises ``StorageError``."""
    dags = doors.record.dags()
    over = [dag for dag in dags if dag.finished is not None and dag.state.over and dag.finished < now - older]
    alone = [
        dag.id for dag in dags if not dag.state.over and dag.created < now - older and not dag_place.is_conducted(doors.home, dag.number)
    ]
    with contextlib.ExitStack() as stack:
        gone = [dag for dag in over if _is_ours(stack, doors, dag)]
        if not dry and gone:
            doors.record.prune([dag.number for dag in gone], lambda parts: parts_from_json(parts).key)
        size = _swept(doors, gone, now, dry=dry)
    return Pruned(tuple(dag.id for dag in gone), size, len(dags) - len(gone), tuple(alone))


def _is_ours(stack: contextlib.ExitStack, doors: Doors, dag: Dag) -> bool:
    """Whether nobody conducts it; from now on nobody can."""
    try:
        stack.enter_context(dag_place.conducted(doors.home, dag))
    except BusyError:
        return False
    return True


def _swept(doors: Doors, gone: list[Dag], now: float, *, dry: bool) -> int:
    """Remove what the record does not speak of any more; returns its bytes, code aside."""
    numbers = {dag.number for dag in gone}
    files, commits, jobs = doors.record.held(tuple(numbers))
    busy = any(dag_place.is_conducted(doors.home, dag.number) for dag in doors.record.dags() if not dag.state.over)
    size = doors.outputs.drop(files, now - _GRACE if busy else now, dry=dry)
    for dag in gone:
        for place in _folders(doors, dag):
            if place.name not in jobs:
                size += _size(place)
                _cleared(place, dry=dry)
        for place in (doors.home.part("logs") / f"{dag.id}.log", doors.home.lock(dag.number)):
            _cleared(place, dry=dry)
    if not dry:
        doors.parcels.forget(now - _GRACE, commits)
    return size


def _cleared(place: Path, *, dry: bool) -> None:
    if dry:
        return
    if place.is_dir():
        remove(place)
    with contextlib.suppress(OSError):
        place.unlink()


def _folders(doors: Doors, dag: Dag) -> Iterator[Path]:
    """Folders of its attempts."""
    for part in ("jobs", "runs"):
        yield from doors.home.part(part).glob(f"{dag.id}-*")


def _size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    found = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found += os.lstat(os.path.join(where, name)).st_size
    return found
