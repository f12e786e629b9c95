"""The judgement under noise: what it answers on single cases, and the properties it keeps on all."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.decide import Incumbent, Measured, decide
from overnight.judge import Action, Budget, Knowledge, Node, Rules, Run, Verdict, estimate, judge, learn_result, learn_run, next_seed
from overnight.judge.judging import ahead_of_wild, calms
from overnight.judge.learn import expected_false_keeps, noise_interval
from overnight.models import Decision, Direction

UP, DOWN = Rules(Direction.MAXIMIZE), Rules(Direction.MINIMIZE)
values = st.floats(allow_nan=True, allow_infinity=True)
tame = st.floats(-5, 5)


def baseline(*found: float, rules: Rules = UP) -> tuple[Node, Knowledge]:
    node, known = Node(0, (), lines=100, kind="baseline"), Knowledge()
    for seed, value in enumerate(found):
        node = replace(node, runs=(*node.runs, Run(value, seed, "w", 10.0)))
        known = learn_run(known, node, rules)
    return node, known


def candidate(*found: float, number: int = 1, lines: int = 100, memory_gb: float = 0.0) -> Node:
    return Node(number, tuple(Run(value, seed, "w", 10.0) for seed, value in enumerate(found)), lines, memory_gb, "constants")


def verdict(*found: float, rules: Rules = UP, base: tuple[float, ...] = (-1.0, 0.0, 1.0), **more: float) -> Verdict:
    node, known = baseline(*base, rules=rules)
    return judge(candidate(*found, **more), node, known, rules, Budget())  # type: ignore[arg-type]


def test_the_baseline_is_run_three_times_on_three_seeds_and_then_kept() -> None:
    seen: list[tuple[str, int | None]] = []
    for count in (1, 2, 3):
        node, known = baseline(*(0.0, 1.0, -1.0)[:count])
        found = judge(node, None, known, UP, Budget())
        seen.append((found.action, found.seed))
    assert seen == [("replicate", 1), ("replicate", 2), ("keep", None)]


def test_a_single_baseline_run_is_allowed_and_said() -> None:
    node, known = baseline(1.0)
    found = judge(node, None, known, replace(UP, baseline_runs=1), Budget())
    assert (found.action, found.cause) == (Action.KEEP, "baseline; one run, so nothing is known of the noise")


def test_the_noise_of_the_baseline_is_said_in_the_metrics_own_units() -> None:
    node, known = baseline(0.91, 0.92, 0.93)
    assert judge(node, None, known, UP, Budget()).cause == "baseline; 0.92, sd 0.01 between 3 runs"


WILD = (12.9, 0.91, 5.1)  # losses of one and the same code: their spread is no measure for code that trains calmly


@pytest.mark.parametrize(("found", "wanted"), [((0.56,), "replicate"), ((0.56, 0.9), "keep"), ((0.56, 0.95), "near-miss")])
def test_what_beats_every_run_of_a_wild_baseline_runs_again_and_is_kept_if_that_one_does_too(found: tuple[float, ...], wanted: str) -> None:
    assert verdict(*found, base=WILD, rules=replace(DOWN, n_max=len(found))).action == wanted


def test_after_a_calm_keep_over_a_wild_baseline_the_noise_is_that_of_the_calm_one() -> None:
    node, known = baseline(*WILD, rules=DOWN)
    first = replace(candidate(0.56, 0.6), kind="constants")
    found = judge(first, node, known, DOWN, Budget())
    learned = learn_result(known, first, node, found, DOWN)
    assert (found.kept, noise_interval(known)[0] > 2, noise_interval(learned)[0] < 0.1) == (True, True, True)


@pytest.mark.parametrize("found", [0.56, 0.05])
def test_one_run_beside_a_wild_baseline_is_no_sure_keep_when_the_budget_is_used_up(found: float) -> None:
    node, known = baseline(*WILD, rules=DOWN)
    seen = judge(candidate(found), node, known, DOWN, Budget(runs_left=0))
    assert (seen.final, seen.p < 0.9) == (True, True)


def test_a_candidate_that_diverged_says_nothing_of_the_incumbents_level() -> None:
    node, known = baseline(-1.0, 0.0, 1.0)
    bad = candidate(-1e9)
    learned = learn_result(known, bad, node, judge(bad, node, known, UP, Budget()), UP)
    assert (learned.levels, learned.seeds) == (known.levels, known.seeds)


def test_after_a_leap_the_level_is_what_the_run_gave() -> None:
    node, known = baseline(-1.0, 0.0, 1.0)
    good = candidate(1000.0, number=1)
    learned = learn_result(known, good, node, judge(good, node, known, UP, Budget()), UP)
    assert abs(learned.levels[1].mean - 1000.0) < 1.5


def test_what_is_as_wild_as_the_baseline_is_not_called_calm() -> None:
    node, _ = baseline(3.0, 1.0, 2.0, rules=DOWN)
    assert [calms(candidate(*found), node, 1.0, DOWN) > 0 for found in ((0.8, 0.9), (0.3, 0.9))] == [True, False]


def test_a_baseline_with_one_diverged_run_is_not_wild() -> None:
    node, _ = baseline(0.91, 0.92, 0.93, 0.94, 28000.0, rules=DOWN)
    assert ahead_of_wild(candidate(0.9), node, DOWN) is False


def test_three_equal_values_make_a_study_deterministic() -> None:
    _, known = baseline(0.5, 0.5, 0.5)
    assert (known.deterministic, known.usable) == (True, False)


def test_a_clear_win_is_kept_after_one_run() -> None:
    assert verdict(9.0).action is Action.KEEP


def test_a_clear_loss_is_dropped_after_one_run() -> None:
    assert verdict(-9.0).action is Action.DISCARD


def test_an_unclear_result_is_run_once_more_on_a_seed_that_it_has_not_seen() -> None:
    found = verdict(1.6)
    assert (found.action, found.seed in (1, 2)) == (Action.REPLICATE, True)


def test_no_run_is_asked_for_when_none_is_left() -> None:
    node, known = baseline(-1.0, 0.0, 1.0)
    assert judge(candidate(1.6), node, known, UP, Budget(runs_left=0)).final is True


def test_strict_has_no_provisional_keeps() -> None:
    node, known = baseline(-1.0, 0.0, 1.0)
    found = {judge(candidate(x / 10), node, known, replace(UP, profile="strict"), Budget(runs_left=0)).action for x in range(-40, 90)}
    assert found == {Action.KEEP, Action.NEAR_MISS, Action.DISCARD}


def test_what_is_sure_for_balanced_is_sure_for_fast() -> None:
    node, known = baseline(-1.0, 0.0, 1.0)
    kept = [
        [x for x in range(-40, 90) if judge(candidate(x / 10), node, known, replace(UP, profile=p), Budget(runs_left=0)).kept]
        for p in ("strict", "balanced", "fast")
    ]
    assert (set(kept[0]) <= set(kept[1]) <= set(kept[2]), len(kept[0]) < len(kept[2])) == (True, True)


def test_a_run_without_a_number_is_a_crash_with_its_cause() -> None:
    node, known = baseline(-1.0, 0.0, 1.0)
    found = judge(Node(1, (Run(math.nan),), failure="out of memory"), node, known, UP, Budget())
    assert (found.action, found.cause) == (Action.CRASH, "out of memory")


def test_a_candidate_that_fails_in_its_second_run_is_a_discard() -> None:
    assert verdict(9.0, math.nan).cause == "failed in 1 of 2 runs"


def test_above_the_hard_limit_of_memory_nothing_is_kept() -> None:
    found = verdict(9.0, rules=replace(UP, memory_hard=10.0), memory_gb=12.0)
    assert (found.action, found.cause) == (Action.DISCARD, "needs 12.0 GB, above the hard limit of 10.0 GB")


def test_a_gain_that_its_added_lines_outweigh_is_not_kept() -> None:
    found = [verdict(4.0, 4.0, 4.0, lines=lines).kept for lines in (100, 900)]
    assert found == [True, False]


def test_an_equal_result_with_less_code_is_kept() -> None:
    node, known = baseline(*(-1.0, 0.0, 1.0))
    known = replace(known, counts=(40.0, *known.counts[1:]))
    found = judge(candidate(0.3, 0.1, 0.4, 0.2, 0.3, lines=60), node, known, UP, Budget())
    assert (found.action, found.cause.split(":")[0]) == (Action.KEEP, "as good as #0 with 40 fewer lines of code")


def test_memory_above_the_soft_limit_asks_for_a_larger_gain() -> None:
    rules = replace(UP, memory_soft=10.0)
    assert [verdict(4.0, 4.0, 4.0, rules=rules, memory_gb=gb).kept for gb in (9.0, 25.0)] == [True, False]


@pytest.mark.parametrize(
    ("values", "follows"),
    [
        ((9.0, 9.5, 9.1), "sure enough to keep"),
        ((2.8,), "likely enough to keep, not confirmed"),
        ((1.6,), "not sure enough to keep"),
        ((-9.0,), "too unlikely to keep"),
    ],
)
def test_every_cause_tells_what_was_measured_what_is_expected_with_luck_allowed_for_and_what_follows(
    values: tuple[float, ...], follows: str
) -> None:
    node, known = baseline(-1.0, 0.0, 1.0)
    found = judge(candidate(*values), node, known, UP, Budget(runs_left=0))
    runs = "3 runs each" if len(values) == 3 else "1 against 3 runs"
    expected = (
        f"{'better' if found.seen > 0 else 'worse'} than #0 by {abs(found.seen):.3g} ± {found.seen_var**0.5:.2g} measured ({runs}, same seeds); "
        f"allowing for luck a gain of {found.gain:.2g} is expected, P = {found.p:.2f} that it is better; {follows}"
    )
    assert expected == found.cause


def test_a_likely_gain_that_is_not_worth_its_code_says_so() -> None:
    node, known = baseline(-1.0, 0.0, 1.0)
    found = judge(candidate(4.0, 4.0, 4.0, lines=900), node, known, UP, Budget(runs_left=0))
    assert (found.kept, found.cause.rpartition("; ")[2]) == (False, "not worth its 800 more lines of code")


def test_an_unknown_machine_asks_for_a_run_of_the_incumbent_there() -> None:
    node, known = baseline(-1.0, 0.0, 1.0)
    found = judge(Node(1, (Run(3.0, 0, "other", 10.0),)), node, known, UP, Budget())
    assert (found.action, found.worker, found.cause) == (Action.REPLICATE_INCUMBENT, "other", "ran on other, where #0 has not run yet")


def test_a_machine_that_is_slower_than_usual_counts_as_another_machine() -> None:
    node, known = baseline(-1.0, 0.0, 1.0)
    node = replace(node, runs=tuple(replace(run, throughput=100.0) for run in node.runs))
    known = replace(known, throughput={"w": 100.0})
    found = judge(Node(1, (Run(3.0, 0, "w", 10.0, throughput=60.0),)), node, known, UP, Budget())
    assert (found.action, found.cause) == (Action.REPLICATE_INCUMBENT, "ran on w at 59% of its pace, where #0 has not run yet")


def test_what_a_machine_adds_is_learned_from_the_incumbent_on_both() -> None:
    node, known = baseline(-1.0, 0.0, 1.0)
    for seed in range(3):
        node = replace(node, runs=(*node.runs, Run(node.runs[seed].value - 20, seed, "other", 10.0)))
        known = learn_run(known, node, UP)
    assert round(known.workers["other"].mean) == -20


def test_a_kept_level_is_shrunk_toward_its_parent() -> None:
    node, known = baseline(-1.0, 0.0, 1.0)
    tried = candidate(4.0)
    known = learn_run(known, tried, UP)
    found = judge(tried, node, known, UP, Budget(runs_left=0))
    known = learn_result(known, tried, node, found, UP)
    level, sd = estimate(tried, known, UP)
    assert (0 < level < 4.0, 0 < sd < 2) == (True, True)


def test_expected_false_keeps_are_the_doubts_of_the_keeps() -> None:
    node, known = baseline(-1.0, 0.0, 1.0)
    found = judge(candidate(9.0), node, known, UP, Budget())
    assert expected_false_keeps(learn_result(known, candidate(9.0), node, found, UP)) == 1 - found.p


def test_the_interval_of_the_noise_holds_its_middle() -> None:
    _, known = baseline(-1.0, 0.0, 1.0)
    middle, low, high = noise_interval(known)
    assert low < middle < high


def test_one_seed_with_many_values_is_found_out() -> None:
    node, known = baseline(-1.0, 0.0, 1.0)
    for value in (-0.9, 1.1, 0.2):
        node = replace(node, runs=(*node.runs, Run(value, 0, "w", 10.0)))
        known = learn_run(known, node, UP)
    assert known.ignores_seed is True


def test_knowledge_survives_json_bit_for_bit() -> None:
    node, known = baseline(-1.0, 0.1, 1.0)
    found = judge(candidate(2.0), node, known, UP, Budget(runs_left=0))
    known = learn_result(learn_run(known, candidate(2.0), UP), candidate(2.0), node, found, UP)
    assert Knowledge.from_json(known.to_json()) == known


@pytest.mark.parametrize("text", ["[]", "3", "null"])
def test_knowledge_is_read_from_an_object_only(text: str) -> None:
    with pytest.raises(ValueError, match="knowledge is a JSON object"):
        Knowledge.from_json(text)


def test_the_next_seed_is_one_of_the_panel_then_a_fresh_one() -> None:
    _, known = baseline(-1.0, 0.0, 1.0)
    tried, seeds = Node(5, ()), []
    for _ in range(5):
        seeds.append(next_seed(tried, known, UP))
        tried = replace(tried, runs=(*tried.runs, Run(0.0, seeds[-1])))
    assert (sorted(seeds[:3]), len(set(seeds)), min(seeds[3:]) > 2) == ([0, 1, 2], 5, True)


@settings(max_examples=100, deadline=None)
@given(st.lists(values, min_size=1, max_size=4), st.lists(values, min_size=1, max_size=4), st.integers(0, 200), st.sampled_from([UP, DOWN]))
def test_no_value_whatever_makes_it_raise(base: list[float], tried: list[float], lines: int, rules: Rules) -> None:
    node, known = baseline(*base, rules=rules)
    one = candidate(*tried, lines=lines)
    known = learn_run(known, one, rules)
    found = judge(one, node, known, rules, Budget())
    known = learn_result(known, one, node, replace(found, action=Action.KEEP), rules)
    assert judge(one, node, Knowledge.from_json(known.to_json()), rules, Budget()).action in Action


@settings(max_examples=25, deadline=None)
@given(st.lists(tame, min_size=2, max_size=3, unique=True), st.lists(tame, min_size=1, max_size=3))
def test_the_direction_only_turns_the_sign(base: list[float], tried: list[float]) -> None:
    up_node, up = baseline(*base)
    down_node, down = baseline(*(-value for value in base), rules=DOWN)
    first = judge(candidate(*tried), up_node, up, UP, Budget())
    second = judge(candidate(*(-value for value in tried)), down_node, down, DOWN, Budget())
    assert (first.action, first.p, first.gain, first.cause) == (second.action, second.p, second.gain, second.cause)


@settings(max_examples=15, deadline=None)
@given(st.lists(tame, min_size=3, max_size=3, unique=True), st.lists(tame, min_size=2, max_size=6))
def test_a_better_result_is_never_less_likely_an_improvement(base: list[float], tried: list[float]) -> None:
    node, known = baseline(*base)
    found = [judge(candidate(value), node, known, UP, Budget(runs_left=0)).p for value in sorted(tried)]
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(found))


@settings(max_examples=100, deadline=None)
@given(tame, tame, st.integers(90, 110), st.sampled_from([UP, DOWN]), st.sampled_from([0.0, 0.5]), st.sampled_from([0, 3]))
def test_without_noise_it_is_the_first_versions_rule(bar: float, found: float, lines: int, rules: Rules, delta: float, equal: int) -> None:
    rules = replace(rules, min_delta=delta)
    node, known = baseline(*(bar,) * max(equal, 1), rules=rules)
    first = decide(Measured(found, 0.0, lines), Incumbent(0, bar, 100), rules.without_noise())
    second = judge(candidate(found, lines=lines), replace(node, bar=bar), known, rules, Budget())
    assert (second.kept, second.cause, second.bar) == (first.decision is Decision.KEEP, first.cause, first.bar)


@settings(max_examples=30, deadline=None)
@given(st.lists(tame, min_size=3, max_size=3), st.lists(tame, min_size=1, max_size=3))
def test_a_replay_gives_the_same_verdict(base: list[float], tried: list[float]) -> None:
    found = [judge(candidate(*tried), *baseline(*base), UP, Budget()) for _ in range(2)]
    assert found[0] == found[1]
