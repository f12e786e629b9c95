"""The schema as numbered migrations. One that has been released is never edited; a change is a new one at the end."""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE study (
        id INTEGER PRIMARY KEY,
        tag TEXT NOT NULL UNIQUE,
        branch TEXT NOT NULL,
        base_commit TEXT NOT NULL,
        metric TEXT NOT NULL,
        direction TEXT NOT NULL,
        settings TEXT NOT NULL,            -- JSON
        created REAL NOT NULL,             -- seconds since the epoch, as all times
        state TEXT NOT NULL DEFAULT 'stopped',
        reason TEXT NOT NULL DEFAULT '',   -- why it ended, or what it waits for
        wanted TEXT NOT NULL DEFAULT 'run',-- run, pause, stop, stop-now: what a person asked for
        best INTEGER,                      -- the experiment that the branch points to
        bar REAL,                          -- the value that a candidate has to beat
        ran_seconds REAL NOT NULL DEFAULT 0,
        knowledge TEXT NOT NULL DEFAULT '' -- what was learned of noise and of edits; JSON
    );
    CREATE TABLE experiment (
        study INTEGER NOT NULL REFERENCES study(id),
        number INTEGER NOT NULL,
        parent INTEGER NOT NULL,
        operator TEXT NOT NULL,
        stage TEXT NOT NULL,
        proposer TEXT NOT NULL,
        description TEXT NOT NULL,
        started REAL NOT NULL,
        digest TEXT NOT NULL,              -- over the editable files
        commit_id TEXT NOT NULL DEFAULT '',
        tree TEXT NOT NULL DEFAULT '',
        repairs INTEGER NOT NULL DEFAULT 0,
        decision TEXT,
        confirmed INTEGER NOT NULL DEFAULT 1, -- 0: kept, but not as sure as the profile asks
        p REAL,                            -- probability that it is better than what it was compared with
        gain REAL,                         -- expected, and the 90 % interval; more is better
        gain_low REAL,
        gain_high REAL,
        cause TEXT NOT NULL DEFAULT '',
        value REAL,
        trust TEXT NOT NULL,
        confined INTEGER NOT NULL DEFAULT 1, -- 0: run without a sandbox
        seconds REAL NOT NULL DEFAULT 0,
        think_seconds REAL NOT NULL DEFAULT 0,
        memory_gb REAL NOT NULL DEFAULT 0,
        lines INTEGER NOT NULL DEFAULT 0,
        tokens INTEGER NOT NULL DEFAULT 0,
        cost REAL NOT NULL DEFAULT 0,
        estimated INTEGER NOT NULL DEFAULT 0, -- 1: the cost is by the list prices of tokens
        model TEXT NOT NULL DEFAULT '',
        session TEXT NOT NULL DEFAULT '',
        finished REAL,
        crash_kind TEXT NOT NULL DEFAULT '',
        metrics TEXT NOT NULL DEFAULT '{}',
        state TEXT NOT NULL DEFAULT '{}',
        PRIMARY KEY (study, number)
    ) WITHOUT ROWID;
    CREATE INDEX experiment_digest ON experiment (study, digest);
    CREATE INDEX experiment_open ON experiment (study, number) WHERE stage != 'applied';
    CREATE INDEX experiment_kept ON experiment (study, number) WHERE decision = 'keep';
    CREATE INDEX experiment_counts ON experiment (study, decision, crash_kind, seconds, think_seconds, tokens, cost);
    CREATE TABLE file (
        study INTEGER NOT NULL,
        number INTEGER NOT NULL,
        path TEXT NOT NULL,
        content BLOB NOT NULL,             -- zlib, with the baseline's file of that path as dictionary
        PRIMARY KEY (study, number, path)
    ) WITHOUT ROWID;
    CREATE TABLE job (
        study INTEGER NOT NULL,
        number INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        seed INTEGER NOT NULL,
        state TEXT NOT NULL,
        cause TEXT NOT NULL DEFAULT '',
        value REAL,                        -- the number that counts
        reported REAL,                     -- what the run said of itself, where an evaluator's number counts
        crash_kind TEXT NOT NULL DEFAULT '',
        seconds REAL NOT NULL DEFAULT 0,
        cpu_seconds REAL NOT NULL DEFAULT 0,
        memory_gb REAL NOT NULL DEFAULT 0,
        learned INTEGER NOT NULL DEFAULT 0,
        metrics TEXT NOT NULL DEFAULT '{}',-- the last value of everything it printed
        submitted REAL NOT NULL,
        finished REAL,
        PRIMARY KEY (study, number, attempt)
    ) WITHOUT ROWID;
    CREATE INDEX job_open ON job (study, number) WHERE state = 'QUEUED';
    CREATE TABLE metric (
        study INTEGER NOT NULL,
        number INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        name TEXT NOT NULL,
        step REAL NOT NULL,
        value REAL,
        time REAL NOT NULL
    );
    CREATE INDEX metric_series ON metric (study, number, name);
    CREATE TABLE event (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        time REAL NOT NULL,
        study INTEGER NOT NULL,
        number INTEGER NOT NULL,
        type TEXT NOT NULL,
        data TEXT NOT NULL
    );
    """,
)
