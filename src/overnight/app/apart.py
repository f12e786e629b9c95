"""A long verb as a process of its own, for who serves many at once: signals end it cleanly, and it blocks nobody."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from overnight.errors import OvernightError

_LOOK = 0.1  # seconds between two looks at the wish to end
_PATIENCE = 20.0  # seconds in which a verb that was told to end may tidy up
_LIVE: set[Any] = set()  # processes


def verb(
    words: Sequence[str], folder: Path, environ: Mapping[str, str], say: Callable[[str], None], stopped: threading.Event
) -> dict[str, Any]:  # fmt: skip
    """Run ``overnight WORDS --json`` in ``folder`` to its end; ``say`` hears each line of progress, ``stopped`` ends it. Returns what it says.

    Raises ``OvernightError`` with the code that the verb raised.
    """
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "overnight", *words], cwd=folder, env=dict(environ), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as exc:
        raise OvernightError("E-SYSTEM", f"{exc.filename or folder}: {exc.strerror}", why="the system refused it", fix="pwd") from exc
    said: list[str] = []
    with process:
        threads = [
            threading.Thread(target=_read, args=args, daemon=True) for args in ((process.stdout, said.append), (process.stderr, say))
        ]
        for thread in threads:
            thread.start()
        _LIVE.add(process)
        try:
            _wait(process, stopped)
        finally:
            _end(process)
            _LIVE.discard(process)
            for thread in threads:
                thread.join(_PATIENCE)
    return _told(said, process.returncode)


def end_all() -> None:
    """End every verb that runs, for who ends himself; each may tidy up."""
    live = list(_LIVE)
    for process in live:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in live:
        _end(process)


def _read(stream: Any, hear: Callable[[str], None]) -> None:
    for line in stream:
        hear(line.rstrip("\n"))


def _wait(process: subprocess.Popen[str], stopped: threading.Event) -> None:
    while process.poll() is None and not stopped.wait(_LOOK):
        pass


def _end(process: subprocess.Popen[str]) -> None:
    """Ask it to end, as ^C does; it ends what it has started."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _told(said: Sequence[str], code: int) -> dict[str, Any]:
    found: Any = None
    for line in reversed(said):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        break
    if not isinstance(found, dict):
        raise OvernightError("E-INTERRUPTED", f"it ended with {code} and said nothing", fix="overnight status")
    error = found.get("error")
    if found.get("ok") is False and isinstance(error, dict):
        texts = {name: str(error.get(key, "")) for name, key in (("where", "where"), ("why", "why"), ("fix", "hint"))}
        raise OvernightError(str(error.get("code", "E-UNEXPECTED")), str(error.get("message", "")), **texts)
    return found
