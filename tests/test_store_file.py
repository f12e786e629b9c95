"""The file of the record: killed writers, readers beside us, full disks, damage, and what is no record at all."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from overnight.errors import OvernightError, StorageError
from overnight.models import Direction, Idea, JobState, Operator, Proposal, Study
from overnight.queue.words import Query
from overnight.settings import Settings
from overnight.store import Store
from overnight.store.connection import Connection
from overnight.store.pipelines import Pipelines
from overnight.store.queue import QueueFile
from overnight.store.schema import MIGRATIONS
from overnight.store.streams import _terms

_TRAIN = b"lr = 0.1\n" * 50


@pytest.fixture
def study(store: Store) -> Study:
    return store.create_study("nov21", "c0ffee", Direction.MINIMIZE, Settings(metric="loss", budget=("50",)), 100.0)


def _proposal(content: bytes = _TRAIN, parent: int = 0, hypothesis: str = "wider", rejected: str = "", path: str = "train.py") -> Proposal:
    idea = Idea(hypothesis, "optuna", tokens=7, cost=0.5, seconds=2.0, state={"lr": 0.1})
    operator = Operator.IMPROVE if parent else Operator.BASELINE
    return Proposal(parent, operator, idea, {path: content}, rejected, notes=("a note",))


# ---- the file ---------------------------------------------------------------------------------------------------------

_WRITER = """
import sys
from pathlib import Path
from overnight.models import Decision, Direction, Idea, Operator, Proposal
from overnight.settings import Settings
from overnight.store import Store
store = Store(Path(sys.argv[1]))
study = store.study("t")
while True:
    number = store.propose(study.id, Proposal(0, Operator.IMPROVE, Idea("x", "y"), {"a": b"%d" % len(store.experiments(study.id))}), 1, 0.0).number
    print("proposed", number, flush=True)
    store.decide(study.id, number, Decision.KEEP, "", float(number), 0.0)
    print("decided", number, flush=True)
