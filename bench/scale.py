"""Unit costs of a hub, measured, and what 10,000 workers and a million jobs make of them: the figures of `docs/scale.md`.

    python bench/scale.py [JOBS]

Makes a file with so many jobs that are over (attempt, events) and as many that wait, then measures on it what a hub does: start, claims, ends,
renewals, lists. CPU time, which depends less on who else is at work on this machine, stands beside the wall's. What a connection and a
request through the relay cost is measured by `bench/relay.py` and `bench/relay_many.py`; their figures are constants here.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from overnight.desk import Bell, Desk
from overnight.models import JobState, JobStatus
from overnight.queue.words import Chunk, Ended, Held, Machine, Now, Offer, Query, Stream, Submission
from overnight.store.queue import Queue, QueueFile

FLEET, BATCH = 10_000, 1_000_000  # workers and jobs on paper
LEASE, RENEWED = 60.0, 12.0  # seconds: of a lease, between two renewals
IDLE = 11.25  # seconds between two claims of an idle worker beyond those whom the hub lets wait, on the average (worker._LONGEST)
HOUR = 3600.0  # seconds of a job, on paper
LOG = 2**16  # bytes that a job prints, on paper
CARRIED = 0.65  # ms of the hub's CPU for a request through the relay beside what it asks for (bench/relay_many.py)
MEMBER = 25  # kB of the relay's memory for a connected member (bench/relay.py)
ROUND = 300  # calls that are measured


def desk(path: Path, *, restarted: bool = False) -> tuple[Queue, Desk]:
    """A hub over the file."""
    queue = Queue(QueueFile(path))
    bell = Bell(lambda _kind: None, time.sleep)
    return queue, Desk(queue, lambda: Now(time.monotonic(), time.time()), bell, lease=LEASE, restarted=restarted)


def measured(what: str, call: Callable[[int], object], count: int = ROUND) -> float:
    """CPU milliseconds of one call; printed with those of the wall."""
    began, used = time.perf_counter(), time.process_time()
    for number in range(count):
        call(number)
    wall, cpu = (time.perf_counter() - began) / count, (time.process_time() - used) / count
    print(f"{what:<62}{1e3 * cpu:9.3f} ms CPU{1e3 * wall:11.3f} ms")
    return 1e3 * cpu


def offer(number: int) -> Offer:
    """What a worker of one slot offers."""
    return Offer(Machine(f"w{number}", 1), 1)


def copied(queue: Queue, table: str, changed: Mapping[str, str], count: int) -> None:
    """Copy the first row of a table so many times, with some columns made of ``i``."""
    names = [row[1] for row in queue._rows(f"PRAGMA table_info({table})")]  # noqa: SLF001 - through the front door it would take an hour
    first = f"(SELECT %s FROM {table} LIMIT 1)"  # noqa: S608 - of our own words
    values = ", ".join(changed.get(name, first % name) for name in names)
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{count})"  # noqa: S608 - of our own words
    with queue._write(synced=False) as db:  # noqa: SLF001 - as above
        db.execute(f"INSERT INTO {table} ({', '.join(names)}) {numbers} SELECT {values} FROM n")  # noqa: S608 - as above


def filled(path: Path, count: int) -> tuple[float, float]:
    """A history of so many jobs, and as many that wait; bytes of a job that waits, and of one that is over."""
    queue, first = desk(path)
    with contextlib.closing(queue):
        job = first.submit(Submission(("python", "train.py", "--lr", "0.001"), name="a run", exp_id="exp-1", wait=True)).id
        copied(queue, "job", {"seq": "NULL", "id": "printf('job-q%07d', i)", "exp_id": "'exp-'||i"}, count)
        waiting = _size(queue, path)
        assert first.claim(offer(0)) is not None
        first.report("w0", Held(job, 1), Ended(JobStatus(JobState.SUCCEEDED, seconds=60.0, end="done")))
        copied(queue, "job", {"seq": "NULL", "id": "printf('job-h%07d', i)", "exp_id": "'exp-'||i"}, count)
        copied(queue, "attempt", {"job": "printf('job-h%07d', i)"}, count)
        copied(queue, "event", {"seq": "NULL", "job": "printf('job-h%07d', i/3)"}, 3 * count)
        return waiting / count, (_size(queue, path) - waiting) / count


def _size(queue: Queue, path: Path) -> int:
    queue._rows("PRAGMA wal_checkpoint(TRUNCATE)")  # noqa: SLF001 - the file is to be whole
    return path.stat().st_size


def units(path: Path) -> dict[str, float]:
    """CPU milliseconds of what a hub does over the file."""
    found: dict[str, float] = {}
    found["start"] = measured("start of a hub over it", lambda _: desk(path, restarted=True)[0].close(), 5)
    queue, hub = desk(path)
    with contextlib.closing(queue):
        held: list[Held] = []

        def claim(number: int) -> None:
            grant = hub.claim(offer(number))
            assert grant is not None
            held.append(Held(grant.job.id, grant.job.attempt))

        found["claim"] = measured("claim, of a worker that is new", claim)
        found["renew"] = measured("renewal of one job", lambda number: hub.renew(f"w{number}", [held[number]]))
        found["log"] = measured("4 kB of a log", lambda number: hub.report(f"w{number}", held[number], Chunk(Stream.LOG, 0, b"x" * 4096)))
        end = Ended(JobStatus(JobState.SUCCEEDED, seconds=60.0))
        found["end"] = measured("end of a job", lambda number: hub.report(f"w{number}", held[number], end))
        found["submit"] = measured("submit", lambda _: hub.submit(Submission(("true",), wait=True)))
        measured("one job by its id", lambda number: hub.jobs(Query(held[number].job, last=2)), 20)
        measured("one job by its experiment", lambda number: hub.jobs(Query(exp_id=f"exp-{number + 1}", last=2)), 20)
        measured("the latest 20 jobs", lambda _: hub.jobs(Query(last=20)), 20)
        measured("what waits and runs, 20 of it", lambda _: hub.jobs(Query(states=(JobState.QUEUED, JobState.RUNNING), last=20)), 20)
        measured("expected waits", lambda _: hub.waits(), 3)
    return found


def fleet(path: Path) -> None:
    """Claims, renewals and looks with 10,000 workers, each with a job."""
    queue, hub = desk(path)
    with contextlib.closing(queue):
        held = []
        began = time.perf_counter()
        for number in range(FLEET):
            grant = hub.claim(offer(number))
            assert grant is not None
            held.append(Held(grant.job.id, grant.job.attempt))
        print(f"{FLEET:,} workers have claimed one after the other in {time.perf_counter() - began:.1f} s")
        measured("  renewal among them", lambda number: hub.renew(f"w{number}", [held[number]]))
        measured("  claim where nobody else has one", lambda number: hub.claim(offer(FLEET + number)))
        measured("  all workers, as `hub workers` shows them", lambda _: hub.workers(), 3)
        measured("  submit that is not to wait for a worker that fits", lambda _: hub.submit(Submission(("true",))), 10)


def paper(found: Mapping[str, float], waiting: float, over: float) -> None:
    """What the unit costs make of 10,000 workers and a million jobs."""
    ends = FLEET / HOUR
    rows = {
        "renewals": (FLEET / RENEWED, found["renew"] + CARRIED),
        "claims that find nothing, all idle": (FLEET / IDLE, found["claim"] / 4 + CARRIED),
        "claims and ends, jobs of an hour": (2 * ends, (found["claim"] + found["end"]) / 2 + CARRIED),
        "pieces of logs, each worker one in 5 s": (FLEET / 5.0, found["log"] + CARRIED),
    }
    print(f"\n| {FLEET:,} workers | a second | cores of the hub |\n|---|---|---|")
    for name, (rate, cost) in rows.items():
        print(f"| {name} | {rate:,.0f} | {rate * cost / 1e3:.2f} |")
    print(f"memory of the relay: {FLEET * MEMBER / 1e6:.2f} GB for {FLEET:,} connections")
    print(
        f"a million jobs that wait: {waiting * BATCH / 1e9:.2f} GB; over: {over * BATCH / 1e9:.2f} GB and {LOG * BATCH / 1e9:.0f} GB of logs"
    )


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if sys.argv[1:] else BATCH
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hub.db"
        began = time.perf_counter()
        waiting, over = filled(path, count)
        print(
            f"{count:,} jobs that wait and {count:,} that are over: {path.stat().st_size / 1e9:.2f} GB, made in {time.perf_counter() - began:.0f} s;"
            f" {waiting:.0f} and {over:.0f} bytes a job"
        )
        found = units(path)
        fleet(path)
        paper(found, waiting, over)


main()
