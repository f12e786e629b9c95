"""The job folder as the supervisor sees it: the lock that says the job is alive, its spec, and a status that never tears.

Paths are plain texts and files plain descriptors: this runs in a fork that is cheap as long as it touches little memory.
Must not know how the command is run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import time

from overnight import jobs
from overnight.models import JobSpec, JobStatus

_RESERVE = 64 * 1024  # bytes set aside at the start, so that the end can be told on a full disk
_BOOT = "/proc/sys/kernel/random/boot_id"
_PATIENCE = 30.0  # seconds for which the last word is tried again
_NEW = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC


def lock(folder: str) -> int:
    """Take the folder's lock: its descriptor, -1 if somebody else holds it. Raises ``OSError`` if there is no such folder.

    Tried for a moment, because whoever asks if the job is alive takes the lock shared for an instant.
    """
    fd = os.open(f"{folder}/{jobs.LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(50):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.002)
        else:
            return fd
    os.close(fd)
    return -1


def spec(folder: str) -> JobSpec:
    """Read what is to be run. Raises ``OSError``, ``ValueError``."""
    return jobs.spec_from_json(_read(f"{folder}/{jobs.SPEC}"))


def forget_environment(folder: str, found: JobSpec) -> None:
    """Take the variables out of the spec on disk, once the command has them: they may hold what no file should."""
    kept = {jobs.TOKEN: found.env[jobs.TOKEN]} if jobs.TOKEN in found.env else {}
    with contextlib.suppress(OSError):
        fd = os.open(f"{folder}/spec.next", _NEW | os.O_TRUNC, 0o600)
        try:
            write(fd, jobs.spec_to_json(dataclasses.replace(found, env=kept)).encode())
        finally:
            os.close(fd)
        os.rename(f"{folder}/spec.next", f"{folder}/{jobs.SPEC}")


def status(folder: str) -> JobStatus | None:
    """Read how far the job is; None if nothing was started yet. Raises ``ValueError`` if it cannot be read as a status."""
    try:
        return jobs.status_from_json(_read(f"{folder}/{jobs.STATUS}"))
    except FileNotFoundError:
        return None


def request_to_end(folder: str) -> str | None:
    """Read why somebody wants the job to end; None if nobody does."""
    try:
        return _read(f"{folder}/{jobs.CANCEL}").decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError:
        return ""


def lease_is_over(path: str) -> bool:
    """Whether whoever had the job started may not have it run any more, because nobody was heard of in time."""
    try:
        return jobs.lease_is_over(_read(path), _read(_BOOT).decode("ascii", "replace").strip(), time.clock_gettime(time.CLOCK_BOOTTIME))
    except (OSError, AttributeError):
        return False


def announce(folder: str, found: JobStatus) -> None:
    """Replace the status before the command starts.

    Not synced: a power cut ends the command as well, and then no status and a RUNNING one both mean LOST.
    """
    fd = os.open(f"{folder}/status.first", _NEW | os.O_TRUNC, 0o600)
    try:
        write(fd, jobs.status_to_json(found).encode())
    finally:
        os.close(fd)
    os.rename(f"{folder}/status.first", f"{folder}/{jobs.STATUS}")


def reserve(folder: str) -> None:
    """Set aside room on the disk for the last status, where that can be done."""
    with contextlib.suppress(OSError, AttributeError):
        fd = os.open(f"{folder}/status.next", _NEW | os.O_TRUNC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _RESERVE)
        finally:
            os.close(fd)


def conclude(folder: str, found: JobStatus, patience: float = _PATIENCE, *, synced: bool = True) -> None:
    """Replace the status by the last one, durably; tries for ``patience`` seconds. Raises ``OSError`` after that, or when the disk fails."""
    text = jobs.status_to_json(found).encode()
    until = time.monotonic() + patience
    while True:
        try:
            return _replace(folder, text, synced=synced)
        except OSError as exc:
            if exc.errno == errno.EIO or time.monotonic() >= until:  # a disk that failed once is not believed afterwards
                raise
            time.sleep(0.2)


def _replace(folder: str, text: bytes, *, synced: bool) -> None:
    fd = os.open(f"{folder}/status.next", _NEW, 0o600)
    try:
        # Overwritten first and cut after: the blocks set aside are used.
        write(fd, text)
        os.ftruncate(fd, len(text))
        if synced:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(f"{folder}/status.next", f"{folder}/{jobs.STATUS}")


def write(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of it. Raises ``OSError``."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        while more := os.read(fd, 1 << 16):
            text += more
        return text
    finally:
        os.close(fd)
