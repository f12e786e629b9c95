"""Walls that stand before their command is known: built while there is nothing to do, taken by the next job that they fit.

A parked spec has a wrap of its own and the gate as its command (``sandbox/gate.py``), which says when it is ready, waits, and becomes the
command that it is told. They are this process's child from the start, so that a job in them is watched like any other, and die with it.
Must not know what walls are made of, nor whether they fit: whoever asks for them says so.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket

from overnight.models import JobSpec
from overnight.supervisor import command, orphans
from overnight.supervisor.ears import ears

READY = b"r"
_SOON = 0.05  # seconds in which walls that are being built are waited for


class Parked:
    """One process that waits behind its walls. Raises ``OSError`` if there is none to be had."""

    def __init__(self, spec: JobSpec) -> None:
        ears()  # a command must not inherit that nobody waits for children here
        self.id = spec.id
        self.born = orphans.now()
        self._pipe = command.pipe()  # our end, and the one that it prints into
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(_SOON)
        try:
            found = command.start(spec, self._pipe[1], theirs.fileno())
        finally:
            theirs.close()
        self._pid = found if isinstance(found, int) else 0
        if not self._pid:
            self.end()
            raise OSError("these walls cannot be built")

    def suits(self, spec: JobSpec) -> bool:
        """Whether the job was meant for these walls and they stand. Limits that a control group holds need a command that is born in it."""
        if spec.parked != self.id or spec.memory_limit or spec.process_limit or spec.stdin:
            return False
        try:
            return self._channel.recv(1) == READY
        except OSError:
            return False

    def take_pipe(self) -> tuple[int, int]:
        """What it prints into, as ``command.pipe`` makes it: the caller's from now on."""
        pipe, self._pipe = self._pipe, (-1, -1)
        return pipe

    def fill(self, spec: JobSpec) -> int:
        """Have it become the job's command; its process id. Raises ``OSError`` if it is gone."""
        words = [str(len(spec.argv)), *spec.argv, *(f"{name}={value}" for name, value in spec.env.items())]
        self._channel.sendall(b"\0".join(map(os.fsencode, words)))
        self._channel.close()
        pid, self._pid = self._pid, 0
        return pid

    def end(self) -> None:
        """End it, unless it has become a command."""
        self._channel.close()
        if self._pid:
            with contextlib.suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
            self._pid = 0
        for fd in self._pipe:
            if fd >= 0:
                os.close(fd)
        self._pipe = (-1, -1)
