"""Figures of a relay on this machine: requests, submit to first output, log to who follows, back after a restart, memory per member.

    python bench/relay.py

Everything runs for real: nats-server, sealed links over TLS, a hub over SQLite; members and hub share one Python process unless said otherwise.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hubs import House, offer  # the tests' own hub
from overnight.app.serving import remote, serve
from overnight.hub.link import Link
from overnight.models import JobState, JobStatus
from overnight.queue.wire import Role, Who, answer
from overnight.queue.words import Ended, Held, Started, Submission
from relays import Relay, relay


def _rss(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _requests(hub: Link, links: list[Link]) -> None:
    hub.serve("echo", lambda _who, payload: payload)
    took = []
    for _ in range(500):
        began = time.perf_counter()
        links[0].request("echo", b"x" * 100)
        took.append(time.perf_counter() - began)
    print(f"a sealed request and its answer      {statistics.median(took) * 1000:.2f} ms (median of 500)")

    def many(link: Link) -> None:
        for _ in range(500):
            link.request("echo", b"x" * 100)

    threads = [threading.Thread(target=many, args=(link,)) for link in links]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"requests of {len(links)} members at once         {500 * len(links) / (time.perf_counter() - began):,.0f} a second")


def _cycles(hub: Link, link: Link, folder: Path) -> None:
    house = House(folder / "hub.db")
    serve(hub, lambda who, data: answer(house.desk, Who(who.name, Role.OWNER), data))
    far, count = remote(link), 300
    began = time.perf_counter()
    for _ in range(count):
        far.submit(Submission(("true",)))
    submitted = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(count):
        grant = far.claim(offer(link.name))
        assert grant is not None
        held = Held(grant.job.id, grant.job.attempt)
        far.report(link.name, held, Started())
        far.report(link.name, held, Ended(JobStatus(JobState.SUCCEEDED)))
    took = time.perf_counter() - began
    print(
        f"submits, one after the other         {count / submitted:,.0f} a second\nclaim, start and end of a job        {count / took:,.0f} a second, one worker"
    )
    house.close()


def _logs(hub: Link, link: Link) -> None:
    chunk = b"Epoch 40/80  @loss=0.4821  @mpjpe=26.88\n" * 6000
    began = time.perf_counter()
    writer = threading.Thread(target=lambda: [link.publish("log", "job", f"{number}", chunk) for number in range(60)])
    writer.start()
    lines = 0
    for each in hub.follow("log"):
        lines += each.payload.count(b"\n")
        if lines == 360_000:
            break
    writer.join()
    print(f"log lines to who follows             {lines / (time.perf_counter() - began):,.0f} a second (durable, sealed)")


def _restarts(found: Relay, hub: Link, link: Link) -> None:
    hub.serve("echo", lambda _who, payload: payload)
    took = []
    for _ in range(10):
        found.restart()
        began = time.perf_counter()
        link.request("echo", b"x")
        took.append(time.perf_counter() - began)
    print(f"back after a restart of the relay    {statistics.median(took):.2f} s, {max(took):.2f} s at most of 10")


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder, relay() as found, contextlib.ExitStack() as stack:
        hub = stack.enter_context(found.hub())
        credentials = [found.joined("worker", f"w{number}") for number in range(8)]
        links = [stack.enter_context(Link(each)) for each in credentials]
        _requests(hub, links)
        _cycles(hub, links[0], Path(folder))
        _logs(hub, links[0])
        server = int((found.folder.path / "server.pid").read_text())
        before = _rss(server)
        more = [stack.enter_context(Link(credentials[number % 8])) for number in range(50)]
        print(
            f"memory of the relay's server         {before:.0f} MB, and {(_rss(server) - before) * 1000 / len(more):.0f} kB for each connected member"
        )
        _restarts(found, hub, links[0])


if __name__ == "__main__":
    main()
