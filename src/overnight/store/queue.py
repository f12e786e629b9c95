"""The hub's queue: jobs, their attempts and workers. What is granted, ended or cancelled is on the disk when the call returns.

Each call is one transaction, so that several processes may share the store: those of one machine a file, those of several a Postgres. Leases are
moments of the clock that the caller uses, which runs on while the machine sleeps; ``era`` names one run of that clock. What is locked is locked in
one order: attempts, then their jobs, then what needs these. Must not know the rules: who may what, how long a lease is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import merge
from pathlib import Path

from overnight.errors import NotFoundError, UsageError
from overnight.models import JobState, JobStatus
from overnight.queue import coding
from overnight.queue.fate import fate
from overnight.queue.words import Busy, Ended, Grant, Held, HubJob, Machine, Now, Offer, OnLost, Renewal, Standing, Submission, Wish
from overnight.store.database import Database, File, Session, again
from overnight.store.queue_rows import JOB_COLUMNS, QUEUE_MIGRATIONS, WISH_COLUMNS, job_from, likeness, machine_from, placing, wish_from
from overnight.store.streams import Streams

_NEVER = 9e15  # a lease without an end
_FRESH = 5.0  # seconds for which a worker's row is not written again for being seen
Choose = Callable[[Iterable[Wish], Callable[[], Sequence[Standing]]], tuple[Wish, tuple[str, ...]] | None]


class QueueFile(File):
    """A queue's file at ``path``; made when missing."""

    migrations = QUEUE_MIGRATIONS
    shares_flushes = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._db.execute("PRAGMA secure_delete=ON")  # what is forgotten is not left in free pages


