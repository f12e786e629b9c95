"""Machines of one test that meet at a relay: each has a home of its own and runs the real commands."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from machines import Machine, end
from overnight.app import joining
from overnight.app import relay as relays
from overnight.hub import credentials
from yards import until


class World:
    """A relay with its hub, a worker and a laptop."""

    def __init__(self, path: Path) -> None:
        self.hub: subprocess.Popen[bytes] | None = None
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
            end(self.relay)
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
        said = relays._says(relays.folder(self.server.env, None).path / "lock")
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
