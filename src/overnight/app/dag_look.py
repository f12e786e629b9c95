"""Looking at pipelines: one, all of them, as a picture, the output of a task. Changes nothing, and works while one is conducted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overnight import jobs
from overnight.app import dag_place
from overnight.app.dag import number_of, planned
from overnight.app.dag_place import Home
from overnight.dag import graph, svg
from overnight.dag.words import Dag, DagState, Plan, Row, TaskState
from overnight.errors import NotFoundError, nearest
from overnight.printable import moment
from overnight.store.pipelines import Pipelines

INTERRUPTED = "INTERRUPTED"
_LOOK = 0.1  # seconds between two looks of whoever watches
_PATIENCE = 5.0  # seconds in which somebody may take up a pipeline that nobody conducts


@dataclass(frozen=True, slots=True)
class Seen:
    """A pipeline as it is now. ``state`` is that of the record, or INTERRUPTED where nobody conducts it."""

    dag: Dag
    plan: Plan
    rows: tuple[Row, ...]
    state: str
    home: Home


def seen(environ: Mapping[str, str], given: str) -> Seen:
    """The pipeline with this id, or the latest. Raises ``NotFoundError``, ``UsageError``."""
    number = number_of(given)
    with dag_place.recorded(environ) as (home, record):
        return _seen(home, record, record.dag(number))


def _seen(home: Home, record: Pipelines, dag: Dag) -> Seen:
    until = dag.options.get("until")
    plan = planned(dag.text, dag.file, tuple(map(str, until)) if isinstance(until, list) else ())
    conducted = dag_place.is_conducted(home, dag.number)
    dag = record.dag(dag.number)  # again: it may have ended between the two looks
    state = INTERRUPTED if dag.state is DagState.RUNNING and not conducted else str(dag.state)
    return Seen(dag, plan, tuple(record.tasks(dag.number)), state, home)


def listed(environ: Mapping[str, str], last: int) -> list[dict[str, Any]]:
    """The last few pipelines, or (0) all."""
    with dag_place.recorded(environ) as (home, record):
        dags = record.dags(last)
        counts = record.tally(dag.number for dag in dags)
        return [_short(dag, counts[dag.number], home) for dag in dags]


def _short(dag: Dag, counts: Mapping[TaskState, int], home: Home) -> dict[str, Any]:
    alone = dag.state is DagState.RUNNING and not dag_place.is_conducted(home, dag.number)
    return {
        "id": dag.id, "name": dag.name, "state": INTERRUPTED if alone else str(dag.state), "tasks": {str(state): count for state, count in counts.items()},
        "total": sum(counts.values()), "created": moment(dag.created), "finished": moment(dag.finished), "seconds": round((dag.finished or time.time()) - dag.created, 3),
        "workdir": dag.workdir,
    }  # fmt: skip


def dag_json(found: Seen) -> dict[str, Any]:
    """A pipeline for ``--json``."""
    counts: dict[TaskState, int] = {}
    for row in found.rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    return {
        "schema": "overnight/dag/1", **_short(found.dag, counts, found.home), "state": found.state,
        "nodes": [_task(found, row) for row in found.rows],
    }  # fmt: skip


def _task(found: Seen, row: Row) -> dict[str, Any]:
    task = found.plan.tasks[row.position]
    return {
        "task": row.task, "node": task.node.name, "matrix": dict(task.matrix), "state": str(row.state), "cause": row.cause, "note": row.note, "attempt": row.attempt,
        "cached_from": f"dag-{row.cached_from}" if row.cached_from else None, "seconds": round(row.seconds, 3), "started": moment(row.started),
        "needs": [found.plan.tasks[need].id for need in task.needs], "metrics": dict(row.values), "job": row.job or None, "gpus": list(row.gpus),
        "log": str(found.home.part("jobs") / row.job / jobs.LOG) if row.job else None,
    }  # fmt: skip


def tree(found: Seen) -> list[str]:
    """The pipeline as lines, with what has become of each node."""
    return graph.tree(found.plan.pipeline, graph.marks(found.plan, [row.state for row in found.rows]))


def tree_of(plan: Plan) -> list[str]:
    """A pipeline that was not begun, as lines."""
    return graph.tree(plan.pipeline)


def picture(plan: Plan, rows: Sequence[Row] = ()) -> str:
    """The pipeline as SVG."""
    return svg.draw(plan.pipeline, graph.marks(plan, [row.state for row in rows]) if rows else None)


def output(environ: Mapping[str, str], given: str, task: str) -> Path:
    """Where the output of a task's latest attempt is. Raises ``NotFoundError``."""
    found = seen(environ, given)
    row = next((row for row in found.rows if row.task == task), None)
    if row is None:
        names = [row.task for row in found.rows]
        raise NotFoundError(
            "E-NO-TASK", f"{found.dag.id} has no task '{task}'{nearest(task, names)}", why=f"its tasks are {', '.join(names[:12])}", fix=f"overnight dag status {found.dag.id}"
        )  # fmt: skip
    if row.cached_from and not row.job:
        return output(environ, str(row.cached_from), task)
    log = found.home.part("jobs") / row.job / jobs.LOG
    if not row.job or not log.exists():
        raise NotFoundError(
            "E-NO-LOG",
            f"{task} has no output yet",
            why=f"it is {row.state}{f': {row.cause}' if row.cause else ''}",
            fix=f"overnight dag status {found.dag.id}",
        )
    return log


def said(environ: Mapping[str, str], given: str, since: int = 0) -> list[tuple[int, str, str]]:
    """Number, task and text of every line that was said after the line ``since``. Raises ``NotFoundError``, ``UsageError``."""
    with dag_place.recorded(environ) as (_, record):
        return record.said(record.dag(number_of(given)).number, since)


def followed(environ: Mapping[str, str], given: str, sleep: Callable[[float], None] = time.sleep) -> Iterator[tuple[str, str]]:
    """Task and line of everything that was said from the beginning and is said until the end; stops where nobody conducts any more."""
    number = number_of(given)
    with dag_place.recorded(environ) as (home, record):
        dag = record.dag(number)
        since, alone = 0, 0.0
        while True:
            over = record.dag(dag.number).state.over
            lines = record.said(dag.number, since)
            for seq, task, line in lines:
                since = seq
                yield task, line
            if lines:
                continue
            alone = 0.0 if over or dag_place.is_conducted(home, dag.number) else alone + _LOOK
            if over or alone > _PATIENCE:
                return
            sleep(_LOOK)
