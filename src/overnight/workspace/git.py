"""How git is called: an environment built from nothing, a trusted git directory of our own, plumbing only.

Knows processes and git's messages; nothing of trees, scopes or studies.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from overnight.errors import GitError, OvernightError, StorageError, UsageError

# Each switches off one way in which a repository can run a program or reach out (gitconfig's documentation of these names).
_HARDENED = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.pager=cat",
    "core.quotePath=false",
    "core.attributesFile=/dev/null",
    "gc.auto=0",
    "maintenance.auto=false",
    "protocol.allow=never",
    "safe.directory=*",
)
_TIME_LIMIT = 300.0  # seconds; only a hung disk makes git take this long
_STALE = 60.0  # seconds after which a lock on one of our own refs is nobody's
_LOCK = re.compile(r"Unable to create '(.+\.lock)': File exists")
_OURS = re.compile(r"refs/overnight/[^/]+/[^/]+\.lock")


def find_git() -> str:
    """The absolute path of git. Raises ``UsageError`` (E-NO-GIT)."""
    found = shutil.which("git")
    if found is None:
        raise UsageError(
            "E-NO-GIT",
            "git was not found",
            why=f"no folder of PATH holds it: {os.environ.get('PATH', '')}",
            fix="install git, for example:  apt-get install git",
        )
    return str(Path(found).absolute())


@dataclass(frozen=True, slots=True)
class Git:
    """One git binary with one home folder, which is also the trusted git directory."""

    binary: str
    home: Path

    def command(self, *words: str) -> list[str]:
        """The argv of a hardened git command."""
        options = [part for option in _HARDENED for part in ("-c", option)]
        return [self.binary, "--no-pager", "--literal-pathspecs", *options, *words]

    def environment(self, **extra: str) -> dict[str, str]:
        """Everything that git gets to see: nothing is inherited but PATH."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.home),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "none",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_AUTHOR_NAME": "overnight",
            "GIT_AUTHOR_EMAIL": "overnight@localhost",
            "GIT_COMMITTER_NAME": "overnight",
            "GIT_COMMITTER_EMAIL": "overnight@localhost",
            **extra,
        }

    def run(self, words: Sequence[str], *, cwd: Path, stdin: bytes = b"", **extra: str) -> subprocess.CompletedProcess[bytes]:
        """Run one command to its end, whatever its exit code. Raises ``GitError`` when it cannot be started or hangs."""
        done = self._once(words, cwd, stdin, extra)
        return done if done.returncode >= 0 else self._once(words, cwd, stdin, extra)  # killed, for lack of memory perhaps: once more

    def _once(self, words: Sequence[str], cwd: Path, stdin: bytes, extra: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                self.command(*words),
                input=stdin,
                capture_output=True,
                cwd=cwd,
                env=self.environment(**extra),
                timeout=_TIME_LIMIT,
                check=False,
                start_new_session=True,  # a Ctrl-C meant for the loop must not cut git in two
            )
        except subprocess.TimeoutExpired as exc:
            raise GitError("E-GIT", f"git {words[0]} did not end", why=f"no answer for {_TIME_LIMIT:.0f} s", fix="check the disk") from exc
        except OSError as exc:
            raise GitError("E-GIT", f"git {words[0]} could not be started", why=str(exc), fix="git --version") from exc

    def ask(self, words: Sequence[str], *, cwd: Path, stdin: bytes = b"", **extra: str) -> bytes:
        """Standard output of a command that must succeed. Raises ``GitError`` with what git said."""
        done = self.run(words, cwd=cwd, stdin=stdin, **extra)
        if done.returncode != 0:
            raise failure(words[0], said(done))
        return done.stdout


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    """What git wrote to standard error, or its exit code."""
    return done.stderr.decode("utf-8", "replace").strip() or f"exit code {done.returncode}"


def failure(word: str, message: str) -> OvernightError:
    """The error for what git said: a lock in the way, a full disk, no permission, or anything else."""
    if lock := _LOCK.search(message):
        return GitError(
            "E-GIT-LOCKED",
            f"another git process holds {lock[1]}, or died holding it",
            why=message,
            fix=f"if no git is running there:  rm '{lock[1]}'",
        )
    if "No space left" in message or "Disk quota exceeded" in message:
        return StorageError("E-DISK-FULL", "the disk that holds the repository is full", why=message, fix="df -h")
    if "Permission denied" in message or "Read-only file system" in message:
        return read_only(message)
    return GitError("E-GIT", f"git {word} failed", why=message, fix="git fsck")


def read_only(why: str) -> UsageError:
    """The repository cannot be written."""
    return UsageError("E-READ-ONLY", "the repository cannot be written", why=why, fix="ls -ld .git .git/objects .git/refs")


def disk_error(exc: OSError, what: str) -> OvernightError:
    """The error for an ``OSError`` met while ``what`` was written: full, read-only, or damaged."""
    why = f"{exc.filename or what}: {exc.strerror or exc}"
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError("E-DISK-FULL", f"the disk is full: {what} could not be written", why=why, fix="df -h")
    if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError("E-READ-ONLY", f"{what} cannot be written", why=why, fix="give a folder that can be written, with --state DIR")
    return StorageError("E-STORAGE", f"{what} could not be written", why=why, fix="df -h; dmesg | tail")


def clear_stale(message: str) -> bool:
    """Remove a lock that a dead git left on one of our own refs; true if the command is worth another try.

    Only ``refs/overnight`` is ours alone: any other lock may belong to a living git of the user's.
    """
    lock = _LOCK.search(message)
    if lock is None or not _OURS.search(lock[1]):
        return False
    try:
        if time.time() - os.lstat(lock[1]).st_mtime < _STALE:
            return False
        Path(lock[1]).unlink(missing_ok=True)
    except OSError:
        return False
    return True
