"""Notes: what a settled experiment teaches, how notes are tied, and a search that nothing can derail."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from overnight.errors import NotFoundError, StorageError
from overnight.knowledge import Knowledge
from overnight.models import Decision, Direction, Experiment, Idea, Operator, Proposal, Stage, Study
from overnight.notes import Edge, Hit, NoteKind, Source, Tie, changes, lesson, matching, terms
from overnight.redact import Redactor
from overnight.settings import Settings
from overnight.store import Store
from overnight.store.schema import MIGRATIONS

_TRAIN = b"LR = 0.1\nWIDTH = 64\nparser.add_argument('--depth', type=int, default=4)\nnet = Linear(28, 10)\nact = 'relu'\n"


@pytest.fixture
def study(store: Store) -> Study:
    found = store.create_study("nov21", "c0ffee", Direction.MINIMIZE, Settings(metric="loss"), 100.0)
    settled(store, found, _TRAIN, "baseline", 1.0, Decision.KEEP, parent=0)
    return found


def settled(
    store: Store, study: Study, content: bytes, text: str, value: float | None, decision: Decision, *, parent: int = 1, cause: str = "because",
    kind: str = "", operator: Operator = Operator.IMPROVE, repairs: int = 0, state: Mapping[str, object] | None = None,
) -> Experiment:  # fmt: skip
    """One experiment from its proposal to its note."""
    proposal = Proposal(
        parent, operator if parent else Operator.BASELINE, Idea(text, "agent", state=state or {}), {"train.py": content}, repairs=repairs
    )
    number = store.propose(study.id, proposal, 1, 0.0).number
    store.advance(study.id, number, Stage.MEASURED, value=value, crash_kind=kind)
    item = store.decide(study.id, number, decision, cause, value, 5.0)
    Knowledge(store, Redactor({})).settled(study, item, 7.0)
    return store.advance(study.id, number, Stage.APPLIED)


def ties(store: Store, study: Study, number: int) -> list[tuple[Tie, int]]:
    note = store.note_of(study.id, number)
    assert note is not None
    return [(edge.tie, edge.experiment) for edge in store.edges([note.id]).get(note.id, [])]


# ---- what changed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"LR = 0.1", b"LR = 0.2", [("LR", "0.1", "0.2", "LR+")]),
        (b"WIDTH = 64", b"WIDTH = 3_2", [("WIDTH", "64", "3_2", "WIDTH-")]),
        (b"default=4", b"default=1e-1", [("depth", "4", "1e-1", "depth-")]),
        (b"Linear(28, 10)", b"Linear(28, 12)", [("net", "10", "12", "net+")]),
        (b"'relu'", b"'gelu'", [("act", "'relu'", "'gelu'", "act='gelu'")]),
    ],
)
def test_a_literal_that_differs_is_named(old: bytes, new: bytes, expected: list[tuple[str, str, str, str]]) -> None:
    found = changes({"train.py": _TRAIN}, {"train.py": _TRAIN.replace(old, new)})
    assert [(each.name, each.old, each.new, each.way) for each in found] == expected


@pytest.mark.parametrize(
    "after",
    [
        {"train.py": _TRAIN},
        {"train.py": _TRAIN + b"x = 1\n"},
        {"train.py": _TRAIN.replace(b"LR =", b"RATE =").replace(b"64", b"65")},
        {"train.py": _TRAIN.replace(b"LR = 0.1", b"LR = -0.1")},
        {"train.py": _TRAIN, "other.py": b"y = 1\n"},
        {},
    ],
)
def test_more_than_literals_is_no_change_of_literals(after: Mapping[str, bytes]) -> None:
    assert changes({"train.py": _TRAIN}, after) == ()


def test_many_literals_at_once_have_no_short_name() -> None:
    many = b"".join(b"x%d = 1\n" % number for number in range(9))
    assert changes({"a": many}, {"a": many.replace(b"= 1", b"= 2")}) == ()


@given(st.dictionaries(st.sampled_from("ab"), st.binary(max_size=60)), st.dictionaries(st.sampled_from("ab"), st.binary(max_size=60)))
@example({"a": b"'\x00'"}, {"a": b"'\xff\xfe'"})
@example({"a": b"x=9" + b"9" * 5000}, {"a": b"x=8" + b"9" * 5000})
@example({"a": b"x=1e999"}, {"a": b"x=True"})
def test_any_bytes_can_be_compared(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    found = changes(before, after)
    assert [each for each in found if not each.way or each.old == each.new] == []


# ---- what is learned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decision", "value", "kind", "cause", "expected"),
    [
        (
            Decision.KEEP,
            0.9,
            "",
            "better than #1 by 0.1, P = 0.97",
            (NoteKind.WIN, "wider | loss 0.9, kept: better than #1 by 0.1, P = 0.97"),
        ),
        (Decision.DISCARD, 1.2, "", "worse than #1", (NoteKind.DEAD_END, "wider | loss 1.2, discarded: worse than #1")),
        (Decision.CRASH, None, "oom", "out of memory", (NoteKind.FAILURE, "wider | crashed [oom]: out of memory")),
        (Decision.DISCARD, None, "", "rejected: no change", (NoteKind.FAILURE, "wider | not run to its end: rejected: no change")),
    ],
)
def test_a_settled_experiment_says_what_was_tried_and_what_came_of_it(
    store: Store, study: Study, decision: Decision, value: float | None, kind: str, cause: str, expected: tuple[NoteKind, str]
) -> None:
    item = settled(store, study, b"x", "wider", value, decision, cause=cause, kind=kind)
    note = store.note_of(study.id, item.number)
    assert note is not None
    assert (note.kind, note.text, note.source, note.experiment) == (*expected, Source.EXPERIMENT, 2)


def test_an_experiment_teaches_once(store: Store, study: Study) -> None:
    item = settled(store, study, b"x", "wider", 0.9, Decision.KEEP)
    Knowledge(store, Redactor({})).settled(study, replace(item, description="another"), 99.0)
    found = [(note.experiment, note.text[:5], note.created) for note in store.notes(study.id)]
    assert (found, ties(store, study, 2)) == ([(1, "basel", 7.0), (2, "wider", 7.0)], [(Tie.DERIVES, 1)])


def test_secrets_stay_out_of_notes(store: Store, study: Study) -> None:
    number = store.propose(study.id, Proposal(1, Operator.IMPROVE, Idea("with hunter2hunter2", "agent"), {"a": b"1"}), 1, 0.0).number
    item = store.decide(study.id, number, Decision.CRASH, "401 for hunter2hunter2", None, 5.0)
    known = Knowledge(store, Redactor({"API_TOKEN": "hunter2hunter2"}))
    known.settled(study, item, 0.0)
    known.write_down(study, "use hunter2hunter2", 0.0)
    assert [note.text for note in store.notes(study.id)][1:] == [
        "with [secret API_TOKEN] | crashed: 401 for [secret API_TOKEN]",
        "use [secret API_TOKEN]",
    ]


# ---- ties -------------------------------------------------------------------------------------------------------------


def _lr(value: bytes) -> bytes:
    return _TRAIN.replace(b"LR = 0.1", b"LR = " + value)


def test_the_same_constant_the_same_way_with_another_result_is_a_contradiction_from_both_sides(store: Store, study: Study) -> None:
    settled(store, study, _lr(b"0.2"), "raise it", 0.9, Decision.KEEP)
    settled(store, study, _lr(b"0.4"), "something else", 1.2, Decision.DISCARD)
    found = [ties(store, study, number) for number in (2, 3)]
    assert found == [[(Tie.CONTRADICTS, 3), (Tie.DERIVES, 1)], [(Tie.CONTRADICTS, 2), (Tie.DERIVES, 1)]]


@pytest.mark.parametrize(
    ("content", "value", "decision"),
    [(_lr(b"0.05"), 1.2, Decision.DISCARD), (_lr(b"0.2") + b"# more\n", 1.2, Decision.DISCARD), (_lr(b"0.4"), None, Decision.CRASH)],
)
def test_another_way_another_change_or_a_crash_contradicts_nothing(
    store: Store, study: Study, content: bytes, value: float | None, decision: Decision
) -> None:
    settled(store, study, _lr(b"0.2"), "raise it", 0.9, Decision.KEEP)
    settled(store, study, content, "it again", value, decision)
    assert ties(store, study, 3) == [(Tie.DERIVES, 1)]


def test_the_same_words_in_another_order_name_the_same_change(store: Store, study: Study) -> None:
    settled(store, study, b"one", "use a cosine schedule with warmup", 0.9, Decision.KEEP)
    settled(store, study, b"other", "warmup and cosine schedule", 1.2, Decision.DISCARD)
    assert ties(store, study, 3) == [(Tie.CONTRADICTS, 2), (Tie.DERIVES, 1)]


def test_the_same_values_with_the_same_result_are_reproduced(store: Store, study: Study) -> None:
    settled(store, study, _lr(b"0.2"), "raise it", 1.1, Decision.DISCARD)
    settled(store, study, _lr(b"0.3"), "raise it more", 1.1, Decision.DISCARD)
    settled(store, study, _lr(b"0.2"), "raise it again", 1.15, Decision.DISCARD)
    assert [ties(store, study, number)[1:] for number in (3, 4)] == [[], [(Tie.REPRODUCES, 2)]]


def test_a_repair_derives_from_what_it_mends_and_a_combination_from_both(store: Store, study: Study) -> None:
    settled(store, study, b"a", "first", None, Decision.CRASH, kind="error:NameError")
    settled(store, study, b"b", "mended", 0.9, Decision.KEEP, operator=Operator.REPAIR, repairs=2)
    settled(store, study, b"c", "combine #3 (mended) with #2 (first)", 0.8, Decision.KEEP, parent=3, operator=Operator.COMBINE)
    assert [ties(store, study, number) for number in (3, 4)] == [[(Tie.DERIVES, 1), (Tie.DERIVES, 2)], [(Tie.DERIVES, 2), (Tie.DERIVES, 3)]]


@pytest.mark.parametrize(("decision", "tied"), [(Decision.KEEP, [(Tie.CONTRADICTS, 2)]), (Decision.DISCARD, [])])
def test_an_experiment_that_takes_a_keep_back_contradicts_it(
    store: Store, study: Study, decision: Decision, tied: list[tuple[Tie, int]]
) -> None:
    settled(store, study, b"a", "first", 0.9, Decision.KEEP)
    settled(store, study, _TRAIN, "without #2", 1.0, decision, parent=2, operator=Operator.REVERT, state={"takes_back": 2})
    assert ties(store, study, 3) == [*tied, (Tie.DERIVES, 2)]


def test_a_re_test_is_one_note_that_says_the_latest_and_refutes_or_confirms(store: Store, study: Study) -> None:
    item = settled(store, study, b"a", "first", 0.9, Decision.KEEP)
    known = Knowledge(store, Redactor({}))
    known.looked_again(study, replace(item, p=0.95), "confirmed", 8.0)
    before = [(edge.tie, edge.experiment) for edge in store.edges([3])[3]]
    known.looked_again(study, replace(item, p=0.04, cause="it was luck"), "contradicted", 9.0)
    after = [(edge.tie, edge.experiment) for edge in store.edges([3])[3]]
    found = [(note.kind, note.text) for note in store.notes(study.id, experiment=2)]
    assert (before, after) == ([(Tie.REPRODUCES, 2)], [(Tie.CONTRADICTS, 2)])
    assert found == [
        (NoteKind.WIN, "first | loss 0.9, kept: it was luck"),
        (NoteKind.RETEST, "re-test of #2: contradicted, P = 0.04 | first | loss 0.9, kept: it was luck"),
    ]
    assert [(one.kind, other.experiment) for one, other in store.contradicting(study.id, 5)] == [(NoteKind.RETEST, 2)]


def test_a_note_that_is_taken_back_is_neither_found_nor_a_contradiction(store: Store, study: Study) -> None:
    settled(store, study, _lr(b"0.2"), "raise it", 0.9, Decision.KEEP)
    settled(store, study, _lr(b"0.4"), "raise it more", 1.2, Decision.DISCARD)
    store.retract_note(2, 9.0)
    settled(store, study, _lr(b"0.5"), "raise it most", 1.2, Decision.DISCARD)
    found = [hit.note.id for hit in store.search_notes("raise")]
    assert (sorted(found), ties(store, study, 3), ties(store, study, 4), store.contradicting(study.id, 5)) == (
        [3, 4], [(Tie.DERIVES, 1)], [(Tie.DERIVES, 1)], [],
    )  # fmt: skip
    assert [note.id for note in store.notes(study.id, retracted=True)] == [1, 2, 3, 4]


def test_an_unknown_note_is_said(store: Store, study: Study) -> None:
    codes = []
    for wrong in (0, 99, -1, 2**64):
        with pytest.raises(NotFoundError) as caught:
            store.retract_note(wrong, 0.0)
        codes.append(caught.value.code)
    with pytest.raises(NotFoundError) as caught:
        store.add_note(study.id, "about nothing", Source.PERSON, 0.0, experiment=9)
    assert (codes, caught.value.code, len(store.notes(study.id))) == (["E-NO-NOTE"] * 4, "E-NO-EXPERIMENT", 1)


# ---- the search -------------------------------------------------------------------------------------------------------


def texts(hits: list[Hit]) -> list[str]:
    return [hit.note.text for hit in hits]


def test_the_note_that_fits_best_comes_first_with_its_words_marked(store: Store, study: Study) -> None:
    for text in ("dropout helps", "dropout in every attention layer overfits", "a wide net"):
        store.add_note(study.id, text, Source.PERSON, 0.0)
    found = store.search_notes("attention dropout")
    assert ([hit.snippet for hit in found], found[0].score > found[1].score > 0) == (
        ["[dropout] in every [attention] layer overfits", "[dropout] helps"], True,
    )  # fmt: skip


@pytest.mark.parametrize("query", ["LEARNING_RATE", "learning rates", "Learning-Rate?"])
def test_words_are_found_in_other_forms(store: Store, study: Study, query: str) -> None:
    store.add_note(study.id, "the learning_rate was too high", Source.PERSON, 0.0)
    assert texts(store.search_notes(query)) == ["the learning_rate was too high"]


def test_a_word_that_all_notes_hold_does_not_hide_the_one_that_matters(store: Store, study: Study) -> None:
    for number in range(250):
        store.add_note(study.id, f"lr -> {number}", Source.AGENT, 0.0)
    store.add_note(study.id, "lr warmup", Source.AGENT, 0.0)
    assert (texts(store.search_notes("lr warmup")), len(store.search_notes("lr")), store.search_notes("lr", telling=True) != []) == (
        ["lr warmup"], 10, True,
    )  # fmt: skip


def test_what_a_list_shows_anyway_is_left_out_of_a_search(store: Store, study: Study) -> None:
    settled(store, study, b"a", "wider head", 0.9, Decision.KEEP)
    store.add_note(study.id, "wider is a hope", Source.PERSON, 0.0, experiment=2)
    assert texts(store.search_notes("wider", without={("nov21", 2)})) == ["wider is a hope"]


_HOSTILE = ['"', "'", "*", "(", ")", ":", "^", "-", "+", "AND", "OR", "NOT", "NEAR", "NEAR(", "text:", "\0", "\ud800", "%", "{", "}", "a", "é", "\n", ";", "--", "٣", "ß", "ﬁ"]  # fmt: skip


@pytest.mark.usefixtures("study")
@given(query=st.lists(st.sampled_from(_HOSTILE), max_size=12).map(" ".join) | st.lists(st.sampled_from(_HOSTILE)).map("".join) | st.text())
@example(query='NEAR("a" "b", 2')
@example(query='" OR text: *')
@example(query="a" * 100_000)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_nothing_in_a_query_is_an_operator_or_an_error(store: Store, query: str) -> None:
    assert [hit for hit in store.search_notes(query) if hit.note.retracted is not None] == []


@given(st.text())
def test_a_query_is_quoted_words_alone(query: str) -> None:
    found = matching(terms(query))
    assert found.replace('""', "").count('"') == 2 * len(terms(query))
    assert all(part.strip('"').isalnum() for part in found.split(" OR ") if part)


@given(st.text(), st.text(max_size=300))
@example("a\ud800b", "x")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_a_note_of_any_text_is_kept_and_indexed(store: Store, study: Study, text: str, again: str) -> None:
    made = store.add_note(study.id, text, Source.PERSON, 0.0)
    store.look_again(study.id, 1, again, text, None, 0.0)
    with store._write() as db:
        db.execute("INSERT INTO note_text(note_text, rank) VALUES ('integrity-check', 1)")  # raises where index and notes differ
    assert store.note(made.id).text == text[:4000].encode("utf-8", "replace").decode()


def test_the_check_of_the_index_would_see_a_difference(store: Store, study: Study) -> None:
    with store._write() as db:
        db.execute("DROP TRIGGER note_changed")
    store.look_again(study.id, 1, "something else", "", None, 0.0)
    with pytest.raises(StorageError), store._write() as db:
        db.execute("INSERT INTO note_text(note_text, rank) VALUES ('integrity-check', 1)")


def test_a_record_from_before_there_were_notes_gets_their_tables(path: Path) -> None:
    db = sqlite3.connect(path)
    db.executescript(MIGRATIONS[0] + "PRAGMA user_version=1;")
    db.close()
    with contextlib.closing(Store(path, readonly=True)) as old:
        outdated = old.outdated
    with contextlib.closing(Store(path)) as store:
        found = store.create_study("t", "c", Direction.MINIMIZE, Settings(), 0.0)
        store.add_note(found.id, "new here", Source.PERSON, 0.0)
        assert (outdated, store.outdated, texts(store.search_notes("new"))) == (True, False, ["new here"])


def test_what_was_told_for_an_experiment_is_known_from_both_sides(store: Store, study: Study) -> None:
    store.add_note(study.id, "one", Source.PERSON, 0.0)
    number = store.propose(study.id, Proposal(1, Operator.IMPROVE, Idea("x", "a"), {}, told=(1, 2)), 1, 0.0).number
    assert (store.told(study.id, number), store.taught(2), store.told(study.id, 1)) == ([1, 2], [2], [])


def test_a_lesson_without_files_is_named_by_its_words_or_not_at_all(study: Study, store: Store) -> None:
    item = store.experiment(study.id, 1)
    named = lesson(study, replace(item, operator=Operator.IMPROVE, description="cosine schedule, warmup"), {}, {})
    short = lesson(study, replace(item, operator=Operator.IMPROVE, description="tuned it"), {}, {})
    assert ((named.change, short.change), Edge(1, Tie.DERIVES, 2, 3).experiment) == (("words: cosine schedule warmup", ""), 3)
