"""What jobs print and measure, as bytes in the hub's store: taken in any order, once, without gaps; and the views of jobs and workers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace

from overnight.errors import NotFoundError
from overnight.models import JobState, JobStatus
from overnight.queue import coding
from overnight.queue.words import STREAM_LIMIT, Chunk, Doubt, Held, HubJob, Machine, Now, Part, Query, Stream, WorkerState
from overnight.store.database import Database, Session, again
from overnight.store.queue_rows import JOB_COLUMNS, job_from, machine_from

_OPEN = frozenset({JobState.QUEUED, JobState.RUNNING})
_PIECE = 2**19  # bytes of a stream that are read at once
_FEW = 20  # workers
_MARK = (
    "SELECT chosen.id, chosen.state, chosen.cause, chosen.cancelled, chosen.attempt, attempt.started, log_size, metrics_size, attempt.state"
    " FROM ({}) AS chosen LEFT JOIN attempt ON attempt.job=chosen.id AND attempt.attempt=chosen.attempt ORDER BY chosen.seq"
)


class Streams:
    """The part of the hub's store that grows with the output of jobs."""

    def __init__(self, database: Database) -> None:
        self._write, self._rows, self.close = database.write, database.rows, database.close

    @again
    def take(self, worker: str, held: Held, chunk: Chunk, now: Now) -> bool:
        """Keep the bytes of the chunk that are not there yet; false if the attempt is lost or another worker's.

        A chunk that comes before those in front of it is kept, and seen once these are there. What prints has started.
        """
        size = f"{Stream(chunk.stream).value}_size"
        with self._write(synced=False) as db:
            row = db.execute(
                f"SELECT worker, state, lease, started, {size} AS size FROM attempt WHERE job=? AND attempt=? /*+ FOR UPDATE */",  # noqa: S608 - of our own words
                (held.job, held.attempt),
            ).fetchone()
            if row is None or row["worker"] != worker or row["state"] == "LOST" or (row["state"] == "RUNNING" and row["lease"] < now.clock):
                return False
            start, data = max(chunk.start, row["size"]), chunk.data[max(0, row["size"] - chunk.start) :]
            if not data or start + len(data) > STREAM_LIMIT:
                return True
            if row["started"] is None:
                self._begun(db, held, now.wall)
            key = (held.job, held.attempt, chunk.stream)
            db.execute(
                "INSERT INTO chunk VALUES (?,?,?,?,?) ON CONFLICT (job, attempt, stream, start) DO UPDATE SET data=excluded.data"
                " WHERE length(excluded.data) > length(chunk.data)",
                (*key, start, data),
            )
            if start == row["size"]:
                end = self._joined(db, key, start)
                db.execute(f"UPDATE attempt SET {size}=? WHERE job=? AND attempt=?", (end, held.job, held.attempt))  # noqa: S608 - of our own words
        return True

    def _begun(self, db: Session, held: Held, at: float) -> None:
        """Note when the attempt's command started, unless that is known."""
        db.execute("UPDATE attempt SET started=coalesce(started, ?) WHERE job=? AND attempt=?", (at, held.job, held.attempt))
        db.execute("UPDATE job SET started=coalesce(started, ?) WHERE id=? AND attempt=?", (at, held.job, held.attempt))

    def _joined(self, db: Session, key: tuple[str, int, str], end: int) -> int:
        """How far the stream reaches without a gap."""
        for start, size in db.execute(
            "SELECT start, length(data) FROM chunk WHERE job=? AND attempt=? AND stream=? AND start>=? ORDER BY start", (*key, end)
        ):
            if start > end:
                break
            end = max(end, start + size)
        return end

    def part(self, job: str, stream: Stream, attempt: int, since: int) -> Part:
        """What the stream of the attempt (0 = the latest) holds from ``since`` on, half a megabyte at most. Raises ``NotFoundError``."""
        found = self._rows(
            "SELECT job.state AS job_state, attempt.* FROM job LEFT JOIN attempt ON attempt.job=job.id AND attempt.attempt="
            "CASE ? WHEN 0 THEN job.attempt ELSE ? END WHERE job.id=?",
            attempt, attempt, job,
        )  # fmt: skip
        if not found or found[0]["attempt"] is None:
            return Part(attempt, 0, b"", JobState(found[0]["job_state"]) if found else JobState.LOST, last=False)
        row = found[0]
        size = row[f"{stream.value}_size"]
        since = max(0, min(since, size))
        data = self._read((job, row["attempt"], stream), since, min(size, since + _PIECE))
        over = row["state"] != "RUNNING" and since + len(data) >= size
        status = coding.read(JobStatus, row["status"], lenient=True) if over and not data and row["status"] else None
        return Part(row["attempt"], since, data, JobState(row["job_state"]), over, status)

    def _read(self, key: tuple[str, int, str], since: int, end: int) -> bytes:
        if since >= end:
            return b""
        first = self._rows("SELECT max(start) FROM chunk WHERE job=? AND attempt=? AND stream=? AND start<=?", *key, since)[0][0]
        parts, at = [], since
        for row in self._rows(
            "SELECT start, data FROM chunk WHERE job=? AND attempt=? AND stream=? AND start>=? AND start<? ORDER BY start",
            *key,
            first or 0,
            end,
        ):
            piece = row["data"][at - row["start"] : end - row["start"]]
            parts.append(piece)
            at += len(piece)
        return b"".join(parts)

    def jobs(self, query: Query) -> list[HubJob]:
        """The jobs that the query asks for, newest first."""
        where, values = _terms(query)
        rows = self._rows(f"SELECT {JOB_COLUMNS} FROM job{where} ORDER BY seq DESC LIMIT ?", *values, max(0, query.last))  # noqa: S608 - of our own words
        return [job_from(row) for row in rows]

    def mark(self, query: Query) -> str:
        """A short text that is another one once any of these jobs, or what it has printed and measured, is not as it was."""
        where, values = _terms(query)
        chosen = f"SELECT seq, id, state, cause, cancelled, attempt FROM job{where} ORDER BY seq DESC LIMIT ?"  # noqa: S608 - of our own words
        rows = [tuple(row[at] for at in range(9)) for row in self._rows(_MARK.format(chosen), *values, max(0, query.last))]
        return hashlib.blake2b(repr(rows).encode(), digest_size=16).hexdigest()

    def counts(self) -> dict[JobState, int]:
        """How many jobs are queued, and how many run."""
        sql = "SELECT state, count(*) FROM job INDEXED BY job_open WHERE state IN ('QUEUED', 'RUNNING') GROUP BY state"
        return {JobState(row[0]): row[1] for row in self._rows(sql)}

    def trust(self, worker: str, owner: str) -> bool:
        """Take a worker out of this owner's quarantine, the hub's owner out of everybody's; whether it was in it."""
        self.known(worker)
        with self._write() as db:
            found = db.execute("SELECT 1 FROM doubt WHERE worker=? AND (owner=? OR ?='')", (worker, owner, owner)).fetchone()
            db.execute("DELETE FROM doubt WHERE worker=? AND (owner=? OR ?='')", (worker, owner, owner))
        return found is not None

    def doubted(self) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
        """The workers in quarantine by owner, for those who have some of their own; and those in everybody's."""
        rows = [(row[0], row[1]) for row in self._rows("SELECT owner, worker FROM doubt")]
        every = tuple(worker for owner, worker in rows if not owner)
        return {owner: (*every, *(worker for other, worker in rows if other == owner)) for owner, _ in rows if owner}, every

    def known(self, worker: str) -> None:
        """Raise ``NotFoundError`` (E-NO-WORKER) for a name that no worker ever had."""
        if not self._rows("SELECT 1 FROM worker WHERE name=?", worker):
            known = ", ".join(row[0] for row in self._rows("SELECT name FROM worker ORDER BY seen DESC LIMIT 8"))
            raise NotFoundError(
                "E-NO-WORKER", f"there is no worker {worker[:80]}", why=f"known: {known or 'none'}", fix="overnight hub workers"
            )

    def workers(self, clock: float) -> list[WorkerState]:
        """Every worker that was ever seen and is not forgotten."""
        jobs: dict[str, list[str]] = {}
        for row in self._rows("SELECT worker, job FROM attempt INDEXED BY attempt_running WHERE state='RUNNING' ORDER BY granted, job"):
            jobs.setdefault(row[0], []).append(row[1])
        doubts: dict[str, list[Doubt]] = {}
        for row in self._rows("SELECT worker, owner, reason, since FROM doubt ORDER BY worker, owner"):
            doubts.setdefault(row[0], []).append(Doubt(row[1], row[2], row[3]))
        return [
            WorkerState(
                machine_from(row["machine"]), row["seen"], row["until"] >= clock, bool(row["draining"]),
                tuple(jobs.get(row["name"], ())), tuple(doubts.get(row["name"], ())),
            )
            for row in self._rows("SELECT * FROM worker ORDER BY name")
        ]  # fmt: skip

    def live(self, clock: float) -> Iterator[tuple[Machine, float]]:
        """The workers that live and do not drain, and when each was seen last (wall time); the first few before all others are read."""
        sql = "SELECT machine, seen FROM worker WHERE until>=? AND draining=0 AND name>? ORDER BY name LIMIT ?"
        after = ""
        for many in (_FEW, 10**9):
            found = [(machine_from(row[0]), float(row[1])) for row in self._rows(sql, clock, after, many)]
            yield from found
            if len(found) < many:
                return
            after = found[-1][0].name

    def _note(self, db: Session, job: str, attempt: int, kind: str, now: Now, **data: object) -> None:
        db.execute(
            "INSERT INTO event (time, job, attempt, type, data) VALUES (?,?,?,?,?)",
            (now.wall, job, attempt, kind, json.dumps(data)),
        )


