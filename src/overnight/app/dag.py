"""Beginning, conducting, resuming and cancelling a pipeline: from its YAML to its end."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from overnight import yamls
from overnight.app import dag_place
from overnight.app.dag_place import Doors, Wrap
from overnight.app.data import data_links
from overnight.conducting import Conductor, Place, Say
from overnight.dag import read as reading
from overnight.dag.plan import plan
from overnight.dag.words import Dag, DagState, Plan
from overnight.errors import NotFoundError, OvernightError, UsageError
from overnight.handing import Handing
from overnight.redact import Redactor

_PATIENCE = 20.0  # seconds in which a conductor in the background must be at work


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pipeline as a person asks for it. ``options`` holds what was given of slots, gpus, executor, until, cache and walls."""

    text: str
    file: str  # what errors call it
    workdir: Path
    options: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Begun:
    """A pipeline that can be conducted; ``notes`` are to be said."""

    dag: Dag
    plan: Plan
    wrap: Wrap
    notes: tuple[str, ...] = ()


def from_file(path: Path, workdir: Path | None, options: Mapping[str, object]) -> Wanted:
    """The pipeline in a file; its folder is where it is run unless another is named. Raises ``NotFoundError``, ``UsageError``."""
    try:
        if path.is_file() and path.stat().st_size > yamls.MOST_BYTES:
            raise UsageError(
                "E-YAML", f"{path.name}:1: it has {path.stat().st_size} bytes; {yamls.MOST_BYTES} are allowed", fix=f"ls -l {path}"
            )
        data = path.read_bytes()
    except OSError as exc:
        near = sorted(found.name for found in path.parent.glob("*.y*ml"))[:5] if path.parent.is_dir() else []
        why = f"there are {', '.join(near)}" if near else ""
        raise NotFoundError(
            "E-NO-FILE", f"{path} cannot be read: {exc.strerror}", why=why, fix=f"overnight dag run {near[0] if near else 'pipeline.yaml'}"
        ) from exc
    yamls.read(data, path.name)  # says what is no UTF-8
    return Wanted(data.decode("utf-8"), path.name, (workdir or path.absolute().parent).absolute(), options)


def planned(text: str, file: str, until: Sequence[str] = ()) -> Plan:
    """The tasks of a pipeline. Raises ``UsageError`` with ``file:line:``."""
    return plan(*reading.pipeline(yamls.read(text.encode("utf-8", "surrogatepass"), file), file), until)


def begin(doors: Doors, wanted: Wanted, environ: Mapping[str, str], now: float) -> Begun:
    """Check everything, pack the code and write the pipeline down; one that was interrupted and is the same goes on instead.

    Raises ``UsageError`` (E-YAML, E-PIPELINE, E-NO-GPU, E-NO-SANDBOX, E-CODE-TOO-LARGE, E-NO-FOLDER), ``StorageError``.
    """
    until = _texts(wanted.options.get("until"))
    found = planned(wanted.text, wanted.file, until)
    settings = dag_place.settings_for(wanted.workdir, wanted.options, environ)
    options = dag_place.placed(wanted.options, settings)
    dag_place.check(doors.home, found, options, settings, environ)
    code = doors.parcels.pack(wanted.workdir)
    dag = Dag(
        0, found.pipeline.name, wanted.text, wanted.file, str(wanted.workdir.resolve()), code.commit, code.folder, now, options, {**code.links},
    )  # fmt: skip
    wrap = dag_place.walls(doors.home, dag, found, settings, environ)
    left = [each for each in doors.record.unfinished(dag.workdir, dag.text) if dag_place.is_left(doors.home, each, now)]
    for each in left:
        if (each.commit, dict(each.options)) == (dag.commit, dict(dag.options)) and not doors.record.wanted(each.number):
            return Begun(each, found, wrap, (f"{each.id} of this pipeline was interrupted: going on with it",))
    notes = [
        f"{each.id} of this pipeline was interrupted, with other code or options: overnight dag resume {each.id}   # or: dag cancel"
        for each in left[:1]
    ]
    made = doors.record.create(dag, [task.id for task in found.tasks])
    return Begun(made, found, wrap, tuple(notes))


