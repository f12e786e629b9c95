"""Which constants are found, what they may become, and that an edit touches their bytes alone."""

from __future__ import annotations

import ast
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight import constants
from overnight.constants import Constant, edit, find, find_in, readable, spoken, values


def one(source: str) -> Constant:
    found = find(source, "train.py")
    assert len(found) == 1, found
    return found[0]


def names(source: str) -> list[str]:
    return [constant.name for constant in find(source, "train.py")]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("LR = 0.1", ("float", 0.01, 1.0, True)),
        ("lr: float = 3e-4", ("float", 3e-5, 3e-3, True)),
        ("width: float = 1", ("float", 0.1, 10.0, True)),
        ("HIDDEN = 64", ("int", 16, 256, True)),
        ("DEPTH = 1", ("int", 1, 4, True)),
        ("DROPOUT = 0.2", ("float", 0.0, 0.9, False)),
        ("mask_prob = 0.15", ("float", 0.0, 0.9, False)),
        ("MOMENTUM = 0.9", ("float", 0.0, 0.99, False)),
        ("BETA2 = 0.999", ("float", 0.99, 0.9999, False)),
        ("WEIGHT_DECAY = 0.0", ("float", 0.0, 0.1, False)),
        ("SCALE = 0.0", ("float", 0.0, 1.0, False)),
        ("BIAS = -0.5", ("float", -1.0, 0.0, False)),
    ],
)
def test_the_range_of_a_constant_is_guessed_from_its_value_and_name(source: str, expected: tuple[str, float, float, bool]) -> None:
    found = one(source)
    assert (found.kind, found.low, found.high, found.log) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("LR = 0.1  # overnight: 1e-4..1e-1 log", ("float", 1e-4, 1e-1, True, ())),
        ("LR = 0.1  # the rate  # overnight: 0.5 .. 0.001 log", ("float", 0.001, 0.5, True, ())),
        ("WIDTH = 32  # overnight: 16..256", ("int", 16, 256, False, ())),
        ("OFF = -1  # overnight: -1..5", ("int", -1, 5, False, ())),
        ("SEED = 3  # overnight: 1..1_000", ("int", 1, 1000, False, ())),
        ('ACT = "relu"  # overnight: relu|tanh|gelu', ("choice", 0, 0, False, ("relu", "tanh", "gelu"))),
        ('ACT = "elu"  # overnight: relu | tanh', ("choice", 0, 0, False, ("elu", "relu", "tanh"))),
        ("HEADS = 4  # overnight: 2|4|8", ("choice", 0, 0, False, (2, 4, 8))),
        ("DEBUG = False  # overnight: true|false", ("choice", 0, 0, False, (True, False))),
        ("LR = (\n    0.1  # overnight: 0..2\n)", ("float", 0, 2, False, ())),
    ],
)
def test_a_comment_decides_over_every_guess(source: str, expected: tuple[object, ...]) -> None:
    found = one(source)
    assert (found.kind, found.low, found.high, found.log, found.choices) == expected


def test_a_comment_that_is_not_understood_leaves_the_guess() -> None:
    assert (one("LR = 0.1  # overnight: large!").low, one("LR = 0.1  # overnight: 5..5").high) == (0.01, 1.0)


@pytest.mark.parametrize(
    "line",
    [
        "LR = 0.1  # overnight: fixed",
        "SEED = 1",
        "random_state = 7",
        "_HIDDEN = 3",
        'DATA_PATH = "x"',
        'VERSION = "1.2"',
        'ACT = "relu"',
        "DEBUG = True",
        "verbose = False",
        "LOG_INTERVAL = 10",
        "log_every = 100",
        "TIME_BUDGET = 300",
        "time_limit = 30.0",
        "NUM_CLASSES = 10",
        "EVAL_BATCHES = 20",
        "WARM = 0",
        "OFF = -1",
        "SHAPE = (1, 2)",
        "BIG = 10 ** 3",
        "X = float('inf')",
        "HUGE = 1e999",
        "FLAGS = 0x1F",
        "def f():\n    lr = 0.1",
        "class C:\n    lr = 0.1",
        "a = b = 0.1",
        "a, b = 0.1, 0.2",
        "lr = 0.1\nlr = 0.2",
        "total = 0.5\nfor x in ():\n    total += x",
        "state = 0.5\ndef f():\n    global state\n    state = 1.0",
        "if True:\n    lr = 0.1",
    ],
)
def test_what_is_no_hyperparameter_is_left_alone(line: str) -> None:
    assert names(line) == []


def test_constants_under_the_main_guard_are_found() -> None:
    assert names('if __name__ == "__main__":\n    lr = 0.1\n') == ["lr"]


def test_booleans_may_be_both() -> None:
    assert one("NESTEROV = True").choices == (False, True)


def test_defaults_of_argparse_options_are_found() -> None:
    source = """
p.add_argument("-l", "--lr", type=float, default=0.1, help="rate")
p.add_argument("--batch-size", type=int, default=64)
p.add_argument("--act", choices=["relu", "tanh"], default="relu")
p.add_argument("--scale", type=float,
               default=1)  # overnight: 0.5..2
p.add_argument("--n", dest="layers", default=2)
p.add_argument("--seed", type=int, default=0)
p.add_argument("--amp", action="store_true")
p.add_argument("data", default=3)
"""
    found = [(constant.name, constant.kind, constant.value) for constant in find(source, "")]
    expected = [("lr", "float", 0.1), ("batch_size", "int", 64), ("act", "choice", "relu"), ("scale", "float", 1.0), ("layers", "int", 2)]
    assert found == expected


