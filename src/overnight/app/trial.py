"""``overnight trial``: begin, run and settle one experiment whose proposer is whoever calls; nothing is asked of any model.

Opens the study under its lock, takes the signals, and lets ``trying`` work. A call that was killed is taken up by the next one.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from overnight.app import brief as briefs
from overnight.app import learned, prepare, wiring
from overnight.app import place as places
from overnight.app.options import Options
from overnight.app.run import baseline_error
from overnight.app.trial_look import FOLDER, View, answer, copy_of, located, named_one, view, with_brief
from overnight.app.wiring import Listen
from overnight.errors import NotFoundError, OvernightError, UsageError
from overnight.models import MetricPoint, Stage, Study, Trial
from overnight.operators import SPOKEN
from overnight.printable import duration, number
from overnight.settings import as_dict, table
from overnight.steps import Parts
from overnight.store import Store
from overnight.trying import LeftError, Outside, Trying
from overnight.workspace import Workspace

_STILL = 8  # exit code of what still runs
_SLOWER = 0.05  # of the time that has passed, between two lines about a run
_LONGEST = 60.0  # seconds without a line


@dataclass
class Wait:
    """How long the caller waits, and what has ended that: signals, a deadline, or a wish in the record."""

    seconds: float | None = None
    wanted: Callable[[], str] = lambda: "run"
    caught: list[int] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def __call__(self) -> str:
        """Why the run is to be put back; raises ``LeftError`` when it is to go on without the caller."""
        if signal.SIGTERM in self.caught or (self.seconds is not None and time.monotonic() - self.since >= self.seconds):
            raise LeftError
        return "interrupted" if self.caught else "stop --now" if self.wanted() == "stop-now" else ""

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """^C puts the run back; what an agent's program sends when it loses patience, SIGTERM, leaves it running."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def caught(got: int, _frame: FrameType | None) -> None:
            self.caught.append(got)
            if len(self.caught) > 2:
                os._exit(128 + got)

        before = {each: signal.signal(each, caught) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def code(self) -> int:
        """The exit code of a call whose run goes on."""
        return 128 + int(signal.SIGTERM) if signal.SIGTERM in self.caught else _STILL


@dataclass(frozen=True, slots=True)
class _Desk:
    """A study that is open for trials."""

    place: places.Place
    store: Store
    trying: Trying
    parts: Parts

    @property
    def known(self) -> learned.Known:
        return learned.Known(self.place, self.store, self.trying.study, self.parts.knowledge)


@dataclass(frozen=True, slots=True)
class Asked:
    """What ``begin`` was asked for."""

    operator: str = "improve"
    another: bool = False


def begin(options: Options, asked: Asked, wait: Wait, listen: Listen) -> View:
    """Begin a trial from the best version so far, or as ``operator`` says; the baseline is measured first where there is none.

    Raises ``UsageError`` (E-TRIAL-OPEN, E-BUDGET, …), ``BusyError``, ``OvernightError`` (E-BASELINE, E-STILL-RUNNING).
    """
    place = prepare.locate(options)
    with contextlib.ExitStack() as stack:
        workspace = stack.enter_context(places.workspace(options.folder, place))
        stack.enter_context(places.held(place, what=places.TRIAL))
        store = stack.enter_context(contextlib.closing(Store(place.database)))
        store.check()
        options = replace(_as_before(options, store), asks=False)
        half = _refuse_second(options, place, store, another=asked.another)
        ready = prepare.open_study(options, workspace, store, time.time())
        for note in ready.notes:
            listen("note", None, note)
        desk = stack.enter_context(_desk(options, place, ready.study, (store, workspace), (wait, listen)))
        desk.trying.sweep()
        if half is not None:
            desk.trying.lay_out(half)
            return with_brief(desk.known, _told(desk, half), options.folder)
        return _begun(desk, asked.operator, options.folder)


def _begun(desk: _Desk, operator: str, start: Path) -> View:
    trying, store = desk.trying, desk.store
    trying.room()
    study = trying.study
    asked = briefs.occasion(desk.known, SPOKEN[operator])
    latest = store.trials(study.id, last=1)
    trial = Trial(latest[-1].number + 1 if latest else 1, SPOKEN[operator], asked.parent, asked.crashed, time.time(), (), ())
    told = briefs.written(desk.known, replace(asked, answer=answer(trial, trying.copy(trial))), start)
    trial = trying.begin(replace(trial, told=told.notes, takes=(told.idea,) if told.idea else ()))
    return replace(_told(desk, trial), brief=told.text)


def _as_before(options: Options, store: Store) -> Options:
    """The options with what the study was last run with, where neither file, variable nor flag says otherwise."""
    loaded = prepare.resolved(options)
    try:
        study = store.study(loaded.settings.tag)
    except NotFoundError:
        return options
    rows = table()
    known = as_dict(replace(study.settings, tag=study.tag, metric=study.metric, direction=str(study.direction) if study.metric else ""))
    flags = {name: value for name, value in known.items() if loaded.origin[name] == "default" and value != rows[name]["default"]}
    if loaded.settings.metric:
        flags.pop("direction", None)
    return replace(options, flags={**flags, **options.flags})


def _refuse_second(options: Options, place: places.Place, store: Store, *, another: bool) -> Trial | None:
    """Refuse a second trial where nobody asked for one; a trial whose beginning was killed before its copy was there is returned."""
    try:
        study = store.study(prepare.resolved(options).settings.tag)
    except NotFoundError:
        return None
    found = store.open_trials(study.id)
    half = next((trial for trial in found if not trial.experiment and not copy_of(place, study, trial).exists()), None)
    if half is None and found and not another:
        last = found[-1].number
        raise UsageError(
            "E-TRIAL-OPEN", f"trial {last} is open", where=str(copy_of(place, study, found[-1])), why="one at a time, unless --another says so",
            fix=f"overnight trial show {last}   # or: overnight trial settle {last} --discard",
        )  # fmt: skip
    return half


@contextlib.contextmanager
def _desk(
    options: Options, place: places.Place, study: Study, doors: tuple[Store, Workspace], watched: tuple[Wait, Listen]
) -> Iterator[_Desk]:
    """The study's parts put together, the baseline measured; the time that is spent is booked."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # our memory holds the person's keys
    store, (wait, listen) = doors[0], watched
    store.want(study.id, "run")  # whatever was asked of an earlier loop
    wait.wanted = lambda: store.wanted(study.id)
    study, parts = wiring.parts_of(options, place, study, doors, listen, Outside())
    parts = replace(parts, runner=parts.runner.hearing(_Lines(listen)))
    trying = Trying(study, parts, place.state / FOLDER, wait)
    with wait.signals(), contextlib.closing(parts.knowledge):
        try:
            _first(trying, store, place, wait)
            yield _Desk(place, store, trying, parts)
        finally:
            trying.book()


def _first(trying: Trying, store: Store, place: places.Place, wait: Wait) -> None:
    """Have what a trial stands on finished: mostly the baseline."""
    try:
        trying.prepare()
    except LeftError as exc:
        error = OvernightError("E-STILL-RUNNING", "the baseline is still being measured, and goes on", fix="overnight trial begin")
        error.exit_code = wait.code()
        raise error from exc
    except OvernightError as exc:
        if exc.code == "E-BASELINE":
            raise baseline_error(trying.study, store, place) from exc
        exc.exit_code = 130 if wait.caught else exc.exit_code
        raise


class _Lines:
    """What runs say, as lines that come ever more seldom; one in a while also of a run that is silent, since clients end calls that are."""

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        self._about = 0  # the experiment
        self._since = self._told = 0.0
        self._latest: dict[str, float] = {}
        self._step = ""

    def __call__(self, experiment: int, points: Sequence[MetricPoint]) -> None:
        """Take in what came since the last look."""
        now = time.monotonic()
        if experiment != self._about:
            self._about, self._since, self._told = experiment, now, now - _LONGEST if points else now
            self._latest, self._step = {}, ""
        self._latest |= {point.name: point.value for point in points}
        self._step = f", step {points[-1].step:g}" if points else self._step
        if now - self._told < (max(1.0, _SLOWER * (now - self._since)) if self._latest else _LONGEST):
            return
        self._told = now
        said = " ".join(f"@{name}={number(value)}" for name, value in list(self._latest.items())[:8]) or "runs"
        self._latest = {}
        self._listen("metrics", None, f"#{experiment} {duration(now - self._since)}{self._step}: {said}")


@contextlib.contextmanager
def _opened(options: Options, named: int, wait: Wait, listen: Listen) -> Iterator[tuple[_Desk, Trial]]:
    """A trial of a study that there is, under its lock."""
    place = located(options)
    with contextlib.ExitStack() as stack:
        workspace = stack.enter_context(places.workspace(options.folder, place))
        stack.enter_context(places.held(place, what=places.TRIAL))
        store = stack.enter_context(contextlib.closing(Store(place.database)))
        study = store.study(str(options.flags.get("tag", "")))
        trial = named_one(store, study, named)
        yield stack.enter_context(_desk(options, place, study, (store, workspace), (wait, listen))), trial


def run(options: Options, named: int, hypothesis: str, wait: Wait, listen: Listen) -> View:
    """Run what is in the copy of a trial, or go on with that, up to where it can be decided. ``named`` 0 = the one that is open.

    Raises ``UsageError`` (E-NOT-FIT, E-NO-EDIT, E-TRIED, E-NO-HYPOTHESIS, E-TRIAL-OVER, E-BUDGET), ``NotFoundError``, ``BusyError``.
    """
    with _opened(options, named, wait, listen) as (desk, trial):
        trying, store = desk.trying, desk.store
        if trial.ended is not None or (trial.experiment and store.experiment(trying.study.id, trial.experiment).decision is not None):
            fix = f"overnight trial show {trial.number}   # or: overnight trial begin"
            raise UsageError("E-TRIAL-OVER", f"trial {trial.number} is over", why="a trial is one experiment", fix=fix)
        trying.lay_out(trial)
        handed = trial.experiment or trying.hand_in(trial, hypothesis).number
        try:
            done = trying.measure(handed)
        except LeftError:
            return replace(_told(desk, trial), exit_code=wait.code())
        if done is None:
            raise _put_back(trial, wait)
        since = ("the copy was edited after it was handed in: these edits are not in the experiment",) if trying.edited_since(trial) else ()
        return replace(_told(desk, trial), expected=trying.verdict(done), notes=since)


def _put_back(trial: Trial, wait: Wait) -> OvernightError:
    error = OvernightError("E-INTERRUPTED", f"the run of trial {trial.number} was put back", fix=f"overnight trial run {trial.number}")
    error.exit_code = 130 if wait.caught else 1
    return error


def settle(options: Options, named: int, given_up: str | None, wait: Wait, listen: Listen) -> View:
    """Have a measured trial decided as the loop decides; ``given_up`` (why) makes it a discard whatever it is worth, or ends one that was not run.

    Again is harmless. Raises ``UsageError`` (E-NOT-MEASURED), ``NotFoundError``, ``BusyError``.
    """
    with _opened(options, named, wait, listen) as (desk, trial):
        trying, store = desk.trying, desk.store
        mine = store.experiment(trying.study.id, trial.experiment) if trial.experiment else None
        if trial.ended is not None:
            return _told(desk, trial)
        try:
            if given_up is not None:
                trying.give_up(trial, given_up)
            elif mine is None or mine.stage in (Stage.PROPOSED, Stage.COMMITTED, Stage.SUBMITTED):
                fix = f"overnight trial run {trial.number}{'' if mine else ' -m WHAT'}   # or: overnight trial settle {trial.number} --discard"
                raise UsageError("E-NOT-MEASURED", f"trial {trial.number} was not measured yet", why="a decision needs numbers", fix=fix)
            elif trying.settle(trial) is None:
                raise _put_back(trial, wait)
        except LeftError:
            return replace(_told(desk, trial), exit_code=wait.code())
        return replace(_told(desk, trial), goal=trying.goal_reached())


def _told(desk: _Desk, trial: Trial) -> View:
    return view(desk.known, desk.store.trial(desk.trying.study.id, trial.number))
