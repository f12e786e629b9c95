"""What time it is where several hubs keep one queue: the store's server says so, and each goes on counting by its own clock for a second.

So all agree, however their machines' clocks are set. When the server's clock is set, or the server was started anew, another era begins: the queue
then extends every running lease once, rather than take workers for lost. Must not know what asks the server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

_FRESH = 1.0  # seconds for which our own clock is good enough
_STEP = 2.0  # seconds by which the two clocks may have gone apart since


class Moments:
    """The time by ``ask``, which says what the server's clock shows and when it was started; ``local`` is a clock that nobody sets."""

    def __init__(self, ask: Callable[[], tuple[float, float]], local: Callable[[], float]) -> None:
        self._ask, self._local = ask, local
        self._turn = threading.Lock()
        self._at, self._shown, self._started, self._steps = 0.0, 0.0, 0.0, ""
        self._sample(first=True)

    def __call__(self) -> tuple[float, str]:
        """Seconds since the epoch by the server, and the era that they belong to. Raises what ``ask`` raises."""
        with self._turn:
            if not 0 <= self._local() - self._at < _FRESH:
                self._sample()
            return self._shown + self._local() - self._at, f"{self._started:.3f}{self._steps}"

    def _sample(self, *, first: bool = False) -> None:
        before = self._local()
        shown, started = self._ask()
        now = self._local()
        expected = self._shown + now - self._at
        if not first and (before + _FRESH > now) and abs(shown - expected) > _STEP:
            self._steps = f" {shown:.0f}"
        self._at, self._shown, self._started = now, shown, started
