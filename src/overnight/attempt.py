"""The life of one attempt on a worker: its folder is laid out, its command started, what it prints told on, and its end told until it is heard.

Every step can be taken again: a worker that was killed goes through the same steps and finds what is done already. All that is to be told
lies in files first (job folder, spool), so that nothing is lost while the hub cannot be reached. Must not know where jobs run, how the hub
is reached, or who else works here.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from overnight import jobs
from overnight.errors import NotAllowedError, OvernightError, StorageError, UnreachableError
from overnight.folders import remove
from overnight.models import JobSpec, JobState, JobStatus
from overnight.protocols import Executor, Hub
from overnight.queue import coding
from overnight.queue.words import CHUNK, OURS, Chunk, Ended, Held, HubJob, OnLost, Output, Started, Stream

_FIRST, _SOON, _LATE = 0.001, 0.002, 0.05  # seconds between two looks at what a job prints: at first, while it prints, and at most
_GROWTH = 1.25  # of the time between them, while nothing comes
_PAUSES = (0.2, 30.0)  # seconds before the hub is told again: at first, and at most
_FILES = {Stream.LOG: jobs.LOG, Stream.METRICS: jobs.METRICS}


@dataclass(frozen=True, slots=True)
class Hands:
    """What attempts are lived with."""

    hub: Hub
    executor: Executor
    lay_out: Callable[[HubJob, Path], None]  # code and inputs of a job into a new folder; raises ``OvernightError``
    bring_back: Callable[[HubJob, Path], tuple[Output, ...]]  # what a job has left; raises ``OvernightError``
    wrap: Callable[[HubJob, JobSpec], JobSpec]
    env: Mapping[str, str]
    readable: Callable[[HubJob], tuple[str, ...]] = lambda _job: ()  # paths of this machine that are inputs, there, and open to the job
    fetch: Callable[[HubJob, Callable[[], bool]], None] = lambda _job, _stopped: (
        None
    )  # brings inputs here, until it is told to stop; as ``lay_out``
    kind: Callable[[tuple[str, ...]], str] = lambda _gpus: ""  # class of machine of a job on these GPUs
    confined: str = ""  # what ``wrap`` puts around jobs


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker keeps what it has: job folders, folders that commands run in, and what is not told yet."""

    jobs: Path
    runs: Path
    spool: Path
    lease: Path  # until when the jobs may run


class FencedError(Exception):
    """The attempt is not ours any more."""


