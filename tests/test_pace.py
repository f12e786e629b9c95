"""Budgets, thinking ahead, and waiting after failures; the clock is an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.models import Experiment, Operator, Stage
from overnight.pace import Pace, Patience
from overnight.settings import Settings

_NOTHING = {"train_seconds": 0.0, "cost": 0.0}


def _pace(*budget: str, ran: float = 0.0, count: int = 0, slots: int = 1, gpus: int = 1, ahead: bool = True) -> Pace:
    return Pace(Settings(budget=budget, slots=slots, ahead=ahead), _NOTHING, ran, count, gpus)


def _settled(seconds: float, think: float = 0.0, cost: float = 0.0, operator: Operator = Operator.IMPROVE) -> Experiment:
    return Experiment(2, 1, operator, Stage.APPLIED, "optuna", "x", 0.0, seconds=seconds, think_seconds=think, cost=cost)


def test_without_a_budget_nothing_is_ever_used_up() -> None:
    pace = _pace(ran=1e9, count=10**6)
    pace.settled(_settled(1e9, cost=1e9))
    assert (pace.used_up(1e9), pace.left(1e9), pace.room(10**6)) == ("", "", True)


@pytest.mark.parametrize(
    ("budget", "elapsed", "expected"),
    [
        ("3", 0.0, "budget used up: 3 of 3 experiments"),
        ("4", 0.0, ""),
        ("0", 0.0, "budget used up: 3 of 0 experiments (all since the study's beginning count)"),
        ("1h", 1799.0, ""),
        ("1h", 1800.0, "budget used up: 1h00m of 1h00m"),
        ("1gpu-h", 0.0, "budget used up: 1.00 of 1 GPU hours"),
        ("1.5gpu-h", 0.0, ""),
        ("$2.5", 0.0, "budget used up: $2.50 of $2.50"),
        ("$3", 0.0, ""),
    ],
)
def test_a_bound_is_used_up_when_it_is_reached(budget: str, elapsed: float, expected: str) -> None:
    pace = Pace(Settings(budget=(budget,)), {"train_seconds": 3000.0, "cost": 2.0}, 1800.0, 2)
    pace.begun()
    pace.settled(_settled(600.0, cost=0.5))
    assert pace.used_up(elapsed) == expected


def test_gpu_hours_count_every_gpu_of_a_slot() -> None:
    pace = _pace("2gpu-h", slots=2, gpus=2)
    pace.settled(_settled(3600.0))
    assert pace.used_up(0.0) == "budget used up: 2.00 of 2 GPU hours"


def test_what_is_left_is_said_in_words() -> None:
    pace = Pace(Settings(budget=("50", "8h", "4gpu-h", "$20")), {"train_seconds": 3600.0, "cost": 1.25}, 3600.0, 8)
    assert pace.left(60.0) == "42 experiments, 6h59m, 3.0 GPU hours, $18.75"


def test_what_is_left_is_never_negative() -> None:
    pace = Pace(Settings(budget=("5", "1h", "1gpu-h", "$1")), {"train_seconds": 1e6, "cost": 9.0}, 1e6, 8)
    assert pace.left(0.0) == "0 experiments, 0.0 s, 0.0 GPU hours, $0.00"


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_there_is_room_exactly_while_one_more_keeps_within_the_budget(budget: int, count: int, pending: int) -> None:
    assert _pace(str(budget), count=count).room(pending) == (count + pending + 1 <= budget)


def test_the_budget_of_zero_is_used_up_after_the_baseline() -> None:
    assert _pace("0").used_up(0.0) == "budget used up: 0 of 0 experiments"


@pytest.mark.parametrize(
    ("slots", "ahead", "train", "think", "ages", "expected"),
    [
        (1, False, 10.0, 5.0, [], 1),
        (4, False, 10.0, 5.0, [1.0, 2.0], 2),
        (1, True, 0.0, 0.0, [], 1),  # nothing runs: one brief is enough
        (1, True, 0.0, 0.0, [5.0], 1),
        (1, True, 10.0, 3.0, [1.0], 1),
        (4, True, 10.0, 3.0, [0.0, 1.0, 2.0, 3.0], 1),  # the first ends in 7 s, and a proposal takes 3
        (4, True, 10.0, 3.0, [9.0, 9.0, 9.0, 2.0], 3),
        (4, True, 10.0, 3.0, [9.0, 9.0], 4),
        (4, True, 1.0, 100.0, [0.0] * 4, 16),
        (2, True, 1.0, 100.0, [0.0] * 2, 4),
        (8, True, 10.0, 0.0, [12.0] * 8, 8),  # late: any moment now
        (8, True, 10.0, 0.0, [5.0] * 8, 1),
    ],
)
def test_as_many_proposals_are_wanted_as_keep_every_slot_busy(
    slots: int, ahead: bool, train: float, think: float, ages: list[float], expected: int
) -> None:
    pace = _pace(slots=slots, ahead=ahead)
    pace.settled(_settled(train, think))
    assert pace.wanted(slots - len(ages), ages) == expected


@given(st.integers(1, 64), st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=5), st.lists(st.floats(0, 1e7), max_size=64))
def test_no_slot_waits_and_no_crowd_thinks(slots: int, history: list[tuple[float, float]], ages: list[float]) -> None:
    pace = _pace(slots=slots)
    for train, think in history:
        pace.settled(_settled(train, think))
    free = max(0, slots - len(ages))
    least = free if free == slots == 1 else free + 1
    assert least <= pace.wanted(free, ages) <= free + 16


def test_the_baseline_and_merges_say_nothing_about_thinking() -> None:
    pace = _pace(slots=4)
    pace.settled(_settled(1.0, 100.0, operator=Operator.BASELINE))
    pace.settled(_settled(1.0, 100.0, operator=Operator.COMBINE))
    assert pace.wanted(0, [0.0] * 4) == 1


def test_the_wait_doubles_up_to_five_minutes() -> None:
    patience = Patience()
    assert [patience.failed(0.0) for _ in range(12)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_nobody_is_asked_before_the_wait_is_over() -> None:
    patience = Patience()
    patience.failed(100.0)
    assert [patience.due(now) for now in (100.0, 100.9, 101.0)] == [False, False, True]


def test_an_answer_ends_the_wait() -> None:
    patience = Patience()
    for _ in range(9):
        patience.failed(0.0)
    patience.worked()
    assert (patience.due(0.0), patience.failed(0.0)) == (True, 1.0)


def test_every_third_failure_in_a_row_becomes_a_row() -> None:
    patience, rows = Patience(), []
    for number in range(1, 30):
        patience.failed(0.0)
        if patience.row_due():
            rows.append(number)
    assert rows == [3, 6, 9, 12, 15, 18, 21, 24, 27]


def test_the_third_unusable_answer_in_a_row_brings_a_pause() -> None:
    patience, due = Patience(), []
    for _ in range(4):
        patience.rejected(0.0)
        due.append([patience.due(now) for now in (0.0, 1.0, 2.0)])
    assert due == [[True, True, True], [True, True, True], [False, True, True], [False, False, True]]
