"""``overnight run``: put the parts together, take the signals, run the loop, say how it ended."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from overnight.app import place as places
from overnight.app import prepare
from overnight.app.data import data_links
from overnight.errors import OvernightError, StorageError, UsageError
from overnight.evaluation import Exam, Examiner
from overnight.executors import EXECUTORS
from overnight.ledger import Ledger
from overnight.loop import Loop
from overnight.models import Experiment, Stage, Study, Summary
from overnight.proposers import PROPOSERS
from overnight.protocols import Executor, Proposer
from overnight.results import Table
from overnight.runner import Place, Runner
from overnight.steps import Parts
from overnight.store import Store
from overnight.thinking import Thinker
from overnight.workspace import Scope, Workspace

Listen = Callable[[str, Experiment | None, str], None]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: the reason, the study in numbers, and the exit code."""

    reason: str
    summary: Summary
    exit_code: int


def run(options: prepare.Options, listen: Listen, begin: Callable[[Study, float | None, Path], None]) -> Ended:
    """Run the study until it ends. ``begin`` hears once of the study, its best value so far and its state folder, ``listen`` of what happens.

    Raises ``UsageError``, ``BusyError``, ``StorageError``, ``GitError`` and, for a baseline that gives no value, ``OvernightError``.
    """
    place = prepare.locate(options)
    with contextlib.ExitStack() as stack:
        workspace = stack.enter_context(Workspace.open(options.folder, place.state))
        places.make(place)
        stack.enter_context(places.held(place))
        store = stack.enter_context(contextlib.closing(Store(place.database)))
        store.check()
        ready = prepare.open_study(options, workspace, store, time.time())
        for note in ready.notes:
            listen("note", None, note)
        best = store.bar(ready.study.id)
        begin(ready.study, best[1] if best else None, place.state)
        loop = _assembled(options, place, ready.study, (store, workspace), listen)
        listen("begin" if ready.fresh else "resume", None, ready.study.tag)
        with _signals(loop, listen) as caught:
            reason = _worked(loop, store, place)
        return Ended(reason, store.summary(loop.study), caught[-1] if caught else 0)


def _worked(loop: Loop, store: Store, place: places.Place) -> str:
    try:
        return loop.run()
    except OvernightError as exc:
        if exc.code == "E-BASELINE":
            raise _baseline_error(loop.study, store, place) from exc
        raise


def _assembled(options: prepare.Options, place: places.Place, study: Study, doors: tuple[Store, Workspace], listen: Listen) -> Loop:
    """Wire executor, proposer, runner, thinker and ledger into a loop, and make the baseline its first experiment."""
    store, workspace = doors
    settings = study.settings
    scope = Scope(settings.editable, settings.protect)
    tracked = set(workspace.entries(study.base_commit))
    executor: Executor = _load(EXECUTORS["local"])(place.jobs)
    proposer = _proposer(study, executor, options.environ)
    links = data_links(settings.data, workspace.root, tracked)
    argv = settings.command if len(settings.command) > 1 else ("/bin/sh", "-c", settings.command[0])
    env = prepare.run_environment(settings, options.environ)
    where = Place(place.state / "runs", env, links, argv, scope, lambda spec: spec)
    runner = Runner((executor, workspace, store), where, _examiner(study, executor, workspace, env, place.state), time.time)
    thinker = Thinker(store, workspace, proposer, scope, place.state / "copies")
    ledger = Ledger(store, workspace, scope, _tables(place, study, workspace))
    thinker.sweep()
    runner.sweep(study)
    ledger.open(study)
    if store.bar(study.id) is None and not store.unfinished(study.id):
        files = prepare.baseline(study, workspace)
        store.propose(study.id, files, prepare.lines(files), time.time())
    _recall(store, study, proposer)
    parts = Parts(
        store, runner, thinker, ledger, proposer.tell, listen, lambda metrics: prepare.name_goal(settings, metrics), time.time,
        prepare.slot_gpus(settings, options.environ),
    )  # fmt: skip
    return Loop(study, parts)


def _examiner(study: Study, executor: Executor, workspace: Workspace, env: Mapping[str, str], state: Path) -> Examiner | None:
    """Who measures artefacts, if the study has an evaluator."""
    settings = study.settings
    if not settings.evaluate:
        return None
    holdout = _holdout(study, workspace, state) if settings.holdout else None
    scope = Scope(settings.editable, settings.protect)
    exam = Exam(settings.evaluate, settings.artifact, holdout, settings.predict, env, settings.evaluate_time_limit, scope, lambda spec: spec)
    return Examiner(executor, workspace, exam)


