"""What a person meets when something between laptop, relay and worker is wrong: one clear error at the side that can act, and nothing lost."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clocks import jumping
from disks import mounted
from machines import Machine
from overnight.app import hub as hubs
from overnight.app import joining
from overnight.hub import certificates
from overnight.models import JobState
from overnight.queue.words import Submission
from ports import free_port
from relays import answering, said, until

DAY = 86400
YEARS = 3650 * DAY


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The relay's machine, with its hub."""
    found = Machine(tmp_path_factory.mktemp("troubles") / "relay")
    found.run("relay", "start", "--host", "localhost", "--port", str(free_port()), "--background")
    try:
        yield found
    finally:
        found.run("relay", "stop")


@pytest.fixture
def worker(relay: Machine, tmp_path: Path) -> Iterator[Machine]:
    """A machine that has joined as a worker, under a name of its own."""
    found = Machine(tmp_path / "worker")
    name = f"w{time.monotonic_ns() % 10**10}"
    joining.join(found.env, "worker", relay.json("relay", "invite", "worker", name)["line"], None, lambda _text: None)
    found.env["NAME"] = name
    with found.running:
        yield found


def done(relay: Machine, job: str) -> tuple[JobState, str]:
    """How a job has ended, and where."""
    with hubs.reached(None, relay.env) as found:
        assert until(lambda: hubs.which(found, job).state.over)
        told = hubs.which(found, job)
        return told.state, told.worker


def submitted(relay: Machine, *command: str) -> str:
    with hubs.reached(None, relay.env) as found:
        return hubs.submit(found, Submission(command), None).id


LONG = pytest.mark.slow


@pytest.mark.parametrize("shift", [-DAY, *(pytest.param(each, marks=LONG) for each in (-600, 600, DAY))])
def test_a_worker_whose_clock_is_off_by_minutes_or_a_day_works_all_the_same(
    relay: Machine, worker: Machine, tmp_path: Path, shift: int
) -> None:
    worker.env.update(jumping(tmp_path))
    (tmp_path / "clock").write_text(f"{shift} 0")
    job = submitted(relay, "echo", "@x=1")
    worker.run("worker", "start", "--once", "--unsafe-no-sandbox")
    assert done(relay, job) == (JobState.SUCCEEDED, worker.env["NAME"])


@pytest.mark.parametrize(("shift", "why"), [(-YEARS, "is not valid yet"), pytest.param(YEARS, "has expired", marks=LONG)])
def test_a_worker_whose_clock_is_off_by_years_says_so_at_once_and_takes_nothing(
    worker: Machine, tmp_path: Path, shift: int, why: str
) -> None:
    worker.env.update(jumping(tmp_path))
    (tmp_path / "clock").write_text(f"{shift} 0")
    process = worker.behind("worker", "start", "--unsafe-no-sandbox")
    assert until(lambda: "it is tried again until it works" in worker.said("worker"))
    told = worker.said("worker")
    process.kill()  # it would first try to say good-bye
    assert ("error[E-RELAY-CLOCK]" in told, why in told, "timedatectl" in told) == (True, True, True)


def test_a_worker_without_git_says_so_before_it_takes_a_job(relay: Machine, worker: Machine, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "env"):
        (tools / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    path, worker.env["PATH"] = worker.env["PATH"], str(tools)
    job = submitted(relay, "true")
    refused = worker.run("worker", "start", "--once", "--unsafe-no-sandbox", code=2)
    worker.env["PATH"] = path
    worker.run("worker", "start", "--once", "--unsafe-no-sandbox")
    assert ("error[E-NO-GIT]" in refused, "apt-get install git" in refused, done(relay, job)) == (
        True, True, (JobState.SUCCEEDED, worker.env["NAME"]),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("status", [b"200 OK", b"400 Bad Request", b"426 Upgrade Required", b"502 Bad Gateway"])
def test_what_breaks_websocket_is_said_to_who_looks(relay: Machine, worker: Machine, tmp_path: Path, status: bytes) -> None:
    state = Path(relay.env["HOME"], ".local", "state", "overnight", "relay")
    pair = certificates.Pair((state / "server.pem").read_bytes(), (state / "server.key").read_bytes())
    file, port = Path(worker.env["HOME"], ".config", "overnight", "worker.json"), free_port()
    file.write_text(file.read_text().replace(f":{relay.json('relay', 'status')['address'].rpartition(':')[2]}", f":{port}"))
    with answering(port, said(status), pair, tmp_path):
        process = worker.behind("worker", "start", "--unsafe-no-sandbox")
        assert until(lambda: "it is tried again until it works" in worker.said("worker"))
        process.kill()
    told = worker.said("worker")
    assert (f"does not speak WebSocket: HTTP {status[:3].decode()}" in told, "a proxy between here and there" in told) == (True, True)


@pytest.mark.slow  # a hub that is not there is waited for: it may just be started again
def test_a_relay_without_its_hub_is_told_from_one_that_is_away(relay: Machine, tmp_path: Path) -> None:
    alone, laptop = Machine(tmp_path / "alone"), Machine(tmp_path / "laptop")
    alone.run("relay", "start", "--host", "localhost", "--port", str(free_port()), "--alone", "--background")
    try:
        joining.join(laptop.env, "client", alone.json("relay", "invite", "client", "laptop")["line"], None, lambda _text: None)
        hubless = laptop.run("hub", "list", code=7)
    finally:
        alone.run("relay", "stop")
    away = laptop.run("hub", "list", code=7)
    assert ("E-HUB-UNREACHABLE" in hubless, "overnight hub start" in hubless, "E-RELAY-UNREACHABLE" in away, relay.home.exists()) == (
        True, True, True, True,
    )  # fmt: skip


def test_a_worker_whose_disk_a_job_fills_fails_that_job_alone_and_takes_the_next(relay: Machine, worker: Machine) -> None:
    state = Path(worker.env["HOME"], ".local", "state")
    state.mkdir(parents=True)
    worker.env["OVERNIGHT_WORKER_ROOM"] = "2000000"
    with mounted(state, "tmpfs", "size=12m"):
        full, later = submitted(relay, "echo before; head -c 30000000 /dev/zero > big"), submitted(relay, "echo after")
        process = worker.behind("worker", "start", "--unsafe-no-sandbox")
        ends = done(relay, full)[0], done(relay, later)[0]
        alive = process.poll()
        process.terminate()
        process.wait(60)
    assert (ends, alive) == ((JobState.FAILED, JobState.SUCCEEDED), None)
