# ruff: noqa: S608 - every query is put together from constants of this file; values are always bound
"""Notes in the record: written once per settled experiment, searched by their words, tied to each other.

The index of words (FTS5) is kept in step by triggers. Knows nothing of what makes a lesson; queries come as words and are quoted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence

from overnight.errors import NotFoundError
from overnight.notes import LONGEST, Edge, Hit, Lesson, Note, NoteKind, Source, Tie, matching, terms
from overnight.store.connection import Connection
from overnight.store.rows import storable

_COLUMNS = "note.id, study.tag, note.experiment, note.kind, note.source, note.text, note.created, note.retracted"
_LESSON = "source = 'experiment' AND kind != 'retest'"  # what the record itself says of an experiment, once
_FROM = "note JOIN study ON study.id = note.study"


class Notes(Connection):
    """The part of the record that knows notes."""

    def learn(self, study: int, number: int, lesson: Lesson, now: float) -> bool:
        """Write what experiment ``number`` teaches, once, with its ties to earlier notes; false if that was done before."""
        with self._write(synced=False) as db:
            done = db.execute(
                "INSERT OR IGNORE INTO note (study, experiment, kind, source, text, change, vals, created) VALUES (?,?,?,?,?,?,?,?)",
                (study, number, lesson.kind, Source.EXPERIMENT, storable(lesson.text[:LONGEST]), storable(lesson.change), storable(lesson.values), now),
            )  # fmt: skip
            if not done.rowcount:
                return False
            made = int(done.lastrowid or 0)
            self._tie(made, Tie.DERIVES, self._of(study, lesson.derives))
            self._tie(made, Tie.CONTRADICTS, {*self._of(study, lesson.contradicts), *self._opposite(study, made, lesson)})
            self._tie(made, Tie.REPRODUCES, self._same(study, made, lesson))
        return True

    def _of(self, study: int, numbers: Iterable[int]) -> list[int]:
        """The notes that the record itself made of these experiments."""
        return [
            row[0]
            for number in numbers
            for row in self._rows(f"SELECT id FROM note WHERE study=? AND experiment=? AND {_LESSON}", study, number)
        ]

    def _opposite(self, study: int, made: int, lesson: Lesson) -> list[int]:
        """The latest note of the same change with another result."""
        other = {NoteKind.WIN: NoteKind.DEAD_END, NoteKind.DEAD_END: NoteKind.WIN}.get(lesson.kind)
        if not lesson.change or other is None:
            return []
        sql = (
            "SELECT id FROM note INDEXED BY note_change WHERE change!='' AND study=? AND change=? AND kind=? AND retracted IS NULL AND id!=?"
            " ORDER BY id DESC LIMIT 1"
        )
        return [row[0] for row in self._rows(sql, study, storable(lesson.change), other, made)]

    def _same(self, study: int, made: int, lesson: Lesson) -> list[int]:
        """The latest note of the same change to the same values with the same result."""
        if not lesson.values or lesson.kind is NoteKind.FAILURE:
            return []
        sql = (
            "SELECT id FROM note INDEXED BY note_vals WHERE vals!='' AND study=? AND vals=? AND kind=? AND change=? AND retracted IS NULL AND id!=?"
            " ORDER BY id DESC LIMIT 1"
        )
        return [row[0] for row in self._rows(sql, study, storable(lesson.values), lesson.kind, storable(lesson.change), made)]

    def _tie(self, note: int, tie: Tie, others: Iterable[int]) -> None:
        self._db.executemany("INSERT OR IGNORE INTO edge VALUES (?,?,?)", [(note, tie, other) for other in others if other != note])

    def look_again(self, study: int, number: int, now_true: str, said: str, tie: Tie | None, now: float) -> Note:
        """Let the note of an experiment say what is true by now, and another one what its re-tests said, tied to it."""
        with self._write(synced=False) as db:
            db.execute(
                f"UPDATE note SET text=? WHERE study=? AND experiment=? AND {_LESSON}", (storable(now_true[:LONGEST]), study, number)
            )
            values = (study, number, NoteKind.RETEST, Source.EXPERIMENT, storable(said[:LONGEST]), now)
            sql = "INSERT INTO note (study, experiment, kind, source, text, created) VALUES (?,?,?,?,?,?) ON CONFLICT (study, experiment)"
            sql += " WHERE kind = 'retest' DO UPDATE SET text=excluded.text, created=excluded.created RETURNING id"
            made = int(db.execute(sql, values).fetchone()[0])
            db.execute("DELETE FROM edge WHERE note=?", (made,))
            if tie is not None:
                self._tie(made, tie, self._of(study, (number,)))
        return self.note(made)

    def add_note(self, study: int, text: str, source: Source, now: float, *, experiment: int = 0) -> Note:
        """Write a remark down. Raises ``NotFoundError`` for an unknown experiment."""
        with self._write() as db:
            if experiment and not db.execute("SELECT 1 FROM experiment WHERE study=? AND number=?", (study, experiment)).fetchone():
                raise NotFoundError("E-NO-EXPERIMENT", f"there is no experiment #{experiment}", fix="overnight ls")
            made = db.execute(
                "INSERT INTO note (study, experiment, kind, source, text, created) VALUES (?,?,?,?,?,?)",
                (study, experiment, NoteKind.REMARK, source, storable(text[:LONGEST]), now),
            ).lastrowid
        return self.note(int(made or 0))

    def retract_note(self, note: int, now: float) -> Note:
        """Take a note back: it stays in the record and is neither found nor told any more. Raises ``NotFoundError``."""
        found = self.note(note)
        if found.retracted is None:
            with self._write() as db:
                db.execute("UPDATE note SET retracted=? WHERE id=?", (now, note))
        return self.note(note)

    def note(self, note: int) -> Note:
        """One note; raises ``NotFoundError``."""
        rows = self._rows(f"SELECT {_COLUMNS} FROM {_FROM} WHERE note.id=?", note) if -(2**63) <= note < 2**63 else []
        if not rows:
            raise NotFoundError("E-NO-NOTE", f"there is no note {note}", fix="overnight note ls")
        return note_from(rows[0])

    def notes(
        self, study: int, *, last: int = 0, experiment: int = 0, sources: Collection[Source] = tuple(Source), retracted: bool = False
    ) -> list[Note]:
        """Notes of a study, oldest first: all, the ``last`` so many, those of one experiment or of some sources."""
        marks = ",".join("?" * len(sources))
        where = f"note.study=? AND note.source IN ({marks}) AND (note.experiment=? OR ?=0)" + (
            "" if retracted else " AND retracted IS NULL"
        )
        limit = f" LIMIT {int(last)}" if last else ""
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM {_FROM} WHERE {where} ORDER BY note.id DESC{limit}", study, *sources, experiment, experiment
        )
        return [note_from(row) for row in reversed(rows)]

    def note_of(self, study: int, number: int) -> Note | None:
        """What the record itself has noted of an experiment."""
        return next((self.note(found) for found in self._of(study, (number,))), None)

    def search_notes(
        self,
        query: str,
        limit: int = 10,
        *,
        telling: bool = False,
        without: Collection[tuple[str, int]] = (),
        kinds: Collection[NoteKind] = (),
    ) -> list[Hit]:
        """Notes of all studies that hold any word of ``query``, best first. ``telling`` passes over words that tell nothing.

        Anything may stand in ``query``. ``without`` are experiments (tag, number) that are told elsewhere.
        """
        words = self._rare(terms(query, telling=telling), telling=telling)
        if not words or limit < 1:
            return []
        kind = f" AND note.kind IN ({','.join('?' * len(kinds))})" if kinds else ""
        rows = self._rows(
            f"SELECT {_COLUMNS}, snippet(note_text, 0, '[', ']', '…', 24) AS snippet, -note_text.rank AS score"
            f" FROM note_text JOIN {_FROM} AND note.id = note_text.rowid WHERE note_text MATCH ? AND note.retracted IS NULL{kind}"
            " ORDER BY note_text.rank LIMIT ?",
            matching(words),
            *kinds,
            limit + len(without),
        )
        found = [Hit(note_from(row), row["snippet"], row["score"]) for row in rows]
        return [hit for hit in found if hit.note.kind is NoteKind.REMARK or (hit.note.tag, hit.note.experiment) not in without][:limit]

    def _rare(self, words: Sequence[str], *, telling: bool) -> list[str]:
        """The words without those that most notes hold, unless there are no others: they rank nothing and cost the most."""
        if len(words) < 2:
            return list(words)
        many = max(100, int(self._rows("SELECT coalesce(max(id), 0) FROM note")[0][0]) // 2)
        held = {word: self._rows("SELECT count(*) FROM note_text WHERE note_text MATCH ?", matching([word]))[0][0] for word in words}
        rare = [word for word in words if 0 < held[word] <= many]
        return rare or ([] if telling else [word for word in words if held[word]])

    def edges(self, notes: Collection[int]) -> dict[int, list[Edge]]:
        """The ties of these notes in both directions, by note; a contradiction is one for both, the others are told from their source."""
        found: dict[int, list[Edge]] = {}
        for start in range(0, len(notes), 200):
            part = list(notes)[start : start + 200]
            marks = ",".join("?" * len(part))
            rows = self._rows(
                "SELECT edge.note, edge.tie, edge.other, note.experiment FROM edge JOIN note ON note.id = edge.other"
                f" WHERE edge.note IN ({marks}) AND note.retracted IS NULL"
                " UNION SELECT edge.other, edge.tie, edge.note, note.experiment FROM edge JOIN note ON note.id = edge.note"
                f" WHERE edge.other IN ({marks}) AND edge.tie = 'contradicts' AND note.retracted IS NULL ORDER BY 1, 2, 3",
                *part,
                *part,
            )
            for row in rows:
                found.setdefault(row[0], []).append(Edge(row[0], Tie(row[1]), row[2], row[3]))
        return found

    def contradicting(self, study: int, last: int) -> list[tuple[Note, Note]]:
        """The latest contradictions that stand, newest first: a note and the earlier one that it is at odds with."""
        rows = self._rows(
            # In this order: the newest edges first, until there are enough.
            "SELECT edge.note, edge.other FROM edge INDEXED BY edge_contradicts CROSS JOIN note AS one ON one.id = edge.note"
            " CROSS JOIN note AS two ON two.id = edge.other"
            " WHERE edge.tie = 'contradicts' AND one.study=? AND one.retracted IS NULL AND two.retracted IS NULL"
            " ORDER BY edge.note DESC LIMIT ?",
            study,
            last,
        )
        return [(self.note(row[0]), self.note(row[1])) for row in rows]

    def told(self, study: int, number: int) -> list[int]:
        """The notes that stood in the brief from which an experiment was made."""
        return [row[0] for row in self._rows("SELECT note FROM brief_note WHERE study=? AND number=? ORDER BY note", study, number)]

    def taught(self, note: int) -> list[int]:
        """The experiments in whose briefs a note stood."""
        return [row[0] for row in self._rows("SELECT number FROM brief_note WHERE note=? ORDER BY number", note)]

    def ladder(self, study: int, last: int = 100) -> list[tuple[int, float]]:
        """(number, value) of the first keep that stands and of the ``last`` ones, in their order."""
        sql = "SELECT number, value FROM experiment INDEXED BY experiment_kept WHERE study=? AND decision='keep' AND value IS NOT NULL AND NOT reverted ORDER BY number"
        rows = [*self._rows(f"{sql} LIMIT 1", study), *self._rows(f"{sql} DESC LIMIT ?", study, last)]
        return sorted({(row[0], row[1]) for row in rows})


def note_from(row: sqlite3.Row) -> Note:
    """The note in a row."""
    found: Mapping[str, object] = dict(
        zip(("id", "tag", "experiment", "kind", "source", "text", "created", "retracted"), row, strict=False)
    )
    return Note(**{**found, "kind": NoteKind(row["kind"]), "source": Source(row["source"])})  # type: ignore[arg-type]
