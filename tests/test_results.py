"""``results.tsv``: byte for byte the seed's table, whatever a description holds."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.errors import StorageError
from overnight.models import Decision, Experiment, Operator, Stage
from overnight.results import Table, header, row

_HEADER = "commit\tmetric\tmemory_gb\tstatus\tdescription\n"


def _tried(
    description: str,
    value: float | None = 0.9979,
    decision: Decision = Decision.KEEP,
    *,
    memory_gb: float = 44.04,
    commit: str = "a1b2c3d4e5f6",
) -> Experiment:
    return Experiment(
        number=2, parent=1, operator=Operator.IMPROVE, stage=Stage.APPLIED, proposer="optuna", description=description, started=0.0,
        commit=commit, decision=decision, value=value, memory_gb=memory_gb,
    )  # fmt: skip


def test_the_rows_are_those_of_the_seed(tmp_path: Path) -> None:
    table = Table(tmp_path / "results.tsv")
    table.write([_tried("baseline"), _tried("wider", 1.005, Decision.DISCARD)])
    table.add(_tried("double the width", None, Decision.CRASH, memory_gb=80.0))
    assert (tmp_path / "results.tsv").read_bytes() == (
        b"commit\tmetric\tmemory_gb\tstatus\tdescription\n"
        b"a1b2c3d\t0.997900\t44.0\tkeep\tbaseline\n"
        b"a1b2c3d\t1.005000\t44.0\tdiscard\twider\n"
        b"a1b2c3d\t0.000000\t0.0\tcrash\tdouble the width\n"
    )


def test_the_header_can_bear_the_name_of_the_metric() -> None:
    assert header("val\tbpb") == "commit\tval bpb\tmemory_gb\tstatus\tdescription\n"


def test_a_crash_is_zeros_although_a_number_is_known() -> None:
    assert row(_tried("x", 0.5, Decision.CRASH)) == "a1b2c3d\t0.000000\t0.0\tcrash\tx\n"


def test_a_proposal_rejected_unrun_is_a_discard_of_zeros() -> None:
    assert row(_tried("x", None, Decision.DISCARD)) == "a1b2c3d\t0.000000\t0.0\tdiscard\tx\n"


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("", ""),
        ("a\tb\nc\r\nd", "a b c d"),
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-lr", "'-lr"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1+1", "'=1+1"),
        ("lr 0.1 -> 0.03", "lr 0.1 -> 0.03"),
        ("\x1b[31mred", "red"),
        ("half \udcff", "half"),
        ("a\u2028b", "a b"),
        ("x" * 600, "x" * 499 + "…"),
    ],
)
def test_a_description_is_made_harmless(description: str, expected: str) -> None:
    assert row(_tried(description)).removesuffix("\n").split("\t")[4:] == [expected]


@given(
    st.lists(st.text(st.characters(codec=None)) | st.text("\t\n\r\v\f\x1c\x85\u2028=+-@\"'a"), max_size=4),
    st.floats(allow_nan=False, allow_infinity=False) | st.none(),
)
def test_every_row_is_read_back_as_five_columns(descriptions: list[str], value: float | None) -> None:
    text = _HEADER + "".join(row(_tried(item, value)) for item in descriptions)
    read = list(csv.reader(io.StringIO(text.encode().decode(), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [len(cells) for cells in read] == [5] * (1 + len(descriptions))


@given(st.text(st.sampled_from("=+-@ \t\x1b[a'")))
def test_no_description_begins_like_a_formula(description: str) -> None:
    assert row(_tried(description)).split("\t")[4].startswith(("=", "+", "-", "@")) is False


def test_a_table_that_is_right_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "results.tsv"
    Table(path).write([_tried("one")])
    before = path.stat().st_ino
    Table(path).write([_tried("one")])
    assert path.stat().st_ino == before


def test_a_table_that_differs_is_replaced_without_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "results.tsv"
    path.write_bytes(b"half a row")
    Table(path).write([])
    assert {item.name: item.read_text() for item in tmp_path.iterdir()} == {"results.tsv": _HEADER}


def test_a_table_that_was_taken_away_gets_its_header_again(tmp_path: Path) -> None:
    table = Table(tmp_path / "results.tsv")
    table.add(_tried("one"))
    table.add(_tried("two"))
    assert [line.split("\t")[0] for line in (tmp_path / "results.tsv").read_text().splitlines()] == ["commit", "a1b2c3d", "a1b2c3d"]


@pytest.mark.parametrize("write", [lambda table: table.write([]), lambda table: table.add(_tried("x"))], ids=["write", "add"])
def test_a_table_that_cannot_be_written_says_where_and_leaves_nothing(tmp_path: Path, write: Callable[[Table], None]) -> None:
    path = tmp_path / "results.tsv"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(StorageError) as caught:
        write(Table(path))
    left = [item.name for item in tmp_path.iterdir()]
    assert (caught.value.code, caught.value.message, left) == ("E-RESULTS", f"{path} cannot be written: Is a directory", ["results.tsv"])
