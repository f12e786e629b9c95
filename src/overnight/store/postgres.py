"""A Postgres that keeps the queue of one or several hubs: connections, transactions, schema, and how its troubles are told.

A connection that broke is made anew, for some seconds in vain, then whoever asks hears of it (``UnreachableError``) and nothing is known; nobody
waits for a server that is silent. Every transaction is durable, also those that a file would not flush: a server that is killed forgets those
that it was not asked to flush, and who was told of them would not say it again. Must not know the queue.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any

import psycopg
from psycopg import errors

from overnight.errors import NotAllowedError, OvernightError, StorageError, UnreachableError, UsageError
from overnight.store import dialect
from overnight.store.address import Address
from overnight.store.database import ConflictError, Row, Session
from overnight.store.queue_rows import QUEUE_MIGRATIONS

CHANNEL = "overnight"
_MOST = 8  # connections of one process; more transactions at once wait for one
_STATEMENT, _SILENT = 20, 30.0  # seconds: the server ends a statement; we hang up
_PATIENCE = 5.0  # seconds for a server that was there before to be there again
_LOCK = 0x6F766572  # of migrations
_SETTINGS = f"""
    SET search_path TO overnight; SET synchronous_commit TO on; SET default_transaction_isolation TO 'read committed';
    SET statement_timeout TO '{_STATEMENT}s'; SET idle_in_transaction_session_timeout TO '{_STATEMENT}s'; SET client_min_messages TO warning;
"""
_AGAIN = (errors.UniqueViolation, errors.SerializationFailure, errors.DeadlockDetected, errors.LockNotAvailable)
_COMING = ("starting up", "shutting down", "not yet accepting connections", "in recovery mode")
Connection = psycopg.Connection[Any]


class _Row:
    """A row whose fields have names and numbers."""

    __slots__ = ("_names", "_values")

    def __init__(self, names: dict[str, int], values: Sequence[Any]) -> None:
        self._names, self._values = names, values

    def __getitem__(self, key: str | int) -> Any:
        return self._values[self._names[key] if isinstance(key, str) else key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)


def _named(cursor: psycopg.Cursor[Any]) -> Callable[[Sequence[Any]], _Row]:
    names = {column.name: number for number, column in enumerate(cursor.description or ())}
    return lambda values: _Row(names, values)


def _value(value: object) -> object:
    """A value as a column takes it: a text has no NUL and no half letters."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return int(value)
    return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd") if isinstance(value, str) else value


class _There:
    """A transaction of a connection."""

    def __init__(self, db: Connection) -> None:
        self._db = db

    def execute(self, sql: str, values: Sequence[object] = (), /) -> psycopg.Cursor[Any]:
        """See ``database.Session``."""
        return self._db.execute(dialect.statement(sql), [_value(value) for value in values])

    def executemany(self, sql: str, values: Iterable[Sequence[object]], /) -> None:
        """See ``database.Session``."""
        with self._db.cursor() as cursor:
            cursor.executemany(dialect.statement(sql), [[_value(value) for value in row] for row in values])

    def stream(self, sql: str, values: Sequence[object], /) -> Iterator[Row]:
        """See ``database.Session``: few rows first, for the first is mostly enough."""
        start, size = 0, 1
        while rows := self.execute(f"{sql} LIMIT {size} OFFSET {start}", values).fetchall():
            yield from rows
            if len(rows) < size:
                return
            start, size = start + size, size * 16


