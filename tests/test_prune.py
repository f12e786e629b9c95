"""Tidying up: what is old goes and says how much that was; what is unfinished, needed, young or a result stays."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hubs import House, asked, ended, everything, held, log, offer, one
from overnight.app import hub as hubs
from overnight.app import pruning, serving
from overnight.errors import UsageError
from overnight.models import JobState, MetricSummary
from overnight.queue import coding
from overnight.queue.words import HubJob, Query, Stream
from overnight.store.address import Address
from overnight.store.postgres import Postgres
from overnight.store.pruning import OldJobs
from overnight.workspace.parcels import Parcels
from pipelines import project
from postgreses import Server
from yards import Yard

DAY = 86400.0
OLD, YOUNG = 40 * DAY, DAY


class Attic:
    """A hub's folder with jobs of any age."""

    def __init__(self, root: Path, store: Address | None = None) -> None:
        self.place = hubs.HubPlace(root / "hub")
        self.place.folder.mkdir(parents=True, exist_ok=True)
        self.house = House(self.place.folder / "hub.db", partial(Postgres, store) if store else None)
        self.env = {"HOME": str(root), "PATH": os.environ["PATH"], "OVERNIGHT_HUB": str(self.place.folder)}
        self.env |= {"OVERNIGHT_HUB_STORE": str(store)} if store else {}

    def job(self, age: float, *, code: str = "", over: bool = True, exp_id: str = "", **more: Any) -> str:
        """A job that was over so long ago, with 300 kB of log and a file that it has left."""
        self.house.clock.at = time.time() - age - 10_000
        desk = self.house.desk
        job = desk.submit(asked("train", code=code, exp_id=exp_id, **more)).id
        if over:
            grant = held(desk.claim(offer()))
            desk.report("w", grant, log(0, b"x" * 200_000))
            desk.report("w", grant, log(200_000, b"y" * 100_000))
            desk.report("w", grant, ended(metrics={"loss": MetricSummary(0.5, 0.5, 0.5, 1)}))
            left = self.place.outputs(one(desk, job))
            left.mkdir(parents=True)
            (left / "best.pt").write_bytes(b"w" * 50_000)
        return job

    def code(self, text: str, age: float) -> str:
        source = self.place.folder.parent / "source"
        source.mkdir(exist_ok=True)
        (source / "train.py").write_text(text)
        with contextlib.closing(Parcels(self.place.code)) as parcels:
            commit = parcels.pack(source).commit
        os.utime(self.place.code / "refs" / "parcels" / commit, (time.time() - age,) * 2)
        return commit

    def codes(self) -> set[str]:
        with contextlib.closing(Parcels(self.place.code)) as parcels:
            return set(parcels.commits())

    def jobs(self) -> set[str]:
        return {job.id for job in self.house.desk.jobs(Query(last=100))}

    def out(self) -> set[str]:
        return {path.name for path in (self.place.folder / "out").iterdir()}

    def prune(self, *, dry_run: bool = False, older: float = 30 * DAY) -> pruning.Pruned:
        return pruning.prune(self.env, None, older, dry_run=dry_run)


@pytest.fixture(params=["file", "postgres"])
def attic(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Attic]:
    found = Attic(tmp_path, request.getfixturevalue("postgres").fresh() if request.param == "postgres" else None)
    yield found
    found.house.close()


def test_an_old_job_goes_with_its_log_its_files_and_its_code_and_a_young_one_stays(attic: Attic) -> None:
    codes = attic.code("old", OLD), attic.code("young", OLD)
    _, young = attic.job(OLD, code=codes[0]), attic.job(YOUNG, code=codes[1])
    done = attic.prune()
    assert (attic.jobs(), attic.out(), attic.codes(), done.jobs, done.codes) == ({young}, {young}, {codes[1]}, 1, 1)
    assert (done.bytes["record"] > 250_000, done.bytes["files"] > 50_000, done.freed == sum(done.bytes.values())) == (True, True, True)


def test_a_dry_run_tells_the_same_and_changes_nothing(attic: Attic) -> None:
    code = attic.code("old", OLD)
    attic.job(OLD, code=code)
    attic.job(OLD, exp_id="exp-1")
    before = attic.jobs(), attic.out(), attic.codes()
    told = attic.prune(dry_run=True)
    after = attic.jobs(), attic.out(), attic.codes()
    done = attic.prune()
    assert (after, told.jobs, told.trimmed, told.codes, told.bytes["files"]) == (
        before,
        done.jobs,
        done.trimmed,
        done.codes,
        done.bytes["files"],
    )
    assert told.bytes["record"] >= 600_000


