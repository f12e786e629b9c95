"""Cards that a worker has and does not offer, because somebody else computes on them or they are broken now: looked at now and then.

Asked is only about cards that none of the worker's own jobs holds, so whoever is on one of them is a stranger, be it what a job has left.
Must not know what a job is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from overnight import gpus
from overnight.gpus import Inventory

_EVERY, _SOON = 15.0, 2.0  # seconds between two looks; the second while a card is not offered


class Strangers:
    """Called, it gives the cards of ``mine`` (their indices) that must not be offered now; ``busy`` are those that own jobs hold.

    Each card that is taken out or back is said once. ``clock`` gives seconds; ``look`` asks the machine.
    """

    def __init__(
        self, mine: Sequence[str], clock: Callable[[], float], say: Callable[[str], None], look: Callable[[], Inventory] = gpus.look
    ) -> None:
        self._mine = tuple(mine)
        self._clock, self._say, self._look = clock, say, look
        self._out: dict[str, str] = {}  # card -> why it is not offered
        self._busy: frozenset[str] = frozenset()
        self._due = clock()

    def __call__(self, busy: frozenset[str] = frozenset()) -> frozenset[str]:
        """The cards that are not offered now; own jobs' cards are not among them."""
        free = [index for index in self._mine if index not in busy]
        if self._busy - busy:  # what a job has left would be seen first on the card that it has just given back
            self._due = self._clock()
        self._busy = busy
        if free and self._clock() >= self._due:
            self._see(free)
            self._due = self._clock() + (_SOON if self._out else _EVERY)
        return frozenset(self._out) - busy

    def _see(self, free: Sequence[str]) -> None:
        told = self._look()
        there = {card.index: card for card in told.cards}
        found: dict[str, str] = {}
        for index in free:
            why = (
                gpus.offer([there[index]])[1]
                if index in there
                else [f"GPU {index} is not offered: {told.trouble or 'it is not there any more'}"]
            )
            if why:
                found[index] = why[0]
        for reason in (found[index] for index in found if index not in self._out):
            self._say(reason)
        for index in (each for each in free if each in self._out and each not in found):
            self._say(f"GPU {index} is offered again")
        self._out = found
