"""Notes found by what they mean: a tiny real model, made here, that knows three groups of words."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overnight.app.learned import knowledge_of
from overnight.app.place import Place
from overnight.errors import UsageError
from overnight.knowledge import Knowledge
from overnight.models import Direction, Study
from overnight.notes import Hit, Note, NoteKind, Source, fused
from overnight.redact import Redactor
from overnight.semantic import Meaning
from overnight.settings import Settings
from overnight.store import Store
from studies import ended, study  # noqa: F401 - ended is used by every test

needs_model = pytest.mark.skipif(importlib.util.find_spec("model2vec") is None, reason="the extra 'semantic' is not installed")
GROUPS = (("lr", "rate", "stepsize", "larger", "step"), ("crop", "flip", "augmentation", "mosaic"), ("memory", "oom", "batch"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model2vec model in which the words of a group point the same way."""
    import numpy as np
    from model2vec import StaticModel
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = ["[UNK]", "[PAD]", *(word for group in GROUPS for word in group)]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106 - a token of the vocabulary
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    rng = np.random.default_rng(0)
    vectors = np.zeros((len(words), 16), dtype=np.float32)
    for at, word in enumerate(words):
        place = next((number for number, group in enumerate(GROUPS) if word in group), None)
        vectors[at] = 0.1 * rng.standard_normal(16)
        vectors[at, place if place is not None else 15] += 0.0 if place is None else 1.0
    vectors[:2] = 0
    made = tmp_path_factory.mktemp("model")
    StaticModel(vectors, tokenizer).save_pretrained(made)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store(tmp_path / "overnight.db")) as found:
        found.create_study("t", "c0ffee", Direction.MINIMIZE, Settings(metric="loss"), 0.0)
        yield found


@pytest.fixture
def add(store: Store) -> Callable[[str], Note]:
    return lambda text: store.add_note(store.study().id, text, Source.PERSON, 0.0)


def texts(known: Knowledge, query: str, limit: int = 5) -> list[str]:
    return [hit.note.text for hit in known.search(query, limit)]


@needs_model
def test_a_note_is_found_that_says_the_same_in_other_words(store: Store, add: Callable[[str], Note], folder: Path) -> None:
    for text in ("a larger stepsize diverges", "mosaic hurts", "oom at 64"):
        add(text)
    plain, known = Knowledge(store, Redactor({})), Knowledge(store, Redactor({}), meaning=Meaning(folder))
    assert (texts(plain, "lr"), texts(known, "lr"), texts(known, "crop flip")) == ([], ["a larger stepsize diverges"], ["mosaic hurts"])


@needs_model
def test_what_both_ways_find_comes_first(store: Store, add: Callable[[str], Note], folder: Path) -> None:
    for text in ("stepsize up", "lr up", "the word lr among many others here", "flip off"):
        add(text)
    known = Knowledge(store, Redactor({}), meaning=Meaning(folder))
    found = texts(known, "lr")
    assert (found[0], sorted(found)) == ("lr up", ["lr up", "stepsize up", "the word lr among many others here"])


@needs_model
def test_unknown_words_and_none_find_nothing_by_meaning(store: Store, add: Callable[[str], Note], folder: Path) -> None:
    add("stepsize up")
    known = Knowledge(store, Redactor({}), meaning=Meaning(folder))
    assert [texts(known, query) for query in ("zebra", "", '" AND (', "\0")] == [[], [], [], []]


@needs_model
def test_a_retracted_note_is_not_found_and_a_changed_one_by_its_new_text(
    store: Store, add: Callable[[str], Note], folder: Path, tmp_path: Path
) -> None:
    one, other = add("stepsize up"), add("flip off")
    meaning = Meaning(folder)
    known = Knowledge(store, Redactor({}), meaning=meaning)
    before = (texts(known, "lr"), texts(known, "crop"))
    known.take_back(one.id, 1.0)
    with contextlib.closing(sqlite3.connect(tmp_path / "overnight.db")) as db, db:
        db.execute("UPDATE note SET text='oom again' WHERE id=?", (other.id,))
    assert (before, texts(known, "lr"), texts(known, "crop"), texts(known, "batch")) == (
        (["stepsize up"], ["flip off"]),
        [],
        [],
        ["oom again"],
    )


@needs_model
def test_vectors_are_made_once_and_another_model_makes_its_own(
    store: Store, add: Callable[[str], Note], folder: Path, tmp_path: Path
) -> None:
    add("stepsize up")
    meaning = Meaning(folder)
    Knowledge(store, Redactor({}), meaning=meaning).search("lr", 5)
    again = Meaning(folder)
    rows = store.vectors(again.name, 0)
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "language": ["en"]}))
    second = Meaning(other)
    assert (len(rows), store.without_vector(again.name, 9), second.name == again.name, len(store.without_vector(second.name, 9))) == (
        1,
        [],
        False,
        1,
    )
    assert texts(Knowledge(store, Redactor({}), meaning=second), "lr") == ["stepsize up"]


@needs_model
def test_a_record_that_is_open_for_reading_alone_is_searched_all_the_same(
    store: Store, add: Callable[[str], Note], folder: Path, tmp_path: Path
) -> None:
    add("stepsize up")
    with contextlib.closing(Store(tmp_path / "overnight.db", readonly=True)) as readonly:
        found = texts(Knowledge(readonly, Redactor({}), meaning=Meaning(folder)), "lr")
    assert (found, store.without_vector("any", 9) != []) == (["stepsize up"], True)


@needs_model
def test_a_folder_without_a_model_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    codes = []
    for path in (tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(UsageError) as caught:
            Meaning(path)
        codes.append(caught.value.code)
    assert codes == ["E-NO-MODEL", "E-NO-MODEL"]


def known_of(store: Store, place: Path, model: str) -> tuple[Knowledge, list[str]]:
    made: Study = store.create_study(f"u{len(model)}", "c0ffee", Direction.MINIMIZE, Settings(metric="loss", semantic_model=model), 0.0)
    said: list[str] = []
    return knowledge_of(store, made, Place(place / ".overnight"), {}, said.append), said


def test_a_model_that_cannot_be_used_is_said_and_words_still_find(store: Store, add: Callable[[str], Note], tmp_path: Path) -> None:
    add("stepsize up")
    known, said = known_of(store, tmp_path, "models/none")
    assert (texts(known, "stepsize"), [text.startswith("notes are searched by their words alone: ") for text in said]) == (
        ["stepsize up"],
        [True],
    )


def test_without_the_library_the_fix_is_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UsageError) as caught:
        Meaning(tmp_path)
    assert (caught.value.code, caught.value.fix) == ("E-NO-EXTRA", "pip install 'overnight[semantic]'")


@needs_model
def test_the_setting_brings_meaning_into_searches_and_briefs(tmp_path: Path, folder: Path) -> None:
    night = study(tmp_path, {}, "--budget", "1", "--semantic-model", str(folder), "--goal", "find the best lr")
    night.call("run", "--budget", "0")
    night.call("note", "add", "stepsize diverges above 0.3", "--experiment", "1")
    found = json.loads(night.call("note", "search", "lr", "--json").out)["notes"]
    assert ([row["text"] for row in found], night.call("run").code) == (["stepsize diverges above 0.3"], 0)


def _hit(note: int) -> Hit:
    return Hit(Note(note, "t", 0, NoteKind.REMARK, Source.PERSON, str(note), 0.0), str(note), 1.0)


def test_two_rankings_become_one_by_their_places() -> None:
    found = fused([_hit(1), _hit(2), _hit(3)], [_hit(4), _hit(2)], 3)
    assert [hit.note.id for hit in found] == [2, 1, 4]