"""


def _python(code: str, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE)


def _kill_while_writing(path: Path, lines: int) -> list[str]:
    """What a writer had acknowledged when it was killed at some moment after so many lines."""
    with _python(_WRITER, str(path)) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        said += writer.stdout.readlines()
    return [line.decode().strip() for line in said if line.endswith(b"\n")]


def test_what_a_killed_writer_acknowledged_is_there(path: Path) -> None:
    with contextlib.closing(Store(path)) as store:
        study = store.create_study("t", "c", Direction.MAXIMIZE, Settings(), 0.0)
    said = [line for lines in range(1, 21) for line in _kill_while_writing(path, lines)]
    with contextlib.closing(Store(path)) as store:
        store.check()
        there = {f"proposed {item.number}" for item in store.experiments(study.id)}
        there |= {f"decided {item.number}" for item in store.experiments(study.id, kept=True)}
        whole = [store.files(study.id, item.number) == {"a": b"%d" % (item.number - 1)} for item in store.experiments(study.id)]
    assert (sorted(set(said) - there), len(said) == len(set(said)), all(whole)) == ([], True, True)


def test_a_reader_in_another_process_sees_whole_steps_while_we_write(store: Store, study: Study, path: Path) -> None:
    code = (
        "import sys, sqlite3\nfrom pathlib import Path\nfrom overnight.store import Store\n"
        "store = Store(Path(sys.argv[1]), readonly=True)\nstudy = store.study()\nprint('ready', flush=True)\nlast = 0\n"
        "while last < 40:\n    found = store.experiments(study.id)\n    assert [item.number for item in found] == list(range(1, len(found) + 1))\n"
        "    assert all(store.files(study.id, item.number) for item in found[-3:])\n    last = len(found)\nprint(last)\n"
    )
    with _python(code, str(path)) as reader:
        assert reader.stdout is not None
        said = reader.stdout.readline()
        for number in range(40):
            store.propose(study.id, _proposal(b"%d" % number, number), 1, 0.0)
        said += reader.stdout.read()
    assert (said, reader.returncode) == (b"ready\n40\n", 0)


def test_processes_that_open_a_fresh_record_at_once_all_succeed(path: Path) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom overnight.store import Store\nsys.stdin.read()\nStore(Path(sys.argv[1])).close()"
    openers = [subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.close()
        opener.stdin = None
    assert [opener.communicate()[1] for opener in openers] == [b""] * 4


@pytest.mark.parametrize("kind", [Store, QueueFile, Pipelines])
def test_a_record_that_another_has_made_while_we_were_about_to_is_taken_as_it_is(path: Path, kind: type[Connection]) -> None:
    class Late(kind):  # type: ignore[misc,valid-type] # a class of the parameter
        def _version(self) -> int:
            found: int = super()._version()
            if not made:
                made.append(found)
                kind(path).close()
            return found

    made: list[int] = []
    Late(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert (made, db.execute("PRAGMA user_version").fetchone()) == ([0], (len(kind.migrations),))
    kind(path).close()


def test_threads_share_one_store(store: Store, study: Study) -> None:
    def write(first: int) -> None:
        for number in range(5):
            store.propose(study.id, _proposal(b"%d" % (first + number)), 1, 0.0)

    threads = [threading.Thread(target=write, args=(first * 100,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [item.number for item in store.experiments(study.id)] == list(range(1, 21))


def _code(path: Path, *, readonly: bool = False) -> str:
    with pytest.raises(OvernightError) as caught, contextlib.closing(Store(path, readonly=readonly)) as found:
        found.check()
    return f"{type(caught.value).__name__} {caught.value.code}"


def test_reading_makes_no_file(path: Path) -> None:
    assert (_code(path, readonly=True), path.exists()) == ("NotFoundError E-NO-STUDY", False)


def test_an_empty_file_holds_no_study(path: Path) -> None:
    path.touch()
    assert _code(path, readonly=True) == "NotFoundError E-NO-STUDY"


@pytest.mark.usefixtures("study")
def test_a_reader_cannot_write(store: Store, path: Path) -> None:
    with contextlib.closing(Store(path, readonly=True)) as reader, pytest.raises(StorageError) as caught:
        reader.want(1, "stop")
    assert (caught.value.code, store.wanted(1)) == ("E-STORE", "run")


_NOBODY = """
import os, sys
from pathlib import Path
from overnight.store import Store
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
print(Store(Path(sys.argv[1]), readonly=True).study().tag)
"""


def test_a_record_in_a_folder_that_cannot_be_written_is_read() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "overnight.db"
        with contextlib.closing(Store(path)) as store:
            store.create_study("nov21", "c0ffee", Direction.MINIMIZE, Settings(), 0.0)
        os.chmod(path, 0o444)
        os.chmod(folder, 0o511)  # noqa: S103 - the other user has to pass through
        done = subprocess.run([sys.executable, "-c", _NOBODY, path], capture_output=True, check=False)
        os.chmod(folder, 0o700)
    assert (done.stdout, done.stderr) == (b"nov21\n", b"")


@pytest.mark.parametrize("readonly", [True, False])
def test_a_record_of_a_newer_version_is_left_alone(path: Path, readonly: bool) -> None:
    Store(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    assert _code(path, readonly=readonly) == "StorageError E-NEWER-STORE"


@pytest.mark.parametrize("readonly", [True, False])
def test_a_file_that_is_no_record_is_said(path: Path, readonly: bool) -> None:
    path.write_bytes(b"this is no database at all\n" * 200)
    assert _code(path, readonly=readonly) == "StorageError E-STORE"


def test_a_file_that_is_no_record_is_to_be_put_aside(path: Path) -> None:
    path.write_bytes(b"this is no database at all\n" * 200)
    with pytest.raises(StorageError) as caught:
        Store(path)
    assert caught.value.fix == f"mv {path} {path}.put-aside   # the next run begins a new one"


def test_a_folder_in_its_place_is_said(path: Path) -> None:
    path.mkdir()
    assert _code(path) == "StorageError E-STORE"


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    assert _code(tmp_path / "none" / "overnight.db") == "StorageError E-STORE"


def test_a_damaged_page_is_said(store: Store, study: Study, path: Path) -> None:
    for number in range(20):
        store.propose(study.id, _proposal(os.urandom(3000), number), 1, 0.0)
    store.close()
    with path.open("r+b") as file:
        for page in range(2, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xaa" * 64)
    assert _code(path).startswith("StorageError E-") is True


def test_damaged_files_are_said(store: Store, study: Study) -> None:
    store.propose(study.id, _proposal(), 1, 0.0)
    store._db.execute("UPDATE file SET content=substr(content, 1, 12)")
    with pytest.raises(StorageError) as caught:
        store.files(study.id, 1)
    assert caught.value.code == "E-STORE"


def test_a_closed_store_is_said(store: Store) -> None:
    store.close()
    with pytest.raises(StorageError) as caught:
        store.study()
    assert caught.value.code == "E-STORE"


def test_a_name_with_marks_of_an_address_is_a_plain_file(tmp_path: Path) -> None:
    Store(tmp_path / "a?mode=ro#é %41.db").close()
    assert [item.name for item in tmp_path.iterdir()] == ["a?mode=ro#é %41.db"]


def test_every_write_is_synced(store: Store) -> None:
    found = [store._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "user_version")]
    assert found == ["wal", 2, len(MIGRATIONS)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 kB."""
    place = tmp_path / "small"
    place.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "overnight-test", place], check=False, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield place
    subprocess.run(["umount", place], check=True)


