"""Notes of all projects of one user, in a file of their own: what the next study may start from. Kept only where the user wants it."""

from __future__ import annotations

from overnight.notes import Hit, Note, NoteKind, Source, matching, terms
from overnight.store.connection import Connection
from overnight.store.rows import storable

_SCHEMA = """
    CREATE TABLE note (
        id INTEGER PRIMARY KEY,
        origin TEXT NOT NULL,              -- names the record that it comes from
        project TEXT NOT NULL,
        tag TEXT NOT NULL,
        number INTEGER NOT NULL,           -- of the note in that record
        experiment INTEGER NOT NULL,
        kind TEXT NOT NULL,
        source TEXT NOT NULL,
        text TEXT NOT NULL,
        created REAL NOT NULL,
        UNIQUE (origin, number)
    );
    CREATE VIRTUAL TABLE note_text USING fts5(text, content='note', content_rowid='id', tokenize='porter unicode61 remove_diacritics 2');
    CREATE TRIGGER note_added AFTER INSERT ON note BEGIN INSERT INTO note_text(rowid, text) VALUES (new.id, new.text); END;
    CREATE TRIGGER note_gone AFTER DELETE ON note BEGIN INSERT INTO note_text(note_text, rowid, text) VALUES ('delete', old.id, old.text); END;
"""


class Shared(Connection):
    """The user's own store of notes at ``path``; made when missing unless ``readonly``. Raises what ``Connection`` raises."""

    migrations = (_SCHEMA,)

    def keep(self, origin: str, project: str, note: Note) -> None:
        """Write the note of a record, in place of what it said before; one that was retracted goes."""
        with self._write(synced=False) as db:
            db.execute("DELETE FROM note WHERE origin=? AND number=?", (origin, note.id))
            if note.retracted is None:
                db.execute(
                    "INSERT INTO note (origin, project, tag, number, experiment, kind, source, text, created) VALUES (?,?,?,?,?,?,?,?,?)",
                    (
                        origin,
                        storable(project),
                        note.tag,
                        note.id,
                        note.experiment,
                        note.kind,
                        note.source,
                        storable(note.text),
                        note.created,
                    ),
                )

    def search(self, query: str, limit: int, *, but: str = "", telling: bool = False) -> list[Hit]:
        """Notes of other records than ``but`` that hold any word of ``query``, best first."""
        words = terms(query, telling=telling)
        if not words:
            return []
        rows = self._rows(
            "SELECT note.*, snippet(note_text, 0, '[', ']', '…', 24) AS snippet, -note_text.rank AS score"
            " FROM note_text JOIN note ON note.id = note_text.rowid WHERE note_text MATCH ? AND note.origin != ? ORDER BY note_text.rank LIMIT ?",
            matching(words),
            but,
            limit,
        )
        return [
            Hit(
                Note(row["number"], row["tag"], row["experiment"], NoteKind(row["kind"]), Source(row["source"]), row["text"], row["created"]),
                row["snippet"], row["score"], row["project"],
            )
            for row in rows
        ]  # fmt: skip