def test_defaults_of_click_and_typer_options_are_found() -> None:
    source = """
@click.option("--lr", default=0.1)
def main(lr, width: int = typer.Option(32, help="x"), rate: float = typer.Option(1)): ...
"""
    assert [(c.name, c.kind) for c in find(source, "")] == [("lr", "float"), ("width", "int"), ("rate", "float")]


@pytest.mark.parametrize("source", ["def", "x = (", "\0", "x = '\ud800'", "(" * 5000 + ")" * 5000, "LR = 0.1\n  y = 2"])
def test_what_is_no_python_has_no_constants(source: str) -> None:
    assert find(source, "") == []


def test_an_escape_that_python_warns_of_does_not_hide_the_constants() -> None:
    assert names('pattern = "\\d"\nLR = 0.1') == ["LR"]


def test_the_id_names_the_file() -> None:
    assert one("LR = 0.1").id == "train.py:LR"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_edit_changes_the_literal_and_no_other_byte(end: str, mark: str) -> None:
    before = mark + end.join(['"""größe 漢字 😀"""', 's = "é😀"; LR = 0.1  # é', "\fWIDTH  =  3_2 ;N=4", "", "x = [1,\t2]"])
    after = before.replace("0.1", "3e-4").replace("3_2", "1_280")
    assert edit(before.encode(), {"LR": 3e-4, "WIDTH": 1280}) == after.encode()


@pytest.mark.parametrize(
    ("line", "value", "expected"),
    [
        ("A = 0.1", 0.03, "A = 0.03"),
        ("A = 0.1", 1e-4, "A = 1e-4"),
        ("A = 0.1", 2.5e-7, "A = 2.5e-7"),
        ("A = 0.1", 2.0, "A = 2.0"),
        ("A = 1e6", 5e6, "A = 5e6"),
        ("A = -0.5", -0.25, "A = -0.25"),
        ("A = -0.5", 0.0, "A = 0.0"),
        ("A = 10", 20, "A = 20"),
        ("A: float = 1", 2.0, "A: float = 2.0"),
        ("A = 10_000", 20_000, "A = 20_000"),
        ("A = True", False, "A = False"),
        ("A = 'x'  # overnight: x|y", "y", "A = 'y'  # overnight: x|y"),
        ('A = "x"  # overnight: x|y', "y", 'A = "y"  # overnight: x|y'),
        ("A = 0.10", 0.1, "A = 0.10"),
    ],
)
def test_a_value_is_written_in_the_manner_of_the_old_one(line: str, value: constants.Value, expected: str) -> None:
    assert edit(line.encode(), {"A": value}) == expected.encode()


def test_an_edit_of_an_unknown_name_says_which() -> None:
    with pytest.raises(KeyError, match="WIDTH"):
        edit(b"LR = 0.1", {"WIDTH": 3})


def test_a_file_that_is_not_utf8_has_no_constants() -> None:
    assert find_in("# caf\xe9\nLR = 0.1\n".encode("latin-1"), "train.py") == []


def test_a_file_that_is_not_utf8_is_not_edited() -> None:
    with pytest.raises(KeyError, match="LR"):
        edit("# é\nLR = 0.1".encode("latin-1"), {"LR": 0.2})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_written_float_reads_back_as_itself(value: float) -> None:
    read = ast.literal_eval(edit(b"A = 1.0", {"A": value}).decode().removeprefix("A = "))
    assert (type(read), read) == (float, value)


@given(st.text(max_size=200))
def test_no_text_makes_find_raise(text: str) -> None:
    assert isinstance(find(text + "\nLR = 0.1\n", ""), list)


@given(st.floats(0, 1))
def test_readable_values_stay_in_range_and_are_fixed_points(share: float) -> None:
    source = (
        "LR = 0.1\nBETA2 = 0.999\nHIDDEN = 64\nN_LAYERS = 5\nDROPOUT = 0.1\nSHIFT = 0.0  # overnight: 0..0.8\nW = 24  # overnight: 8..96\n"
    )
    for constant in find(source, ""):
        value = readable(constant, constant.low + share * (constant.high - constant.low))
        assert isinstance(value, (int, float))
        assert constant.low <= value <= constant.high
        assert readable(constant, value) == value


def test_readable_values_are_short() -> None:
    lr, hidden, beta = find("LR = 0.1\nHIDDEN = 64\nBETA2 = 0.999\n", "")
    assert (readable(lr, 0.034567), readable(hidden, 117), readable(beta, 0.998765)) == (0.035, 128, 0.9988)


def test_the_values_of_a_constant_are_few_and_in_range() -> None:
    lr, width, flag = find("LR = 0.1\nWIDTH = 32  # overnight: 3..6\nFLAG = True\n", "")
    assert (len(values(lr)), values(lr)[0], values(lr)[-1], values(width), values(flag)) == (51, 0.01, 1.0, [3, 4, 5, 6], [False, True])


@pytest.mark.parametrize(("value", "expected"), [(0.03, "0.03"), (1e-4, "1e-4"), (64, "64"), ("relu", "relu"), (True, "True")])
def test_a_value_is_spoken_as_it_is_written(value: constants.Value, expected: str) -> None:
    assert spoken(value) == expected


def test_spans_point_at_the_bytes_of_the_literal() -> None:
    source = 'é = "ü"\nLR: float = +0.1\n'
    constant = find(source, "")[0]
    assert (source.encode()[slice(*constant.span)], math.isclose(float(constant.value), 0.1)) == (b"+0.1", True)
