"""A coding agent as a proposer: one of the rows of ``agents``, run as a job in the disposable copy, in a home of its own.

An answer is good only if the agent's last record was understood and an editable file changed, whatever the exit code says. The home
holds nothing of the person's but the login; it is removed afterwards, a login that was renewed is brought back.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from overnight.errors import ProposalError
from overnight.models import Experiment, Idea, JobSpec, JobStatus
from overnight.printable import one_line
from overnight.proposers import prices, troubles
from overnight.proposers.agents import Agent, environment, find, lacks, reachable, split
from overnight.proposers.headless import Setup
from overnight.proposers.reports import Output, Report
from overnight.proposers.running import begin, brief_file, contents, ended, read, spec, touched, unanswered
from overnight.protocols import Executor, Request

LARGEST = 8 * 2**20  # bytes of output that are read; an agent that prints more has gone wild
_CLIENT = Path(__file__).with_name("acp_client.py")
_REFUSED = re.compile(r"^Error: |\bstatus:? [45]\d\d\b")  # what an agent says in place of an answer when its model gave none
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_LOGIN = 2**18  # bytes of a login
# What an agent writes elsewhere is not limited: one unpacks itself into its home. cat writes at once what it has read, so that also an agent
# that is killed has said what it said; its limit is in blocks of 512 bytes, or of 1024 in some shells.
_SCRIPT = f'"$@" | (ulimit -f {LARGEST // 512}; exec cat) >"$0"'


@dataclass(frozen=True, slots=True)
class Wants:
    """What a person set for agents; ``time_limit`` is in seconds, ``arguments`` go at the end of the command line."""

    model: str = ""
    arguments: str = ""
    time_limit: float = 0.0
    hosts: tuple[str, ...] = ()


class AgentProposer:
    """Asks one agent. ``where`` is the person's environment, what puts a job behind walls, and whether there are walls."""

    def __init__(
        self, agent: Agent, wants: Wants, executor: Executor, where: tuple[Mapping[str, str], Callable[[JobSpec], JobSpec], bool]
    ) -> None:
        self.name = agent.name
        self._agent = agent
        self._wants = wants
        self._executor = executor
        self._environ, self._wrap, self._confined = where

    def ask(self, request: Request) -> Idea:
        """Run the agent once; raises ``ProposalError`` (always an outage) that tells what was wrong, and what mends it."""
        program = find(self._agent, self._environ)
        if missing := lacks(self._agent, program):
            raise ProposalError("E-NO-AGENT", f"{self.name} is not installed", outage=True, fix=missing, wait=300.0)
        before = contents(request)
        brief = brief_file(request, f"{request.brief}\nThe current working directory is {request.copy}\n")
        begun = os.stat(brief).st_ctime_ns
        home = request.work / "home"
        home.mkdir(mode=0o700)
        out = request.work / "output"
        with self._logged_in(home):
            job = self._job(request, Setup(
                brief, request.copy, request.work, home, self._wants.model, request.editable, environment(self._agent, self._environ), self._confined
            ), (program, out))  # fmt: skip
            begin(self._executor, self._wrap(job))
            status = ended(self._executor, job.id, request.cancelled)
        output = Output(read(out, LARGEST), request.work, status.end)
        report = self._agent.read(output)
        flooded = _size(out) >= LARGEST
        tokens, cost, estimated = self._spent(report)
        changed = contents(request) != before
        trouble = self._trouble(status, output, report, flooded=flooded) or (None if changed else self._nothing(request, report, begun))
        if trouble is not None:
            trouble.tokens, trouble.cost = tokens, cost
            raise trouble
        return Idea(
            troubles.hypothesis(report.text) or "no description", self.name, tokens, cost, seconds=status.seconds,
            estimated=estimated, model=one_line(report.model or self._wants.model, 100), session=one_line(report.session, 100),
        )  # fmt: skip

    def tell(self, experiment: Experiment, files: Callable[[], Mapping[str, bytes]]) -> None:
        """Nothing to learn here: the next brief carries the history."""

    def _job(self, request: Request, setup: Setup, where: tuple[str, Path]) -> JobSpec:
        program, out = where
        hosts = reachable(self._agent, self._environ, self._wants.hosts)
        # Behind walls that cut the network, the way out knows the proxy.
        proxies = {} if setup.confined and hosts else {name: self._environ[name] for name in _PROXIES if name in self._environ}
        env = {**setup.environ, **proxies, "HOME": str(setup.home), "TERM": "dumb", "NO_COLOR": "1", **self._agent.env(setup)}
        words = (program, *self._agent.argv(setup), *split(self._wants.arguments))
        if self._agent.acp is not None:
            limit = self._wants.time_limit
            # The turn is called off before the job is ended, so that it can tell what it has cost.
            until = time.time() + max(0.8 * limit, limit - 10.0) if limit else 0.0
            plan = {"editable": setup.editable, "until": until, **self._agent.acp}
            words = (sys.executable, "-I", str(_CLIENT), json.dumps(plan), *words)
        argv = ("/bin/sh", "-c", _SCRIPT, str(out), *words)
        made = spec(request, argv, env, setup.brief if self._agent.prompt == "stdin" else None, self._wants.time_limit)
        return replace(
            made,
            readable=(
                str(setup.brief),
                *_hidden_folders(program, self._environ),
                *(_ours(self._environ) if self._agent.acp is not None else ()),
            ),
            hosts=hosts,
        )

    @contextlib.contextmanager
    def _logged_in(self, home: Path) -> Iterator[None]:
        """Put copies of the person's logins into the agent's home; bring them back if they were renewed and the person's were not."""
        given: list[tuple[Path, Path, str]] = []
        person = Path(self._environ.get("HOME") or "/nonexistent")
        for variable, folder, name in self._agent.logins:
            moved = self._environ.get(variable, "") if variable else ""
            theirs, ours = (Path(moved) if moved else person / folder) / name, home / folder / name
            if text := read(theirs, _LOGIN):
                ours.parent.mkdir(parents=True, exist_ok=True)
                ours.touch(mode=0o600)
                ours.write_text(text, encoding="utf-8")
                given.append((theirs, ours, text))
        yield
        for theirs, ours, text in given:
            renewed = read(ours, _LOGIN)
            if renewed != text and _same_shape(renewed, text) and read(theirs, _LOGIN) == text:
                _replace(theirs, renewed)

    def _spent(self, report: Report) -> tuple[int, float, bool]:
        """Tokens, US dollars, and whether these are by the list."""
        if report.cost:
            return report.tokens_read + report.tokens_written, report.cost, False
        cost = prices.estimated(report, report.model or self._wants.model)
        return report.tokens_read + report.tokens_written, cost, cost > 0

    def _trouble(self, status: JobStatus, output: Output, report: Report, *, flooded: bool) -> ProposalError | None:
        """Why the turn did not come to a good end, if it did not."""
        if failed := unanswered(status):
            failed.why = failed.why or one_line(report.error or troubles.telling(output.errors), 300)
            return failed
        if flooded:
            return ProposalError("E-AGENT-FLOOD", f"{self.name} printed more than {LARGEST >> 20} MiB", outage=True, wait=60.0)
        if report.error:
            return troubles.told_apart(self.name, self._agent.login, report.error, self._agent.install)
        if report.final:
            return None
        said = troubles.telling(output.errors) or troubles.telling(output.text)
        found = troubles.told_apart(self.name, self._agent.login, said or status.cause, self._agent.install)
        if found.code != "E-AGENT-FAILED":
            return found
        if not output.text:
            if output.errors.strip():
                return found
            return ProposalError("E-AGENT-EMPTY", f"{self.name} answered nothing", outage=True)
        return ProposalError(
            "E-AGENT-GARBAGE", f"{self.name} answered what nobody understands", outage=True, why=one_line(output.text[-300:], 200)
        )

    def _nothing(self, request: Request, report: Report, begun: int) -> ProposalError:
        """Why a turn that came to its end brought nothing."""
        other = touched(request, begun)
        if other:
            why = f"it may edit {', '.join(request.editable[:8])}"
            return ProposalError("E-WRONG-FILE", f"{self.name} edited only protected files: {', '.join(other[:4])}", outage=True, why=why)
        if report.denied:
            why = f"it may edit {', '.join(request.editable[:8])}"
            return ProposalError("E-WRONG-FILE", f"{self.name} was refused: {'; '.join(report.denied[:4])}", outage=True, why=why)
        if not report.text.strip():
            return ProposalError("E-AGENT-EMPTY", f"{self.name} answered nothing", outage=True)
        if said := next((line for line in reversed(report.text.splitlines()) if _REFUSED.search(line)), ""):
            return troubles.told_apart(self.name, self._agent.login, said, self._agent.install)
        why = one_line(report.text[-300:], 200)
        if troubles.is_question(report.text):
            return ProposalError("E-AGENT-QUESTION", f"{self.name} asked a question and edited nothing", outage=True, why=why)
        return ProposalError("E-NO-EDIT", f"{self.name} edited nothing", outage=True, why=why)


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return os.lstat(path).st_size
    return 0


