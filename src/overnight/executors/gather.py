"""Gathers what several threads want at nearly the same time, so that it is asked for once. Must not know what is asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

_LONGEST = 1.0
Wish = tuple[tuple[str, ...], Path]


class Gather:
    """``send`` gets the words and the folders of all who came with these words within ``seconds`` of the first.

    As long as ``coming`` tells of more than are there, they are waited for, a second at most.
    """

    def __init__(self, seconds: float, send: Callable[[tuple[str, ...], Sequence[Path]], None], coming: Callable[[], int]) -> None:
        self._seconds = seconds
        self._send = send
        self._coming = coming
        self._turn = threading.Lock()
        self._waiting: dict[tuple[str, ...], list[tuple[Path, Future[None]]]] = {}

    def add(self, wish: Wish) -> None:
        """Have it sent, with others; raises what ``send`` has raised."""
        words, folder = wish
        mine: Future[None] = Future()
        with self._turn:
            group = self._waiting.setdefault(words, [])
            group.append((folder, mine))
            leads = len(group) == 1
        if leads:
            until = time.monotonic() + _LONGEST
            time.sleep(self._seconds)
            while self._there() < self._coming() and time.monotonic() < until:
                time.sleep(self._seconds)
            self._flush(words)
        mine.result()

    def _there(self) -> int:
        with self._turn:
            return sum(map(len, self._waiting.values()))

    def _flush(self, words: tuple[str, ...]) -> None:
        with self._turn:
            group = self._waiting.pop(words)
        try:
            self._send(words, [folder for folder, _ in group])
        except BaseException as exc:  # noqa: BLE001 - handed to every thread that waits
            for _, future in group:
                future.set_exception(exc)
        else:
            for _, future in group:
                future.set_result(None)
