"""What the queue is kept in: a file of SQLite, or a Postgres that several hubs share. One Protocol, two implementations.

SQL is written once, as SQLite speaks it. What Postgres alone must be told stands in comments of the form ``/*+ … */``: which rows are locked until the
transaction ends. A file has one writer at a time, so that it needs none of it. Must not know a table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ParamSpec, Protocol, TypeVar

from overnight.store.connection import Connection

_P = ParamSpec("_P")
_R = TypeVar("_R")
_TRIES = 20
Row = Any  # fields by name or number


class ConflictError(Exception):
    """Two transactions wanted the same, and this one was undone: it is begun again."""


class Cursor(Protocol):
    """The rows that a statement has found."""

    def fetchone(self) -> Row:
        """The next row, or None."""
        ...

    def fetchall(self) -> list[Row]:
        """All that are left."""
        ...

    def __iter__(self) -> Iterator[Row]: ...


class Session(Protocol):
    """One transaction."""

    def execute(self, sql: str, values: Sequence[object] = ..., /) -> Cursor:
        """Do one statement."""
        ...

    def executemany(self, sql: str, values: Iterable[Sequence[object]], /) -> object:
        """Do one statement for each row of values."""
        ...

    def stream(self, sql: str, values: Sequence[object], /) -> Iterator[Row]:
        """Rows that are not all wanted: they are fetched as they are asked for."""
        ...


class Database(Protocol):
    """Where a queue is kept. Every method may raise ``StorageError`` or ``UnreachableError``, and then nothing is known."""

    def write(self, *, synced: bool = True) -> AbstractContextManager[Session]:
        """One transaction, durable when it is over. Not ``synced``: a power cut may take it, but never without all that came after it."""
        ...

    def rows(self, sql: str, *values: object) -> list[Row]:
        """What a statement finds, within the transaction of this thread if there is one."""
        ...

    def close(self) -> None:
        """Let go of it; further calls fail."""
        ...


class _Here:
    """A transaction in a file."""

    def __init__(self, db: Any) -> None:
        self.execute, self.executemany, self.stream = db.execute, db.executemany, db.execute


class File(Connection):
    """A database in a file of its own; its class has the ``migrations``. Raises what ``Connection`` raises."""

    @contextmanager
    def write(self, *, synced: bool = True) -> Iterator[Session]:
        """See ``Database``."""
        with self._write(synced=synced) as db:
            yield _Here(db)

    def rows(self, sql: str, *values: object) -> list[Row]:
        """See ``Database``."""
        return self._rows(sql, *values)


def again(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Begin a transaction again that another was in the way of."""

    @functools.wraps(method)
    def tried(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for _ in range(_TRIES - 1):
            try:
                return method(*args, **kwargs)
            except ConflictError:
                continue
        return method(*args, **kwargs)

    return tried
