"""What the queue of a hub is kept in: a file in its folder, or a Postgres that several hubs share; and how those who wait are woken there.

Which Postgres it is, is written down in the hub's folder, so that every verb on this machine means the same queue; its password is not. Code and outputs
lie in the folder all the same: hubs that share a store share that too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overnight.doorbell import Doorbell, ring
from overnight.errors import BusyError, StorageError, UsageError
from overnight.queue.words import LEASE, Now
from overnight.store.database import Database
from overnight.store.moments import Moments
from overnight.store.pruning import JobsFile, OldJobs
from overnight.store.queue import Queue, QueueFile

if TYPE_CHECKING:
    from overnight.store.address import Address
    from overnight.store.notices import Notices
    from overnight.store.postgres import Postgres

STORE = "OVERNIGHT_HUB_STORE"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
SERVING = "serving"  # held by the one process that may serve a file
FILE, _NOTE = "hub.db", "store.json"
_EXTRA = "pip install 'overnight[postgres]'"


@dataclass(frozen=True, slots=True)
class Kept:
    """A queue that is open."""

    queue: Queue
    now: Callable[[], Now]  # by the clock of its leases
    era: str
    ring: Callable[[str], None]  # wakes all who wait for "claim", "stop", "log"
    bell: Callable[[str], AbstractContextManager[Any]]  # one who waits: ``wait(seconds)``
    shared: str = ""  # where it is, if several hubs may serve it


@contextlib.contextmanager
def kept(folder: Path, environ: Mapping[str, str], named: str = "") -> Iterator[Kept]:
    """The queue of the hub in ``folder``, in the store that is named, in ``$OVERNIGHT_HUB_STORE``, or written down there; else in its file.

    Raises ``UsageError``, ``StorageError``, ``UnreachableError``, ``NotAllowedError``.
    """
    note = _noted(folder)
    text = named or environ.get(STORE) or note.get("address", "")
    if text:
        with _served(folder, text, note, lease_of(environ)) as found:
            yield found
        return
    with contextlib.closing(Queue(QueueFile(folder / FILE))) as queue:
        wake = folder / "wake"
        yield Kept(queue, lambda: Now(clock(), time.time()), boot(), partial(ring, wake), partial(Doorbell, wake))


@contextlib.contextmanager
def opened(folder: Path, environ: Mapping[str, str]) -> Iterator[list[Database]]:
    """All that holds jobs of the hub in ``folder``, for who tidies up: its file, if there is one, and the Postgres that took its place.

    Raises what ``kept`` raises.
    """
    note, file = _noted(folder), folder / FILE
    text = environ.get(STORE) or note.get("address", "")
    with contextlib.ExitStack() as stack:
        held: list[Database] = [stack.enter_context(_connected(folder, text, note))] if text else []
        yield [*held, stack.enter_context(contextlib.closing(JobsFile(file)))] if file.exists() else held


def left_behind(folder: Path) -> int:
    """How many jobs the hub's own file holds that its Postgres knows nothing of."""
    if not (folder / FILE).exists():
        return 0
    with contextlib.closing(JobsFile(folder / FILE)) as file:
        return len(OldJobs(file).known())


def check_named(text: str) -> None:
    """Raise ``UsageError`` for an address that must not stand on a command line."""
    if text and _address(text).secret:
        raise UsageError(
            "E-STORE-PASSWORD", "a password on a command line can be read by everybody on this machine", why="and it may be in your shell's history now",
            fix=f"read -rs {STORE} && export {STORE} && overnight hub start   # or a line in ~/.pgpass",
        )  # fmt: skip


def lease_of(environ: Mapping[str, str]) -> float:
    """How long a worker may be silent before its jobs are run elsewhere."""
    try:
        found = float(environ.get("OVERNIGHT_HUB_LEASE") or LEASE)
    except ValueError:
        found = 0.0
    if not 0.2 <= found <= 86400:
        raise UsageError("E-SETTING", "OVERNIGHT_HUB_LEASE must be seconds, 0.2 at least", fix="export OVERNIGHT_HUB_LEASE=60")
    return found


def boot() -> str:
    """Names this run of the kernel; empty where that cannot be told."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def clock() -> float:
    """Seconds of a clock that runs on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


# --- Postgres ----------------------------------------------------------------------------------------------------------


