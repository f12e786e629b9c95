"""Trials in this process, as the command line and the tools make them: a study whose settings lie in its file."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import clients
import studies
from overnight.app import run as running
from overnight.app import trial as trials
from overnight.app import trial_look as looks
from overnight.app.options import Options
from overnight.app.trial_look import View
from overnight.errors import OvernightError
from overnight.models import Experiment


class Tried:
    """A study in which trials are made; ``lines`` is what was said of them."""

    def __init__(self, folder: Path, made: studies.Study | None = None, **flags: Any) -> None:
        self.study = made or clients.study(folder)
        self.flags = {"tag": "t", **flags}
        self.lines: list[tuple[str, str]] = []
        self.study.before.update(self.study.checkout())

    def _listen(self, event: str, item: Experiment | None, text: str) -> None:
        self.lines.append((event, text if item is None else f"#{item.number}"))

    def options(self, **flags: Any) -> Options:
        return Options(self.study.root, {**self.flags, **flags}, self.study.env)

    def begin(self, operator: str = "improve", *, another: bool = False, seconds: float | None = None, **flags: Any) -> View:
        return trials.begin(self.options(**flags), trials.Asked(operator, another), trials.Wait(seconds), self._listen)

    def edit(self, seen: View, text: str, path: str = "train.py") -> View:
        (seen.copy / path).write_text(text)
        return seen

    def run(self, said: str = "an edit", number: int = 0, seconds: float | None = None) -> View:
        return trials.run(self.options(), number, said, trials.Wait(seconds), self._listen)

    def settle(self, number: int = 0, given_up: str | None = None) -> View:
        return trials.settle(self.options(), number, given_up, trials.Wait(), self._listen)

    def show(self, number: int = 0) -> View:
        return looks.shown(self.options(), number)

    def tried(self, text: str, said: str = "an edit", *, given_up: str | None = None) -> Experiment:
        """A whole trial."""
        self.edit(self.begin(), text)
        self.run(said)
        done = self.settle(given_up=given_up).experiment
        assert done is not None
        return done

    def loop(self, **flags: Any) -> str:
        """The loop, to its end; why it ended."""
        return running.run(self.options(**flags), self._listen, lambda _study, _best, _state: None).reason

    def told(self, *names: str) -> list[tuple[Any, ...]]:
        return [tuple(row[name] for name in names) for row in self.study.rows()]


def refusal(work: Any, *given: Any, **named: Any) -> str:
    """The code of the error that this raises; empty if it raises none."""
    try:
        work(*given, **named)
    except OvernightError as exc:
        return exc.code
    return ""


def loss(value: float) -> str:
    return f"print('@loss={value}')\n"


def ended_by(number: signal.Signals) -> int:
    return 128 + int(number)