def _other_nodes(dag: Dag) -> list[str]:
    """Say so when the pipeline's file is another one by now: the nodes that were begun go on."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if (
            dag.file
            and Path(dag.workdir, dag.file).read_text(encoding="utf-8-sig").splitlines() != dag.text.removeprefix("\ufeff").splitlines()
        ):
            return [f"the nodes are those that {dag.id} began with; for those of {dag.file} now: overnight dag run {shlex.quote(dag.file)}"]
    return []


def again(doors: Doors, number: int, environ: Mapping[str, str], code: str = "") -> Begun:
    """A pipeline that ended or was interrupted, ready to go on: what succeeded stays, what runs is adopted, all else is tried again.

    ``code``: ``begun`` = as it was packed, ``now`` = as it is; by default ``now`` if something failed, since that is mended in the code.
    Raises ``NotFoundError``, ``UsageError``, ``BusyError``.
    """
    dag = doors.record.dag(number)
    found = planned(dag.text, dag.file, _texts(dag.options.get("until")))
    rows = doors.record.tasks(dag.number)
    settings = dag_place.settings_for(Path(dag.workdir), dag.options, environ)
    wrap = dag_place.walls(doors.home, dag, found, settings, environ)
    notes: list[str] = []
    with dag_place.conducted(doors.home, dag):
        failed = [row.task for row in rows if row.state.failed]
        commit, folder, links = dag.commit, dag.folder, dag.links
        if (code or ("now" if failed else "begun")) == "now":
            packed = doors.parcels.pack(Path(dag.workdir))
            if packed.commit != dag.commit:
                old, new = doors.parcels.files(dag.commit), doors.parcels.files(packed.commit)
                names = sorted(path for path in {*old, *new} if old.get(path) != new.get(path))
                shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
                notes.append(f"{shown} changed since {dag.id} began: what is left runs with the code as it is now")
            commit, folder, links = packed.commit, packed.folder, packed.links
        notes += _other_nodes(dag)
        if dag.state.over or failed:
            doors.record.resume(dag.number, commit=commit, folder=folder, links=links)
    return Begun(doors.record.dag(dag.number), found, wrap, tuple(notes))


def conduct(doors: Doors, begun: Begun, environ: Mapping[str, str], say: Say, stop: Callable[[], str] = lambda: "") -> DagState:
    """Conduct a pipeline to its end, or until ``stop``. Raises ``BusyError``, ``StorageError``."""
    dag, found = begun.dag, begun.plan
    settings = dag_place.settings_for(Path(dag.workdir), dag.options, environ)
    place = Place(
        doors.home.part("runs"),
        dag_place.environment(settings, environ),
        dag_place.machine(dag.options, settings, environ),
        begun.wrap,
        dag.options.get("cache", True) is True,
        Redactor(environ).text,
        apart=dag.options.get("executor") == "hub",
    )
    executor = dag_place.executor_of(doors.home, dag.options, settings, environ)
    with dag_place.conducted(doors.home, dag), contextlib.ExitStack() as stack:
        if close := getattr(executor, "close", None):
            stack.callback(close)
        rows = doors.record.tasks(dag.number)
        person = Path(environ.get("HOME") or "/nonexistent")
        tracked = {path.removeprefix(f"{dag.folder}/") for path in doors.parcels.files(dag.commit)}
        data = tuple(name for name in data_links(settings.data, Path(dag.workdir), tracked) if name != ".venv")
        handing = Handing((doors.record, doors.parcels, doors.outputs), dag, found, rows, person, data)
        return Conductor(doors.record, executor, (dag, found, rows, handing), place, say, stop).run()


def cancel(doors: Doors, number: int, environ: Mapping[str, str], seconds: float = 60.0) -> DagState:
    """End a pipeline with all its tasks; if nobody conducts it, that is done here. Raises ``NotFoundError``."""
    dag = doors.record.dag(number)
    if dag.state.over:
        return dag.state
    doors.record.want(dag.number, "cancel")
    until = time.monotonic() + seconds
    while dag_place.is_conducted(doors.home, dag.number) and time.monotonic() < until:
        if (state := doors.record.dag(dag.number).state).over:
            return state
        time.sleep(0.02)
    if not (state := doors.record.dag(dag.number).state).over and not dag_place.is_conducted(doors.home, dag.number):
        found = planned(dag.text, dag.file, _texts(dag.options.get("until")))
        return conduct(doors, Begun(dag, found, lambda spec: spec), environ, lambda _task, _line: None)
    return state


def in_background(doors: Doors, dag: Dag, environ: Mapping[str, str]) -> int:
    """Have a pipeline conducted by a process of its own; returns its id once it is at work. Raises ``OvernightError``."""
    doors.home.part("logs").mkdir(parents=True, exist_ok=True)
    log = doors.home.part("logs") / f"{dag.id}.log"
    with log.open("ab") as file:
        begin_at = file.tell()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "overnight", "dag", "resume", dag.id, "--code", "begun"], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True, cwd=dag.workdir, env=dict(environ),
        )  # fmt: skip
    until = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < until:
        if dag_place.is_conducted(doors.home, dag.number) and log.stat().st_size > begin_at:
            return process.pid
        time.sleep(0.01)
    if process.poll() in (None, 0) or doors.record.dag(dag.number).state.over:
        return process.pid
    said = log.read_bytes()[begin_at:].decode("utf-8", "replace").strip()
    raise OvernightError(
        "E-START",
        f"{dag.id} could not be conducted in the background",
        where=str(log),
        why=said[-2000:],
        fix=f"overnight dag resume {dag.id}",
    )


@contextlib.contextmanager
def interruptible(note: Callable[[str], None]) -> Iterator[tuple[list[int], Callable[[], str]]]:
    """^C: nothing more is started, and what runs is finished; ^C again or SIGTERM: what runs is put back; third: at once."""
    caught: list[int] = []

    def asked() -> str:
        return "" if not caught else "now" if len(caught) > 1 or caught[0] == 143 else "finish"

    if threading.current_thread() is not threading.main_thread():
        yield caught, asked
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        caught.append(130)
        if len(caught) > 2:
            os._exit(130)
        note("what runs is finished first; ^C again puts it back" if len(caught) == 1 else "putting back what runs")

    def terminate(_number: int, _frame: FrameType | None) -> None:
        caught.append(143)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield caught, asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(state: DagState, caught: Sequence[int] = ()) -> int:
    """0 succeeded, 6 a node failed, 1 cancelled, else the signal's."""
    return {DagState.SUCCEEDED: 0, DagState.FAILED: 6, DagState.CANCELLED: 1}.get(state, caught[-1] if caught else 1)


def number_of(given: str) -> int:
    """12 of ``dag-12`` or ``12``; 0 (the latest) of ``last``. Raises ``UsageError``."""
    digits = given.removeprefix("dag-").removeprefix("#")
    if given in ("", "last"):
        return 0
    if digits.isdecimal() and digits.isascii() and 0 < len(digits) < 16:
        return int(digits)
    raise UsageError("E-BAD-ID", f"'{given}' names no pipeline", why="it is dag-12, 12 or last", fix="overnight dag ls")


def _texts(found: object) -> tuple[str, ...]:
    return tuple(map(str, found)) if isinstance(found, list | tuple) else ()
