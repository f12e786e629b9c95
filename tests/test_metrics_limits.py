"""What is held of all metrics that a run prints, however many there are and however long its lines."""

from __future__ import annotations

import math

import pytest

from overnight.metrics import Point, Scanner


def scan(output: str, goal: str = "", **limits: int) -> list[Point]:
    scanner = Scanner(goal, **limits)
    return scanner.feed(output.encode()) + scanner.close()


def test_the_summary_holds_last_lowest_highest_and_count_over_finite_values() -> None:
    scanner = Scanner()
    scanner.feed(b"@a=nan\n@a=3\n@a=-1\n@a=inf\n@b=nan\n@a=2\n")
    a, b = scanner.summary["a"], scanner.summary["b"]
    assert (a, [math.isnan(part) for part in b], b[3]) == ((2.0, -1.0, 3.0, 5), [True, True, True, False], 1)


def test_the_last_value_of_the_summary_is_the_one_printed_even_if_not_finite() -> None:
    scanner = Scanner()
    scanner.feed(b"@a=1\n@a=inf\n")
    assert scanner.summary == {"a": (math.inf, 1.0, 1.0, 2)}


def test_beyond_the_cap_new_names_are_passed_over_but_for_the_goal() -> None:
    scanner = Scanner("goal", max_names=3)
    scanner.feed(b"".join(b"@n%d=1 " % number for number in range(10)) + b"\n@goal=5 @n1=2 @n9=2\n")
    assert {name: last for name, (last, _, _, _) in scanner.summary.items()} == {"n0": 1.0, "n1": 2.0, "n2": 1.0, "goal": 5.0}


def test_the_goal_takes_no_place_from_the_other_names() -> None:
    scanner = Scanner("goal", max_names=2)
    scanner.feed(b"@goal=5 @a=1 @b=2 @c=3\n")
    assert list(scanner.summary) == ["goal", "a", "b"]


def test_a_flood_without_line_ends_is_held_in_one_line_of_memory() -> None:
    scanner = Scanner()
    chunk = b"@loss=1 " + b"x" * (2**20 - 8)
    held = []
    for _ in range(30):
        scanner.feed(chunk)
        held.append(len(scanner._tail))
    found = scanner.feed(b"\n@acc=2\n")
    assert (max(held), found, len(scanner._tail)) == (65537, [("loss", 1.0, 0), ("acc", 2.0, 0)], 0)


def test_a_number_that_reaches_the_cut_of_a_long_line_does_not_count() -> None:
    found = [scan("@a=1 @b=" + digits + "\n", max_line=11) for digits in ("22", "222", "2222")]
    assert found == [[("a", 1.0, 0), ("b", 22.0, 0)], [("a", 1.0, 0), ("b", 222.0, 0)], [("a", 1.0, 0)]]


@pytest.mark.parametrize("line", ["goal: 1.2345678", "---\na: 1.23456789", '{"a": 123456}  {}', "METRIC a=12345678", "@a=1234567890123"])
def test_no_form_is_read_across_the_cut(line: str) -> None:
    assert scan(f"{line}\n", "goal", max_line=12) == []


def test_a_hundred_thousand_values_end_with_the_right_last_one() -> None:
    scanner = Scanner("loss")
    for part in range(10):
        scanner.feed(b"".join(b"@loss=%d\n" % (part * 10_000 + number) for number in range(10_000)))
    assert scanner.summary == {"loss": (99_999.0, 0.0, 99_999.0, 100_000)}


HOSTILE = [
    *("@a=" + "1" * 60_000 + "x", "@a=1.1e" + "1" * 60_000 + "x", "@" * 60_000, "@" + "a" * 60_000, "@a=" * 20_000, "é@a=1 " * 8000),
    *("\x1b[" * 30_000, "\x1b[" + "0;" * 30_000, "{" + "[" * 60_000 + "}", "METRIC" + " a=1" * 15_000 + " =", "METRIC " * 8000),
    *("@a=1 step" + " " * 60_000, "@a=1 step" + " " * 30_000 + ":" + " " * 30_000, "---" + "\t" * 60_000 + "x", "METRIC" + " ," * 30_000),
    *("goal:" + " " * 60_000, "goal: 1" + " " * 60_000 + "x", "\t" * 60_000 + "goal:"),
]


def test_hostile_lines_of_full_length_take_no_more_than_linear_work() -> None:
    # Each kind makes some careless pattern take minutes; the time limit of the tests is the judge.
    assert [point[:2] for point in scan("\n".join(HOSTILE), "goal")] == [("a", 1.0)] * (15_000 + 2)