def test_what_is_unfinished_or_needed_by_it_stays_however_old(attic: Attic) -> None:
    code = attic.code("needed", OLD)
    needed = attic.job(OLD, code=code)
    waiting = attic.job(OLD, code=code, over=False, needs=(needed,))
    done = attic.prune()
    assert (attic.jobs(), attic.out(), attic.codes(), done.jobs) == ({needed, waiting}, {needed}, {code}, 0)


def test_a_job_of_an_experiment_keeps_its_row_and_its_numbers(attic: Attic) -> None:
    job = attic.job(OLD, exp_id="exp-043")
    first, second = attic.prune(), attic.prune()
    found, part = one(attic.house.desk, job), attic.house.desk.part(job, Stream.LOG)
    assert (dict(found.metrics), found.state, everything(attic.house.desk, job), part.last, part.status is not None) == (
        {"loss": 0.5}, JobState.SUCCEEDED, b"", True, True,
    )  # fmt: skip
    assert (first.jobs, first.trimmed, second.trimmed, second.freed) == (0, 1, 0, 0)


def test_a_job_that_is_needed_or_runs_again_since_it_was_found_is_not_forgotten(attic: Attic) -> None:
    needed, again, old = attic.job(OLD), attic.job(OLD), attic.job(OLD)
    record = OldJobs(attic.house.database)
    found = record.found(time.time() - 30 * DAY)
    attic.job(0, over=False, needs=(needed,))
    attic.house.desk.retry(again)
    assert ([job.id for job in found], [job.id for job in record.forget(found)]) == ([needed, again, old], [old])


def test_what_the_hubs_own_file_still_holds_goes_by_the_same_rules(tmp_path: Path, postgres: Server) -> None:
    before = Attic(tmp_path)
    ids = before.job(OLD), before.job(YOUNG)
    before.house.close()
    after = Attic(tmp_path, postgres.fresh())
    shared = after.job(OLD), after.job(YOUNG)
    done = after.prune()
    after.house.close()
    with contextlib.closing(House(before.place.folder / "hub.db")) as house:
        left = {job.id for job in house.desk.jobs(Query(last=100))}
    assert (left, after.out(), done.jobs, set(ids[:1]) & left) == ({ids[1]}, {ids[1], shared[1]}, 2, set())


def test_code_that_was_just_packed_stays_although_no_job_names_it_yet(attic: Attic) -> None:
    young = attic.code("on its way", 60.0)
    attic.prune(older=3600.0)
    assert attic.codes() == {young}


def test_fetched_inputs_go_unless_they_were_used_lately_or_a_job_that_was_granted_names_them(attic: Attic) -> None:
    old, young, needed = ("a" * 64, "b" * 64, "c" * 64)
    places = [folder / sha for folder in (attic.place.fetched, attic.place.fetched / "clients") for sha in (old, young, needed)]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"x" * 10_000)
        place.chmod(0o444)
        os.utime(place, (time.time() - (YOUNG if place.name == young else OLD),) * 2)
    spool = attic.place.worker("gone") / "spool"
    spool.mkdir(parents=True)
    job = HubJob("job-1", asked("train", inputs=(f"x=https://h/x#sha256={needed}",)), JobState.RUNNING)
    (spool / "job-1.1.grant").write_text(coding.written(job))
    told, done = attic.prune(dry_run=True), attic.prune()
    assert [place for place in places if place.exists()] == [place for place in places if place.name != old]
    assert told.bytes["fetched"] == done.bytes["fetched"] >= 20_000


def _left(attic: Attic, worker: str, name: str) -> Path:
    """What a worker that was killed has left of an attempt."""
    own = attic.place.worker(worker)
    for part in ("jobs", "runs"):
        (own / part / name).mkdir(parents=True)
        (own / part / name / "file").write_bytes(b"x" * 10_000)
        os.utime(own / part / name, (time.time() - OLD,) * 2)
    (own / "spool").mkdir(exist_ok=True)
    (own / "spool" / f"{name}.grant").write_text("{}")
    (own / "lock").touch()
    return own


