"""Whether a run that goes on is worth its time: its streamed metric beside the curves in the record.

The rules are pure and lie in ``judge.stopping``; this room only brings the curves together. A run ended early is never kept. One in
twenty of those that would be ended goes on to its end, so that wrong kills are counted rather than believed away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from overnight.judge.stopping import Curve, Stop, asha, envelope, health, spared
from overnight.models import Direction, Operator, Study
from overnight.store import Store

_REPORTS = 4  # of the best run's curve: with fewer there is nothing to compare with
_OTHERS = 30  # experiments that a broad search looks back on


@dataclass(frozen=True, slots=True)
class _Measure:
    """What running experiments are held against while ``best`` is the best."""

    best: int
    curves: tuple[Curve, ...]
    sd: float


class EarlyStop:
    """Judges running experiments of one study by the rule that its settings name."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._measure: _Measure | None = None
        self._spared: set[int] = set()

    def verdict(self, study: Study, number: int, curve: Curve) -> Stop | None:
        """Why the run is to be ended now; None = let it go on. ``curve`` are the goal metric's points so far.

        ``spared`` in the answer: it is to go on, and ``spare`` is to be told.
        """
        rule = study.settings.early_stop
        if rule == "off" or not curve:
            return None
        sick = health(curve, loss=study.direction is Direction.MINIMIZE)
        best = self._store.bar(study.id) if sick is None and rule != "health" and number not in self._spared else None
        if sick is not None or best is None or best[0] == number:
            return sick
        measure = self._against(study, best[0])
        if not measure.curves:
            return None
        total, sign = measure.curves[0][-1][0], 1.0 if study.direction is Direction.MAXIMIZE else -1.0
        if rule == "asha":
            others = [found for other in range(max(1, number - _OTHERS), number) for found in self._curves(study, other)[:1]]
            stop = asha(curve, others, total, sign)
        else:
            stop = envelope(curve, measure.curves, total, measure.sd, sign)
        if (
            stop is None or self._store.experiment(study.id, number).operator is Operator.WAVE
        ):  # a low row of a wave says as much as a high one
            return None
        return replace(stop, spared=spared(number, study.settings.seed))

    def spare(self, study: Study, number: int, stop: Stop) -> None:
        """Write down that the experiment goes on although it would have been ended."""
        if number not in self._spared:
            self._spared.add(number)
            self._store.spare(study.id, number, stop.reason)

    def _against(self, study: Study, best: int) -> _Measure:
        if self._measure is None or self._measure.best != best:
            curves = tuple(found for found in self._curves(study, best) if len(found) >= _REPORTS)
            self._measure = _Measure(best, curves, self._store.sigma(study.id) or 0.0)
        return self._measure

    def _curves(self, study: Study, number: int) -> list[Curve]:
        found: dict[int, list[tuple[float, float]]] = {}
        for attempt, step, value in self._store.curve(study.id, number, study.metric):
            found.setdefault(attempt, []).append((step, value if value is not None else math.nan))
        return list(found.values())
