"""What is old in the records of the hub and of pipelines: found, and forgotten. Never what is unfinished, nor what that needs.

Must not know why something counts as old, nor of files beside the record.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from overnight.models import JobState
from overnight.store.connection import Connection
from overnight.store.database import Database, File, Session, again
from overnight.store.pipelines import Pipelines
from overnight.store.queue_rows import QUEUE_MIGRATIONS

_AT_ONCE = 200  # jobs in one transaction: others write in between
_OPEN = "('QUEUED', 'RUNNING')"
_NEEDED = f"SELECT 1 FROM need JOIN job AS other ON other.id=need.job WHERE need.needed={{}} AND other.state IN {_OPEN}"  # noqa: S608 - of our own words


@dataclass(frozen=True, slots=True)
class OldJob:
    """A job that is over since long. ``stays``: it belongs to an experiment, so its row stays with its numbers. ``size`` in bytes."""

    id: str
    stays: bool
    size: int


class _Shrinking(Connection):
    def shrink(self) -> int:
        """Give the space of what was forgotten back to the disk, if there is room to do it; bytes of the file now."""
        with self._lock, contextlib.suppress(sqlite3.OperationalError):  # full, or in use: free pages are used again
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return self.size()

    def size(self) -> int:
        """Bytes of the file."""
        return sum(place.stat().st_size for place in (self._path, self._path.with_name(f"{self._path.name}-wal")) if place.exists())


class JobsFile(_Shrinking, File):
    """A queue's file at ``path``, for who tidies it up. Raises what ``Connection`` raises."""

    migrations = QUEUE_MIGRATIONS

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._db.execute("PRAGMA secure_delete=OFF")  # to write zeros over logs would need the room that is to be won


class OldJobs:
    """The hub's queue in ``database``, for who tidies it up. Raises what that raises."""

    def __init__(self, database: Database) -> None:
        self._rows, self._write = database.rows, database.write

    def found(self, before: float) -> list[OldJob]:
        """Jobs that were over before this time, are needed by none that is not, and have something that can go."""
        rows = self._rows(
            "SELECT job.id, job.exp_id != '' AS stays, length(job.submission) AS own,"  # noqa: S608 - of our own words
            " (SELECT coalesce(sum(length(data)), 0) FROM chunk WHERE chunk.job=job.id) AS said FROM job"
            f" WHERE job.state NOT IN {_OPEN} AND coalesce(job.finished, job.submitted) < ? AND NOT EXISTS ({_NEEDED.format('job.id')}) ORDER BY job.seq",
            before,
        )
        return [OldJob(row["id"], bool(row["stays"]), int(row["said"]) + (0 if row["stays"] else row["own"])) for row in rows]

    def forget(self, jobs: Sequence[OldJob]) -> list[OldJob]:
        """Forget them; those that are gone, without what was queued again, or is needed, since they were found."""
        return [job for begin in range(0, len(jobs), _AT_ONCE) for job in self._forgotten(jobs[begin : begin + _AT_ONCE])]

    @again
    def _forgotten(self, jobs: Sequence[OldJob]) -> list[OldJob]:
        with self._write(synced=False) as db:
            return [job for job in jobs if _forget(db, job)]

    def codes(self, forgotten: Iterable[OldJob] = ()) -> set[str]:
        """The code of every job that is here and not among those forgotten."""
        gone = {job.id for job in forgotten}
        rows = self._rows("SELECT id, json_extract(submission, '$.code') AS code FROM job")
        return {row["code"] for row in rows if row["code"] and row["id"] not in gone}

    def running(self) -> set[str]:
        """Attempts that run, as ``<job>.<attempt>``."""
        return {f"{row['job']}.{row['attempt']}" for row in self._rows("SELECT job, attempt FROM attempt WHERE state='RUNNING'")}

    def known(self) -> set[str]:
        """Every job that is here."""
        return {row["id"] for row in self._rows("SELECT id FROM job")}


def _forget(db: Session, job: OldJob) -> bool:
    """Whether it is gone. What is locked is locked in the order of the queue."""
    db.execute("SELECT 1 FROM attempt WHERE job=? /*+ FOR UPDATE */", (job.id,)).fetchall()
    row = db.execute("SELECT state FROM job WHERE id=? /*+ FOR UPDATE */", (job.id,)).fetchone()
    if row is None or not JobState(row["state"]).over or db.execute(_NEEDED.format("?"), (job.id,)).fetchone():
        return False
    db.execute("DELETE FROM chunk WHERE job=?", (job.id,))
    db.execute("UPDATE attempt SET log_size=0, metrics_size=0 WHERE job=?", (job.id,))
    if not job.stays:
        for table, column in (("event", "job"), ("need", "job"), ("need", "needed"), ("attempt", "job"), ("job", "id")):
            db.execute(f"DELETE FROM {table} WHERE {column}=?", (job.id,))  # noqa: S608 - of our own words
    return True


class OldPipelines(_Shrinking):
    """The record of pipelines at ``path``, for who tidies it up. Raises what ``Connection`` raises."""

    migrations = Pipelines.migrations

    def found(self, before: float) -> list[int]:
        """The numbers of pipelines that were over before this time."""
        return [
            row["number"] for row in self._rows("SELECT number FROM dag WHERE state != 'RUNNING' AND finished < ? ORDER BY number", before)
        ]

    def jobs(self, numbers: Iterable[int]) -> set[str]:
        """The jobs of these pipelines' attempts."""
        wanted = json.dumps(list(numbers))
        rows = self._rows("SELECT job FROM attempt WHERE dag IN (SELECT value FROM json_each(?)) AND job != ''", wanted)
        return {row["job"] for row in rows}

    def files(self, without: Iterable[int]) -> set[str]:
        """The hashes of all files that other pipelines than these have left."""
        rows = self._rows("SELECT DISTINCT sha FROM output WHERE dag NOT IN (SELECT value FROM json_each(?))", json.dumps(list(without)))
        return {row["sha"] for row in rows}

    def codes(self, without: Iterable[int]) -> set[str]:
        """The code of all other pipelines than these."""
        return {
            row["code"]
            for row in self._rows("SELECT code FROM dag WHERE number NOT IN (SELECT value FROM json_each(?))", json.dumps(list(without)))
        }

    def forget(self, numbers: Iterable[int]) -> None:
        """Forget these pipelines; what the cache knew of them is run again when it is wanted."""
        for number in numbers:
            with self._write(synced=False) as db:
                if db.execute("SELECT 1 FROM dag WHERE number=? AND state='RUNNING'", (number,)).fetchone():
                    continue  # it is resumed
                for table in ("event", "previous", "cache", "output", "attempt", "task"):
                    db.execute(f"DELETE FROM {table} WHERE dag=?", (number,))  # noqa: S608 - of our own words
                db.execute("DELETE FROM dag WHERE number=?", (number,))
