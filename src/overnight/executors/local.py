"""Jobs on this machine, each in a folder of its own, run by supervisors that outlive this process.

All state is in the job folders (``overnight.jobs`` says what they hold): a new ``LocalExecutor`` on the same root finds every job of
an earlier one. Whether a job is alive is told by its folder's lock, never by a process id. Safe to use from several threads.
Must not know how a command is run: it starts the supervisor as a program and reads what it leaves. Without pidfds (macOS) it looks
every 20 ms instead of being woken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import overnight
from overnight import jobs
from overnight.errors import JobError, StorageError
from overnight.executors import folder as files
from overnight.models import JobSpec, JobState, JobStatus, MetricPoint

_LOOK = 0.5  # seconds after which a wait looks again, in case the end was not seen
_BLIND = 0.02  # seconds between two looks where nothing can wake us
_GONE = 0.002  # seconds between two looks at a job whose supervisor has just ended
_PATIENCE = 20.0  # seconds in which the spawner has to answer
_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from overnight.supervisor import serve; serve()"
# What the supervisor itself needs: its environment is readable by the runs.
_PASSED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "OVERNIGHT_NVML")


class LocalExecutor:
    """Runs jobs here; ``root`` holds their folders and is made if need be."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._spawner = _Spawner()
        self._starting: set[str] = set()
        self._buried: set[str] = set()  # lost jobs whose end was tried
        self._ends: dict[str, int] = {}  # descriptors that tell, by their end, that a job started here is not supervised any more

    def submit(self, spec: JobSpec) -> None:
        """Start the job unless it was already started; from then on it outlives us. A power cut makes it LOST. Raises ``JobError``."""
        folder = self._root / spec.id
        self._starting.add(spec.id)
        try:
            files.write(spec, folder)
            if not (folder / jobs.STATUS).exists():
                self._start(folder, spec.parked)
        except OSError as exc:
            self.cancel(spec.id, "it could not be recorded")
            raise JobError(
                "E-JOB-START", f"job {spec.id} cannot be started: {exc.strerror or exc}", where=str(folder), fix=f"df -h {self._root}"
            ) from exc
        finally:
            self._starting.discard(spec.id)

    def poll(self, job: str, wait: float = 0.0) -> JobStatus:
        """What is known of the job; waits up to ``wait`` seconds for its end. An unknown job is LOST. Raises ``StorageError``."""
        until = time.monotonic() + wait
        folder = self._root / job
        while True:
            status = self._look(folder)
            left = until - time.monotonic()
            if status.state.over:
                self._forget(job)
            if status.state.over or left <= 0:
                return status
            end = self._ends.get(job)
            if end is None:
                _wait_for(status.pid, min(left, _LOOK))
            elif _wait_for_end(end, min(left, _LOOK)):
                self._forget(job)

    def tail(self, job: str, offset: int) -> tuple[list[MetricPoint], int]:
        """Metric points streamed since ``offset`` (bytes of ``metrics.jsonl``; 0 = from the start) and the next offset.

        Raises ``StorageError``.
        """
        return files.points(self._root / job, offset)

    def cancel(self, job: str, reason: str) -> None:
        """Ask for the end of the job's whole process tree; returns at once, ``poll`` tells when it is dead."""
        folder = self._root / job
        files.ask_to_end(folder, reason)  # where that fails, the signal below still works
        with contextlib.suppress(StorageError):
            status = files.read(folder)
            if status is not None and status.pid and not status.state.over:
                _ask_to_end(folder, status.pid)

    def close(self) -> None:
        """End the helper process; jobs go on. It is started again when needed."""
        self._spawner.close()
        for job in list(self._ends):
            self._forget(job)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def park(self, spec: JobSpec) -> None:
        """Have the spec's command wait behind its wrap, as its child, until a job whose ``parked`` is the spec's id becomes it; may do nothing.

        The command is ``sandbox.GATE``. It is gone when this process is.
        """
        with contextlib.suppress(OSError, JobError):
            self._spawner.order("park", jobs.spec_to_json(spec))

    def drop(self, parked: str) -> None:
        """Let go what was parked under this id."""
        with contextlib.suppress(OSError, JobError):
            self._spawner.order("drop", parked)

    def _start(self, folder: Path, parked: str = "") -> int:
        """Have the folder's job supervised; the supervisor's process id, 0 if it has one already. Raises ``JobError``, ``OSError``."""
        end, held = os.pipe()
        try:
            pid = self._spawner.start(folder, held, parked)
        except BaseException:
            os.close(end)
            raise
        finally:
            os.close(held)
        self._forget(folder.name)
        self._ends[folder.name] = end
        return pid

    def _forget(self, job: str) -> None:
        with contextlib.suppress(KeyError):
            os.close(self._ends.pop(job))

    def _look(self, folder: Path) -> JobStatus:
        status = files.read(folder)
        if status is not None and status.state.over:
            return status
        if folder.name in self._starting:
            return status or JobStatus(JobState.QUEUED)
        if files.is_held(folder / jobs.LOCK):
            return status or JobStatus(JobState.QUEUED)
        status = files.read(folder)  # its last word may have come between the two looks
        if status is not None and status.state.over:
            return status
        return self._lost(folder, status)

    def _lost(self, folder: Path, status: JobStatus | None) -> JobStatus:
        """Tell of a job without a supervisor. One that had started gets another, which ends what is left and writes LOST."""
        if status is None:
            return JobStatus(JobState.LOST, "it was never started" if folder.exists() else f"there is no job {folder.name}")
        if folder.name in self._buried:
            return dataclasses.replace(status, state=JobState.LOST, cause="its supervisor died, and the job folder cannot be written")
        try:
            pid = self._start(folder)
        except (OSError, JobError) as exc:
            return dataclasses.replace(status, state=JobState.LOST, cause=f"its supervisor died, and its leftovers cannot be ended: {exc}")
        self._buried.add(folder.name)
        return dataclasses.replace(status, pid=pid or status.pid)


