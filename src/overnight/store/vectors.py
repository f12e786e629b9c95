"""Vectors of notes in the record: derived, made again when they are missing, gone as soon as the note's text changes.

Knows nothing of what a vector means; which model made it is a name.
"""

from __future__ import annotations

from collections.abc import Iterable

from overnight.store.connection import Connection


class Vectors(Connection):
    """The part of the record that knows vectors."""

    def vectors(self, model: str, after: int) -> list[tuple[int, int, bytes]]:
        """(row, note, vector) of everything that the model made and that came after that row."""
        sql = "SELECT row, note, vector FROM note_vector WHERE model=? AND row > ? ORDER BY row"
        return [(found[0], found[1], found[2]) for found in self._rows(sql, model, after)]

    def without_vector(self, model: str, most: int) -> list[tuple[int, str]]:
        """Notes that stand and have no vector of that model, the newest first: id and text."""
        sql = (
            "SELECT id, text FROM note WHERE retracted IS NULL"
            " AND NOT EXISTS (SELECT 1 FROM note_vector WHERE note_vector.note = note.id AND note_vector.model=?) ORDER BY id DESC LIMIT ?"
        )
        return [(found[0], found[1]) for found in self._rows(sql, model, most)]

    def keep_vectors(self, model: str, made: Iterable[tuple[int, bytes]]) -> None:
        """Keep vectors of notes; one of another model is replaced."""
        with self._write(synced=False) as db:
            db.executemany(
                "INSERT OR REPLACE INTO note_vector (note, model, vector) VALUES (?,?,?)", [(note, model, vector) for note, vector in made]
            )
