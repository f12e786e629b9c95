"""How much is left, how far ahead to think, and how long to wait after a failure. Times are arguments; nothing is read from a clock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from overnight.models import Experiment, Operator
from overnight.printable import duration
from overnight.settings import Settings

_LONGEST_WAIT = 300.0
_THINKERS = 16
_MARGIN = 1.5  # a proposal may take so much longer than the latest ones
_TURN = 0.3  # seconds that pass unnoticed: the schedule looks five times a second


class Pace:
    """Running totals against the budget, and the measured rhythm of thinking and training.

    ``gpus`` are those of one slot (one where there is none), ``totals`` are the sums of earlier loops, ``ran`` their seconds, ``count`` the experiments after the baseline.
    """

    def __init__(self, settings: Settings, totals: Mapping[str, float], ran: float, count: int, gpus: int = 1) -> None:
        self._gpus = gpus
        self._bounds = settings.bounds
        self._slots = settings.slots
        self._ahead = settings.ahead
        self._train_total = totals["train_seconds"]
        self._cost = totals["cost"]
        self._ran = ran
        self._count = count
        self._train = 0.0
        self._think = 0.0

    def begun(self) -> None:
        """One more experiment after the baseline has its number."""
        self._count += 1

    def settled(self, experiment: Experiment) -> None:
        """Learn the rhythm from a settled experiment."""
        self._train_total += experiment.seconds
        self._cost += experiment.cost
        if experiment.seconds:
            self._train = experiment.seconds if not self._train else 0.7 * self._train + 0.3 * experiment.seconds
        if experiment.operator in (Operator.IMPROVE, Operator.REPAIR, Operator.SIMPLIFY):
            self._think = experiment.think_seconds if not self._think else 0.7 * self._think + 0.3 * experiment.think_seconds

    def ran(self, elapsed: float) -> float:
        """Seconds of all loops, ``elapsed`` of them in this one."""
        return self._ran + elapsed

    def room(self, pending: int) -> bool:
        """Whether the budget of experiments holds one more beside ``pending`` proposals."""
        return self._bounds.experiments is None or self._count + pending < self._bounds.experiments

    def runs_left(self, elapsed: float) -> float:
        """How many runs the budget still holds, by experiments and by time; infinite without one."""
        bounds = self._bounds
        left = math.inf if bounds.experiments is None else float(bounds.experiments - self._count + 1)
        if bounds.seconds and self._train:
            left = min(left, self._slots * max(0.0, bounds.seconds - self.ran(elapsed)) / self._train)
        if bounds.gpu_seconds and self._train:
            left = min(left, max(0.0, bounds.gpu_seconds / self._gpus - self._train_total) / self._train)
        return left

    def spare(self, elapsed: float) -> bool:
        """Whether a few runs to look back may follow the last experiment: no time, GPU time or money is used up."""
        bounds = self._bounds
        return not (
            (bounds.seconds and self.ran(elapsed) >= bounds.seconds)
            or (bounds.gpu_seconds and self._train_total * self._gpus >= bounds.gpu_seconds)
            or (bounds.dollars and self._cost >= bounds.dollars)
        )

    def used_up(self, elapsed: float) -> str:
        """Which bound is reached, in words, or an empty string."""
        bounds = self._bounds
        if bounds.experiments is not None and self._count >= bounds.experiments:
            more = " (all since the study's beginning count)" if self._count > bounds.experiments else ""
            return f"budget used up: {self._count} of {bounds.experiments} experiments{more}"
        if bounds.seconds and self.ran(elapsed) >= bounds.seconds:
            return f"budget used up: {duration(self.ran(elapsed))} of {duration(bounds.seconds)}"
        if bounds.gpu_seconds and self._train_total * self._gpus >= bounds.gpu_seconds:
            return f"budget used up: {self._train_total * self._gpus / 3600:.2f} of {bounds.gpu_seconds / 3600:g} GPU hours"
        if bounds.dollars and self._cost >= bounds.dollars:
            return f"budget used up: ${self._cost:.2f} of ${bounds.dollars:.2f}"
        return ""

    def left(self, elapsed: float) -> str:
        """What is left of the budget, in words for a brief; empty if there is no bound."""
        bounds, parts = self._bounds, []
        if bounds.experiments is not None:
            parts.append(f"{max(0, bounds.experiments - self._count)} experiments")
        if bounds.seconds:
            parts.append(duration(max(0.0, bounds.seconds - self.ran(elapsed))))
        if bounds.gpu_seconds:
            parts.append(f"{max(0.0, bounds.gpu_seconds - self._train_total * self._gpus) / 3600:.1f} GPU hours")
        if bounds.dollars:
            parts.append(f"${max(0.0, bounds.dollars - self._cost):.2f}")
        return ", ".join(parts)

    def wanted(self, free: int, ages: Sequence[float] = ()) -> int:
        """How many proposals should be ready or on their way: enough that no slot waits, no more (they grow stale).

        ``ages`` are the seconds for which each running experiment has run. Whatever will end before a proposal begun now is there
        wants one; one more than now needed is always wanted, because trainings also end early.
        """
        if not self._ahead or (free == self._slots == 1):  # nothing runs: a second proposal would be made from the same brief
            return free
        horizon = _MARGIN * self._think + _TURN
        due = sum(self._ends_within(horizon, age) for age in ages) if self._train else 0
        return free + min(max(1, due), self._slots * self._slots, _THINKERS)

    def _ends_within(self, horizon: float, age: float) -> int:
        """How often the slot of an experiment of that age will be free within ``horizon`` seconds."""
        left = max(0.0, self._train - age)
        return 0 if left > horizon else 1 + int(min(_THINKERS, (horizon - left) / self._train))


class Patience:
    """Back-off after proposals that failed: 1, 2, 4 … 300 s. Every third failure in a row becomes a row, so rows grow rare as the pauses grow."""

    def __init__(self) -> None:
        self.streak = 0
        self._until = 0.0
        self._empty = 0

    def failed(self, now: float, least: float = 0.0) -> float:
        """The proposer was not available; returns the seconds to wait before it is asked again, not fewer than ``least``."""
        self.streak += 1
        return self._wait(now, self.streak, least)

    def row_due(self) -> bool:
        """Whether this failure is to be recorded as a row, so that a bounded study ends although its proposer never answers."""
        return self.streak % 3 == 0

    def rejected(self, now: float) -> None:
        """It answered, but with nothing that can be run; the third time in a row it is given a pause."""
        self.streak = 0
        self._empty += 1
        if self._empty > 2:
            self._wait(now, self._empty - 2)

    def worked(self) -> None:
        """It answered with something that can be run."""
        self.streak, self._until, self._empty = 0, 0.0, 0

    def _wait(self, now: float, times: int, least: float = 0.0) -> float:
        seconds = min(_LONGEST_WAIT, max(least, 0.5 * 2.0 ** min(times, 12)))
        self._until = now + seconds
        return seconds

    @property
    def until(self) -> float:
        """When the pause is over."""
        return self._until

    def due(self, now: float) -> bool:
        """Whether it may be asked again."""
        return now >= self._until
