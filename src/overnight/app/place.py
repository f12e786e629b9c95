"""Where a study lives: the state folder, its database, and the lock that one loop at a time holds."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from overnight.errors import BusyError, NotFoundError, StorageError, UsageError
from overnight.store import Store

if TYPE_CHECKING:  # looking at the record needs no git
    from overnight.workspace import Workspace

STATE = ".overnight"
TRIAL = "a trial"  # what holds the lock when no loop does
_SILENT = "a process that does not say who it is"
_TRIES, _INSTANT = 50, 0.002  # times that a lock is tried, and seconds between them
_OWN = {".gitignore", "copies", "git", "jobs", "lock", "loop.log", "lost+found", "runs"}  # what a state folder can hold without a record


@dataclass(frozen=True, slots=True)
class Place:
    """The state folder of a project and what lies in it."""

    state: Path

    @property
    def database(self) -> Path:
        """The record."""
        return self.state / "overnight.db"

    @property
    def jobs(self) -> Path:
        """Job folders: spec, log, metrics and status of every run."""
        return self.state / "jobs"

    def read(self) -> Store:
        """The record, for reading only. Raises ``NotFoundError``."""
        return Store(self.database, readonly=True)

    def holder(self) -> str:
        """Who runs the loop now, in words; empty if nobody does."""
        with contextlib.suppress(OSError):
            handle = os.open(self.state / "lock", os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _named(handle) or _SILENT
            finally:
                os.close(handle)
        return ""

    def holder_pid(self) -> int:
        """Process id of the loop that runs now on this machine, else 0."""
        words = self.holder().split()
        return int(words[1]) if len(words) > 1 and words[0] == "pid" and words[1].isdigit() else 0


def is_held(lock: Path) -> bool:
    """Whether a process holds this lock."""
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def try_lock(handle: int) -> bool:
    """Take the lock of an open file, unless another process has it for good: whoever asks if it is held has it shared for an instant."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_INSTANT)
        else:
            return True
    return False


def find(start: Path, state: Path | None, environ: Mapping[str, str]) -> Place:
    """The state folder named, or the nearest ``.overnight`` at or above ``start``. Raises ``NotFoundError``."""
    named = state or (Path(environ["OVERNIGHT_STATE"]) if environ.get("OVERNIGHT_STATE") else None)
    if named is not None:
        return Place((start / named).absolute())
    for folder in (start.absolute(), *start.absolute().parents):
        if (folder / STATE / "overnight.db").exists():
            return Place(folder / STATE)
    raise NotFoundError(
        "E-NO-STUDY",
        f"there is no study in {start} or above",
        why=f"no {STATE}/overnight.db was found",
        fix="overnight run -- python train.py",
    )


def default(folder: Path) -> Place:
    """``.overnight`` at the top of the checkout that holds ``folder``."""
    above = (folder.absolute(), *folder.absolute().parents)
    return Place(next((each for each in above if (each / ".git").exists()), above[0]) / STATE)


@contextlib.contextmanager
def workspace(folder: Path, place: Place) -> Iterator[Workspace]:
    """The repository that holds ``folder``, with the state folder made.

    Raises ``UsageError``: no repository, or a state folder that cannot be made or belongs to somebody else.
    """
    _refuse_foreign(place)
    with contextlib.ExitStack() as stack:
        try:
            from overnight.workspace import Workspace

            opened = stack.enter_context(Workspace.open(folder, place.state))
        except StorageError:
            make(place)  # says it better when it is the state folder that cannot be written
            raise
        make(place)
        yield opened


def _refuse_foreign(place: Place) -> None:
    """A folder full of other things is no state folder: ours would be mixed with them."""
    with contextlib.suppress(OSError):
        names = {path.name for path in place.state.iterdir()}
        if names - _OWN and "overnight.db" not in names:
            raise UsageError(
                "E-STATE-FOLDER",
                f"{place.state} holds other files",
                why="a state folder must be new, empty, or one of an earlier run",
                fix=f"overnight run --state {shlex.quote(str(place.state / 'overnight'))}",
            )


def make(place: Place) -> None:
    """Make the state folder; raises ``UsageError`` when that is not allowed, ``StorageError`` when the disk refuses."""
    try:
        place.state.mkdir(parents=True, exist_ok=True)
        place.jobs.mkdir(exist_ok=True)
        (place.state / ".gitignore").write_text("*\n", encoding="utf-8")
    except (PermissionError, FileExistsError, NotADirectoryError) as exc:
        raise UsageError(
            "E-READ-ONLY",
            f"{place.state} cannot be made: {exc.strerror}",
            fix="overnight run --state ~/overnight-state   # a folder you can write",
        ) from exc
    except OSError as exc:
        if exc.errno == 30:  # EROFS
            raise UsageError(
                "E-READ-ONLY", f"{place.state} is on a read-only file system", fix="overnight run --state ~/overnight-state"
            ) from exc
        raise StorageError(
            "E-STORE",
            f"{place.state} cannot be written: {exc.strerror}",
            fix="df -h .   # or elsewhere: overnight run --state ~/overnight-state",
        ) from exc


@contextlib.contextmanager
def held(place: Place, name: str = "lock", what: str = "") -> Iterator[None]:
    """Hold the study's lock, or another one; it dies with the process. Raises ``BusyError`` naming who holds it, and ``what`` it is if no loop."""
    handle = os.open(place.state / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _take(handle, place)
        text = json.dumps({"pid": os.getpid(), "host": os.uname().nodename, "since": time.time(), "what": what})
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)
        yield
    finally:
        os.close(handle)


def busy(place: Place, holder: str) -> BusyError:
    """The error that names who holds the study."""
    if holder.endswith(f"({TRIAL})"):
        return BusyError("E-BUSY", f"{TRIAL} is run on this study now: {holder}", where=str(place.state), fix="overnight trial ls")
    return BusyError(
        "E-BUSY", f"another loop works on this study: {holder}", where=str(place.state), fix="overnight status   # or: overnight stop"
    )


def _take(handle: int, place: Place) -> None:
    deadline = time.monotonic() + 1.0  # a reader that asks who holds it has it for a moment
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = _named(handle)
            if time.monotonic() < deadline and (not holder or _is_gone(handle)):  # it has not written its name yet
                time.sleep(0.02)
                continue
            raise busy(place, holder or _SILENT) from exc
        else:
            return


def _named(handle: int) -> str:
    """What the lock says of its holder; empty if nothing can be read."""
    try:
        found = json.loads(os.pread(handle, 4096, 0))
        since = time.strftime("%H:%M:%S", time.localtime(found["since"]))
        return f"pid {found['pid']} on {found['host']}, since {since}" + (f" ({found['what']})" if found.get("what") else "")
    except (ValueError, KeyError, TypeError):
        return ""


def _is_gone(handle: int) -> bool:
    """Whether the lock still names an earlier holder, a process that this machine does not have any more."""
    with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError, PermissionError):
        found = json.loads(os.pread(handle, 4096, 0))
        try:
            os.kill(int(found["pid"]), 0)
        except ProcessLookupError:
            return bool(found["host"] == os.uname().nodename)
    return False
