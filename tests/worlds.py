"""Machines of one test that meet at a relay: each has a home of its own and runs the real commands."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from commands import SOURCE
from overnight.app import joining
from overnight.app import relay as relays
from overnight.hub import credentials
from yards import until


class Machine:
    """A machine: a home, and the command in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir()
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": SOURCE, "OVERNIGHT_WORKER_ROOM": "1000000"}
        self.running = contextlib.ExitStack()

    def run(self, *words: str, code: int = 0, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "overnight", *words],
            env=self.env,
            cwd=cwd or self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stderr

    def json(self, *words: str, **more: Any) -> Any:
        cut = words.index("--") if "--" in words else len(words)
        return json.loads(self.run(*words[:cut], "--json", *words[cut:], **more))

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """A command that goes on; what it says is in WORD.log."""
        with (self.home / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "overnight", *words], env=self.env, cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def behind(self, *words: str) -> subprocess.Popen[bytes]:
        """The same, ended with the machine."""
        process = self.start(*words)
        self.running.callback(_end, process)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(60)


class World:
    """A relay with its hub, a worker and a laptop."""

    def __init__(self, path: Path) -> None:
        self.server, self.worker, self.laptop = Machine(path / "server"), Machine(path / "worker"), Machine(path / "laptop")

    def line(self, kind: str, name: str) -> str:
        line: str = self.server.json("relay", "invite", kind, name)["line"]
        return line


class Land:
    """A relay with its hub, workers and a laptop, whose processes may die in any order; nothing of it runs but what ``parts`` starts."""

    def __init__(self, root: Path, workers: int, lease: float, port: int) -> None:
        self.server, self.laptop = Machine(root / "server"), Machine(root / "laptop")
        self.workers = [Machine(root / f"w{number + 1}") for number in range(workers)]
        for machine in (self.server, self.laptop, *self.workers):
            machine.env |= {"OVERNIGHT_HUB_LEASE": str(lease), "PATH": f"{machine.env['PATH']}:{root}"}  # a mark on all that is started
        self.server.run("relay", "init", "--host", "localhost", "--port", str(port))
        self.relay = self.server.start("relay", "start")
        try:
            for machine in (self.laptop, *self.workers):
                self._join(machine, "client" if machine is self.laptop else "worker")
        except BaseException:
            _end(self.relay)
            raise

    def _join(self, machine: Machine, kind: str) -> None:
        until(partial(self.is_up, self.relay.pid))
        line, _ = relays.invite(relays.folder(self.server.env, None), kind, machine.home.name)
        joining.join(machine.env, kind, line, None, lambda _text: None)

    @property
    def hub(self) -> Path:
        """The hub's folder."""
        return self.server.home / ".local" / "state" / "overnight" / "hub"

    def parts(self) -> dict[str, Callable[[], subprocess.Popen[bytes]]]:
        """How each of them is started."""
        workers = {each.home.name: partial(each.start, "worker", "start", "--slots", "2", "--unsafe-no-sandbox") for each in self.workers}
        return {"relay": partial(self.server.start, "relay", "start"), "hub": partial(self.server.start, "hub", "start"), **workers}

    def is_up(self, pid: int) -> bool:
        """Whether the relay of this process takes connections."""
        said = relays._lock_says(relays.folder(self.server.env, None))
        return bool(said.get("pid") == pid and said.get("ready"))

    def nats(self) -> int:
        """The process id of the relay's server; 0 if there is none."""
        place = self.server.home / ".local" / "state" / "overnight" / "relay" / "server.pid"
        with contextlib.suppress(OSError, ValueError):
            pid = int(place.read_text())
            return pid if b"nats-server" in Path(f"/proc/{pid}/cmdline").read_bytes() else 0
        return 0

    def reroute(self, machine: Machine, port: int) -> None:
        """Have a machine come by another port from now on."""
        place = joining.file(machine.env, "worker")
        credentials.save(place, replace(credentials.load(place, ""), address=f"wss://localhost:{port}"))
