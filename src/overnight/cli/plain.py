"""Progress as lines in the seed's shape, for pipes, logs and terminals without cursor control."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

from overnight.models import Decision, Experiment, Operator, Study
from overnight.printable import number, one_line

_BETTER = re.compile(r"better than #\d+ by ")


def result(item: Experiment, metric: str) -> str:
    """``@acc=0.8840  (improvement: 0.0228)  keep`` and its like."""
    if item.decision is Decision.CRASH or item.value is None:
        return f"{item.decision} — {one_line(item.cause, 160)}"
    better = _BETTER.match(item.cause) if item.decision is Decision.KEEP else None
    said = one_line(f"improvement: {item.cause[better.end() :]}" if better else item.cause, 220)
    return f"@{metric}={number(item.value)}  ({said})  {item.decision}"


class Lines:
    """A listener that prints. With one slot lines come as things happen; with more, an experiment's lines stay together."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.metric = ""
        self.best: float | None = None
        self._say = say
        self._command = ""
        self._slots = 1
        self._begun: set[int] = set()  # experiments whose lines wait for their result
        self._told = 0  # the experiment that the last printed line is about
        self._lock = threading.Lock()

    def learn(self, study: Study, best: float | None, _state: Path) -> None:
        """Take metric, command and slots from the study."""
        self.metric, self._slots, self.best = study.metric, study.settings.slots, best
        self._command = one_line(" ".join(study.settings.command), 120)

    def __call__(self, event: str, item: Experiment | None, text: str) -> None:
        """Print what happened."""
        with self._lock:
            if event == "metric":
                self.metric = text
            elif event == "note":
                self._say(f"[loop] {one_line(text, 400)}")
            elif event in ("begin", "resume"):
                self._say(f"[loop] study {text}: " + ("the baseline comes first" if event == "begin" else "going on"))
            elif event == "started" and item is not None:
                if self._slots == 1:
                    self._tell(item, self._head(item))
                else:
                    self._begun.add(item.number)
            elif event == "settled" and item is not None:
                self._settled(item)
            elif event == "end":
                self._say(f"[loop] {text}")

    def _head(self, item: Experiment) -> list[str]:
        if item.operator is Operator.BASELINE:
            return ["[loop] Baseline", f"  Execute: {self._command}"]
        best = number(self.best) if self.best is not None else "—"
        return [
            f"[loop] Cycle {item.number - 1} — best: {best}",
            f"  Hypothesis: {one_line(item.description)}",
            f"  Execute: exp-{item.number:03d}  {self._command}",
        ]

    def _settled(self, item: Experiment) -> None:
        lines: list[str] = []
        if item.number in self._begun:  # told now, so that the best is the one that was printed above
            lines = self._head(item)
        elif self._told != item.number:  # it began in an earlier loop, or others have begun since
            lines = self._head(item)[: 1 if item.operator is Operator.BASELINE else 2]
        self._begun.discard(item.number)
        if item.decision is Decision.KEEP:
            self.best = item.value
        self._tell(item, [*lines, f"  Result: {result(item, self.metric)}"])

    def _tell(self, item: Experiment, lines: list[str]) -> None:
        self._told = item.number
        for line in lines:
            self._say(line)
