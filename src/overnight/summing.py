"""From the runs of an experiment to the columns of its row. Knows records alone; must not know why something is run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

from overnight.judge.noise import outliers
from overnight.models import Confined, Run, Study, Trust


def summed(runs: Sequence[Run], study: Study, *, baseline: bool = False) -> dict[str, object]:
    """The columns of an experiment that follow from its runs: the mean of the values, unless one of them crashed.

    Runs of a baseline that diverged are left out of it; the cause of its row says so.
    """
    crashed = next((run for run in runs if run.value is None), None)
    values = [run.value for run in runs if run.value is not None]
    same = len(set(values)) == 1  # their mean must be that very number, to the last bit
    strange = outliers(values) if baseline else ()
    values = [number for at, number in enumerate(values) if at not in strange]
    value = None if crashed or not runs else values[0] if same else statistics.fmean(values)
    return {
        "value": value,
        "trust": _trust(study),
        "confined": int(_walls(study, runs)),
        "seconds": sum(run.seconds for run in runs),
        "memory_gb": max((run.memory_gb for run in runs), default=0.0),
        "crash_kind": crashed.crash_kind if crashed else "",
        "cause": crashed.cause if crashed else "",
        "metrics": json.dumps(dict(runs[-1].metrics)) if runs else "{}",
    }


def _walls(study: Study, runs: Sequence[Run]) -> Confined:
    """The weakest of what stood around the runs."""
    stood = {run.confined or study.confined.word for run in runs} or {study.confined.word}
    return next(each for each in (Confined.NONE, Confined.LANDLOCK, Confined.BUBBLEWRAP) if each.word in stood)


def _trust(study: Study) -> Trust:
    """Where the study's numbers come from. Without walls the labels are within reach of the predictor, so nothing is blind."""
    settings = study.settings
    if settings.evaluate and settings.predict and not settings.unsafe_no_sandbox:
        return Trust.BLIND
    return Trust.EVALUATED if settings.evaluate else Trust.SELF_REPORTED
