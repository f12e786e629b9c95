"""The verb ``report``: the night in a dozen lines, the answer first; ``--md`` is the same with every keep, for a wiki or a message."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click

from overnight.app import read
from overnight.app import report as reporting
from overnight.app.report import Report
from overnight.cli import table
from overnight.cli.options import json_option, state_option
from overnight.models import Decision, Experiment, Summary
from overnight.printable import duration, number, one_line, sensible

_LATELY = 60


@click.command()
@click.option("--since", default="", metavar="TIME", help="Only what was decided since then: 23:00, or 8h ago.")
@click.option("--md", "markdown", is_flag=True, help="As Markdown, with every keep and every kind of failure.")
@state_option
@json_option
def report(since: str, markdown: bool, state: Path | None, tag: str, as_json: bool) -> None:
    """What the night has brought: the answer first, then what to check before believing it."""
    with read.opened(Path.cwd(), state, os.environ, tag) as found:
        told = reporting.report(found, since, reporting.clock())
    if as_json:
        click.echo(json.dumps(reporting.report_json(told)))
    else:
        click.echo("\n".join(as_markdown(told) if markdown else as_lines(told)))


def as_lines(found: Report) -> list[str]:
    """The report for a terminal or the body of a message."""
    return [_head(found), *(f"{name:<9} {text}" for name, text in _facts(found))]


def as_markdown(found: Report) -> list[str]:
    """The report as a page: the same facts, a table of the keeps, one of the failures."""
    lines = [f"# {_safe(_head(found))}", "", *(f"- **{name}** {_safe(text)}" for name, text in _facts(found))]
    if found.kept:
        figures = table.digits(found.kept)
        lines += ["", "## Kept", "", f"| # | {_safe(found.told.study.metric)} | gain | P | commit | change |", "|--:|--:|--:|--:|---|---|"]
        lines += [
            f"| {item.number} | {number(item.value, figures)} | {_signed(item.gain)} | {_p(item)} | {item.commit[:7]} | {_safe(one_line(item.description))}"
            f"{f' (taken back by #{item.reverted})' if item.reverted else '' if item.confirmed else ' (not confirmed)'} |"
            for item in found.kept
        ]
    if found.failures:
        lines += ["", "## Failed", "", "| kind | how often | latest | its words |", "|---|--:|--:|---|"]
        lines += [
            f"| {_safe(item.kind)} | {item.count} | #{item.example} | {_safe(one_line(item.cause, 160))} |" for item in found.failures
        ]
    return lines


def _head(found: Report) -> str:
    start, end = (datetime.fromtimestamp(moment).astimezone() for moment in (found.since, found.until))
    told = found.told
    when = f"{start:%d %b %H:%M} → {end:%H:%M}" if start.date() == end.date() else f"{start:%d %b %H:%M} → {end:%d %b %H:%M}"
    return (
        f"{told.study.tag} · {told.study.metric or 'metric not known yet'} · {when} ({duration(found.until - found.since)}) · {told.state}"
    )


def _facts(found: Report) -> list[tuple[str, str]]:
    """Names and texts of the lines; what there is nothing to say of is left out."""
    told = found.told
    facts = [
        ("STOPPED", f"{one_line(told.reason, 300)}; no experiment was decided in this time" if not found.rows else ""),
        ("BEST", _best(found)),
        ("GAIN", _gain(told)),
        ("KEPT", _kept(found)),
        *(("TOP", f"#{item.number} {_signed(item.gain)}  {one_line(item.description, 100)}") for item in found.top),
        ("FAILED", _failed(found)),
        ("COST", _cost(found)),
        ("TREND", _trend(found)),
        *(("CHECK", text) for text in found.checks),
        *(("NEXT", text) for text in _next(found)),
        ("ENDED", one_line(told.reason, 300) if found.rows and not told.holder else ""),
        ("TAKE IT", f"git merge {told.study.branch}" if _gained(told) else ""),
    ]
    return [(name, text) for name, text in facts if text]


def _gained(told: Summary) -> float:
    """By how much the best is better than the baseline; 0 = not, or not known."""
    best, base = told.best, told.baseline
    if best is None or base is None or best.value is None or base.value is None:
        return 0.0
    return max(0.0, told.study.direction.gain(best.value, base.value))


def _best(found: Report) -> str:
    told, best, before = found.told, found.told.best, found.before
    if best is None or best.value is None:
        return "none yet"
    sure = f" ± {best.believed_sd:.2g}" if best.believed_sd else ""
    here = f"#{best.number} {best.commit[:7]}, {best.trust}, {'confirmed' if best.confirmed else 'not confirmed'}"
    if before is None or before.value is None or before.number == best.number:
        return f"{number(sensible(best.value, told.sigma))}{sure}   {here}; nothing better in this time"
    gain = told.study.direction.gain(best.value, before.value)
    share = f", {gain / abs(before.value):.1%}" if before.value else ""
    first, last = (number(sensible(value, told.sigma)) for value in (before.value, best.value))
    return f"{first} → {last}{sure}   (better by {sensible(gain, told.sigma):.4g}{share})   {here}"


def _gain(told: Summary) -> str:
    if told.told_gain is None:
        return ""
    gain, low, high = told.told_gain
    source = f"{told.fresh} runs that decided nothing" if told.fresh > 1 else "the judgement; no fresh runs yet"
    return f"{gain:+.3g} over the baseline, 90 % between {low:+.3g} and {high:+.3g}, from {source}"


def _kept(found: Report) -> str:
    kept, tried = found.kept, len(found.rows)
    if not tried:
        return ""
    unsure = sum(not item.confirmed and not item.reverted for item in kept)
    parts = f": {len(kept) - unsure} confirmed, {unsure} not" if kept else ""
    return f"{len(kept)} of {tried} decided{parts}; {sum(item.decision is Decision.DISCARD for item in found.rows)} discarded"


def _failed(found: Report) -> str:
    count = sum(item.count for item in found.failures)
    kinds = " · ".join(f"{item.kind} {item.count}" for item in found.failures[:6])
    return f"{count}: {kinds}; the latest, #{found.failures[0].example}: {one_line(found.failures[0].cause, 100)}" if count else ""


def _cost(found: Report) -> str:
    trained, thought = (sum(getattr(item, name) for item in found.rows) for name in ("seconds", "think_seconds"))
    tokens, money = sum(item.tokens for item in found.rows), sum(item.cost for item in found.rows)
    parts = [
        f"{duration(trained)} training" + (f", {found.busy:.0%} busy" if found.busy is not None else ""),
        f"{duration(thought)} thinking",
    ]
    parts += [f"{tokens} tokens"] if tokens else []
    parts += [f"${money:.2f}"] if money else []
    return " · ".join(parts) if found.rows else ""


def _trend(found: Report) -> str:
    if found.last_keep is None:
        return f"nothing was kept in the last {min(_LATELY, len(found.rows))} experiments" if found.rows else ""
    return f"last keep {duration(found.last_keep)} before the end; {found.lately} in the last {min(_LATELY, len(found.rows))} experiments"


def _next(found: Report) -> list[str]:
    parts = [f"idea {item.id}: {one_line(item.text, 100)}" for item in found.ideas]
    return parts + [f"near miss #{item.number}: {one_line(item.description, 100)}" for item in found.near]


def _signed(value: float | None) -> str:
    return f"{value:+.3g}" if value is not None else ""


def _p(item: Experiment) -> str:
    return f"{item.p:.2f}" if item.p is not None else ""


def _safe(text: str) -> str:
    """``text`` as plain text of Markdown: no table, link, picture, heading or HTML can begin in it."""
    marks: Sequence[tuple[str, str]] = (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("[", "\\["), ("`", "\\`"), ("*", "\\*"), ("_", "\\_"))
    for mark, safe in marks:
        text = text.replace(mark, safe)
    return text