class Attempt:
    """One attempt of ``job`` on ``worker``. ``live`` is called in a thread of its own; the rest from any."""

    def __init__(self, worker: str, job: HubJob, hands: Hands, place: Place, told: Mapping[Stream, int] | None = None) -> None:
        self.job = job
        self.held = Held(job.id, job.attempt)
        self.name = f"{job.id}.{job.attempt}"
        self.trouble: OvernightError | None = None  # of this machine, which other jobs would meet as well
        self.fate = "let go"  # in words, once ``live`` has returned
        self._worker = worker
        self._hands = hands
        self._place = place
        self._told = dict.fromkeys(Stream, 0) | dict(told or {})
        self._wanted = ""  # why the command is to end
        self._fenced = False
        self._starting = threading.RLock()  # a signal handler may come in between
        self._abandoned = False
        self._is_over = False  # its end was heard: there is nothing left to be ended
        self._files: dict[Stream, int] = {}

    def note(self) -> None:
        """Write down that we have this attempt, before anything is done about it. Raises ``StorageError``."""
        _write(self._place.spool / f"{self.name}.grant", coding.written(self.job).encode(), synced=False)

    def stop(self, reason: str, *, fenced: bool = False) -> None:
        """Have the command ended. ``fenced``: it is not ours any more, and nothing more is told of it.

        Once its end was heard, that is nothing: the hub counts it as lost from then on, and its folders are being removed.
        """
        with self._starting:  # either it is not started any more, or there is something to end
            if self._is_over:
                return
            self._fenced, self._wanted = self._fenced or fenced, self._wanted or reason
            self._hands.executor.cancel(self.name, reason)

    def abandon(self) -> None:
        """Leave the attempt as it is, for the next worker of this name to go on with."""
        self._abandoned = True

    def live(self) -> None:
        """Go through all steps. Raises nothing that has to do with the job."""
        try:
            end = self._known_end() or self._ended()
            if end is not None:
                self._deliver(end)
                self.fate = f"Status: {end.status.state}" + (f" ({end.status.cause})" if end.status.cause else "")
        except FencedError:
            self.fate = "let go: its lease was lost"
            self.stop("its lease was lost", fenced=True)
            while not self._hands.executor.poll(self.name, 1.0).state.over:
                pass
        finally:
            for fd in self._files.values():
                os.close(fd)
            self._files.clear()
        if not self._abandoned:
            self._forget()

    # --- the steps -----------------------------------------------------------------------------------------------------

    def _known_end(self) -> Ended | None:
        """The end that an earlier worker of this name has written down."""
        try:
            return coding.read(Ended, (self._place.spool / f"{self.name}.json").read_bytes(), lenient=True)
        except (OSError, ValueError):
            return None

    def _ended(self) -> Ended | None:
        """Run the command to its end; None if that is left to another."""
        if self._fenced:
            raise FencedError
        try:
            if not (self._place.jobs / self.name).exists():
                if not self._start():
                    return self._concluded(JobStatus(JobState.CANCELLED, f"cancelled: {self._wanted}"))
            else:  # harmless if it was started; needed if we were killed just before
                self._hands.executor.submit(self._spec())
            status = self._follow()
        except OvernightError as exc:
            # What is wrong with this machine is not the job's fault: it is given back, and may be run elsewhere.
            # So is a job of somebody whose jobs may not run here: the hub was told who may, but a list may have changed since.
            self.trouble = exc if isinstance(exc, StorageError | UnreachableError) else None
            state = JobState.CANCELLED if self.trouble or isinstance(exc, NotAllowedError) else JobState.FAILED
            status = JobStatus(state, f"{self._worker}: {exc.message}" + (f" ({exc.why})" if exc.why else ""))
        if status is None:
            return None
        if status.state.over and self._fenced:
            raise FencedError
        return self._concluded(status)

    def _start(self) -> bool:
        """Lay the folder out and have the command started; whether it was, for its end may be wanted meanwhile. Raises ``FencedError``."""
        folder = self._place.runs / self.name
        if not self._wanted:
            self._hands.fetch(self.job, lambda: bool(self._wanted))
        if not self._wanted:
            remove(folder)
            self._hands.lay_out(self.job, folder)
        with self._starting:
            if self._fenced:
                raise FencedError
            if not self._wanted:
                self._hands.executor.submit(self._hands.wrap(self.job, self._spec()))
            return not self._wanted

    def _spec(self) -> JobSpec:
        asked, folder = self.job.submission, self._place.runs / self.name
        argv = asked.command if len(asked.command) > 1 else ("/bin/sh", "-c", asked.command[0])
        if argv[0] == OURS:
            argv = (sys.executable, "-P", "-m", *argv)
        own = {"OVERNIGHT_JOB_ID": self.job.id, "OVERNIGHT_ATTEMPT": str(self.job.attempt), "OVERNIGHT_EXPERIMENT_ID": asked.exp_id}
        cards = {"CUDA_VISIBLE_DEVICES": ",".join(self.job.gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        if self.job.gpus:
            cards["HIP_VISIBLE_DEVICES"] = cards["CUDA_VISIBLE_DEVICES"]
        inside = os.path.normpath(folder / asked.folder)
        return JobSpec(
            id=self.name, argv=argv, cwd=inside, env={**self._hands.env, **asked.env, **own, **cards},
            writable=(str(folder),) if inside != str(folder) else (),
            readable=self._hands.readable(self.job),
            time_limit=asked.time_limit, grace=asked.grace, memory_limit=int(asked.memory_gb * 1e9), process_limit=asked.process_limit,
            disk_limit=asked.disk_limit, log_head=asked.log_limit, gpus=self.job.gpus, metric=asked.metric,
            lease=str(self._place.lease) if asked.on_lost is OnLost.STOP else "",
        )  # fmt: skip

    def _follow(self) -> JobStatus | None:
        """Tell what the command prints, until it is over; None if that is left to another."""
        gap, said = _FIRST, False
        while not self._abandoned:
            status = self._hands.executor.poll(self.name, gap)
            if self._fenced and status.state.over:
                raise FencedError
            passed = self._pass_on()
            gap = _SOON if passed else min(_LATE, _GROWTH * gap)
            said = said or passed  # who prints has started, and so has who has ended
            if not said and status.state is JobState.RUNNING:
                said = self._tell(Started())
            if status.state.over:
                return status
        return None

    def _concluded(self, status: JobStatus) -> Ended:
        """Bring back what the job has left, and write its end down, so that it is told whatever happens to us."""
        outputs: tuple[Output, ...] = ()
        try:
            if self.job.submission.outputs:
                outputs = self._hands.bring_back(self.job, self._place.runs / self.name)
        except OvernightError as exc:
            state = JobState.FAILED if status.state is JobState.SUCCEEDED else status.state
            status = replace(status, state=state, cause="; ".join(filter(None, (status.cause, f"its outputs are lost: {exc.message}"))))
        end = Ended(
            replace(
                status, pid=0, worker=status.worker or self._hands.kind(self.job.gpus), confined=status.confined or self._hands.confined
            ),
            outputs,
        )
        with contextlib.suppress(StorageError):  # the job folder says the same; only what was brought back is looked at again
            _write(self._place.spool / f"{self.name}.json", coding.written(end).encode(), synced=True)
        return end

    def _deliver(self, end: Ended) -> None:
        """Tell the rest and the end, until that was heard."""
        pause = _PAUSES[0]
        while not self._abandoned:
            while self._pass_on():
                pass
            if not any(self._next(stream) for stream in Stream) and self._tell(end):
                return
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _PAUSES[1])

    def _forget(self) -> None:
        """Remove what is told; the grant first, so that nobody takes up what is left of it."""
        with self._starting:
            self._is_over = True
        with contextlib.suppress(OSError):
            os.unlink(self._place.spool / f"{self.name}.grant")
        with contextlib.suppress(OSError):
            os.unlink(self._place.spool / f"{self.name}.json")
        remove(self._place.runs / self.name)
        remove(self._place.jobs / self.name)

    # --- telling ---------------------------------------------------------------------------------------------------------

    def _tell(self, what: Started | Chunk | Ended) -> bool:
        """Whether it was heard. Raises ``FencedError``."""
        try:
            heard = self._hands.hub.report(self._worker, self.held, what)
        except (UnreachableError, StorageError):
            return False
        if not heard:
            raise FencedError
        return True

    def _pass_on(self) -> bool:
        """Tell one piece of each stream, if there is one; whether there was."""
        passed = False
        for stream in Stream:
            data = self._next(stream)
            if data and self._tell(Chunk(stream, self._told[stream], data)):
                self._told[stream] += len(data)
                passed = True
        return passed

    def _next(self, stream: Stream) -> bytes:
        if (fd := self._opened(stream)) < 0:
            return b""
        data = os.pread(fd, CHUNK, self._told[stream])
        # A line of metrics may be half written; what is half a line of the log is told all the same.
        return data if stream is Stream.LOG else data[: data.rfind(b"\n") + 1]

    def _opened(self, stream: Stream) -> int:
        if stream not in self._files:
            try:
                self._files[stream] = os.open(self._place.jobs / self.name / _FILES[stream], os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return -1
        return self._files[stream]


def _write(place: Path, data: bytes, *, synced: bool) -> None:
    """Replace a file in one step. Raises ``StorageError``."""
    draft = place.with_name(f".{place.name}.tmp")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if synced:
                os.fsync(file.fileno())
        os.rename(draft, place)
        if synced:
            folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as exc:
        raise StorageError("E-SPOOL", f"{place} cannot be written: {exc.strerror}", fix=f"df -h {place.parent}") from exc
