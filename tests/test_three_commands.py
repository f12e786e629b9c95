"""From nothing to a first remote job: three machines with empty homes, three commands, as the documents have them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from machines import Machine
from ports import free_port
from relays import until


@pytest.fixture
def three(tmp_path: Path) -> Iterator[tuple[Machine, Machine, Machine]]:
    found = Machine(tmp_path / "relay"), Machine(tmp_path / "worker"), Machine(tmp_path / "laptop")
    with found[0].running, found[1].running:
        yield found


def printed(text: str) -> list[list[str]]:
    """The commands that the relay has printed for the others."""
    found = re.findall(r"(?m)^on the machine with GPUs: +overnight (.*)$|^where the code is: +overnight (.*)$", text)
    return [shlex.split(first or second) for first, second in found]


def begun(three: tuple[Machine, Machine, Machine]) -> list[str]:
    """The relay and the worker started as a person would; what the laptop is to type, up to its own command."""
    relay, worker, _ = three
    told = relay.run("relay", "start", "--host", "localhost", "--port", str(free_port()), "--background")
    relay.running.callback(relay.run, "relay", "stop")
    work, submit = printed(told)
    worker.behind(*work)
    return submit[: submit.index("--")]


def test_three_commands_lead_from_nothing_to_a_remote_job(three: tuple[Machine, Machine, Machine], tmp_path: Path) -> None:
    submit, laptop, project = begun(three), three[2], tmp_path / "project"
    project.mkdir()
    (project / "train.py").write_text("print('@loss=0.25')")
    job = laptop.run(*submit, "--", sys.executable, "train.py", cwd=project).split()[0]
    watched = laptop.run("hub", "watch", job, "--exit-status").splitlines()
    assert watched[-2:] == [f"[{job}] @loss=0.25", f"[{job}] Status: SUCCEEDED"]


@pytest.mark.slow
def test_the_same_commands_once_more_join_nobody_twice_and_offer_no_lines(three: tuple[Machine, Machine, Machine]) -> None:
    submit, relay, laptop = begun(three), three[0], three[2]
    laptop.run(*submit, "--no-code", "--", "true")
    relay.run("relay", "stop")
    told = relay.json("relay", "start", "--background")  # it remembers that its hub goes with it
    again = laptop.run(*submit, "--no-code", "--", "true").split()[0]
    assert until(lambda: laptop.json("hub", "list", "--all")["jobs"][-1]["state"] == "SUCCEEDED")
    assert (told["join"], laptop.json("hub", "list", "--all")["jobs"][-1]["id"]) == ({}, again)


def test_a_relay_in_the_foreground_brings_its_hub_and_says_how_the_first_ones_join(three: tuple[Machine, Machine, Machine]) -> None:
    relay = three[0]
    process = relay.behind("relay", "start", "--host", "localhost", "--port", str(free_port()))
    assert until(lambda: len(printed(relay.said("relay"))) == 2)
    status = relay.json("relay", "status")
    busy = relay.run("hub", "start", code=1)
    process.terminate()
    assert (process.wait(60), status["up"], status["hub"], "E-RUNNING" in busy) == (0, True, True, True)


def test_a_host_that_is_not_the_relays_makes_no_second_one(three: tuple[Machine, Machine, Machine]) -> None:
    relay = three[0]
    relay.run("relay", "init", "--host", "localhost")
    assert "already, for localhost:8443" in relay.run("relay", "start", "--host", "other.example.org", code=2)


@pytest.mark.parametrize("words", [("worker", "start"), ("hub", "submit", "--join")])
def test_what_is_no_join_line_is_refused_before_anything_is_done(three: tuple[Machine, Machine, Machine], words: tuple[str, ...]) -> None:
    worker = three[1]
    after = ("--", "true") if "submit" in words else ()
    nonsense = worker.run(*words, "nonsense", *after, code=2)
    worker.env["OVERNIGHT_HUB"] = str(worker.home / "hub")
    both = worker.run(*words, "nonsense", *after, code=2)
    assert ("E-JOIN-LINE" in nonsense, "unset OVERNIGHT_HUB" in both, (worker.home / "hub").exists()) == (True, True, False)
