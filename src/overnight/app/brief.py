"""``overnight brief``: what the next proposer would be told, without asking one. Reads the record alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from overnight.app import learned, read
from overnight.briefing import Briefer, Occasion, Told
from overnight.errors import NotFoundError
from overnight.models import Decision, Experiment, Operator
from overnight.operators import SPOKEN
from overnight.pace import Pace

_LATEST = 200  # experiments among which a crash, a second win and the sampler's points are looked for
_READ = 40  # of these, whose files are read for the sampler
_TAIL = 64 * 1024  # bytes of a log that are read


def told(found: learned.Known, operator: str, start: Path) -> Told:
    """The brief for a step: draft, improve, debug, combine or simplify. Raises ``NotFoundError`` where there is nothing to take it to."""
    return written(found, occasion(found, SPOKEN[operator]), start)


def written(found: learned.Known, asked: Occasion, start: Path) -> Told:
    """The brief for an occasion."""
    latest = found.store.experiments(found.study.id, last=_LATEST)
    return Briefer(found.store, found.knowledge, _root(found, start), _sampler(found, latest)).write(found.study, asked)


def occasion(found: learned.Known, operator: Operator) -> Occasion:
    """From where a step begins by now, and what belongs to it. Raises ``NotFoundError``."""
    store, study = found.store, found.study
    latest = store.experiments(study.id, last=_LATEST)
    bar, baseline = store.bar(study.id), store.baseline(study.id)
    if baseline is None:
        raise NotFoundError("E-NO-BASELINE", "there is nothing to tell yet: the baseline has not begun", fix="overnight run")
    parent = bar[0] if bar and operator is not Operator.DRAFT else baseline.number
    crashed, others = 0, tuple[int, ...]()
    output = ""
    if operator is Operator.REPAIR:
        item = next((each for each in reversed(latest) if each.decision is Decision.CRASH), None)
        if item is None:
            raise NotFoundError(
                "E-NO-CRASH", "there is no crash to mend among the latest experiments", fix="overnight brief --operator improve"
            )
        parent, crashed, output = item.parent or baseline.number, item.number, _output(found, item)
    if operator is Operator.COMBINE:
        own = (parent,) if parent != baseline.number else ()
        others = (*own, _second_win(found, parent, latest))
    flying = tuple(item.description for item in store.unfinished(study.id))
    pace = Pace(study.settings, store.totals(study.id), store.ran_seconds(study.id), store.count(study.id))
    return Occasion(operator, parent, crashed, others, flying, pace.left(0.0), output)


def _second_win(found: learned.Known, best: int, latest: list[Experiment]) -> int:
    """The latest experiment that was better than its own parent and is not in the best version."""
    for item in reversed(latest):
        if item.value is None or item.decision is Decision.KEEP or not item.parent or item.number == best:
            continue
        parent = found.store.experiment(found.study.id, item.parent)
        if parent.value is not None and found.study.direction.gain(item.value, parent.value) > 0:
            return item.number
    raise NotFoundError(
        "E-NO-WINS", "there is no second win to combine with the best", why="everything that was better than its parent is in the best version",
        fix="overnight brief --operator improve",
    )  # fmt: skip


def _output(found: learned.Known, item: Experiment) -> str:
    with contextlib.suppress(NotFoundError, OSError), read.log_file(found, item).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        return file.read().decode("utf-8", "replace")
    return ""


def _sampler(found: learned.Known, latest: list[Experiment]) -> Callable[[Mapping[str, bytes]], str]:
    """What a search over the constants knows; it is asked only when the brief is written."""

    def state(files: Mapping[str, bytes]) -> str:
        from overnight.app.wiring import sampler_of  # much is loaded with it

        searched = {
            item.number for item in latest if "params" in item.state
        }  # their points are in the record, others are read from their files
        others = [item.number for item in latest if item.decision and item.number not in searched][-_READ:]
        return sampler_of(found.study, found.store, [item for item in latest if item.number in searched or item.number in others])(files)

    return state


def _root(found: learned.Known, start: Path) -> Path:
    """The checkout: where the state folder lies, or the current folder when it lies elsewhere."""
    for folder in (*found.place.state.parents, start.absolute(), *start.absolute().parents):
        if (folder / ".git").exists():
            return folder
    return start
