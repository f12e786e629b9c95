"""Waking those who wait for the hub, on whatever machine they are: a notice of the Postgres that keeps its queue.

A notice that is lost only makes somebody look a little later: all who wait look by themselves too. Must not know what there is to be seen.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Self

import psycopg

from overnight.errors import OvernightError
from overnight.store.postgres import CHANNEL, Connection, Postgres, cut_off

_PAUSE = 0.5  # seconds before listening again
_LAST = 5.0  # seconds for the last notices of who ends


class Bell:
    """One who waits for what concerns ``kind``."""

    def __init__(self, notices: Notices, kind: str) -> None:
        self.kind = kind
        self._notices = notices
        self._turn = threading.Condition()
        self._rings = 0
        self._mine = threading.local()  # how many this thread has heard

    def rung(self) -> None:
        """Wake all threads that wait here."""
        with self._turn:
            self._rings += 1
            self._turn.notify_all()

    def wait(self, seconds: float) -> bool:
        """Sleep until it rings, ``seconds`` at most; whether it rang. Rings that came since this thread waited last count."""
        with self._turn:
            heard = getattr(self._mine, "heard", 0)
            rang = self._turn.wait_for(lambda: self._rings != heard, seconds)
            self._mine.heard = self._rings
            return rang

    def close(self) -> None:
        """Take the bell down."""
        self._notices.bells.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Notices:
    """Notices of a store; its threads run once they are needed."""

    def __init__(self, store: Postgres) -> None:
        self._store = store
        self.bells: set[Bell] = set()
        self._turn = threading.Condition()
        self._said: set[str] = set()
        self._closed = False
        self._ear: Connection | None = None
        self._threads: dict[str, threading.Thread] = {}

    def ring(self, kind: str) -> None:
        """Wake all who wait for this kind, soon; many rings at once are one."""
        with self._turn:
            self._said.add(kind)
            self._turn.notify_all()
        self._run("ringer", self._ring)

    def bell(self, kind: str) -> Bell:
        """One more who waits."""
        made = Bell(self, kind)
        self.bells.add(made)
        self._run("listener", self._listen)
        return made

    def close(self) -> None:
        """Say what is left to be said, and hear no more."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
            if self._ear is not None:
                cut_off(self._ear)
        for thread in self._threads.values():
            thread.join(_LAST)

    def _run(self, name: str, what: object) -> None:
        with self._turn:
            if name not in self._threads and not self._closed:
                self._threads[name] = threading.Thread(target=what, name=f"store-{name}", daemon=True)  # type: ignore[arg-type]
                self._threads[name].start()

    def _ring(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._said or self._closed)
                said, self._said = self._said, set()
            if not said:
                return
            with contextlib.suppress(OvernightError):
                self._store.notify(said)

    def _listen(self) -> None:
        while not self._closed:
            with contextlib.suppress(OvernightError, psycopg.Error):
                self._hear()
            with self._turn:
                self._turn.wait_for(lambda: self._closed, _PAUSE)

    def _hear(self) -> None:
        with contextlib.closing(self._store.connected()) as ear:
            ear.execute(f"LISTEN {CHANNEL}".encode())
            with self._turn:
                if self._closed:
                    return
                self._ear = ear
            try:
                for bell in tuple(self.bells):
                    bell.rung()  # there may have been something meanwhile
                for notice in ear.notifies():
                    for bell in tuple(self.bells):
                        if bell.kind == notice.payload:
                            bell.rung()
            finally:
                with self._turn:
                    self._ear = None
