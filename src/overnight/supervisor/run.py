"""The life of one job: its command is started, watched, ended with all its descendants, and what became of it is written down.

The end of a job is the death of its whole process tree: neither the end of its output nor the exit of the command itself. One
thread waits for output, children and the next moment on which something is due; only GPU memory and disk use are looked at beside.
Must not know who asked for the job.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from overnight.metrics import Scanner
from overnight.models import JobSpec, JobState, JobStatus, MetricSummary
from overnight.redact import Redactor
from overnight.supervisor import cgroup, command, disk, gpu, orphans, tree
from overnight.supervisor import folder as job_folder
from overnight.supervisor.ears import ears
from overnight.supervisor.output import Log, Output, Points
from overnight.supervisor.parked import Parked

_MIB = 2**20
_FIRST, _TICK = 0.02, 0.25  # seconds between two looks at the tree: at first, and later
_SHARE = 50  # at most one part in so many of the time goes into looking
_SETTLE = 0.1  # seconds in which what the command left behind may end by itself
_LEFT_GRACE = 0.5  # seconds that it then has after SIGTERM, at most
_AGAIN = 0.05  # seconds between two rounds of killing
_STUCK = 60.0  # seconds after which what cannot be killed is given up
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Job:
    """A job folder whose lock we hold, as it was found."""

    folder: str
    lock: int  # a descriptor
    past: JobStatus | None  # what is said of it already; None if it was never started
    spec: JobSpec | None
    trouble: str  # why there is no spec
    scanner: Scanner


def find(folder: str, lock: int) -> Job:
    """Read the job of a folder. Never raises for what the folder holds: a damaged one becomes a job that is LOST."""
    try:
        past = job_folder.status(folder)
    except ValueError:
        past = JobStatus(JobState.RUNNING)
    try:
        spec = job_folder.spec(folder)
    except (OSError, ValueError) as exc:
        return Job(folder, lock, past, None, f"spec.json cannot be read: {exc}", Scanner())
    return Job(folder, lock, past, spec, "", Scanner(spec.metric))


def supervise(job: Job, parked: Parked | None = None) -> bool:
    """Run the job, unless it was started before; returns when its last process is dead and its last status written.

    It is run in ``parked`` walls if they suit it. A job that says RUNNING although nobody held its lock has lost its supervisor: it is not run again, its leftovers are ended and
    it becomes LOST. Tells whether this process is as it was, and can supervise another job.
    """
    if job.past is not None:
        if not job.past.state.over:
            job_folder.conclude(job.folder, orphans.bury(job.folder, job.lock, job.past, job.spec), patience=0)
        return False
    if job.spec is None:
        job_folder.conclude(job.folder, JobStatus(JobState.LOST, job.trouble, pid=os.getpid()))
        return False
    if parked is not None and not parked.suits(job.spec):
        parked.end()
        parked = None
    run = _Run(job, job.spec, parked)
    try:
        status = run.live()
        status = dataclasses.replace(status, cause=run.secrets.text(status.cause))
    except Exception as exc:  # noqa: BLE001 - the edge of the process: the job must get its end whatever happens
        with contextlib.suppress(OSError), open(f"{job.folder}/supervisor.log", "w", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        run.kill_all()
        status = JobStatus(JobState.FAILED, f"the supervisor failed: {exc!r}", pid=os.getpid())
    job_folder.conclude(job.folder, status, synced=job.spec.durable)
    ears().close()  # not before: a second SIGTERM, as clusters send it, must not keep the last status from being written
    return run.is_spotless()


class _Run:
    """One job from its spec to its last status."""

    def __init__(self, job: Job, spec: JobSpec, parked: Parked | None) -> None:
        self._job = job
        self._spec = spec
        self._parked = parked
        self._tree = tree.Tree()
        self._started = time.time()
        self._began = time.monotonic()
        self._main = 0  # process id of the command
        self._code: int | None = None  # of the command, as wait tells it
        self._verdict: tuple[JobState, str] | None = None  # why we ended it
        self._survivors = 0
        self._peak = 0  # bytes of memory, by what the kernel and we have seen
        self._stuck = 0  # processes that could not be killed
        self._pids: set[int] = set()  # at the last look
        self._step: Callable[[float], None] = self._end_leftovers  # what is done at step_at
        self._step_at = _NEVER
        self._gpu = gpu.Meter(spec.gpus, lambda: self._pids)
        self._disk = disk.Usage(spec.cwd)
        self._group: cgroup.Group | None = None
        self.secrets = Redactor(spec.env)
        self._ears = ears()
        self._before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._failed = False

    def is_spotless(self) -> bool:
        """Whether nothing of this job is left in this process: no thread, no child, no doubt."""
        return not (self._spec.gpus or self._spec.disk_limit or self._stuck or self._failed)

    def live(self) -> JobStatus:
        """Run the command to its end."""
        self._ears.open()
        tree.adopt_orphans()
        job_folder.announce(self._job.folder, JobStatus(JobState.RUNNING, pid=os.getpid(), started=self._started))
        fd, into = self._parked.take_pipe() if self._parked else command.pipe()
        self._began = time.monotonic()
        failed = None if self._is_cancelled() else self._start(into)
        job_folder.forget_environment(self._job.folder, self._spec)
        os.close(into)
        if self._parked:
            self._parked.end()  # where it was not needed
        job_folder.reserve(self._job.folder)
        log = Log(self._job.folder, self._spec.log_head, self._spec.log_tail)
        points = Points(self._job.folder, self._spec.metric)
        output = Output(fd, self._ears.wake, self._job.scanner, (log, points), self.secrets)
        if self._main:
            self._watch(output)
        seconds = time.monotonic() - self._began
        output.close()
        return self._status(output, seconds, failed)

    def _start(self, into: int) -> command.NotStarted | None:
        if self._spec.gpus:
            self._gpu.start()
        if self._spec.disk_limit:
            self._disk.start()
        orphans.begin(self._job.lock, self._parked.born if self._parked else 0)
        room = self._spec.process_limit and self._spec.process_limit + self._spec.keepers
        self._group = cgroup.make(self._job.folder, self._spec.memory_limit, room)
        with self._group.inside() if self._group else contextlib.nullcontext():
            found = self._filled() or command.start(self._spec, into)
        if isinstance(found, command.NotStarted):
            return found
        self._main = found
        return None

    def _filled(self) -> int:
        """The command in walls that stood already; 0 if there are none."""
        try:
            return self._parked.fill(self._spec) if self._parked else 0
        except OSError:  # it was killed just now
            return 0

    def _status(self, output: Output, seconds: float, failed: command.NotStarted | None) -> JobStatus:
        state, cause = self._outcome() if failed is None else (JobState.FAILED, failed.cause)
        notes = [cause, output.log.trouble, output.points.trouble]
        if self._stuck:
            notes.append(f"{self._stuck} of its processes cannot be killed")
        code = self._code if self._code is not None else failed.exit_code << 8 if failed else None
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = usage.ru_utime + usage.ru_stime - self._before.ru_utime - self._before.ru_stime
        if self._group:
            cpu = max(cpu, self._group.cpu_seconds())  # also of those whom nobody waited for
            self._group.close()
        return JobStatus(
            state=state, cause="; ".join(filter(None, notes)), pid=os.getpid(), started=self._started, seconds=seconds,
            exit_code=os.WEXITSTATUS(code) if code is not None and os.WIFEXITED(code) else None,
            signal=os.WTERMSIG(code) if code is not None and os.WIFSIGNALED(code) else None,
            cpu_seconds=cpu, peak_rss_mb=self._peak / _MIB, peak_vram_mb=self._gpu.peak / _MIB,
            log_bytes=output.log.total, survivors=self._survivors, end=output.log.end,
            metrics={name: MetricSummary(*found) for name, found in output.scanner.summary.items()},
        )  # fmt: skip

    def _outcome(self) -> tuple[JobState, str]:
        if self._verdict is not None:
            return self._verdict
        if self._ears.asked:  # SIGTERM went to the whole tree at once, as clusters send it, and the command was quicker than we
            return JobState.CANCELLED, _wish(job_folder.request_to_end(self._job.folder))
        code = self._code or 0
        if code and (hit := self._hit()):
            return JobState.FAILED, hit
        if os.WIFSIGNALED(code):
            return JobState.FAILED, f"killed by {_name(os.WTERMSIG(code))}"
        code = os.WEXITSTATUS(code)
        if code == 0:
            return JobState.SUCCEEDED, ""
        # Above 128 a shell tells of a child that a signal ended.
        return JobState.FAILED, f"exit code {code}" + (f" ({_name(code - 128)})" if 128 < code <= 192 else "")

    # ------------------------------------------------------------------ watch

    def _watch(self, output: Output) -> None:
        limit_at = self._began + self._spec.time_limit if self._spec.time_limit else _NEVER
        gap = _FIRST
        tick_at = self._began + gap
        while self._reap() and not self._stuck:
            output.wait(min(tick_at, limit_at if self._is_free() else _NEVER, self._step_at))
            now = time.monotonic()
            if now >= self._step_at:
                self._step(now)
            if self._is_free() and now >= limit_at:
                self._end(JobState.TIMED_OUT, f"time limit of {self._spec.time_limit:g} s", self._spec.grace)
            elif self._is_free() and self._ears.asked:
                self._is_cancelled()
            if now >= tick_at:
                self._look()
                gap = max(min(2 * gap, _TICK), _SHARE * (time.monotonic() - now))
                tick_at = now + gap

    def _is_free(self) -> bool:
        """Whether the command runs and nobody has asked it to end."""
        return self._code is None and self._verdict is None

    def _reap(self) -> bool:
        """Wait for the dead; whether there is somebody left."""
        while True:
            try:
                pid, code, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._peak = max(self._peak, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
            if pid == self._main:
                self._code = code
                if not tree.COMPLETE:
                    tree.kill_group(pid)
                if self._verdict is None:
                    self._step_at = time.monotonic() + _SETTLE

    def _look(self) -> None:
        """Sum up the tree and compare with the limits."""
        found = self._tree.look()
        if (pids := {process.pid for process in found}) != self._pids:
            self._pids = pids
            orphans.remember(self._job.lock, found)
        held = sum(process.rss for process in found)
        self._peak = max(self._peak, held)
        if not self._is_free() or self._is_cancelled():
            return
        spec = self._spec
        # Pages shared between workers are in each one's RSS: before anything is ended, they are counted once.
        if spec.memory_limit and held > spec.memory_limit and tree.proportional(found) > spec.memory_limit:
            self._end(JobState.FAILED, f"memory limit of {spec.memory_limit / _MIB:.0f} MB")
        elif spec.process_limit and len(found) > spec.process_limit + spec.keepers:
            self._end(JobState.FAILED, f"process limit of {spec.process_limit}")
        elif spec.disk_limit and self._disk.used > spec.disk_limit:
            self._end(JobState.FAILED, f"disk limit of {spec.disk_limit / _MIB:.0f} MB")
        elif hit := self._hit():
            self._end(JobState.FAILED, hit)

    def _hit(self) -> str:
        """Which limit the kernel itself has held, in words; empty if none."""
        kind = self._group.hit() if self._group else ""
        memory, processes = f"memory limit of {self._spec.memory_limit / _MIB:.0f} MB", f"process limit of {self._spec.process_limit}"
        return {"memory": memory, "processes": processes}.get(kind, "")

    def _is_cancelled(self) -> bool:
        """Whether somebody wants the job to end; then its end begins."""
        reason = job_folder.request_to_end(self._job.folder)
        if reason is None and self._spec.lease and job_folder.lease_is_over(self._spec.lease):
            reason = "its worker was not heard of in time"
        if reason is None and not self._ears.asked:
            return False
        self._end(JobState.CANCELLED, _wish(reason), self._spec.grace)
        return True

    # ------------------------------------------------------------------ end

    def _end(self, state: JobState, cause: str, grace: float = 0.0) -> None:
        self._verdict = (state, cause)
        if grace:
            # The walls would fall with whoever keeps them, and all behind them would be killed at once, without its grace.
            keeper = self._main if self._spec.keepers else 0
            tree.terminate(process for process in self._tree.look(fresh=True) if process.pid != keeper)
        self._step, self._step_at = self._kill, time.monotonic() + grace

    def _end_leftovers(self, now: float) -> None:
        found = self._tree.look(fresh=True)
        self._survivors = len(found)
        tree.terminate(found)
        self._step, self._step_at = self._kill, now + min(self._spec.grace, _LEFT_GRACE)

    def _kill(self, now: float) -> None:
        give_up = now + _STUCK

        def again(now: float) -> None:
            found = tree.kill(lambda: self._tree.look(fresh=True))
            self._step_at = time.monotonic() + _AGAIN
            if now > give_up:
                self._stuck = max(1, len(found))

        self._step = again
        again(now)

    def kill_all(self) -> None:
        """End the whole tree, whatever else is going on."""
        self._failed = True
        until = time.monotonic() + _STUCK
        while time.monotonic() < until:
            tree.kill(lambda: self._tree.look(fresh=True))
            try:
                while os.wait4(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(_AGAIN)


def _wish(reason: str | None) -> str:
    return f"cancelled: {' '.join((reason or '').split())[:500] or 'SIGTERM'}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
