"""Jobs on whichever workers a hub has: queued there with their code, found again by a key, mirrored into job folders of this machine.

The folder says what was ordered before it is ordered, under a key that no other job ever had, so that a job which was about to be
queued when its caller died is queued once. A worker that is lost costs time alone: the hub gives the job to another, and the mirror
begins anew with that attempt. Walls are the worker's. Must not know how the hub is reached, nor how code is packed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shlex
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from overnight import jobs
from overnight.errors import JobError, NotAllowedError, NotFoundError, OvernightError, StorageError, UnreachableError, UsageError
from overnight.executors import folder as files
from overnight.executors.brought import put_back
from overnight.models import NO_SECOND, JobSpec, JobState, JobStatus, MetricPoint
from overnight.protocols import Orders, Trusts, Views
from overnight.queue import coding, fit
from overnight.queue.words import OURS, HubJob, Output, Query, Stream, Submission, WorkerState, granted_by, wish_of

ORDER, JOB = "order.json", "hub-job"  # what is asked of the hub; what the hub calls it, once it has it
_OURS = (sys.executable, "-P", "-m", OURS)
_DOWN = 300.0  # seconds for which a hub that does not answer is asked again to take a job
_AGAIN = 5.0  # seconds between two looks whether a class of machine is still there
_PINNED = "@class"  # at the end of the key of a job that waits for a class of machine
_LEFT = "no worker of the class that it waited for is left"
_SHIFT = 2**44  # bytes of metrics that an attempt has at most: an offset tells the attempt as well
_MIRRORED = {Stream.METRICS: jobs.METRICS, Stream.LOG: jobs.LOG}
_OPTIONS: dict[str, Callable[[str], Any]] = {
    "hub": str, "tag": str, "gpu-type": str, "vram-gb": float, "cpus": int, "memory-gb": float, "priority": int, "wait": bool,
}  # fmt: skip


class _Counter(Orders, Trusts, Views, Protocol):
    """The hub as we see it."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A folder as a hub can lay it out: its commit, and NAME=PATH of the links that lead out of it."""

    commit: str
    links: tuple[str, ...] = ()
    handed: tuple[Output, ...] = ()  # files that are too large for code


@dataclass(frozen=True, slots=True)
class Reach:
    """A hub that was reached, and what is carried to it and back."""

    desk: _Counter
    pack: Callable[[Path], Packed]  # keeps a folder as it is, where the hub's workers can fetch it
    outputs: Callable[[HubJob], Path]  # the folder with what a job has left, fetched if need be
    wait: Callable[[float, Query | None], object]  # sleeps until something has happened with these jobs, not longer
    look: float  # seconds between two questions about a job of which nothing is heard
    close: Callable[[], object]
    env: Mapping[str, str]  # variables of this machine, which workers have of their own
    owner: str = ""  # whose jobs they are, of a hub behind a relay


@dataclass(frozen=True, slots=True)
class Wishes:
    """What every job asks of its worker beside GPUs."""

    hub: str = ""
    tags: tuple[str, ...] = ()
    gpu_type: str = ""
    vram_gb: float = 0.0
    cpus: int = 0
    memory_gb: float = 0.0
    priority: int = 0
    wait: bool = False  # jobs are queued although no worker could run them now


def wishes_of(words: Sequence[str]) -> Wishes:
    """``--hub=PATH --tag=NAME --gpu-type=TEXT --vram-gb=N --cpus=N --memory-gb=N --priority=N --wait``. Raises ``UsageError``."""
    found: dict[str, Any] = {}
    tags: list[str] = []
    for word in words:
        name, sign, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in _OPTIONS or bool(sign) == (name == "wait"):
            raise UsageError(
                "E-EXECUTOR-ARGS", f"the hub takes no {word[:80]!r}", why=f"known: {' '.join(f'--{each}' for each in _OPTIONS)}",
                fix="overnight run --executor hub --executor-args=--tag=big",
            )  # fmt: skip
        try:
            made = _OPTIONS[name](value or "1")
        except ValueError as exc:
            raise UsageError("E-EXECUTOR-ARGS", f"{word[:80]} is no number", fix=f"--{name}=1") from exc
        if name == "tag":
            tags.append(made)
        else:
            found[name.replace("-", "_")] = made
    return Wishes(tags=tuple(tags), **found)


