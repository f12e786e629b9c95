# ruff: noqa: S608 - every query is put together from constants of this file; values are always bound
"""What is to be tried, as a queue in the record. Pinned ideas come first, those of agents last; one is open, taken, done or vetoed.

Ideas that come before any study belong to study 0; the next study that is made takes them over.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from overnight.errors import NotFoundError
from overnight.notes import LONGEST, QueuedIdea, Source
from overnight.store.connection import Connection
from overnight.store.rows import storable

TRIES = 3  # proposals that may take an idea without anything that could be run

_COLUMNS = "id, text, source, created, pinned, state, experiment, tries, rank, detail"


class Ideas(Connection):
    """The part of the record that knows queued ideas."""

    def add_idea(
        self, study: int, text: str, source: Source, now: float, *, pinned: bool = False, rank: int = 0, detail: str = ""
    ) -> QueuedIdea:
        """Put an idea at the end of the queue (of the pinned ones). A ``rank`` above 0 puts it behind all that have none."""
        with self._write() as db:
            place = db.execute("SELECT coalesce(max(place), 0) + 1 FROM idea WHERE study=?", (study,)).fetchone()[0]
            made = db.execute(
                "INSERT INTO idea (study, text, source, created, pinned, place, rank, detail) VALUES (?,?,?,?,?,?,?,?)",
                (study, storable(text[:LONGEST]), source, now, pinned, place, rank, storable(detail)),
            ).lastrowid
        return self.idea(study, int(made or 0))

    def idea(self, study: int, idea: int) -> QueuedIdea:
        """One idea; raises ``NotFoundError``."""
        rows = self._rows(f"SELECT {_COLUMNS} FROM idea WHERE study=? AND id=?", study, idea) if 0 < idea < 2**63 else []
        if not rows:
            raise NotFoundError("E-NO-IDEA", f"there is no idea {idea}", fix="overnight idea ls")
        return _from(rows[0])

    def ideas(self, study: int, *states: str) -> list[QueuedIdea]:
        """The ideas in the order in which they are taken, all or those in some states."""
        marks = ",".join("?" * len(states))
        where = f" AND state IN ({marks})" if states else ""
        return [
            _from(row)
            for row in self._rows(
                f"SELECT {_COLUMNS} FROM idea WHERE study=?{where} ORDER BY pinned DESC, rank > 0, place, id", study, *states
            )
        ]

    def mark_idea(self, study: int, idea: int, state: str) -> QueuedIdea:
        """Say that an idea is open, done or vetoed."""
        self.idea(study, idea)
        with self._write() as db:
            db.execute("UPDATE idea SET state=? WHERE study=? AND id=?", (state, study, idea))
        return self.idea(study, idea)

    def raise_idea(self, study: int, idea: int) -> QueuedIdea:
        """Put an idea before all others (of the pinned or of the unpinned ones); one that was taken or vetoed is open again."""
        self.idea(study, idea)
        with self._write() as db:
            db.execute(
                "UPDATE idea SET place = (SELECT min(place) - 1 FROM idea WHERE study=?), state='open', tries=0, rank=0 WHERE study=? AND id=?",
                (study, study, idea),
            )
        return self.idea(study, idea)

    def hand_over_ideas(self, study: int, number: int, ideas: Collection[int]) -> None:
        """Say that what these ideas ask for was tried in experiment ``number``, whichever had taken them before."""
        with self._write(synced=False) as db:
            sql = "UPDATE idea SET state='taken', experiment=? WHERE study=? AND id=? AND state IN ('open', 'taken')"
            db.executemany(sql, [(number, study, idea) for idea in ideas])

    def unfit_idea(self, study: int, number: int) -> None:
        """Open the idea that an experiment took which could not even be run, unless that has happened too often."""
        with self._write(synced=False) as db:
            db.execute(
                "UPDATE idea SET state='open' WHERE study=? AND experiment=? AND state='taken' AND tries < ?", (study, number, TRIES)
            )


def _from(row: sqlite3.Row) -> QueuedIdea:
    return QueuedIdea(
        row["id"], row["text"], Source(row["source"]), row["created"], bool(row["pinned"]), row["state"], row["experiment"], row["tries"],
        row["rank"], row["detail"],
    )  # fmt: skip
