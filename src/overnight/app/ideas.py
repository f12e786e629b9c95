"""``overnight idea``: what a person wants to be tried. Taken up at the next proposal; works while a loop runs, and without one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overnight.app import place as places
from overnight.app.notes import worded
from overnight.errors import NotFoundError
from overnight.models import Decision, Experiment
from overnight.notes import QueuedIdea, Source
from overnight.printable import moment
from overnight.redact import Redactor
from overnight.settings import Settings
from overnight.store import Store


@dataclass(frozen=True, slots=True)
class Queue:
    """The ideas of a study; 0 = of the next one, where there is none yet."""

    store: Store
    study: int
    settings: Settings | None


@contextlib.contextmanager
def opened(start: Path, state: Path | None, environ: Mapping[str, str], tag: str = "", *, write: bool = False) -> Iterator[Queue]:
    """The queue of the study at ``start``, or of the one with ``tag``. Raises ``NotFoundError``."""
    place = places.find(start, state, environ)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(place.read()))
        if write or store.outdated:
            store = stack.enter_context(contextlib.closing(Store(place.database)))
        try:
            study = store.study(tag)
        except NotFoundError:
            if tag or not store.ideas(0):
                raise
            yield Queue(store, 0, None)
        else:
            yield Queue(store, study.id, study.settings)


def add(start: Path, state: Path | None, environ: Mapping[str, str], tag: str, text: str, *, pinned: bool) -> tuple[QueuedIdea, bool]:
    """Put an idea into the queue; also says whether the study's proposer reads briefs. Raises ``UsageError``, ``NotFoundError``."""
    words = Redactor(environ).text(worded(text, "overnight idea add 'try a cosine schedule'"))
    with opened(start, state, environ, tag, write=True) as found:
        asked = found.settings
        searches = asked is not None and (asked.proposer[:1] == ("optuna",) or not (asked.proposer or asked.proposer_command))
        return found.store.add_idea(found.study, words, Source.PERSON, time.time(), pinned=pinned), not searches


def mark(start: Path, state: Path | None, environ: Mapping[str, str], tag: str, idea: int, wanted: str) -> QueuedIdea:
    """``veto`` an idea, move it ``up`` to the front, or say that it is ``done``. Raises ``NotFoundError``."""
    with opened(start, state, environ, tag, write=True) as found:
        if wanted == "up":
            return found.store.raise_idea(found.study, idea)
        return found.store.mark_idea(found.study, idea, {"veto": "vetoed", "done": "done"}[wanted])


def listed(found: Queue, *, everything: bool) -> list[tuple[QueuedIdea, Experiment | None]]:
    """The queue in its order, each idea with the experiment that took it; ``everything``: also what is done or vetoed."""
    ideas = found.store.ideas(found.study, *(() if everything else ("open", "taken")))
    return [(idea, found.store.experiment(found.study, idea.experiment) if idea.experiment else None) for idea in ideas]


def word(idea: QueuedIdea, taken: Experiment | None) -> str:
    """``open``, ``vetoed``, ``done``, or what became of the experiment that took it: ``#12 keep``."""
    if idea.state != "taken" or taken is None:
        return idea.state
    became = taken.decision if taken.decision is not None else "under way"
    return f"#{taken.number} {'not fit to be run' if became is Decision.DISCARD and taken.value is None else became}"


def idea_json(idea: QueuedIdea, taken: Experiment | None = None) -> dict[str, Any]:
    """An idea for ``--json``."""
    return {
        "id": idea.id, "text": idea.text, "source": idea.source, "created": moment(idea.created), "pinned": idea.pinned, "state": idea.state,
        "experiment": idea.experiment or None, "tries": idea.tries, "decision": taken.decision if taken else None,
    }  # fmt: skip