def _address(text: str) -> Address:
    try:
        from overnight.store.address import read
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != "psycopg":
            raise
        raise UsageError(
            "E-EXTRA", "the package psycopg is not installed", why="a Postgres needs the extra 'postgres'", fix=_EXTRA
        ) from exc
    except ImportError as exc:  # psycopg is there, and libpq is not
        raise UsageError("E-EXTRA", "psycopg finds no libpq", why=str(exc)[:300], fix=_EXTRA) from exc
    return read(text)


@contextlib.contextmanager
def _served(folder: Path, text: str, note: Mapping[str, str], lease: float) -> Iterator[Kept]:
    with _connected(folder, text, note) as store, _noticed(store) as notices:
        queue = Queue(store)
        moments = Moments(store.time, clock)
        begun = moments()[1]

        def now() -> Now:
            nonlocal begun
            at, era = moments()
            if era != begun:
                queue.begin(era, at + lease, restarted=False)
                begun = era
            return Now(at, at)

        yield Kept(queue, now, begun, notices.ring, notices.bell, str(store.address))


@contextlib.contextmanager
def _connected(folder: Path, text: str, note: Mapping[str, str]) -> Iterator[Postgres]:
    """The Postgres of this folder."""
    address = _address(text)
    from overnight.store.postgres import Postgres

    with contextlib.closing(Postgres(address)) as store:
        _own(folder, Queue(store), store, note)
        yield store


@contextlib.contextmanager
def _noticed(store: Postgres) -> Iterator[Notices]:
    from overnight.store.notices import Notices

    with contextlib.closing(Notices(store)) as notices:
        yield notices


def _own(folder: Path, queue: Queue, store: Postgres, note: Mapping[str, str]) -> None:
    """See to it that store and folder belong together, and write it down. Raises ``UsageError``."""
    if not note:
        _check_file(folder)
    token = note.get("token") or f"{secrets.token_hex(8)} {socket.gethostname()}:{folder}"
    there = queue.belonging(token, new=not note)
    if there is None:
        raise UsageError(
            "E-HUB-STORE", f"{store.address} is empty, but this hub has been using {note['address']}",
            why="its jobs would be gone without a word", fix=f"rm {folder / _NOTE}   # if that is what you want",
        )  # fmt: skip
    if there.partition(" ")[0] != token.partition(" ")[0]:
        if not note and (again := _noted(folder)):
            return _own(folder, queue, store, again)  # another process was quicker
        raise UsageError(
            "E-HUB-STORE", f"{store.address} keeps the queue of another hub's folder", why=f"that of {there.partition(' ')[2]}, where code and outputs lie",
            fix="overnight hub start --hub THAT-FOLDER   # or another database",
        )  # fmt: skip
    if note.get("address") != str(store.address):
        _write(folder / _NOTE, {"schema": "overnight/hub-store/1", "address": str(store.address), "token": token})
    return None


def _check_file(folder: Path) -> None:
    """Raise ``UsageError`` if the hub's own file holds jobs that would be forgotten."""
    if not (folder / FILE).exists():
        return
    with contextlib.suppress(FileNotFoundError), (folder / SERVING).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise BusyError(
                "E-RUNNING", f"a hub serves {folder / FILE} now", fix="end it, then: overnight hub start --store ADDRESS"
            ) from exc
    with contextlib.closing(Queue(QueueFile(folder / FILE))) as queue:
        if found := sum(queue.counts().values()):
            raise UsageError(
                "E-HUB-STORE", f"{found} jobs still wait or run in {folder / FILE}, and would be forgotten",
                fix="overnight hub list   # let them end, or cancel them; or take another folder with --hub",
            )  # fmt: skip


def _noted(folder: Path) -> dict[str, str]:
    try:
        row = json.loads((folder / _NOTE).read_bytes())
        return {name: str(row[name]) for name in ("address", "token")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise UsageError("E-HUB-STORE", f"{folder / _NOTE} cannot be read: {exc}"[:300], fix=f"rm {folder / _NOTE}; overnight hub start --store ADDRESS") from exc  # fmt: skip


def _write(path: Path, row: Mapping[str, str]) -> None:
    partial_ = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        handle = os.open(partial_, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(row))
        os.replace(partial_, path)
    except OSError as exc:
        raise StorageError("E-HUB-FOLDER", f"{path} cannot be written: {exc.strerror}", fix=f"df -h {path.parent}") from exc
