"""One connection to the record of all studies of a project.

Writes are whole transactions, durable when the call returns (WAL, ``synchronous=FULL``). Knows nothing of git, jobs or screens.
Safe to share between threads; other processes open their own.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from overnight.errors import NotFoundError, StorageError, UsageError
from overnight.models import Decision, Direction, Experiment, JobStatus, MetricPoint, Proposal, Run, Stage, Study, Summary
from overnight.settings import Settings, as_dict
from overnight.store.rows import digest, experiment_from, pack, run_from, storable, study_from, unpack
from overnight.store.schema import MIGRATIONS


class Store:
    """The database at ``path``; made when missing unless ``readonly``.

    Raises ``NotFoundError`` (readonly, no file), ``StorageError`` (disk full, damaged, from a newer version).
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        if readonly and not path.exists():
            raise NotFoundError("E-NO-STUDY", f"there is no study here: {path} does not exist", fix="overnight run -- python train.py")
        self._path = path
        self._lock = threading.RLock()
        self._base: dict[tuple[int, str], bytes] = {}
        with self._mapped():
            try:
                self._db = self._connect("?mode=ro" if readonly else "")
            except sqlite3.OperationalError:
                if not readonly or path.with_name(path.name + "-wal").exists():
                    raise
                self._db = self._connect("?immutable=1")  # in a folder that is not ours to write to; nobody else writes now
            try:
                self._migrate(readonly=readonly)
            except BaseException:
                self._db.close()
                raise

    def _connect(self, how: str) -> sqlite3.Connection:
        db = sqlite3.connect(self._path.absolute().as_uri() + how, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
        db.row_factory = sqlite3.Row
        try:
            for pragma in ("user_version",) if how else ("journal_mode=WAL", "synchronous=FULL"):
                db.execute(f"PRAGMA {pragma}")
        except BaseException:
            db.close()
            raise
        return db

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self, *, readonly: bool) -> None:
        version = self._version()
        if version > len(MIGRATIONS):
            raise StorageError(
                "E-NEWER-STORE", f"{self._path} was written by a newer overnight (schema {version})", fix="pip install --upgrade overnight"
            )
        if readonly and version == 0:
            raise NotFoundError("E-NO-STUDY", "there is no study here yet", fix="overnight run -- python train.py")
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            if readonly:
                continue
            try:
                self._db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version={number}; COMMIT;")
            except sqlite3.OperationalError:
                self._db.rollback()
                if self._version() < number:  # else another process that opened it at the same time was quicker
                    raise

    def close(self) -> None:
        """Close the connection; further calls fail."""
        with self._lock:
            self._db.close()

    def check(self) -> None:
        """Raise ``StorageError`` when the file is damaged."""
        with self._mapped():
            found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise StorageError("E-DAMAGED", f"{self._path} is damaged: {found}", fix=f"sqlite3 {self._path} .recover")

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (sqlite3.DatabaseError, zlib.error) as exc:
                raise StorageError(
                    "E-STORE", f"the record {self._path} cannot be used: {exc}", fix="df -h . ; ls -l " + str(self._path.parent)
                ) from exc

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._mapped():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        with self._mapped():
            return self._db.execute(sql, values).fetchall()

    # --- studies -------------------------------------------------------------------------------------------------

    def create_study(self, tag: str, base_commit: str, direction: Direction, settings: Settings, now: float) -> Study:
        """A fresh study; raises ``UsageError`` when the tag is taken."""
        branch = settings.branch_prefix + tag
        with self._write() as db:
            if db.execute("SELECT 1 FROM study WHERE tag=?", (tag,)).fetchone():
                raise UsageError("E-TAG-TAKEN", f"there is a study '{tag}' already", fix=f"overnight run --tag {tag}b")
            db.execute(
                "INSERT INTO study (tag, branch, base_commit, metric, direction, settings, created) VALUES (?,?,?,?,?,?,?)",
                (tag, branch, base_commit, settings.metric, direction, json.dumps(as_dict(settings)), now),
            )
        return self.study(tag)

    def study(self, tag: str = "") -> Study:
        """The study with this tag, or the newest one; raises ``NotFoundError``."""
        rows = self._rows("SELECT * FROM study WHERE tag=? OR ?='' ORDER BY id DESC LIMIT 1", tag, tag)
        if not rows:
            known = ", ".join(row["tag"] for row in self._rows("SELECT tag FROM study ORDER BY id DESC LIMIT 5"))
            what = f"there is no study '{tag}'" if tag else "there is no study here yet"
            raise NotFoundError("E-NO-STUDY", what, why=f"known: {known}" if known else "", fix="overnight run -- python train.py")
        return study_from(rows[0])

    def drop_study(self, study: int) -> None:
        """Forget a study that could not begin; one that has an experiment stays."""
        with self._write() as db:
            db.execute("DELETE FROM study WHERE id=? AND NOT EXISTS (SELECT 1 FROM experiment WHERE study=?)", (study, study))

    def update_study(self, study: Study) -> None:
        """Write metric, direction, base and settings of the study anew."""
        with self._write() as db:
            db.execute(
                "UPDATE study SET metric=?, direction=?, settings=?, base_commit=? WHERE id=?",
                (study.metric, study.direction, json.dumps(as_dict(study.settings)), study.base_commit, study.id),
            )

    def set_state(self, study: int, state: str, reason: str, ran_seconds: float | None = None) -> None:
        """Say what the loop is doing: running, paused, stopping, stopped, done; ``ran_seconds`` of all loops so far."""
        with self._write() as db:
            db.execute(
                "UPDATE study SET state=?, reason=?, ran_seconds=coalesce(?, ran_seconds) WHERE id=?",
                (state, storable(reason), ran_seconds, study),
            )

    def want(self, study: int, wanted: str) -> None:
        """What a person asks of the loop: run, pause, stop or stop-now."""
        with self._write() as db:
            db.execute("UPDATE study SET wanted=? WHERE id=?", (wanted, study))

    def wanted(self, study: int) -> str:
        """What a person asked for last."""
        return str(self._rows("SELECT wanted FROM study WHERE id=?", study)[0][0])

    def ran_seconds(self, study: int) -> float:
        """Seconds that loops have worked on the study, before this one."""
        return float(self._rows("SELECT ran_seconds FROM study WHERE id=?", study)[0][0])

    def bar(self, study: int) -> tuple[int, float] | None:
        """The best experiment's number and the value to beat, or None before the baseline."""
        row = self._rows("SELECT best, bar FROM study WHERE id=?", study)[0]
        return None if row["best"] is None else (int(row["best"]), float(row["bar"]))

    # --- experiments ---------------------------------------------------------------------------------------------

    def propose(self, study: int, proposal: Proposal, lines: int, now: float) -> Experiment:
        """Number the proposal and keep its files: the first durable moment of an experiment."""
        idea = proposal.idea
        with self._write() as db:
            number = db.execute("SELECT coalesce(max(number), 0) + 1 FROM experiment WHERE study=?", (study,)).fetchone()[0]
            db.execute(
                "INSERT INTO experiment (study, number, parent, operator, stage, proposer, description, started, digest, repairs,"
                " cause, trust, think_seconds, lines, tokens, cost, state) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (study, number, proposal.parent, proposal.operator, Stage.PROPOSED, storable(idea.proposer), storable(idea.hypothesis), now,
                 digest(proposal.files), proposal.repairs, storable(proposal.rejected), "self-reported", idea.seconds, lines, idea.tokens, idea.cost,
                 json.dumps(dict(idea.state))),
            )  # fmt: skip
            for path, content in proposal.files.items():
                packed = pack(content, self._dictionary(study, path) if number > 1 else b"")
                db.execute("INSERT INTO file VALUES (?,?,?,?)", (study, number, path, packed))
            self._event(study, number, "experiment.proposed", now, {"description": idea.hypothesis, "notes": list(proposal.notes)})
        return self.experiment(study, number)

    def _dictionary(self, study: int, path: str) -> bytes:
        key = (study, path)
        if key not in self._base:
            rows = self._rows("SELECT content FROM file WHERE study=? AND number=1 AND path=?", study, path)
            self._base[key] = unpack(rows[0][0], b"") if rows else b""
        return self._base[key]

    def files(self, study: int, number: int) -> dict[str, bytes]:
        """The editable files of an experiment by path."""
        rows = self._rows("SELECT path, content FROM file WHERE study=? AND number=?", study, number)
        with self._mapped():
            return {row["path"]: unpack(row["content"], self._dictionary(study, row["path"]) if number > 1 else b"") for row in rows}

    def advance(self, study: int, number: int, stage: Stage, **found: object) -> Experiment:
        """Write that an experiment has come to ``stage``, with what was found there (columns by name)."""
        columns = {"stage": stage, **{name: storable(value) for name, value in found.items()}}
        names = ", ".join(f"{name}=?" for name in columns)
        with self._write() as db:
            db.execute(f"UPDATE experiment SET {names} WHERE study=? AND number=?", (*columns.values(), study, number))  # noqa: S608 - column names come from our own calls
        return self.experiment(study, number)

    def attempt(self, study: int, number: int, seed: int, now: float) -> int:
        """Count one more job for the experiment; the number is part of the job's id and is never used twice."""
        with self._write() as db:
            attempt = db.execute("SELECT coalesce(max(attempt), 0) + 1 FROM job WHERE study=? AND number=?", (study, number)).fetchone()[0]
            db.execute(
                "INSERT INTO job (study, number, attempt, seed, state, submitted) VALUES (?,?,?,?,'QUEUED',?)",
                (study, number, attempt, seed, now),
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
        return [(row[0], row[1]) for row in self._rows("SELECT number, attempt FROM job WHERE study=? AND state='QUEUED'", study)]

    def attempts(self, study: int, number: int, seed: int) -> int:
        """How many jobs with this seed the experiment has had, without those that a person put back."""
        sql = "SELECT count(*) FROM job WHERE study=? AND number=? AND seed=? AND cause NOT LIKE 'put back%'"
        return int(self._rows(sql, study, number, seed)[0][0])

    def last_attempt(self, study: int, number: int) -> int:
        """Number of the latest job of the experiment, 0 if there was none."""
        return int(self._rows("SELECT coalesce(max(attempt), 0) FROM job WHERE study=? AND number=?", study, number)[0][0])

    def ran(self, job: tuple[int, int, int], status: JobStatus, points: Sequence[MetricPoint], now: float, **found: object) -> None:
        """Write the end of job (study, number, attempt): its status, a thinned series of its metrics, and ``found`` (columns by name)."""
        columns = {"state": status.state, "seconds": status.seconds, "cpu_seconds": status.cpu_seconds, "finished": now, **found}
        names = ", ".join(f"{name}=?" for name in columns)
        with self._write() as db:
            values = [storable(value) for value in columns.values()]
            db.execute(f"UPDATE job SET {names} WHERE study=? AND number=? AND attempt=?", (*values, *job))  # noqa: S608 - column names come from our own calls
            db.execute("DELETE FROM metric WHERE study=? AND number=? AND attempt=?", job)
            db.executemany(
                "INSERT INTO metric VALUES (?,?,?,?,?,?,?)",
                [(*job, point.name, storable(point.step), storable(point.value), round(point.time, 3)) for point in points],
            )

    def runs(self, study: int, number: int) -> list[Run]:
        """The finished runs of an experiment, oldest first; jobs that were lost or put back, to be run again, are none."""
        rows = self._rows(
            "SELECT * FROM job WHERE study=? AND number=? AND finished IS NOT NULL AND (value IS NOT NULL OR crash_kind != '') ORDER BY attempt",
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
                "SELECT attempt FROM job WHERE study=? AND number=? AND NOT learned AND finished IS NOT NULL AND state NOT IN ('LOST', 'CANCELLED')"
                " ORDER BY attempt",
                study,
                number,
            )
        ]

    def learned(self, study: int, number: int, attempts: Sequence[int], knowledge: str) -> None:
        """Write what was learned from these runs, in one transaction with the fact that it was."""
        with self._write() as db:
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

    def decide(
        self,
        study: int,
        number: int,
        decision: Decision,
        cause: str,
        bar: float | None,
        now: float,
        *,
        knowledge: str = "",
        **found: object,
    ) -> Experiment:
        """Write the decision with what was learned from it, and with a keep the new bar, in one transaction: exactly once.

        ``found`` are further columns by name: confirmed, p, gain, gain_low, gain_high.
        """
        columns = {"decision": decision, "cause": storable(cause), "stage": Stage.DECIDED, "finished": now, **found}
        names = ", ".join(f"{name}=?" for name in columns)
        values = [storable(value) for value in columns.values()]
        with self._write() as db:
            changed = db.execute(
                f"UPDATE experiment SET {names} WHERE study=? AND number=? AND decision IS NULL",  # noqa: S608 - column names come from our own calls
                (*values, study, number),
            ).rowcount
            if changed and decision is Decision.KEEP:
                db.execute("UPDATE study SET best=?, bar=? WHERE id=?", (number, bar, study))
            if changed and knowledge:
                db.execute("UPDATE study SET knowledge=? WHERE id=?", (knowledge, study))
            if changed:
                self._event(study, number, "experiment.decided", now, {"decision": decision, "cause": cause})
        return self.experiment(study, number)

    def decided(self, study: int) -> list[int]:
        """Numbers of the decided experiments in the order of their decisions, which a clock set back does not change."""
        return [row[0] for row in self._rows("SELECT number FROM event WHERE study=? AND type='experiment.decided' ORDER BY seq", study)]

    def experiment(self, study: int, number: int) -> Experiment:
        """One experiment; raises ``NotFoundError``."""
        rows = self._rows("SELECT * FROM experiment WHERE study=? AND number=?", study, number)
        if not rows:
            raise NotFoundError("E-NO-EXPERIMENT", f"there is no experiment #{number}", fix="overnight ls")
        return experiment_from(rows[0])

    def experiments(self, study: int, *, last: int = 0, kept: bool = False) -> list[Experiment]:
        """Experiments by rising number: all, the ``last`` so many, or only the kept ones."""
        where = "study=?" + (" AND decision='keep'" if kept else "")
        limit = f" LIMIT {int(last)}" if last else ""
        rows = self._rows(f"SELECT * FROM experiment WHERE {where} ORDER BY number DESC{limit}", study)  # noqa: S608 - built from constants and an int
        return [experiment_from(row) for row in reversed(rows)]

    def unfinished(self, study: int) -> list[Experiment]:
        """Experiments that have not come to their last stage, oldest first."""
        return [
            experiment_from(row) for row in self._rows("SELECT * FROM experiment WHERE study=? AND stage!='applied' ORDER BY number", study)
        ]

    def same_files(self, study: int, files: Mapping[str, bytes]) -> int:
        """Number of the first experiment with exactly these files that was not rejected unrun, or 0."""
        rows = self._rows(
            "SELECT number FROM experiment WHERE study=? AND digest=? AND NOT (decision IS 'discard' AND value IS NULL) ORDER BY number LIMIT 1",
            study,
            digest(files),
        )
        return int(rows[0][0]) if rows else 0

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

    # --- events and the summary ----------------------------------------------------------------------------------

    def _event(self, study: int, number: int, kind: str, now: float, data: Mapping[str, object]) -> None:
        self._db.execute(
            "INSERT INTO event (time, study, number, type, data) VALUES (?,?,?,?,?)", (now, study, number, kind, json.dumps(data))
        )

    def event(self, study: int, number: int, kind: str, now: float, data: Mapping[str, object]) -> None:
        """Append to the record of what happened."""
        with self._write():
            self._event(study, number, kind, now, data)

    def events(self, study: int, since: int = 0, limit: int = 1000) -> Iterable[dict[str, Any]]:
        """Events after sequence number ``since``, oldest first."""
        rows = self._rows("SELECT * FROM event WHERE study=? AND seq>? ORDER BY seq LIMIT ?", study, since, limit)
        return [{**dict(row), "data": json.loads(row["data"])} for row in rows]

    def totals(self, study: int) -> dict[str, float]:
        """Sums over all experiments: train_seconds, think_seconds, tokens, cost."""
        row = self._rows(
            "SELECT coalesce(sum(seconds),0) AS train_seconds, coalesce(sum(think_seconds),0) AS think_seconds,"
            " coalesce(sum(tokens),0) AS tokens, coalesce(sum(cost),0) AS cost FROM experiment WHERE study=?",
            study,
        )[0]
        return {name: float(row[name]) for name in row.keys()}  # noqa: SIM118 - a sqlite row iterates over values

    def count(self, study: int) -> int:
        """How many experiments there are after the baseline."""
        return int(self._rows("SELECT count(*) FROM experiment WHERE study=? AND operator!='baseline'", study)[0][0])

    def summary(self, study: Study) -> Summary:
        """The study in numbers, from indexes: no walk through history."""
        row = self._rows("SELECT * FROM study WHERE id=?", study.id)[0]
        counts = self._rows(
            "SELECT decision, crash_kind, count(*) AS n FROM experiment WHERE study=? GROUP BY decision, crash_kind", study.id
        )
        by = {decision: sum(item["n"] for item in counts if item["decision"] == decision) for decision in Decision}
        unfinished = self.unfinished(study.id)
        totals = self.totals(study.id)
        first = self._rows(
            "SELECT * FROM experiment WHERE study=? AND operator='baseline' AND (decision='keep' OR decision IS NULL) ORDER BY number LIMIT 1",
            study.id,
        )
        best = self.experiment(study.id, row["best"]) if row["best"] is not None else None
        return Summary(
            study=replace(study, metric=row["metric"]), state=row["state"], reason=row["reason"],
            total=sum(item["n"] for item in counts), kept=by[Decision.KEEP], discarded=by[Decision.DISCARD], crashed=by[Decision.CRASH],
            running=tuple(item.number for item in unfinished), baseline=experiment_from(first[0]) if first else None, best=best,
            seconds=row["ran_seconds"], gpu_seconds=totals["train_seconds"] * max(1, len(study.settings.gpus) // study.settings.slots),
            train_seconds=totals["train_seconds"], think_seconds=totals["think_seconds"], tokens=int(totals["tokens"]), cost=totals["cost"],
            crash_kinds={item["crash_kind"]: item["n"] for item in counts if item["decision"] == Decision.CRASH and item["crash_kind"]},
        )  # fmt: skip
