"""What the search over the constants tells others: true to what it was told, and without a trace in what it does next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from overnight import constants
from overnight.models import Decision, Direction, Experiment, Operator, Stage
from overnight.proposers.optuna_search import OptunaProposer
from overnight.protocols import Searcher
from overnight.testing import ScriptedProposer
from test_optuna_search import SOURCE, search

FILES: Mapping[str, bytes] = {"train.py": SOURCE}


def _settled(number: int, value: float | None, source: bytes) -> tuple[Experiment, Mapping[str, bytes]]:
    decision = Decision.CRASH if value is None else Decision.DISCARD
    return Experiment(number, 0, Operator.IMPROVE, Stage.APPLIED, "", "", 0.0, decision=decision, value=value), {"train.py": source}


@pytest.mark.parametrize(
    ("direction", "best"), [(Direction.MINIMIZE, "best with 0.3, 0.1, 0.2"), (Direction.MAXIMIZE, "best with 0.2, 0.1, 0.3")]
)
def test_the_values_that_were_tried_and_the_best_of_them_are_told(direction: Direction, best: str) -> None:
    proposer = OptunaProposer(0, direction)
    for number, (lr, value) in enumerate([(0.1, 2.0), (0.2, 3.0), (0.3, 1.0), (0.4, None)]):
        item, files = _settled(number, value, constants.edit(SOURCE, {"LR": lr}))
        proposer.tell(item, lambda files=files: files)  # type: ignore[misc] # binds the files
    lines = proposer.state(FILES).splitlines()
    line = next(line for line in lines if line.startswith("- train.py:LR"))
    assert (lines[0], line) == (
        "4 settled points are known; the search moves these constants:",
        f"- train.py:LR = 0.1: 4 values tried, {best}",
    )


def test_after_some_experiments_it_says_what_tpe_would_try(tmp_path: Path) -> None:
    proposer = OptunaProposer(5, Direction.MINIMIZE)
    search(tmp_path, proposer, 12)
    found = [line.split(":")[1].split(" =")[0] for line in proposer.state(FILES).splitlines()[1:] if ", TPE would try " in line]
    assert found == ["ACT", "LR", "MOMENTUM", "WIDTH"]


def test_telling_changes_nothing_of_what_is_proposed_next(tmp_path: Path) -> None:
    nights = []
    for name in ("asked", "not-asked"):
        (tmp_path / name).mkdir()
        proposer = OptunaProposer(5, Direction.MINIMIZE)
        ideas = []
        for runs in (10, 3):
            ideas += [idea.hypothesis for idea in search(tmp_path / name, proposer, runs)]
            told = [proposer.state(FILES) for _ in range(2)] if name == "asked" else ["", ""]
            assert told[0] == told[1]
        nights.append(ideas)
    assert nights[0] == nights[1]


@pytest.mark.parametrize("files", [{}, {"train.py": b""}, {"train.py": b"\xff"}, {"train.sh": b"x=1"}, {"train.py": b"LR = 0.1\n" * 9}])
def test_where_there_is_nothing_to_search_there_is_nothing_to_tell(files: Mapping[str, bytes]) -> None:
    proposer = OptunaProposer(0, Direction.MINIMIZE)
    assert proposer.state(files) == ""
    item, source = _settled(1, 1.0, SOURCE)
    proposer.tell(item, lambda: source)
    assert proposer.state(files) == "" or b"LR" in files["train.py"]


def test_who_can_tell_is_known_by_its_method() -> None:
    assert [isinstance(each, Searcher) for each in (OptunaProposer(0, Direction.MINIMIZE), ScriptedProposer([]))] == [True, False]
