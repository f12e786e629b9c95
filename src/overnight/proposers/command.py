"""Any shell command as a proposer: it edits the files of its disposable copy and says in one line what it did.

The command runs under a supervisor like any job: own session, own time limit, bounded output, nothing of it survives. It knows
neither the store nor git; whether the edit is within the scope is judged afterwards by others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from overnight.environment import for_proposer
from overnight.errors import ProposalError
from overnight.models import Experiment, Idea, JobSpec, JobState, JobStatus
from overnight.printable import one_line
from overnight.proposers.running import begin, brief_file, ended, read, spec, unanswered
from overnight.protocols import Executor, Request

_TROUBLE = re.compile(
    r"\b(401|402|403|429|500|502|503|529)\b|rate.?limit|overloaded|not logged in|log ?in|invalid api key|quota|credit balance",
    re.IGNORECASE,
)


class CommandProposer:
    """Runs ``command`` (by the shell) in the copy, the brief on standard input and in ``$OVERNIGHT_BRIEF``.

    The hypothesis is what it writes to ``$OVERNIGHT_DESCRIPTION``, else the last line of its output. ``time_limit`` is in seconds; ``hosts``
    are all that walls let it reach, each "name:port"; none = the whole network.
    """

    name = "command"

    def __init__(
        self,
        command: str,
        time_limit: float,
        executor: Executor,
        where: tuple[Mapping[str, str], Callable[[JobSpec], JobSpec]],
        hosts: tuple[str, ...] = (),
    ) -> None:
        self._command = command
        self._time_limit = time_limit
        self._executor = executor
        self._hosts = hosts
        environ, self._wrap = where
        self._environ = for_proposer(environ)

    def ask(self, request: Request) -> Idea:
        """Run the command once; raises ``ProposalError`` when it fails, is too slow or is no longer wanted."""
        brief, description = brief_file(request, request.brief), request.work / "description"
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
        job = replace(spec(request, ("/bin/sh", "-c", self._command), env, brief, self._time_limit), hosts=self._hosts)
        begin(self._executor, self._wrap(job))
        status = ended(self._executor, job.id, request.cancelled)
        if status.state is not JobState.SUCCEEDED:
            raise unanswered(status) or _failure(status)
        said = read(description) or status.end
        lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip()]
        text = one_line(lines[0] if read(description) and lines else lines[-1] if lines else "", 300)
        return Idea(hypothesis=text.removeprefix("HYPOTHESIS:").strip() or "no description", proposer=self.name, seconds=status.seconds)

    def tell(self, experiment: Experiment, files: Callable[[], Mapping[str, bytes]]) -> None:
        """Nothing to learn here: the next brief carries the history."""


def _failure(status: JobStatus) -> ProposalError:
    """What went wrong, with the line of its output that explains it best."""
    lines = [line for line in status.end.replace("\r", "\n").splitlines() if line.strip()]
    telling = next((line for line in reversed(lines) if _TROUBLE.search(line)), lines[-1] if lines else "")
    return ProposalError("E-PROPOSER-FAILED", f"the proposer failed: {status.cause}", outage=True, why=one_line(telling, 300))
