"""Two hubs at one relay over one Postgres: members are shared between them, and none is missed when one hub is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import SOURCE
from hubs import House, asked, ended, held, offer
from overnight.app.serving import remote
from overnight.hub.link import Link
from overnight.models import JobState
from overnight.queue.words import Query
from postgreses import Server
from relays import Relay, relay, until

MEMBERS = 10


class Pair:
    """Two hubs as processes, and members that have joined their relay."""

    def __init__(self, house: Relay, folder: Path, address: str) -> None:
        self.hubs = [self._hub(house, folder, address, number) for number in range(2)]
        self.folder = folder
        assert until(lambda: [self.said(number).count("answers") for number in range(2)] == [1, 1]), self.said(0) + self.said(1)
        self.client = Link(house.joined("client", "laptop"))
        self.workers = [Link(house.joined("worker", f"w{number}")) for number in range(MEMBERS)]

    def _hub(self, house: Relay, folder: Path, address: str, number: int) -> subprocess.Popen[bytes]:
        words = ["hub", "start", "--relay", str(house.folder.path), "--hub", str(folder / "hub"), "--store", address]
        env = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": SOURCE, "PYTHONUNBUFFERED": "1"}
        with (folder / f"{number}.log").open("wb") as log:
            return subprocess.Popen([sys.executable, "-m", "overnight", *words], env=env, stdout=log, stderr=log)

    def said(self, number: int) -> str:
        return (self.folder / f"{number}.log").read_text()

    def places(self) -> set[str]:
        """Which hubs the workers speak to."""
        return {link._asker._place for link in self.workers}

    def do(self, count: int) -> list[tuple[JobState, int]]:
        """Have jobs done by all workers at once; what became of them."""
        hub = remote(self.client)
        jobs = {hub.submit(asked(submission_key=os.urandom(8).hex())).id for _ in range(count)}
        threads = [threading.Thread(target=self._work, args=(link, jobs)) for link in self.workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [(job.state, job.attempt) for job in hub.jobs(Query()) if job.id in jobs]

    def _work(self, link: Link, jobs: set[str]) -> None:
        hub, mine = remote(link), remote(self.client)
        while not all(job.state.over for job in mine.jobs(Query()) if job.id in jobs):
            grant = hub.claim(offer(link.name), 0.5)
            if grant is not None:
                assert hub.report(link.name, held(grant), ended())

    def end(self) -> None:
        for link in (self.client, *self.workers):
            link.close()
        for process in self.hubs:
            process.terminate()
            process.wait(60)


@pytest.fixture
def pair(tmp_path: Path, postgres: Server) -> Iterator[Pair]:
    (tmp_path / "hub").mkdir()
    with contextlib.closing(House(tmp_path / "hub" / "hub.db")) as before:
        before.desk.cancel(before.desk.submit(asked()).id)
    with relay() as house:
        found = Pair(house, tmp_path, str(postgres.fresh()))
        yield found
        found.end()


def test_two_hubs_share_the_members_and_one_is_enough(pair: Pair) -> None:
    both = pair.do(20)
    places = pair.places()
    pair.hubs[0].kill()
    pair.hubs[0].wait()
    one = pair.do(20)
    left = pair.places()
    assert (both, one) == ([(JobState.SUCCEEDED, 1)] * 20, [(JobState.SUCCEEDED, 1)] * 20)
    assert (len(places), len(left), left < places) == (2, 1, True)
    assert ["1 job of before, now over, stays in" in pair.said(number) for number in range(2)] == [True, True]
    assert "Traceback" not in pair.said(0) + pair.said(1)
