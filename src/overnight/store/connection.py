"""The connection to the record: how it is opened, migrated, locked, and how its troubles are told.

Writes are whole transactions, durable when the call returns (WAL, ``synchronous=FULL``). Knows no table but that of events.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from overnight.errors import NotFoundError, StorageError
from overnight.store.flush import Flush
from overnight.store.schema import MIGRATIONS


class Connection:
    """The database at ``path``; made when missing unless ``readonly``.

    Raises ``NotFoundError`` (readonly, no file), ``StorageError`` (disk full, damaged, from a newer version).
    """

    migrations: tuple[str, ...] = MIGRATIONS
    shares_flushes = False  # whether threads that write at the same time have their transactions brought to the disk together

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        if readonly and not path.exists():
            raise NotFoundError("E-NO-STUDY", f"there is no study here: {path} does not exist", fix="overnight run -- python train.py")
        self._path = path
        self._lock = threading.RLock()
        self._synced = True
        self._flush: Flush | None = None
        self._base: dict[tuple[int, str], bytes] = {}
        with self._mapped():
            try:
                self._db = self._connect("?mode=ro" if readonly else "")
            except sqlite3.OperationalError:
                if not readonly or path.with_name(path.name + "-wal").exists():
                    raise
                self._db = self._connect("?immutable=1")  # in a folder that is not ours to write to; nobody else writes now
            try:
                self._migrate(readonly=readonly)
                if self.shares_flushes and not readonly:
                    self._flush = Flush.of(self._db, path)
            except BaseException:
                self._db.close()
                raise

    def _connect(self, how: str) -> sqlite3.Connection:
        db = sqlite3.connect(self._path.absolute().as_uri() + how, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
        db.row_factory = sqlite3.Row
        try:
            for pragma in ("user_version",) if how else ("journal_mode=WAL", "synchronous=FULL"):
                db.execute(f"PRAGMA {pragma}")
        except BaseException:
            db.close()
            raise
        return db

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    @property
    def outdated(self) -> bool:
        """Whether the file was written by an earlier version and opened for reading alone, so that newer tables are missing."""
        return self._version() < len(self.migrations)

    def _migrate(self, *, readonly: bool) -> None:
        version = self._version()
        if version > len(self.migrations):
            raise StorageError(
                "E-NEWER-STORE", f"{self._path} was written by a newer overnight (schema {version})", fix="pip install --upgrade overnight"
            )
        if readonly and version == 0:
            raise NotFoundError("E-NO-STUDY", "there is no study here yet", fix="overnight run -- python train.py")
        if readonly or version == len(self.migrations):
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            lacking = self.migrations[self._version() :]  # another one who opened it at the same time may have been quicker
            for statement in (each for script in lacking for each in _statements(script)):
                self._db.execute(statement)
            if lacking:
                self._db.execute(f"PRAGMA user_version={len(self.migrations)}")
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the connection; further calls fail."""
        with self._lock:
            if self._flush:
                self._flush.close()
            self._db.close()

    def check(self) -> None:
        """Raise ``StorageError`` when the file is damaged."""
        with self._mapped():
            found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise StorageError("E-DAMAGED", f"{self._path} is damaged: {found}", fix=f"sqlite3 {self._path} .recover")

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (sqlite3.DatabaseError, zlib.error) as exc:
                raise self._unusable(exc) from exc

    def _unusable(self, exc: Exception) -> StorageError:
        path = shlex.quote(str(self._path))
        foreign = "not a database" in str(exc)
        fix = (
            f"mv {path} {path}.put-aside   # the next run begins a new one"
            if foreign
            else f"df -h . ; ls -l {shlex.quote(str(self._path.parent))}"
        )
        return StorageError("E-STORE", f"the record {self._path} cannot be used: {exc}", fix=fix)

    @contextlib.contextmanager
    def _write(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction. Not ``synced``: a power cut may take it, but never without all that came after it."""
        written = 0
        with self._mapped():
            at_once = synced and not self._flush
            if at_once is not self._synced:
                self._db.execute(f"PRAGMA synchronous={'FULL' if at_once else 'NORMAL'}")
                self._synced = at_once
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
            if synced and self._flush:
                written = self._flush.written()
        if written and self._flush:
            with self._on_disk():
                self._flush.wait_for(written)

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise self._unusable(exc) from exc

    def _rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.DatabaseError as exc:
                raise self._unusable(exc) from exc

    def _event(self, study: int, number: int, kind: str, now: float, data: Mapping[str, object]) -> None:
        self._db.execute(
            "INSERT INTO event (time, study, number, type, data) VALUES (?,?,?,?,?)", (now, study, number, kind, json.dumps(data))
        )


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: SQLite runs no script within a transaction that was begun before."""
    text = ""
    for part in script.split(";")[:-1]:
        text += f"{part};"
        if sqlite3.complete_statement(text):
            yield text
            text = ""
