"""Workers, submitters and supervisors are killed at random: no job is lost, none is done twice, no log has a gap, no two attempts overlap."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from overnight.models import JobState
from yards import Yard, end, until

LINES = 40
_SUBMIT = """
import sys
from overnight.app.api import hub_submit
hub, acks, script, first = sys.argv[1:]
for number in range(int(first), 10**9):
    job = hub_submit(script, hub=hub, workdir=None, submission_key=f"key-{number}")
    with open(acks, "a") as file:
        file.write(f"{number} {job.id}\\n")
"""
# Says when it runs, by a clock that all share, and prints numbered lines.
_JOB = """
import os, sys, time
with open(f"{sys.argv[1]}/{os.environ['OVERNIGHT_JOB_ID']}", "a") as file:
    for line in range(int(sys.argv[2])):
        print("line", line, "x" * 50, flush=True)
        file.write(f"{os.environ['OVERNIGHT_ATTEMPT']} {time.monotonic()}\\n")
        file.flush()
        time.sleep(0.003)
"""


class Night:
    """What goes on while things are killed."""

    def __init__(self, yard: Yard, chance: random.Random) -> None:
        self.yard, self.chance = yard, chance
        self.workers: dict[str, subprocess.Popen[str]] = {}
        self.acks = yard.root / "acks"
        self.acks.touch()
        (yard.root / "job.py").write_text(_JOB)
        self.submitter = self._submitter()

    def acked(self) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for line in self.acks.read_text().splitlines():
            number, _, job = line.partition(" ")
            if job:
                found.setdefault(int(number), set()).add(job)
        return found

    def _submitter(self) -> subprocess.Popen[str]:
        self.before = len(self.acks.read_text())  # it is not killed before it has done something
        first = max(0, max(self.acked(), default=0) - 1)  # what was acknowledged last is sent once more
        script = f"{sys.executable} -I -S {self.yard.root}/job.py {self.yard.told} {LINES}"
        argv = [sys.executable, "-c", _SUBMIT, str(self.yard.hub), str(self.acks), script, str(first)]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, text=True, env=os.environ)

    def kill_one(self) -> None:
        """Something dies, and what must be there is started again."""
        time.sleep(self.chance.random() * 0.3)
        kind = self.chance.choice(["worker", "worker", "submitter", "supervisor", "supervisor"])
        if kind == "worker" and self.workers:
            end(self.workers.pop(self.chance.choice(sorted(self.workers))), signal.SIGKILL)
        elif kind == "submitter" and len(self.acks.read_text()) > self.before:
            end(self.submitter, signal.SIGKILL)
        elif pids := self._supervisors():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(pids), signal.SIGKILL)
        assert [name for name, worker in self.workers.items() if worker.poll() is not None] == []  # nobody gives up by himself
        for name in ("a", "b"):
            if name not in self.workers:
                self.workers[name] = self.yard.worker("--slots", "2", name=name)
        if self.submitter.poll() is not None and len(self.yard.jobs()) < 20 + 2 * len(self.yard.started):
            self.submitter = self._submitter()

    def _supervisors(self) -> list[int]:
        pids = []
        for status in (self.yard.hub / "workers").glob("*/jobs/*/status.json"):
            with contextlib.suppress(OSError, ValueError):
                found = json.loads(status.read_text())
                pids += [found["pid"]] if found["state"] == "RUNNING" else []
        return pids


def overlaps(marks: Path) -> list[str]:
    """Jobs of which an attempt has done something after a later one had begun."""
    found = []
    for file in marks.iterdir():
        latest = 0
        for line in file.read_text().splitlines():
            attempt = int(line.split()[0])
            if attempt < latest:
                found.append(file.name)
            latest = max(latest, attempt)
    return found


def _night(yard: Yard, kills: int, seed: int) -> None:
    night = Night(yard, random.Random(seed))
    until(night.acked)
    for _ in range(kills):
        night.kill_one()
    end(night.submitter, signal.SIGKILL)
    with contextlib.suppress(AssertionError):
        until(lambda: not unfinished(yard), 120.0 + kills)
    assert unfinished(yard) == []
    jobs = {job.id: job for job in yard.jobs()}
    acked = night.acked()
    assert [number for number, ids in acked.items() if len(ids) != 1] == []  # a key is one job, however often it was sent
    assert {job for ids in acked.values() for job in ids} - jobs.keys() == set()  # what was acknowledged is there
    assert len({job.submission.submission_key for job in jobs.values()}) == len(jobs)
    assert {job.state for job in jobs.values()} == {JobState.SUCCEEDED}
    assert overlaps(yard.told) == []
    log = "".join(f"line {line} {'x' * 50}\n" for line in range(LINES))
    assert [job for job in jobs if yard_log(yard, job) != log] == []


def unfinished(yard: Yard) -> list[tuple[str, JobState, int, str, str]]:
    return [(job.id, job.state, job.attempt, job.worker, job.cause) for job in yard.jobs() if not job.state.over]


def yard_log(yard: Yard, job: str) -> str:
    from overnight.app.api import Job

    return Job(job, yard.hub).logs()


@pytest.mark.timeout(300)
def test_whatever_is_killed_nothing_is_lost_doubled_or_torn(yard: Yard) -> None:
    _night(yard, 15, 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_kills_lose_double_and_tear_nothing(yard: Yard, seed: int) -> None:
    _night(yard, 100, seed)
