# ruff: noqa: S608 - every query is put together from constants of this file; values are always bound
"""Plans that are being carried out: where the branch of each is to be, and how far its tasks have come.

The texts of a plan are files of the person's; here is only what was done. Knows no git.
"""

from __future__ import annotations

import sqlite3
from dataclasses import fields

from overnight.plans import Begun, Progress, Work
from overnight.store.connection import Connection
from overnight.store.rows import storable

_COLUMNS = {"start": "start_commit", "commit": "commit_id"}  # others are named as in the record


class Plans(Connection):
    """The part of the record that knows plans."""

    def plan(self, slug: str) -> Begun | None:
        """The plan, if it was begun."""
        rows = self._rows("SELECT id, slug, goal, base_commit, tip, created FROM plan WHERE slug=?", storable(slug))
        return Begun(*rows[0]) if rows else None

    def begin_plan(self, slug: str, goal: str, base: str, now: float) -> Begun:
        """The plan, begun at commit ``base`` unless it was before."""
        with self._write() as db:
            db.execute(
                "INSERT OR IGNORE INTO plan (slug, goal, base_commit, tip, created) VALUES (?,?,?,?,?)",
                (storable(slug), storable(goal), base, base, now),
            )
        found = self.plan(slug)
        assert found is not None
        return found

    def begin_again(self, plan: int, base: str) -> None:
        """Say that a plan of which nothing is done begins at another commit."""
        with self._write() as db:
            db.execute("UPDATE plan SET base_commit=?, tip=? WHERE id=?", (base, base, plan))

    def move_plan(self, plan: int, tip: str) -> None:
        """Say where the branch of a plan is: somebody else has moved it."""
        with self._write() as db:
            db.execute("UPDATE plan SET tip=? WHERE id=?", (tip, plan))

    def works(self, plan: int) -> dict[str, Work]:
        """What was done of each task, by its name."""
        return {row["name"]: _from(row) for row in self._rows("SELECT * FROM task WHERE plan=? ORDER BY name", plan)}

    def save_work(self, plan: int, work: Work) -> None:
        """Write how far a task has come."""
        with self._write() as db:
            self._save(db, plan, work)

    def merged(self, plan: int, work: Work) -> None:
        """Say that a task is done and that the branch of its plan is to be where it was merged, both at once."""
        with self._write() as db:
            self._save(db, plan, work)
            db.execute("UPDATE plan SET tip=? WHERE id=?", (work.merged, plan))

    def _save(self, db: sqlite3.Connection, plan: int, work: Work) -> None:
        names = [item.name for item in fields(Work)]
        columns = ", ".join(_COLUMNS.get(name, name) for name in names)
        values = [storable(getattr(work, name)) for name in names]
        db.execute(f"INSERT OR REPLACE INTO task (plan, {columns}) VALUES (?{',?' * len(names)})", (plan, *values))


def _from(row: sqlite3.Row) -> Work:
    found = {item.name: row[_COLUMNS.get(item.name, item.name)] for item in fields(Work)}
    return Work(**{**found, "state": Progress(row["state"])})
