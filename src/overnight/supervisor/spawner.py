"""Starts supervisors cheaply: a process with everything imported that has one supervisor for every job at work.

A fresh interpreter costs some 25 ms, a fork of this one a few, and a supervisor that is done with its job takes the next one for less
than either. It ends when its input does (the loop is gone); supervisors at work live on, each in a session of its own, and end with
their job. Must not know what a supervisor does.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
from dataclasses import dataclass

from overnight import jobs
from overnight.supervisor import command, tree
from overnight.supervisor import folder as job_folder
from overnight.supervisor.parked import Parked
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

    An order is a verb and its words in hexadecimal. ``run``: a job folder's path, and the id of the walls that were parked for it, with a
    descriptor that is held as long as the job is supervised: whoever has the other end sees the end of the job in its closing. The
    answer tells the supervisor's process id, 0 if somebody else has the job, or what failed. ``park``: the spec of what is to
    stand behind its walls until a job is run in them. ``drop``: the id of such walls, which are not needed any more.
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
            answer = _VERBS[order.verb](order, team)
        except OSError as exc:
            answer = f"{order.words[0]}: {exc.strerror}"
        finally:
            for fd in order.fds:
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
    parked: str = ""  # the walls that wait for a job there

    def listen(self) -> None:
        """Hear whether it is done with its job, or has ended."""
        try:
            word = self.channel.recv(16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        self.idle, self.gone = bool(word), not word


@dataclass(frozen=True, slots=True)
class _Order:
    verb: str
    words: tuple[str, ...]
    fds: list[int]  # that came with it
    line: bytes  # as it came


def _receive(channel: socket.socket) -> _Order | None:
    """The next order; None at the end."""
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
    verb, *words = text.decode("ascii").split()
    return _Order(verb, tuple(os.fsdecode(bytes.fromhex(word)) for word in words), fds, text)


def _launch(order: _Order, team: list[_Supervisor]) -> str:
    lock = job_folder.lock(order.words[0])
    if lock < 0:
        return "0"
    parked = order.words[1] if len(order.words) > 1 else ""
    try:
        one = _given(order, [lock, *order.fds], team, parked)
    finally:
        os.close(lock)
    if one is None:
        return "a supervisor died at once"
    one.parked = ""
    if parked:
        _dismiss(parked, team)  # where its supervisor was not ready
    return str(one.pid)


def _park(order: _Order, team: list[_Supervisor]) -> str:
    one = _given(order, order.fds, team)
    if one is None:
        return "a supervisor died at once"
    one.parked = jobs.spec_from_json(order.words[0]).id
    return str(one.pid)


def _drop(order: _Order, team: list[_Supervisor]) -> str:
    _dismiss(order.words[0], team)
    return "0"


_VERBS = {"run": _launch, "park": _park, "drop": _drop}


def _dismiss(parked: str, team: list[_Supervisor]) -> None:
    """Have the supervisor with these walls end, and them with it."""
    for one in [one for one in team if one.parked == parked]:
        one.channel.close()
        team.remove(one)


def _given(order: _Order, fds: list[int], team: list[_Supervisor], parked: str = "") -> _Supervisor | None:
    """The supervisor that has the order now: one that is done with its job and has the walls that are wanted or none, else a new one."""
    for one in team:
        one.listen()
    for one in [one for one in team if one.gone]:
        one.channel.close()
        team.remove(one)
    for one in sorted(team, key=lambda one: one.parked != parked):
        if one.idle and one.parked in ("", parked) and _hand_over(one, order, fds):
            return one
    one = _fork(team, fds)
    team.append(one)
    return one if _hand_over(one, order, fds) else None


def _hand_over(one: _Supervisor, order: _Order, fds: list[int]) -> bool:
    try:
        socket.send_fds(one.channel, [order.line], fds)
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
        parked: list[Parked] = []  # one at most
        for _ in range(_JOBS):
            if not _work(channel, parked):
                break
        code = 0
    finally:
        os._exit(code)


def _work(channel: socket.socket, parked: list[Parked]) -> bool:
    """Do what is ordered next: park walls, or supervise a job, whose lock is the first descriptor; whether there can be another."""
    order = _receive(channel)
    if order is None:
        return False
    try:
        if order.verb == "park":
            with contextlib.suppress(OSError, ValueError):  # the job that asks for them brings its own
                parked[:] = [Parked(jobs.spec_from_json(order.words[0]))]
            fit = True
        else:
            fit = supervise(find(order.words[0], order.fds[0]), parked.pop() if parked else None)
        if fit:  # said before the end of the job is seen: the next one may follow at once
            channel.send(b"i")
    except ConnectionError:
        return False
    else:
        return fit
    finally:
        for fd in order.fds:
            os.close(fd)