def _terms(query: Query) -> tuple[str, list[object]]:
    """What a query asks for, as the words of a statement and their values."""
    if len(query.states) < 2 or not _OPEN.issuperset(query.states):
        return _term(query)
    # Each state by its index and no further than asked for, whether a million jobs wait or a million are over.
    parts, values = [], list[object]()
    for state in dict.fromkeys(query.states):
        where, more = _term(replace(query, states=(state,)))
        parts.append(f"SELECT seq FROM (SELECT seq FROM job{where} ORDER BY seq DESC LIMIT ?) AS {state.lower()}_jobs")  # noqa: S608 - of our own words
        values += [*more, max(0, query.last)]
    return f" WHERE seq IN ({' UNION ALL '.join(parts)})", values


def _term(query: Query) -> tuple[str, list[object]]:
    terms: list[str] = []
    values: list[object] = []
    if query.id:
        terms.append("seq IN (SELECT seq FROM job WHERE id>=? AND id<?)")  # through the index of ids, however many jobs there are
        values += [query.id, f"{query.id}\U0010ffff"]
    if query.states and _OPEN.issuperset(query.states):
        terms.append("state IN ('QUEUED', 'RUNNING')")  # as the index says it
    if query.states:
        terms.append(f"state IN ({','.join('?' * len(query.states))})")
        values += query.states
    for name in ("worker", "owner", "exp_id", "pipeline"):
        if getattr(query, name):
            # What else the indexes want to know; not theirs to choose where there is an id, for an owner may have a million jobs.
            terms.append(f"CAST({name} AS TEXT)=?" if query.id else f"{name}=? AND {name}!=''")
            values.append(getattr(query, name))
    for sign, bound in (("<", query.before), (">", query.after)):
        if bound:
            terms.append(f"seq {sign} (SELECT seq FROM job WHERE id=?{' AND owner=?' if query.owner else ''})")  # noqa: S608 - of our own words
            values += [bound, query.owner] if query.owner else [bound]
    return f" WHERE {' AND '.join(terms)}" if terms else "", values
