"""Jobs in the record: every run of every experiment, what it gave, and what was learned from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from overnight.models import JobStatus, MetricPoint, Run, Stage
from overnight.store.connection import Connection
from overnight.store.rows import run_from, storable


class Jobs(Connection):
    """The part of the record that knows jobs."""

    def attempt(self, study: int, number: int, seed: int, now: float, *, again: bool = False, worker: str = "") -> int:
        """Count one more job for the experiment; the number is part of the job's id and is never used twice.

        ``again``: the run is made after the decision, to look again. ``worker``: the class of machine that it goes to, as far as is known.
        """
        with self._write() as db:
            attempt = db.execute("SELECT coalesce(max(attempt), 0) + 1 FROM job WHERE study=? AND number=?", (study, number)).fetchone()[0]
            db.execute(
                "INSERT INTO job (study, number, attempt, seed, looks_again, worker, state, submitted) VALUES (?,?,?,?,?,?,'QUEUED',?)",
                (study, number, attempt, seed, again, worker, now),
            )
            db.execute("UPDATE experiment SET stage=? WHERE study=? AND number=? AND decision IS NULL", (Stage.SUBMITTED, study, number))
            self._event(study, number, "experiment.started", now, {"attempt": attempt, "seed": seed})
        return int(attempt)

    def open_attempt(self, study: int, number: int, seed: int) -> int:
        """The job of the experiment with this seed that has no end yet, 0 if there is none."""
        rows = self._rows("SELECT attempt FROM job WHERE study=? AND number=? AND seed=? AND state='QUEUED'", study, number, seed)
        return int(rows[-1][0]) if rows else 0

    def open_jobs(self, study: int) -> list[tuple[int, int]]:
        """(number, attempt) of every job that has no end yet."""
        return [
            (row[0], row[1])
            for row in self._rows("SELECT number, attempt FROM job INDEXED BY job_open WHERE study=? AND state='QUEUED'", study)
        ]

    def open_checks(self, study: int) -> list[tuple[int, int]]:
        """(number, seed) of every run to look again that has no end yet."""
        sql = "SELECT number, seed FROM job INDEXED BY job_open WHERE study=? AND state='QUEUED' AND looks_again ORDER BY number, attempt"
        return [(row[0], row[1]) for row in self._rows(sql, study)]

    def finished_runs(self, study: int) -> tuple[int, int]:
        """How many runs have ended with a result or a crash, and how many of them were made to look again. Walks through all jobs."""
        sql = "SELECT count(*), coalesce(sum(looks_again), 0) FROM job WHERE study=? AND finished IS NOT NULL AND state NOT IN ('LOST', 'CANCELLED')"
        row = self._rows(sql, study)[0]
        return int(row[0]), int(row[1])

    def attempts(self, study: int, number: int, seed: int) -> int:
        """How many jobs with this seed the experiment has had, without those that were put back."""
        sql = "SELECT count(*) FROM job WHERE study=? AND number=? AND seed=? AND cause NOT LIKE 'put back%'"
        return int(self._rows(sql, study, number, seed)[0][0])

    def last_attempt(self, study: int, number: int) -> int:
        """Number of the latest job of the experiment, 0 if there was none."""
        return int(self._rows("SELECT coalesce(max(attempt), 0) FROM job WHERE study=? AND number=?", study, number)[0][0])

    def ran(self, job: tuple[int, int, int], status: JobStatus, points: Sequence[MetricPoint], now: float, **found: object) -> None:
        """Write the end of job (study, number, attempt): its status, a thinned series of its metrics, and ``found`` (columns by name)."""
        columns = {"state": status.state, "seconds": status.seconds, "cpu_seconds": status.cpu_seconds, "finished": now, **found}
        names = ", ".join(f"{name}=?" for name in columns)
        with self._write(synced=False) as db:
            values = [storable(value) for value in columns.values()]
            db.execute(f"UPDATE job SET {names} WHERE study=? AND number=? AND attempt=?", (*values, *job))  # noqa: S608 - column names come from our own calls
            db.execute(  # of a worker that was put in quarantine while it ran
                "UPDATE job SET discounted=host || ' is in quarantine' WHERE study=? AND number=? AND attempt=? AND EXISTS"
                " (SELECT 1 FROM quarantine WHERE quarantine.study=job.study AND worker=job.host AND since>=job.submitted)",
                job,
            )
            db.execute("DELETE FROM metric WHERE study=? AND number=? AND attempt=?", job)
            db.executemany(
                "INSERT INTO metric VALUES (?,?,?,?,?,?,?)",
                [(*job, point.name, storable(point.step), storable(point.value), round(point.time, 3)) for point in points],
            )

    def runs(self, study: int, number: int) -> list[Run]:
        """The finished runs of an experiment that count, oldest first; jobs that were lost or put back, to be run again, are none."""
        rows = self._rows(
            "SELECT * FROM job WHERE study=? AND number=? AND finished IS NOT NULL AND discounted='' AND (value IS NOT NULL OR crash_kind != '') ORDER BY attempt",
            study,
            number,
        )
        return [run_from(row) for row in rows]

    def knowledge(self, study: int) -> str:
        """What was learned of noise and of edits, as JSON; empty before the first run."""
        return str(self._rows("SELECT knowledge FROM study WHERE id=?", study)[0][0])

    def unlearned(self, study: int, number: int) -> list[int]:
        """Attempts of the experiment's finished runs that were not learned from yet, oldest first."""
        return [
            row[0]
            for row in self._rows(
                "SELECT attempt FROM job WHERE study=? AND number=? AND NOT learned AND finished IS NOT NULL AND discounted='' AND state NOT IN ('LOST', 'CANCELLED')"
                " ORDER BY attempt",
                study,
                number,
            )
        ]

    def learned(self, study: int, number: int, attempts: Sequence[int], knowledge: str) -> None:
        """Write what was learned from these runs, in one transaction with the fact that it was."""
        with self._write(synced=False) as db:
            db.execute("UPDATE study SET knowledge=? WHERE id=?", (knowledge, study))
            db.executemany(
                "UPDATE job SET learned=1 WHERE study=? AND number=? AND attempt=?", [(study, number, attempt) for attempt in attempts]
            )

    def revalue(self, study: int, number: int, name: str) -> None:
        """Take the metric ``name`` as the value of runs that ended before it was known to be the goal."""
        for run in self.runs(study, number):
            if run.value is None and run.crash_kind == "no-metric" and name in run.metrics:
                with self._write() as db:
                    db.execute(
                        "UPDATE job SET value=?, crash_kind='', cause='' WHERE study=? AND number=? AND attempt=?",
                        (storable(run.metrics[name]), study, number, run.attempt),
                    )

    def lost(self, study: int, number: int, attempt: int, cause: str, now: float) -> None:
        """Write that a job ended without a result and will be run again."""
        with self._write() as db:
            db.execute(
                "UPDATE job SET state='LOST', cause=?, finished=? WHERE study=? AND number=? AND attempt=?",
                (storable(cause), now, study, number, attempt),
            )
            self._event(study, number, "job.lost", now, {"attempt": attempt, "cause": cause})

    def curve(self, study: int, number: int, name: str) -> list[tuple[int, float, float | None]]:
        """(attempt, step, value) of one metric over all finished runs of an experiment, in order."""
        rows = self._rows(
            "SELECT attempt, step, value FROM metric WHERE study=? AND number=? AND name=? ORDER BY rowid", study, number, name
        )
        return [(row[0], row[1], row[2]) for row in rows]

    def series(self, study: int, number: int, name: str = "") -> list[tuple[str, float, float | None, float]]:
        """(name, step, value, time) of the stored metric points of an experiment."""
        rows = self._rows(
            "SELECT name, step, value, time FROM metric WHERE study=? AND number=? AND (?='' OR name=?) ORDER BY rowid",
            study,
            number,
            name,
            name,
        )
        return [tuple(row) for row in rows]

    def jobs(self, study: int, number: int) -> list[dict[str, Any]]:
        """Every job of an experiment, as JSON-like records, oldest first."""
        return [dict(row) for row in self._rows("SELECT * FROM job WHERE study=? AND number=? ORDER BY attempt", study, number)]