def _holdout(study: Study, workspace: Workspace, state: Path) -> Path:
    """Where the evaluator finds the hold-out: in the checkout, or, if git tracks it, in a copy of our own that nobody else sees."""
    name = study.settings.holdout.strip("/") if not Path(study.settings.holdout).is_absolute() else study.settings.holdout
    tracked = [path for path in workspace.entries(study.base_commit) if path == name or path.startswith(f"{name}/")]
    if not tracked:
        return (workspace.root / name).absolute()
    workspace.hide([name])
    folder = state / "holdout" / study.base_commit[:12]
    for path, content in workspace.read(study.base_commit, tracked).items():
        target = folder / path
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return folder / name


def _tables(place: places.Place, study: Study, workspace: Workspace) -> list[Table]:
    """``results.tsv`` where the seed has it, and one in the state folder that no other study overwrites."""
    metric = study.metric if study.settings.tsv_metric_name else ""
    own = Table(place.state / f"results-{study.tag}.tsv", metric)
    if "results.tsv" in workspace.entries(study.base_commit):  # tracked: the checkout is not ours to change
        return [own]
    workspace.exclude(f"/{places.STATE}/", "/results.tsv")
    shared = workspace.root / "results.tsv"
    _put_aside(shared, place)
    return [own, Table(shared, metric)]


def _put_aside(path: Path, place: places.Place) -> None:
    """Keep a copy of a table that somebody else wrote before it is replaced."""
    with contextlib.suppress(FileNotFoundError):
        old = path.read_bytes()
        ours = [item.read_bytes() for item in place.state.glob("results-*.tsv")]
        if old not in ours and len(old.splitlines()) > 1:
            try:
                (place.state / f"results-before-{int(path.stat().st_mtime)}.tsv").write_bytes(old)
            except OSError as exc:
                raise StorageError("E-RESULTS", f"{path} cannot be put aside: {exc.strerror}", fix="df -h .") from exc


def _load(dotted: str) -> Callable[..., Any]:
    module, _, name = dotted.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise UsageError("E-NO-PLUGIN", f"'{dotted}' cannot be loaded: {exc}", fix="name it as package.module:Class") from exc
    return found


def _proposer(study: Study, executor: Executor, environ: Mapping[str, str]) -> Proposer:
    settings = study.settings
    name = settings.proposer[0] if settings.proposer else "command" if settings.proposer_command else "optuna"
    made: Proposer
    if name == "command":
        made = _load(PROPOSERS[name])(settings.proposer_command, settings.proposer_time_limit, executor, environ)
    else:
        made = _load(PROPOSERS.get(name, name))(seed=settings.seed, direction=study.direction)
    return made


def _recall(store: Store, study: Study, proposer: Proposer) -> None:
    """Tell a new proposer what earlier loops have learned."""
    for experiment in store.experiments(study.id):
        if experiment.stage is Stage.APPLIED:
            proposer.tell(experiment, lambda number=experiment.number: store.files(study.id, number))  # type: ignore[misc] # binds the number


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


def _baseline_error(study: Study, store: Store, place: places.Place) -> OvernightError:
    """What was wrong with the first run, and where to look."""
    item = next(found for found in reversed(store.experiments(study.id)) if found.operator == "baseline")
    log = place.jobs / f"{study.tag}-{item.number}.{store.last_attempt(study.id, item.number)}" / "output.log"
    if item.crash_kind == "no-metric":
        names = ", ".join(item.metrics) or "none"
        fix = f'print it, for example  print(f"@{study.metric or "loss"}={{value}}")' + (
            f"   or: --metric {next(iter(item.metrics))}" if item.metrics else ""
        )
        return OvernightError(
            "E-METRIC-MISSING", f"the baseline ended (exit 0, {item.seconds:.1f} s) but printed no {study.metric or 'metric'}",
            where=str(log), why=f"metrics found: {names}", fix=fix,
        )  # fmt: skip
    fixes = {
        "timeout": "overnight run --time-limit 30m",
        "command": "overnight run -- python train.py",
        "oom": "make the baseline fit, then: overnight run",
    }
    return OvernightError(
        "E-BASELINE", f"the baseline did not work: {item.cause}", where=str(log), why="without a baseline nothing can be compared",
        fix=fixes.get(item.crash_kind, f"overnight log {item.number}   # read it, mend the code, commit, then: overnight run"),
    )  # fmt: skip
