"""One flush for all who wait for one: transactions of several threads are brought to the disk together.

SQLite would flush each transaction alone, while all others wait. Here a transaction is written without a flush, and whoever needs it on
the disk flushes the write-ahead log afterwards, outside of the database's lock; those who come meanwhile share the next flush. Nobody is
told before it is over. A later transaction never survives without an earlier one, for they lie in one file in their order.
Knows nothing of what is written.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from typing import Self

_sync = getattr(os, "fdatasync", os.fsync)


class Flush:
    """The flushes of one write-ahead log, which lives as long as a connection to its database is open."""

    def __init__(self, log: Path) -> None:
        """Raises ``OSError``."""
        self._fd = os.open(log, os.O_RDWR | os.O_CLOEXEC)
        self._turn = threading.Lock()
        self._written = 0  # transactions that may wait for the disk
        self._safe = 0  # those of them that are on it
        self._failed: OSError | None = None  # a disk that failed once is not believed afterwards

    @classmethod
    def of(cls, db: sqlite3.Connection, path: Path) -> Self | None:
        """The flushes of a database; None where it has no such log: then SQLite's own are needed."""
        try:
            return cls(path.with_name(f"{path.name}-wal")) if db.execute("PRAGMA journal_mode").fetchone()[0] == "wal" else None
        except OSError:
            return None

    def written(self) -> int:
        """Count a transaction that was just written; called under the database's lock. What is to be waited for."""
        self._written += 1
        return self._written

    def wait_for(self, number: int) -> None:
        """Return when that transaction is on the disk. Raises ``OSError``."""
        with self._turn:
            if self._safe >= number:
                return
            if self._failed:
                raise self._failed
            reached = self._written
            try:
                _sync(self._fd)
            except OSError as exc:
                self._failed = exc
                raise
            self._safe = reached

    def close(self) -> None:
        """Forget the log; again is nothing."""
        with self._turn:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)
