"""What threads of one process do side by side to the same file or folder: each gets it whole, and nothing is left."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from hubs import asked
from overnight.app import courier, dag, dag_place, handed, relay
from overnight.app import place as places
from overnight.dag.words import Dag
from overnight.executors.hub import HubExecutor, Wishes
from overnight.hub import folder
from overnight.models import JobState
from overnight.queue.words import HubJob, Output
from overnight.sandbox import walls

DATA = b"weights" * 1000
DAG = Dag(1, "p", "", "p.yaml", "/", "", "", 0.0)
FILE = Output("weights.bin", len(DATA), hashlib.sha256(DATA).hexdigest())


def beside(work: Callable[[], object]) -> None:
    """Do something in another thread, to its end."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result(60)


def found(top: Path) -> dict[str, bytes]:
    """All files below a folder; of empty folders nothing is said."""
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


class Way:
    """A link over which files come; the first is there only after somebody else has asked for the same and got it."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self._meanwhile: list[Callable[[], object]] = [meanwhile]
        self.asked: list[str] = []

    def request(self, verb: str, _payload: bytes, _timeout: float) -> bytes:
        self.asked.append(verb)
        return json.dumps({}).encode()

    def get(self, _bucket: str, _name: str, target: Path, **_more: Any) -> bytes:
        if self._meanwhile:
            beside(self._meanwhile.pop())
        target.write_bytes(DATA)
        return b""


def test_a_file_that_is_handed_on_can_be_taken_in_by_two_threads_at_once(tmp_path: Path) -> None:
    def slow(place: Path) -> None:
        beside(lambda: handed.add(tmp_path, FILE, lambda other: other.write_bytes(DATA)))
        place.write_bytes(DATA)

    handed.add(tmp_path, FILE, slow)
    assert found(tmp_path) == {f"{FILE.sha256[:2]}/{FILE.sha256}": DATA}


def test_outputs_of_a_job_can_be_fetched_by_two_threads_at_once(tmp_path: Path) -> None:
    job = HubJob("job-1", asked(), JobState.SUCCEEDED, attempt=1, outputs=(FILE,))
    way: Any = Way(lambda: courier.member(way).fetch_outputs(job, tmp_path / "out" / "1"))
    courier.member(way).fetch_outputs(job, tmp_path / "out" / "1")
    assert (found(tmp_path), [each.name for each in (tmp_path / "out").iterdir()]) == ({"out/1/weights.bin": DATA}, ["1"])


def test_slots_that_want_the_same_file_at_once_fetch_it_once(tmp_path: Path) -> None:
    way: Any = Way()
    fetch = courier.member(way).fetch_handed
    job = HubJob("job-1", asked(handed=(FILE,)), JobState.RUNNING, attempt=1)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: fetch(job, [FILE], tmp_path), range(8)))
    assert (way.asked, found(tmp_path)) == (["handed-wanted"], {f"{FILE.sha256[:2]}/{FILE.sha256}": DATA})


def test_a_cache_is_handed_over_although_files_go_out_of_it_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").touch()
    real, given = os.fwalk, list[str]()

    def walk(top: str) -> Iterator[tuple[str, list[str], list[str], int]]:
        for where, folders, files, at in real(top):
            yield where, folders, ["gone", *files], at

    def chown(name: str, *_: object, dir_fd: int | None = None, **_more: object) -> None:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        given.append(os.path.basename(name))

    monkeypatch.setattr(os, "fwalk", walk)
    monkeypatch.setattr(os, "chown", chown)
    walls._hand_over(str(tmp_path), 60000)
    assert given == [tmp_path.name, "kept"]


def test_two_threads_that_ask_for_a_job_first_at_once_get_one_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reach: Any = type("Reach", (), {"close": staticmethod(lambda: None)})
    executor, made, locks = HubExecutor(tmp_path, reach, Wishes()), threading.RLock, list[object]()

    def slow() -> object:
        monkeypatch.setattr(threading, "RLock", made)
        beside(lambda: locks.append(executor._turn("job")))
        return made()

    monkeypatch.setattr(threading, "RLock", slow)
    locks.append(executor._turn("job"))
    assert locks[0] is locks[1]


def test_a_pipeline_that_was_just_begun_is_not_taken_for_an_interrupted_one_by_the_next_of_the_same_text(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    environ = {"HOME": str(tmp_path), "OVERNIGHT_HUB": str(tmp_path / "hub"), "PATH": os.environ["PATH"]}
    wanted = dag.Wanted("nodes: [{name: a, command: 'true'}]", "p.yaml", tmp_path / "code", {"unsafe_no_sandbox": True})
    with dag_place.opened(environ) as doors:
        begun = [dag.begin(doors, wanted, environ, now).dag.number for now in (1000.0, 1000.1, 2000.0)]
    assert begun == [1, 2, 2]


@pytest.mark.parametrize("held", [relay.held, lambda lock: dag_place.conducted(dag_place.Home(lock.parents[2]), DAG)])
def test_a_lock_is_not_refused_because_somebody_asks_just_then_whether_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: Callable[[Path], AbstractContextManager[object]]
) -> None:
    lock = dag_place.Home(tmp_path).lock(DAG.number)
    lock.parent.mkdir(parents=True)
    with lock.open("wb") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda _seconds: fcntl.flock(asking, fcntl.LOCK_UN))
        with held(lock):
            assert places.is_held(lock)


def test_nobody_is_cut_off_between_the_making_of_claims_and_their_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, held, claims = folder.make(tmp_path / "relay", "localhost", 1, ("", ""), time.time()), list[bool](), folder.Folder.account_claims

    def told(self: folder.Folder, now: float) -> str:
        with (self.path / "roster.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)
            else:
                held.append(False)
        return claims(self, now)

    monkeypatch.setattr(folder.Folder, "account_claims", told)
    made.write_claims(time.time())
    assert held == [True]
