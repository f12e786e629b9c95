"""Starts supervisors cheaply: a process with everything imported that has one supervisor for every job at work.

A fresh interpreter costs some 25 ms, a fork of this one a few, and a supervisor that is done with its job takes the next one for less
than either. It ends when its input does (the loop is gone); supervisors at work live on, each in a session of its own, and end with
their job. Must not know what a supervisor does.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from dataclasses import dataclass

from overnight.supervisor import command, tree
from overnight.supervisor import folder as job_folder
from overnight.supervisor.run import find, supervise

_ORDER = 64 * 1024  # bytes of an order
_JOBS = 500  # jobs after which a supervisor makes place for a fresh one
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def main(arguments: list[str]) -> int:
    """Run the job of the folder named, in this process; without a folder, serve."""
    if not arguments:
        return serve()
    folder = os.path.abspath(arguments[0])
    lock = job_folder.lock(folder)
    if lock >= 0:
        os.chdir("/")
        command.settle_signals()
        supervise(find(folder, lock))
    return 0


def serve() -> int:
    """Answer each order on standard input, a socket, with a line.

    An order is a job folder's path in hexadecimal and a descriptor that is held as long as the job is supervised: whoever has the
    other end sees the end of the job in its closing. The answer tells the supervisor's process id, 0 if somebody else has the job,
    or what failed.
    """
    os.chdir("/")
    command.settle_signals()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a supervisor
    command.oom_score()
    tree.libc()
    gc.collect()
    gc.freeze()
    loop = socket.socket(fileno=0)
    team: list[_Supervisor] = []
    while order := _receive(loop):
        try:
            answer = _launch(*order, team)
        except OSError as exc:
            answer = f"{order[0]}: {exc.strerror}"
        finally:
            for fd in order[1]:
                os.close(fd)
        loop.sendall(answer.encode("utf-8", "replace").replace(b"\n", b" ") + b"\n")
    return 0


@dataclass(slots=True)
class _Supervisor:
    """A forked supervisor as the spawner sees it."""

    pid: int
    channel: socket.socket
    idle: bool = True
    gone: bool = False

    def listen(self) -> None:
        """Hear whether it is done with its job, or has ended."""
        try:
            word = self.channel.recv(16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        self.idle, self.gone = bool(word), not word


def _receive(channel: socket.socket) -> tuple[str, list[int]] | None:
    """The next order: a folder and descriptors that come with it; None at the end."""
    text = b""
    fds: list[int] = []
    while not text.endswith(b"\n"):
        try:
            more, found, _, _ = socket.recv_fds(channel, _ORDER, 4, _CLOEXEC)
        except ConnectionError:
            return None
        fds += found
        if not more:
            return None
        text += more
    return os.fsdecode(bytes.fromhex(text.decode("ascii"))), fds


def _launch(folder: str, held: list[int], team: list[_Supervisor]) -> str:
    lock = job_folder.lock(folder)
    if lock < 0:
        return "0"
    try:
        for one in team:
            one.listen()
        for one in [one for one in team if one.gone]:
            one.channel.close()
            team.remove(one)
        for one in [one for one in team if one.idle]:
            if _hand_over(one, folder, [lock, *held]):
                return str(one.pid)
        one = _fork(team, [lock, *held])
        team.append(one)
        if not _hand_over(one, folder, [lock, *held]):
            return f"{folder}: the supervisor ended before it had begun"
        return str(one.pid)
    finally:
        os.close(lock)


def _hand_over(one: _Supervisor, folder: str, fds: list[int]) -> bool:
    try:
        socket.send_fds(one.channel, [os.fsencode(folder).hex().encode() + b"\n"], fds)
    except ConnectionError:
        one.gone = True
        return False
    one.idle = False
    return True


def _fork(team: list[_Supervisor], mine: list[int]) -> _Supervisor:
    """A new supervisor, which gets nothing of this process but its channel: ``mine`` is what else is open here."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        _become_supervisor(theirs, [*mine, ours.fileno(), *(one.channel.fileno() for one in team)])
    theirs.close()
    return _Supervisor(pid, ours)


def _become_supervisor(channel: socket.socket, others: list[int]) -> None:
    """Never return: what is left of the spawner must not run twice."""
    code = 1
    try:
        for fd in others:
            os.close(fd)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        for _ in range(_JOBS):
            if not _work(channel):
                break
        code = 0
    finally:
        os._exit(code)


def _work(channel: socket.socket) -> bool:
    """Supervise the next job, whose lock is the first descriptor of its order; whether this process is there for another."""
    order = _receive(channel)
    if order is None:
        return False
    folder, fds = order
    try:
        fit = supervise(find(folder, fds[0]))
        if fit:  # said before the end of the job is seen: the next one may follow at once
            channel.send(b"i")
    except ConnectionError:
        return False
    else:
        return fit
    finally:
        for fd in fds:
            os.close(fd)
