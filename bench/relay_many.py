"""A hub over a relay with everything in a process of its own: submit to first output, and claim and finish cycles by 1 to 8 workers.

    python bench/relay_many.py [SECONDS]

nats-server, `overnight hub start`, one `overnight worker start` and a watching client are separate processes for the first figure;
for the cycles each worker is a process that does nothing but claim and report. Also said: which process was how busy.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hubs import offer
from overnight.app import serving
from overnight.hub import credentials
from overnight.hub.link import Link
from overnight.models import JobState, JobStatus
from overnight.queue.words import Ended, Held, Query, Stream, Submission
from relays import Relay, relay

WORKERS = (1, 2, 4, 8)
FIRST = 40  # jobs of which the median is told


def busy(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def far(path: str) -> Link:
    """The link of a member."""
    return Link(credentials.load(Path(path), "join"))


def cycle(path: str, name: str, seconds: float) -> None:
    """One worker: says that it is ready, waits for a line, and tells how many cycles it did."""
    with far(path) as link:
        hub = serving.remote(link)
        hub.claim(offer(name, slots=0))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        done, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            grant = hub.claim(offer(name))
            assert grant is not None
            assert hub.report(name, Held(grant.job.id, grant.job.attempt), Ended(JobStatus(JobState.SUCCEEDED, seconds=1.0)))
            done += 1
        sys.stdout.write(f"{done}\n")


@contextlib.contextmanager
def running(*words: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A process of this Python, ended at the end."""
    process = subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | env
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def hub_of(found: Relay, root: Path, queued: int) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A hub in a process of its own with so many jobs in the queue; its folder and process."""
    from overnight.app import hub as hubs

    place = root / f"hub-{queued}"
    with hubs.reached(place, os.environ) as near:
        for _ in range(queued):
            near.desk.submit(Submission(("true",)))
    with running("-m", "overnight", "hub", "start", "--hub", str(place), "--relay", str(found.folder.path)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield place, process


def cycles(found: Relay, root: Path, saved: dict[str, Path], seconds: float) -> None:
    """Claim and finish cycles a second, by the number of workers."""
    server = int((found.folder.path / "server.pid").read_text())
    with hub_of(found, root, int(1500 * seconds * len(WORKERS))) as (_, hub):
        for count in WORKERS:
            with contextlib.ExitStack() as stack:
                team = [
                    stack.enter_context(running(__file__, "cycle", str(saved[f"w{number}"]), f"w{number}", str(seconds)))
                    for number in range(count)
                ]
                for each in team:
                    assert each.stdout is not None
                    each.stdout.readline()
                pids = (hub.pid, server, *(each.pid for each in team))
                before, began = [busy(pid) for pid in pids], time.monotonic()
                for each in team:
                    assert each.stdin is not None
                    each.stdin.write("go\n")
                    each.stdin.flush()
                done = sum(int(each.stdout.readline()) for each in team if each.stdout)
                took = time.monotonic() - began
                used = [(busy(pid) - was) / took for pid, was in zip(pids[:2], before[:2], strict=True)]
                print(
                    f"{count} worker{'s' if count > 1 else ' '}: {done / took:6.0f} claim and finish cycles/s; hub busy {used[0]:.0%}, relay {used[1]:.0%};"
                    f" hub CPU {used[0] * took / done * 1e3:.2f} ms a cycle"
                )


def first_output(found: Relay, root: Path, saved: dict[str, Path]) -> None:
    """Seconds from the call of submit to the start of the command, and to its first bytes in the hands of the client."""
    home = root / "worker"
    home.mkdir()
    for unsafe in (True, False):
        with (
            hub_of(found, root / str(unsafe), 0),
            running(
                "-m", "overnight", "worker", "start", "--slots", "1", *(["--unsafe-no-sandbox"] if unsafe else []),
                OVERNIGHT_CREDENTIALS=str(saved["w0"]), HOME=str(home), XDG_STATE_HOME=str(root / f"state-{unsafe}"),
            ),
            far(str(saved["client"])) as link,
        ):  # fmt: skip
            hub, starts, took = serving.remote(link), [], []
            while not hub.workers():
                time.sleep(0.05)
            for _ in range(FIRST + 3):
                time.sleep(0.4)
                at, began = time.time(), time.perf_counter()
                job = hub.submit(Submission(("echo x",)))
                asked, seen = Query(job.id), ""
                while not hub.part(job.id, Stream.LOG).data:
                    seen = hub.news(asked, seen, 10.0)
                took.append(time.perf_counter() - began)
                while not hub.jobs(asked)[0].state.over:
                    seen = hub.news(asked, seen, 10.0)
                status = hub.part(job.id, Stream.LOG, since=2**30).status
                assert status is not None
                starts.append(status.started - at)
            told = [
                f"median {1e3 * statistics.median(each):.1f} ms, 95 of 100 within {1e3 * sorted(each)[int(0.95 * len(each))]:.1f} ms"
                for each in (starts[3:], took[3:])
            ]
            print(f"over the relay, {'no walls' if unsafe else 'behind walls'}: submit to start {told[0]}; to first output {told[1]}")


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["cycle"]:
        return cycle(sys.argv[2], sys.argv[3], float(sys.argv[4]))
    seconds = float(sys.argv[1]) if sys.argv[1:] else 5.0
    with tempfile.TemporaryDirectory() as folder, relay() as found:
        root, saved = Path(folder), {}
        for kind, name in (("client", "client"), *(("worker", f"w{number}") for number in range(max(WORKERS)))):
            saved[name] = root / f"{name}.json"
            credentials.save(saved[name], found.joined(kind, name))
        first_output(found, root, saved)
        cycles(found, root, saved, seconds)
    return None


if __name__ == "__main__":
    main()
