"""Starts supervisors cheaply: a process with everything imported that forks one for each folder named on its standard input.

A fresh interpreter costs some 25 ms, a fork of this one a few. What can be done before the fork is: a page touched after it is
copied. It ends when its input does (the loop is gone), and its forks live on, each in a session of its own.
Must not know what a supervisor does.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

from overnight.supervisor import command, tree
from overnight.supervisor import folder as job_folder
from overnight.supervisor.run import Job, find, supervise


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
    """Answer each line (a job folder's path, in hexadecimal) with a line.

    It tells the supervisor's process id, 0 if the job is over or somebody else has it, or what failed.
    """
    os.chdir("/")
    command.settle_signals()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a supervisor
    command.oom_score()
    tree.libc()
    gc.collect()
    gc.freeze()
    for line in sys.stdin.buffer:
        folder = os.fsdecode(bytes.fromhex(line.decode("ascii")))
        os.write(1, _launch(folder).encode("utf-8", "replace").replace(b"\n", b" ") + b"\n")
    return 0


def _launch(folder: str) -> str:
    try:
        lock = job_folder.lock(folder)
        if lock < 0:
            return "0"
        try:
            job = find(folder, lock)
            return str(_fork(job) if job.past is None or not job.past.state.over else 0)
        finally:
            os.close(lock)
    except OSError as exc:
        return f"{folder}: {exc.strerror}"


def _fork(job: Job) -> int:
    # Blocked until the supervisor can answer it: a request to end that comes early would else kill it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        pid = os.fork()
        if pid == 0:
            _become_supervisor(job)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return pid


def _become_supervisor(job: Job) -> None:
    """Never return: what is left of the spawner must not run twice."""
    code = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        supervise(job)
        code = 0
    finally:
        os._exit(code)
