"""The hub on one machine: from submit to the first output, claim and finish cycles, lines to a watcher, metric lines stored.

Run it as `python bench/hub.py [JOBS]`. The worker is a process of its own, as ever; jobs have no code of theirs.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from overnight.app import hub as hubs
from overnight.app import watching
from overnight.models import JobState, JobStatus
from overnight.queue.words import CHUNK, Chunk, Ended, Held, Machine, Offer, Stream, Submission

LINE = b"Epoch 40/80  @loss=0.4821  @mpjpe=26.88 and some words\n"
REST = 0.4  # seconds, in which a worker builds the walls of its next job
POINT = b'["loss", 0.482100, 40.0, 12.345]\n'


@contextlib.contextmanager
def hub(folder: Path) -> Iterator[hubs.Reached]:
    """Open a hub, as a command does."""
    with hubs.reached(folder, os.environ) as found:
        yield found


@contextlib.contextmanager
def worker(folder: Path, *, unsafe: bool) -> Iterator[None]:
    """Have a worker at work, in a process of its own."""
    words = ("worker", "start", "--hub", str(folder), "--slots", "1", *(["--unsafe-no-sandbox"] if unsafe else []))
    with subprocess.Popen([sys.executable, "-m", "overnight", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with hub(folder) as found:
                while not found.desk.workers():
                    time.sleep(0.05)
            yield
        finally:
            process.terminate()


def first_output(folder: Path, count: int, *, unsafe: bool, rest: float) -> tuple[list[float], list[float]]:
    """Seconds from the call of submit to the start of the command, and to its first bytes in the hands of a watcher.

    The worker has had nothing to do for ``rest`` seconds.
    """
    starts, outputs = [], []
    with worker(folder, unsafe=unsafe), hub(folder) as found:
        for _ in range(count + 2):
            time.sleep(rest)
            at, begun = time.time(), time.perf_counter()
            job = found.desk.submit(Submission(("echo x",)))
            while not found.desk.part(job.id, Stream.LOG).data:
                found.wait(1.0)
            outputs.append(time.perf_counter() - begun)
            while not hubs.which(found, job.id).state.over:
                found.wait(1.0)
            status = found.desk.part(job.id, Stream.LOG, since=2**30).status
            assert status is not None
            starts.append(status.started - at)
    return starts[2:], outputs[2:]


def through(folder: Path, count: int) -> float:
    """Tiny jobs a second, from submit to end, one slot."""
    with worker(folder, unsafe=True), hub(folder) as found:
        begun = time.perf_counter()
        jobs = [found.desk.submit(Submission(("true", "x"))) for _ in range(count)]
        while not all(hubs.which(found, job.id).state.over for job in jobs[-1:]):
            found.wait(1.0)
        return count / (time.perf_counter() - begun)


def cycles(folder: Path, count: int, queued: int) -> tuple[float, float]:
    """Submits a second, and claim and finish cycles a second with so many further jobs in the queue."""
    machine = Machine("bench", 1)
    with hub(folder) as found:
        begun = time.perf_counter()
        for _ in range(count):
            found.desk.submit(Submission(("true",)))
        submits = count / (time.perf_counter() - begun)
        with found.desk._queue._write(synced=False) as db:  # type: ignore[attr-defined]  # noqa: SLF001 - a quick way to a long queue
            db.execute(
                "INSERT INTO job (id, owner, submission, likeness, state, priority, gpu_count, gpu_type, vram_gb, cpus, memory_gb, tags, time_limit, exp_id, pipeline, submitted)"
                " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?)"
                " SELECT 'job-q'||i, '', '{\"command\":[\"true\"]}', 'x', 'QUEUED', -1, 0, '', 0, 0, 0, '[]', 0, '', '', 0 FROM n WHERE ?>0",
                (queued, queued),
            )
        begun = time.perf_counter()
        for _ in range(count):
            grant = found.desk.claim(Offer(machine, 1))
            assert grant is not None
            found.desk.report("bench", Held(grant.job.id, grant.job.attempt), Ended(JobStatus(JobState.SUCCEEDED, seconds=1.0)))
        return submits, count / (time.perf_counter() - begun)


def streams(folder: Path, megabytes: int) -> tuple[float, float]:
    """Log lines a second from a worker to the lines of a watcher, and metric lines a second stored."""
    with hub(folder) as found, hub(folder) as other:
        job = found.desk.submit(Submission(("true",)))
        grant = found.desk.claim(Offer(Machine("bench", 1), 1))
        assert grant is not None
        held = Held(grant.job.id, grant.job.attempt)
        text = LINE * (megabytes * 2**20 // len(LINE))
        seen = 0

        def watch() -> None:
            nonlocal seen
            for part in watching.streamed(other, job.id):
                seen += part.count("\n")

        thread = threading.Thread(target=watch)
        thread.start()
        begun = time.perf_counter()
        for start in range(0, len(text), CHUNK):
            found.desk.report("bench", held, Chunk(Stream.LOG, start, text[start : start + CHUNK]))
        found.desk.report("bench", held, Ended(JobStatus(JobState.SUCCEEDED)))
        thread.join()
        lines = seen / (time.perf_counter() - begun)
        data = POINT * 500_000
        begun = time.perf_counter()
        for start in range(0, len(data), CHUNK):
            found.desk.report("bench", held, Chunk(Stream.METRICS, start, data[start : start + CHUNK]))
        stored = time.perf_counter() - begun
        points = len(hubs.metrics(found, hubs.which(found, job.id)))
        return lines, points / stored


def main() -> None:
    """Print all figures."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for unsafe, rest in ((True, REST), (False, REST), (True, 0.0), (False, 0.0)):
            found = first_output(root / f"first-{unsafe}-{rest}", count, unsafe=unsafe, rest=rest)
            told = [
                f"median {1e3 * statistics.median(each):.1f} ms, 9 of 10 within {1e3 * sorted(each)[int(0.9 * len(each))]:.1f} ms"
                for each in found
            ]
            print(
                f"{'no walls' if unsafe else 'behind walls'}, {'after a rest' if rest else 'job after job'}: submit to start {told[0]}; to first output {told[1]}"
            )
        print(f"tiny jobs from submit to end, one slot: {through(root / 'through', 2 * count):.0f}/s")
        for queued in (0, 1_000_000):
            submits, done = cycles(root / f"cycles-{queued}", 10 * count, queued)
            print(f"{queued:>9} queued: {submits:.0f} submits/s, {done:.0f} claim and finish cycles/s (two flushes each)")
        lines, points = streams(root / "streams", 64)
        print(f"log lines to a watcher: {lines:.0f}/s; metric lines stored: {points:.0f}/s")


main()
