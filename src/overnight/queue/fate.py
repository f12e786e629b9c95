"""What becomes of a job when an attempt of it is over. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from overnight.models import JobState
from overnight.queue.words import LOSSES

_FIRST, _LONGEST = 2.0, 300.0  # seconds before a job that failed is run again


@dataclass(frozen=True, slots=True)
class Fate:
    """The state of the job now, and what counts against it; ``delay`` seconds pass before it may be run again."""

    state: JobState
    failures: int
    losses: int
    delay: float = 0.0


def fate(outcome: JobState, tries: tuple[int, int, int], cancelled: str) -> Fate:
    """What becomes of the job; ``tries`` are the retries asked for, and the failures and losses before this attempt.

    A failure is run again with growing pauses as often as was asked for. A lost attempt is nobody's fault: it is run again at once, unless
    that happens too often. An attempt that its worker gave up without being asked for the job's end does not count at all.
    """
    retries, failures, losses = tries
    if cancelled and outcome is not JobState.SUCCEEDED:
        return Fate(JobState.CANCELLED, failures, losses)
    if outcome in (JobState.FAILED, JobState.TIMED_OUT):
        again = failures < retries
        return Fate(JobState.QUEUED if again else outcome, failures + 1, losses, min(_FIRST * 2**failures, _LONGEST) if again else 0.0)
    if outcome is JobState.LOST:
        return Fate(JobState.QUEUED if losses < LOSSES else JobState.LOST, failures, losses + 1)
    return Fate(JobState.QUEUED if outcome is JobState.CANCELLED else outcome, failures, losses)