class Queue(Streams):
    """The queue that a database keeps."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._seen: dict[str, tuple[float, Machine]] = {}

    def begin(self, era: str, until: float, *, restarted: bool) -> None:
        """Extend every running lease to ``until`` if the hub, or the clock, was started anew since."""
        self._seen.clear()
        known = self._rows("SELECT value FROM meta WHERE name='era'")
        if known and known[0][0] == era and not restarted:
            return
        with self._write() as db:
            anew = "" if known and known[0][0] == era else "lease < 9e14 OR "
            db.execute(f"UPDATE attempt SET lease=? WHERE state='RUNNING' AND ({anew}lease < ?)", (until, until))  # noqa: S608 - of our own words
            if anew:
                db.execute("UPDATE job SET not_before=0 WHERE not_before > 0")
                db.execute("UPDATE worker SET until=0")
            db.execute("INSERT INTO meta VALUES ('era', ?) ON CONFLICT (name) DO UPDATE SET value=excluded.value", (era,))

    def belonging(self, token: str, *, new: bool) -> str | None:
        """Whose the queue is; ``token`` marks it as one's own if it is nobody's and ``new``."""
        if new:
            with self._write() as db:
                db.execute("INSERT INTO meta VALUES ('folder', ?) ON CONFLICT (name) DO NOTHING", (token,))
        rows = self._rows("SELECT value FROM meta WHERE name='folder'")
        return str(rows[0][0]) if rows else None

    # --- for clients ---------------------------------------------------------------------------------------------------

    @again
    def submit(self, asked: Submission, owner: str, name: Callable[[int], str], now: Now, cause: str = "") -> tuple[HubJob, bool]:
        """Queue the job, unless one of this owner has its submission key; the job, and whether it is new. ``cause``: why it has to wait."""
        with self._write() as db:
            key = asked.submission_key or None
            if key and (rows := db.execute("SELECT id FROM job WHERE key=? AND owner=?", (key, owner)).fetchall()):
                return self.job(rows[0][0]), False
            held = sum(self._needed(need) for need in sorted(set(asked.needs)))
            job = next(each for each in map(name, itertools.count()) if not db.execute("SELECT 1 FROM job WHERE id=?", (each,)).fetchone())
            db.execute(
                "INSERT INTO job (id, key, owner, submission, likeness, state, priority, gpu_count, gpu_type, vram_gb, cpus, memory_gb, tags, time_limit,"
                " exp_id, pipeline, held, submitted, placed, cause) VALUES (?,?,?,?,?,'QUEUED',?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    job, key, owner, coding.written(asked), likeness(asked), asked.priority, asked.gpu_count, asked.gpu_type, asked.vram_gb, asked.cpus,
                    asked.memory_gb, json.dumps(asked.tags), asked.time_limit, asked.exp_id, asked.pipeline, held, now.wall, placing(asked), cause,
                ),
            )  # fmt: skip
            db.executemany("INSERT INTO need VALUES (?,?)", [(need, job) for need in dict.fromkeys(asked.needs)])
            self._note(db, job, 0, "submitted", now)
        return self.job(job), True

    def _needed(self, job: str) -> bool:
        """Whether another job has to wait for this one, which stays as it is until the transaction ends."""
        state = self.job(job, "FOR SHARE").state
        if state.over and state is not JobState.SUCCEEDED:
            raise UsageError("E-NEEDS", f"{job}, which is needed, has ended: {state}", fix=f"overnight hub retry {job}")
        return state is not JobState.SUCCEEDED

    @again
    def cancel(self, job: str, reason: str, now: Now) -> HubJob:
        """Take a queued job out, or note that the end of a running one is wanted; one that is over stays as it is."""
        with self._write() as db:
            state = self.job(job, "FOR UPDATE").state
            if state is JobState.RUNNING:
                db.execute("UPDATE job SET cancelled=? WHERE id=? AND cancelled=''", (reason, job))
            elif state is JobState.QUEUED:
                self._over(db, job, JobState.CANCELLED, f"cancelled: {reason}", now)
        return self.job(job)

    @again
    def retry(self, job: str, env: Mapping[str, str], now: Now) -> HubJob:
        """Queue a job again that is over, with these variables; its attempts are counted on."""
        with self._write() as db:
            if (found := self.job(job, "FOR UPDATE")).state.over:
                asked = replace(found.submission, env={**found.submission.env, **env})
                needed = db.execute("SELECT needed FROM need WHERE job=? ORDER BY needed", (job,)).fetchall()
                held = sum(self.job(row[0], "FOR SHARE").state is not JobState.SUCCEEDED for row in needed)
                db.execute(
                    "UPDATE job SET submission=?, state='QUEUED', cancelled='', cause='', failures=0, losses=0, not_before=0, finished=NULL,"
                    " held=? WHERE id=?",
                    (coding.written(asked), held, job),
                )
                self._note(db, job, 0, "retried", now)
        return self.job(job)

    def drain(self, worker: str, on: bool) -> None:
        """Say that a worker gets nothing more, or again something."""
        self.known(worker)
        with self._write() as db:
            db.execute("UPDATE worker SET draining=? WHERE name=?", (on, worker))

    @again
    def doubt(self, worker: str, owner: str, reason: str, now: Now) -> None:
        """Put a worker in quarantine for the jobs of this owner; those that it has now are lost to it. The first reason stays."""
        self.known(worker)
        with self._write() as db:
            db.execute("INSERT INTO doubt VALUES (?,?,?,?) ON CONFLICT (worker, owner) DO NOTHING", (worker, owner, reason, now.wall))
            sql = (
                "SELECT attempt.job, attempt.attempt FROM attempt JOIN job ON job.id=attempt.job WHERE attempt.state='RUNNING' AND attempt.worker=?"
                " AND (job.owner=? OR ?='') ORDER BY attempt.job, attempt.attempt /*+ FOR UPDATE OF attempt */"
            )
            for row in db.execute(sql, (worker, owner, owner)).fetchall():
                self._lose(db, Held(row[0], row[1]), f"worker {worker} is in quarantine", now)

    # --- for workers ---------------------------------------------------------------------------------------------------

    @again
    def grant(self, offer: Offer, now: Now, lease: float, choose: Choose) -> Grant | None:
        """Give the worker the job that ``choose`` picks of those that are queued, under a new attempt; None if there is none."""
        name = offer.machine.name
        self._see(offer.machine, now, lease)
        waiting = "SELECT gpu_count FROM job INDEXED BY job_queue WHERE state='QUEUED' AND held=0 LIMIT 1"
        if offer.slots < 1 or not self._rows(waiting):
            return None
        with self._write() as db:
            row = db.execute("SELECT draining FROM worker WHERE name=?", (name,)).fetchone()
            found = self._free(db, offer, now, choose) if row is None or not row[0] else None
            if found is None:
                return None
            job, gpus = found
            asked = job.submission
            until = _NEVER if asked.on_lost is OnLost.WAIT else now.clock + lease
            db.execute(
                "UPDATE job SET state='RUNNING', attempt=attempt+1, worker=?, gpus=?, started=NULL, finished=NULL, cause='' WHERE id=?",
                (name, json.dumps(gpus), job.id),
            )
            ends = now.clock + asked.time_limit if asked.time_limit else None
            db.execute(
                "INSERT INTO attempt (job, attempt, worker, gpus, state, lease, granted, ends) VALUES (?,?,?,?,'RUNNING',?,?,?)",
                (job.id, job.attempt + 1, name, json.dumps(gpus), until, now.wall, ends),
            )
            self._note(db, job.id, job.attempt + 1, "granted", now, worker=name)
        return Grant(self.job(job.id), lease)

    def _free(self, db: Session, offer: Offer, now: Now, choose: Choose) -> tuple[HubJob, tuple[str, ...]] | None:
        """The job that is picked, with its GPUs, locked; what another hub is giving away at this moment is passed over."""
        taken: set[str] = set()
        while found := choose((each for each in self._wishes(db, offer, now) if each.id not in taken), lambda: self.standings(now)):
            wish, gpus = found
            sql = f"SELECT {JOB_COLUMNS} FROM job WHERE id=? AND state='QUEUED' AND held=0 /*+ FOR UPDATE SKIP LOCKED */"  # noqa: S608 - of our own words
            if rows := self._rows(sql, wish.id):
                return job_from(rows[0]), gpus
            taken.add(wish.id)
        return None

    def _wishes(self, db: Session, offer: Offer, now: Now) -> Iterator[Wish]:
        """The queued jobs in the order of their claim, of as many GPUs as the machine has at most."""
        sql = f"SELECT {WISH_COLUMNS} FROM job INDEXED BY job_queue WHERE state='QUEUED' AND held=0 AND gpu_count=? AND not_before<=? ORDER BY priority DESC, seq"  # noqa: S608 - of our own words
        doubted, every = self.doubted()
        each = [db.stream(sql, (count, now.clock)) for count in self._counts(db, len(offer.machine.cards))]
        for row in merge(*each, key=lambda row: (-row["priority"], row["seq"])):
            yield wish_from(row, doubted.get(row["owner"], every))

    def _counts(self, db: Session, most: int) -> Iterator[int]:
        """The numbers of GPUs that queued jobs ask for."""
        at = -1
        while row := db.execute(
            "SELECT gpu_count FROM job INDEXED BY job_queue WHERE state='QUEUED' AND held=0 AND gpu_count>? AND gpu_count<=? ORDER BY gpu_count LIMIT 1",
            (at, most),
        ).fetchone():
            at = row[0]
            yield at

    def _see(self, machine: Machine, now: Now, lease: float) -> None:
        """Write that the worker is there, unless that is known."""
        seen = self._seen.get(machine.name)
        if seen and 0 <= now.clock - seen[0] < min(_FRESH, lease / 4) and seen[1] == machine:
            return
        with self._write(synced=False) as db:
            db.execute(
                "INSERT INTO worker (name, machine, seen, until) VALUES (?,?,?,?)"
                " ON CONFLICT (name) DO UPDATE SET machine=excluded.machine, seen=excluded.seen, until=excluded.until",
                (machine.name, coding.written(machine), now.wall, now.clock + lease),
            )
        self._seen[machine.name] = (now.clock, machine)

    @again
    def renew(self, worker: str, held: Sequence[Held], now: Now, lease: float, *, fresh: bool, leaving: bool) -> Renewal:
        """Extend the leases of what the worker holds. ``fresh``: it was started anew, and all that it does not name is lost.

        ``leaving``: it will not be heard of again.
        """
        if leaving:
            self._seen.pop(worker, None)
        with self._write(synced=False) as db:
            if fresh:
                db.execute("UPDATE worker SET draining=0 WHERE name=?", (worker,))
            row = db.execute("SELECT draining FROM worker WHERE name=?", (worker,)).fetchone()
            db.execute("UPDATE worker SET seen=?, until=? WHERE name=?", (now.wall, 0 if leaving else now.clock + lease, worker))
            mine = {
                Held(row["job"], row["attempt"]): row
                for row in db.execute(
                    "SELECT attempt.*, job.cancelled FROM attempt INDEXED BY attempt_running JOIN job ON job.id=attempt.job"
                    " WHERE attempt.state='RUNNING' AND attempt.worker=? ORDER BY attempt.job, attempt.attempt /*+ FOR UPDATE OF attempt */",
                    (worker,),
                )
            }
            kept = [each for each in held if each in mine and mine[each]["lease"] >= now.clock]
            db.executemany(
                "UPDATE attempt SET lease=? WHERE job=? AND attempt=?",
                [(max(mine[each]["lease"], now.clock + lease), each.job, each.attempt) for each in kept],
            )
            if fresh:
                for each in mine.keys() - set(held):
                    self._lose(db, each, f"worker {worker} was started anew without it", now)
            return Renewal(
                lease, tuple(each for each in held if each not in kept),
                tuple((each, mine[each]["cancelled"]) for each in kept if mine[each]["cancelled"]),
                tuple((each, mine[each]["log_size"], mine[each]["metrics_size"]) for each in kept) if fresh else (), bool(row and row[0]),
            )  # fmt: skip

    @again
    def started(self, worker: str, held: Held, now: Now) -> bool:
        """Note that the command of the attempt runs; false if the attempt is not the worker's any more."""
        with self._write(synced=False) as db:
            if not self._is_current(db, worker, held, now):
                return False
            self._begun(db, held, now.wall)
        return True

    @again
    def ended(self, worker: str, held: Held, end: Ended, now: Now) -> bool:
        """Write the end of the attempt and what becomes of its job; told again, it changes nothing. False if it was lost before."""
        with self._write() as db:
            row = db.execute("SELECT * FROM attempt WHERE job=? AND attempt=? /*+ FOR UPDATE */", (held.job, held.attempt)).fetchone()
            if row is None or row["worker"] != worker or row["state"] == "LOST":
                return False
            if row["state"] != "RUNNING":
                return True
            if not self._is_current(db, worker, held, now):
                return False
            self._end(db, held, end, now)
        return True

    @again
    def expire(self, now: Now) -> list[Held]:
        """Give up the attempts whose lease is over."""
        late = "SELECT job, attempt, worker FROM attempt INDEXED BY attempt_lease WHERE state='RUNNING' AND lease<?"
        if not self._rows(late, now.clock):
            return []
        with self._write() as db:
            found = [(Held(row[0], row[1]), row[2]) for row in db.execute(f"{late} /*+ FOR UPDATE SKIP LOCKED */", (now.clock,)).fetchall()]
            for held, worker in found:
                self._lose(db, held, f"worker {worker} was not heard of for a whole lease", now)
        return [held for held, _ in found]

    def _is_current(self, db: Session, worker: str, held: Held, now: Now) -> bool:
        """Whether this attempt is the job's, runs, and is the worker's; one whose lease is over is given up."""
        row = db.execute(
            "SELECT lease FROM attempt JOIN job ON job.id=attempt.job WHERE attempt.job=? AND attempt.attempt=? AND attempt.attempt=job.attempt"
            " AND attempt.state='RUNNING' AND attempt.worker=? /*+ FOR UPDATE OF attempt */",
            (held.job, held.attempt, worker),
        ).fetchone()
        if row is not None and row[0] < now.clock:
            self._lose(db, held, f"worker {worker} was not heard of for a whole lease", now)
            return False
        return row is not None

    def _lose(self, db: Session, held: Held, cause: str, now: Now) -> None:
        self._end(db, held, Ended(JobStatus(JobState.LOST, cause)), now)

    def _end(self, db: Session, held: Held, end: Ended, now: Now) -> None:
        status = end.status
        if status.started:
            self._begun(db, held, now.wall - status.seconds)
        db.execute(
            "UPDATE attempt SET state=?, cause=?, finished=?, seconds=?, exit_code=?, status=? WHERE job=? AND attempt=?",
            (status.state, status.cause, now.wall, status.seconds, status.exit_code, coding.written(status), held.job, held.attempt),
        )
        job = self.job(held.job, "FOR UPDATE")
        then = fate(status.state, (job.submission.retries, job.failures, job.losses), job.cancelled)
        db.execute(
            "UPDATE job SET failures=?, losses=?, seconds=?, exit_code=?, outputs=?, metrics=?, not_before=? WHERE id=?",
            (
                then.failures, then.losses, status.seconds, status.exit_code, coding.written(end.outputs),
                coding.written({name: each.last for name, each in status.metrics.items()}), now.clock + then.delay if then.delay else 0, held.job,
            ),
        )  # fmt: skip
        self._note(db, held.job, held.attempt, "ended", now, state=status.state, cause=status.cause)
        if then.state is JobState.QUEUED:
            db.execute(
                "UPDATE job SET state='QUEUED', cause=?, gpus='[]' WHERE id=?", (f"again, after: {status.cause or status.state}", held.job)
            )
        else:
            self._over(db, held.job, then.state, status.cause, now)

    def _over(self, db: Session, job: str, state: JobState, cause: str, now: Now) -> None:
        """Write the last state of a job, and what that means for those that need it."""
        db.execute("UPDATE job SET state=?, cause=?, finished=? WHERE id=?", (state, cause, now.wall, job))
        if (asked := self.job(job).submission).env:  # values may be secrets, and are of no use any more
            db.execute("UPDATE job SET submission=? WHERE id=?", (coding.written(replace(asked, env=dict.fromkeys(asked.env, ""))), job))
        waiting = [
            row[0]
            for row in db.execute(
                "SELECT need.job FROM need JOIN job ON job.id=need.job WHERE needed=? AND state='QUEUED' ORDER BY job.seq /*+ FOR UPDATE OF job */",
                (job,),
            )
        ]
        if state is JobState.SUCCEEDED:
            db.executemany("UPDATE job SET held=held-1 WHERE id=? AND held>0", [(each,) for each in waiting])
            return
        for each in waiting:
            self._over(db, each, JobState.CANCELLED, f"{job}, which it needs, has ended: {state}", now)

    # --- reading ---------------------------------------------------------------------------------------------------------

    def job(self, job: str, lock: str = "") -> HubJob:
        """One job, which nobody changes (``FOR SHARE``) or looks at to change it (``FOR UPDATE``) until the transaction ends; raises ``NotFoundError``."""
        rows = self._rows(f"SELECT {JOB_COLUMNS} FROM job WHERE id=? /*+ {lock} */", job)  # noqa: S608 - of our own words
        if not rows:
            raise NotFoundError("E-NO-JOB", f"there is no job {job[:80]}", fix="overnight hub list")
        return job_from(rows[0])

    def standings(self, now: Now) -> list[Standing]:
        """Every live worker and what runs on it."""
        busy: dict[str, list[Busy]] = {}
        for row in self._rows(
            "SELECT attempt.worker, attempt.gpus, attempt.ends, cpus, memory_gb FROM attempt INDEXED BY attempt_running"
            " JOIN job ON job.id=attempt.job WHERE attempt.state='RUNNING'"
        ):
            until = row["ends"] if row["ends"] is not None else float("inf")
            busy.setdefault(row["worker"], []).append(Busy(tuple(json.loads(row["gpus"])), row["cpus"], row["memory_gb"], until))
        rows = self._rows("SELECT machine FROM worker WHERE until>=? AND draining=0 ORDER BY name", now.clock)
        machines = [machine_from(row[0]) for row in rows]
        return [Standing(machine, tuple(busy.get(machine.name, ()))) for machine in machines]

    def queued(self, limit: int) -> list[Wish]:
        """Queued jobs that wait for no other, in the order of their claim."""
        sql = f"SELECT {WISH_COLUMNS} FROM job WHERE state='QUEUED' AND held=0 ORDER BY priority DESC, seq LIMIT ?"  # noqa: S608 - of our own words
        doubted, every = self.doubted()
        return [wish_from(row, doubted.get(row["owner"], every)) for row in self._rows(sql, limit)]

    def usual_seconds(self, jobs: Sequence[str]) -> dict[str, float]:
        """How long each job will take, by the mean of the last eight that succeeded with the same command."""
        found = {}
        for job in jobs:
            row = self._rows(
                "SELECT avg(seconds) FROM (SELECT past.seconds FROM job AS past INDEXED BY job_like WHERE past.state='SUCCEEDED'"
                " AND past.likeness=(SELECT likeness FROM job WHERE id=?) ORDER BY past.seq DESC LIMIT 8) AS lately",
                job,
            )[0]
            if row[0] is not None:
                found[job] = float(row[0])
        return found
