"""``overnight note``: write down, list, search and take back what was learned. Works while a loop runs, and without one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from overnight.app import learned
from overnight.errors import UsageError
from overnight.notes import LONGEST, Edge, Hit, Note
from overnight.printable import moment


def add(start: Path, state: Path | None, environ: Mapping[str, str], tag: str, text: str, experiment: int) -> Note:
    """Write ``text`` down, of an experiment or (0) of none in particular. Raises ``UsageError``, ``NotFoundError``."""
    words = worded(text, "overnight note add 'lr above 0.3 diverges'")
    with learned.opened(start, state, environ, tag, write=True) as found:
        return found.knowledge.write_down(found.study, words, time.time(), experiment=experiment)


def retract(start: Path, state: Path | None, environ: Mapping[str, str], tag: str, note: int) -> Note:
    """Take a note back. Raises ``NotFoundError``."""
    with learned.opened(start, state, environ, tag, write=True) as found:
        return found.knowledge.take_back(note, time.time())


def worded(text: str, fix: str) -> str:
    """``text`` without blanks around it; raises ``UsageError`` if nothing is left, or too much."""
    words = text.strip()
    if not words:
        raise UsageError("E-NO-TEXT", "there is nothing to write down", why="the text is empty", fix=fix)
    if len(words) > LONGEST:
        raise UsageError("E-LONG-TEXT", f"the text has {len(words)} characters", why=f"at most {LONGEST} are kept", fix=fix)
    return words


def listed(found: learned.Known, last: int, experiment: int, *, retracted: bool) -> tuple[list[Note], dict[int, list[Edge]]]:
    """Notes of the study, oldest first, and how they are tied."""
    notes = found.store.notes(found.study.id, last=last, experiment=experiment, retracted=retracted)
    return notes, found.store.edges([note.id for note in notes])


def searched(found: learned.Known, query: str, limit: int) -> tuple[list[Hit], dict[int, list[Edge]]]:
    """Notes that hold words of ``query``, best first, and how they are tied."""
    hits = found.knowledge.search(query, limit)
    return hits, found.store.edges([hit.note.id for hit in hits if not hit.project])


def note_json(note: Note, edges: Sequence[Edge] = ()) -> dict[str, Any]:
    """A note for ``--json``."""
    return {
        "id": note.id, "tag": note.tag, "experiment": note.experiment or None, "kind": note.kind, "source": note.source, "text": note.text,
        "created": moment(note.created), "retracted": moment(note.retracted),
        "edges": [{"kind": edge.tie, "note": edge.other, "experiment": edge.experiment or None} for edge in edges],
    }  # fmt: skip


def hit_json(hit: Hit, edges: Sequence[Edge] = ()) -> dict[str, Any]:
    """A note that was found, for ``--json``."""
    return {**note_json(hit.note, edges), "snippet": hit.snippet, "score": round(hit.score, 4), "project": hit.project or None}
