"""Audits, reports, targets, early stop and policies: what each asks for, and when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.judge import Action, Budget, Knowledge, Node, Rules, Run, judge, learn_audit, learn_result, learn_run, learn_taken_back
from overnight.judge.audit import (
    Keep,
    audit_due,
    audit_plan,
    plateau,
    report,
    word,
)
from overnight.judge.noise import outliers
from overnight.judge.policies import POLICIES, Leaf, State, ask, plackett_burman, wave_effects, wave_size
from overnight.judge.records import Level
from overnight.judge.stopping import asha, at, envelope, health, spared
from overnight.judge.waves import outcome, rows, wave_target
from overnight.models import Direction

UP = Rules(Direction.MAXIMIZE)


def baseline() -> tuple[Node, Knowledge]:
    node, known = Node(0, (), kind="baseline"), Knowledge()
    for seed, value in enumerate((-1.0, 0.0, 1.0)):
        node = replace(node, runs=(*node.runs, Run(value, seed)))
        known = learn_run(known, node, UP)
    return node, known


def kept(number: int, value: float, p: float, var: float = 0.5) -> tuple[Keep, Level]:
    action = Action.KEEP if p >= 0.9 else Action.PROVISIONAL
    return Keep(Node(number, (Run(value, 0),), kind="constants", parent=number - 1), action, p), Level(value, var, 0.0, 1)


def night() -> tuple[list[Keep], Knowledge]:
    _, known = baseline()
    keeps = []
    for number, value, p in ((1, 1.0, 0.95), (2, 2.0, 0.6), (3, 3.0, 0.99)):
        keep, level = kept(number, value, p)
        keeps.append(keep)
        known = known.with_level(number, level)
    return keeps, known


def test_an_audit_looks_at_the_tip_then_at_the_doubtful_then_at_the_finalists() -> None:
    keeps, known = night()
    assert [number for number, _ in audit_plan(keeps, known, 50, 0, Budget(), UP)] == [3, 2, 1]


def test_audits_take_at_most_a_tenth_of_the_runs() -> None:
    keeps, known = night()
    assert [len(audit_plan(keeps, known, spent, audited, Budget(), UP)) for spent, audited in ((9, 0), (20, 0), (20, 1), (20, 2))] == [
        0,
        2,
        1,
        0,
    ]


def test_every_audit_run_has_a_seed_that_no_decision_has_seen() -> None:
    keeps, known = night()
    assert {seed for _, seed in audit_plan(keeps, known, 50, 0, Budget(), UP)} == {100_003}


def test_an_audit_is_due_every_25_runs_and_before_the_end() -> None:
    assert [audit_due(24, 0, Budget()), audit_due(25, 0, Budget()), audit_due(49, 25, Budget(2)), audit_due(49, 49, Budget(0))] == [
        False,
        True,
        True,
        False,
    ]


def test_the_gain_is_reported_from_runs_that_no_decision_was_made_on() -> None:
    node, known = baseline()
    tip = Node(3, (Run(9.0, 0), Run(2.0, 7, check=True), Run(2.0, 8, check=True)), parent=0)
    found = report(tip, node, known.with_level(3, Level(8.0, 0.5, 0.0, 3)), UP)
    assert (found.fresh, found.gain, found.low < 2.0 < found.high) == (2, 2.0, True)


def test_the_gain_from_fresh_runs_is_against_the_baselines_own_runs_and_not_what_candidates_made_of_them() -> None:
    node, known = baseline()
    tip = Node(3, (Run(2.0, 7, check=True), Run(2.0, 8, check=True)), parent=0)
    moved = known.with_level(0, Level(-1.0, 0.01, 0.01, 3)).with_level(3, Level(2.0, 0.5, 0.0, 2))
    assert report(tip, node, moved, UP) == report(tip, node, known.with_level(3, Level(2.0, 0.5, 0.0, 2)), UP)


def test_the_interval_of_a_gain_is_never_as_narrow_as_the_posterior_alone() -> None:
    node, known = baseline()
    sure = known.with_level(0, Level(0.0, 0.0, 0.0, 3)).with_level(3, Level(8.0, 0.0, 0.0, 1))
    found = report(Node(3, (Run(9.0, 0),)), node, sure, UP)
    assert found.high - found.low > 0.5


def test_without_fresh_runs_the_gain_is_the_posteriors() -> None:
    node, known = baseline()
    found = report(Node(3, (Run(9.0, 0),)), node, known.with_level(3, Level(8.0, 0.5, 0.0, 1)), UP)
    assert (found.fresh, found.gain) == (0, 8.0)


def test_a_plateau_is_off_unless_asked_for() -> None:
    assert [plateau([0.0] * 30, 0, 1.0), plateau([0.0] * 30, 20, 1.0), plateau([0.0, 2.0], 2, 1.0)] == [False, True, False]


def test_a_run_that_is_not_finite_is_sick() -> None:
    found = health([(1, 2.0), (2, math.nan)])
    assert found is not None
    assert found.reason == "the metric is nan at step 2"


def test_a_silent_run_is_sick() -> None:
    assert [health([(1, 2.0)], silent, 60.0) is not None for silent in (59.0, 60.0)] == [False, True]


def test_a_loss_at_three_times_its_start_twice_in_a_row_is_sick() -> None:
    assert [health(curve) is not None for curve in ([(1, 2.0), (2, 7.0), (3, 5.0)], [(1, 2.0), (2, 7.0), (3, 6.5)])] == [False, True]


def line(height: float, reports: int = 20) -> list[tuple[float, float]]:
    return [(float(step), height) for step in range(1, reports + 1)]


def test_the_envelope_ends_a_run_far_below_twice_in_a_row_after_15_percent() -> None:
    found = envelope(line(-9.0), [line(0.0), line(0.1)], 20, 1.0)
    assert (found.step if found else None) == 4.0


def test_the_envelope_lets_one_bad_report_pass() -> None:
    curve = line(0.0)
    curve[10] = (11.0, -50.0)
    assert envelope(curve, [line(0.0)], 20, 1.0) is None


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 100), st.sampled_from([1.0, -1.0]))
def test_the_envelope_never_ends_a_run_that_is_ahead(ahead: float, sign: float) -> None:
    assert envelope(line(sign * ahead), [line(0.0)], 20, 1.0, sign) is None


def test_between_reports_a_curve_is_a_straight_line() -> None:
    assert [at([(0, 0.0), (10, 5.0)], step) for step in (0, 4, 10, 11)] == [0.0, 2.0, 5.0, None]


def test_asha_ends_the_lower_two_thirds_at_a_rung() -> None:
    others = [line(float(height)) for height in range(5)]
    assert [asha(line(height), others, 20) is None for height in (-1.0, 1.5, 4.5)] == [False, False, True]


def test_about_one_in_twenty_is_spared() -> None:
    assert 30 <= sum(spared(number, 0) for number in range(1000)) <= 70


def tree(*, discards: int = 0, **more: object) -> State:
    leaves = (Leaf(0, 0, 0.0, 0.1, kept=True, children=2), Leaf(1, 0, 1.0, 0.1, kept=True, children=1), Leaf(2, 0, 0.5, 0.2, near=True))
    return replace(State((*leaves, Leaf(3, 1)), 1, discards), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(POLICIES))
def test_every_policy_fills_the_slots_and_repeats_itself_exactly(name: str) -> None:
    first, second = ask(name, tree(), 4), ask(name, tree(), 4)
    assert (len(first), first == second) == (4, True)


def test_a_would_be_keep_comes_before_an_audit_and_that_before_a_new_idea() -> None:
    state = tree(confirm=((3, 1),), audits=((1, 100_003),))
    assert [task.step for task in ask("greedy", state, 3)] == ["replicate", "audit", "improve"]


def test_a_dumb_crash_is_debugged_at_most_twice() -> None:
    found = [ask("greedy", tree(leaves=(Leaf(0, 0, 0.0), Leaf(1, 0, fixable=True, repairs=n)), tip=0), 1)[0].step for n in range(3)]
    assert found == ["debug", "debug", "improve"]


def test_greedy_tries_a_second_lineage_after_fifteen_discards() -> None:
    assert [ask("greedy", tree(discards=n), 1)[0].parent for n in (14, 15)] == [1, 2]


def test_best_of_n_moves_to_the_best_child_once_there_are_five() -> None:
    leaves = (Leaf(0, 0, 0.0), *(Leaf(n, 0, n / 10) for n in range(1, 6)))
    assert [ask("best-of-n", State(leaves[:count], 0), 1)[0].parent for count in (5, 6)] == [0, 5]


def test_aide_begins_with_five_drafts() -> None:
    assert [task.step for task in ask("aide", State((Leaf(0, 0, 0.0),), 0), 6)] == ["draft"] * 5 + ["improve"]


def test_a_wave_needs_enough_edits_that_do_not_crash() -> None:
    assert [wave_size(12, 0.0), wave_size(9, 0.0), wave_size(2, 0.0), wave_size(12, 0.1)] == [11, 7, 0, 0]


@pytest.mark.parametrize("edits", [3, 7, 11])
def test_a_wave_is_balanced_in_every_edit_and_every_pair(edits: int) -> None:
    design = plackett_burman(edits)
    once = {sum(row[i] for row in design) for i in range(edits)}
    twice = {sum(row[i] and row[j] for row in design) for i in range(edits) for j in range(i)}
    assert (len(design), once, twice) == (edits + 1, {(edits + 1) // 2}, {(edits + 1) // 4})


def test_a_wave_finds_the_edits_that_help() -> None:
    _, known = baseline()
    truth = [3.0, 0.0, 0.0, -4.0, 0.0, 0.0, 5.0]
    design: Sequence[Sequence[bool]] = plackett_burman(7)
    values = [sum(effect for effect, on in zip(truth, row, strict=True) if on) for row in design]
    assert [p > 0.7 for _, p in wave_effects(values, design, known, 1.0)] == [True, False, False, False, False, False, True]


def test_a_keep_is_refuted_when_it_is_likely_no_improvement_or_is_expected_to_do_harm() -> None:
    found = [word(p, gain) for p, gain in ((0.95, 1.0), (0.5, 0.1), (0.4, -0.1), (0.2, 0.1), (0.6, -0.1))]
    assert found == ["confirmed", "still open", "contradicted", "contradicted", "still open"]


def test_a_wave_takes_at_most_half_of_the_runs_that_are_left() -> None:
    assert [wave_target(left) for left in (math.inf, 26, 18, 10, 5, 4)] == [11, 11, 7, 3, 3, 0]


def test_a_wave_supports_what_helps_and_says_by_how_much() -> None:
    _, known = baseline()
    truth = (3.0, 0.0, -3.0)
    found = outcome([sum(truth[at] for at in row) for row in rows(3)], 0.0, known)
    assert (found.subset, found.p > 0.9, 1.0 < found.gain < 3.5) == ((0,), True, True)


def test_a_value_far_off_the_others_is_no_noise() -> None:
    assert [outliers(values) for values in ([1.0, 1.1, 900.0], [1.0, 1.1, 1.4], [1.0, 1.1, 0.9, 50.0], [1.0, 2.0], [5.0, 5.0, 5.0])] == [
        (2,),
        (),
        (3,),
        (),
        (),
    ]


def test_a_baseline_that_has_diverged_once_is_run_twice_more_and_measured_without_that_run() -> None:
    node, known = Node(0, (), kind="baseline"), Knowledge()
    causes = []
    for seed, value in enumerate((-1.0, -1000.0, -1.1, -0.9, -1.2)):
        node = replace(node, runs=(*node.runs, Run(value, seed)))
        known = learn_run(known, node, UP)
        causes.append(judge(node, None, known, UP, Budget()).action)
    assert (causes, known.scale < 0.2, round(known.levels[0].mean, 2)) == ([Action.REPLICATE] * 4 + [Action.KEEP], True, -1.05)


def test_a_fall_by_orders_of_magnitude_is_kept_after_two_runs_and_the_noise_falls_with_it() -> None:
    node, known = Node(0, (), kind="baseline"), Knowledge()
    for seed, value in enumerate((-5e5, -1e5, -3e5)):
        node = replace(node, runs=(*node.runs, Run(value, seed)))
        known = learn_run(known, node, UP)
    tried, actions = Node(1, (), kind="constants"), []
    for seed, value in enumerate((-2.0, -2.1)):
        tried = replace(tried, runs=(*tried.runs, Run(value, seed)))
        known = learn_run(known, tried, UP)
        found = judge(tried, node, known, UP, Budget())
        actions.append(found.action)
    known = learn_result(known, tried, node, found, UP)
    assert (actions, known.scale < 10.0, round(known.levels[1].mean, 2)) == ([Action.REPLICATE, Action.KEEP], True, -2.05)


def test_replicates_that_are_all_far_calmer_set_the_noise_anew() -> None:
    _, known = baseline()
    tried = Node(1, (Run(0.0, 0),), kind="constants")
    for seed, value in enumerate((0.001, -0.001, 0.002), 1):
        tried = replace(tried, runs=(*tried.runs, Run(value, seed)))
        known = learn_run(known, tried, UP)
    assert known.scale < 0.1


def test_a_keep_that_was_taken_back_takes_its_doubt_along() -> None:
    known = replace(baseline()[1], doubt=0.75, keeps=2)
    back = learn_taken_back(learn_audit(known, 0.75, 0.25), 0.25)
    assert (learn_audit(known, 0.75, 0.25).doubt, back.doubt, back.keeps) == (1.25, 0.5, 1)
