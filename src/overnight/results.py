"""The door to ``results.tsv``: the seed's table, a projection of the record that can be made anew at any time.

Knows nothing of the loop. Five columns; tabs, line ends and control characters in descriptions are made harmless.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from overnight.errors import StorageError
from overnight.models import Decision, Experiment
from overnight.printable import one_line


def header(metric: str = "") -> str:
    """The header line; ``metric`` stands in the second column, ``metric`` itself by default."""
    return f"commit\t{one_line(metric) or 'metric'}\tmemory_gb\tstatus\tdescription\n"


def row(experiment: Experiment) -> str:
    """The line of a settled experiment: 7 characters of the commit, six decimals, zeros for a crash."""
    crashed = experiment.decision is Decision.CRASH or experiment.value is None
    text = one_line(experiment.description, 500)
    if text.startswith(("=", "+", "-", "@")):
        text = "'" + text
    value, memory = (
        ("0.000000", "0.0") if crashed or experiment.value is None else (f"{experiment.value:.6f}", f"{experiment.memory_gb:.1f}")
    )
    return f"{experiment.commit[:7]}\t{value}\t{memory}\t{experiment.decision}\t{text}\n"


class Table:
    """``results.tsv`` at ``path``, kept up to date by appending.

    ``write`` replaces the file as a whole, ``add`` appends one row. Both raise ``StorageError`` when the file cannot be written.
    """

    def __init__(self, path: Path, metric: str = "") -> None:
        self.path = path
        self._header = header(metric)

    def write(self, experiments: Iterable[Experiment]) -> None:
        """Make the whole file anew, atomically."""
        text = self._header + "".join(row(item) for item in experiments)
        try:
            if self.path.is_file() and self.path.read_bytes() == text.encode():
                return
        except OSError as exc:
            raise StorageError("E-RESULTS", f"{self.path} cannot be read: {exc.strerror}", fix=f"ls -ld {self.path}") from exc
        self._replace(text)

    def _replace(self, text: str) -> None:
        scratch = self.path.with_name(f".{self.path.name}.new")
        try:
            scratch.write_text(text, encoding="utf-8")
            os.replace(scratch, self.path)
        except OSError as exc:
            with contextlib.suppress(OSError):
                scratch.unlink()
            raise StorageError(
                "E-RESULTS", f"{self.path} cannot be written: {exc.strerror}", fix=f"ls -ld {self.path.parent}; df -h ."
            ) from exc

    def amend(self, before: Experiment, after: Experiment) -> None:
        """Replace the latest row that shows ``before`` by one that shows ``after``; a table without such a row stays as it is."""
        old, new = row(before), row(after)
        try:
            text = self.path.read_text(encoding="utf-8") if old != new and self.path.is_file() else ""
        except OSError as exc:
            raise StorageError("E-RESULTS", f"{self.path} cannot be read: {exc.strerror}", fix=f"ls -ld {self.path}") from exc
        head, found, tail = text.rpartition(old)
        if found:
            self._replace(head + new + tail)

    def add(self, experiment: Experiment) -> None:
        """Append the row of one settled experiment, below a header if somebody took the file away."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(("" if file.tell() else self._header) + row(experiment))
        except OSError as exc:
            raise StorageError(
                "E-RESULTS", f"{self.path} cannot be written: {exc.strerror}", fix=f"ls -ld {self.path.parent}; df -h ."
            ) from exc
