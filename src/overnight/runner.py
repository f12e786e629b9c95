"""One experiment's run: export, submit, wait, read the numbers. Works with any executor and survives its own death.

Knows nothing of proposals, decisions or the branch. What it learns it writes to the store before it returns.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from overnight.crashes import Crash, last_error, read
from overnight.early import EarlyStop
from overnight.errors import JobError
from overnight.evaluation import Examiner
from overnight.folders import remove
from overnight.models import NO_SECOND, Direction, JobSpec, JobState, JobStatus, MetricPoint, MetricSummary, Study
from overnight.protocols import Executor
from overnight.store import Store
from overnight.store.rows import thin
from overnight.workspace import Scope, Workspace

EARLY = "stopped early: "
_SPEEDS = ("tokens_per_second", "tok/s", "tokens/s", "samples_per_second", "samples/s", "throughput", "it/s")
_LOST_LIMIT = 3  # a run whose supervisor was killed this often is a crash


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how runs of a study happen; the same for all of them."""

    folder: Path  # exports are made here, one per job
    env: Mapping[str, str]
    links: Mapping[str, Path]  # untracked data that an export needs
    argv: tuple[str, ...]  # {seed} is replaced
    scope: Scope
    wrap: Callable[[JobSpec], JobSpec]  # puts a job behind walls
    worker: Callable[[tuple[str, ...]], str] = lambda _gpus: ""  # class of machine of a run on these GPUs
    asks: str = ""  # the class of machine that runs are to go to, where one can be chosen; empty = any
    heard: Callable[[int, Sequence[MetricPoint]], None] = lambda _number, _points: None  # what an experiment says while it is waited for
    away: tuple[str, ...] = ()  # names of workers that they must not go to; such a run is a second opinion, and never ended early


class NoSecondError(Exception):
    """No worker has come that the run could go to."""


