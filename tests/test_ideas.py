"""The queue of ideas: its order, who takes what, and that none is lost or taken twice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overnight.briefing import Briefer, Occasion, Told
from overnight.errors import NotFoundError
from overnight.knowledge import Knowledge
from overnight.models import Decision, Direction, Idea, Operator, Proposal, Stage, Study
from overnight.notes import Source
from overnight.redact import Redactor
from overnight.settings import Settings
from overnight.store import Store
from overnight.store.ideas import TRIES

IMPROVE = Occasion(Operator.IMPROVE, 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store(tmp_path / "overnight.db")) as found:
        yield found


@pytest.fixture
def study(store: Store) -> Study:
    found = store.create_study("nov21", "c0ffee", Direction.MINIMIZE, Settings(metric="loss", goal="less loss"), 100.0)
    store.propose(found.id, Proposal(0, Operator.BASELINE, Idea("baseline", "overnight"), {"train.py": b"LR = 1\n"}), 1, 0.0)
    store.advance(found.id, 1, Stage.MEASURED, value=1.0)
    store.decide(found.id, 1, Decision.KEEP, "baseline", 1.0, 5.0)
    return found


@pytest.fixture
def briefer(store: Store, tmp_path: Path) -> Briefer:
    return Briefer(store, Knowledge(store, Redactor({})), tmp_path)


@pytest.fixture
def add(store: Store, study: Study) -> Callable[..., int]:
    def added(text: str, *, pinned: bool = False) -> int:
        return store.add_idea(study.id, text, Source.PERSON, 1.0, pinned=pinned).id

    return added


def queue(store: Store, study: Study) -> list[str]:
    return [idea.text for idea in store.ideas(study.id, "open")]


def proposed(store: Store, study: Study, told: Told, rejected: str = "") -> int:
    proposal = Proposal(
        1,
        Operator.IMPROVE,
        Idea("x", "agent"),
        {"train.py": b"LR = 2\n"},
        rejected,
        told=told.notes,
        takes=(told.idea,) if told.idea else (),
    )
    return store.propose(study.id, proposal, 1, 0.0).number


def test_pinned_ideas_come_first_each_kind_in_its_order(store: Store, study: Study, add: Callable[..., int]) -> None:
    for text, pinned in (("a", False), ("B", True), ("c", False), ("D", True)):
        add(text, pinned=pinned)
    assert queue(store, study) == ["B", "D", "a", "c"]


def test_an_idea_is_moved_to_the_front_of_its_kind_and_opened_again(store: Store, study: Study, add: Callable[..., int]) -> None:
    first, _, pinned = add("a"), add("b"), add("P", pinned=True)
    last = add("c")
    store.mark_idea(study.id, last, "vetoed")
    for idea in (first, last):
        store.raise_idea(study.id, idea)
    assert (queue(store, study), store.idea(study.id, pinned).pinned) == (["P", "c", "a", "b"], True)


def test_an_idea_of_another_study_or_of_none_is_unknown(store: Store, study: Study, add: Callable[..., int]) -> None:
    other = store.create_study("other", "c0ffee", Direction.MINIMIZE, Settings(), 0.0)
    idea = add("a")
    codes = []
    for number, wanted in ((other.id, idea), (study.id, 99), (study.id, 0), (study.id, -1), (study.id, 2**70)):
        with pytest.raises(NotFoundError) as caught:
            store.mark_idea(number, wanted, "vetoed")
        codes.append(caught.value.code)
    assert (codes, queue(store, study)) == (["E-NO-IDEA"] * 5, ["a"])


def test_a_pinned_idea_is_what_the_person_asks_for_and_the_others_wait(
    study: Study, add: Callable[..., int], briefer: Briefer, store: Store
) -> None:
    add("use a cosine schedule")
    wanted = add("try a P2 head", pinned=True)
    store.mark_idea(study.id, add("double the epochs"), "vetoed")
    told = briefer.write(study, IMPROVE)
    lines = told.text.splitlines()
    veto = lines[lines.index("Do NOT try (the person's veto):") + 1]
    assert (told.idea, "The person asks for this: try a P2 head" in lines, veto) == (wanted, True, "- double the epochs")
    assert lines[lines.index("Queued by the person, for later proposals (do not take them up now):") + 1] == "- use a cosine schedule"


def test_proposals_that_are_made_at_once_take_different_ideas(study: Study, add: Callable[..., int], briefer: Briefer) -> None:
    ideas = [add("a"), add("b")]
    assert [briefer.write(study, IMPROVE).idea for _ in range(3)] == [*ideas, 0]


@pytest.mark.parametrize("operator", [Operator.REPAIR, Operator.SIMPLIFY, Operator.COMBINE])
def test_a_step_that_has_a_task_of_its_own_takes_no_idea(
    study: Study, add: Callable[..., int], briefer: Briefer, operator: Operator
) -> None:
    idea = add("a")
    other = briefer.write(study, Occasion(operator, 1, crashed=1 if operator is Operator.REPAIR else 0, others=(1,)))
    assert (other.idea, briefer.write(study, IMPROVE).idea) == (0, idea)


def test_an_idea_of_a_proposal_that_failed_is_asked_for_again(study: Study, add: Callable[..., int], briefer: Briefer) -> None:
    idea = add("a")
    briefer.give_back(briefer.write(study, IMPROVE).idea)
    assert briefer.write(study, IMPROVE).idea == idea


def test_an_idea_whose_proposal_never_came_back_is_not_lost(study: Study, add: Callable[..., int], briefer: Briefer) -> None:
    idea = add("a")
    found = [briefer.write(study, IMPROVE).idea for _ in range(33)]
    assert (found[0], set(found[1:32]), found[32]) == (idea, {0}, idea)


def test_a_loop_that_starts_anew_asks_for_what_was_not_taken(
    store: Store, study: Study, add: Callable[..., int], briefer: Briefer, tmp_path: Path
) -> None:
    first, second = add("a"), add("b")
    proposed(store, study, briefer.write(study, IMPROVE))
    briefer.write(study, IMPROVE)  # and killed
    again = Briefer(store, Knowledge(store, Redactor({})), tmp_path).write(study, IMPROVE)
    assert (store.idea(study.id, first).state, store.idea(study.id, first).experiment, again.idea) == ("taken", 2, second)


def test_an_idea_that_could_not_be_run_is_open_again_a_few_times(
    store: Store, study: Study, add: Callable[..., int], briefer: Briefer
) -> None:
    idea = add("a")
    states = []
    for _ in range(TRIES + 1):
        told = briefer.write(study, IMPROVE)
        number = proposed(store, study, told, "no change")
        item = store.decide(study.id, number, Decision.DISCARD, "rejected: no change", None, 5.0)
        Knowledge(store, Redactor({})).settled(study, item, 5.0)
        states.append((told.idea, store.idea(study.id, idea).state))
    assert states == [(idea, "open")] * (TRIES - 1) + [(idea, "taken"), (0, "taken")]


def test_an_idea_that_was_run_is_not_asked_for_again_whatever_came_of_it(
    store: Store, study: Study, add: Callable[..., int], briefer: Briefer
) -> None:
    idea = add("a")
    number = proposed(store, study, briefer.write(study, IMPROVE))
    store.advance(study.id, number, Stage.MEASURED, value=2.0)
    Knowledge(store, Redactor({})).settled(study, store.decide(study.id, number, Decision.DISCARD, "worse", None, 5.0), 5.0)
    assert (store.idea(study.id, idea).state, briefer.write(study, IMPROVE).idea) == ("taken", 0)


def test_a_veto_stands_against_a_proposal_that_is_under_way(store: Store, study: Study, add: Callable[..., int], briefer: Briefer) -> None:
    idea = add("a")
    told = briefer.write(study, IMPROVE)
    store.mark_idea(study.id, idea, "vetoed")
    proposed(store, study, told)
    assert (store.idea(study.id, idea).state, store.idea(study.id, idea).experiment) == ("vetoed", 0)
