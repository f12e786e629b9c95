"""A hub that more workers ask than may wait there at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hubs import Clock, asked, offer
from overnight import desk
from overnight.desk import Bell, Desk
from overnight.queue.words import Query
from overnight.store.queue import Queue, QueueFile
from relays import until


def test_whoever_comes_beyond_those_who_wait_is_answered_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_PARKED", 2)
    queue, waiting, come = Queue(QueueFile(tmp_path / "hub.db")), [], threading.Event()

    def wait(seconds: float) -> object:
        waiting.append(seconds)
        return come.wait(60.0)

    hub = Desk(queue, Clock(), Bell(lambda _kind: None, wait))
    with ThreadPoolExecutor(2) as pool:
        parked = [pool.submit(hub.claim, offer(name), 30.0) for name in ("a", "b")]
        assert until(lambda: len(waiting) == 2)
        beyond = hub.claim(offer("c"), 30.0)
        jobs = {hub.submit(asked(wait=True)).id for _ in range(2)}
        come.set()
        found = {grant.job.id for each in parked if (grant := each.result(60.0)) is not None}
    assert (beyond, found, len(waiting)) == (None, jobs, 2)
    queue.close()


def test_jobs_are_found_by_the_beginning_of_their_id_and_by_their_experiment(tmp_path: Path) -> None:
    queue = Queue(QueueFile(tmp_path / "hub.db"))
    hub = Desk(queue, Clock(), Bell(lambda _kind: None, lambda _seconds: None))
    jobs = [hub.submit(asked(exp_id=f"exp-{number % 2}", wait=True)).id for number in range(4)]
    found = [[job.id for job in hub.jobs(Query(text))] for text in (jobs[0], "job-", "job-\U0010ffff", "no", "%")]
    assert (found, [job.id for job in hub.jobs(Query(exp_id="exp-1"))]) == ([[jobs[0]], jobs[::-1], [], [], []], [jobs[3], jobs[1]])
    queue.close()
