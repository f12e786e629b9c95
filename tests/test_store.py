"""The record: what is acknowledged stays, whoever else reads, writes or is killed."""

from __future__ import annotations

import contextlib
import os
import random
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.errors import NotFoundError, UsageError
from overnight.models import Decision, Direction, Experiment, Idea, JobState, JobStatus, MetricPoint, Operator, Proposal, Stage, Study
from overnight.settings import Settings
from overnight.store import Store
from overnight.store.rows import digest, pack, storable, thin, unpack

_TRAIN = b"lr = 0.1\n" * 50


@pytest.fixture
def study(store: Store) -> Study:
    return store.create_study("nov21", "c0ffee", Direction.MINIMIZE, Settings(metric="loss", budget=("50",)), 100.0)


def _proposal(content: bytes = _TRAIN, parent: int = 0, hypothesis: str = "wider", rejected: str = "", path: str = "train.py") -> Proposal:
    idea = Idea(hypothesis, "optuna", tokens=7, cost=0.5, seconds=2.0, state={"lr": 0.1})
    operator = Operator.IMPROVE if parent else Operator.BASELINE
    return Proposal(parent, operator, idea, {path: content}, rejected, notes=("a note",))


def _settle(store: Store, study: Study, content: bytes, decision: Decision, value: float | None) -> Experiment:
    parent = store.bar(study.id)
    number = store.propose(study.id, _proposal(content, parent[0] if parent else 0), 1, 0.0).number
    store.advance(study.id, number, Stage.MEASURED, value=value, seconds=10.0, crash_kind="" if value is not None else "oom")
    store.decide(study.id, number, decision, "because", value, 5.0)
    return store.advance(study.id, number, Stage.APPLIED)


# ---- studies ----------------------------------------------------------------------------------------------------------


def test_a_study_is_read_back_as_it_was_written(store: Store, study: Study) -> None:
    assert (store.study("nov21"), store.study(), study.branch) == (study, study, "autoresearch/nov21")


def test_the_newest_study_is_the_one_without_a_name(store: Store, study: Study) -> None:
    other = store.create_study("b", study.base_commit, study.direction, study.settings, 50.0)
    assert (store.study(), store.study("nov21")) == (other, study)


def test_a_tag_is_taken_once(store: Store, study: Study) -> None:
    with pytest.raises(UsageError) as caught:
        store.create_study(study.tag, "c0ffee", Direction.MINIMIZE, Settings(), 0.0)
    assert (caught.value.code, caught.value.fix) == ("E-TAG-TAKEN", "overnight run --tag nov21b")


@pytest.mark.usefixtures("study")
def test_an_unknown_study_is_said_with_those_that_are_known(store: Store) -> None:
    with pytest.raises(NotFoundError) as caught:
        store.study("nov22")
    assert (caught.value.code, caught.value.why) == ("E-NO-STUDY", "known: nov21")


def test_wishes_and_states_are_kept(store: Store, study: Study) -> None:
    store.want(study.id, "pause")
    store.set_state(study.id, "paused", "a person \ud800", 12.5)
    store.set_state(study.id, "paused", "again")
    told = store.summary(study)
    assert (store.wanted(study.id), told.state, told.reason, told.seconds, store.ran_seconds(study.id)) == (
        "pause",
        "paused",
        "again",
        12.5,
        12.5,
    )


# ---- experiments ------------------------------------------------------------------------------------------------------


def test_a_proposal_becomes_an_experiment_with_the_next_number(store: Store, study: Study) -> None:
    store.propose(study.id, _proposal(), 50, 1.0)
    assert store.propose(study.id, _proposal(b"x", 1), 40, 2.0) == Experiment(
        number=2, parent=1, operator=Operator.IMPROVE, stage=Stage.PROPOSED, proposer="optuna", description="wider", started=2.0,
        think_seconds=2.0, lines=40, tokens=7, cost=0.5, state={"lr": 0.1},
    )  # fmt: skip


def test_files_are_read_back_byte_for_byte(store: Store, study: Study, path: Path) -> None:
    contents = [_TRAIN, _TRAIN + b"# a line\n", b"", os.urandom(100_000), b"\0\xff\r\n"]
    for number, content in enumerate(contents):
        store.propose(study.id, _proposal(content, number), 1, 0.0)
    with contextlib.closing(Store(path, readonly=True)) as other:
        assert [other.files(study.id, number + 1) for number in range(5)] == [{"train.py": content} for content in contents]


def test_a_file_that_the_baseline_does_not_have_is_read_back(store: Store, study: Study) -> None:
    store.propose(study.id, _proposal(), 1, 0.0)
    store.propose(study.id, _proposal(b"new", 1, path="new.py"), 1, 0.0)
    assert store.files(study.id, 2) == {"new.py": b"new"}


def test_a_text_that_is_no_unicode_is_kept_with_marks(store: Store, study: Study) -> None:
    store.propose(study.id, _proposal(hypothesis="a\udcffb", rejected="c\ud800"), 1, 0.0)
    found = store.decide(study.id, 1, Decision.DISCARD, "d\udfff", None, 0.0)
    assert (found.description, found.cause) == ("a?b", "d?")


