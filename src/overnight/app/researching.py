"""What the verbs share that ask an agent beside experiments: settings, repository, record, and whom to ask behind which walls."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from overnight import config, jobs
from overnight.app import agents, prepare, walls, where, wiring
from overnight.app import place as places
from overnight.app.learned import knowledge_of
from overnight.app.options import Options
from overnight.asking import Asker
from overnight.commissions import Ground
from overnight.errors import NotFoundError, OvernightError, ProposalError, UsageError
from overnight.folders import remove
from overnight.goals import Goal, read
from overnight.knowledge import Knowledge
from overnight.models import Direction, Study
from overnight.printed import metric_names
from overnight.proposers.agents import AGENTS, find
from overnight.protocols import Executor
from overnight.redact import Redactor
from overnight.settings import Settings, proposer_shares
from overnight.store import Store
from overnight.workspace import Scope, Workspace

_LEFT = re.compile(r"p(?:ideas|plan)-(\d+)-[0-9a-f]+x-.+")  # jobs of these verbs, by process
_SEARCHES = "optuna"  # reads no text
_SOURCES = 200  # files in which printed metrics are looked for
_PRINTED = 2**20  # bytes of output that are read
_PROGRAM = 64 * 1024


@dataclass(frozen=True, slots=True)
class Desk:
    """A repository opened for research. ``study`` is the one of the record, or one that stands in for it (id 0)."""

    options: Options
    place: places.Place
    workspace: Workspace
    store: Store
    settings: Settings
    study: Study
    base: str  # the commit at HEAD
    knowledge: Knowledge

    def ground(self) -> Ground:
        """What an agent is told of the repository."""
        entries = self.workspace.entries(self.base)
        scope = Scope(self.settings.editable, self.settings.protect)
        code = {path: data.decode("utf-8", "replace") for path, data in self.workspace.editable(self.base, scope).items()}
        program = ""
        with contextlib.suppress(OSError), (self.workspace.root / self.settings.program).open("rb") as file:
            program = file.read(_PROGRAM).decode("utf-8", "replace")
        return Ground(sorted(entries), code, program)

    def metrics(self) -> list[str]:
        """The names of metrics that the code prints, likeliest goal first."""
        entries = self.workspace.entries(self.base)
        paths = [path for path, entry in entries.items() if path.endswith(".py") and entry.size < 2**18][:_SOURCES]
        return metric_names({path: data.decode("utf-8", "replace") for path, data in self.workspace.read(self.base, paths).items()})


@contextlib.contextmanager
def opened(options: Options, say: Callable[[str], None], tag: str = "") -> Iterator[Desk]:
    """The repository at ``options.folder`` with its record, made if need be. Raises ``UsageError``, ``NotFoundError``, ``StorageError``."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # our memory holds the person's keys
    place = prepare.locate(options)
    with contextlib.ExitStack() as stack:
        workspace = stack.enter_context(places.workspace(options.folder, place))
        base = workspace.head()
        loaded = config.load(workspace.root, options.flags, options.environ, options.config)
        for warning in loaded.warnings:
            say(warning)
        store = stack.enter_context(contextlib.closing(Store(place.database)))
        workspace.exclude(f"/{places.STATE}/")
        study = _study(store, loaded.settings, base, tag)
        knowledge = stack.enter_context(contextlib.closing(knowledge_of(store, study, place, options.environ, say)))
        yield Desk(options, place, workspace, store, loaded.settings, study, base, knowledge)


def _study(store: Store, settings: Settings, base: str, tag: str) -> Study:
    """The study with that tag, else the latest, with the settings of now; where there is none, one that stands in for it."""
    try:
        return replace(store.study(tag), settings=settings)
    except NotFoundError:
        if tag:
            raise
    return stand_in(settings, base, "none")


def stand_in(settings: Settings, base: str, name: str) -> Study:
    """A study that is not in the record, for what asks for one."""
    direction = Direction(settings.direction) if settings.direction else Direction.MINIMIZE
    return Study(0, name, "", base, settings.metric, direction, settings, time.time())


def understood(desk: Desk, sentence: str) -> Goal:
    """What a sentence says, completed by the settings and by what the code prints. Raises ``UsageError`` if nothing says what the goal is."""
    settings, study = desk.settings, desk.study
    known = [name for name in (settings.metric, study.metric, *desk.metrics()) if name]
    text = sentence.strip() or settings.goal or (f"improve {settings.metric or study.metric}" if settings.metric or study.metric else "")
    if not text:
        raise UsageError(
            "E-NO-GOAL", "there is no goal", why="none was given, and overnight.toml names neither goal nor metric",
            fix='overnight ideas "improve accuracy, currently 91 %, target 95 %"',
        )  # fmt: skip
    said = read(text, known)
    metric = said.metric or settings.metric or study.metric
    ours = metric == (settings.metric or study.metric)
    way = said.direction or (settings.direction or (str(study.direction) if study.id else "") if ours else "")
    target = said.target if said.target is not None else settings.target if ours else None
    return replace(
        said, metric=metric, target=target, direction=way, now=said.now if said.now is not None else _now(desk) if ours else None
    )


