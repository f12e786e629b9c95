"""The shipping search over constants on a table: each parameter is a constant of a ``train.py``, its rung the value.

Knows the proposer's two calls; what is kept is for the caller to judge.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

from overnight.models import Decision, Direction, Experiment, Operator, Stage, Study
from overnight.proposers.optuna_search import OptunaProposer
from overnight.protocols import Request

_EDITABLE = "train.py"


class Search:
    """Asks for the next state and tells what came of it: the mean of its runs, as the loop does."""

    def __init__(self, folder: Path, sizes: list[int], seed: int) -> None:
        self._folder, self._sizes, self._number = folder, sizes, 0
        self._proposer = OptunaProposer(seed, Direction.MAXIMIZE)

    def ask(self, state: tuple[int, ...]) -> tuple[int, ...]:
        """What to try from ``state``. Raises ``ProposalError`` once every state was tried."""
        self._number += 1
        (self._folder / _EDITABLE).write_bytes(self._file(state))
        row = self._row(None, None)
        never = cast("Study", None)  # the search looks at files only
        self._proposer.ask(
            Request(str(self._number), never, Operator.IMPROVE, row, self._folder, self._folder, (_EDITABLE,), "", lambda: False)
        )
        return tuple(int(value) for value in re.findall(r"= (\d+)", (self._folder / _EDITABLE).read_text()))

    def tell(self, state: tuple[int, ...], value: float) -> None:
        """Let the search learn."""
        files: Any = {_EDITABLE: self._file(state)}
        self._proposer.tell(self._row(value, Decision.DISCARD), lambda: files)

    def _row(self, value: float | None, decision: Decision | None) -> Experiment:
        return Experiment(self._number, 0, Operator.IMPROVE, Stage.DECIDED, "optuna", "", 0.0, value=value, decision=decision)

    def _file(self, state: tuple[int, ...]) -> bytes:
        lines = [f"P{at} = {value}  # overnight: 0..{size - 1}" for at, (value, size) in enumerate(zip(state, self._sizes, strict=True))]
        return "\n".join([*lines, ""]).encode()