def test_what_is_no_number_is_kept_as_none(store: Store, study: Study) -> None:
    store.propose(study.id, _proposal(), 1, 0.0)
    assert store.advance(study.id, 1, Stage.MEASURED, value=float("nan")).value is None


def test_a_decision_is_made_once(store: Store, study: Study) -> None:
    store.propose(study.id, _proposal(), 1, 0.0)
    first = store.decide(study.id, 1, Decision.KEEP, "baseline", 1.0, 3.0)
    second = store.decide(study.id, 1, Decision.CRASH, "no", None, 4.0)
    kinds = [event["type"] for event in store.events(study.id)]
    assert (second, store.bar(study.id), kinds.count("experiment.decided")) == (first, (1, 1.0), 1)


def test_only_a_keep_moves_the_bar(store: Store, study: Study) -> None:
    bars = [store.bar(study.id)]
    for decision, value in ((Decision.KEEP, 1.0), (Decision.DISCARD, 2.0), (Decision.CRASH, None), (Decision.KEEP, 0.5)):
        _settle(store, study, b"%r" % value, decision, value)
        bars.append(store.bar(study.id))
    assert bars == [None, (1, 1.0), (1, 1.0), (1, 1.0), (4, 0.5)]


def test_experiments_are_listed_by_number(store: Store, study: Study) -> None:
    for number, decision in enumerate((Decision.KEEP, Decision.DISCARD, Decision.KEEP)):
        _settle(store, study, b"%d" % number, decision, 1.0)
    store.propose(study.id, _proposal(b"running", 3), 1, 0.0)
    found = (
        store.experiments(study.id),
        store.experiments(study.id, last=2),
        store.experiments(study.id, kept=True),
        store.unfinished(study.id),
    )
    assert [[item.number for item in part] for part in found] == [[1, 2, 3, 4], [3, 4], [1, 3], [4]]


def test_decisions_keep_their_order_when_the_clock_is_set_back(store: Store, study: Study) -> None:
    for number in range(3):
        store.propose(study.id, _proposal(b"%d" % number, number), 1, 0.0)
    for number, now in ((2, 300.0), (1, 200.0), (3, 100.0)):
        store.decide(study.id, number, Decision.DISCARD, "", None, now)
    assert store.decided(study.id) == [2, 1, 3]


def test_an_unknown_experiment_is_said(store: Store, study: Study) -> None:
    with pytest.raises(NotFoundError) as caught:
        store.experiment(study.id, 9)
    assert str(caught.value) == "error[E-NO-EXPERIMENT]: there is no experiment #9\n  fix:   overnight ls"


@pytest.mark.parametrize(
    ("decision", "value", "expected"),
    [
        (None, None, 1),  # still running
        (Decision.KEEP, 1.0, 1),
        (Decision.DISCARD, 1.0, 1),
        (Decision.CRASH, None, 1),
        (Decision.DISCARD, None, 0),  # rejected: it never ran
    ],
)
def test_the_same_files_are_found_again_unless_they_never_ran(
    store: Store, study: Study, decision: Decision | None, value: float | None, expected: int
) -> None:
    store.propose(study.id, _proposal(), 1, 0.0)
    store.advance(study.id, 1, Stage.MEASURED, value=value)
    if decision is not None:
        store.decide(study.id, 1, decision, "", value, 0.0)
    assert (store.same_files(study.id, {"train.py": _TRAIN}), store.same_files(study.id, {"train.py": b"other"})) == (expected, 0)


def test_an_interrupted_write_leaves_nothing(store: Store, study: Study) -> None:
    broken = Proposal(0, Operator.BASELINE, Idea("x", "y", state={"no": object()}), {"train.py": b""})
    with pytest.raises(TypeError):
        store.propose(study.id, broken, 1, 0.0)
    assert (store.experiments(study.id), store.propose(study.id, _proposal(), 1, 0.0).number) == ([], 1)


# ---- jobs, events, summary --------------------------------------------------------------------------------------------


def test_attempts_are_counted_and_never_used_twice(store: Store, study: Study) -> None:
    store.propose(study.id, _proposal(), 1, 0.0)
    attempts = [store.attempt(study.id, 1, 0, 1.0)]
    store.lost(study.id, 1, 1, "its supervisor died", 2.0)
    attempts.append(store.attempt(study.id, 1, 0, 3.0))
    states = [(job["attempt"], job["state"], job["cause"]) for job in store.jobs(study.id, 1)]
    assert (attempts, store.last_attempt(study.id, 1), states) == ([1, 2], 2, [(1, "LOST", "its supervisor died"), (2, "QUEUED", "")])


