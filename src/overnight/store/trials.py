"""Trials in the record: copies in which somebody outside the loop edits, and the experiments that were made of them."""

from __future__ import annotations

import json
import sqlite3

from overnight.errors import NotFoundError
from overnight.models import Operator, Stage, Trial
from overnight.store.connection import Connection

# One whose experiment a loop has settled is over, whether anybody has come back to it or not.
_OPEN = "ended IS NULL AND NOT EXISTS (SELECT 1 FROM experiment e WHERE e.study=trial.study AND e.number=trial.experiment AND e.stage=?)"


class Trials(Connection):
    """The part of the record that knows trials."""

    def begin_trial(self, study: int, trial: Trial) -> Trial:
        """Write that a trial has begun: its copy is made after that."""
        told = (json.dumps(trial.told), json.dumps(trial.takes))
        with self._write() as db:
            db.execute(
                "INSERT INTO trial (study, number, operator, parent, crashed, begun, told, takes) VALUES (?,?,?,?,?,?,?,?)",
                (study, trial.number, trial.operator, trial.parent, trial.crashed, trial.begun, *told),
            )
        return trial

    def trial(self, study: int, number: int) -> Trial:
        """One trial; raises ``NotFoundError``."""
        rows = self._rows("SELECT * FROM trial WHERE study=? AND number=?", study, number) if number < 2**63 else []
        if not rows:
            raise NotFoundError("E-NO-TRIAL", f"there is no trial {number}", fix="overnight trial ls")
        return _from(rows[0])

    def trials(self, study: int, *, last: int = 0) -> list[Trial]:
        """Trials by rising number: all, or the ``last`` so many."""
        limit = f" LIMIT {int(last)}" if last else ""
        rows = self._rows(f"SELECT * FROM trial WHERE study=? ORDER BY number DESC{limit}", study)  # noqa: S608 - built from a constant and an int
        return [_from(row) for row in reversed(rows)]

    def open_trials(self, study: int) -> list[Trial]:
        """Those that are neither settled nor given up, oldest first."""
        rows = self._rows(f"SELECT * FROM trial WHERE study=? AND {_OPEN} ORDER BY number", study, Stage.APPLIED)  # noqa: S608 - a constant of this file
        return [_from(row) for row in rows]

    def end_trial(self, study: int, number: int, now: float) -> Trial:
        """Write that a trial was settled or given up."""
        with self._write() as db:
            db.execute("UPDATE trial SET ended=coalesce(ended, ?) WHERE study=? AND number=?", (now, study, number))
        return self.trial(study, number)


def _from(row: sqlite3.Row) -> Trial:
    plain = {name: row[name] for name in ("number", "parent", "crashed", "begun", "experiment", "ended")}
    return Trial(**plain, operator=Operator(row["operator"]), told=tuple(json.loads(row["told"])), takes=tuple(json.loads(row["takes"])))
