"""Progress as lines: what they say of the best fits what was printed above them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from overnight.cli.plain import Lines
from overnight.models import Decision, Direction, Experiment, Operator, Stage, Study
from overnight.settings import Settings


def _begun(number: int) -> Experiment:
    return Experiment(number, 1, Operator.IMPROVE, Stage.SUBMITTED, "optuna", "LR 0.1 -> 0.2", 0.0)


def _kept(item: Experiment, value: float) -> Experiment:
    return replace(item, decision=Decision.KEEP, value=value)


def _cycles(slots: int) -> list[str]:
    """The first line of two experiments that began side by side, after each other's time, and ended one after the other."""
    said: list[str] = []
    lines = Lines(said.append)
    study = Study(1, "t", "autoresearch/t", "c0ffee", "acc", Direction.MAXIMIZE, Settings(slots=slots), 0.0)
    lines.learn(study, 0.5, Path())
    for number in (2, 3):
        lines("started", _begun(number), "")
    for number, value in ((2, 0.6), (3, 0.7)):
        lines("settled", _kept(_begun(number), value), "")
    return [line for line in said if "Cycle" in line]


def test_with_more_slots_the_best_of_a_cycle_is_the_one_that_was_printed_last() -> None:
    assert _cycles(2) == ["[loop] Cycle 1 — best: 0.5", "[loop] Cycle 2 — best: 0.6"]


def test_with_one_slot_a_cycle_is_told_when_it_begins_and_named_again_above_a_later_result() -> None:
    begun, results = (
        ["[loop] Cycle 1 — best: 0.5", "[loop] Cycle 2 — best: 0.5"],
        ["[loop] Cycle 1 — best: 0.5", "[loop] Cycle 2 — best: 0.6"],
    )
    assert _cycles(1) == begun + results
