"""The one place where threads and the asynchronous library meet: an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from overnight.errors import UnreachableError

_T = TypeVar("_T")
_LAST_TURNS = 8  # connections that were closed are gone after a few turns more


class Loop:
    """An event loop that runs until it is closed; ``run`` may be called by any other thread."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_pass_over)
        self._lock, self._ending = threading.Lock(), False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What the work returns or raises; an interrupt ends the work too. Raises ``UnreachableError`` when the loop is closed."""
        with self._lock:
            if self._ending:
                work.close()
                raise _closed()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError as exc:
            raise _closed() from exc
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop and all that is still under way in it."""
        with self._lock:
            if not self._ending:
                self._ending = True
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        for _ in range(_LAST_TURNS):
            self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


def _closed() -> UnreachableError:
    return UnreachableError("E-RELAY-CLOSED", "the connection to the relay was closed", fix="overnight relay status   # on the relay")


def _pass_over(_loop: asyncio.AbstractEventLoop, _context: dict[str, Any]) -> None:
    """Nobody waits for what fails here: a connection that is being dropped has nothing to add."""
