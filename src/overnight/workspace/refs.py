"""Refs of the user's repository, set through one long-lived ``git update-ref --stdin``: a transaction each, without a process each.

Knows no branch and no experiment. A git that ended (killed, or because it refused) is started again.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from pathlib import Path

from overnight.errors import GitError
from overnight.workspace.git import Git


class Refs:
    """Sets refs in the git directory ``own``; safe to use from several threads."""

    def __init__(self, git: Git, own: Path) -> None:
        self._git = git
        self._own = own
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def update(self, ref: str, new: str, old: str | None = None) -> str:
        """Point ``ref`` to ``new`` if it points to ``old`` (None = whatever); what git said against it, empty if it is done."""
        words = f"start\noption no-deref\nupdate {ref} {new}{f' {old}' if old else ''}\ncommit\n".encode()
        with self._lock:
            for _ in range(2):
                fresh = self._process is None
                said = self._say(words)
                if said is not None:
                    return said
                if fresh:
                    break
        return "git update-ref ended without a word"

    def close(self) -> None:
        """End the git process."""
        with self._lock:
            self._end()

    def _say(self, words: bytes) -> str | None:
        """Empty when git answered that the ref is set, its complaint when it refused, None when it was gone."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        answers: list[bytes] = []
        try:
            process.stdin.write(words)
            process.stdin.flush()
            while not answers or not answers[-1].startswith(b"commit:"):
                line = process.stdout.readline()
                if not line:
                    raise BrokenPipeError
                answers.append(line)
        except OSError:
            return self._end() or None
        return ""

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self._git.command("update-ref", "--stdin"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._git.home,
                env=self._git.environment(GIT_DIR=str(self._own)),
                start_new_session=True,
            )
        except OSError as exc:
            raise GitError("E-GIT", "git update-ref could not be started", why=str(exc), fix="git --version") from exc

    def _end(self) -> str:
        """End the process; what it had to say."""
        process, self._process = self._process, None
        if process is None:
            return ""
        with contextlib.suppress(OSError, ValueError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        said = process.stderr.read().decode("utf-8", "replace").strip() if process.stderr else ""
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        return said
