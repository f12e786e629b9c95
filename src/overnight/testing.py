"""Doubles that are real parts of the package: scripted proposers and executors, and small repositories to try them on.

Use them to test a study, a proposer or an executor of your own; the project's tests do. They keep every promise of the Protocols.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from overnight.errors import ProposalError
from overnight.models import Experiment, Idea, JobSpec, JobState, JobStatus, MetricPoint, MetricSummary
from overnight.protocols import Request


@dataclass(frozen=True, slots=True)
class Edit:
    """One scripted proposal: new texts of files, by path."""

    hypothesis: str
    files: Mapping[str, str]


class ScriptedProposer:
    """Answers each ``ask`` with the next step of its script: an ``Edit``, or an error that it raises; then it is exhausted."""

    name = "scripted"

    def __init__(self, steps: Iterable[Edit | ProposalError]) -> None:
        self._steps = deque(steps)
        self._lock = threading.Lock()
        self.briefs: list[str] = []
        self.told: list[Experiment] = []

    def ask(self, request: Request) -> Idea:
        """Write the step's files into the copy."""
        with self._lock:
            self.briefs.append(request.brief)
            if not self._steps:
                raise ProposalError("E-SPACE-EXHAUSTED", "the script is at its end", outage=True)
            step = self._steps.popleft()
        if isinstance(step, ProposalError):
            raise step
        for path, text in step.files.items():
            (request.copy / path).write_text(text, encoding="utf-8")
        return Idea(hypothesis=step.hypothesis, proposer=self.name)

    def tell(self, experiment: Experiment, files: Callable[[], Mapping[str, bytes]]) -> None:  # noqa: ARG002 - the Protocol's signature
        """Keep what it was told."""
        self.told.append(experiment)


class ScriptedExecutor:
    """Runs nothing: ``score`` maps a job to its metrics, or to the status it ends with. Jobs are over as soon as they are submitted."""

    def __init__(self, score: Callable[[JobSpec], Mapping[str, float] | JobStatus]) -> None:
        self._score = score
        self._done: dict[str, JobStatus] = {}

    def submit(self, spec: JobSpec) -> None:
        """Score the job, once."""
        if spec.id not in self._done:
            found = self._score(spec)
            if not isinstance(found, JobStatus):
                metrics = {name: MetricSummary(value, value, value, 1) for name, value in found.items()}
                found = JobStatus(JobState.SUCCEEDED, exit_code=0, metrics=metrics)
            self._done[spec.id] = found

    def poll(self, job: str, wait: float = 0.0) -> JobStatus:  # noqa: ARG002 - the Protocol's signature
        """The end of the job; LOST if it was never submitted."""
        return self._done.get(job, JobStatus(JobState.LOST, cause="unknown job"))

    def tail(self, job: str, offset: int) -> tuple[list[MetricPoint], int]:
        """One point per metric."""
        status = self._done.get(job)
        points = [MetricPoint(name, item.last, 0, 0.0) for name, item in status.metrics.items()] if status and not offset else []
        return points, max(offset, len(points))

    def cancel(self, job: str, reason: str) -> None:
        """Nothing is ever running."""


def repository(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """A new git repository in ``folder`` with one commit that holds ``files``; returns ``folder``."""
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "start")
    return folder


def git(folder: Path, *words: str) -> str:
    """What a git command prints, run with a configuration of its own; raises ``CalledProcessError``."""
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "LC_ALL": "C",
    }
    who = ("-c", "user.name=tester", "-c", "user.email=tester@localhost", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *who, *words], cwd=folder, env=env, check=True, capture_output=True, text=True).stdout
