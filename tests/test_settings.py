"""The table of settings: what each kind takes, what it refuses, and the budget."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.kinds import KINDS, Budget, parse_budget, parse_duration, parse_size
from overnight.settings import Settings, as_dict, convert, from_dict, table

_ODD: tuple[object, ...] = (
    None,
    True,
    -1,
    10**400,
    -(10**400),
    math.nan,
    math.inf,
    "1e999",
    "9" * 400,
    "9" * 400 + "h",
    "9" * 5000,
    "",
    [],
    [None],
    {},
    b"1",
    "x\0y",
)
_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.lists(st.text(max_size=6), max_size=3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90s", 90),
        ("5m", 300),
        ("5 min", 300),
        ("8h", 28800),
        ("1h30m", 5400),
        ("2d", 172800),
        ("1.5h", 5400),
        (" 1H 30M ", 5400),
        ("0", 0),
    ],
)
def test_a_duration_is_read_as_seconds(text: str, expected: float) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", " ", "h", "5x", "-5", "5h 3", "1_000", "٣h", "inf", "nan", "1e999", "9" * 400 + "d", "30m1h"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_duration(text)
    assert str(caught.value) == f"'{text}' is no duration; write for example 90s, 5m, 8h or 1h30m"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500", 500), ("10kB", 10240), ("64MB", 64 * 2**20), ("2GiB", 2**31), ("1.5g", 3 * 2**29), ("1 TB", 2**40), ("7b", 7)],
)
def test_a_size_is_read_as_bytes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e3", "5 XB", "9" * 400])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_size(text)
    assert str(caught.value) == f"'{text}' is no size; write for example 500MB or 16GB"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), Budget()),
        (("50",), Budget(experiments=50)),
        (("0",), Budget(experiments=0)),
        (("8h",), Budget(seconds=28800)),
        (("1h 30m",), Budget(seconds=5400)),
        (("4gpu-h",), Budget(gpu_seconds=14400)),
        (("0.5 GPU hours",), Budget(gpu_seconds=1800)),
        (("$20",), Budget(dollars=20)),
        (("2.5usd",), Budget(dollars=2.5)),
        (("50", "8h", "4gpu-h", "$20"), Budget(50, 28800, 14400, 20)),
        (("50", "60"), Budget(experiments=60)),
    ],
)
def test_a_budget_is_read_in_every_form(parts: tuple[str, ...], expected: Budget) -> None:
    assert parse_budget(parts) == expected


@pytest.mark.parametrize("part", ["", "0h", "$0", "-5", "1e3", "5.5", "8x", "gpu-h", "0gpu-h", "$", "٣", "9" * 400 + "h", "$" + "9" * 400])
def test_what_is_no_budget_is_refused_with_examples(part: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_budget((part,))
    assert str(caught.value) == f"'{part}' is no budget; write experiments (50), time (8h), GPU time (4gpu-h) or money ($20)"


def test_a_budget_of_no_experiments_is_a_budget() -> None:
    assert (bool(Budget(experiments=0)), bool(Budget())) == (True, False)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("target", "0.95", 0.95),
        ("target", -3, -3.0),
        ("seed", "7", 7),
        ("seed", 1e3, 1000),
        ("slots", 4, 4),
        ("ahead", "off", False),
        ("ahead", True, True),
        ("direction", "Lower", "minimize"),
        ("direction", "max", "maximize"),
        ("direction", "", ""),
        ("pick", "best", "best"),
        ("gpus", [0, "1"], ("0", "1")),
        ("gpus", 3, ("3",)),
        ("command", "python train.py", ("python train.py",)),
        ("time_limit", 600, 600.0),
        ("time_limit", "10m", 600.0),
        ("log_limit", "64MB", 64 * 2**20),
        ("log_limit", 0, 0),
        ("budget", ["50", "8h"], ("50", "8h")),
        ("budget", 50, ("50",)),
        ("min_delta", "0.001", 0.001),
    ],
)
def test_a_value_is_converted_to_its_kind(name: str, value: object, expected: object) -> None:
    found = convert(name, value)
    assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("target", "1e999", "a number is wanted"),
        ("target", 10**400, "a number is wanted"),
        ("target", math.nan, "a number is wanted"),
        ("target", True, "a number is wanted"),
        ("min_delta", -0.1, "a number, zero or more, is wanted"),
        ("seed", 1.5, "a whole number, zero or more, is wanted"),
        ("seed", -1, "a whole number, zero or more, is wanted"),
        ("seed", 2**53 + 1, "a whole number of at most fifteen digits is wanted"),
        ("seed", "1e999", "a number is wanted"),
        ("slots", 0, "a whole number, one or more, is wanted"),
        ("slots", -1, "a whole number, one or more, is wanted"),
        ("metric", "@loss", "the name stands without the @: loss"),
        ("metric", "lo\nss", "a name on one line is wanted"),
        ("editable", [], "at least one file or pattern is wanted"),
        ("pass_env", ["WANDB_MODE=offline"], "'WANDB_MODE=offline' is no name of a variable; its value is taken from your environment"),
        ("budget", "1 2", "'1 2' is no budget; write experiments (50), time (8h), GPU time (4gpu-h) or money ($20)"),
        ("disk_limit", "1", "1 bytes hold no run; write the unit, for example 500MB or 50GB"),
        ("ahead", 1, "true or false is wanted"),
        ("direction", "sideways", "minimize or maximize is wanted"),
        ("pick", "first", "'last' or 'best' is wanted"),
        ("goal", 5, "a text is wanted, in quotes"),
        ("gpus", [True], "a list of texts is wanted"),
        ("command", "a\0b", "a command cannot hold a NUL character"),
        ("time_limit", [], "a duration such as 90s, 5m or 8h is wanted"),
        ("log_limit", 1.5, "a size such as 500MB or 16GB is wanted"),
        ("time_limit", "0s", "a duration above zero is wanted, such as 90s, 5m or 8h"),
        ("memory_limit", "5", "5 bytes hold no program; write the unit, for example 500MB or 16GB"),
    ],
)
def test_a_wrong_value_is_refused_in_words(name: str, value: object, wanted: str) -> None:
    with pytest.raises(ValueError) as caught:
        convert(name, value)
    assert str(caught.value) == wanted


def _taken(kind: str, value: object) -> bool:
    try:
        KINDS[kind](value)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_no_odd_value_raises_anything_but_a_value_error(kind: str) -> None:
    assert {type(_taken(kind, value)) for value in _ODD} == {bool}


@given(st.sampled_from(sorted(KINDS)), _VALUES)
def test_no_value_raises_anything_but_a_value_error(kind: str, value: object) -> None:
    assert type(_taken(kind, value)) is bool


@given(st.sampled_from(sorted(table())), _VALUES)
def test_settings_are_the_same_after_a_trip_through_json(name: str, value: object) -> None:
    try:
        settings = Settings(**{name: convert(name, value)})
    except ValueError:
        settings = Settings()
    assert from_dict(json.loads(json.dumps(as_dict(settings)))) == settings


def test_settings_of_another_version_are_read_without_the_names_that_are_unknown() -> None:
    assert from_dict({"goal": "g", "wormhole": 3}) == Settings(goal="g")


def test_every_setting_has_a_kind_and_a_sentence() -> None:
    wrong = [
        name for name, row in table().items() if row["kind"] not in KINDS or not row["help"].endswith(".") or not row["help"][0].isupper()
    ]
    assert wrong == []


@pytest.mark.parametrize("name", table())
def test_every_default_is_a_value_that_its_kind_takes(name: str) -> None:
    default = table()[name]["default"]
    unset = default is None or default in ("", ())
    assert unset or convert(name, default) == default


@pytest.mark.parametrize("name", table())
def test_every_example_is_a_value_that_its_kind_takes(name: str) -> None:
    example = table()[name]["example"]
    assert not example or _taken(table()[name]["kind"], json.loads(example))


@pytest.mark.parametrize(
    ("settings", "expected"), [(Settings(), 600), (Settings(time_budget=300), 600), (Settings(time_budget=300, time_limit=60), 60)]
)
def test_a_run_is_killed_at_the_limit_or_after_twice_its_budget(settings: Settings, expected: float) -> None:
    assert settings.limit == expected


def test_the_bounds_are_the_budget_in_numbers() -> None:
    assert Settings(budget=("5", "1h")).bounds == Budget(experiments=5, seconds=3600)
