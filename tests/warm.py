"""Commands without the start of an interpreter: a process that has the program imported forks for each of them.

The same words, folder, variables and bytes as in a process of its own, in a tenth of the time. What goes on beside the
test, and may be killed, needs a process of its own, and is not run here.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SOURCE = str(Path(__file__).parents[1] / "src")
PATIENCE = 60.0
_MOST = 100_000  # bytes of words and variables
_OWN = frozenset({"demo", "mcp", "watch", "start"})  # what goes on beside the test


def run(words: Sequence[str], cwd: Path, env: Mapping[str, str], seconds: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """``overnight WORDS`` to its end, with nothing on its standard input. Raises ``subprocess.TimeoutExpired``."""
    done = ran(words, cwd, env, seconds)
    return subprocess.CompletedProcess(done.args, done.returncode, _text(done.stdout), _text(done.stderr))


def ran(words: Sequence[str], cwd: Path, env: Mapping[str, str], seconds: float = PATIENCE) -> subprocess.CompletedProcess[bytes]:
    """The same, and its bytes."""
    told = any(name.startswith("PYTHON") and value != SOURCE for name, value in env.items())  # the interpreter something of its own
    if sys.platform != "linux" or told or not _OWN.isdisjoint(words[:2]):
        argv = [sys.executable, "-m", "overnight", *words]
        return subprocess.run(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)
    warm = _idle.pop() if _idle else _Warm()
    done = warm.ran(list(words), cwd, env, seconds)
    _idle.append(warm)
    return done


class _Warm:
    """One such process; it ends with us, also if we are killed: nobody holds the other end any more then."""

    def __init__(self) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": SOURCE}  # of the others it is told each time
        with theirs, Path(os.devnull).open("r+b") as nothing:
            argv = [sys.executable, "-P", __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(argv, cwd="/", env=env, stdin=nothing, stdout=nothing, pass_fds=(theirs.fileno(),))
        atexit.register(self._end)

    def ran(self, words: list[str], cwd: Path, env: Mapping[str, str], seconds: float) -> subprocess.CompletedProcess[bytes]:
        asked = json.dumps({"words": words, "cwd": str(cwd), "env": dict(env)}).encode()
        assert len(asked) < _MOST
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            self._link.settimeout(PATIENCE)
            socket.send_fds(self._link, [asked], [out.fileno(), err.fileno()])
            pid = int(self._link.recv(64))
            try:
                self._link.settimeout(seconds)
                code = int(self._link.recv(64))
            except TimeoutError as exc:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(words, seconds) from exc
            for file in (out, err):
                file.seek(0)
            return subprocess.CompletedProcess(["overnight", *words], code, out.read(), err.read())

    def _end(self) -> None:
        self._link.close()
        self._process.wait(PATIENCE)


def _text(data: bytes) -> str:
    return data.decode().replace("\r\n", "\n").replace("\r", "\n")


_idle: list[_Warm] = []  # several are there only if several commands run at once


# --- in that process ---------------------------------------------------------------------------------------------------


def _serve(link: socket.socket) -> None:
    """Fork for each command; returns in a child, too, that is the command from then on."""
    import overnight.cli

    for module in pkgutil.iter_modules(overnight.cli.__path__, "overnight.cli."):
        importlib.import_module(module.name)
    gc.freeze()
    while True:
        data, fds, _flags, _address = socket.recv_fds(link, _MOST, 2)
        if not data:
            return
        pid = os.fork()
        if not pid:
            link.close()
            _become(json.loads(data), fds)
            overnight.cli.main()
            return
        for handle in fds:
            os.close(handle)
        link.send(str(pid).encode())
        link.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def _become(asked: Mapping[str, Any], fds: Sequence[int]) -> None:
    for handle, number in zip(fds, (1, 2), strict=True):
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = [os.path.join(SOURCE, "overnight", "__main__.py"), *asked["words"]]


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
