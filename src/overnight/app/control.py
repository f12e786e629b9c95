"""Steering a loop from outside: start it in the background, pause, resume, stop. Wishes go through the store; the loop follows."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from overnight.app import place as places
from overnight.app import prepare
from overnight.app.options import Options
from overnight.errors import NotFoundError, OvernightError
from overnight.store import Store

_ERROR = re.compile(
    r"^error\[(?P<code>E-[A-Z-]+)\]: (?P<message>.*)$"
    + "".join(rf"(?:\n  {label + ':':<7}(?P<{label}>.*(?:\n {{9}}.*)*)$)?" for label in ("where", "why", "fix")),
    re.MULTILINE,
)


def ask(start: Path, state: Path | None, environ: Mapping[str, str], wanted: str, tag: str = "") -> str:
    """Write what is wanted (run, pause, stop, stop-now) for the running loop; returns who holds it. Raises ``NotFoundError`` if nobody does."""
    place = places.find(start, state, environ)
    holder = place.holder()
    if not place.database.exists() or not holder:
        raise NotFoundError(
            "E-NOT-RUNNING", "no loop is running here", where=str(place.state), fix="overnight status   # or: overnight start"
        )
    with contextlib.closing(Store(place.database)) as store:
        store.want(store.study(tag).id, wanted)
    return holder


def wait_for_end(start: Path, state: Path | None, environ: Mapping[str, str], seconds: float) -> bool:
    """Whether the loop is gone within ``seconds``."""
    place = places.find(start, state, environ)
    deadline = time.monotonic() + seconds
    while place.holder():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def start(options: Options, words: list[str]) -> tuple[int, Path]:
    """Run ``overnight run`` with the same words in a session of its own; returns its pid and its log once the study is under way.

    Raises what the run raised when it did not come that far.
    """
    place = prepare.locate(options)
    places.make(place)
    if holder := place.holder():
        raise places.busy(place, holder)
    log = place.state / "loop.log"
    if log.exists() and log.stat().st_size > 2**24:
        os.replace(log, log.with_suffix(".log.1"))
    with log.open("ab") as file:
        begin = file.tell()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "overnight", "run", *words], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True, cwd=options.folder, env=dict(options.environ),
        )  # fmt: skip
    while process.poll() is None:
        if place.holder_pid() == process.pid and b"[loop] " in _since(log, begin):
            return process.pid, log
        time.sleep(0.02)
    text = _since(log, begin).decode("utf-8", "replace")
    if process.returncode == 0:
        return process.pid, log
    error = _told(text) or OvernightError("E-START", "the loop did not start", where=str(log), why=text.strip()[-2000:])
    error.exit_code = process.returncode if process.returncode > 0 else 1
    raise error


def _told(text: str) -> OvernightError | None:
    """The last error in the text, as it was before it was printed."""
    found = list(_ERROR.finditer(text))
    if not found:
        return None
    parts = {name: (found[-1][name] or "").replace("\n         ", "\n") for name in ("where", "why", "fix")}
    return OvernightError(found[-1]["code"], found[-1]["message"], **parts)


def _since(log: Path, begin: int) -> bytes:
    with log.open("rb") as file:
        file.seek(begin)
        return file.read()
