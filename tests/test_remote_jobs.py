"""From nothing to a remote job, with the commands that the documentation names, each machine in a home of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import SOURCE
from relays import free_port, until

TRAIN = """
import pathlib
for epoch in range(3):
    print(f"Epoch {epoch + 1}/3  @loss={0.5 - epoch / 10}", flush=True)
pathlib.Path("weights.bin").write_bytes(b"w" * 700_000)
"""


class Machine:
    """A machine: a home, and the command in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir()
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": SOURCE, "OVERNIGHT_WORKER_ROOM": "1000000"}
        self.running = contextlib.ExitStack()

    def run(self, *words: str, code: int = 0, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "overnight", *words],
            env=self.env,
            cwd=cwd or self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stderr

    def json(self, *words: str, **more: Any) -> Any:
        cut = words.index("--") if "--" in words else len(words)
        return json.loads(self.run(*words[:cut], "--json", *words[cut:], **more))

    def behind(self, *words: str) -> subprocess.Popen[bytes]:
        log = (self.home / f"{words[0]}.log").open("wb")
        process = subprocess.Popen([sys.executable, "-m", "overnight", *words], env=self.env, cwd=self.home, stdout=log, stderr=log)
        log.close()
        self.running.callback(_end, process)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(60)


class World:
    """A relay with its hub, a worker and a laptop."""

    def __init__(self, path: Path) -> None:
        self.server, self.worker, self.laptop = Machine(path / "server"), Machine(path / "worker"), Machine(path / "laptop")

    def line(self, kind: str, name: str) -> str:
        line: str = self.server.json("relay", "invite", kind, name)["line"]
        return line


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    found = World(tmp_path_factory.mktemp("world"))
    with found.server.running, found.worker.running:
        found.server.run("relay", "init", "--host", "localhost", "--port", str(free_port()))
        found.server.run("relay", "start", "--background")
        found.server.running.callback(found.server.run, "relay", "stop")
        found.server.behind("hub", "start")
        found.worker.run("worker", "join", found.line("worker", "gpu-1"))
        found.worker.behind("worker", "start", "--gpus", "2")
        found.laptop.run("join", found.line("client", "laptop"))
        assert until(lambda: [each["name"] for each in found.laptop.json("hub", "workers")["workers"] if each["alive"]] == ["gpu-1"])
        yield found


@pytest.fixture
def project(world: World, tmp_path: Path) -> Path:  # noqa: ARG001 - the laptop's
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path


def test_a_job_of_the_laptop_runs_on_the_worker_with_the_laptops_code(world: World, project: Path) -> None:
    job = world.laptop.json(
        "hub", "submit", "--name", "pose", "--gpu-count", "1", "--output", "*.bin", "--", sys.executable, "train.py", cwd=project
    )["job"]
    watched = world.laptop.run("hub", "watch", job["id"], cwd=project)
    told = (
        world.laptop.json("hub", "show", job["id"])["job"]
        if "show" in world.laptop.run("hub", "--help")
        else world.laptop.json("hub", "list", "--all")["jobs"][-1]
    )
    world.laptop.run("hub", "outputs", job["id"], "--to", "brought", cwd=project)
    assert [line for line in watched.splitlines() if "@loss" in line] == [
        f"[{job['id']}] Epoch {n + 1}/3  @loss={0.5 - n / 10}" for n in range(3)
    ]
    assert (told["state"], told["worker"], told["metrics"], (project / "brought" / "weights.bin").read_bytes() == b"w" * 700_000) == (
        "SUCCEEDED", "gpu-1", {"loss": 0.3}, True,
    )  # fmt: skip


def test_a_second_version_of_the_code_travels_as_a_difference(world: World, project: Path) -> None:
    ids = []
    for text in ("first", "second"):
        (project / "train.py").write_text(f"print('{text}')")
        ids.append(world.laptop.json("hub", "submit", "--", sys.executable, "train.py", cwd=project)["job"]["id"])
    assert [world.laptop.run("hub", "watch", each).splitlines()[-2].split("] ")[1] for each in ids] == ["first", "second"]


def test_a_job_is_ended_from_the_laptop(world: World, project: Path) -> None:
    job = world.laptop.json("hub", "submit", "--no-code", "--", "sleep", "600", cwd=project)["job"]["id"]
    assert until(lambda: world.laptop.json("hub", "list")["jobs"][0]["state"] == "RUNNING")
    world.laptop.run("hub", "cancel", job)
    assert until(
        lambda: [each["state"] for each in world.laptop.json("hub", "list", "--all")["jobs"] if each["id"] == job] == ["CANCELLED"]
    )


def test_another_client_sees_nothing_of_the_laptops_jobs(world: World, project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    job = world.laptop.json("hub", "submit", "--no-code", "--", "true", cwd=project)["job"]["id"]
    other = Machine(tmp_path_factory.mktemp("other") / "home")
    other.run("join", world.line("client", "other"))
    assert (other.json("hub", "list", "--all")["jobs"], "E-NO-JOB" in other.run("hub", "logs", job, code=3)) == ([], True)


def test_the_owner_sees_everybodys_jobs_on_the_relays_machine(world: World, project: Path) -> None:
    job = world.laptop.json("hub", "submit", "--no-code", "--", "true", cwd=project)["job"]["id"]
    assert job in [each["id"] for each in world.server.json("hub", "list", "--all")["jobs"]]


def test_a_client_that_the_worker_does_not_allow_is_not_served_there(world: World, project: Path) -> None:
    world.worker.run("worker", "allow", "somebody-else")
    try:
        job = world.laptop.json("hub", "submit", "--no-code", "--", "true", cwd=project)["job"]["id"]
        assert until(
            lambda: [each["state"] for each in world.laptop.json("hub", "list", "--all")["jobs"] if each["id"] == job] == ["FAILED"]
        )
        found = next(each for each in world.laptop.json("hub", "list", "--all")["jobs"] if each["id"] == job)
    finally:
        world.worker.run("worker", "allow", "all")
    assert "jobs of 'laptop' may not run here" in found["cause"]


def test_a_worker_cannot_call_itself_otherwise_than_it_has_joined(world: World) -> None:
    assert "has joined as gpu-1" in world.worker.run("worker", "start", "--name", "gpu-2", code=2)


def test_a_second_hub_on_the_same_folder_is_told_so(world: World) -> None:
    assert "E-RUNNING" in world.server.run("hub", "start", code=1)


def test_the_status_of_the_relay_names_who_is_there(world: World) -> None:
    found = world.server.json("relay", "status")
    assert (found["up"], found["hub"], [row["name"] for row in found["members"] if row["connected"]]) == (True, True, ["gpu-1"])