def _fill(store: Store, study: Study) -> None:
    for number in range(50):
        store.propose(study.id, _proposal(os.urandom(20_000), number), 1, 0.0)


def test_a_full_disk_is_said_and_loses_nothing(small_disk: Path) -> None:
    with contextlib.closing(Store(small_disk / "overnight.db")) as store:
        study = store.create_study("t", "c", Direction.MINIMIZE, Settings(), 0.0)
        with pytest.raises(StorageError) as caught:
            _fill(store, study)
        before = [len(store.files(study.id, item.number)["train.py"]) for item in store.experiments(study.id)]
    with contextlib.closing(Store(small_disk / "overnight.db")) as store:
        store.check()
        after = [len(store.files(study.id, item.number)["train.py"]) for item in store.experiments(study.id)]
    assert (caught.value.code, after, len(before) > 1) == ("E-STORE", before, True)


def test_events_and_settings_are_plain_json(store: Store, study: Study, path: Path) -> None:
    store.event(study.id, 1, "note", 0.0, {"text": "x"})
    with contextlib.closing(sqlite3.connect(path)) as db:
        found = [json.loads(row[0]) for row in db.execute("SELECT data FROM event UNION ALL SELECT settings FROM study")]
    assert (found[0], found[1]["metric"]) == ({"text": "x"}, "loss")


@pytest.mark.parametrize(
    "query",
    [
        Query("job-1", owner="ann"), Query(owner="ann"), Query(owner="ann", states=(JobState.QUEUED, JobState.RUNNING)), Query(after="job-1"),
        Query(states=(JobState.QUEUED, JobState.RUNNING)), Query(states=(JobState.RUNNING,)), Query(exp_id="exp-1"), Query(pipeline="dag-1"),
    ],
)  # fmt: skip
def test_no_question_that_is_asked_again_and_again_reads_all_jobs_or_sorts_them(tmp_path: Path, query: Query) -> None:
    where, values = _terms(query)
    with contextlib.closing(QueueFile(tmp_path / "hub.db")) as file:
        plan = [row[3] for row in file.rows(f"EXPLAIN QUERY PLAN SELECT * FROM job{where} ORDER BY seq DESC LIMIT 9", *values)]  # noqa: S608 - of our own words
    assert [step for step in plan if step == "SCAN job" or ("TEMP B-TREE" in step and not (query.exp_id or query.pipeline))] == []