def _hidden_folders(program: str, environ: Mapping[str, str]) -> list[str]:
    """Folders of the program that lie among what an agent with a home of its own does not see, such as ``~/.claude/local``."""
    person = environ.get("HOME", "")
    found = []
    for path in dict.fromkeys((os.path.dirname(program), os.path.dirname(os.path.realpath(program)))):
        below = os.path.relpath(path, person).split(os.sep) if person.startswith("/") else [".."]
        if below[0] not in ("..", ".") and len(below) > 1 and below[0].startswith("."):
            found.append(path)
    return found


def _ours(environ: Mapping[str, str]) -> list[str]:
    """What the client of the protocol is made of, where it lies among what an agent does not see."""
    return [*_hidden_folders(str(_CLIENT), environ), *_hidden_folders(os.path.join(sys.prefix, "pyvenv.cfg"), environ)]


def _same_shape(new: str, old: str) -> bool:
    """Whether both are JSON objects with the same names: what an agent leaves in the place of a login is not to be trusted."""
    try:
        one, other = json.loads(new), json.loads(old)
    except ValueError:
        return False
    return isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys()


def _replace(path: Path, text: str) -> None:
    path = Path(os.path.realpath(path))
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with contextlib.suppress(OSError):
        draft.touch(mode=0o600)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
