"""Sessions: within one, every request has a higher number than the last, so that nothing can be replayed or reordered.

The hub makes a session when a member says hello, and forgets all of them when it ends; a member that is told so says hello again. Pure but
for the making of keys; the clock is an argument.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from dataclasses import dataclass, field

MOST = 64  # sessions of one member: each of its processes has one
KEPT = 64  # answers of a session that are kept for who asks again
ALIVE = 150.0  # seconds since its last request within which a member is told of things


@dataclass(slots=True)
class Session:
    """One process of one member."""

    key: bytes
    ear: bytes  # the member's own mark for what is pushed to it
    heard: int = 0  # the highest number of a request
    said: int = 0  # the highest number of a push
    used: float = 0.0
    answers: OrderedDict[bytes, asyncio.Future[bytes]] = field(default_factory=OrderedDict)

    def accept(self, sequence: int, now: float) -> bool:
        """Whether a request with this number is new."""
        if sequence <= self.heard:
            return False
        self.heard, self.used = sequence, now
        return True

    def keep(self, mark: bytes, answer: asyncio.Future[bytes]) -> None:
        """Remember the answer to a request, so that asking again does nothing twice."""
        self.answers[mark] = answer
        given = [each for each, found in self.answers.items() if found.done()] if len(self.answers) > KEPT else []
        for each in given[: len(self.answers) - KEPT]:  # what is still worked on may be asked for again
            del self.answers[each]

    def waiting(self) -> int:
        """How many requests have no answer yet."""
        return sum(not answer.done() for answer in self.answers.values())


class Sessions:
    """All sessions that a hub has made, by member."""

    def __init__(self) -> None:
        self._found: dict[str, OrderedDict[bytes, Session]] = {}

    def open(self, name: str, ear: bytes, now: float) -> Session:
        """A new session of a member; the one that was used the longest ago makes room."""
        mine = self._found.setdefault(name, OrderedDict())
        made = Session(os.urandom(16), ear, used=now)
        mine[made.key] = made
        while len(mine) > MOST:
            mine.popitem(last=False)
        return made

    def find(self, name: str, key: bytes) -> Session | None:
        """The member's session with this key."""
        mine = self._found.get(name, OrderedDict())
        if key in mine:
            mine.move_to_end(key)
        return mine.get(key)

    def members(self) -> list[str]:
        """Who has ever had a session."""
        return list(self._found)

    def alive(self, name: str, now: float) -> list[Session]:
        """The member's sessions that have asked for something lately."""
        return [each for each in self._found.get(name, {}).values() if now - each.used < ALIVE]
