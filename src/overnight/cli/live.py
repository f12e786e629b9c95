"""The calm live view of ``overnight run`` on a terminal: what runs, the last results, the curve. Leaving it is ^C.

Reads the record through the app like every other face; the loop does not know that it is watched.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from overnight.app import read
from overnight.cli import plot, table
from overnight.models import Experiment, Stage, Study
from overnight.printable import duration, one_line

_STYLES = {"✔": "green", "✖": "red", "▶": "bright_blue", "·": "dim", "…": "dim"}


class Screen:
    """A context in which the terminal shows the study; ``listen`` and ``begin`` are given to the run."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(Text("overnight: looking at this repository"), console=self._console, auto_refresh=False, transient=True)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._notes: list[str] = []

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._live.stop()

    def listen(self, event: str, _item: Experiment | None, text: str) -> None:
        """Keep what the loop says for the line at the bottom."""
        if event == "note":
            self._notes = [*self._notes, f"{time.strftime('%H:%M:%S')}  {one_line(text, 300)}"][-4:]

    def begin(self, study: Study, _best: float | None, state: Path) -> None:
        """Start to draw the study."""
        self._thread = threading.Thread(target=self._draw, args=(study, state), name="screen", daemon=True)
        self._thread.start()

    def _draw(self, study: Study, state: Path) -> None:
        begun = time.monotonic()
        with read.opened(state, state, {}, study.tag) as found:
            while True:
                last = self._ended.wait(0.5)
                self._live.update(self._picture(found, time.monotonic() - begun), refresh=True)
                if last:
                    return

    def _picture(self, found: read.Open, elapsed: float) -> Group:
        width, height = self._console.size
        told = read.summary(found)
        rows = read.rows(found, last=400)
        head = [Text(line, no_wrap=True, overflow="ellipsis") for line in table.summary(told)]
        head[0].stylize("bold")
        parts: list[Text] = [*head, Text()]
        if height >= 24:
            parts += [Text(line) for line in plot.draw(rows, told.study.direction, min(width, 100), 6 if height < 34 else 9)]
        room = max(3, height - len(parts) - len(self._notes) - 4)
        values = read.parents(found, rows[-room:])
        parts += [_row(line) for line in table.experiments(rows[-room:], told.study.direction, width, values)]
        running = [item for item in rows if item.stage is Stage.SUBMITTED]
        clock = ", ".join(f"#{item.number} for {duration(max(0.0, time.time() - item.started))}" for item in running)
        parts += [
            Text(f"now       {clock or 'thinking'}   limit {duration(told.study.settings.limit)}   loop {duration(elapsed)}", style="dim")
        ]
        parts += [Text(line, style="yellow", no_wrap=True, overflow="ellipsis") for line in self._notes]
        parts.append(Text("^C finishes the running experiment and ends · ^C ^C ends now and puts it back", style="dim"))
        return Group(*parts)


def _row(line: str) -> Text:
    text = Text(line, no_wrap=True, overflow="ellipsis")
    for shape, style in _STYLES.items():
        if shape in line[28:42]:
            text.stylize(style)
    return text
