"""``overnight run``: put the parts together, take the signals, run the loop, say how it ended."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from overnight.app import before, prepare, read, wiring
from overnight.app import place as places
from overnight.app.options import Options
from overnight.app.wiring import Listen
from overnight.errors import OvernightError
from overnight.loop import Loop
from overnight.models import Study, Summary
from overnight.printable import duration, one_line
from overnight.store import Store

# As Python, libc and shells say it: with the path in quotes at the end, or in front.
_MISSED = re.compile(
    r"""(?:No such file or directory|not found|does not exist)[^\n]*?['"](/[^'"\n]+)['"]|(/[^\s:'"]+)['"]?: No such file or directory"""
)
_MODULE = re.compile(r"ModuleNotFoundError: No module named '(\w+)")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: the reason, the study in numbers, and the exit code."""

    reason: str
    summary: Summary
    exit_code: int


def run(options: Options, listen: Listen, begin: Callable[[Study, float | None, Path], None]) -> Ended:
    """Run the study until it ends. ``begin`` hears once of the study, its best value so far and its state folder, ``listen`` of what happens.

    Raises ``UsageError``, ``BusyError``, ``StorageError``, ``GitError`` and, for a baseline that gives no value, ``OvernightError``.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # our memory holds the person's keys
    place = prepare.locate(options)
    with contextlib.ExitStack() as stack:
        workspace = stack.enter_context(places.workspace(options.folder, place))
        stack.enter_context(places.held(place))
        store = stack.enter_context(contextlib.closing(Store(place.database)))
        store.check()
        options, remembered = before.remembered(options, store)
        ready = prepare.open_study(options, workspace, store, time.time())
        for note in (*((remembered,) if remembered else ()), *ready.notes):
            listen("note", None, note)
        best = store.bar(ready.study.id)
        begin(ready.study, best[1] if best else None, place.state)
        loop = wiring.assembled(options, place, ready.study, (store, workspace), listen)
        listen("begin" if ready.fresh else "resume", None, ready.study.tag)
        with _signals(loop, listen) as caught:
            reason = _worked(loop, store, place)
        return Ended(reason, read.with_gain(store, read.at_rest(store.summary(loop.study))), caught[-1] if caught else 0)


def _worked(loop: Loop, store: Store, place: places.Place) -> str:
    try:
        return loop.run()
    except OvernightError as exc:
        if exc.code == "E-BASELINE":
            raise baseline_error(loop.study, store, place) from exc
        raise


@contextlib.contextmanager
def _signals(loop: Loop, listen: Listen) -> Iterator[list[int]]:
    """First ^C: finish the running experiments; second ^C or SIGTERM: put them back now; third: at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        caught.append(130)
        if len(caught) > 2:
            os._exit(130)
        loop.stop("finish" if len(caught) == 1 else "now")
        text = (
            "the running experiment is finished first; ^C again puts it back in the queue"
            if len(caught) == 1
            else "putting the running experiment back"
        )
        listen("note", None, text)

    def terminate(_number: int, _frame: FrameType | None) -> None:
        caught.append(143)
        loop.stop("now")

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def baseline_error(study: Study, store: Store, place: places.Place) -> OvernightError:
    """What was wrong with the first run, and where to look."""
    item = next(found for found in reversed(store.experiments(study.id)) if found.operator == "baseline")
    job = f"{study.tag}-{item.number}.{store.last_attempt(study.id, item.number)}"
    log = place.jobs / job / "output.log"
    if item.crash_kind == "evaluation" and (said := place.jobs / f"{job}.eval" / "output.log").exists():
        return OvernightError(
            "E-BASELINE", f"the baseline could not be measured: {item.cause}", where=f"{said}, last line: {_last_line(said) or 'none'}",
            why="the evaluator itself failed on what the run left",
            fix=f"cat {shlex.quote(str(said))}   # read it, mend the evaluator, commit, then: overnight run",
        )  # fmt: skip
    if item.crash_kind == "no-metric":
        names = ", ".join(item.metrics) or "none"
        fix = f'print it, for example  print(f"@{study.metric or "loss"}={{value}}")' + (
            f"   or: --metric {next(iter(item.metrics))}" if item.metrics else ""
        )
        return OvernightError(
            "E-METRIC-MISSING", f"the baseline ended (exit 0, {item.seconds:.1f} s) but printed no {study.metric or 'metric'}",
            where=str(log), why=f"metrics found: {names}{_unread(log, study.metric)}", fix=fix,
        )  # fmt: skip
    last = _last_line(log)
    fixes = {
        "timeout": f"overnight run --time-limit {duration(3 * study.settings.limit).replace(' ', '')}",
        "command": "overnight run -- python train.py",
        "oom": "make the baseline fit, then: overnight run",
        "network": "overnight run --sandbox-network   # or bring the data here first and name it: --data PATH",
    }
    if (module := _MODULE.search(last)) and (place.state.parent / "src" / module[1]).exists():
        return OvernightError(
            "E-BASELINE", f"the baseline did not work: {item.cause}", where=str(log),
            why="a run imports from a fresh export of the commit, not what is installed from this checkout (pip install -e)",
            fix=f"overnight run -- env PYTHONPATH=src {shlex.join(study.settings.command)}",
        )  # fmt: skip
    if not study.settings.unsafe_no_sandbox and (unseen := _unseen(log)):
        return OvernightError(
            "E-BASELINE", f"the baseline did not work: {item.cause}", where=str(log), why=f"{unseen} is there, but runs are kept from seeing it",
            fix=f'overnight run --data {shlex.quote(unseen)}   # for good: data = ["{unseen}"] in overnight.toml',
        )  # fmt: skip
    return OvernightError(
        "E-BASELINE", f"the baseline did not work: {item.cause}", where=f"{log}{last and f', last line: {last}'}", why="without a baseline nothing can be compared",
        fix=fixes.get(item.crash_kind, f"overnight log {item.number}   # read it, mend the code, commit, then: overnight run"),
    )  # fmt: skip


def _unseen(log: Path) -> str:
    """A path of this machine that a run has missed because of its walls; empty if there is none."""
    with contextlib.suppress(OSError, ValueError):
        text = log.read_bytes()[-4096:].decode("utf-8", "replace")
        named = [match[1] or match[2] for match in _MISSED.finditer(text)]
        return next((path for path in reversed(named) if os.path.exists(path)), "")
    return ""


def _unread(log: Path, metric: str) -> str:
    """The last line that tells the metric in a form that is not read, as the end of a sentence; empty if there is none."""
    told = re.compile(rf"(?<!\w){re.escape(metric)}(?!\w).*\d", re.IGNORECASE)
    with contextlib.suppress(OSError):
        lines = re.split("[\r\n]", log.read_bytes()[-65536:].decode("utf-8", "replace")) if metric else []
        return next((f'; not in a form that is read: "{shown}"' for line in reversed(lines) if told.search(shown := one_line(line))), "")
    return ""


def _last_line(log: Path) -> str:
    """The last line that a run has printed, in quotes; empty if there is none."""
    with contextlib.suppress(OSError):
        lines = log.read_bytes()[-4096:].decode("utf-8", "replace").split("\n")
        return next((f'"{shown}"' for line in reversed(lines) if (shown := one_line(line))), "")
    return ""