class Postgres:
    """The database at ``address``; its schema is made when missing. Fulfils ``database.Database``; any thread may call it.

    Raises ``UnreachableError`` (not there, silent), ``NotAllowedError``, ``UsageError``, ``StorageError`` (full, read-only, from a newer version).
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: list[Connection] = []
        self._room = threading.BoundedSemaphore(_MOST)
        self._mine = threading.local()
        self._busy: dict[Connection, float] = {}
        self._turn = threading.Lock()
        self._closed = threading.Event()
        self._late = threading.Thread(target=self._hang_up_late, name="store-late", daemon=True)
        with self._mapped():
            db = self._opened()
            try:
                self._migrate(db)
            except BaseException:
                db.close()
                raise
            self._idle.append(db)
        self._late.start()

    # --- what a queue asks for -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def write(self, *, synced: bool = True) -> Iterator[Session]:  # noqa: ARG002 - every transaction is flushed, see above
        """See ``database.Database``."""
        with self._mapped(), self._held("BEGIN") as db:
            self._mine.db = session = _There(db)
            try:
                yield session
                _commit(db)
            except BaseException:
                with contextlib.suppress(psycopg.Error):
                    db.execute("ROLLBACK")
                raise
            finally:
                self._mine.db = None

    def rows(self, sql: str, *values: object) -> list[Row]:
        """See ``database.Database``."""
        mine: _There | None = getattr(self._mine, "db", None)
        with self._mapped():
            if mine is not None:
                return mine.execute(sql, values).fetchall()
            begun = time.monotonic()
            try:
                with self._held() as db:
                    return _There(db).execute(sql, values).fetchall()
            except psycopg.OperationalError:
                if time.monotonic() > begun + _PATIENCE:  # else of a connection that broke since it was used last, perhaps
                    raise
                with self._held("SELECT 1") as db:
                    return _There(db).execute(sql, values).fetchall()

    def close(self) -> None:
        """Let go of it; further calls fail."""
        self._closed.set()
        while self._idle:
            self._idle.pop().close()
        self._late.join()

    # --- what else a server does ---------------------------------------------------------------------------------------

    def time(self) -> tuple[float, float]:
        """What the server's clock shows, and what it showed when the server was started."""
        with self._mapped(), self._held("SELECT 1") as db:
            shown, started = _one(db, "SELECT extract(epoch FROM clock_timestamp()), extract(epoch FROM pg_postmaster_start_time())")
            return float(shown), float(started)

    def notify(self, kinds: Iterable[str]) -> None:
        """Tell all who listen, wherever they are; it need not be on the disk."""
        said = "".join(f"NOTIFY {CHANNEL}, '{kind}';" for kind in kinds if kind.isalpha())
        with self._mapped(), self._held("SELECT 1") as db:
            db.execute(f"BEGIN; SET LOCAL synchronous_commit TO off; {said} COMMIT;".encode())

    def connected(self) -> Connection:
        """A connection of one's own; the caller closes it."""
        with self._mapped():
            return self._connect()

    # --- connections ---------------------------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        db: Connection = psycopg.connect(**self.address.options, autocommit=True, row_factory=_named)  # type: ignore[arg-type]
        try:
            db.execute(_SETTINGS.encode())
        except BaseException:
            db.close()
            raise
        return db

    def _opened(self) -> Connection:
        """The first connection: a server that is about to be there is waited for."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._connect()
            except psycopg.OperationalError as exc:
                if time.monotonic() > until or not any(word in str(exc) for word in _COMING):
                    raise
            time.sleep(0.1)

    @contextlib.contextmanager
    def _held(self, first: str = "") -> Iterator[Connection]:
        """A connection that has done ``first``, made anew if need be; what is said to it later is not said again."""
        if not self._room.acquire(timeout=_SILENT):
            raise psycopg.OperationalError("all connections are busy")
        try:
            db = self._begun(first)
            try:
                yield db
            finally:
                self._done(db)
        finally:
            self._room.release()

    def _begun(self, first: str) -> Connection:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                db = self._idle.pop()
            except IndexError:
                try:
                    db = self._connect()
                except psycopg.OperationalError:
                    if time.monotonic() > until or self._closed.is_set():
                        raise
                    time.sleep(0.05)
                    continue
            self._watched(db)
            if not first:
                return db
            try:
                db.execute(first.encode())
            except psycopg.OperationalError:
                self._done(db)
                if time.monotonic() > until:
                    raise
            else:
                return db

    def _watched(self, db: Connection) -> None:
        with self._turn:
            self._busy[db] = time.monotonic() + _SILENT

    def _done(self, db: Connection) -> None:
        with self._turn:
            del self._busy[db]
        if db.closed or db.info.transaction_status != psycopg.pq.TransactionStatus.IDLE or self._closed.is_set():
            db.close()
        else:
            self._idle.append(db)

    def _hang_up_late(self) -> None:
        """Cut connections off whose server is silent; whoever waits for it hears that at once."""
        while not self._closed.wait(1.0):
            with self._turn:
                for db in [db for db, until in self._busy.items() if until < time.monotonic()]:
                    cut_off(db)

    # --- schema --------------------------------------------------------------------------------------------------------

    def _migrate(self, db: Connection) -> None:
        if _version(db) == len(QUEUE_MIGRATIONS):
            return
        encoding = _one(db, "SHOW server_encoding")[0]
        if encoding != "UTF8":
            raise UsageError(
                "E-STORE-ENCODING", f"{self.address} keeps texts as {encoding}, not as UTF8",
                fix="createdb --encoding UTF8 --template template0 overnight",
            )  # fmt: skip
        db.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))  # before the transaction, which then sees what others have made
        try:
            with db.transaction():
                self._make(db, _version(db))
        finally:
            db.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))

    def _make(self, db: Connection, version: int) -> None:
        if version > len(QUEUE_MIGRATIONS):
            raise StorageError(
                "E-NEWER-STORE",
                f"{self.address} was written by a newer overnight (schema {version})",
                fix="pip install --upgrade overnight",
            )
        if _one(db, "SELECT to_regnamespace('overnight')")[0] is None:
            db.execute("CREATE SCHEMA overnight")
        for number, script in enumerate(QUEUE_MIGRATIONS[version:], version + 1):
            db.execute(dialect.migration(number, script).encode())
        said = "INSERT INTO meta VALUES ('schema', %s) ON CONFLICT (name) DO UPDATE SET value=excluded.value"
        db.execute(said, (str(len(QUEUE_MIGRATIONS)),))

    # --- troubles ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except _AGAIN as exc:
            raise ConflictError(str(exc)) from exc
        except psycopg.Error as exc:
            raise self._trouble(exc) from exc

    def _trouble(self, exc: psycopg.Error) -> OvernightError:
        """What a person is told; the server's own words hold no password."""
        why = " ".join(str(exc).split())[:500]
        if isinstance(exc, errors.DiskFull | errors.ReadOnlySqlTransaction):
            return StorageError("E-STORE", f"the store {self.address} cannot be written", why=why, fix="ask who runs that Postgres")
        if isinstance(exc, errors.InsufficientPrivilege) or "authentication failed" in why or "no password supplied" in why:
            return NotAllowedError(
                "E-STORE-RIGHTS", f"the store {self.address} does not let us in", why=why, fix="chmod 600 ~/.pgpass   # a line  host:port:database:user:password"
            )  # fmt: skip
        if isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError):
            return UnreachableError(
                "E-STORE-UNREACHABLE", f"the store {self.address} does not answer", why=why, fix=f"pg_isready --dbname '{self.address}'"
            )
        return StorageError(
            "E-STORE", f"the store {self.address} cannot be used", why=why, fix=f"psql '{self.address}' --command '\\dt overnight.*'"
        )


def _one(db: Connection, sql: str) -> Row:
    row = db.execute(sql.encode()).fetchone()
    assert row is not None
    return row


def _commit(db: Connection) -> None:
    if db.execute("COMMIT").statusmessage != "COMMIT":
        raise psycopg.OperationalError("the transaction was undone")


def _version(db: Connection) -> int:
    if _one(db, "SELECT to_regclass('overnight.meta')")[0] is None:
        return 0
    row = db.execute("SELECT value FROM overnight.meta WHERE name='schema'").fetchone()
    return int(row[0]) if row else 0


def cut_off(db: Connection) -> None:
    """Hang up from another thread: whoever waits on the connection wakes with an error."""
    with contextlib.suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(db.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)
