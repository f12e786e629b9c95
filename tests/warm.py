"""Commands that read or write a row, without the start of an interpreter: a process that has the program imported forks for each of them.

The same words, folder, variables and bytes as in a process of its own, in a tenth of the time. What a command's start means for others (loops, workers,
whatever is killed or waited for) needs a process of its own, and is not run here.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

PATIENCE = 60.0
_MOST = 100_000  # bytes of words and variables
_SHORT = frozenset({"best", "brief", "config", "diff", "idea", "log", "ls", "note", "report", "show", "status"})
_SHORT_OF_HUB = frozenset({"cancel", "list", "outputs", "prune", "retry", "submit", "workers"})


def run(words: Sequence[str], cwd: Path, env: Mapping[str, str], seconds: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """``overnight WORDS`` to its end. Raises ``subprocess.TimeoutExpired``."""
    short = words[0] in _SHORT or (words[0] == "hub" and words[1] in _SHORT_OF_HUB)
    if short and sys.platform == "linux":
        return _warm.run(list(words), cwd, env, seconds)
    argv = [sys.executable, "-m", "overnight", *words]
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=seconds, check=False)


class _Warm:
    """The process, started when it is first asked; it ends with us, also if we are killed: nobody holds the other end any more then."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, words: list[str], cwd: Path, env: Mapping[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
        asked = json.dumps({"words": words, "cwd": str(cwd), "env": dict(env)}).encode()
        assert len(asked) < _MOST
        with self._turn, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            link = self._socket = self._socket or self._started()
            link.settimeout(seconds)
            socket.send_fds(link, [asked], [out.fileno(), err.fileno()])
            pid = int(link.recv(64))
            try:
                code = int(link.recv(64))
            except TimeoutError as exc:
                os.kill(pid, signal.SIGKILL)
                link.settimeout(PATIENCE)
                link.recv(64)
                raise subprocess.TimeoutExpired(words, seconds) from exc
            for file in (out, err):
                file.seek(0)
            told = _text(out.read()), _text(err.read())
        return subprocess.CompletedProcess(["overnight", *words], code, *told)

    def _started(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH")}  # of the others it is told each time
        with theirs, Path(os.devnull).open("r+b") as nothing:
            argv = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(argv, cwd="/", env=env, stdin=nothing, stdout=nothing, pass_fds=(theirs.fileno(),))
        atexit.register(self._end)
        return ours

    def _end(self) -> None:
        if self._socket is not None and self._process is not None:
            self._socket.close()
            self._process.wait(PATIENCE)


def _text(data: bytes) -> str:
    return data.decode().replace("\r\n", "\n").replace("\r", "\n")


_warm = _Warm()


# --- in that process ---------------------------------------------------------------------------------------------------


def _serve(link: socket.socket) -> None:
    import overnight.cli

    for module in pkgutil.iter_modules(overnight.cli.__path__, "overnight.cli."):
        importlib.import_module(module.name)
    while True:
        data, fds, _flags, _address = socket.recv_fds(link, _MOST, 2)
        if not data:
            return
        pid = os.fork()
        if not pid:
            with link:
                pass
            _become(json.loads(data), fds)
        for handle in fds:
            os.close(handle)
        link.send(str(pid).encode())
        link.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def _become(asked: dict[str, object], fds: list[int]) -> NoReturn:
    code = 1
    with _last_words():
        for handle, number in zip(fds, (1, 2), strict=True):
            os.dup2(handle, number)
            os.close(handle)
        words, env = asked["words"], asked["env"]
        assert isinstance(words, list)
        assert isinstance(env, dict)
        os.chdir(str(asked["cwd"]))
        os.environ.clear()
        os.environ.update(env)
        sys.argv = ["overnight", *words]
        code = _main()
    os._exit(code)


def _main() -> int:
    from overnight.cli import main

    try:
        main()
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 0
    return 0


@contextlib.contextmanager
def _last_words() -> Iterator[None]:
    try:
        yield
    except BaseException:  # noqa: BLE001 - as an interpreter tells it at its end
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
