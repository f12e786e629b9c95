"""What one study knows from others of the same user: only where it is wanted, without secrets, and never in the way."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from overnight.app.learned import knowledge_of, user_store
from overnight.app.place import Place
from overnight.models import Decision, Direction, Idea, Operator, Proposal, Stage, Study
from overnight.settings import Settings
from overnight.store import Store
from overnight.store.shared import Shared


def studied(folder: Path, environ: Mapping[str, str], text: str, *, knowledge: str = "user") -> tuple[Store, Study, list[str]]:
    """A study in ``folder`` with one experiment settled, and what was said about its notes."""
    place = Place(folder / ".overnight")
    place.state.mkdir(parents=True)
    store = Store(place.database)
    study = store.create_study("t", "c0ffee", Direction.MINIMIZE, Settings(metric="loss", knowledge=knowledge), 0.0)
    said: list[str] = []
    known = knowledge_of(store, study, place, environ, said.append)
    number = store.propose(study.id, Proposal(0, Operator.BASELINE, Idea(text, "agent"), {"a": b"1"}), 1, 0.0).number
    store.advance(study.id, number, Stage.MEASURED, value=1.0)
    for _ in range(2):  # the second time after a kill
        known.settled(study, store.decide(study.id, number, Decision.KEEP, "best", 1.0, 5.0), 6.0)
    known.close()
    return store, study, said


def found(store: Store, study: Study, folder: Path, environ: Mapping[str, str], query: str) -> list[tuple[str, str]]:
    with contextlib.closing(knowledge_of(store, study, Place(folder / ".overnight"), environ)) as known:
        return [(hit.project, hit.note.text) for hit in known.search(query, 10)]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "API_TOKEN": "hunter2hunter2"}


def test_a_study_finds_what_another_project_of_the_user_has_learned(tmp_path: Path, environ: dict[str, str]) -> None:
    one, _, said = studied(tmp_path / "vessels", environ, "cosine warmup")
    two, study, _ = studied(tmp_path / "poses", environ, "cosine alone")
    assert (found(two, study, tmp_path / "poses", environ, "cosine"), said) == (
        [("", "cosine alone | loss 1, kept: best"), ("vessels", "cosine warmup | loss 1, kept: best")], [],
    )  # fmt: skip
    one.close()
    two.close()


@pytest.mark.parametrize(("writer", "reader"), [("project", "user"), ("user", "project")])
def test_nothing_goes_there_or_comes_from_there_unless_it_is_wanted(
    tmp_path: Path, environ: dict[str, str], writer: str, reader: str
) -> None:
    one, _, _ = studied(tmp_path / "one", environ, "cosine warmup", knowledge=writer)
    two, study, _ = studied(tmp_path / "two", environ, "other", knowledge=reader)
    assert found(two, study, tmp_path / "two", environ, "cosine") == []
    one.close()
    two.close()


def test_without_the_wish_there_is_no_file(tmp_path: Path, environ: dict[str, str]) -> None:
    studied(tmp_path / "one", environ, "x", knowledge="project")[0].close()
    assert not (tmp_path / "home").exists()


def test_no_secret_gets_there_and_nobody_else_reads_it(tmp_path: Path, environ: dict[str, str]) -> None:
    studied(tmp_path / "one", environ, "login hunter2hunter2")[0].close()
    path = user_store(environ)
    assert path is not None
    kept = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert (b"hunter2" in kept, b"[secret API_TOKEN]" in kept, oct(path.parent.stat().st_mode)[-3:]) == (False, True, "700")


def test_a_note_that_is_taken_back_is_taken_back_there_too(tmp_path: Path, environ: dict[str, str]) -> None:
    store, study, _ = studied(tmp_path / "one", environ, "cosine warmup")
    with contextlib.closing(knowledge_of(store, study, Place(tmp_path / "one" / ".overnight"), environ)) as known:
        remark = known.write_down(study, "cosine is a dead end", 7.0)
        before = _kept(environ)
        known.take_back(remark.id, 8.0)
    assert (before, _kept(environ)) == (
        ["cosine is a dead end", "cosine warmup | loss 1, kept: best"],
        ["cosine warmup | loss 1, kept: best"],
    )
    store.close()


def _kept(environ: Mapping[str, str]) -> list[str]:
    path = user_store(environ)
    assert path is not None
    with contextlib.closing(Shared(path, readonly=True)) as shared:
        return sorted(hit.note.text for hit in shared.search("cosine", 10))


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"HOME": "/h"}, "/h/.local/share/overnight/knowledge.db"),
        ({"HOME": "/h", "XDG_DATA_HOME": "/d"}, "/d/overnight/knowledge.db"),
        ({"HOME": "/h", "XDG_DATA_HOME": "d"}, "/h/.local/share/overnight/knowledge.db"),
        ({"HOME": ""}, "None"),
        ({}, "None"),
    ],
)
def test_the_place_follows_the_rules_of_the_platform(variables: Mapping[str, str], place: str) -> None:
    assert str(user_store(variables)) == place


def test_a_store_that_cannot_be_used_is_said_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store, study, said = studied(tmp_path / "one", {"HOME": str(tmp_path / "file")}, "x")
    homeless, _, told = studied(tmp_path / "two", {}, "x")
    assert (len(store.notes(study.id)), len(said), told) == (
        1,
        1,
        ["notes stay in this project: there is no home folder for your own store"],
    )
    assert said[0].startswith("notes stay in this project: your own store cannot be used: ")
    store.close()
    homeless.close()


def test_a_store_that_breaks_in_the_night_is_left_alone_from_then_on(tmp_path: Path, environ: dict[str, str]) -> None:
    store, study, _ = studied(tmp_path / "one", environ, "x")
    said: list[str] = []
    known = knowledge_of(store, study, Place(tmp_path / "one" / ".overnight"), environ, said.append)
    known.close()  # the connection is gone as if the disk were
    made = [known.write_down(study, text, 7.0).text for text in ("a", "b")]
    assert (made, len(said), said[0].startswith("notes go to this project alone from now on: ")) == (["a", "b"], 1, True)
    store.close()