class _Spawner:
    """The helper process that hands jobs to supervisors; started when first needed, and again if it died."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._end: weakref.finalize[..., object] | None = None

    def start(self, folder: Path, held: int, parked: str) -> int:
        """Have the folder's job supervised; the supervisor's process id, 0 if it has one already. Raises ``JobError``, ``OSError``.

        The supervisor keeps ``held``, a descriptor, open until the job is over.
        """
        return self.order("run", os.fspath(folder), parked, fds=[held])

    def order(self, verb: str, *words: str, fds: Sequence[int] = ()) -> int:
        """Give an order; the number that is its answer. Raises ``JobError``, ``OSError``."""
        line = " ".join((verb, *(os.fsencode(word).hex() for word in words))).encode() + b"\n"
        with self._turn:
            answer = self._ask(line, fds) or self._ask(line, fds)
        if not answer.isdigit():
            raise JobError("E-JOB-START", f"no supervisor could be started: {answer or 'its helper process died twice'}")
        return int(answer)

    def close(self) -> None:
        with self._turn:
            self._drop()

    def _ask(self, line: bytes, fds: Sequence[int]) -> str:
        """The spawner's answer; empty if it died. Asking again is harmless: a job whose lock is held is not started."""
        channel = self._channel or self._launch()
        answer = b""
        try:
            channel.sendall(line[socket.send_fds(channel, [line], fds) :])
            while not answer.endswith(b"\n") and (more := channel.recv(4096)):
                answer += more
        except (ConnectionError, TimeoutError):
            answer = b""
        if answer.endswith(b"\n"):
            return answer.decode("utf-8", "replace").strip()
        self._drop()
        return ""

    def _drop(self) -> None:
        if self._end is not None:
            self._end()
        self._process = self._channel = self._end = None

    def _launch(self) -> socket.socket:
        place = str(Path(overnight.__file__).parent.parent)
        channel, theirs = socket.socketpair()
        channel.settimeout(_PATIENCE)
        try:
            # In a session of its own: a ^C in the terminal is for the loop alone.
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-X", f"utf8={sys.flags.utf8_mode}", "-c", _PROGRAM, place], stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
                env={name: os.environ[name] for name in _PASSED if name in os.environ},
            )  # fmt: skip
        except BaseException:
            channel.close()
            raise
        finally:
            theirs.close()
        self._process, self._channel, self._end = process, channel, weakref.finalize(self, _dismiss, process, channel)
        return channel


def _dismiss(process: subprocess.Popen[bytes], channel: socket.socket) -> None:
    """End the spawner, which holds nothing that could be lost."""
    process.kill()
    channel.close()
    process.wait()


def _wait_for_end(end: int, seconds: float) -> bool:
    """Sleep until the other end of the pipe is closed, ``seconds`` at most; whether it is."""
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _wait_for(pid: int, seconds: float) -> None:
    """Sleep until the process ends, ``seconds`` at most."""
    try:
        fd = os.pidfd_open(pid) if pid else -1
    except ProcessLookupError:
        time.sleep(min(seconds, _GONE))
        return
    except (OSError, AttributeError):
        fd = -1
    if fd < 0:
        time.sleep(min(seconds, _BLIND))
        return
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll(seconds * 1000)
    finally:
        os.close(fd)


def _ask_to_end(folder: Path, pid: int) -> None:
    """Wake the supervisor, so that it looks for the request now; it would see it within a quarter of a second anyway."""
    try:
        fd = os.pidfd_open(pid)
    except (OSError, AttributeError):
        return
    try:
        # While the lock is held, the id in the status is the holder's.
        if files.is_held(folder / jobs.LOCK):
            # A supervisor may have gone on to its next job meanwhile: with the request in the folder a harmless signal is enough.
            signal.pidfd_send_signal(fd, signal.Signals[jobs.WAKE] if (folder / jobs.CANCEL).exists() else signal.SIGTERM)
    except ProcessLookupError:
        return
    finally:
        os.close(fd)
