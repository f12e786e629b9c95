"""Several hubs over one Postgres, each a process: what is granted is granted once, whatever is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from overnight.store.address import Address
from postgreses import Server, server
from yards import until

HERE = Path(__file__).parent


class Hubs:
    """Hubs that are processes, and what they have said."""

    def __init__(self, folder: Path, address: Address) -> None:
        self.folder, self.address = folder, str(address)
        self.running: list[subprocess.Popen[str]] = []
        self.names: list[str] = []

    def start(self, name: str, workers: int, jobs: int) -> subprocess.Popen[str]:
        words = [self.address, str(self.folder), name, str(workers), str(jobs)]
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen([sys.executable, str(HERE / "claiming.py"), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True, env=os.environ)  # fmt: skip
        self.running.append(process)
        self.names.append(name)
        return process

    def told(self, word: str) -> list[tuple[str, ...]]:
        """What all have written down of one kind, without its word."""
        lines = [line.split() for name in set(self.names) if (self.folder / name).exists() for line in (self.folder / name).read_text().splitlines()]  # fmt: skip
        return [tuple(line[1:]) for line in lines if line[:1] == [word]]

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.address) as db:
            return db.execute(sql.encode()).fetchall()

    def left(self) -> int:
        return int(str(self.rows("SELECT count(*) FROM overnight.job WHERE state != 'SUCCEEDED'")[0][0]))

    def finish(self) -> str:
        """End all in order, and return what went wrong in them."""
        (self.folder / "end").touch()
        for process in self.running:
            process.wait(60)
        return "".join((self.folder / f"{name}.log").read_text() for name in set(self.names))

    def kill(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture
def hubs(tmp_path: Path, postgres: Server) -> Iterator[Hubs]:
    found = Hubs(tmp_path, postgres.fresh())
    yield found
    found.kill()


def _share(hubs: Hubs, jobs: int) -> None:
    for name in ("a", "b"):
        hubs.start(name, 3, jobs // 2)
    until(lambda: len(hubs.told("ended")) >= jobs, 60.0 + jobs / 20)
    assert hubs.finish() == ""
    granted = hubs.told("granted")
    assert (len(hubs.told("submitted")), sorted(granted)) == (jobs, sorted({(job, "1") for (job,) in hubs.told("submitted")}))
    assert sorted(hubs.told("ended")) == sorted(granted)
    assert hubs.rows("SELECT count(*), count(DISTINCT job) FROM overnight.event WHERE type='granted'") == [(jobs, jobs)]


def test_what_several_hubs_grant_is_granted_once(hubs: Hubs) -> None:
    _share(hubs, 60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_thousand_jobs_that_several_hubs_grant_are_each_granted_once(hubs: Hubs) -> None:
    _share(hubs, 2000)


def _whole(hubs: Hubs) -> None:
    """Nothing that was acknowledged is lost, nothing is done twice."""
    submitted = {job for (job,) in hubs.told("submitted")}
    done = hubs.rows("SELECT job FROM overnight.event WHERE type='ended' AND data LIKE '%SUCCEEDED%'")
    assert submitted - {str(row[0]) for row in done} == set()
    assert len(done) == len(set(done)) == hubs.rows("SELECT count(*) FROM overnight.job")[0][0]
    assert set(hubs.told("ended")) <= set(hubs.told("granted"))
    assert len(hubs.told("granted")) == len(set(hubs.told("granted")))


def _killed_servers(hubs: Hubs, house: Server, jobs: int, kills: int) -> None:
    for name in ("a", "b"):
        hubs.start(name, 2, jobs // 2)
    until(lambda: all((hubs.folder / name).exists() for name in ("a", "b")))  # a hub that finds no store at its start ends at once
    for number in range(kills):
        until(lambda number=number: len(hubs.told("ended")) >= number * jobs // (kills + 1) + 1)  # type: ignore[misc]
        house.kill()
        house.start()
    until(lambda: len(hubs.told("submitted")) == jobs and not hubs.left(), 120.0)
    assert hubs.finish() == ""
    assert len(set(hubs.told("submitted"))) == jobs
    _whole(hubs)


def test_a_store_that_is_killed_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with server() as house:
        hubs = Hubs(tmp_path, house.fresh())
        try:
            _killed_servers(hubs, house, 40, 1)
        finally:
            hubs.kill()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_store_that_is_killed_thirty_times_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with server() as house:
        hubs = Hubs(tmp_path, house.fresh())
        try:
            _killed_servers(hubs, house, 3000, 30)
        finally:
            hubs.kill()


@pytest.mark.slow
def test_a_hub_that_is_killed_leaves_nothing_undone(hubs: Hubs) -> None:
    doomed = hubs.start("a", 2, 40)
    until(lambda: len(hubs.told("ended")) > 5)
    doomed.kill()
    doomed.wait()
    hubs.start("b", 2, 20)
    hubs.start("a", 1, 40)  # says all that it was asked to say once more
    until(lambda: len(set(hubs.told("submitted"))) == 60 and not hubs.left())
    assert hubs.finish() == ""
    _whole(hubs)