def _now(desk: Desk) -> float | None:
    bar = desk.store.bar(desk.study.id) if desk.study.id else None
    return bar[1] if bar else None


def whom(settings: Settings, environ: Mapping[str, str], verb: str) -> Settings:
    """The settings with those proposers alone that can be asked in words. Raises ``UsageError`` (E-NO-AGENT) if there is none."""
    names = tuple(item for item in settings.proposer if proposer_shares((item,))[0][0] != _SEARCHES)
    if not names and settings.proposer_command:
        names = ("command",)
    if not names:
        there = [name for name, agent in AGENTS.items() if find(agent, environ)]
        fix = f"overnight {verb} --proposer {there[0] if there else 'claude'}"
        raise UsageError(
            "E-NO-AGENT", "nobody is there to ask: no agent is configured",
            why=f"installed: {', '.join(there)}" if there else "none of the known agents is installed",
            fix=fix if there else f"{AGENTS['claude'].install}   # then: {fix}",
        )  # fmt: skip
    chosen = replace(settings, proposer=names)
    agents.check_proposer(chosen, environ)
    return chosen


@contextlib.contextmanager
def asker(desk: Desk, verb: str, say: Callable[[str], None]) -> Iterator[Asker]:
    """Whoever is to be asked, behind walls, with a folder that is gone afterwards. Raises ``UsageError``."""
    settings = whom(desk.settings, desk.options.environ, verb)
    executor = where.executor_at(desk.place.state)
    study = stand_in(settings, desk.base, f"{verb}-{os.getpid()}-{time.time_ns():x}x")
    study = replace(study, metric=settings.metric or desk.study.metric)
    around = walls.around(
        study, desk.workspace, desk.place.state, desk.options.environ, prepare.run_environment(settings, desk.options.environ)
    )
    end_leftovers(desk.place.jobs, executor, _LEFT, lambda found: not _lives(int(found[1])))
    with folder_of(desk.place, verb) as folder:
        made = asker_of(desk, study, (executor, around), folder, say)
        with signals(made.stopping, lambda: say("stopping")) as caught:
            try:
                yield made
            except ProposalError as exc:
                if not caught:
                    raise
                stopped = OvernightError("E-STOPPED", "stopped; nothing was written", fix=f"overnight {verb}")
                stopped.exit_code = caught[-1]
                raise stopped from exc


def asker_of(desk: Desk, study: Study, where: tuple[Executor, walls.Around], folder: Path, say: Callable[[str], None]) -> Asker:
    """An asker of a study that stands in, whose copies are below ``folder``."""
    executor, around = where
    proposer = wiring.proposer_for(study, executor, desk.options.environ, around.proposer)
    return Asker(desk.workspace, proposer, study, (folder, Redactor(desk.options.environ), printed_in(desk.place.jobs)), say)


def end_leftovers(
    folder: Path, executor: Executor, mine: re.Pattern[str], dead: Callable[[re.Match[str]], bool] = lambda _found: True
) -> None:
    """End jobs of a process that was killed, those whose name is ``mine`` and ``dead``: they would work on for nobody."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    left = [name for name in names if (found := mine.fullmatch(name)) and dead(found) and places.is_held(folder / name / jobs.LOCK)]
    for name in left:
        executor.cancel(name, "whoever asked for it is gone")
    for name in left:
        executor.poll(name, 10.0)


@contextlib.contextmanager
def signals(stopping: threading.Event, say: Callable[[], None]) -> Iterator[list[int]]:
    """^C and SIGTERM set ``stopping``, so that what runs is ended and nothing is left half done; yields the exit codes that follow."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        caught.append(128 + number)
        stopping.set()
        say()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def printed_in(folder: Path) -> Callable[[str], str]:
    """Reads what the command of a request wrote to its output; empty for agents, whose output is no plain text."""

    def printed(request: str) -> str:
        for log in sorted(folder.glob(f"p{request}*/output.log")):
            with contextlib.suppress(OSError), log.open("rb") as file:
                return file.read(_PRINTED).decode("utf-8", "replace")
        return ""

    return printed


@contextlib.contextmanager
def folder_of(place: places.Place, verb: str) -> Iterator[Path]:
    """A folder for copies that is gone afterwards; those of processes that were killed go too."""
    top = place.state / "asked"
    for old in top.glob("*-*") if top.is_dir() else ():
        pid = old.name.rpartition("-")[2]
        if pid.isdigit() and not _lives(int(pid)):
            remove(old)
    folder = top / f"{verb}-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        remove(folder)
        with contextlib.suppress(OSError):
            top.rmdir()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
