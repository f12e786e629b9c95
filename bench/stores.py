"""Claim and finish cycles of several hubs at once, each a process, over one file of SQLite and over one Postgres.

    python bench/stores.py [JOBS]

Both flush every submit, grant and end. The Postgres is the tests' own, on this machine's disk and over a socket, with nothing turned off.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hubs import asked, ended, held, offer  # the tests' own words
from overnight.app.keeping import kept
from overnight.desk import Bell, Desk
from postgreses import server


@contextlib.contextmanager
def _opened(folder: Path, store: str) -> Iterator[Desk]:
    with kept(folder, os.environ, store) as found:
        yield Desk(found.queue, found.now, Bell(lambda _: None, time.sleep), era=found.era)


def _claim(folder: Path, store: str, name: str) -> None:
    """Claim and end jobs until there are none; print how many, and from when to when."""
    with _opened(folder, store) as desk:
        (folder / f"{name}.ready").touch()
        while not (folder / "go").exists():
            time.sleep(0.001)
        begun, count = time.monotonic(), 0
        while (grant := desk.claim(offer(name))) is not None:
            desk.report(name, held(grant), ended(seconds=1.0))
            count += 1
        print(count, begun, time.monotonic(), flush=True)


def _cycles(folder: Path, store: str, jobs: int, claimers: int) -> tuple[float, float]:
    """Submits a second of one process, and cycles a second of so many."""
    with _opened(folder, store) as desk:
        begun = time.monotonic()
        for _ in range(jobs):
            desk.submit(asked())
        submits = jobs / (time.monotonic() - begun)
    words = [sys.executable, __file__, "claim", str(folder), store]
    running = [subprocess.Popen([*words, f"w{number}"], stdout=subprocess.PIPE, text=True) for number in range(claimers)]
    while not all((folder / f"w{number}.ready").exists() for number in range(claimers)):
        time.sleep(0.01)
    (folder / "go").touch()
    rows = [process.communicate()[0].split() for process in running]
    assert sum(int(row[0]) for row in rows) == jobs
    return submits, jobs / (max(float(row[2]) for row in rows) - min(float(row[1]) for row in rows))


def main() -> None:
    """Print all figures."""
    if sys.argv[1:2] == ["claim"]:
        _claim(Path(sys.argv[2]), sys.argv[3], sys.argv[4])
        return
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as place, server(safe=True) as postgres:
        for store in ("SQLite", "Postgres"):
            for claimers in (1, 2, 4):
                folder = Path(place) / f"{store}-{claimers}"
                folder.mkdir()
                submits, found = _cycles(folder, str(postgres.another()) if store == "Postgres" else "", jobs, claimers)
                print(f"{store:<8}  {claimers} claimers: {found:6.0f} cycles/s; one submitter: {submits:6.0f} submits/s", flush=True)


main()
