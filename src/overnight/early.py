"""Whether a run that goes on is worth its time: its streamed metric beside the curves in the record.

The rules are pure and lie in ``judge.stopping``; this room only brings the curves together. A run ended early is never kept.
"""

from __future__ import annotations

import math

from overnight.judge.stopping import Curve, Stop, asha, envelope, health, spared
from overnight.models import Direction, Study
from overnight.store import Store

_REPORTS = 4  # of the best run's curve: with fewer there is nothing to compare with
_OTHERS = 30  # experiments that a broad search looks back on


class EarlyStop:
    """Judges running experiments of one study by the rule that its settings name."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def verdict(self, study: Study, number: int, curve: Curve) -> Stop | None:
        """Why the run is to be ended now; None = let it go on. ``curve`` are the goal metric's points so far."""
        rule, best = study.settings.early_stop, self._store.bar(study.id)
        if rule == "none" or not curve:
            return None
        sick = health(curve, loss=study.direction is Direction.MINIMIZE)
        if sick is not None or rule == "health" or best is None or best[0] == number:
            return sick
        incumbents = [found for found in self._curves(study, best[0]) if len(found) >= _REPORTS]
        if not incumbents:
            return None
        total, sign = incumbents[0][-1][0], 1.0 if study.direction is Direction.MAXIMIZE else -1.0
        if rule == "asha":
            others = [found for other in range(max(1, number - _OTHERS), number) for found in self._curves(study, other)[:1]]
            stop = asha(curve, others, total, sign)
        else:
            stop = envelope(curve, incumbents, total, self._store.sigma(study.id) or 0.0, sign)
        return None if stop is not None and spared(number, study.settings.seed) else stop

    def _curves(self, study: Study, number: int) -> list[Curve]:
        found: dict[int, list[tuple[float, float]]] = {}
        for attempt, step, value in self._store.curve(study.id, number, study.metric):
            found.setdefault(attempt, []).append((step, value if value is not None else math.nan))
        return list(found.values())
