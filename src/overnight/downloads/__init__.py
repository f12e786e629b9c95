"""The door to files behind URLs: each is fetched once, by a process of its own (``stream``), and kept under its hash.

A process, because libraries that speak to object stores cannot be interrupted: it is killed when nobody wants the file any more, and ends by itself when
we do. Whoever writes holds the lock of the draft, so that nobody else fetches the same meanwhile. Must not know who wants a file, nor whether he may.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from overnight.errors import JobError, StorageError

_LOOK = 0.1  # seconds between two looks at whether it is still wanted
_DRAFT = ".part"


@dataclass(frozen=True, slots=True)
class Order:
    """A file to be fetched."""

    url: str
    sha256: str  # which it must have
    room: int  # bytes that must stay free on the disk
    prefixes: tuple[str, ...] | None = None  # below which redirects must lead; None = anywhere


def bring(
    folder: Path, order: Order, environ: Mapping[str, str], stopped: Callable[[], bool], begins: Callable[[], object]
) -> None:  # fmt: skip
    """Have the file in ``folder`` under its hash, read-only; nothing is left behind otherwise. Returns early when ``stopped``.

    ``begins`` is called before anything is fetched. Raises ``JobError`` (E-INPUT-…), ``StorageError``.
    """
    place = folder / order.sha256
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while not stopped() and not _is_used(place):
            with _held(folder / f".{order.sha256}{_DRAFT}") as handle:
                if handle < 0:
                    time.sleep(_LOOK)
                elif not place.exists():
                    begins()
                    if _streamed(handle, order, environ, stopped):
                        os.rename(folder / f".{order.sha256}{_DRAFT}", place)
                        os.fchmod(handle, 0o444)  # afterwards: a draft that was left must be open to whoever takes it over
    except OSError as exc:
        raise StorageError(
            "E-STORAGE", f"what is fetched cannot be kept: {exc.strerror}", where=str(folder), fix=f"df -h {folder}"
        ) from exc


def sweep(folder: Path) -> None:
    """Remove drafts that nobody writes any more."""
    for draft in folder.glob(f".*{_DRAFT}"):
        with contextlib.suppress(OSError), _held(draft):
            pass


def sha_of(place: Path) -> str:
    """The hash of the file that lies, or is made, at this place."""
    return place.name.removeprefix(".").removesuffix(_DRAFT)


def _is_used(place: Path) -> bool:
    """Whether the file is there; if so, it counts as used now."""
    try:
        os.utime(place)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def _held(draft: Path) -> Iterator[int]:
    """The draft, empty and locked, -1 if another has it; what of it is there afterwards goes."""
    handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield -1
            return
        if not _is_at(handle, draft):  # it was finished, or removed, since we opened it
            yield -1
            return
        os.ftruncate(handle, 0)
        try:
            yield handle
        finally:
            if _is_at(handle, draft):
                draft.unlink()
    finally:
        os.close(handle)


def _is_at(handle: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(place, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _streamed(handle: int, order: Order, environ: Mapping[str, str], stopped: Callable[[], bool]) -> bool:
    """Have the process write to ``handle``; False if it was stopped. Raises ``JobError``."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "overnight.downloads.stream", str(handle)], cwd="/", env=dict(environ), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(handle,), start_new_session=True, bufsize=0,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")  # and it stays open as long as we live
            while process.poll() is None:
                if stopped():
                    return False
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK)
            _raise(process.stdout.read(), process.returncode)
        finally:
            process.kill()
    return True


def _raise(said: bytes, code: int) -> None:
    """Raise what the process has said, if it did not fetch the file."""
    try:
        told = json.loads(said)
    except ValueError:
        raise JobError(
            "E-INPUT-FETCH", f"fetching an input has failed: its process ended with {code}", fix="overnight hub retry last"
        ) from None
    if told:
        raise JobError(told["code"], told["message"], why=told["why"], fix=told["fix"])
