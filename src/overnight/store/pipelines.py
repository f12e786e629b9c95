"""The record of pipelines, in a file of its own: what was begun, every task and attempt, what each left, and what the cache knows.

Each change is written before it is acted on. Must not know how tasks are run.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from overnight.dag.words import Dag, DagState, End, Kept, Row, TaskState
from overnight.errors import NotFoundError
from overnight.store.connection import Connection
from overnight.store.rows import storable

_SCHEMA = """
    CREATE TABLE dag (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        text TEXT NOT NULL,                -- the pipeline as it was read
        file TEXT NOT NULL,
        workdir TEXT NOT NULL,
        code TEXT NOT NULL,                -- commit of the code as it was packed
        folder TEXT NOT NULL,
        links TEXT NOT NULL,               -- JSON
        options TEXT NOT NULL,             -- JSON
        state TEXT NOT NULL,
        wanted TEXT NOT NULL DEFAULT '',   -- 'cancel' asks for the end
        created REAL NOT NULL,
        finished REAL
    );
    CREATE TABLE task (
        dag INTEGER NOT NULL REFERENCES dag,
        position INTEGER NOT NULL,
        task TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'WAITING',
        attempt INTEGER NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0,
        lost INTEGER NOT NULL DEFAULT 0,
        not_before REAL NOT NULL DEFAULT 0,
        cause TEXT NOT NULL DEFAULT '',
        note TEXT NOT NULL DEFAULT '',
        cached_from INTEGER NOT NULL DEFAULT 0,
        job TEXT NOT NULL DEFAULT '',
        submitted INTEGER NOT NULL DEFAULT 0,
        gpus TEXT NOT NULL DEFAULT '[]',   -- JSON
        parts TEXT NOT NULL DEFAULT '',    -- JSON: what counted for the cache
        started REAL,
        seconds REAL NOT NULL DEFAULT 0,
        vals TEXT NOT NULL DEFAULT '{}',   -- JSON: the last value of every metric
        PRIMARY KEY (dag, position)
    ) WITHOUT ROWID;
    CREATE TABLE attempt (
        dag INTEGER NOT NULL,
        position INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        job TEXT NOT NULL,
        state TEXT NOT NULL,
        cause TEXT NOT NULL DEFAULT '',
        started REAL NOT NULL,
        seconds REAL NOT NULL DEFAULT 0,
        exit_code INTEGER,
        PRIMARY KEY (dag, position, attempt)
    ) WITHOUT ROWID;
    CREATE TABLE output (
        dag INTEGER NOT NULL,
        position INTEGER NOT NULL,
        path TEXT NOT NULL,
        sha TEXT NOT NULL,
        size INTEGER NOT NULL,
        executable INTEGER NOT NULL,
        own INTEGER NOT NULL,
        PRIMARY KEY (dag, position, path)
    ) WITHOUT ROWID;
    CREATE TABLE cache (key TEXT PRIMARY KEY, dag INTEGER NOT NULL, position INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE previous (                -- the last success of a task, by which it is told why it is not cached
        workdir TEXT NOT NULL,
        name TEXT NOT NULL,
        task TEXT NOT NULL,
        dag INTEGER NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (workdir, name, task)
    ) WITHOUT ROWID;
    CREATE TABLE event (seq INTEGER PRIMARY KEY AUTOINCREMENT, dag INTEGER NOT NULL, time REAL NOT NULL, task TEXT NOT NULL, line TEXT NOT NULL);
    CREATE INDEX event_of_dag ON event (dag, seq);
    CREATE TABLE digest (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, sha TEXT NOT NULL) WITHOUT ROWID;
"""
_LISTED = "SELECT value FROM json_each(?)"
_RESET = "state='WAITING', failures=0, lost=0, not_before=0, cause='', note=''"


class Pipelines(Connection):
    """The record at ``path``; made when missing. Raises what ``Connection`` raises."""

    migrations = (_SCHEMA,)

    # --- a pipeline --------------------------------------------------------------------------------------------------

    def create(self, dag: Dag, tasks: Sequence[str]) -> Dag:
        """Write down a pipeline that begins; its number is given here."""
        with self._write() as db:
            found = db.execute(
                "INSERT INTO dag (name, text, file, workdir, code, folder, links, options, state, created) VALUES (?,?,?,?,?,?,?,?,?,?) RETURNING *",
                (storable(dag.name), dag.text, dag.file, dag.workdir, dag.commit, dag.folder, json.dumps(dict(dag.links)), json.dumps(dict(dag.options)), dag.state, dag.created),
            ).fetchone()  # fmt: skip
            db.executemany(
                "INSERT INTO task (dag, position, task) VALUES (?,?,?)",
                ((found["number"], position, task) for position, task in enumerate(tasks)),
            )
        return _dag(found)

    def dag(self, number: int = 0) -> Dag:
        """The pipeline with this number, or (0) the latest. Raises ``NotFoundError`` (E-NO-DAG)."""
        found = self._rows(
            "SELECT * FROM dag WHERE number=?" if number else "SELECT * FROM dag WHERE number>? ORDER BY number DESC LIMIT 1", number
        )
        if not found:
            raise NotFoundError("E-NO-DAG", f"there is no dag-{number}" if number else "no pipeline was run yet", fix="overnight dag ls")
        return _dag(found[0])

    def dags(self, last: int = 0) -> list[Dag]:
        """All pipelines, or the last few, oldest first."""
        return [_dag(row) for row in self._rows("SELECT * FROM dag ORDER BY number DESC LIMIT ?", last or -1)][::-1]

    def unfinished(self, workdir: str, text: str) -> list[Dag]:
        """Pipelines of this text and folder that are not over, latest first."""
        return [
            _dag(row)
            for row in self._rows("SELECT * FROM dag WHERE state='RUNNING' AND workdir=? AND text=? ORDER BY number DESC", workdir, text)
        ]

    def tally(self, numbers: Iterable[int]) -> dict[int, dict[TaskState, int]]:
        """How many tasks of each pipeline are in which state."""
        found: dict[int, dict[TaskState, int]] = {}
        for number in numbers:
            rows = self._rows("SELECT state, count(*) AS many FROM task WHERE dag=? GROUP BY state", number)
            found[number] = {TaskState(row["state"]): row["many"] for row in rows}
        return found

    def want(self, number: int, wanted: str) -> None:
        """Write what is wanted of whoever conducts: ``cancel`` or nothing."""
        with self._write() as db:
            db.execute("UPDATE dag SET wanted=? WHERE number=?", (wanted, number))

    def wanted(self, number: int) -> str:
        """What is wanted."""
        return str(self._rows("SELECT wanted FROM dag WHERE number=?", number)[0]["wanted"])

    def finish(self, number: int, state: DagState, now: float) -> None:
        """The pipeline is over."""
        with self._write() as db:
            db.execute("UPDATE dag SET state=?, finished=?, wanted='' WHERE number=?", (state, now, number))

    def resume(self, number: int, *, commit: str, folder: str, links: Mapping[str, str]) -> None:
        """Begin again where it ended: what did not succeed waits once more; what runs and what succeeded stays."""
        with self._write() as db:
            db.execute(
                "UPDATE dag SET wanted=CASE state WHEN 'RUNNING' THEN wanted ELSE '' END, state='RUNNING', finished=NULL, code=?, folder=?, links=? WHERE number=?",
                (commit, folder, json.dumps(dict(links)), number),
            )
            db.execute(f"UPDATE task SET {_RESET} WHERE dag=? AND state NOT IN ('RUNNING', 'SUCCEEDED')", (number,))  # noqa: S608 - a constant of ours

    # --- its tasks ---------------------------------------------------------------------------------------------------

    def tasks(self, number: int) -> list[Row]:
        """Every task, by position."""
        return [_row(row) for row in self._rows("SELECT * FROM task WHERE dag=? ORDER BY position", number)]

    def task(self, number: int, position: int) -> Row:
        """One task."""
        return _row(self._rows("SELECT * FROM task WHERE dag=? AND position=?", number, position)[0])

    def begin(self, number: int, row: Row, now: float) -> Row:
        """Write down that a task is about to run as ``row`` says (job without its attempt, gpus, parts, note); returns the row as it is then."""
        begun = replace(
            row,
            state=TaskState.RUNNING,
            attempt=row.attempt + 1,
            job=f"{row.job}.{row.attempt + 1}",
            submitted=False,
            cause="",
            started=now,
            seconds=0.0,
        )
        with self._write() as db:
            db.execute(
                "UPDATE task SET state='RUNNING', attempt=?, job=?, submitted=0, gpus=?, parts=?, note=?, cause='', started=?, seconds=0"
                " WHERE dag=? AND position=?",
                (begun.attempt, begun.job, json.dumps(row.gpus), row.parts, storable(row.note), now, number, row.position),
            )
            db.execute(
                "INSERT INTO attempt (dag, position, attempt, job, state, started) VALUES (?,?,?,?,'RUNNING',?)",
                (number, row.position, begun.attempt, begun.job, now),
            )
        return begun

    def submitted(self, number: int, position: int) -> None:
        """The executor has taken the job of the latest attempt."""
        with self._write(synced=False) as db:
            db.execute("UPDATE task SET submitted=1 WHERE dag=? AND position=?", (number, position))

    def put_back(self, number: int, row: Row, end: End) -> None:
        """The latest attempt is over and the task waits again; ``row`` says for how long, and how often it has failed or was lost."""
        with self._write() as db:
            db.execute(
                "UPDATE task SET state='WAITING', failures=?, lost=?, not_before=?, cause=? WHERE dag=? AND position=?",
                (row.failures, row.lost, row.not_before, storable(end.cause), number, row.position),
            )
            self._end_attempt(number, row.position, end)

    def settle(self, dag: Dag, position: int, end: End, key: str = "") -> None:
        """The task is over: its numbers and files are written with it, and with a ``key`` the cache learns of it."""
        with self._write() as db:
            db.execute(
                "UPDATE task SET state=?, cause=?, seconds=?, vals=?, note=CASE ? WHEN '' THEN note ELSE ? END WHERE dag=? AND position=?",
                (
                    end.state,
                    storable(end.cause),
                    end.seconds,
                    json.dumps(dict(end.values)),
                    end.note,
                    storable(end.note),
                    dag.number,
                    position,
                ),
            )
            self._end_attempt(dag.number, position, end)
            db.execute("DELETE FROM output WHERE dag=? AND position=?", (dag.number, position))
            db.executemany(
                "INSERT INTO output (dag, position, path, sha, size, executable, own) VALUES (?,?,?,?,?,?,?)",
                ((dag.number, position, file.path, file.sha, file.size, file.executable, file.own) for file in end.outputs),
            )
            if end.state is TaskState.SUCCEEDED and key:
                db.execute("INSERT OR REPLACE INTO cache (key, dag, position) VALUES (?,?,?)", (key, dag.number, position))
            if end.state is TaskState.SUCCEEDED:
                db.execute(
                    "INSERT OR REPLACE INTO previous (workdir, name, task, dag, position) SELECT ?, ?, task, dag, position FROM task WHERE dag=? AND position=?",
                    (dag.workdir, storable(dag.name), dag.number, position),
                )

    def take_cached(self, dag: Dag, row: Row, found: tuple[int, int], now: float) -> bool:
        """The task has succeeded without being run: an earlier one (pipeline, position) was the same. What that left is its own now.

        False if that was cleared away meanwhile.
        """
        with self._write() as db:
            number, position = dag.number, row.position
            source = db.execute("SELECT * FROM task WHERE dag=? AND position=?", found).fetchone()
            if source is None:
                return False
            origin = source["cached_from"] or found[0]
            db.execute(
                "UPDATE task SET state='SUCCEEDED', cached_from=?, parts=?, note=?, cause='', vals=?, seconds=?, started=? WHERE dag=? AND position=?",
                (origin, row.parts, storable(row.note), source["vals"], source["seconds"], now, number, position),
            )
            db.execute("DELETE FROM output WHERE dag=? AND position=?", (number, position))
            db.execute(
                "INSERT INTO output SELECT ?, ?, path, sha, size, executable, own FROM output WHERE dag=? AND position=?",
                (number, position, *found),
            )
        return True

    def skip(self, number: int, skipped: Iterable[tuple[int, str]]) -> None:
        """These tasks are not run, each for its reason."""
        with self._write() as db:
            db.executemany(
                "UPDATE task SET state='SKIPPED', cause=? WHERE dag=? AND position=?",
                ((reason, number, position) for position, reason in skipped),
            )

    def cancel_waiting(self, number: int, reason: str) -> None:
        """Whatever waits is cancelled."""
        with self._write() as db:
            db.execute("UPDATE task SET state='CANCELLED', cause=? WHERE dag=? AND state='WAITING'", (storable(reason), number))

    def _end_attempt(self, number: int, position: int, end: End) -> None:
        self._db.execute(
            "UPDATE attempt SET state=?, cause=?, seconds=?, exit_code=? WHERE dag=? AND position=? AND state='RUNNING'",
            (end.state, storable(end.cause), end.seconds, end.exit_code, number, position),
        )

    # --- what they left, and the cache -------------------------------------------------------------------------------

    def outputs(self, number: int, position: int) -> tuple[Kept, ...]:
        """The files that a task has left."""
        rows = self._rows("SELECT * FROM output WHERE dag=? AND position=? ORDER BY path", number, position)
        return tuple(Kept(row["path"], row["sha"], row["size"], bool(row["executable"]), bool(row["own"])) for row in rows)

    def cached(self, key: str) -> tuple[int, int] | None:
        """Pipeline and position of a task that succeeded with this key."""
        found = self._rows("SELECT dag, position FROM cache WHERE key=?", key)
        return (found[0]["dag"], found[0]["position"]) if found else None

    def previous(self, dag: Dag, task: str) -> tuple[int, str]:
        """The last pipeline of this name and folder in which the task was run to its success, and what counted then; 0 = there is none."""
        found = self._rows(
            "SELECT task.dag, task.parts FROM previous JOIN task USING (dag, position) WHERE workdir=? AND name=? AND previous.task=?",
            dag.workdir, storable(dag.name), task,
        )  # fmt: skip
        return (found[0]["dag"], found[0]["parts"]) if found else (0, "")

    def digest(self, path: str, stamp: str) -> str:
        """The hash of a file that has not changed since it was read; empty = not known."""
        found = self._rows("SELECT sha FROM digest WHERE path=? AND stamp=?", storable(path), stamp)
        return str(found[0]["sha"]) if found else ""

    def keep_digests(self, found: Iterable[tuple[str, str, str]]) -> None:
        """Remember hashes of files: path, stamp, hash."""
        with self._write(synced=False) as db:
            db.executemany(
                "INSERT OR REPLACE INTO digest (path, stamp, sha) VALUES (?,?,?)",
                ((storable(path), stamp, sha) for path, stamp, sha in found),
            )

    # --- clearing away -----------------------------------------------------------------------------------------------

    def prune(self, numbers: Sequence[int], key: Callable[[str], str]) -> None:
        """Forget these pipelines. What later ones took from them in the cache is found there from now on; ``key`` is that of a row's parts."""
        gone = json.dumps(list(numbers))
        left = f"task.dag NOT IN ({_LISTED}) AND task.state='SUCCEEDED' AND task.parts<>''"
        with self._write() as db:
            db.execute(
                f"UPDATE task SET job=coalesce((SELECT o.job FROM task AS o WHERE o.dag=task.cached_from AND o.task=task.task), '') "  # noqa: S608 - constants
                f"WHERE job='' AND cached_from IN ({_LISTED})",
                (gone,),
            )
            lost = {row["key"] for row in db.execute(f"SELECT key FROM cache WHERE dag IN ({_LISTED})", (gone,))}  # noqa: S608 - a constant
            heirs = db.execute(f"SELECT dag, position, parts FROM task WHERE {left} ORDER BY dag", (gone,)) if lost else ()  # noqa: S608 - constants
            found = {key(row["parts"]): (row["dag"], row["position"]) for row in heirs}
            for table in ("cache", "previous", "event", "output", "attempt", "task"):
                db.execute(f"DELETE FROM {table} WHERE dag IN ({_LISTED})", (gone,))  # noqa: S608 - constants
            db.execute(f"DELETE FROM dag WHERE number IN ({_LISTED})", (gone,))  # noqa: S608 - a constant
            db.executemany("INSERT INTO cache (key, dag, position) VALUES (?,?,?)", ((each, *found[each]) for each in lost & found.keys()))
            db.execute(
                "INSERT OR IGNORE INTO previous (workdir, name, task, dag, position) SELECT workdir, name, task, dag, position "
                "FROM task JOIN dag ON dag.number=task.dag WHERE task.state='SUCCEEDED' AND task.parts<>'' ORDER BY task.dag DESC"
            )

    def held(self, without: Sequence[int] = ()) -> tuple[set[str], set[str], set[str]]:
        """What the record speaks of, or would without some pipelines: hashes of files, commits of code, names of jobs."""
        gone, left = json.dumps(list(without)), "NOT IN (SELECT value FROM json_each(?1))"
        lent = f"SELECT o.job FROM task JOIN task AS o ON o.dag=task.cached_from AND o.task=task.task WHERE task.dag {left}"  # noqa: S608 - constants
        asked = (
            f"SELECT DISTINCT sha FROM output WHERE dag {left}",  # noqa: S608 - a constant
            f"SELECT DISTINCT code FROM dag WHERE number {left}",  # noqa: S608 - a constant
            f"SELECT job FROM attempt WHERE dag {left} UNION SELECT job FROM task WHERE dag {left} UNION {lent}",  # noqa: S608 - constants
        )
        hashes, commits, jobs = ({str(row[0]) for row in self._rows(sql, gone)} for sql in asked)
        return hashes, commits, jobs

    # --- what is said ------------------------------------------------------------------------------------------------

    def say(self, number: int, lines: Iterable[tuple[float, str, str]]) -> None:
        """Keep lines (time, task, text) for whoever watches; a power cut may take them."""
        with self._write(synced=False) as db:
            db.executemany(
                "INSERT INTO event (dag, time, task, line) VALUES (?,?,?,?)",
                ((number, now, task, storable(line)) for now, task, line in lines),
            )

    def said(self, number: int, since: int = 0) -> list[tuple[int, str, str]]:
        """Lines after the event ``since``: its number, the task and the line."""
        return [
            (row["seq"], row["task"], row["line"])
            for row in self._rows("SELECT * FROM event WHERE dag=? AND seq>? ORDER BY seq LIMIT 10000", number, since)
        ]


def _dag(row: sqlite3.Row) -> Dag:
    return Dag(
        number=row["number"], name=row["name"], text=row["text"], file=row["file"], workdir=row["workdir"], commit=row["code"], folder=row["folder"],
        created=row["created"], options=json.loads(row["options"]), links=json.loads(row["links"]), state=DagState(row["state"]), finished=row["finished"],
    )  # fmt: skip


def _row(row: sqlite3.Row) -> Row:
    return Row(
        position=row["position"], task=row["task"], state=TaskState(row["state"]), attempt=row["attempt"], failures=row["failures"], lost=row["lost"],
        not_before=row["not_before"], cause=row["cause"], note=row["note"], cached_from=row["cached_from"], job=row["job"], submitted=bool(row["submitted"]),
        gpus=tuple(json.loads(row["gpus"])), parts=row["parts"], started=row["started"], seconds=row["seconds"], values=json.loads(row["vals"]),
    )  # fmt: skip
