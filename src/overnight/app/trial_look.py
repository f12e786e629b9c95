"""What a trial is by now, for every face, and the verbs that only look: ``trial ls`` and ``trial show``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from overnight.app import brief as briefs
from overnight.app import learned, prepare, read
from overnight.app import place as places
from overnight.app.options import Options
from overnight.errors import NotFoundError
from overnight.models import Experiment, Run, Stage, Study, Trial
from overnight.operators import SPOKEN
from overnight.printable import moment
from overnight.referee import Referee, Ruling
from overnight.store import Store
from overnight.trying import which

FOLDER = "trials"


@dataclass(frozen=True, slots=True)
class View:
    """A trial as every face shows it. ``expected`` is what would be decided now, ``brief`` stands where it was asked for."""

    study: Study
    trial: Trial
    copy: Path
    experiment: Experiment | None
    runs: tuple[Run, ...]
    best: Experiment | None
    expected: Ruling | None = None
    brief: str = ""
    editable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    goal: str = ""  # why the study has reached its end
    exit_code: int = 0

    @property
    def state(self) -> str:
        """``open``, ``running`` (handed in, not measured), ``measured``, ``settled`` or ``given up``."""
        if self.experiment is None:
            return "open" if self.trial.ended is None else "given up"
        if self.experiment.decision is not None:
            return "settled"
        return "measured" if self.experiment.stage is Stage.MEASURED else "running"


def answer(trial: Trial, copy: Path) -> str:
    """How to hand a trial in, for its brief."""
    return (
        f"The current folder that is spoken of is {copy}, a copy without git; edit its files in place, and no others. Then say what you changed and why you "
        f'expect it to help:\n\n    overnight trial run {trial.number} -m "..."'
    )


def copy_of(place: places.Place, study: Study, trial: Trial) -> Path:
    """Where a trial is edited."""
    return place.state / FOLDER / f"{study.tag}-{trial.number}"


def located(options: Options) -> places.Place:
    """The state folder of a study that there is. Raises ``NotFoundError``."""
    place = prepare.locate(options)
    if not place.database.exists():
        raise NotFoundError("E-NO-STUDY", "there is no study here", fix="overnight trial begin")
    return place


def named_one(store: Store, study: Study, named: int) -> Trial:
    """A trial by its number; 0 = the one that is open. Raises ``NotFoundError``, ``UsageError``."""
    return store.trial(study.id, named) if named else which(store.open_trials(study.id), named)


def view(found: read.Open, trial: Trial) -> View:
    """A trial as the record has it now."""
    store, study = found.store, found.study
    bar = store.bar(study.id)
    mine = store.experiment(study.id, trial.experiment) if trial.experiment else None
    runs = tuple(store.runs(study.id, mine.number)) if mine else ()
    best = store.experiment(study.id, bar[0]) if bar else None
    editable = tuple(sorted(store.files(study.id, trial.crashed or trial.parent))) if mine is None else ()
    return View(study, trial, copy_of(found.place, study, trial), mine, runs, best, editable=editable)


@contextlib.contextmanager
def looking(options: Options) -> Iterator[learned.Known]:
    """The study, for those who only look; also while a loop or a trial runs. Raises ``NotFoundError``."""
    place = located(options)
    with learned.opened(options.folder, place.state, options.environ, str(options.flags.get("tag", ""))) as found:
        yield found


def listed(options: Options, *, everything: bool) -> list[View]:
    """The open trials, or all of them, oldest first. Raises ``NotFoundError``."""
    with looking(options) as found:
        rows = found.store.trials(found.study.id) if everything else found.store.open_trials(found.study.id)
        return [view(found, trial) for trial in rows]


def shown(options: Options, named: int) -> View:
    """One trial: with its brief while nothing was handed in, with what would be decided once it is measured. Raises ``NotFoundError``."""
    with looking(options) as found:
        seen = view(found, named_one(found.store, found.study, named))
        if seen.state == "measured" and seen.experiment is not None:
            return replace(seen, expected=Referee(found.store, found.study.id, lambda: 0.0).ruling(found.study, seen.experiment))
        return with_brief(found, seen, options.folder) if seen.state == "open" else seen


def with_brief(found: learned.Known, seen: View, start: Path) -> View:
    """The trial with its brief as it is by now; without one where there is nothing any more that such a step could start from."""
    spoken = next((operator for operator in SPOKEN.values() if operator is seen.trial.operator), seen.trial.operator)
    with contextlib.suppress(NotFoundError):
        asked = replace(briefs.occasion(found, spoken), parent=seen.trial.parent, answer=answer(seen.trial, seen.copy))
        return replace(seen, brief=briefs.written(found, asked, start).text)
    return seen


def trial_json(seen: View) -> dict[str, object]:
    """A trial for ``--json``."""
    trial, mine = seen.trial, seen.experiment
    verdict = seen.expected.verdict if seen.expected else None
    expected = (
        {"decision": seen.expected.decision, "cause": verdict.cause, "p": verdict.p, "gain": verdict.gain}
        if seen.expected and verdict
        else None
    )
    return {
        "schema": "overnight/trial/1", "trial": trial.number, "state": seen.state, "tag": seen.study.tag, "branch": seen.study.branch, "metric": seen.study.metric,
        "direction": seen.study.direction, "operator": trial.operator, "parent": trial.parent, "begun": moment(trial.begun), "ended": moment(trial.ended),
        "path": str(seen.copy) if trial.ended is None else None, "editable": list(seen.editable), "experiment": read.experiment_json(mine) if mine else None,
        "values": [run.value for run in seen.runs], "best": read.experiment_json(seen.best) if seen.best else None, "expected": expected,
        "goal_reached": seen.goal, "notes": list(seen.notes), "next": following(seen), "brief": seen.brief,
    }  # fmt: skip


def following(seen: View) -> str:
    """The command that comes next."""
    number = seen.trial.number
    return {
        "open": f'overnight trial run {number} -m "what you changed, and why it should help"',
        "running": f"overnight trial run {number}",
        "measured": f"overnight trial settle {number}",
    }.get(seen.state, "overnight trial begin")
