"""Inputs of jobs on a worker's machine: which ones a job may have, where they lie, and that those with a URL are fetched before.

What jobs of clients had fetched lies apart from what those of the hub's owner had: a hash alone, which many know, must open nothing that is not theirs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from overnight import downloads
from overnight.app import hub as hubs
from overnight.errors import JobError
from overnight.queue.fit import is_shared, lets_read
from overnight.queue.inputs import Address, address_of, granting, input_of, plainly
from overnight.queue.words import HubJob, Machine
from overnight.worker import ROOM

CLIENTS = "clients"  # the folder below that of what is fetched


@dataclass(frozen=True, slots=True)
class Inputs:
    """What jobs may read on this machine; ``folder`` holds what is fetched, for all workers of the hub's folder."""

    folder: Path
    machine: Machine
    reached: hubs.Reached
    say: Callable[[str], None]

    def placed(self, job: HubJob, entry: str) -> tuple[str, str]:
        """The name of an input in the job's folder, and where it lies on this machine."""
        name, path = input_of(entry)
        address = address_of(path)
        return name, path if address is None else str(self._folder(job) / address.sha256)

    def is_open(self, job: HubJob, entry: str) -> bool:
        """Whether a job may have this input: one of the hub's owner any, that of a client what is shared, wherever links lead, or may be fetched."""
        path = input_of(entry)[1]
        address = address_of(path)
        if not job.owner or not lets_read(path, self.machine):
            return not job.owner
        at = path if address is None else address.path
        return not at or is_shared(os.path.realpath(at), self.machine.shares)

    def readable(self, job: HubJob) -> tuple[str, ...]:
        """Paths of inputs that are there and that it may read."""
        asked = job.submission
        places = ((entry, self.placed(job, entry)[1]) for entry in (*asked.inputs, *asked.extras))
        return tuple(place for entry, place in places if os.path.exists(place) and self.is_open(job, entry))

    def fetch(self, job: HubJob, stopped: Callable[[], bool]) -> None:
        """Fetch what is not here yet; returns early when ``stopped``. Raises ``JobError``, ``NotAllowedError``, ``StorageError``."""
        wanted = [(entry, address) for entry in job.submission.inputs if (address := address_of(input_of(entry)[1])) is not None]
        if wanted:
            self.reached.admit(job.owner)
        for entry, address in wanted:
            if not self.is_open(job, entry):
                path = input_of(entry)[1]
                raise JobError(
                    "E-NOT-SHARED", f"jobs of '{job.owner}' may not have {plainly(path)} fetched", why="this worker does not let them",
                    fix=f"overnight worker start {granting(path)}   # by the worker's owner",
                )  # fmt: skip
            self._bring(job, address, stopped)

    def sweep(self) -> None:
        """Remove what workers that were killed have left unfinished."""
        for folder in (self.folder, self.folder / CLIENTS):
            downloads.sweep(folder)

    def _bring(self, job: HubJob, address: Address, stopped: Callable[[], bool]) -> None:
        url = address.url
        if job.owner and address.path:  # links were followed when it was looked at, and are not followed again
            url = f"file://{os.path.realpath(address.path)}"
        order = downloads.Order(url, address.sha256, room_of(self.reached.environ), self.machine.fetches if job.owner else None)
        downloads.bring(
            self._folder(job),
            order,
            self.reached.environ,
            stopped,
            lambda: self.say(f"[{job.id}] fetching {address.url.partition('?')[0]}"),
        )

    def _folder(self, job: HubJob) -> Path:
        return self.folder / CLIENTS if job.owner else self.folder


def room_of(environ: Mapping[str, str]) -> int:
    """Bytes that must be free before a job is claimed, and that nothing that is fetched may take."""
    text = environ.get("OVERNIGHT_WORKER_ROOM", "")
    return int(text) if text.isdecimal() else ROOM
