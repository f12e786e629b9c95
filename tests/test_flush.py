"""What the hub has said is on the disk: every word that counts is flushed before it is answered, and many share one flush."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hubs import House, asked, ended, held, offer
from overnight.errors import StorageError
from overnight.queue.words import Started
from overnight.store import flush
from relays import until


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    found = House(tmp_path / "hub.db")
    found.desk.claim(offer())
    yield found
    found.close()


@pytest.fixture
def flushes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the log held at each flush."""
    seen: list[bytes] = []

    def sync(fd: int) -> None:
        os.fdatasync(fd)
        seen.append(os.pread(fd, 2**26, 0))

    monkeypatch.setattr(flush, "_sync", sync)
    return seen


def test_what_was_submitted_granted_ended_and_cancelled_is_in_the_log_when_that_is_flushed(house: House, flushes: list[bytes]) -> None:
    job = house.desk.submit(asked("first-command"))
    told = [b"first-command" in flushes[-1]]
    grant = held(house.desk.claim(offer()))
    told.append(b"granted" in flushes[-1])
    house.desk.report("w", grant, ended(cause="a-cause-of-its-own"))
    told.append(b"a-cause-of-its-own" in flushes[-1])
    house.desk.cancel(house.desk.submit(asked("second")).id, "a-reason-of-its-own")
    told.append(b"a-reason-of-its-own" in flushes[-1])
    assert (job.id, told, len(flushes)) == (grant.job, [True] * 4, 5)


def test_what_can_be_said_again_is_not_flushed(house: House, flushes: list[bytes]) -> None:
    house.desk.submit(asked())
    grant = held(house.desk.claim(offer()))
    before = len(flushes)
    house.desk.report("w", grant, Started())
    house.desk.renew("w", [grant])
    assert len(flushes) == before


def test_those_who_come_during_a_flush_share_the_next(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    first, go, calls = threading.Event(), threading.Event(), []

    def slow(fd: int) -> None:
        calls.append(fd)
        first.set()
        assert go.wait(60.0)

    monkeypatch.setattr(flush, "_sync", slow)
    threads = [threading.Thread(target=house.desk.submit, args=(asked(),)) for _ in range(9)]
    file: Any = house.queue._rows
    log = file.__self__._flush
    assert log is not None
    all_written = log._written + len(threads)
    threads[0].start()
    assert first.wait(60.0)
    for thread in threads[1:]:
        thread.start()
    assert until(lambda: log._written == all_written)
    go.set()
    for thread in threads:
        thread.join()
    assert len(calls) == 2


def test_a_disk_that_fails_is_told_and_not_believed_any_more(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    before: Callable[[int], None] = flush._sync
    monkeypatch.setattr(flush, "_sync", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        house.desk.submit(asked())
    monkeypatch.setattr(flush, "_sync", before)
    with pytest.raises(StorageError, match="Input/output error"):
        house.desk.submit(asked())