class Runner:
    """Runs experiments of one study; ``run`` may be called from several threads."""

    def __init__(
        self, doors: tuple[Executor, Workspace, Store], place: Place, examiner: Examiner | None, clock: Callable[[], float]
    ) -> None:
        self._executor, self._workspace, self._store = doors
        self._place = place
        self._examiner = examiner
        self._early = EarlyStop(self._store)
        self._clock = clock

    def job(self, study: Study, number: int, attempt: int) -> str:
        """The job's id, by which it is found again after a restart."""
        return f"{study.tag}-{number}.{attempt}"

    def on(self, worker: str, away: tuple[str, ...] = ()) -> Runner:
        """The same, whose runs go to this class of machine where one can be chosen, and never to the workers ``away``."""
        return self._in(replace(self._place, asks=worker, away=away))

    def hearing(self, heard: Callable[[int, Sequence[MetricPoint]], None]) -> Runner:
        """The same, who passes on what experiments say while they are waited for."""
        return self._in(replace(self._place, heard=heard))

    def _in(self, place: Place) -> Runner:
        return Runner((self._executor, self._workspace, self._store), place, self._examiner, self._clock)

    def worker(self, gpus: tuple[str, ...]) -> str:
        """The class of machine that a run on these GPUs belongs to."""
        return self._place.worker(gpus)

    def run(self, study: Study, number: int, seed: int, gpus: tuple[str, ...], stop: Callable[[], str], *, again: bool = False) -> bool:
        """Run the experiment once with ``seed``, or adopt such a run that is under way, and write down its end.

        ``again``: the run is made to look again at a decided experiment; it is never ended early.
        False if ``stop`` gave a reason: then the run is put back. Raises ``NoSecondError``, ``JobError``, ``StorageError``, ``GitError``.
        """
        while True:
            left = self._store.open_attempt(study.id, number, seed)
            attempt = left or self._start(study, number, seed, gpus, again=again)
            job = self.job(study, number, attempt)
            status, reason = self._wait(study, number, job, stop, again=again)
            if (status.state is JobState.CANCELLED or status.taken) and reason and not reason.startswith(EARLY):
                self._put_back(study, number, attempt, f"put back: {reason}")
                return False
            if status.state is JobState.CANCELLED and status.cause.endswith(NO_SECOND):
                self._put_back(study, number, attempt, f"put back: {NO_SECOND}")
                raise NoSecondError
            if status.state is JobState.CANCELLED and reason:
                status = replace(status, state=JobState.FAILED, cause=reason)
            if left and status.state is JobState.LOST and not status.started:  # no fault of the experiment: it is not counted as an attempt
                self._put_back(study, number, attempt, "put back: its loop ended before it was started")
            elif status.taken:  # is not counted: a run may be preempted the whole night
                self._put_back(study, number, attempt, f"put back: {status.cause}")
            elif status.state is JobState.LOST and self._store.attempts(study.id, number, seed) < _LOST_LIMIT:
                self._put_back(study, number, attempt, status.cause or "its supervisor died")
            elif (recorded := self._record((study, number, attempt), status, stop)) is not None:
                return recorded

    def _start(self, study: Study, number: int, seed: int, gpus: tuple[str, ...], *, again: bool) -> int:
        settings = study.settings
        attempt = self._store.attempt(study.id, number, seed, self._clock(), again=again, worker=self.worker(gpus))
        job = self.job(study, number, attempt)
        folder = self._place.folder / job
        remove(folder)
        files = self._store.files(study.id, number)
        self._workspace.export(study.base_commit, files, folder, self._place.links, self._place.scope)
        env = {**self._place.env, "OVERNIGHT_SEED": str(seed), "OVERNIGHT_EXPERIMENT_ID": f"exp-{number:03d}", "OVERNIGHT_TAG": study.tag}
        if settings.time_budget:
            env["OVERNIGHT_TIME_BUDGET"] = f"{settings.time_budget:g}"
        if gpus:
            env |= {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        spec = JobSpec(
            id=job,
            argv=tuple(part.replace("{seed}", str(seed)) for part in self._place.argv),
            cwd=str(folder),
            env=env,
            time_limit=settings.limit,
            memory_limit=settings.memory_limit,
            process_limit=settings.process_limit,
            disk_limit=settings.disk_limit,
            log_head=settings.log_limit,
            gpus=gpus,
            metric=study.metric,
            worker=self._place.asks,
            away=self._place.away,
        )
        try:
            self._executor.submit(self._place.wrap(spec))
        except JobError as exc:
            self._put_back(study, number, attempt, exc.message)
            raise
        return attempt

    def _wait(self, study: Study, number: int, job: str, stop: Callable[[], str], *, again: bool) -> tuple[JobStatus, str]:
        """The end of the job, and why we ended it if we did."""
        reason, offset = "", 0
        curve: list[tuple[float, float]] = []
        while not (status := self._executor.poll(job, 0.5)).state.over:
            points, offset = self._executor.tail(job, offset)
            self._place.heard(number, points)
            fresh = [(point.step, point.value) for point in points if point.name == study.metric]
            curve += fresh
            early = self._early.verdict(study, number, curve) if fresh and not again and not self._place.away else None
            if early is not None and early.spared:
                self._early.spare(study, number, early)
                early = None
            if not reason and (reason := stop() or (f"{EARLY}{early.reason}" if early else "")):
                self._executor.cancel(job, reason)
        return status, reason

    def break_off(self, study: Study, number: int, reason: str) -> None:
        """End the runs of an experiment that are under way; nothing of them counts."""
        for attempt in [attempt for item, attempt in self._store.open_jobs(study.id) if item == number]:
            job = self.job(study, number, attempt)
            self._executor.cancel(job, reason)
            while not self._executor.poll(job, 0.5).state.over:
                pass
            self._put_back(study, number, attempt, f"put back: {reason}")

    def _put_back(self, study: Study, number: int, attempt: int, cause: str) -> None:
        self._store.lost(study.id, number, attempt, cause, self._clock())
        self._forget(study, number, attempt)

    def _forget(self, study: Study, number: int, attempt: int) -> None:
        remove(self._place.folder / self.job(study, number, attempt))

    def _record(self, run: tuple[Study, int, int], status: JobStatus, stop: Callable[[], str]) -> bool | None:
        """Whether the run's end is written down; None if it has to be run again."""
        study, number, attempt = run
        job = self.job(study, number, attempt)
        points: list[MetricPoint] = []
        if status.metrics:
            points, _ = self._executor.tail(job, 0)
        value, crash = score(status, study.metric, study.direction, study.settings.pick)
        if crash and crash.kind == "network" and study.confined and not study.settings.sandbox_network:
            crash = replace(crash, cause=f"{crash.cause} (runs have no network: --sandbox-network lets them reach it)")
        reported = None
        if self._examiner is not None and status.state is JobState.SUCCEEDED:
            exam = self._examiner.measure(study, self._place.folder / job, self._store.files(study.id, number), stop)
            if exam.state is JobState.CANCELLED and stop():
                self._put_back(study, number, attempt, "put back during the evaluation")
                return False
            if exam.taken:
                self._put_back(study, number, attempt, f"put back during the evaluation: {exam.cause}")
                return None
            if self._examiner.looks_twice and self._store.experiment(study.id, number).decision is None:
                self._examiner.keep_artifact(self._place.folder / job, self._aside(study, number))
            reported = value
            value, crash = score(exam, study.metric, study.direction, "last")
            crash = replace(crash, kind="evaluation", cause=f"evaluation: {_unquoted(crash, exam, job)}", dumb=False) if crash else None
        self._store.ran(
            (study.id, number, attempt),
            status,
            thin(points, study.metric),
            self._clock(),
            value=value,
            reported=reported,
            memory_gb=memory_gb(status),
            throughput=throughput(status),
            confined=status.confined,
            host=status.host,
            crash_kind=crash.kind if crash else "",
            cause=crash.cause if crash else status.cause,
            **({"worker": status.worker} if status.worker else {}),  # else it stays where it was started, which may have been another slot
            metrics=json.dumps({name: item.last if math.isfinite(item.last) else None for name, item in status.metrics.items()}),
        )
        self._forget(study, number, attempt)
        return True

    def look_once(self, study: Study, number: int, *, kept: bool, stop: Callable[[], str]) -> None:
        """Measure a keep on the hidden hold-out, once; whatever else was put aside for it goes."""
        aside = self._aside(study, number)
        if self._examiner is None or not aside.exists():
            return
        if kept:
            exam = self._examiner.measure_hidden(study, aside, self._store.files(study.id, number), stop)
            if exam.state is JobState.CANCELLED and stop():
                return
            value, crash = score(exam, study.metric, study.direction, "last")
            self._store.set_hidden(study.id, number, value, crash.cause if crash else "")
        remove(aside)

    def unlooked(self, study: Study) -> list[int]:
        """Experiments whose artefacts an earlier loop has left put aside."""
        names = [path.name for path in self._aside(study, 0).parent.glob(f"{study.tag}-*")] if self._examiner is not None else []
        return sorted(int(tail) for name in names if (tail := name.removeprefix(f"{study.tag}-")).isdigit())

    def _aside(self, study: Study, number: int) -> Path:
        return self._place.folder.with_name("artifacts") / f"{study.tag}-{number}"

    def output(self, study: Study, number: int) -> str:
        """The end of the output of an experiment's last job."""
        attempt = self._store.last_attempt(study.id, number)
        return self._executor.poll(self.job(study, number, attempt)).end if attempt else ""

    def sweep(self, study: Study) -> None:
        """Remove exports of runs that are over; the ones of running jobs stay."""
        live = {self.job(study, number, attempt) for number, attempt in self._store.open_jobs(study.id)}
        with contextlib.suppress(FileNotFoundError):
            for folder in self._place.folder.iterdir():
                if folder.name.removesuffix(".eval") not in live and folder.name.startswith(f"{study.tag}-"):
                    remove(folder)


def _unquoted(crash: Crash, exam: JobStatus, job: str) -> str:
    """The cause without the evaluator's own words: an exception may quote the hold-out, and a cause is read by the proposer."""
    name = last_error(exam.end.encode("utf-8", "replace")).partition(":")[0]
    return f"{name} (its words stay in jobs/{job}.eval/output.log)" if name else crash.cause


def score(status: JobStatus, metric: str, direction: Direction, pick: str) -> tuple[float | None, Crash | None]:
    """The value that counts, or why there is none. A job that did not succeed has no value, whatever it printed."""
    summary = status.metrics.get(metric)
    value = _pick(summary, direction, pick) if summary is not None else None
    if status.state is JobState.SUCCEEDED and value is not None and math.isfinite(value):
        return value, None
    if status.cause.startswith(EARLY):
        return None, Crash("stopped-early", status.cause)
    return None, read(status, status.end.encode("utf-8", "replace"), metric, status.metrics)


def _pick(summary: MetricSummary, direction: Direction, pick: str) -> float:
    if pick == "best":
        return summary.lowest if direction is Direction.MINIMIZE else summary.highest
    return summary.last


def throughput(status: JobStatus) -> float:
    """What the run says of its own speed, by one of the usual names; 0 = nothing."""
    found = (status.metrics[name].last for name in _SPEEDS if name in status.metrics)
    return next((value for value in found if math.isfinite(value) and value > 0), 0.0)


def memory_gb(status: JobStatus) -> float:
    """Peak memory in GB: what the run says of its GPU (``peak_vram_mb``), else what was measured there, else of main memory."""
    said = status.metrics.get("peak_vram_mb")
    if said is not None and math.isfinite(said.highest) and said.highest > 0:
        return said.highest / 1024
    return (status.peak_vram_mb or status.peak_rss_mb) / 1024
