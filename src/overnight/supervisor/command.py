"""How the command is started: what it inherits, and above all what it does not.

It gets a session of its own, the environment, folder and input that its spec names, the default for every signal, and no open file
beyond the three and those that its spec names. Must not know what becomes of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import resource
import signal
import subprocess
from dataclasses import dataclass

from overnight.models import FIRST_FILE, JobSpec
from overnight.supervisor.output import PIPE

_OOM_SCORE = 500  # if memory runs out, the command is to go before us
_OOM_FILE = "/proc/%s/oom_score_adj"


@dataclass(frozen=True, slots=True)
class NotStarted:
    """Why the command could not be started, with the exit code that a shell would give."""

    exit_code: int
    cause: str


def pipe() -> tuple[int, int]:
    """Make the pipe that the command prints into: our end, which never blocks, and the command's."""
    output, into = os.pipe2(os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
    os.set_blocking(output, False)
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, PIPE)
    return output, into


def settle_signals() -> None:
    """Undo what an ancestor ignored or blocked (``nohup`` does), as the command would inherit it."""
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def start(spec: JobSpec, into: int, source: int = -1) -> int | NotStarted:
    """Start the command, printing into the pipe; its process id. It reads ``source`` where that is given, instead of what its spec names."""
    command = [*spec.wrap, *spec.argv]
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    files: list[int] = []
    try:
        stdin = os.dup(source) if source >= 0 else os.open(spec.stdin or os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        files += (_open_as(number, path) for number, path in enumerate(spec.files, FIRST_FILE))
    except OSError as exc:
        return NotStarted(126, f"cannot read {exc.filename}: {exc.strerror}")
    try:
        process = subprocess.Popen(
            command, cwd=spec.cwd, env=dict(spec.env), stdin=stdin, stdout=into, stderr=into, pass_fds=files, start_new_session=True
        )
    except OSError as exc:
        return _why(exc, spec, command[0])
    except (ValueError, IndexError) as exc:
        return NotStarted(126, f"cannot execute {command}: {exc}")
    finally:
        for fd in (stdin, *files):
            os.close(fd)
    process.returncode = 0  # it is not for Popen to wait for
    if oom_score() < _OOM_SCORE:
        with contextlib.suppress(OSError):
            _write_oom_score(process.pid)
    return process.pid


def _open_as(number: int, path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.dup2(fd, number, inheritable=False)
    finally:
        os.close(fd)


def _why(exc: OSError, spec: JobSpec, name: str) -> NotStarted:
    if exc.filename == spec.cwd:
        return NotStarted(126, f"cannot enter the folder {spec.cwd}: {exc.strerror}")
    folders = [""] if "/" in name else spec.env.get("PATH", os.defpath).split(os.pathsep)
    is_there = any(os.path.exists(os.path.join(spec.cwd, folder, name)) for folder in folders)
    # A folder of PATH that must not be looked into makes the kernel say that permission is denied, where a shell finds nothing.
    if isinstance(exc, FileNotFoundError | PermissionError) and not is_there:
        return NotStarted(127, f"command not found: {name}")
    if isinstance(exc, FileNotFoundError):
        return NotStarted(127, f"cannot execute {name}: the interpreter that its first line names is not there")
    return NotStarted(126, f"cannot execute {name}: {exc.strerror}")


@functools.cache
def oom_score() -> int:
    """Read how gladly the kernel would end this process if memory ran out: what the command inherits."""
    try:
        with open(_OOM_FILE % "self", "rb", buffering=0) as file:
            return int(file.read(16))
    except (OSError, ValueError):
        return _OOM_SCORE


def _write_oom_score(pid: int) -> None:
    fd = os.open(_OOM_FILE % pid, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"%d" % _OOM_SCORE)
    finally:
        os.close(fd)
