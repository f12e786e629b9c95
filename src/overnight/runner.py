"""One experiment's run: export, submit, wait, read the numbers. Works with any executor and survives its own death.

Knows nothing of proposals, decisions or the branch. What it learns it writes to the store before it returns.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from overnight.crashes import Crash, read
from overnight.models import Direction, Experiment, JobSpec, JobState, JobStatus, MetricPoint, MetricSummary, Stage, Study
from overnight.protocols import Executor
from overnight.store import Store
from overnight.store.rows import thin
from overnight.workspace import Scope, Workspace

_LOST_LIMIT = 3  # a run whose supervisor was killed this often is a crash


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how runs of a study happen; the same for all of them."""

    folder: Path  # exports are made here, one per job
    env: Mapping[str, str]
    links: Mapping[str, Path]  # untracked data that an export needs
    argv: tuple[str, ...]  # {seed} is replaced
    scope: Scope


class Runner:
    """Runs experiments of one study; ``measure`` may be called from several threads."""

    def __init__(self, executor: Executor, workspace: Workspace, store: Store, place: Place, clock: Callable[[], float]) -> None:
        self._executor = executor
        self._workspace = workspace
        self._store = store
        self._place = place
        self._clock = clock

    def job(self, study: Study, number: int, attempt: int) -> str:
        """The job's id, by which it is found again after a restart."""
        return f"{study.tag}-{number}.{attempt}"

    def measure(self, study: Study, experiment: Experiment, gpus: tuple[str, ...], stop: Callable[[], str]) -> Experiment | None:
        """Run the experiment, or adopt its run if it is under way; None if ``stop`` gave a reason: then it is put back."""
        while True:
            attempt = self._store.last_attempt(study.id, experiment.number)
            if experiment.stage is not Stage.SUBMITTED or attempt == 0:
                attempt = self._start(study, experiment, gpus)
            job = self.job(study, experiment.number, attempt)
            status, reason = self._wait(job, stop)
            if status.state is JobState.CANCELLED and reason:
                self._put_back(study, experiment, attempt, f"put back: {reason}")
                return None
            if status.state is not JobState.LOST or attempt >= _LOST_LIMIT:
                return self._record(study, experiment, attempt, status)
            self._put_back(study, experiment, attempt, status.cause or "its supervisor died")
            experiment = self._store.experiment(study.id, experiment.number)

    def _start(self, study: Study, experiment: Experiment, gpus: tuple[str, ...]) -> int:
        settings = study.settings
        attempt = self._store.attempt(study.id, experiment.number, settings.seed, self._clock())
        job = self.job(study, experiment.number, attempt)
        folder = self._place.folder / job
        shutil.rmtree(folder, ignore_errors=True)
        files = self._store.files(study.id, experiment.number)
        self._workspace.export(study.base_commit, files, folder, self._place.links, self._place.scope)
        env = {
            **self._place.env,
            "OVERNIGHT_SEED": str(settings.seed),
            "OVERNIGHT_EXPERIMENT_ID": f"exp-{experiment.number:03d}",
            "OVERNIGHT_TAG": study.tag,
        }
        if settings.time_budget:
            env["OVERNIGHT_TIME_BUDGET"] = f"{settings.time_budget:g}"
        if gpus:
            env |= {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        self._executor.submit(
            JobSpec(
                id=job,
                argv=tuple(part.replace("{seed}", str(settings.seed)) for part in self._place.argv),
                cwd=str(folder),
                env=env,
                time_limit=settings.limit,
                memory_limit=settings.memory_limit,
                log_head=settings.log_limit,
                gpus=gpus,
                metric=study.metric,
            )
        )
        return attempt

    def _wait(self, job: str, stop: Callable[[], str]) -> tuple[JobStatus, str]:
        reason = ""
        while not (status := self._executor.poll(job, 0.5)).state.over:
            if not reason and (reason := stop()):
                self._executor.cancel(job, reason)
        return status, reason

    def _put_back(self, study: Study, experiment: Experiment, attempt: int, cause: str) -> None:
        self._store.lost(study.id, experiment.number, attempt, cause, self._clock())
        self._store.advance(study.id, experiment.number, Stage.COMMITTED)
        self._forget(study, experiment, attempt)

    def _forget(self, study: Study, experiment: Experiment, attempt: int) -> None:
        shutil.rmtree(self._place.folder / self.job(study, experiment.number, attempt), ignore_errors=True)

    def _record(self, study: Study, experiment: Experiment, attempt: int, status: JobStatus) -> Experiment:
        points: list[MetricPoint] = []
        if status.metrics:
            points, _ = self._executor.tail(self.job(study, experiment.number, attempt), 0)
        value, crash = score(status, study.metric, study.direction, study.settings.pick)
        found = self._store.measured(
            (study.id, experiment.number, attempt),
            status,
            thin(points),
            self._clock(),
            value=value,
            seconds=status.seconds,
            memory_gb=memory_gb(status),
            crash_kind=crash.kind if crash else "",
            cause=crash.cause if crash else "",
            metrics=json.dumps({name: item.last if math.isfinite(item.last) else None for name, item in status.metrics.items()}),
        )
        self._forget(study, experiment, attempt)
        return found

    def output(self, study: Study, number: int) -> str:
        """The end of the output of an experiment's last job."""
        attempt = self._store.last_attempt(study.id, number)
        return self._executor.poll(self.job(study, number, attempt)).end if attempt else ""

    def sweep(self, study: Study) -> None:
        """Remove exports of runs that are over; the ones of running jobs stay."""
        live = {self.job(study, item.number, self._store.last_attempt(study.id, item.number)) for item in self._store.unfinished(study.id)}
        with contextlib.suppress(FileNotFoundError):
            for folder in self._place.folder.iterdir():
                if folder.name not in live and folder.name.startswith(f"{study.tag}-"):
                    shutil.rmtree(folder, ignore_errors=True)


def score(status: JobStatus, metric: str, direction: Direction, pick: str) -> tuple[float | None, Crash | None]:
    """The value that counts, or why there is none. A job that did not succeed has no value, whatever it printed."""
    summary = status.metrics.get(metric)
    value = _pick(summary, direction, pick) if summary is not None else None
    if status.state is JobState.SUCCEEDED and value is not None and math.isfinite(value):
        return value, None
    return None, read(status, status.end.encode("utf-8", "replace"), metric, status.metrics)


def _pick(summary: MetricSummary, direction: Direction, pick: str) -> float:
    if pick == "best":
        return summary.lowest if direction is Direction.MINIMIZE else summary.highest
    return summary.last


def memory_gb(status: JobStatus) -> float:
    """Peak memory in GB: what the run says of its GPU (``peak_vram_mb``), else what was measured there, else of main memory."""
    said = status.metrics.get("peak_vram_mb")
    if said is not None and math.isfinite(said.highest) and said.highest > 0:
        return said.highest / 1024
    return (status.peak_vram_mb or status.peak_rss_mb) / 1024
