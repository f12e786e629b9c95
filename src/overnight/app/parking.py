"""Walls that a worker builds before it has a job for them, shaped like those of its last one; the next job moves in if they fit.

They fit if they are, option by option and folder by folder, what would be built for the job now; else that is done. So nothing is seen or
hidden that would not be otherwise, and a job only starts sooner. Their folder becomes the job's by its name on this machine; inside it
keeps the one that it was parked under. Must not know what walls are made of.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from overnight.errors import OvernightError, StorageError
from overnight.executors.local import LocalExecutor
from overnight.folders import remove
from overnight.models import JobSpec
from overnight.queue.words import HubJob
from overnight.sandbox import GATE, sources
from overnight.worker import PARKED

_KEPT = 2  # sets that wait
_QUIET = 0.005  # seconds after a job has begun before the next set is parked: what has just begun has the machine first
_MISSED = 1.0  # the same, after a job that they did not fit
_NEEDED = ("LD_LIBRARY_PATH",)  # for the interpreter that waits in them


@dataclass(frozen=True, slots=True)
class _Parked:
    spec: JobSpec  # with its wrap
    seen: tuple[tuple[int, int], ...]  # which files and folders of the machine it shows


class Parking:
    """Wraps jobs, in walls that stand already where they fit; a thread parks the next."""

    def __init__(
        self, runs: Path, build: Callable[[HubJob, JobSpec], JobSpec], executor: LocalExecutor, first: tuple[HubJob, JobSpec]
    ) -> None:
        """``build`` puts a job's spec behind walls, with its user by its id; ``first`` is what the first job is thought to look like."""
        self._runs = runs
        self._build = build
        self._executor = executor
        self._like = first
        self._turn = threading.Lock()
        self._parked: deque[_Parked] = deque()
        self._due = 0.0  # when the next set is parked, by the monotonic clock; 0 = none is wanted
        self._wake = threading.Condition(self._turn)
        self._open = True
        self._thread = threading.Thread(target=self._keep, name="parking", daemon=True)

    def begin(self) -> None:
        """Park, and go on parking until ``close``; what a worker that was killed had parked goes first."""
        with contextlib.suppress(OSError):
            for left in self._runs.glob(f"{PARKED}*"):
                remove(left)
        self._later(_QUIET)
        self._thread.start()

    def close(self) -> None:
        """Park nothing more, and let go what is parked."""
        with self._wake:
            self._open = False
            self._wake.notify()
        self._thread.join()
        self._clear()

    def wrap(self, job: HubJob, spec: JobSpec) -> JobSpec:
        """The job behind its walls. Raises what ``build`` raises."""
        if not _is_plain(spec):
            return self._build(job, spec)
        parked = self._taken()
        if parked is None:
            self._like = (job, spec)
            self._later(_QUIET)
            return self._build(job, spec)
        built = replace(self._build(job, replace(spec, id=parked.spec.id)), id=spec.id)  # its user is that of the walls
        if fits := _fits(parked, built):
            _move(spec.cwd, parked.spec.cwd)
        else:
            self._let_go(parked)
            self._clear()  # they are alike
        self._like = (job, spec)
        self._later(_QUIET if fits else _MISSED)
        return replace(built, parked=parked.spec.id) if fits else built

    # --- parts -------------------------------------------------------------------------------------------------------

    def _taken(self) -> _Parked | None:
        with self._turn:
            return self._parked.popleft() if self._parked else None

    def _clear(self) -> None:
        while parked := self._taken():
            self._let_go(parked)

    def _let_go(self, parked: _Parked) -> None:
        self._executor.drop(parked.spec.id)
        remove(Path(parked.spec.cwd))

    def _later(self, seconds: float) -> None:
        with self._wake:
            self._due = time.monotonic() + seconds
            self._wake.notify()

    def _keep(self) -> None:
        while True:
            with self._wake:
                while self._open and (left := self._due - time.monotonic() if self._due else 3600.0) > 0:
                    self._wake.wait(left)
                if not self._open:
                    return
                self._due = 0.0
            with contextlib.suppress(OvernightError, OSError):  # the next job says what is wrong, if it still is
                self._park()
                if len(self._parked) < _KEPT:
                    self._later(0.0)

    def _park(self) -> None:
        name = f"{PARKED}{secrets.token_hex(4)}"
        folder = self._runs / name
        folder.mkdir(mode=0o755, parents=True)
        job, spec = self._like
        built = self._build(job, replace(spec, id=name, cwd=str(folder)))
        env = {name: built.env[name] for name in _NEEDED if name in built.env}
        parked = _Parked(replace(built, argv=GATE, env=env), _seen(built))
        self._executor.park(parked.spec)
        with self._turn:
            self._parked.append(parked)


def _is_plain(spec: JobSpec) -> bool:
    """Whether nothing about the job's walls is its own: such walls are built once, for it."""
    return not (spec.gpus or spec.readable or spec.writable or spec.hosts or spec.stdin or spec.memory_limit or spec.process_limit)


def _move(folder: str, into: str) -> None:
    """Bring what lies in the job's folder into that of the walls, which gets the name of the former. Raises ``StorageError``."""
    try:
        for name in os.listdir(folder):
            os.rename(f"{folder}/{name}", f"{into}/{name}")
        os.rename(into, folder)
    except OSError as exc:
        raise StorageError("E-STORAGE", f"{folder} cannot be moved: {exc.strerror}", where=into, fix=f"df -h {into}") from exc


def _fits(parked: _Parked, built: JobSpec) -> bool:
    own, its = parked.spec.cwd, built.cwd
    wrap = tuple(its if word == own else word for word in parked.spec.wrap)
    if (wrap, parked.spec.files, parked.spec.keepers) != (built.wrap, built.files, built.keepers):
        return False
    try:
        return parked.seen == _seen(built) and not os.listdir(own)  # where it was removed, nobody could move in
    except OSError:
        return False


def _seen(spec: JobSpec) -> tuple[tuple[int, int], ...]:
    """Device and inode of all that the walls show: a name may have come to mean something else. Raises ``OSError``."""
    found = (os.stat(path) for path in sources(spec.wrap) if path != spec.cwd)
    return tuple((each.st_dev, each.st_ino) for each in found)
