"""Nights: jobs are submitted and run while whoever works on them is killed at random; and what must hold in the morning.

A night knows neither how a worker is started nor how the hub is reached: ``Ground`` is where it happens.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overnight.app import hub as hubs
from overnight.app import watching
from overnight.models import JobState
from overnight.queue.words import HubJob, Query
from yards import end, until

LINES = 40
_SUBMIT = """
import sys, time
from overnight.app.api import hub_submit
from overnight.errors import UnreachableError
acks, code, script, first, count = sys.argv[1:]
for number in range(int(first), int(first) + int(count)):
    more = [{}, {"workdir": code}, {"workdir": code, "outputs": ["left.txt"]}][number % 3 if code else 0]
    while True:
        try:
            job = hub_submit(script, submission_key=f"key-{number}", **{"workdir": None, **more})
            break
        except UnreachableError:
            time.sleep(0.2)
    with open(acks, "a") as file:
        file.write(f"{number} {job.id}\\n")
"""
# Says when it runs, by a clock that all share, and prints numbered lines.
_JOB = """
import os, sys, time
with open(sys.argv[1], "a") as file:
    for line in range(int(sys.argv[2])):
        file.write(f"{os.environ['OVERNIGHT_JOB_ID']} {os.environ['OVERNIGHT_ATTEMPT']} {line} {time.clock_gettime(time.CLOCK_BOOTTIME)}\\n")
        file.flush()
        print("line", line, "x" * 50, flush=True)
        time.sleep(float(sys.argv[3]))
with open("left.txt", "w") as file:
    file.write("x" * 10000 + os.environ["OVERNIGHT_JOB_ID"])
"""
LOG = "".join(f"line {line} {'x' * 50}\n" for line in range(LINES)).encode()


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a night happens: ``parts`` are the processes that must be there, and how each is started."""

    root: Path
    hub: Path  # the hub's folder
    environ: Mapping[str, str]  # of who submits
    parts: Mapping[str, Callable[[], subprocess.Popen[Any]]]
    workers: Path  # what lies here and in folders below are the workers' job folders
    code: bool = False  # whether jobs come with code and leave something
    pause: float = 0.003  # seconds between two lines of a job
    batch: int = 12  # jobs after which who submits ends by himself


