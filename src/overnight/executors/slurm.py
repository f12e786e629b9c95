"""Jobs on a Slurm cluster: each is a batch job that runs our supervisor on its node, in a job folder that nodes and we share.

What a run says is read from its folder, as everywhere; whether it still can say something is asked of Slurm, never of the folder's lock,
for locks need not reach from one machine to another. A job folder is run once: one that Slurm puts back into its queue after it had
begun (preempted, or ``scontrol requeue``) is LOST and ``taken``, and whoever wants it submits it anew, from clean files. Submits that come
within a moment and want the same go as one array. A submit that was cut off is found again by its comment; should the same folder
come to two nodes all the same, the second leaves it (``overnight.node``). Must not know how the command is run.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from overnight import jobs
from overnight.errors import JobError, UsageError
from overnight.executors import folder as files
from overnight.executors import slurm_commands as slurm
from overnight.executors.gather import Gather
from overnight.executors.slurm_batch import ORDER, WARNING, Order, script, wishes
from overnight.executors.slurm_commands import Queue, Refused, Seen
from overnight.models import JobSpec, JobState, JobStatus, MetricPoint

_DESK = ".slurm"  # beside the job folders: a file for each batch, which sbatch holds while it works and its script prints into
_TOGETHER = 0.05  # seconds for which submits are gathered
_FIRST, _OFTEN = 0.01, 0.2  # seconds between two looks into a folder: at first, and later
_LATE = 60.0  # seconds in which a last word may still come through a shared file system, and in which a request to end is obeyed
_SOON = 2.0  # the same after an end that left no time for words
_DOWN = 600.0  # seconds for which a controller that does not answer is asked again to take a job
_MOST = 500  # tasks of an array; Slurm takes a thousand unless told otherwise
_HOPELESS = {
    "PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints", "AccountNotAllowed", "QOSNotAllowed", "InvalidAccount", "InvalidQOS",
    "JobHoldMaxRequeue",
}  # fmt: skip
_UNSAID = (  # ends of whose origin the node knows too little: Slurm's SIGTERM goes to the whole tree, and may reach the command first
    "cancelled: SIGTERM", "killed by SIGTERM", "exit code 143", "its supervisor died without a word",
)  # fmt: skip


class SlurmExecutor:
    """Runs jobs on a cluster; ``root`` holds their folders, on a file system that every node sees under the same path.

    ``options`` are words for ``sbatch``: they come after ours for time, memory and GPUs, and win over them.
    """

    def __init__(self, root: Path, options: Sequence[str] = ()) -> None:
        self._root = root.absolute()
        self._options = tuple(options)
        self._queue = Queue()
        self._orders = Gather(_TOGETHER, self._send, lambda: len(self._starting))
        self._turn = threading.Lock()
        self._starting: dict[str, threading.Event] = {}
        self._since: dict[str, float] = {}  # comment -> when we asked: an older look at the queue cannot hold it
        self._ended: dict[str, float] = {}  # job -> when Slurm was first seen to be done with it
        self._killed: set[str] = set()

    def check(self, spec: JobSpec) -> None:
        """Refuse at once what Slurm would never start: partition, account, time limit. Raises ``UsageError``, ``UnreachableError``."""
        if spec.vram_gb:
            raise UsageError(
                "E-NO-FIT", "Slurm chooses no GPUs by their memory (vram_gb)", why="it knows their types", fix="scontrol show node | grep Gres   # name one as gpu_type"
            )  # fmt: skip
        try:
            slurm.run(("sbatch", "--test-only", *wishes(spec), *self._options), "#!/bin/sh\n")
        except Refused as exc:
            raise slurm.error(exc) from exc

    def submit(self, spec: JobSpec) -> None:
        """Hand the job to Slurm unless that was done already; from then on it outlives us. Raises ``JobError``.

        A controller that does not answer is asked again for ten minutes.
        """
        folder = self._root / spec.id
        with self._turn:
            other = self._starting.get(spec.id)
            if other is None:
                self._starting[spec.id] = threading.Event()
        if other is not None:
            other.wait()
            return
        try:
            files.write(spec, folder)
            if not (folder / jobs.STATUS).exists() and not self._is_ordered(folder):
                self._orders.add((wishes(spec), folder))
        except OSError as exc:
            raise JobError(
                "E-JOB-START", f"job {spec.id} cannot be started: {exc.strerror or exc}", where=str(folder), fix=f"df -h {self._root}"
            ) from exc
        except Refused as exc:
            raise slurm.error(exc, job=spec.id) from exc
        except UsageError as exc:
            raise JobError(exc.code, exc.message, why=exc.why, fix=exc.fix) from exc
        finally:
            with self._turn:
                self._starting.pop(spec.id).set()

    def poll(self, job: str, wait: float = 0.0) -> JobStatus:
        """What is known of the job; waits up to ``wait`` seconds for its end. An unknown job is LOST. Raises ``StorageError``."""
        until, pause = time.monotonic() + wait, _FIRST
        while True:
            status = self._look(self._root / job)
            left = until - time.monotonic()
            if status.state.over:
                self._ended.pop(job, None)
            if status.state.over or left <= 0:
                return status
            time.sleep(min(left, pause))
            pause = min(1.5 * pause, _OFTEN)

    def tail(self, job: str, offset: int) -> tuple[list[MetricPoint], int]:
        """Metric points streamed since ``offset`` (0 = from the start) and the next offset. Raises ``StorageError``."""
        return files.points(self._root / job, offset)

    def cancel(self, job: str, reason: str) -> None:
        """Ask for the end of the job's whole process tree; returns at once, ``poll`` tells when it is dead."""
        folder = self._root / job
        if not folder.exists():
            return
        files.ask_to_end(folder, reason)
        order = Order.read(folder)
        status = files.read(folder)
        if order is not None and order.job and not (status is not None and status.state.over):
            threading.Thread(target=_end, args=(order.job,), name="scancel", daemon=True).start()

    def close(self) -> None:
        """Nothing is held: jobs go on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ to Slurm

    def _is_ordered(self, folder: Path) -> bool:
        """Whether Slurm has this job already: an earlier submit may have been cut off before it knew the number."""
        order = Order.read(folder)
        if order is None:
            return False
        if order.job:
            return True
        lock = self._desk(order.comment)
        until = time.monotonic() + _LATE
        while files.is_held(lock) and time.monotonic() < until:
            time.sleep(_OFTEN)
        if found := slurm.find(order.comment):
            order.known(found).write(folder)
        return bool(found)

    def _desk(self, comment: str) -> Path:
        return self._root / _DESK / comment

    def _send(self, wishes: tuple[str, ...], folders: Sequence[Path]) -> None:
        """Submit folders that want the same, as one array if there are several. Raises ``Refused``, ``UsageError``, ``OSError``."""
        for start in range(0, len(folders), _MOST):
            part = folders[start : start + _MOST]
            try:
                self._submit(wishes, part)
            except Refused as exc:
                if len(part) == 1 or "array" not in exc.words.lower():
                    raise
                for one in part:  # a cluster that takes no arrays, or none as large
                    self._submit(wishes, [one])

    def _submit(self, wishes: tuple[str, ...], folders: Sequence[Path]) -> None:
        comment = f"overnight-{secrets.token_hex(8)}"
        orders = [Order(comment, str(index) if len(folders) > 1 else "", "") for index in range(len(folders))]
        lock = self._desk(comment)
        lock.parent.mkdir(exist_ok=True, mode=0o700)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            for folder, order in zip(folders, orders, strict=True):
                order.write(folder)
            number = self._ask(comment, self._words(wishes, comment, folders), script(folders), fd)
        except (Refused, UsageError, OSError):
            for folder in folders:
                files.ask_to_end(folder, "it could not be handed to Slurm")  # which may have it all the same
                (folder / ORDER).unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        for folder, order in zip(folders, orders, strict=True):
            order.known(number).write(folder)

    def _words(self, wishes: tuple[str, ...], comment: str, folders: Sequence[Path]) -> list[str]:
        more = len(folders) - 1
        return [
            "sbatch", "--nodes=1", "--ntasks=1", "--requeue", f"--signal=B:TERM@{WARNING}", *wishes, *self._options,
            "--parsable", "--export=ALL", "--open-mode=append", f"--output={self._desk(comment)}", f"--error={self._desk(comment)}", "--chdir=/",
            f"--comment={comment}", f"--job-name={folders[0].name}{f'+{more}' if more else ''}", *([f"--array=0-{more}"] if more else []),
        ]  # fmt: skip

    def _ask(self, comment: str, words: Sequence[str], script: str, held: int) -> str:
        """The number that Slurm gives the job. A controller that is away may have taken it all the same: that is looked up first."""
        until = time.monotonic() + _DOWN
        pause = 1.0
        while True:
            self._since[comment] = time.monotonic()
            try:
                return slurm.run(words, script, (held,)).strip().splitlines()[-1].partition(";")[0]
            except Refused as exc:
                if not exc.busy or time.monotonic() > until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 15.0)
            with contextlib.suppress(Refused):
                if found := slurm.find(comment):
                    return found

    # ------------------------------------------------------------------ what is known

    def _look(self, folder: Path) -> JobStatus:
        status = files.read(folder)
        if status is not None and status.state.over:
            if not _is_doubted(status):
                return files.placed(folder, status)
            if (wish := files.request(folder)) is not None:  # SIGTERM was ours, and was there before the request could be seen
                found = replace(status, state=JobState.CANCELLED, cause=f"cancelled: {wish or 'SIGTERM'}")
                return files.conclude(folder, files.placed(folder, found))
        if folder.name in self._starting:
            return status or JobStatus(JobState.QUEUED)
        order = Order.read(folder)
        if order is None:
            return JobStatus(JobState.LOST, "it was never started" if folder.exists() else f"there is no job {folder.name}")
        if not order.job and files.is_held(self._desk(order.comment)):
            return JobStatus(JobState.QUEUED, "sbatch is at work")
        seen = self._queue.look(order.comment, order.index, order.job, self._since.setdefault(order.comment, time.monotonic()))
        if seen is not None and seen.job and not order.job:
            replace(order, job=seen.job).write(folder)
        found = self._judged(folder, _again(status), seen)
        return files.conclude(folder, files.placed(folder, found)) if found.state.over else found

    def _judged(self, folder: Path, status: JobStatus | None, seen: Seen | None) -> JobStatus:
        """What becomes of a job whose folder does not tell its end."""
        if seen is None:
            return status or JobStatus(JobState.QUEUED, f"Slurm does not answer: {self._queue.trouble}")
        if seen.over:
            return self._past(folder, seen)
        wish = files.request(folder)
        if seen.restarts > _start_of(folder) and seen.state != "COMPLETING" and self._kill(seen.job):
            return _lost(status, "Slurm put it back into its queue after it had begun", taken=True)
        if seen.state == "PENDING" and wish is not None:
            self._kill(seen.job)
        elif seen.state == "PENDING" and (seen.reason in _HOPELESS or seen.reason.startswith("launch failed")) and self._kill(seen.job):
            state = JobState.FAILED if seen.reason in _HOPELESS else JobState.LOST  # the latter may do on another node
            return JobStatus(state, f"Slurm will never start it: {seen.reason}")
        elif wish is not None and _age(folder / jobs.CANCEL) > _LATE:
            self._kill(seen.job)
        waits = f"waits in Slurm's queue: {seen.reason or 'Priority'}" if seen.state == "PENDING" else f"Slurm: {seen.state.lower()}"
        return status or JobStatus(JobState.QUEUED, waits)

    def _past(self, folder: Path, seen: Seen) -> JobStatus:
        """The end of a job that Slurm is done with; for a while its own last word is still waited for."""
        with contextlib.suppress(OSError):
            os.listdir(folder)  # a shared file system looks anew at a folder that is opened
        told = files.read(folder)
        if told is not None and told.state.over and not _is_doubted(told):
            return told
        patience = _LATE if seen.state == "COMPLETED" and not (told and told.state.over) else _SOON
        if time.monotonic() < self._ended.setdefault(folder.name, time.monotonic()) + patience:
            return _again(told) or JobStatus(JobState.QUEUED, f"Slurm: {seen.state.lower()}")
        return _end_of(told, seen, _start_of(folder), files.request(folder)) if told else self._unbegun(folder, seen)

    def _unbegun(self, folder: Path, seen: Seen) -> JobStatus:
        wish = files.request(folder)
        if wish is not None or seen.state == "CANCELLED":
            return JobStatus(JobState.CANCELLED, f"cancelled: {wish or 'scancel'}")
        cause = f"Slurm job {seen.job} ended before the run began ({seen.state.lower()}){self._printed(folder)}"
        return _lost(None, cause, taken=seen.state == "PREEMPTED")

    def _printed(self, folder: Path) -> str:
        """The end of what the batch script printed: why no supervisor came to life."""
        order = Order.read(folder)
        with contextlib.suppress(OSError):
            lines = self._desk(order.comment if order else "").read_text(encoding="utf-8", errors="replace").splitlines()
            return f": {' / '.join(lines[-2:])[:300]}" if lines else ""
        return ""

    def _kill(self, job: str) -> bool:
        """Have Slurm end the job, once; whether it was told: one that is too busy to listen has to be told again."""
        if job not in self._killed:
            with contextlib.suppress(UsageError):
                try:
                    slurm.run(("scancel", job))
                except Refused as exc:
                    if exc.busy:
                        return False
            self._killed.add(job)
        return True


def _end(job: str) -> None:
    """Wake the supervisor of a job that runs, by SIGTERM; one that waits needs no grace."""
    for words in (("scancel", "--state=PENDING", job), ("scancel", "--batch", "--signal=TERM", job)):
        with contextlib.suppress(Refused, UsageError):
            slurm.run(words)


def _end_of(told: JobStatus, seen: Seen, start: float, wish: str | None) -> JobStatus:
    """The end of a run that had begun and has not told it, or whose end is in doubt."""
    if wish is not None:
        return replace(told, state=JobState.CANCELLED, cause=f"cancelled: {wish or 'SIGTERM'}")
    if seen.state == "PREEMPTED" or seen.restarts > start:
        return _lost(told, "preempted by Slurm", taken=True)
    if seen.state in ("TIMEOUT", "DEADLINE"):
        return replace(told, state=JobState.TIMED_OUT, cause="time limit of Slurm's own (--time)")
    if seen.state == "OUT_OF_MEMORY":
        return replace(told, state=JobState.FAILED, cause="memory limit of Slurm's own (--mem)")
    if seen.state == "CANCELLED":
        return replace(told, state=JobState.CANCELLED, cause="cancelled: scancel")
    if told.state is JobState.FAILED:
        return told
    if told.state is JobState.CANCELLED:
        return replace(told, cause=f"ended by SIGTERM from outside (Slurm: {seen.state.lower()})")
    word = "its node failed" if seen.state in ("NODE_FAIL", "BOOT_FAIL") else "its supervisor died without a word"
    return _lost(told, f"{word} (Slurm: {seen.state.lower()})")


def _lost(status: JobStatus | None, cause: str, *, taken: bool = False) -> JobStatus:
    return replace(status or JobStatus(JobState.LOST), state=JobState.LOST, taken=taken, cause=cause)


def _again(status: JobStatus | None) -> JobStatus | None:
    """A status whose end is in doubt, as if it had not come yet."""
    return replace(status, state=JobState.RUNNING, cause="") if status is not None and status.state.over else status


def _is_doubted(status: JobStatus) -> bool:
    """Whether the job may have been ended by Slurm, which then knows why. What was judged bears the class of its machine."""
    return status.state.over and status.cause.startswith(_UNSAID) and not status.worker


def _start_of(folder: Path) -> float:
    """Which start of its batch job the run belongs to, 0 for the first; no other counts as long as it has not begun."""
    try:
        return int(json.loads((folder / jobs.NODE).read_bytes())["start"])
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