class HubExecutor:
    """Runs jobs on a hub's workers; ``root`` holds their folders. ``outputs`` are paths of the folder of a job that it must bring back."""

    def __init__(self, root: Path, reach: Reach, wishes: Wishes, outputs: Sequence[str] = (), patience: float = 120.0) -> None:
        self._root = root.absolute()
        self._reach = reach
        self._wishes = wishes
        self._outputs = tuple(outputs)
        self._patience = patience  # seconds for which a run that must not go to some workers waits for another to come
        self._turns: dict[str, threading.RLock] = {}
        self._mirrored: dict[str, int] = {}  # attempts whose streams are in the folders
        self._heard: dict[str, JobStatus] = {}
        self._next: dict[str, float] = {}  # when it is looked again whether the worker that a job waits for is there
        self._missing: dict[str, float] = {}  # since when it is not
        self._finalizer = weakref.finalize(self, reach.close)

    def check(self, spec: JobSpec) -> None:
        """Refuse what no worker could run. Raises ``UsageError`` (E-NO-WORKERS, E-NO-FIT), ``UnreachableError``."""
        if self._wishes.wait:
            return
        asked = self._placed(Submission(("true",), tags=self._wishes.tags), spec)
        gpus, wish = asked.gpu_count, wish_of(asked, self._reach.owner)
        machines = [each.machine for each in self._reach.desk.workers() if _is_there(each, self._reach.owner)]
        start = " ".join(["overnight worker start", *([f"--gpus {gpus}"] if gpus else []), *map(granted_by, asked.tags)])
        if not machines:
            raise UsageError(
                "E-NO-WORKERS",
                "no worker is at work for this hub",
                why="runs would wait for ever; --executor-args=--wait lets them",
                fix=start,
            )
        if fit.unwelcome(wish, machines):
            raise NotAllowedError(
                "E-NOT-ALLOWED", f"no worker runs jobs of '{self._reach.owner}'", why="their owners let the jobs of others alone run there",
                fix=f"overnight worker allow {self._reach.owner}   # on the worker's machine, by its owner",
            )  # fmt: skip
        if has := fit.lacking(wish, machines):
            raise UsageError("E-NO-FIT", "no worker could run it", why=has, fix=f"{start}   # where it fits")

    def submit(self, spec: JobSpec) -> None:
        """Queue the job unless that was done already; from then on it outlives us. Raises ``JobError``."""
        folder = self._root / spec.id
        with self._turn(spec.id):
            try:
                files.write(spec, folder)
                if (folder / jobs.STATUS).exists():
                    return
                if not (folder / ORDER).exists():
                    files.replace(folder, ORDER, coding.written(self._patient(lambda: self._submission(spec, files.token(folder)))))
                with contextlib.suppress(UnreachableError):  # then whoever polls it orders it
                    self._ordered(folder)
            except UsageError as exc:  # it is the job that cannot be: too much code, say
                files.conclude(folder, JobStatus(JobState.FAILED, f"{exc.message}" + (f" ({exc.why})" if exc.why else "")))
            except OSError as exc:
                raise JobError(
                    "E-JOB-START", f"job {spec.id} cannot be started: {exc.strerror or exc}", where=str(folder), fix=f"df -h {self._root}"
                ) from exc
            except JobError:
                raise
            except OvernightError as exc:
                raise JobError(exc.code, f"the hub does not take job {spec.id}: {exc.message}", why=exc.why, fix=exc.fix) from exc

    def poll(self, job: str, wait: float = 0.0) -> JobStatus:
        """What is known of the job; waits up to ``wait`` seconds for its end. An unknown job is LOST. Raises ``StorageError``."""
        until = time.monotonic() + wait
        while True:
            status = self._look(job)
            left = until - time.monotonic()
            if status.state.over or left <= 0:
                return status
            self._reach.wait(min(left, self._reach.look), self._query(job))

    def tail(self, job: str, offset: int) -> tuple[list[MetricPoint], int]:
        """Metric points of the latest attempt since ``offset``, all of them if that was of an earlier one, and the next offset.

        Raises ``StorageError``.
        """
        self._look(job)
        attempt, at = divmod(offset, _SHIFT)
        now = self._mirrored.get(job, 0)
        points, after = files.points(self._root / job, at if attempt == now else 0)
        return points, now * _SHIFT + after

    def cancel(self, job: str, reason: str) -> None:
        """Ask for the end of the job's whole process tree; returns at once, ``poll`` tells when it is dead."""
        folder = self._root / job
        if folder.is_dir() and not (folder / jobs.STATUS).exists():
            files.ask_to_end(folder, reason)
            self._look(job)

    def quarantine(self, worker: str, reason: str) -> None:
        """See ``protocols.Crowd``."""
        self._reach.desk.quarantine(worker, reason)

    def close(self) -> None:
        """Let go of the hub; jobs go on."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- ordering --------------------------------------------------------------------------------------------------------

    def _submission(self, spec: JobSpec, key: str) -> Submission:
        """What is asked of the hub; the code of a job in the root of the file system is none."""
        wishes, packed = self._wishes, Packed("") if spec.cwd == "/" else self._reach.pack(Path(spec.cwd))
        own = {name: value for name, value in spec.env.items() if self._reach.env.get(name) != value and name not in _GIVEN}
        inputs = tuple(link for link in packed.links if not link.startswith(".venv="))
        extras = (*(link for link in packed.links if link not in inputs), *spec.readable)
        argv = (OURS, *spec.argv[len(_OURS) :]) if spec.argv[: len(_OURS)] == _OURS else spec.argv  # our own program lies elsewhere there
        command = argv if len(argv) != 1 else (f"exec {shlex.quote(argv[0])}",)  # one word is a line for the shell
        asked = Submission(
            command, name=spec.id, code=packed.commit, exp_id=spec.env.get("OVERNIGHT_EXPERIMENT_ID", ""), env=own, tags=wishes.tags,
            priority=wishes.priority, inputs=inputs, extras=extras, outputs=(*self._outputs, *spec.outputs), handed=packed.handed, hands_on=spec.hands_on,
            pipeline=spec.env.get("OVERNIGHT_DAG", ""), submission_key=key, metric=spec.metric, grace=spec.grace,
            process_limit=spec.process_limit, disk_limit=spec.disk_limit, log_limit=spec.log_head, wait=True, not_workers=spec.away,
        )  # fmt: skip
        asked = self._placed(asked, spec)
        pinned = _pinned(asked, spec.worker)
        return pinned if spec.worker and self._is_possible(pinned) else asked

    def _placed(self, asked: Submission, spec: JobSpec) -> Submission:
        """The same with what it takes of its worker: as the job says, else as all of them wish."""
        wishes = self._wishes
        return dataclasses.replace(
            asked, gpu_count=len(spec.gpus), gpu_type=spec.gpu_type or wishes.gpu_type, vram_gb=spec.vram_gb or wishes.vram_gb,
            cpus=max(wishes.cpus, math.ceil(spec.cpus)), memory_gb=max(wishes.memory_gb, spec.memory_limit / 1e9), time_limit=spec.time_limit,
        )  # fmt: skip

    def _is_possible(self, asked: Submission) -> bool:
        """Whether a worker that lives could run it."""
        wish = wish_of(asked, self._reach.owner)
        return any(_is_there(each, self._reach.owner) and fit.could_run(wish, each.machine) for each in self._reach.desk.workers())

    def _freed(self, folder: Path, found: HubJob) -> bool:
        """Order a job anew, for any worker, that waits for a class of machine of which none is left; whether that was done.

        One that must not go to some workers is taken back when no other has come for a while.
        """
        asked, now = found.submission, time.monotonic()
        pinned = asked.submission_key.endswith(_PINNED)
        if found.state is JobState.QUEUED and (pinned or asked.not_workers) and now >= self._next.get(folder.name, 0.0):
            self._next[folder.name] = now + min(_AGAIN, max(0.2, self._patience / 4))
            if self._is_possible(asked):
                self._missing.pop(folder.name, None)
            elif pinned:
                found = self._reach.desk.cancel(found.id, _LEFT)
            elif now - self._missing.setdefault(folder.name, now) >= self._patience:
                self._reach.desk.cancel(found.id, NO_SECOND)
        if not (found.state.over and found.cause.endswith(_LEFT)):
            return False
        spec = jobs.spec_from_json((folder / jobs.SPEC).read_bytes())
        ordered = coding.read(Submission, (folder / ORDER).read_bytes(), lenient=True)  # the hub has forgotten the values of variables
        free = dataclasses.replace(
            ordered,
            gpu_type=spec.gpu_type or self._wishes.gpu_type,
            tags=self._wishes.tags,
            submission_key=asked.submission_key.removesuffix(_PINNED),
        )
        files.replace(folder, ORDER, coding.written(free))
        (folder / JOB).unlink()
        return True

    def _ordered(self, folder: Path) -> str:
        """What the hub calls the job, which is queued if it is not yet. Raises ``OvernightError``, ``OSError``."""
        with contextlib.suppress(FileNotFoundError):
            return (folder / JOB).read_text(encoding="ascii")
        asked = coding.read(Submission, (folder / ORDER).read_bytes(), lenient=True)
        job = self._reach.desk.submit(asked).id
        files.replace(folder, JOB, job)
        return job

    def _patient(self, ask: Callable[[], Any]) -> Any:
        """What ``ask`` gives, once the hub answers. Raises ``UnreachableError`` when it does not for minutes."""
        until, pause = time.monotonic() + _DOWN, 0.5
        while True:
            try:
                return ask()
            except UnreachableError:
                if time.monotonic() > until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 10.0)

    def _turn(self, job: str) -> threading.RLock:
        """The lock of a job: one, though two threads ask for it first at the same time."""
        return self._turns.setdefault(job, threading.RLock())

    # --- looking -----------------------------------------------------------------------------------------------------------

    def _look(self, job: str) -> JobStatus:
        """What is known of the job now. Raises ``StorageError`` when our own disk is gone."""
        folder = self._root / job
        with self._turn(job):
            status = files.read(folder)
            if status is not None and status.state.over:
                self._heard.pop(job, None)
                return status
            if not (folder / ORDER).exists():  # also when we were killed before it was asked of anybody
                return JobStatus(JobState.LOST, f"there is no job {job}" if not folder.exists() else "it was never queued")
            try:
                self._heard[job] = self._told(folder)
            except NotFoundError:
                return files.conclude(folder, JobStatus(JobState.LOST, "the hub does not know it any more"))
            except (UnreachableError, StorageError) as exc:  # the hub's disk, or the way there: nothing is taken for dead
                return self._heard.get(job) or JobStatus(JobState.QUEUED, f"the hub does not answer: {exc.message}")
            except OvernightError as exc:  # what was ordered while the hub did not answer and is refused now, or came back damaged
                return files.conclude(folder, JobStatus(JobState.FAILED, exc.message))
            except OSError as exc:
                raise StorageError("E-STORAGE", f"job {job} cannot be followed: {exc.strerror}", where=str(folder), fix="df -h .") from exc
            return self._heard[job]

    def _query(self, job: str) -> Query | None:
        """What the job is to the hub, once it has it."""
        try:
            return Query((self._root / job / JOB).read_text(encoding="ascii"), last=1)
        except OSError:
            return None

    def _told(self, folder: Path) -> JobStatus:
        """What the hub says of the job, with its streams mirrored as far as they are there."""
        desk, name = self._reach.desk, self._ordered(folder)
        found = next((each for each in desk.jobs(Query(name, last=2)) if each.id == name), None)
        if found is None:
            raise NotFoundError("E-NO-JOB", f"there is no job {name}", fix="overnight hub list")
        if not found.state.over and not found.cancelled and (reason := files.request(folder)) is not None:
            found = desk.cancel(name, reason)
        if self._freed(folder, found):
            return JobStatus(JobState.QUEUED, _LEFT)
        end = self._mirror(folder, found)
        if not found.state.over:
            return JobStatus(found.state, found.cause, started=found.started or 0.0)
        status = dataclasses.replace(
            end or JobStatus(found.state, started=found.started or 0.0), state=found.state, cause=found.cause, pid=0, host=found.worker
        )
        if found.state is JobState.SUCCEEDED and found.submission.outputs:
            status = dataclasses.replace(status, cause=self._bring_back(folder, found) or status.cause)
        return files.conclude(folder, status)

    def _mirror(self, folder: Path, found: HubJob) -> JobStatus | None:
        """Copy what its latest attempt has printed since; how that attempt ended, once it has."""
        end: JobStatus | None = None
        for stream, name in _MIRRORED.items():
            with (folder / name).open("ab") as file:
                while True:
                    if self._mirrored.get(folder.name) != found.attempt:
                        for each in _MIRRORED.values():
                            (folder / each).write_bytes(b"")
                        self._mirrored[folder.name] = found.attempt
                    part = (
                        self._reach.desk.part(found.id, stream, found.attempt, os.fstat(file.fileno()).st_size) if found.attempt else None
                    )
                    if part is None or not part.data:
                        end = part.status if part else None
                        break
                    file.write(part.data)
                    file.flush()
        return end

    def _bring_back(self, folder: Path, found: HubJob) -> str:
        """Put what the job has left into its folder here, as it would be had it run here; what is to be said of that, or nothing."""
        try:
            source = self._reach.outputs(found)
        except NotFoundError:
            return ""  # it has left nothing, which whoever looks for it will say
        cwd = Path(jobs.spec_from_json((folder / jobs.SPEC).read_bytes()).cwd)
        return put_back(source, found.outputs, cwd, hands_on=found.submission.hands_on)


def _is_there(found: WorkerState, owner: str) -> bool:
    """Whether a worker takes jobs of this owner."""
    return found.alive and not found.draining and not found.doubted_by(owner)


def _pinned(asked: Submission, kind: str) -> Submission:
    """The same for a worker of this class alone: a model of GPUs, or a processor."""
    key = asked.submission_key + _PINNED
    if asked.gpu_count:
        return dataclasses.replace(asked, gpu_type=kind.partition(" + ")[0], submission_key=key)
    return dataclasses.replace(asked, tags=(*asked.tags, kind), submission_key=key)


_GIVEN = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES", jobs.TOKEN)
