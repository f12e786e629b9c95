"""Directions out of an agent's answer: any shape is read, what was tried counts for less."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.goals import read as goal_of
from overnight.notes import NoteKind
from overnight.suggestions import Suggestion, Tried, ranked, read, similar

GOAL = goal_of("MPJPE currently 48 mm, target 25 mm")
ROW = {"title": "Bone loss", "reason": "bones are rigid", "gain": 3, "cost": 2, "risk": 0.2, "files": ["train.py"]}
WANTED = Suggestion("Bone loss", "bones are rigid", 3.0, 2.0, 0.2, ("train.py",))


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(ROW),
        f"Here they are:\n\n```json\n[{json.dumps(ROW)}]\n```\nGood luck!",
        json.dumps({"ideas": [ROW]}, indent=2),
        f"{{broken\n- {json.dumps(ROW)}\n{json.dumps(ROW)}\n[1, 2]",
        json.dumps({**ROW, "gain": "3 mm", "cost": "2 hours", "risk": "20%", "files": "train.py"}),
    ],
    ids=["line", "fenced", "object", "amid garbage", "in words"],
)
def test_a_suggestion_is_read_in_whatever_shape_it_comes(answer: str) -> None:
    assert read(answer, GOAL) == [WANTED]


@pytest.mark.parametrize(
    ("field", "said", "meant"),
    [
        ("gain", "5-10%", 3.6), ("gain", "medium", 11.5), ("gain", "who knows", None), ("gain", float("nan"), None), ("cost", "1 day", 8.0),
        ("cost", "30 min", 0.5), ("cost", "high", 12.0), ("cost", -1e300, 4.0), ("risk", "low", 0.2), ("risk", 400, 0.99), ("risk", None, 0.5),
    ],
)  # fmt: skip
def test_gain_cost_and_risk_may_be_words_or_shares(field: str, said: object, meant: float | None) -> None:
    assert getattr(read(json.dumps({"title": "x", field: said}), GOAL)[0], field) == pytest.approx(meant)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I have no idea.",
        "{" * 200_000,
        "[" * 100_000,
        '{"a":' * 50_000,
        '{"name": 1}',
        "\0\x1b]0;x\7",
        '{"title":"x","gain":' + "9" * 5000,
    ],
)
def test_an_answer_without_a_suggestion_is_refused_in_words(answer: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        read(answer, GOAL)


def test_control_characters_of_a_title_are_gone() -> None:
    assert read(json.dumps({"title": "a\x1b[31m b\u202e\n## c"}), GOAL)[0].title == "a b<U+202E> ## c"


@settings(deadline=None, database=None)
@given(st.text(max_size=600) | st.binary(max_size=600).map(lambda data: data.decode("utf-8", "replace")))
def test_any_answer_is_read_or_refused(text: str) -> None:
    try:
        found = read(text + '{"title": "x"}', GOAL)
    except ValueError:
        found = []
    assert all(item.title and 0 <= item.risk <= 1 and item.cost > 0 for item in found)


def test_the_best_is_what_gains_most_for_its_cost_and_risk() -> None:
    rows = [
        Suggestion("dear", gain=8, cost=16, risk=0.1),
        Suggestion("good", gain=3, cost=1, risk=0.1),
        Suggestion("risky", gain=3, cost=1, risk=0.9),
    ]
    assert [item.title for item in ranked(rows, {})] == ["good", "dear", "risky"]


def test_what_was_tried_before_counts_for_less_and_says_so() -> None:
    rows = [Suggestion("Bone loss", gain=3, cost=1, risk=0.1), Suggestion("Occlusion", gain=1, cost=1, risk=0.1)]
    before = Tried("exp-012", "bone length loss", NoteKind.DEAD_END, "mpjpe 49, discarded")
    found = ranked(rows, {"Bone loss": [before]})
    assert [(item.title, item.before) for item in found] == [
        ("Occlusion", ()),
        ("Bone loss", ("exp-012 bone length loss (mpjpe 49, discarded)",)),
    ]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Bone length consistency loss", "add a bone-length loss", True), ("cosine LR schedule", "cosine schedule with warm restarts", True),
        ("Backbone upgrade", "larger batch", False), ("add a loss", "add a model", False), ("", "", False),
    ],
)  # fmt: skip
def test_two_texts_are_similar_if_their_telling_words_are(one: str, other: str, same: bool) -> None:
    assert similar(one, other) is same
