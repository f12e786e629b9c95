"""The schema of the hub's queue as numbered migrations, and its rows as records."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import replace

from overnight.models import JobState
from overnight.queue import coding
from overnight.queue.words import HubJob, Machine, Output, Submission, Wish, wish_of
from overnight.store.database import Row

QUEUE_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE job (
        seq INTEGER PRIMARY KEY,           -- age
        id TEXT NOT NULL UNIQUE,
        key TEXT,                          -- submission key: the same again is the same job
        owner TEXT NOT NULL,
        submission TEXT NOT NULL,          -- JSON; what follows repeats parts of it
        likeness TEXT NOT NULL,            -- over command and folder: jobs that take about as long
        priority INTEGER NOT NULL,
        gpu_count INTEGER NOT NULL,
        gpu_type TEXT NOT NULL,
        vram_gb REAL NOT NULL,
        cpus INTEGER NOT NULL,
        memory_gb REAL NOT NULL,
        tags TEXT NOT NULL,                -- JSON
        time_limit REAL NOT NULL,
        exp_id TEXT NOT NULL,
        pipeline TEXT NOT NULL,
        state TEXT NOT NULL,               -- models.JobState
        held INTEGER NOT NULL DEFAULT 0,   -- jobs that it needs and that have not succeeded yet
        not_before REAL NOT NULL DEFAULT 0,-- clock of leases
        attempt INTEGER NOT NULL DEFAULT 0,-- the latest one: the fence
        worker TEXT NOT NULL DEFAULT '',   -- of that attempt, as what follows
        gpus TEXT NOT NULL DEFAULT '[]',
        cancelled TEXT NOT NULL DEFAULT '',-- why somebody wants its end
        cause TEXT NOT NULL DEFAULT '',
        submitted REAL NOT NULL,           -- seconds since the epoch, as all times that are not of leases
        started REAL,
        finished REAL,
        seconds REAL NOT NULL DEFAULT 0,
        exit_code INTEGER,
        failures INTEGER NOT NULL DEFAULT 0,
        losses INTEGER NOT NULL DEFAULT 0,
        outputs TEXT NOT NULL DEFAULT '[]',
        metrics TEXT NOT NULL DEFAULT '{}',
        UNIQUE (owner, key)
    );
    CREATE INDEX job_queue ON job (gpu_count, priority DESC, seq) WHERE state='QUEUED' AND held=0;
    CREATE INDEX job_open ON job (state, seq) WHERE state IN ('QUEUED', 'RUNNING');
    CREATE INDEX job_like ON job (likeness, seq) WHERE state='SUCCEEDED';
    CREATE INDEX job_experiment ON job (exp_id) WHERE exp_id != '';
    CREATE INDEX job_pipeline ON job (pipeline) WHERE pipeline != '';
    CREATE TABLE need (needed TEXT NOT NULL, job TEXT NOT NULL, PRIMARY KEY (needed, job)) WITHOUT ROWID;
    CREATE INDEX need_job ON need (job);
    CREATE TABLE attempt (
        job TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        worker TEXT NOT NULL,
        gpus TEXT NOT NULL,
        state TEXT NOT NULL,               -- RUNNING, or how it ended; LOST: nothing more is taken from it
        lease REAL NOT NULL,               -- until when, by the clock of leases
        ends REAL,                         -- by its time limit, by the clock of leases
        granted REAL NOT NULL,
        started REAL,
        finished REAL,
        seconds REAL NOT NULL DEFAULT 0,
        exit_code INTEGER,
        cause TEXT NOT NULL DEFAULT '',
        status TEXT NOT NULL DEFAULT '',   -- JSON
        log_size INTEGER NOT NULL DEFAULT 0,     -- bytes that are there without a gap
        metrics_size INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (job, attempt)
    );
    CREATE INDEX attempt_lease ON attempt (lease) WHERE state='RUNNING';
    CREATE INDEX attempt_running ON attempt (worker) WHERE state='RUNNING';
    CREATE TABLE chunk (
        job TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        stream TEXT NOT NULL,              -- log, metrics
        start INTEGER NOT NULL,            -- in bytes
        data BLOB NOT NULL,
        UNIQUE (job, attempt, stream, start)
    );
    CREATE TABLE worker (
        name TEXT PRIMARY KEY,
        machine TEXT NOT NULL,             -- JSON
        seen REAL NOT NULL,
        until REAL NOT NULL,               -- alive, by the clock of leases
        draining INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE event (
        seq INTEGER PRIMARY KEY,
        time REAL NOT NULL,
        job TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        type TEXT NOT NULL,
        data TEXT NOT NULL                 -- JSON
    );
    """,
    # Of jobs that are over only the names of their variables are kept.
    """
    UPDATE job SET submission = json_set(submission, '$.env', (SELECT json_group_object(key, '') FROM json_each(submission, '$.env')))
        WHERE state NOT IN ('QUEUED', 'RUNNING') AND json_type(submission, '$.env') = 'object';
    """,
    """
    ALTER TABLE job ADD COLUMN placed TEXT NOT NULL DEFAULT '';   -- JSON: named workers, those ruled out, inputs; empty = none of them
    CREATE TABLE doubt (                   -- workers in quarantine
        worker TEXT NOT NULL,
        owner TEXT NOT NULL,               -- whose jobs do not go there; '' = the hub's owner, and then nobody's
        reason TEXT NOT NULL,
        since REAL NOT NULL,
        PRIMARY KEY (worker, owner)
    ) WITHOUT ROWID;
    """,
    # A client's own jobs, latest first, among those of many.
    """
    CREATE INDEX job_owned ON job (owner, seq) WHERE owner != '';
    CREATE INDEX job_owned_open ON job (owner, state, seq) WHERE owner != '' AND state IN ('QUEUED', 'RUNNING');
    """,
)

