"""What a night has learned, as notes: one for every settled experiment, more where runs are looked at again, and the search for briefs.

Writes to the record, and to the user's own store where the user wants that. A trouble with the latter is said once and ends nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from overnight.errors import NotFoundError, StorageError
from overnight.models import Decision, Experiment, Operator, Study
from overnight.notes import Hit, Note, NoteKind, Source, Tie, fused, lesson, text
from overnight.printable import one_line
from overnight.redact import Redactor
from overnight.semantic import Meaning
from overnight.store import Store
from overnight.store.shared import Shared

_AT_ONCE = 4_000  # notes that a search makes vectors for, where they are missing


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The user's own store; ``origin`` names this record in it, ``project`` is what a person calls it."""

    shared: Shared
    origin: str
    project: str


class Knowledge:
    """The notes of one record. Safe to use from several threads."""

    def __init__(
        self,
        store: Store,
        secrets: Redactor,
        elsewhere: Elsewhere | None = None,
        say: Callable[[str], None] = lambda _text: None,
        meaning: Meaning | None = None,
    ) -> None:
        self._meaning = meaning
        self._store = store
        self._secrets = secrets
        self._elsewhere = elsewhere
        self._say = say

    def close(self) -> None:
        """Close the user's own store; the record is not ours to close."""
        if self._elsewhere is not None:
            self._elsewhere.shared.close()

    def settled(self, study: Study, item: Experiment, now: float) -> None:
        """Note what a decided experiment teaches; repeating it is harmless. An idea that could not even be run is open again."""
        before: Mapping[str, bytes] = {}
        after: Mapping[str, bytes] = {}
        if item.parent and item.value is not None and item.operator is not Operator.BASELINE:
            before, after = self._store.files(study.id, item.parent), self._store.files(study.id, item.number)
        learned = lesson(study, item, before, after)
        learned = replace(learned, text=self._secrets.text(learned.text))
        fresh = self._store.learn(study.id, item.number, learned, now)
        if fresh and item.decision is Decision.DISCARD and item.value is None:
            self._store.unfit_idea(study.id, item.number)
        if self._elsewhere is not None and (note := self._store.note_of(study.id, item.number)):
            self._send(note)

    def looked_again(self, study: Study, item: Experiment, word: str, now: float) -> None:
        """Note what further runs of a settled experiment say: ``confirmed``, ``contradicted`` or ``still open``."""
        said = self._secrets.text(text(study, item))
        tie = {"confirmed": Tie.REPRODUCES, "contradicted": Tie.CONTRADICTS}.get(word)
        sure = f", P = {item.p:.2f}" if item.p is not None else ""
        self._send(self._store.look_again(study.id, item.number, said, f"re-test of #{item.number}: {word}{sure} | {said}", tie, now))
        if lasting := self._store.note_of(study.id, item.number):
            self._send(lasting)

    def write_down(self, study: Study, words: str, now: float, *, experiment: int = 0, source: Source = Source.PERSON) -> Note:
        """Keep what a person or an agent has to say. Raises ``NotFoundError`` for an unknown experiment."""
        made = self._store.add_note(study.id, self._secrets.text(words), source, now, experiment=experiment)
        self._send(made)
        return made

    def take_back(self, note: int, now: float) -> Note:
        """Retract a note, here and in the user's own store. Raises ``NotFoundError``."""
        found = self._store.retract_note(note, now)
        self._send(found)
        return found

    def _send(self, note: Note) -> None:
        if self._elsewhere is None:
            return
        try:
            self._elsewhere.shared.keep(self._elsewhere.origin, self._elsewhere.project, note)
        except StorageError as exc:
            self._elsewhere = None
            self._say(f"notes go to this project alone from now on: {exc.message}")

    def search(self, query: str, limit: int, *, telling: bool = False, without: Collection[tuple[str, int]] = ()) -> list[Hit]:
        """Notes that hold words of ``query``, or mean much the same; those of this project before others. Anything may stand in ``query``."""
        found = self._store.search_notes(query, limit, telling=telling, without=without)
        if self._meaning is not None and query.strip():
            found = fused(found, self._near(self._meaning, query, limit, without), limit)
        if self._elsewhere is not None and len(found) < 2 * limit:
            with contextlib.suppress(StorageError):
                found += self._elsewhere.shared.search(query, max(2, limit // 3), but=self._elsewhere.origin, telling=telling)
        return found

    def _near(self, meaning: Meaning, query: str, limit: int, without: Collection[tuple[str, int]]) -> list[Hit]:
        """Notes of this project that mean much the same as ``query``."""
        missing = self._store.without_vector(meaning.name, _AT_ONCE)
        if missing:
            made = list(zip((note for note, _ in missing), meaning.vectors([text for _, text in missing]), strict=True))
            meaning.shelve((0, note, vector) for note, vector in made)
            with contextlib.suppress(StorageError):  # where the record is open for reading alone
                self._store.keep_vectors(meaning.name, made)
        meaning.shelve(self._store.vectors(meaning.name, meaning.seen))
        found = []
        for number, _ in meaning.nearest(query, limit + len(without)):
            with contextlib.suppress(NotFoundError):
                note = self._store.note(number)
                told = note.kind is not NoteKind.REMARK and (note.tag, note.experiment) in without
                if note.retracted is None and not told:
                    found.append(Hit(note, one_line(note.text, 160), 0.0))
        return found[:limit]
