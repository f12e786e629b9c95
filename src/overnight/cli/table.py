"""Tables and blocks of text for people: states are words and shapes, never colour alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from overnight.models import Confined, Decision, Direction, Experiment, Stage, Summary, Trust
from overnight.printable import duration, number, one_line, sensible

_SHAPES = {Decision.KEEP: "✔ keep", Decision.DISCARD: "· discard", Decision.CRASH: "✖ crash"}
_TRUST = {Trust.SELF_REPORTED: "self", Trust.EVALUATED: "eval", Trust.BLIND: "blind"}
_RUNNING = {Stage.PROPOSED: "… queued", Stage.COMMITTED: "… queued", Stage.SUBMITTED: "▶ running"}


def state(item: Experiment) -> str:
    """``✔ keep``, ``· discard``, ``✖ crash``, ``▶ running``."""
    return _SHAPES[item.decision] if item.decision else _RUNNING.get(item.stage, "… deciding")


def digits(rows: Sequence[Experiment]) -> int:
    """Significant figures that tell the kept values apart, four at least."""
    kept = sorted({item.value for item in rows if item.decision is Decision.KEEP and item.value is not None})
    for count in range(4, 9):
        if len({number(value, count) for value in kept}) == len(kept):
            return count
    return 9


def experiments(
    rows: Sequence[Experiment], direction: Direction, width: int = 0, values: Mapping[int, float | None] | None = None
) -> list[str]:
    """One line each: number, value, gain over the parent's value, state, who says so, seconds, what was tried.

    ``values`` are those of the parents by number, where ``rows`` does not hold them all.
    """
    width = width or shutil.get_terminal_size((100, 24)).columns
    figures = digits(rows)
    values = {item.number: item.value for item in rows} if values is None else values
    lines = [f"{'#':>4}  {'value':>10}  {'Δ parent':>10}  {'state':<10} {'trust':<5} {'time':>7}  change"]
    for item in rows:
        parent = values.get(item.parent)
        gain = f"{direction.gain(item.value, parent):+.{figures - 1}f}" if item.value is not None and parent is not None else ""
        again = f"  [{item.retests} re-tests]" if item.retests > 1 else "  [re-tested]" if item.retests else ""
        again += f"  [taken back by #{item.reverted}]" if item.reverted else ""
        text = (
            walls(item, "[{}] ")
            + one_line(item.description, 200)
            + again
            + (f"  [{one_line(item.cause, 80)}]" if item.decision and item.value is None else "")
        )
        head = f"{item.number:>4}  {number(item.value, figures):>10}  {gain:>10}  {state(item):<10} {_TRUST[item.trust] if item.value is not None else '':<5} {duration(item.seconds) if item.seconds else '':>7}  "
        lines.append(head + one_line(text, max(12, width - len(head))))
    return lines


def walls(item: Experiment, form: str) -> str:
    """What stood around a run, in ``form``; nothing for the walls that are usual."""
    words = {Confined.NONE: "no sandbox", Confined.LANDLOCK: f"sandbox: {item.confined.word}"}
    return form.format(words[item.confined]) if item.confined in words else ""


def summary(told: Summary) -> list[str]:
    """The study in five lines, the answer first."""
    study, best, base = told.study, told.best, told.baseline
    arrow = "↓" if study.direction is Direction.MINIMIZE else "↑"
    running = f"   running {', '.join(f'#{number_}' for number_ in told.running)}" if told.running else ""
    lines = [f"{study.tag}   {told.state} {duration(told.seconds)}   {study.metric or 'metric not known yet'} {arrow}{running}"]
    if best and best.value is not None and base and base.value is not None:
        gain = study.direction.gain(best.value, base.value)
        share = f", {gain / abs(base.value):.1%}" if base.value else ""
        first, last, more = (sensible(value, told.sigma) for value in (base.value, best.value, gain))
        better = f"better by {more:.6g}{share}" if gain > 0 else "no improvement yet"
        lines.append(
            f"BEST      {number(first)} → {number(last)}  ({better})   #{best.number} {best.commit[:7]}  {best.trust}" + walls(best, "  {}")
        )
    if told.told_gain is not None:
        gain, low, high = told.told_gain
        source = f"{told.fresh} runs that decided nothing" if told.fresh > 1 else "the judgement; no fresh runs yet"
        lines.append(f"GAIN      {gain:+.3g}, 90 % between {low:+.3g} and {high:+.3g}  (from {source})")
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(told.crash_kinds.items(), key=lambda pair: -pair[1])[:5])
    lines.append(
        f"TRIED     {told.total}: {told.kept} kept, {told.discarded} discarded, {told.crashed} crashed" + (f" ({kinds})" if kinds else "")
    )
    if told.sigma is not None:
        noise = f"sd {told.sigma:.2g} between seeds" if told.sigma else "none: runs repeat exactly"
        doubt = f"; of {told.standing} keeps, {told.false_keeps:.1f} are expected to be luck" if told.sigma and told.standing else ""
        lines.append(
            f"NOISE     {noise}{doubt}"
            + (f" ({told.unconfirmed} not confirmed: overnight retest --unconfirmed)" if told.unconfirmed else "")
        )
    if told.looks or told.reverted:
        back = f"; {told.reverted} {'keeps' if told.reverted > 1 else 'keep'} taken back" if told.reverted else ""
        lines.append(f"AUDIT     {told.looks} {'runs' if told.looks > 1 else 'run'} to look again{back}")
    if told.unverified:
        lines.append(f"VERIFIED  all keeps but {told.unverified}, for which there was no second worker")
    lines += [f"WORKERS   {worker} is in quarantine: {reason}" for worker, reason in told.quarantined]
    if told.early or told.spared:
        spared = f"; of {told.spared} that were let go on, {told.wrong_kills} would have been ended wrongly" if told.spared else ""
        lines.append(f"EARLY     {told.early} {'runs' if told.early != 1 else 'run'} ended before the time{spared}")
    cost = f", ${told.cost:.2f}" if told.cost else ""
    lines.append(f"TIME      {duration(told.train_seconds)} training, {duration(told.think_seconds)} thinking{cost}")
    if told.reason:
        lines.append(f"STATE     {told.reason}")
    if told.holder:
        lines.append(f"LOOP      {told.holder}")
    return lines
