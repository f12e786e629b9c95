"""Machines for tests: a home of its own, and the command in it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import warm
from commands import SOURCE


class Machine:
    """A machine: a home, and the command in it. ``env`` may be changed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir()
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": SOURCE, "OVERNIGHT_WORKER_ROOM": "1000000"}
        self.running = contextlib.ExitStack()

    def run(self, *words: str, code: int = 0, cwd: Path | None = None) -> str:
        """What a command prints, or what it complains about when it is to end with another code than 0."""
        done = warm.run(words, cwd or self.home, self.env, 120)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), f"{words}\n{done.stdout}\n{done.stderr}"
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
        self.running.callback(end, process)
        return process

    def said(self, verb: str) -> str:
        """What a command behind has said so far."""
        return (self.home / f"{verb}.log").read_text()


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(60)
