"""Any shell command as a proposer: it edits the files of its disposable copy and says in one line what it did.

The command runs under a supervisor like any job: own session, own time limit, bounded output, nothing of it survives. It knows
neither the store nor git; whether the edit is within the scope is judged afterwards by others.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from overnight.environment import for_proposer
from overnight.errors import JobError, ProposalError
from overnight.models import Experiment, Idea, JobSpec, JobState, JobStatus
from overnight.printable import one_line
from overnight.protocols import Executor, Request

_TROUBLE = re.compile(
    r"\b(401|402|403|429|500|502|503|529)\b|rate.?limit|overloaded|not logged in|log ?in|invalid api key|quota|credit balance",
    re.IGNORECASE,
)


class CommandProposer:
    """Runs ``command`` (by the shell) in the copy, the brief on standard input and in ``$OVERNIGHT_BRIEF``.

    The hypothesis is what it writes to ``$OVERNIGHT_DESCRIPTION``, else the last line of its output. ``time_limit`` is in seconds.
    """

    name = "command"

    def __init__(
        self, command: str, time_limit: float, executor: Executor, where: tuple[Mapping[str, str], Callable[[JobSpec], JobSpec]]
    ) -> None:
        self._command = command
        self._time_limit = time_limit
        self._executor = executor
        environ, self._wrap = where
        self._environ = for_proposer(environ)

    def ask(self, request: Request) -> Idea:
        """Run the command once; raises ``ProposalError`` when it fails, is too slow or is no longer wanted."""
        brief, description = request.work / "brief.md", request.work / "description"
        brief.write_text(request.brief, encoding="utf-8")
        job = f"p{request.id}"
        env = {
            **self._environ,
            "OVERNIGHT_BRIEF": str(brief),
            "OVERNIGHT_DESCRIPTION": str(description),
            "OVERNIGHT_OPERATOR": request.operator,
            "OVERNIGHT_PARENT": str(request.parent.number),
            "OVERNIGHT_EDITABLE": "\n".join(request.editable),
            "OVERNIGHT_METRIC": request.study.metric,
            "OVERNIGHT_DIRECTION": request.study.direction,
        }
        spec = JobSpec(
            id=job,
            argv=("/bin/sh", "-c", self._command),
            cwd=str(request.copy),
            env=env,
            stdin=str(brief),
            readable=(str(brief),),
            writable=(str(request.work),),
            time_limit=self._time_limit,
            log_head=2**20,
            log_tail=2**18,
            durable=False,
        )
        try:
            self._executor.submit(self._wrap(spec))
        except JobError as exc:
            if isinstance(exc.__cause__, OSError):  # the disk: nothing can be done, by an experiment neither
                raise
            raise ProposalError("E-PROPOSER-START", f"the proposer was not started: {exc.message}", outage=True) from exc
        status = self._wait(job, request.cancelled)
        if status.state is not JobState.SUCCEEDED:
            raise _failure(status)
        said = _read(description) or status.end
        lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip()]
        text = one_line(lines[0] if _read(description) and lines else lines[-1] if lines else "", 300)
        return Idea(hypothesis=text or "no description", proposer=self.name, seconds=status.seconds)

    def tell(self, experiment: Experiment, files: Callable[[], Mapping[str, bytes]]) -> None:
        """Nothing to learn here: the next brief carries the history."""

    def _wait(self, job: str, cancelled: Callable[[], bool]) -> JobStatus:
        asked = False
        while not (status := self._executor.poll(job, 0.25)).state.over:
            if cancelled() and not asked:
                self._executor.cancel(job, "no longer wanted")
                asked = True
        return status


def _failure(status: JobStatus) -> ProposalError:
    """What went wrong, with the line of its output that explains it best."""
    if status.state is JobState.CANCELLED:
        return ProposalError("E-CANCELLED", "the proposer was stopped", outage=True)
    if status.state is JobState.TIMED_OUT:
        return ProposalError(
            "E-PROPOSER-SLOW", f"the proposer did not answer within its {status.cause}", outage=True, fix="--proposer-time-limit 60m"
        )
    lines = [line for line in status.end.replace("\r", "\n").splitlines() if line.strip()]
    telling = next((line for line in reversed(lines) if _TROUBLE.search(line)), lines[-1] if lines else "")
    return ProposalError("E-PROPOSER-FAILED", f"the proposer failed: {status.cause}", outage=True, why=one_line(telling, 300))


def _read(path: Path) -> str:
    """The first 64 kB of a regular file, or an empty string: what the command left there is not to be trusted."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return os.read(handle, 65536).decode("utf-8", "replace").strip()
        finally:
            os.close(handle)
    return ""
