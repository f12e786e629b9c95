"""``overnight idea``: what a person wants to be tried. Taken up at the next proposal; works while a loop runs, and without one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from overnight.app import learned
from overnight.app.notes import worded
from overnight.app.read import moment
from overnight.models import Decision, Experiment
from overnight.notes import QueuedIdea, Source
from overnight.redact import Redactor


def add(start: Path, state: Path | None, environ: Mapping[str, str], tag: str, text: str, *, pinned: bool) -> tuple[QueuedIdea, bool]:
    """Put an idea into the queue; also says whether the study's proposer reads briefs. Raises ``UsageError``, ``NotFoundError``."""
    words = Redactor(environ).text(worded(text, "overnight idea add 'try a cosine schedule'"))
    with learned.opened(start, state, environ, tag, write=True) as found:
        asked = found.study.settings
        searches = asked.proposer[:1] == ("optuna",) or not (asked.proposer or asked.proposer_command)
        return found.store.add_idea(found.study.id, words, Source.PERSON, time.time(), pinned=pinned), not searches


def mark(start: Path, state: Path | None, environ: Mapping[str, str], tag: str, idea: int, wanted: str) -> QueuedIdea:
    """``veto`` an idea, move it ``up`` to the front, or say that it is ``done``. Raises ``NotFoundError``."""
    with learned.opened(start, state, environ, tag, write=True) as found:
        if wanted == "up":
            return found.store.raise_idea(found.study.id, idea)
        return found.store.mark_idea(found.study.id, idea, {"veto": "vetoed", "done": "done"}[wanted])


def listed(found: learned.Known, *, everything: bool) -> list[tuple[QueuedIdea, Experiment | None]]:
    """The queue in its order, each idea with the experiment that took it; ``everything``: also what is done or vetoed."""
    ideas = found.store.ideas(found.study.id, *(() if everything else ("open", "taken")))
    return [(idea, found.store.experiment(found.study.id, idea.experiment) if idea.experiment else None) for idea in ideas]


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
