"""One hub over a Postgres, and workers that ask it, as a process of its own: `claiming.py URL FOLDER NAME WORKERS JOBS`.

Submits JOBS jobs, claims and ends whatever there is, and writes what was acknowledged to FOLDER/NAME. Ends when FOLDER/end is there.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from hubs import asked, ended, held, offer
from overnight.app.keeping import kept
from overnight.desk import Bell, Desk
from overnight.errors import StorageError, UnreachableError
from overnight.queue.words import Started

LEASE = 4.0
_R = TypeVar("_R")


def heard(call: Callable[[], _R]) -> _R:
    """Say it until it is answered."""
    while True:
        try:
            return call()
        except (UnreachableError, StorageError):
            time.sleep(0.05)


class Claiming:
    def __init__(self, desk: Desk, folder: Path, name: str) -> None:
        self.desk, self.folder, self.name = desk, folder, name
        self.told = (folder / name).open("a", buffering=1)

    def submit(self, count: int) -> None:
        for number in range(count):
            job = heard(partial(self.desk.submit, asked(submission_key=f"{self.name}-{number}")))
            self.told.write(f"submitted {job.id}\n")

    def work(self, worker: str) -> None:
        while not (self.folder / "end").exists():
            try:
                grant = self.desk.claim(offer(worker), 1.0)
            except (UnreachableError, StorageError):
                time.sleep(0.05)
                continue
            if grant is not None:
                self.told.write(f"granted {grant.job.id} {grant.job.attempt}\n")
                heard(partial(self.desk.report, worker, held(grant), Started()))
                if heard(partial(self.desk.report, worker, held(grant), ended())):
                    self.told.write(f"ended {grant.job.id} {grant.job.attempt}\n")


def main(url: str, folder: Path, name: str, workers: int, jobs: int) -> None:
    with kept(folder, {"OVERNIGHT_HUB_LEASE": str(LEASE)}, url) as store, store.bell("claim") as bell:
        desk = Desk(store.queue, store.now, Bell(store.ring, bell.wait), lease=LEASE, era=store.era)
        mine = Claiming(desk, folder, name)
        threads = [threading.Thread(target=mine.work, args=(f"{name}-{number}",)) for number in range(workers)]
        for thread in threads:
            thread.start()
        mine.submit(jobs)
        for thread in threads:
            thread.join()
        mine.told.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
