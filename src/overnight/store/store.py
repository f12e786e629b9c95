"""The record of all studies of a project: studies, experiments with their files and decisions, events, and the summary.

Knows nothing of git, jobs' folders or screens. Safe to share between threads; other processes open their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from overnight.errors import NotFoundError, UsageError
from overnight.models import Decision, Direction, Experiment, Proposal, Stage, Study, Summary
from overnight.settings import Settings, as_dict
from overnight.store.doubts import Doubts
from overnight.store.ideas import Ideas
from overnight.store.jobs import Jobs
from overnight.store.notes import Notes
from overnight.store.plans import Plans
from overnight.store.rows import digest, experiment_from, pack, storable, study_from, unpack
from overnight.store.trials import Trials
from overnight.store.vectors import Vectors


class Store(Jobs, Doubts, Notes, Ideas, Plans, Vectors, Trials):
    """The database at ``path``; made when missing unless ``readonly``.

    Raises ``NotFoundError`` (readonly, no file), ``StorageError`` (disk full, damaged, from a newer version).
    """

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
            db.execute("UPDATE idea SET study = (SELECT id FROM study WHERE tag=?) WHERE study=0", (tag,))
        return self.study(tag)

    def study(self, tag: str = "") -> Study:
        """The study with this tag, or the newest one; raises ``NotFoundError``."""
        rows = self._rows("SELECT * FROM study WHERE tag=? OR ?='' ORDER BY id DESC LIMIT 1", tag, tag)
        if not rows:
            known = ", ".join(row["tag"] for row in self._rows("SELECT tag FROM study ORDER BY id DESC LIMIT 5"))
            what = f"there is no study '{tag}'" if tag else "there is no study here yet"
            fix = f"overnight status --tag {known.split(',')[0]}" if known else "overnight run -- python train.py"
            raise NotFoundError("E-NO-STUDY", what, why=f"known: {known}" if known else "", fix=fix)
        return study_from(rows[0])

    def drop_study(self, study: int) -> None:
        """Forget a study that could not begin; one that has an experiment stays."""
        with self._write() as db:
            gone = db.execute("DELETE FROM study WHERE id=? AND NOT EXISTS (SELECT 1 FROM experiment WHERE study=?)", (study, study))
            if gone.rowcount:
                db.execute("UPDATE idea SET study=0 WHERE study=?", (study,))

    def update_study(self, study: Study) -> None:
        """Write metric, direction, base and settings of the study anew."""
        with self._write() as db:
            db.execute(
                "UPDATE study SET metric=?, direction=?, settings=?, base_commit=? WHERE id=?",
                (study.metric, study.direction, json.dumps(as_dict(study.settings)), study.base_commit, study.id),
            )

    def set_state(self, study: int, state: str, reason: str, ran_seconds: float | None = None) -> None:
        """Say what the loop is doing: running, paused, stopping, stopped, done; ``ran_seconds`` of all loops so far."""
        with self._write(synced=False) as db:
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
        with self._write(synced=False) as db:
            number = db.execute("SELECT coalesce(max(number), 0) + 1 FROM experiment WHERE study=?", (study,)).fetchone()[0]
            db.execute(
                "INSERT INTO experiment (study, number, parent, operator, stage, proposer, description, started, digest, repairs,"
                " cause, trust, think_seconds, lines, tokens, cost, estimated, model, session, state) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (study, number, proposal.parent, proposal.operator, Stage.PROPOSED, storable(idea.proposer), storable(idea.hypothesis), now,
                 digest(proposal.files), proposal.repairs, storable(proposal.rejected), "self-reported", idea.seconds, lines, idea.tokens, idea.cost,
                 idea.estimated, storable(idea.model), storable(idea.session), json.dumps(dict(idea.state))),
            )  # fmt: skip
            for path, content in proposal.files.items():
                packed = pack(content, self._dictionary(study, path) if number > 1 else b"")
                db.execute("INSERT INTO file VALUES (?,?,?,?)", (study, number, path, packed))
            db.executemany("INSERT OR IGNORE INTO brief_note VALUES (?,?,?)", [(study, number, note) for note in proposal.told])
            for idea_taken in proposal.takes:
                took = "UPDATE idea SET state='taken', experiment=?, tries=tries+1 WHERE study=? AND id=? AND state IN ('open', 'taken')"
                db.execute(took, (number, study, idea_taken))
            if proposal.trial:
                db.execute("UPDATE trial SET experiment=? WHERE study=? AND number=?", (number, study, proposal.trial))
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
        with self._write(synced=False) as db:
            db.execute(f"UPDATE experiment SET {names} WHERE study=? AND number=?", (*columns.values(), study, number))  # noqa: S608 - column names come from our own calls
        return self.experiment(study, number)

    def sigma(self, study: int) -> float | None:
        """The sd of one run between seeds; None = not known."""
        return _sigma(self.knowledge(study))

    def _false_keeps(self, study: int) -> tuple[int, float]:
        """How many keeps stand that were compared with another, and how many of these are expected to be luck: each counts with 1 - P."""
        sql = "SELECT count(*), sum(1 - p) FROM experiment WHERE study=? AND decision='keep' AND NOT reverted AND p IS NOT NULL"
        found = self._rows(sql, study)[0]
        return int(found[0]), float(found[1] or 0.0)

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
        best: int = 0,
        takes_back: int = 0,
        **found: object,
    ) -> Experiment:
        """Write the decision with what was learned from it, and with a keep the new bar, in one transaction: exactly once.

        ``best``: the experiment that is the best from now on, if it is another than the one kept; ``takes_back``: the keep that this
        one undoes. ``found`` are further columns by name: confirmed, p, gain, gain_low, gain_high, …
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
                db.execute("UPDATE study SET best=?, bar=? WHERE id=?", (best or number, bar, study))
            if changed and decision is Decision.KEEP and takes_back:
                db.execute("UPDATE experiment SET reverted=? WHERE study=? AND number=?", (number, study, takes_back))
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

    def baseline(self, study: int) -> Experiment | None:
        """The experiment that everything is compared with, if there is one yet."""
        sql = "SELECT * FROM experiment WHERE study=? AND operator='baseline' AND (decision='keep' OR decision IS NULL) ORDER BY number LIMIT 1"
        rows = self._rows(sql, study)
        return experiment_from(rows[0]) if rows else None

    def unfinished(self, study: int) -> list[Experiment]:
        """Experiments that have not come to their last stage, oldest first."""
        return [
            experiment_from(row)
            for row in self._rows(
                "SELECT * FROM experiment INDEXED BY experiment_open WHERE study=? AND stage!='applied' ORDER BY number", study
            )
        ]

    def retested(self, study: int, number: int, now: float, *, knowledge: str = "", **found: object) -> Experiment:
        """Write what further runs of a settled experiment say (columns by name); its decision stays, and what its commit says is kept."""
        columns = {name: storable(value) for name, value in found.items()}
        names = ", ".join(f"{name}=?" for name in columns)
        with self._write() as db:
            db.execute(
                f"UPDATE experiment SET decided_value=coalesce(decided_value, value), {names} WHERE study=? AND number=?",  # noqa: S608 - column names come from our own calls
                (*columns.values(), study, number),
            )
            if knowledge:
                db.execute("UPDATE study SET knowledge=? WHERE id=?", (knowledge, study))
            self._event(study, number, "experiment.retested", now, columns)
        return self.experiment(study, number)

    def spare(self, study: int, number: int, reason: str) -> None:
        """Write why the running experiment would have been ended early, had it not been let go on."""
        with self._write(synced=False) as db:
            db.execute("UPDATE experiment SET spared=? WHERE study=? AND number=?", (storable(reason), study, number))

    def audited(self, study: int, runs: int, now: float) -> None:
        """Write that an audit was planned when so many runs had ended."""
        self.event(study, 0, "study.audited", now, {"runs": runs})

    def last_audit(self, study: int) -> int:
        """How many runs had ended at the last audit; 0 = there was none. Walks through all events."""
        rows = self._rows("SELECT data FROM event WHERE study=? AND number=0 AND type='study.audited' ORDER BY seq DESC LIMIT 1", study)
        return int(json.loads(rows[0][0])["runs"]) if rows else 0

    def set_hidden(self, study: int, number: int, value: float | None, cause: str) -> None:
        """Write what the hidden hold-out says of a keep; no ``Experiment`` carries it."""
        with self._write() as db:
            db.execute(
                "UPDATE experiment SET hidden=?, hidden_cause=? WHERE study=? AND number=?",
                (storable(value), storable(cause), study, number),
            )

    def hidden(self, study: int, number: int) -> tuple[float | None, str]:
        """The value on the hidden hold-out and, where there is none, why; for the report alone."""
        row = self._rows("SELECT hidden, hidden_cause FROM experiment WHERE study=? AND number=?", study, number)[0]
        return row[0], str(row[1])

    def same_files(self, study: int, files: Mapping[str, bytes]) -> int:
        """Number of the first experiment with exactly these files that was not rejected unrun, or 0."""
        rows = self._rows(
            "SELECT number FROM experiment INDEXED BY experiment_digest WHERE study=? AND digest=? AND NOT (decision IS 'discard' AND value IS NULL) ORDER BY number LIMIT 1",
            study,
            digest(files),
        )
        return int(rows[0][0]) if rows else 0

    # --- events and the summary ----------------------------------------------------------------------------------

    def event(self, study: int, number: int, kind: str, now: float, data: Mapping[str, object]) -> None:
        """Append to the record of what happened."""
        with self._write(synced=False):
            self._event(study, number, kind, now, data)

    def event_of(self, study: int, number: int, kind: str) -> dict[str, Any]:
        """What the latest event of this kind holds for an experiment; empty without one. Walks through all events."""
        rows = self._rows("SELECT data FROM event WHERE study=? AND number=? AND type=? ORDER BY seq DESC LIMIT 1", study, number, kind)
        found: dict[str, Any] = json.loads(rows[0][0]) if rows else {}
        return found

    def events(self, study: int, since: int = 0, limit: int = 1000) -> Iterable[dict[str, Any]]:
        """Events after sequence number ``since``, oldest first."""
        rows = self._rows("SELECT * FROM event WHERE study=? AND seq>? ORDER BY seq LIMIT ?", study, since, limit)
        return [{**dict(row), "data": json.loads(row["data"])} for row in rows]

    def totals(self, study: int, *, settled: bool = False) -> dict[str, float]:
        """Sums over all experiments, or the settled ones: train_seconds, think_seconds, tokens, cost."""
        row = self._rows(
            "SELECT coalesce(sum(seconds),0) AS train_seconds, coalesce(sum(think_seconds),0) AS think_seconds,"
            " coalesce(sum(tokens),0) AS tokens, coalesce(sum(cost),0) AS cost FROM experiment WHERE study=? AND (stage='applied' OR NOT ?)",
            study,
            settled,
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
        totals, doubted = self.totals(study.id), self._false_keeps(study.id)
        best = self.experiment(study.id, row["best"]) if row["best"] is not None else None
        return Summary(
            study=replace(study, metric=row["metric"]), state=row["state"], reason=row["reason"],
            total=sum(item["n"] for item in counts), kept=by[Decision.KEEP], discarded=by[Decision.DISCARD], crashed=by[Decision.CRASH],
            running=tuple(item.number for item in unfinished), baseline=self.baseline(study.id), best=best,
            seconds=row["ran_seconds"],
            train_seconds=totals["train_seconds"], think_seconds=totals["think_seconds"], tokens=int(totals["tokens"]), cost=totals["cost"],
            unconfirmed=self._number("experiment WHERE study=? AND decision='keep' AND NOT confirmed AND NOT reverted", study.id),
            reverted=self._number("experiment WHERE study=? AND decision='keep' AND reverted", study.id),
            looks=self._number("job WHERE study=? AND looks_again", study.id),
            early=sum(item["n"] for item in counts if item["crash_kind"] == "stopped-early"),
            spared=self._number("experiment WHERE study=? AND spared != '' AND decision IS NOT NULL", study.id),
            wrong_kills=self._number("experiment WHERE study=? AND spared != '' AND decision='keep'", study.id),
            unverified=self._number("experiment INDEXED BY experiment_kept WHERE study=? AND decision='keep' AND verified LIKE 'not %'", study.id),
            quarantined=tuple(self.quarantined(study.id).items()),
            standing=doubted[0],
            false_keeps=doubted[1],
            sigma=_sigma(row["knowledge"]),
            crash_kinds={item["crash_kind"]: item["n"] for item in counts if item["decision"] == Decision.CRASH and item["crash_kind"]},
        )  # fmt: skip

    def _number(self, what: str, *values: object) -> int:
        return int(self._rows(f"SELECT count(*) FROM {what}", *values)[0][0])  # noqa: S608 - the texts are our own


def _sigma(knowledge: str) -> float | None:
    """The sd of one run between seeds, from what was learned."""
    if not knowledge:
        return None
    found = json.loads(knowledge)
    return math.sqrt(found["squares"] / found["dof"]) if found.get("dof", 0) > 0 else None