JOB_COLUMNS = "id, submission, state, attempt, worker, gpus, cause, cancelled, submitted, started, finished, seconds, exit_code, failures, losses, owner, outputs, metrics"


def job_from(row: Row) -> HubJob:
    """A job of a row of ``JOB_COLUMNS``."""
    return HubJob(
        row["id"], coding.read(Submission, row["submission"], lenient=True), JobState(row["state"]), row["attempt"], row["worker"],
        tuple(json.loads(row["gpus"])), row["cause"], row["cancelled"], row["submitted"], row["started"], row["finished"], row["seconds"],
        row["exit_code"], row["failures"], row["losses"], row["owner"],
        tuple(coding.record(Output, each, lenient=True) for each in json.loads(row["outputs"])),
        {name: float(value) for name, value in json.loads(row["metrics"]).items()},
    )  # fmt: skip


WISH_COLUMNS = "seq, id, priority, gpu_count, gpu_type, vram_gb, cpus, memory_gb, tags, time_limit, owner, placed"


def placing(asked: Submission) -> str:
    """Where the job may run, as JSON; empty for nearly all jobs, so that a claim reads no more of them than it must."""
    wish = wish_of(asked)
    named = {"workers": wish.workers, "not_workers": wish.not_workers, "inputs": wish.inputs}
    return json.dumps(named) if any(named.values()) else ""


def wish_from(row: Row, doubted: tuple[str, ...] = ()) -> Wish:
    """What of a queued job decides where it can run; ``doubted`` are workers that its owner has in quarantine."""
    named = {name: tuple(found) for name, found in json.loads(row["placed"]).items()} if row["placed"] else {}
    wish = Wish(
        row["seq"], row["id"], row["priority"], row["gpu_count"], row["gpu_type"], row["vram_gb"], row["cpus"], row["memory_gb"],
        tuple(json.loads(row["tags"])), row["time_limit"], row["owner"], **named,
    )  # fmt: skip
    return replace(wish, not_workers=(*wish.not_workers, *doubted)) if doubted else wish


def likeness(asked: Submission) -> str:
    """The same for jobs whose commands are the same."""
    return hashlib.sha256("\0".join((asked.folder, *asked.command)).encode("utf-8", "replace")).hexdigest()[:16]


@functools.lru_cache(16_384)
def machine_from(text: str) -> Machine:
    """What a worker has told of itself, which hardly ever changes, and is looked at with every submit."""
    return coding.read(Machine, text, lenient=True)
