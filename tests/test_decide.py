"""Keep, discard or crash: each rule by example, and what must hold for any numbers."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from overnight.decide import Incumbent, Measured, Rules, Verdict, code_lines, decide
from overnight.models import Decision, Direction

_DOWN = Rules(Direction.MINIMIZE)
_BEST = Incumbent(3, 1.0, 100)

_FINITE = st.floats(allow_nan=False, allow_infinity=False)
_AMOUNT = st.floats(0, 1e308) | st.sampled_from([0.0, 0.1, 1.0])
_RULES = st.builds(Rules, st.sampled_from(Direction), _AMOUNT, _AMOUNT, _AMOUNT)
_MEASURED = st.builds(Measured, st.none() | st.floats(), _AMOUNT, st.integers(0, 200), st.sampled_from(["", "NameError: x"]))
_INCUMBENT = st.builds(Incumbent, st.integers(1, 99), _FINITE | st.just(1.0), st.integers(0, 200))


@pytest.mark.parametrize(
    ("found", "incumbent", "rules", "expected"),
    [
        (Measured(5.0), None, _DOWN, Verdict(Decision.KEEP, "baseline", 5.0)),
        (Measured(None, failure="NameError: x"), _BEST, _DOWN, Verdict(Decision.CRASH, "NameError: x")),
        (Measured(math.nan), _BEST, _DOWN, Verdict(Decision.CRASH, "the metric is nan")),
        (Measured(-math.inf), _BEST, _DOWN, Verdict(Decision.CRASH, "the metric is -inf")),
        (Measured(None), None, _DOWN, Verdict(Decision.CRASH, "the metric is None")),
        (Measured(0.75, lines=100), _BEST, _DOWN, Verdict(Decision.KEEP, "better than #3 by 0.25", 0.75)),
        (Measured(1.25, lines=100), _BEST, _DOWN, Verdict(Decision.DISCARD, "worse than #3 by 0.25")),
        (Measured(1.25, lines=100), _BEST, Rules(Direction.MAXIMIZE), Verdict(Decision.KEEP, "better than #3 by 0.25", 1.25)),
        (Measured(1.0, lines=100), _BEST, _DOWN, Verdict(Decision.DISCARD, "equal to #3")),
        (Measured(1.0, lines=101), _BEST, _DOWN, Verdict(Decision.DISCARD, "equal to #3")),
        (Measured(1.0, lines=99), _BEST, _DOWN, Verdict(Decision.KEEP, "equal to #3 with 1 fewer line of code", 1.0)),
        (Measured(1.25, lines=98), _BEST, Rules(Direction.MINIMIZE, 0.25), Verdict(Decision.KEEP, "equal to #3 with 2 fewer lines of code", 1.0)),
        (Measured(0.75, lines=98), _BEST, Rules(Direction.MINIMIZE, 0.25), Verdict(Decision.KEEP, "equal to #3 with 2 fewer lines of code", 0.75)),
        (Measured(0.75, lines=100), _BEST, Rules(Direction.MINIMIZE, 0.25),
         Verdict(Decision.DISCARD, "better than #3 by 0.25, which is not more than 0.25")),
        (Measured(0.5, 25.0, 100), _BEST, Rules(Direction.MINIMIZE, 0, 0, 24.0),
         Verdict(Decision.DISCARD, "needs 25.0 GB, above the hard limit of 24.0 GB")),
        (Measured(0.5, 24.0, 100), _BEST, Rules(Direction.MINIMIZE, 0, 0, 24.0), Verdict(Decision.KEEP, "better than #3 by 0.5", 0.5)),
        (Measured(0.5, 25.0, 100), None, Rules(Direction.MINIMIZE, 0, 0, 24.0),
         Verdict(Decision.DISCARD, "needs 25.0 GB, above the hard limit of 24.0 GB")),
        (Measured(0.96875, 30.0, 100), _BEST, Rules(Direction.MINIMIZE, 0, 20.0),
         Verdict(Decision.DISCARD, "better than #3 by 0.03125, which is not more than 0.05"
                                   " (asked of a run that needs 30.0 GB, above the soft limit of 20.0 GB)")),
        (Measured(0.9375, 30.0, 100), _BEST, Rules(Direction.MINIMIZE, 0, 20.0), Verdict(Decision.KEEP, "better than #3 by 0.0625", 0.9375)),
        (Measured(1.0, 30.0, 50), _BEST, Rules(Direction.MINIMIZE, 0, 20.0), Verdict(Decision.DISCARD, "equal to #3")),
    ],
)  # fmt: skip
def test_the_verdict_follows_the_rules(found: Measured, incumbent: Incumbent | None, rules: Rules, expected: Verdict) -> None:
    assert decide(found, incumbent, rules) == expected


@given(_MEASURED, st.none() | _INCUMBENT, _RULES)
@example(Measured(sys.float_info.max), Incumbent(1, -sys.float_info.max, 0), _DOWN)
@example(Measured(1.0, 1e308), Incumbent(1, 1e308, 0), Rules(Direction.MINIMIZE, 1e308, 5e-324))
def test_a_crash_is_exactly_what_has_no_finite_value(found: Measured, incumbent: Incumbent | None, rules: Rules) -> None:
    verdict = decide(found, incumbent, rules)
    assert (verdict.decision is Decision.CRASH) == (found.value is None or not math.isfinite(found.value))


@given(_MEASURED, _INCUMBENT, _RULES)
def test_a_keep_gains_more_than_min_delta_or_is_equal_and_shorter(found: Measured, incumbent: Incumbent, rules: Rules) -> None:
    if decide(found, incumbent, rules).decision is Decision.KEEP:
        assert found.value is not None
        gain = rules.direction.gain(found.value, incumbent.bar)
        assert gain > rules.min_delta or (abs(gain) <= rules.min_delta and found.lines < incumbent.lines)


@given(_MEASURED, _INCUMBENT, _RULES)
def test_a_keep_never_lowers_the_bar(found: Measured, incumbent: Incumbent, rules: Rules) -> None:
    bar = decide(found, incumbent, rules).bar
    assert bar is None or rules.direction.gain(bar, incumbent.bar) >= 0


@given(_MEASURED, st.none() | _INCUMBENT, _RULES)
def test_exactly_a_keep_has_a_bar_and_every_verdict_has_a_cause(found: Measured, incumbent: Incumbent | None, rules: Rules) -> None:
    verdict = decide(found, incumbent, rules)
    assert (verdict.bar is not None, bool(verdict.cause)) == (verdict.decision is Decision.KEEP, True)


@given(_FINITE, st.integers(0, 100), _RULES, st.integers(0, 100))
def test_a_tie_without_less_code_is_a_discard(value: float, lines: int, rules: Rules, more: int) -> None:
    assert decide(Measured(value, 0.0, lines + more), Incumbent(1, value, lines), rules).decision is Decision.DISCARD


@given(_FINITE, _FINITE, _AMOUNT, st.integers(0, 200), _INCUMBENT, _RULES)
def test_a_better_value_is_never_judged_worse(
    one: float, other: float, memory: float, lines: int, incumbent: Incumbent, rules: Rules
) -> None:
    worse, better = (one, other) if rules.direction.gain(other, one) >= 0 else (other, one)
    judged = [decide(Measured(value, memory, lines), incumbent, rules).decision is Decision.KEEP for value in (worse, better)]
    assert judged == sorted(judged)


@given(_FINITE, _AMOUNT, _AMOUNT, st.integers(0, 200), _INCUMBENT, _RULES)
def test_less_memory_is_never_judged_worse(value: float, one: float, other: float, lines: int, incumbent: Incumbent, rules: Rules) -> None:
    judged = [
        decide(Measured(value, memory, lines), incumbent, rules).decision is Decision.KEEP for memory in sorted((one, other), reverse=True)
    ]
    assert judged == sorted(judged)


@given(_MEASURED, _INCUMBENT, _AMOUNT)
def test_minimizing_a_metric_is_maximizing_its_negative(found: Measured, incumbent: Incumbent, min_delta: float) -> None:
    mirrored = Measured(None if found.value is None else -found.value, found.memory_gb, found.lines, found.failure)
    one = decide(found, incumbent, Rules(Direction.MINIMIZE, min_delta))
    other = decide(mirrored, Incumbent(incumbent.number, -incumbent.bar, incumbent.lines), Rules(Direction.MAXIMIZE, min_delta))
    assert one.decision is other.decision


def test_blank_lines_and_comments_are_no_code() -> None:
    assert code_lines({"a.py": b"x = 1\n\n  # why\n\ty = 2  # both\r\n   \n", "b.py": b"", "c.py": b"z"}) == 3
