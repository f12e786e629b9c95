"""A hub that more workers ask than may wait there at once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from hubs import Clock, asked, offer
from overnight import desk
from overnight.app import keeping, serving
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


def test_who_waits_for_news_is_woken_by_a_report_to_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_LOOK", 3600.0)  # nobody looks by himself
    with ThreadPoolExecutor(8) as pool, _open(tmp_path) as here, _open(tmp_path) as there:
        job = there.submit(asked(wait=True))
        seen = here.news(Query(job.id))
        waiting = [pool.submit(here.news, Query(job.id), seen, 600.0) for _ in range(8)]
        assert until(lambda: len(list((tmp_path / "wake").glob("log-*"))) == 1)
        there.cancel(job.id)
        found = {each.result(60.0) for each in waiting}
        assert (found == {seen}, len(found), until(lambda: not list((tmp_path / "wake").glob("log-*")))) == (False, 1, True)


def test_what_happens_to_others_wakes_nobody_for_good(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool, _open(tmp_path) as here, _open(tmp_path) as there:
        mine, other = (there.submit(asked(wait=True)) for _ in range(2))
        seen = here.news(Query(mine.id))
        waiting = pool.submit(here.news, Query(mine.id), seen, 600.0)
        there.cancel(other.id)
        there.submit(asked(wait=True))
        before = waiting.done()
        there.cancel(mine.id)
        assert (before, waiting.result(60.0) != seen) == (False, True)


def test_whoever_comes_beyond_those_who_wait_for_news_is_answered_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_LOOKING", 1)
    with ThreadPoolExecutor(1) as pool, _open(tmp_path) as here:
        job = here.submit(asked(wait=True))
        seen = here.news(Query(job.id))
        waiting = pool.submit(here.news, Query(job.id), seen, 600.0)
        assert until(lambda: bool(list((tmp_path / "wake").glob("log-*"))))
        assert (here.news(Query(job.id), seen, 600.0), waiting.done()) == (seen, False)
        here.cancel(job.id)
        assert waiting.result(60.0) != seen


@contextlib.contextmanager
def _open(folder: Path) -> Iterator[Desk]:
    """The hub in a folder, as another process has it."""
    with keeping.kept(folder, {}) as found, found.bell("claim") as bell:
        yield Desk(found.queue, found.now, Bell(found.ring, bell.wait, partial(found.bell, "log")), era=found.era)


def test_who_is_not_kept_waiting_for_news_asks_again_only_after_a_while() -> None:
    asked_at: list[float] = []

    class Full:
        def news(self, *_: object) -> str:
            asked_at.append(time.monotonic())
            return "same"

    wait = serving._News(Full())  # type: ignore[arg-type] # nothing else is asked of it
    for _ in range(3):
        wait(60.0, Query("job-1"))
    assert asked_at[2] - asked_at[1] >= 0.2
