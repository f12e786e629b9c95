"""What is said to Slurm and what it answers: its commands, their words, and its own words for what went wrong.

One look at the queue serves everybody who asks within a second, so that many slots cost the controller no more than one. A job is known
by the comment that it was submitted with, which is found again whoever had asked for it. Must not know what a job folder is.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from overnight.errors import JobError, OvernightError, UnreachableError, UsageError

_LOOK = 1.0  # seconds for which an answer of squeue is good
_SHARE = 20  # of the time at most one part in so many goes into asking,
_LONGEST = 15.0  # seconds at most between two questions all the same
_PATIENCE = 60.0  # seconds for one command
_FIELDS = (("ArrayJobID", 24), ("ArrayTaskID", 24), ("State", 24), ("RestartCnt", 12), ("ReasonList", 120), ("Comment", 48))
_BUSY = (  # the controller is away or has too much to do: the same words will do later
    "unable to contact slurm controller", "socket timed out", "zero bytes were transmitted", "connection refused", "connection reset",
    "in standby mode", "temporarily unable", "resource temporarily", "protocol authentication error", "insufficient privilege to connect",
)  # fmt: skip
_SOURCES = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OVERNIGHT_NVML")
_OVER = {
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "REVOKED", "LAUNCH_FAILED",
}  # fmt: skip
_FIX = "sinfo   # shows the partitions; then: overnight run --executor slurm --executor-args WORDS"


@dataclass(frozen=True, slots=True)
class Seen:
    """A job as Slurm sees it: ``state`` is Slurm's own word, ``GONE`` for one that it does not know any more."""

    job: str  # 12 or 12_3
    state: str
    reason: str = ""
    restarts: int = 0

    @property
    def over(self) -> bool:
        """Whether Slurm is done with it."""
        return self.state in _OVER or self.state == "GONE"


class Refused(Exception):  # noqa: N818 - the name says what Slurm did
    """Slurm's own words on why it did not do what it was told; ``busy`` if it may do so later."""

    def __init__(self, words: str, *, busy: bool = False) -> None:
        super().__init__(words)
        self.words = words
        self.busy = busy


def run(words: Sequence[str], text: str = "", held: tuple[int, ...] = ()) -> str:
    """The answer of a command of Slurm's. Raises ``Refused`` with its words; ``UsageError`` if it is not there.

    ``held`` are descriptors that it keeps open until it ends, also after us.
    """
    env = {name: value for name, value in os.environ.items() if name in _SOURCES or name.startswith(("SLURM_CONF", "SBATCH_", "MUNGE"))}
    env.setdefault("PATH", os.defpath)
    try:
        done = subprocess.run(
            words, input=text.encode(), capture_output=True, env={**env, "LC_ALL": "C.UTF-8"}, timeout=_PATIENCE, pass_fds=held, check=False,
            start_new_session=True,  # a ^C in the terminal must not end it half way
        )  # fmt: skip
    except FileNotFoundError as exc:
        raise UsageError(
            "E-NO-SLURM", f"{words[0]} is not on PATH", why="jobs are handed to Slurm by its own commands",
            fix="overnight run --executor local   # or run it where sbatch works: a login node of the cluster",
        ) from exc  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise Refused(f"{words[0]} does not answer", busy=True) from exc
    except OSError as exc:
        raise Refused(f"{words[0]} cannot be started: {exc.strerror}") from exc
    if done.returncode:
        said = _said(done.stderr) or _said(done.stdout) or f"exit code {done.returncode}"
        raise Refused(said, busy=any(part in said.lower() for part in _BUSY))
    return done.stdout.decode("utf-8", "replace")


def _said(output: bytes) -> str:
    """What a command says of its failure: its lines without its name, on one."""
    lines = output.decode("utf-8", "replace").splitlines()
    return "; ".join(line.partition("error: ")[2] or line for line in lines if line.strip())[:600]


def error(refused: Refused, *, job: str = "") -> OvernightError:
    """The one clear error, with Slurm's own words: for one job, or for whoever wants to know if any job would be taken."""
    if job:
        return JobError("E-SLURM", f"Slurm does not take job {job}: {refused.words}", fix=_FIX)
    if refused.busy:
        return UnreachableError("E-SLURM-DOWN", f"Slurm does not answer: {refused.words}", fix="scontrol ping   # then the same again")
    return UsageError("E-SLURM", f"Slurm would not take such jobs: {refused.words}", why="sbatch --test-only says so", fix=_FIX)


def find(comment: str) -> str:
    """Number of the latest job or array with that comment that the controller still knows; empty if there is none. Raises ``Refused``."""
    found = [seen.job.partition("_")[0] for (said, _), seen in _ask().items() if said == comment]
    return max(found, key=int, default="")


class Queue:
    """The jobs of this user, as of a moment ago."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._seen: dict[tuple[str, str], Seen] = {}
        self._asked = self._good_until = float("-inf")
        self._trouble = ""

    def look(self, comment: str, index: str, job: str, since: float) -> Seen | None:
        """The job with the comment (and the index in its array); None if Slurm does not answer.

        ``since``, by the monotonic clock: an answer that is older does not count.
        """
        with self._turn:
            if self._asked <= since or time.monotonic() >= self._good_until:
                self._refresh()
            if self._trouble:
                return None
            seen = self._seen.get((comment, index))
        return seen or _remembered(job)

    @property
    def trouble(self) -> str:
        """Why Slurm does not answer; empty if it does."""
        return self._trouble

    def _refresh(self) -> None:
        begun = time.monotonic()
        try:
            self._seen, self._trouble = _ask(), ""
        except Refused as exc:
            self._trouble = exc.words
        now = time.monotonic()
        self._asked = begun
        self._good_until = now + min(max(_LOOK, _SHARE * (now - begun)), _LONGEST)


def _ask() -> dict[tuple[str, str], Seen]:
    me = pwd.getpwuid(os.getuid()).pw_name
    wanted = ",".join(f"{name}:{width}" for name, width in _FIELDS)
    lines = run(("squeue", "--noheader", "--array", "--states=all", f"--user={me}", f"--Format={wanted}")).splitlines()
    found = {}
    for line in lines:
        parts, start = [], 0
        for _, width in _FIELDS:
            parts.append(line[start : start + width].strip())
            start += width
        number, index, state, restarts, reason, comment = parts
        index = index if index.isdecimal() else ""
        job = f"{number}_{index}" if index else number
        found[comment, index] = Seen(job, state, reason.strip("()"), int(restarts) if restarts.isdecimal() else 0)
    return found


def _remembered(job: str) -> Seen:
    """What the accounting, where there is one, still knows of a job that the controller has forgotten."""
    state = ""
    if job:
        try:
            answer = run(("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State"))
        except (Refused, UsageError):
            answer = ""
        state = next((line.split()[0] for line in answer.splitlines() if line.strip()), "")
    return Seen(job, state if state in _OVER else "GONE")