@dataclass
class Night:
    """What goes on while things are killed. ``killed`` counts those that were alive when they were."""

    ground: Ground
    chance: random.Random
    deaths: Mapping[str, int]  # how often each is chosen, in proportion: parts, "submitter", "supervisor", and those of ``more``
    more: Mapping[str, Callable[[], int]] = field(default_factory=dict)  # further ones: the process id to kill, 0 if there is none
    killed: Counter[str] = field(default_factory=Counter)
    running: dict[str, subprocess.Popen[Any]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)  # parts that may end by themselves, because of whom we have killed

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.acks, self.marks = self.ground.root / "acks", self.ground.root / "marks"
        self.acks.touch()
        self.marks.touch()
        (self.ground.root / "job.py").write_text(_JOB)
        self.code = self.ground.root / "code"
        self.code.mkdir()
        (self.code / "text.py").write_text("x = 1\n")
        self.mend()
        self.submitter = self._submitter()

    def acked(self) -> dict[int, set[str]]:
        """Ids of jobs that were acknowledged, by the number of their key."""
        found: dict[int, set[str]] = {}
        for line in self.acks.read_text().splitlines():
            number, _, job = line.partition(" ")
            if job:
                found.setdefault(int(number), set()).add(job)
        return found

    def _submitter(self) -> subprocess.Popen[str]:
        self.before = len(self.acks.read_text())  # it is not killed before it has done something
        acked = self.acked()
        first = max(0, max(acked, default=0) - 1)  # what was acknowledged last is sent once more
        script = f"{sys.executable} -I -S {self.ground.root}/job.py {self.marks} {LINES} {self.ground.pause}"
        argv = [
            sys.executable,
            "-c",
            _SUBMIT,
            str(self.acks),
            str(self.code) if self.ground.code else "",
            script,
            str(first),
            str(self.ground.batch),
        ]
        with (self.ground.root / "submitter.log").open("a") as log:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True, env=dict(self.ground.environ))

    def kill_one(self) -> str:
        """One of them dies; who. Who is not there, or has done nothing yet, does not count, and another one is looked for."""
        time.sleep(self.chance.random() * 0.3)
        while True:
            kind = self.chance.choices(list(self.deaths), list(self.deaths.values()))[0]
            if self._kill(kind):
                self.killed[kind] += 1
                self.mend()
                return kind
            self.mend()
            time.sleep(0.02)

    def _kill(self, kind: str) -> bool:
        if kind in self.ground.parts:
            end(self.running.pop(kind), signal.SIGKILL)
            return True
        if kind == "submitter":
            if self.submitter.poll() is not None or len(self.acks.read_text()) <= self.before:
                return False
            end(self.submitter, signal.SIGKILL)
            return True
        pid = self.more[kind]() if kind in self.more else self._supervisor()
        with contextlib.suppress(ProcessLookupError):
            if pid:
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def mend(self) -> None:
        """Start again what must be there."""
        ended = [name for name, process in self.running.items() if process.poll() is not None]
        assert set(ended) <= self.gone, ended  # nobody gives up by himself
        for name in ended:
            del self.running[name]
        for name, start in self.ground.parts.items():
            if name not in self.running:
                self.running[name] = start()

    def submit_on(self) -> None:
        """Have somebody submit, unless there is enough to do."""
        if self.submitter.poll() is not None and len(self.unfinished()) < self.ground.batch:
            self.submitter = self._submitter()

    def see_one_end(self, patience: float = 120.0) -> None:
        """Wait until one more job is over, so that nights are not only deaths: it must go on by itself whatever was killed."""
        over, deadline = self._over(), time.monotonic() + patience
        while self._over() == over and time.monotonic() < deadline:
            self.mend()
            self.submit_on()
            time.sleep(0.1)
        assert self._over() > over, self.unfinished()

    def _over(self) -> int:
        return sum(job.state.over for job in self.jobs())

    def __str__(self) -> str:
        kills = ", ".join(f"{kind} {count}" for kind, count in sorted(self.killed.items()))
        attempts = sum(job.attempt for job in self.jobs())
        return f"{self.killed.total()} kills ({kills}) over {len(self.jobs())} jobs in {attempts} attempts, {time.monotonic() - self.began:.0f} s"

    def _supervisor(self) -> int:
        pids = []
        for folder, _, names in os.walk(self.ground.workers):  # which passes over what goes meanwhile
            if "status.json" not in names or Path(folder).parent.name != "jobs":
                continue
            with contextlib.suppress(OSError, ValueError):
                found = json.loads(Path(folder, "status.json").read_text())
                pids += [found["pid"]] if found["state"] == "RUNNING" else []
        return self.chance.choice(pids) if pids else 0

    # --- what the hub says ---------------------------------------------------------------------------------------------

    def jobs(self) -> list[HubJob]:
        """All jobs, by the hub's own file."""
        with hubs.reached(self.ground.hub, os.environ) as found:
            return found.desk.jobs(Query(last=10_000))

    def is_heard(self, since: float) -> bool:
        """Whether the hub has heard of every worker since a moment."""
        with hubs.reached(self.ground.hub, os.environ) as found:
            return all(each.seen > since for each in found.desk.workers())

    def unfinished(self) -> list[tuple[str, JobState, int, str, str]]:
        """Jobs that are not over."""
        return [(job.id, job.state, job.attempt, job.worker, job.cause) for job in self.jobs() if not job.state.over]

    def finish(self, patience: float) -> None:
        """Wait until all jobs are over; nobody dies any more, and nobody submits."""
        end(self.submitter, signal.SIGKILL)
        deadline = time.monotonic() + patience
        while self.unfinished() and time.monotonic() < deadline:
            self.mend()
            time.sleep(0.2)
        assert self.unfinished() == []

    def logs(self) -> dict[str, bytes]:
        """What the latest attempt of each job has printed, as the hub has it."""
        with hubs.reached(self.ground.hub, os.environ) as found:
            return {job.id: b"".join(watching.raw(found, job, 0, 0)) for job in found.desk.jobs(Query(last=10_000))}

    # --- what must hold ------------------------------------------------------------------------------------------------

    def faults(self) -> dict[str, object]:
        """All that is wrong once every job is over, by what it is; empty if nothing is."""
        jobs = {job.id: job for job in self.jobs()}
        acked, logs = self.acked(), self.logs()
        found: dict[str, object] = {
            "one key, several jobs": [number for number, ids in acked.items() if len(ids) != 1],
            "acknowledged and not there": {job for ids in acked.values() for job in ids} - jobs.keys(),
            "doubled": len(jobs) - len({job.submission.submission_key for job in jobs.values()}),
            "not succeeded": [(job.id, job.state, job.cause) for job in jobs.values() if job.state is not JobState.SUCCEEDED],
            "torn logs": [job for job in jobs if logs[job] != LOG],
            "overlapping": overlaps(self.marks),
            "never run to the end": jobs.keys() - {row[0] for row in marked(self.marks) if row[2] == LINES - 1},
            "torn outputs": [job.id for job in jobs.values() if job.submission.outputs and not self._left(job)],
        }
        return {name: each for name, each in found.items() if each}

    def _left(self, job: HubJob) -> bool:
        with contextlib.suppress(OSError):
            return (self.ground.hub / "out" / job.id / str(job.attempt) / "left.txt").read_text() == "x" * 10000 + job.id
        return False

    def close(self) -> None:
        """End all that was started."""
        for process in (self.submitter, *(self.running[name] for name in reversed(list(self.ground.parts)) if name in self.running)):
            end(process)  # whom others need goes last


def marked(marks: Path) -> list[tuple[str, int, int, float]]:
    """What jobs have written: job, attempt, line, moment."""
    rows = [line.split() for line in marks.read_text().splitlines()]
    return [(row[0], int(row[1]), int(row[2]), float(row[3])) for row in rows if len(row) == 4]


def overlaps(marks: Path) -> list[str]:
    """Jobs of which an attempt has done something after a later one had begun."""
    spans: dict[str, dict[int, tuple[float, float]]] = {}
    for job, attempt, _, moment in marked(marks):
        mine = spans.setdefault(job, {})
        first, last = mine.get(attempt, (moment, moment))
        mine[attempt] = (min(first, moment), max(last, moment))
    return [
        f"{job}: attempt {before} until {mine[before][1]}, attempt {after} from {mine[after][0]}"
        for job, mine in spans.items()
        for before, after in itertools.combinations(sorted(mine), 2)
        if mine[after][0] <= mine[before][1]
    ]


def family(pid: int) -> list[int]:
    """A process and all its descendants, elders first."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            children.setdefault(int(file.read_text().rpartition(")")[2].split()[1]), []).append(int(file.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def left_over(root: Path) -> list[str]:
    """Command lines of living processes that have to do with a folder: by their words, variables, or where they are."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes()
            if folder.name != str(os.getpid()) and str(root).encode() in words + (folder / "environ").read_bytes():
                found.append(words.replace(b"\0", b" ").decode("utf-8", "replace"))
    return found


def nobody_left(root: Path) -> bool:
    """Whether all that had to do with a folder have ended; waited for."""
    return bool(until(lambda: not left_over(root)))
