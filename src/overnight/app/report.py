"""The morning report: what one night, or the part of it since a moment, has brought, from the record alone.

The same record gives the same report. Whoever reads it must be able to trust it: what is not sure is said as such, and what was
kept, refuted, switched off or spent is counted, not told from memory.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from overnight.app import read
from overnight.errors import UsageError
from overnight.kinds import parse_duration
from overnight.models import Confined, Decision, Experiment, Operator, Summary, Trust
from overnight.notes import QueuedIdea
from overnight.printable import moment

_TOP = 3
_NEXT = 3
_LATELY = 60  # experiments that the trend looks at
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")


@dataclass(frozen=True, slots=True)
class Failure:
    """Experiments that failed of one kind, and the words of the latest of them."""

    kind: str
    count: int
    example: int
    cause: str


@dataclass(frozen=True, slots=True)
class Report:
    """One night: ``told`` counts the whole study, ``rows`` are the experiments that were decided between ``since`` and ``until``."""

    told: Summary
    since: float
    until: float
    rows: Sequence[Experiment]
    before: Experiment | None  # the best when the report's time begins
    top: Sequence[Experiment]  # the keeps that have brought most, best first
    failures: Sequence[Failure]  # most frequent first
    busy: float | None  # share of the slots' time in which something was trained
    last_keep: float | None  # seconds from the last keep to ``until``
    lately: int  # keeps among the last experiments
    checks: Sequence[str]  # what a person should look at before believing it
    near: Sequence[Experiment]  # discards that were too good to be forgotten
    ideas: Sequence[QueuedIdea]  # still open

    @property
    def kept(self) -> list[Experiment]:
        """What was kept in the report's time, the baseline apart."""
        return [item for item in self.rows if item.decision is Decision.KEEP and item.operator is not Operator.BASELINE]


def report(found: read.Open, since: str, now: float) -> Report:
    """The report of a study from ``since`` (``8h`` ago, or ``23:00`` of the latest evening; empty = all of it) to ``now``.

    Raises ``UsageError`` (E-BAD-SINCE).
    """
    told = read.summary(found)
    every = read.rows(found)
    start = moment_of(since, now) if since else min((item.started for item in every), default=told.study.created)
    rows = [item for item in every if item.finished is not None and item.finished >= start]
    earlier = [item for item in every if item.finished is not None and item.finished < start]
    until = now if told.holder else max((item.finished or 0.0 for item in every), default=start)
    kept = [item for item in rows if item.decision is Decision.KEEP and item.operator is not Operator.BASELINE]
    ideas = found.store.ideas(found.study.id, "open") if not found.store.outdated else []
    return Report(
        told=told, since=start, until=max(until, start), rows=rows, before=_best(earlier) or told.baseline,
        top=sorted((item for item in kept if item.gain and not item.reverted), key=lambda item: -(item.gain or 0.0))[:_TOP],
        failures=_failures(rows), busy=_busy(told, rows, until - start),
        last_keep=until - max(item.finished or 0.0 for item in kept) if kept else None,
        lately=sum(item.decision is Decision.KEEP and item.operator is not Operator.BASELINE for item in rows[-_LATELY:]),
        checks=_checks(told, rows), near=[item for item in rows if item.near][-_NEXT:],
        ideas=ideas[:_NEXT],
    )  # fmt: skip


def moment_of(text: str, now: float) -> float:
    """Seconds since the epoch: ``23:00`` is the latest such moment of local time, ``8h`` so long ago. Raises ``UsageError``."""
    if match := _CLOCK.fullmatch(text.strip()):
        today = datetime.fromtimestamp(now).astimezone().replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0)
        return today.timestamp() - (86400 if today.timestamp() > now else 0)
    try:
        return max(now - parse_duration(text), 0.0)
    except (ValueError, UsageError) as exc:
        raise UsageError(
            "E-BAD-SINCE", f"'{text}' is no time", why="a time of the day or a duration is wanted", fix="overnight report --since 23:00"
        ) from exc


def _best(rows: Sequence[Experiment]) -> Experiment | None:
    kept = [item for item in rows if item.decision is Decision.KEEP and not item.reverted]
    return kept[-1] if kept else None


def _failures(rows: Sequence[Experiment]) -> list[Failure]:
    crashed = [item for item in rows if item.decision is Decision.CRASH]
    counts = Counter(item.crash_kind or "unknown" for item in crashed)
    latest = {item.crash_kind or "unknown": item for item in crashed}
    return [Failure(kind, count, latest[kind].number, latest[kind].cause) for kind, count in counts.most_common()]


def _busy(told: Summary, rows: Sequence[Experiment], seconds: float) -> float | None:
    """Between the first start and the last end: pauses between two loops count as idle, for nothing was trained in them."""
    trained = sum(item.seconds for item in rows)
    return min(1.0, trained / (seconds * max(1, told.study.settings.slots))) if seconds > 0 and trained else None


def _checks(told: Summary, rows: Sequence[Experiment]) -> list[str]:
    kept = [item for item in rows if item.decision is Decision.KEEP and item.operator is not Operator.BASELINE]
    found = []
    if told.false_keeps >= 0.5:
        found.append(f"of {told.standing} keeps about {told.false_keeps:.1f} are expected to be luck: overnight retest --unconfirmed")
    if told.unverified:
        found.append(f"{told.unverified} {'keeps were' if told.unverified > 1 else 'keep was'} not verified, for want of a second worker")
    found += [f"worker {worker} was put in quarantine: {reason}: overnight worker trust {worker}" for worker, reason in told.quarantined]
    if told.reverted:
        found.append(f"{told.reverted} {'keeps were' if told.reverted > 1 else 'keep was'} refuted by a later look and taken back")
    if kept and told.study.settings.evaluate == "" and all(item.trust is Trust.SELF_REPORTED for item in kept):
        found.append("every value was reported by the runs themselves: --evaluate measures what they leave")
    open_rows = sum(item.confined is Confined.NONE for item in rows)
    if open_rows:
        found.append(f"{open_rows} {'experiments' if open_rows > 1 else 'experiment'} ran without walls")
    if told.wrong_kills:
        found.append(f"of {told.spared} runs that were let go on, {told.wrong_kills} would have been ended early although they were kept")
    if any(item.estimated for item in rows):
        found.append("the money is by list prices of tokens, not by what the agents were billed")
    return found


def report_json(found: Report) -> dict[str, Any]:
    """The report for programs: the whole summary, and what is of this time alone."""
    listed = [read.experiment_json(item) for item in found.rows]
    return {
        "schema": "overnight/report/1", "since": moment(found.since), "until": moment(found.until), "seconds": round(found.until - found.since, 1),
        "summary": read.summary_json(found.told), "experiments": len(listed), "kept": [row for row in listed if row["decision"] == "keep"],
        "top": [item.number for item in found.top], "best_before": found.before.number if found.before else None,
        "failures": [{"kind": item.kind, "count": item.count, "example": item.example, "cause": item.cause} for item in found.failures],
        "busy": round(found.busy, 4) if found.busy is not None else None, "seconds_since_keep": round(found.last_keep, 1) if found.last_keep is not None else None,
        "kept_lately": found.lately, "checks": list(found.checks), "near": [item.number for item in found.near],
        "ideas": [{"id": item.id, "text": item.text} for item in found.ideas], "tokens": sum(item.tokens for item in found.rows), "cost": sum(item.cost for item in found.rows),
    }  # fmt: skip


def clock() -> float:
    """Seconds since the epoch."""
    return time.time()
