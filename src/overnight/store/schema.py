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
        rival INTEGER NOT NULL DEFAULT 0,  -- the best at the decision: what it was compared with; 0 = nothing
        near INTEGER NOT NULL DEFAULT 0,   -- 1: a discard that was not sure enough, and too good to be forgotten
        retests INTEGER NOT NULL DEFAULT 0,-- runs made after the decision, to look again
        reverted INTEGER NOT NULL DEFAULT 0, -- the experiment that took this keep back
        spared TEXT NOT NULL DEFAULT '',   -- why it would have been ended early, had it not been let go on to count wrong kills
        p REAL,                            -- probability that it is better than what it was compared with
        gain REAL,                         -- expected, and the 90 % interval; more is better
        gain_low REAL,
        gain_high REAL,
        cause TEXT NOT NULL DEFAULT '',
        value REAL,                        -- mean over its runs
        decided_value REAL,                -- the same at the decision, where later runs have changed it: its commit says this one
        believed REAL,                     -- what its true level is believed to be, and how surely
        believed_sd REAL,
        hidden REAL,                       -- on the hidden hold-out: for the report alone
        hidden_cause TEXT NOT NULL DEFAULT '',
        trust TEXT NOT NULL,
        confined INTEGER NOT NULL DEFAULT 1, -- models.Confined; 0: run without a sandbox
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
    CREATE INDEX experiment_spared ON experiment (study, decision) WHERE spared != '';
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
        worker TEXT NOT NULL DEFAULT '',   -- class of machine: values are compared freely within one
        throughput REAL NOT NULL DEFAULT 0,-- what it said of its own speed; 0 = nothing
        looks_again INTEGER NOT NULL DEFAULT 0, -- 1: made after the decision (audit, retest), not to select
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
    CREATE INDEX job_again ON job (study, number) WHERE looks_again;
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
    """
    CREATE TABLE note (
        id INTEGER PRIMARY KEY,
        study INTEGER NOT NULL REFERENCES study(id),
        experiment INTEGER NOT NULL DEFAULT 0, -- 0 = of none in particular
        kind TEXT NOT NULL,                -- notes.NoteKind
        source TEXT NOT NULL,              -- person, experiment, agent
        text TEXT NOT NULL,
        change TEXT NOT NULL DEFAULT '',   -- which constants its experiment moved, which way
        vals TEXT NOT NULL DEFAULT '',     -- and to which values
        created REAL NOT NULL,
        retracted REAL                     -- when it was taken back
    );
    CREATE UNIQUE INDEX note_lesson ON note (study, experiment) WHERE source = 'experiment' AND kind != 'retest';
    CREATE UNIQUE INDEX note_retest ON note (study, experiment) WHERE kind = 'retest';
    CREATE INDEX note_source ON note (study, source, id);
    CREATE INDEX note_change ON note (study, change, kind) WHERE change != '';
    CREATE INDEX note_vals ON note (study, vals, kind) WHERE vals != '';
    CREATE VIRTUAL TABLE note_text USING fts5(text, content='note', content_rowid='id', tokenize='porter unicode61 remove_diacritics 2');
    CREATE TRIGGER note_added AFTER INSERT ON note BEGIN INSERT INTO note_text(rowid, text) VALUES (new.id, new.text); END;
    CREATE TRIGGER note_gone AFTER DELETE ON note BEGIN INSERT INTO note_text(note_text, rowid, text) VALUES ('delete', old.id, old.text); END;
    CREATE TRIGGER note_changed AFTER UPDATE OF text ON note BEGIN
        INSERT INTO note_text(note_text, rowid, text) VALUES ('delete', old.id, old.text);
        INSERT INTO note_text(rowid, text) VALUES (new.id, new.text);
    END;
    CREATE TABLE edge (
        note INTEGER NOT NULL,
        tie TEXT NOT NULL,                 -- derives-from, contradicts, reproduces
        other INTEGER NOT NULL,
        PRIMARY KEY (note, tie, other)
    ) WITHOUT ROWID;
    CREATE INDEX edge_contradicted ON edge (other) WHERE tie = 'contradicts';
    CREATE INDEX edge_contradicts ON edge (note) WHERE tie = 'contradicts';
    CREATE TABLE brief_note (              -- which notes stood in the brief from which an experiment was made
        study INTEGER NOT NULL,
        number INTEGER NOT NULL,
        note INTEGER NOT NULL,
        PRIMARY KEY (study, number, note)
    ) WITHOUT ROWID;
    CREATE INDEX brief_note_taught ON brief_note (note);
    CREATE TABLE idea (
        id INTEGER PRIMARY KEY,
        study INTEGER NOT NULL REFERENCES study(id),
        text TEXT NOT NULL,
        source TEXT NOT NULL,
        created REAL NOT NULL,
        pinned INTEGER NOT NULL DEFAULT 0,
        place INTEGER NOT NULL,            -- in the queue, lowest first
        state TEXT NOT NULL DEFAULT 'open',-- open, taken, done, vetoed
        experiment INTEGER NOT NULL DEFAULT 0, -- that took it last
        tries INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX idea_queue ON idea (study, state, pinned, place);
    """,
    """
    ALTER TABLE idea ADD COLUMN rank INTEGER NOT NULL DEFAULT 0;   -- 0 = a person's, or raised by one; those of agents come after them
    ALTER TABLE idea ADD COLUMN detail TEXT NOT NULL DEFAULT '';   -- what an agent said of it; JSON
    CREATE TABLE plan (
        id INTEGER PRIMARY KEY,
        slug TEXT NOT NULL UNIQUE,         -- its folder below plans/
        goal TEXT NOT NULL DEFAULT '',
        base_commit TEXT NOT NULL,         -- where its branch begins
        tip TEXT NOT NULL,                 -- where its branch is to be
        created REAL NOT NULL
    );
    CREATE TABLE task (
        plan INTEGER NOT NULL REFERENCES plan(id),
        name TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'open',-- open, working, written, done, failed, skipped
        agent TEXT NOT NULL DEFAULT '',
        start_commit TEXT NOT NULL DEFAULT '', -- of the plan's branch, from which its commit was made
        commit_id TEXT NOT NULL DEFAULT '',
        merged TEXT NOT NULL DEFAULT '',   -- on the plan's branch
        mends INTEGER NOT NULL DEFAULT 0,  -- how often its own checks sent it back
        returns INTEGER NOT NULL DEFAULT 0,-- how often a merge did
        note TEXT NOT NULL DEFAULT '',     -- why it failed, or what the agent is to mend
        tokens INTEGER NOT NULL DEFAULT 0,
        cost REAL NOT NULL DEFAULT 0,
        changed REAL NOT NULL,
        PRIMARY KEY (plan, name)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE note_vector (             -- derived: what an embedding model makes of a note; made again when it is missing
        row INTEGER PRIMARY KEY AUTOINCREMENT,
        note INTEGER NOT NULL UNIQUE,
        model TEXT NOT NULL,               -- a digest of the model's files
        vector BLOB NOT NULL               -- of unit length, half precision
    );
    CREATE INDEX note_vector_model ON note_vector (model, row);
    CREATE TRIGGER note_vector_stale AFTER UPDATE OF text ON note BEGIN DELETE FROM note_vector WHERE note = old.id; END;
    CREATE TRIGGER note_vector_gone AFTER DELETE ON note BEGIN DELETE FROM note_vector WHERE note = old.id; END;
    """,
    """
    ALTER TABLE job ADD COLUMN confined TEXT NOT NULL DEFAULT '';  -- what stood around it, where that need not be what the study's machine has
    """,
    """
    CREATE TABLE trial (                   -- a copy in which somebody outside the loop edits
        study INTEGER NOT NULL REFERENCES study(id),
        number INTEGER NOT NULL,
        operator TEXT NOT NULL,
        parent INTEGER NOT NULL,
        crashed INTEGER NOT NULL DEFAULT 0,-- the experiment that it mends
        begun REAL NOT NULL,
        told TEXT NOT NULL DEFAULT '[]',   -- ids of the notes in its brief, and of the idea that it asks for; JSON
        takes TEXT NOT NULL DEFAULT '[]',
        experiment INTEGER NOT NULL DEFAULT 0, -- that tried what was in the copy
        ended REAL,
        PRIMARY KEY (study, number)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE job ADD COLUMN host TEXT NOT NULL DEFAULT '';      -- name of the worker that ran it, where there are several
    ALTER TABLE job ADD COLUMN discounted TEXT NOT NULL DEFAULT '';-- why it does not count
    ALTER TABLE experiment ADD COLUMN verified TEXT NOT NULL DEFAULT ''; -- which further workers have measured it, or that none has
    CREATE TABLE quarantine (
        study INTEGER NOT NULL,
        worker TEXT NOT NULL,
        reason TEXT NOT NULL,
        since REAL NOT NULL,
        PRIMARY KEY (study, worker)
    ) WITHOUT ROWID;
    """,
)
