"""What a command prints: read at the speed of the pipe, kept in bounds on the disk, searched for metrics.

A disk that is full, or fails, never stops a run: what cannot be written is left out and named in ``trouble``.
Must not know what the command is, or why it ends.
"""

from __future__ import annotations

import fcntl
import os
import select
import time

from overnight import jobs
from overnight.metrics import Scanner, Thinner
from overnight.models import MetricPoint
from overnight.redact import Redactor
from overnight.supervisor import folder as job_folder

PIPE = 2**20  # bytes wanted between the command and us
_FLOOD = 100 * 2**20  # bytes per second that waiting between two reads must not slow down
_END = 16 * 1024  # bytes of output that go into the status
_POINTS = 4 * 2**20  # bytes of metrics.jsonl; the goal metric may take as much again


class Output:
    """The reading end of the command's pipe, beside ``wake``, a descriptor that becomes readable when a signal came."""

    def __init__(self, fd: int, wake: int, scanner: Scanner, files: tuple[Log, Points], secrets: Redactor) -> None:
        self.scanner = scanner
        self.log, self.points = files
        self._secrets = secrets
        self._held = b""  # read, and not told yet, because it may be the beginning of a secret
        self._began = time.monotonic()
        self._fd = fd
        self._wake = wake
        self._size = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) if hasattr(fcntl, "F_GETPIPE_SZ") else 65536
        self._poll = select.poll()
        self._poll.register(wake, select.POLLIN)
        self._poll.register(fd, select.POLLIN)
        self._read_at = 0.0  # not before then, lest a chatty command wakes us for every line

    def wait(self, until: float) -> None:
        """Sleep until there is output, a signal, or that moment (monotonic), and take the output."""
        now = time.monotonic()
        if self._read_at:
            if now >= self._read_at:
                self._read_at = 0.0
                self._poll.modify(self._fd, select.POLLIN)
            else:
                until = min(until, self._read_at)
        for fd, _ in self._poll.poll(max(0, int((until - now) * 1000) + 1)):
            if fd == self._wake:
                os.read(fd, 4096)
            elif (size := self._read()) == 0:
                self._poll.unregister(fd)
                self._read_at = 0.0
            elif size < self._size // 4:
                self._read_at = time.monotonic() + self._size / _FLOOD
                self._poll.modify(fd, 0)

    def _read(self) -> int:
        """Take one piece of output; 0 at the end of it, -1 if there is nothing to take now."""
        try:
            data = os.read(self._fd, self._size)
        except BlockingIOError:
            return -1
        self._take(data)
        return len(data)

    def _take(self, data: bytes) -> None:
        if self._secrets:
            data, self._held = self._secrets.split(self._held + data)
        self.log.write(data)
        self._note(self.scanner.feed(data))

    def _note(self, found: list[tuple[str, float, float]]) -> None:
        if found:
            self.points.write(found, time.monotonic() - self._began)

    def close(self) -> None:
        """Take what is left in the pipe, now that all writers are dead, complete the files, and close all but ``wake``."""
        for _ in range(2 * PIPE // self._size + 16):  # bounded: somebody outside the tree may hold the other end
            if self._read() <= 0:
                break
        held, self._held, self._secrets = self._held, b"", Redactor({})
        self._take(held)
        self._note(self.scanner.close())
        self.log.close()
        self.points.close()
        os.close(self._fd)


class _File:
    """A file that is added to until that fails; from then on nothing more, so that no hole is hidden in the middle."""

    def __init__(self, path: str) -> None:
        self.trouble = ""
        self.fd = -1
        self._name = path.rpartition("/")[2]
        try:
            self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            self.fail(exc)

    def put(self, data: bytes | bytearray) -> None:
        if data and not self.trouble:
            try:
                job_folder.write(self.fd, data)
            except OSError as exc:
                self.fail(exc)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def fail(self, exc: OSError) -> None:
        self.trouble = self.trouble or f"{self._name} is incomplete: {exc.strerror}"


class Log(_File):
    """``output.log``: the first ``head`` bytes as they come, the last ``tail`` bytes from memory at the end, the cut marked."""

    def __init__(self, folder: str, head: int, tail: int) -> None:
        super().__init__(f"{folder}/{jobs.LOG}")
        self.total = 0  # bytes printed
        self._room = head
        self._tail = tail
        self._beyond = 0  # bytes that did not go into the head
        self._last = bytearray()  # the newest of them, at most twice what is wanted
        self._end = bytearray()  # the newest of the head

    def write(self, data: bytes) -> None:
        """Take what was printed."""
        self.total += len(data)
        if self._room:
            head, data = data[: self._room], data[self._room :]
            self._room -= len(head)
            self._end = (self._end + head[-_END:])[-_END:]
            self.put(head)
        if data:
            self._beyond += len(data)
            self._last += data
            if len(self._last) > 2 * (keep := max(self._tail, _END)):
                del self._last[:-keep]

    def close(self) -> None:
        """Append the tail and bring it to the disk, unless it is so short that the status, which is synced, holds all of it."""
        kept = self._last[max(0, len(self._last) - self._tail) :]
        if cut := self._beyond - len(kept):
            self.put(b"\n[overnight: %d bytes cut]\n" % cut)
        self.put(kept)
        if self.total > _END and self.fd >= 0:
            try:
                os.fsync(self.fd)
            except OSError as exc:
                self.fail(exc)
        super().close()

    @property
    def end(self) -> str:
        """The last 16 kB of what was printed."""
        return (self._end + self._last[-_END:])[-_END:].decode("utf-8", "replace")


class Points(_File):
    """``metrics.jsonl``: metric points as they come, thinned.

    When it is full, only those of the goal metric are taken, until it is twice as large.
    """

    def __init__(self, folder: str, goal: str) -> None:
        super().__init__(f"{folder}/{jobs.METRICS}")
        self._goal = goal
        self._size = 0
        self._thinner = Thinner()

    def write(self, points: list[tuple[str, float, float]], at: float) -> None:
        """Add name, value and step of points that came ``at`` seconds after the start, in one write."""
        lines = []
        for name, value, step in points:
            if self._thinner.keep(name) and self._size < _POINTS * (2 if name == self._goal else 1):
                line = jobs.point_to_json(MetricPoint(name, value, step, at)) + "\n"
                self._size += len(line)
                lines.append(line)
        self.put("".join(lines).encode())