def test_the_series_of_a_job_is_kept_whatever_was_printed(store: Store, study: Study) -> None:
    store.propose(study.id, _proposal(), 1, 0.0)
    store.attempt(study.id, 1, 0, 1.0)
    points = [MetricPoint("loss", 0.5, 0, 0.1), MetricPoint("loss", float("nan"), 1, 0.2), MetricPoint("acc", float("inf"), 1e300, 0.3)]
    store.ran((study.id, 1, 1), JobStatus(JobState.SUCCEEDED, seconds=3.0), points, 9.0, value=float("inf"))
    assert (store.series(study.id, 1), store.series(study.id, 1, "acc")) == (
        [("loss", 0.0, 0.5, 0.1), ("loss", 1.0, None, 0.2), ("acc", 1e300, None, 0.3)],
        [("acc", 1e300, None, 0.3)],
    )


def test_events_are_read_on_from_any_of_them(store: Store, study: Study) -> None:
    for number in range(5):
        store.event(study.id, number, "note", float(number), {"text": "\udcff…"})
    events = list(store.events(study.id))
    assert (list(store.events(study.id, since=events[2]["seq"])), events[0]["data"]) == (events[3:], {"text": "\udcff…"})


def test_the_summary_counts_what_is_there(store: Store, study: Study) -> None:
    for decision, value in ((Decision.KEEP, 1.0), (Decision.DISCARD, 2.0), (Decision.CRASH, None), (Decision.KEEP, 0.5)):
        _settle(store, study, b"%r" % value, decision, value)
    store.propose(study.id, _proposal(b"running", 4), 1, 0.0)
    told = store.summary(study)
    assert (told.total, told.kept, told.discarded, told.crashed, told.running, told.crash_kinds) == (5, 2, 1, 1, (5,), {"oom": 1})
    assert (told.baseline and told.baseline.number, told.best and told.best.number) == (1, 4)
    assert (told.train_seconds, told.think_seconds, told.tokens, told.cost, store.count(study.id)) == (40.0, 10.0, 35, 2.5, 4)


def test_no_question_walks_through_history(store: Store, study: Study) -> None:
    asked: list[str] = []
    store._db.set_trace_callback(asked.append)
    _settle(store, study, b"x", Decision.KEEP, 1.0)
    store.same_files(study.id, {"a": b""})
    store.experiments(study.id, last=5)
    store.unfinished(study.id)
    store.count(study.id)
    store.summary(study)
    store._db.set_trace_callback(None)
    plans = [
        row["detail"] for sql in asked if sql.startswith(("SELECT", "UPDATE")) for row in store._db.execute("EXPLAIN QUERY PLAN " + sql)
    ]
    assert [plan for plan in plans if plan.startswith("SCAN") and "study" not in plan.split()] == []


# ---- rows -------------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_what_is_packed_is_unpacked(content: bytes, dictionary: bytes) -> None:
    assert unpack(pack(content, dictionary), dictionary) == content


@settings(max_examples=8)
@given(st.integers(0, 100_000), st.integers(0, 100_000), st.randoms(use_true_random=False))
def test_long_files_are_unpacked_too(size: int, base: int, source: random.Random) -> None:
    content, dictionary = source.randbytes(size), source.randbytes(base)
    assert unpack(pack(content, dictionary), dictionary) == content


def test_a_small_edit_takes_little_room() -> None:
    base = random.Random(1).randbytes(20_000)
    assert len(pack(base[:9000] + b"edit" + base[9000:], base)) < 400


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_what_was_cut_off_is_not_unpacked(cut: int) -> None:
    with pytest.raises(zlib.error):
        unpack(pack(os.urandom(50), b"")[:cut], b"")


_FILES = st.dictionaries(st.text("ab\udcff", max_size=3), st.binary(max_size=3), max_size=3)


@given(_FILES, _FILES)
def test_digests_are_equal_exactly_if_the_files_are(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (digest(one) == digest(other)) == (one == other)


def test_a_path_and_its_content_do_not_run_together() -> None:
    assert len({digest({"a": b"bc"}), digest({"ab": b"c"}), digest({"a": b"b", "c": b""}), digest({"a": b"", "b": b"c"})}) == 4


@given(st.integers(0, 700), st.integers(2, 50))
def test_a_thinned_series_is_bounded_and_keeps_its_ends(count: int, each: int) -> None:
    points = [MetricPoint("a", 0.0, number, 0.0) for number in range(count)]
    found = thin(points, each=each)
    assert (len(found) <= each, found[:1], found[-1:]) == (True, points[:1], points[-1:])


def test_names_beyond_the_limit_are_left_out_of_the_series() -> None:
    points = [MetricPoint(f"m{number % 5}", 0.0, number, 0.0) for number in range(20)]
    assert [(point.name, point.step) for point in thin(points, names=2, each=2)] == [("m0", 0), ("m0", 15), ("m1", 1), ("m1", 16)]


@pytest.mark.parametrize(("value", "expected"), [(1.5, 1.5), (float("-inf"), None), (3, 3), (None, None), ("é", "é"), ("\udcff", "?")])
def test_a_value_is_made_storable(value: object, expected: object) -> None:
    assert storable(value) == expected
