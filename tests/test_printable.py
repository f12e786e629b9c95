"""Foreign text made harmless, and numbers and durations for people."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.printable import clean, duration, number, one_line, sensible

_ANY = st.text(st.characters(codec=None), max_size=60) | st.text("\x1b\x9b[]()P0;m\x07\\\r\n\tab", max_size=60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice\x1b\\text", "text"),
        ("\x1b(Btext", "Btext"),
        ("cut\x1b[3", "cut3"),
        ("cut\x1b", "cut"),
        ("a\0b\x08c\x7fd\x85e", "abcde"),
        ("half \ud83d of a pair", "half  of a pair"),
        ("\u202egnp.exe", "<U+202E>gnp.exe"),
        ("naïve — 好", "naïve — 好"),
    ],
)
def test_escapes_and_controls_are_taken_out(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_an_escape_without_end_hides_no_more_than_its_line() -> None:
    assert clean("\x1b]0;the end is missing\nNameError: name 'x'", lines=True) == "\nNameError: name 'x'"


@given(_ANY)
def test_no_text_keeps_a_control_character(text: str) -> None:
    assert [letter for letter in clean(text) if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")] == []


@given(_ANY)
def test_line_ends_and_tabs_are_all_that_lines_keeps(text: str) -> None:
    assert {letter for letter in clean(text, lines=True) if unicodedata.category(letter) == "Cc"} <= {"\n", "\t"}


@given(_ANY, st.integers(1, 50))
def test_one_line_is_one_line_of_bounded_length(text: str, limit: int) -> None:
    found = one_line(text, limit)
    assert (len(found.splitlines()) <= 1, len(found) <= limit, "  " in found) == (True, True, False)


@given(_ANY)
def test_what_is_clean_stays_as_it_is(text: str) -> None:
    assert clean(clean(text)) == clean(text)


def test_what_is_too_long_ends_in_an_ellipsis() -> None:
    assert (one_line("abcdef", 4), one_line("abcd", 4)) == ("abc…", "abcd")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "—"),
        (0.0, "0"),
        (-0.0, "0"),
        (100.0, "100"),
        (100_000.0, "100000"),
        (500_000.0, "500000"),
        (1_234_567.0, "1234567"),
        (-20.0, "-20"),
        (999_999.7, "1e+06"),
        (0.9979, "0.9979"),
        (0.997912345, "0.997912"),
        (17.61, "17.61"),
        (-3.5, "-3.5"),
        (0.000123456, "0.000123456"),
        (1.5e-7, "1.5e-07"),
        (1e300, "1e+300"),
        (1e22, "1e+22"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
    ],
)
def test_a_number_is_written_for_people(value: float | None, expected: str) -> None:
    assert number(value) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_back_within_its_figures(value: float) -> None:
    assert math.isclose(float(number(value)), value, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.97, "9 s"),
        (41.9, "41 s"),
        (59.99, "59 s"),
        (60.0, "1m00s"),
        (182.0, "3m02s"),
        (3599.9, "59m59s"),
        (3600.0, "1h00m"),
        (30_840.0, "8h34m"),
        (360_000.0, "100h00m"),
        (-1.0, "—"),
        (math.nan, "—"),
        (math.inf, "—"),
    ],
)
def test_a_duration_is_written_for_people(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("value", "noise", "shown"),
    [(0.9177666, 0.0094, 0.9178), (0.00735667, 0.0022, 0.0074), (123456.7, 250.0, 123457.0), (0.5, None, 0.5), (0.123456789, 0.0, 0.123456789),
     (1e308, 1e-300, 1e308), (math.inf, 0.1, math.inf)],
)  # fmt: skip
def test_a_value_has_no_figures_that_the_noise_drowns(value: float, noise: float | None, shown: float) -> None:
    assert sensible(value, noise) == shown