def test_what_a_dead_worker_has_left_goes_and_what_a_live_one_has_stays(attic: Attic) -> None:
    dead, live = _left(attic, "dead", "job-000001.1"), _left(attic, "live", "job-000002.1")
    with (live / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        attic.job(OLD)
        attic.prune()
    left = [sorted(path.name for part in ("jobs", "runs", "spool") for path in (own / part).iterdir()) for own in (dead, live)]
    assert left == [[], ["job-000002.1", "job-000002.1", "job-000002.1.grant"]]


def test_what_a_dead_worker_has_of_an_attempt_that_still_counts_stays(attic: Attic) -> None:
    job = attic.job(OLD, over=False)
    attic.house.desk.claim(offer())
    own = _left(attic, "dead", f"{job}.1")
    attic.prune()
    assert (own / "jobs" / f"{job}.1" / "file").exists()


def test_copies_of_a_hub_behind_a_relay_go_and_code_that_a_worker_here_needs_stays(tmp_path: Path) -> None:
    far = Attic(tmp_path / "x")
    place = tmp_path / ".local" / "state" / "overnight" / "far-0123456789ab"
    needed, other = far.code("needed", OLD), far.code("other", OLD)
    granted = far.house.desk.jobs(Query(far.job(YOUNG, code=needed)))[0]
    far.house.close()
    place.parent.mkdir(parents=True)
    far.place.folder.rename(place)
    (place / "hub.db").unlink()
    spool = place / "workers" / "w" / "spool"
    spool.mkdir(parents=True)
    (spool / f"{granted.id}.1.grant").write_text(coding.written(granted))
    fetched = place / "out" / granted.id
    os.utime(fetched, (time.time() - OLD,) * 2)
    done = pruning.prune({"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, None, 30 * DAY, dry_run=False)
    left = {path.name for path in (place / "code" / "refs" / "parcels").iterdir()}
    assert (left, fetched.exists(), done.codes, other in left) == ({needed}, False, 1, False)


def test_old_pipelines_go_with_files_that_no_younger_one_has_left(tmp_path: Path) -> None:
    found = project(tmp_path, "nodes: [{name: a, command: 'echo first > out.txt', outputs: [out.txt]}]\n")
    assert found.dag("run", "pipeline.yaml", "--unsafe-no-sandbox").code == 0
    (found.root / "pipeline.yaml").write_text("nodes: [{name: a, command: 'echo second > out.txt', outputs: [out.txt]}]\n")
    assert found.dag("run", "pipeline.yaml", "--unsafe-no-sandbox").code == 0
    with contextlib.closing(sqlite3.connect(found.hub / "dags.db")) as db, db:
        db.execute("UPDATE dag SET finished=1 WHERE number=1")
    for path in (*(found.hub / "dags" / "outputs").glob("*/*"), *(found.hub / "dags" / "code" / "refs" / "parcels").iterdir()):
        os.utime(path, (1, 1))
    done = pruning.prune(found.env, None, 30 * DAY, dry_run=False)
    kept = {row[0] for row in found.rows("SELECT sha FROM output")}
    assert (done.pipelines, {path.name for path in (found.hub / "dags" / "outputs").glob("*/*")}, found.rows("SELECT number FROM dag")) == (
        1, kept, [(2,)],
    )  # fmt: skip


def test_the_command_says_what_would_go_and_how_much_that_is(yard: Yard) -> None:
    yard.submit("true").cancel()
    with contextlib.closing(sqlite3.connect(yard.hub / "hub.db")) as db, db:
        db.execute("UPDATE job SET finished=1")
    would, found = yard.call("hub", "prune", "--dry-run"), yard.json("hub", "prune")
    nothing = yard.call("hub", "prune", "--older", "90d")
    assert (would.stdout.splitlines()[0].startswith("would go: 1 job; about "), found["jobs"], found["dry_run"], nothing.stdout) == (
        True, 1, False, "gone: nothing\n",
    )  # fmt: skip


def test_an_age_that_cannot_be_meant_is_refused(yard: Yard, attic: Attic) -> None:
    done = yard.call("hub", "prune", "--older", "soon")
    with pytest.raises(UsageError, match="younger than an hour"):
        attic.prune(older=300)
    assert (done.returncode, "E-PRUNE" in done.stderr, "--older soon" in done.stderr) == (2, True, True)


def test_a_hub_that_serves_a_relay_tidies_up_by_itself_if_that_is_wanted(attic: Attic) -> None:
    old, young = attic.job(OLD), attic.job(YOUNG)
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) > 1

    pruning.daily({**attic.env, "OVERNIGHT_HUB_KEEP": "30d"}, attic.place.folder, wait)
    assert (attic.jobs(), waited, old in attic.jobs()) == ({young}, [DAY, DAY], False)
    with pytest.raises(UsageError, match="OVERNIGHT_HUB_KEEP"), serving._tidied({"OVERNIGHT_HUB_KEEP": "ever"}, attic.place.folder):
        pass
