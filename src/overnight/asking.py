"""One question to a proposer beside experiments: a disposable copy, the files that hold the answer, what came back.

The answer is read from those files alone, with the care of a proposal; one that nobody understands is asked for again, once. Knows the
Proposer protocol, never a concrete proposer; commits nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from overnight.errors import ProposalError
from overnight.folders import remove
from overnight.models import Experiment, Idea, Operator, Stage, Study
from overnight.printable import one_line
from overnight.protocols import Proposer, Request
from overnight.redact import Redactor
from overnight.workspace import Scope, Workspace

T = TypeVar("T")
_HOPELESS = {
    "E-AGENT-LOGIN",
    "E-AGENT-CREDIT",
    "E-AGENT-MODEL",
    "E-NO-AGENT",
    "E-NO-MODEL",
    "E-PROPOSER-START",
    "E-CANCELLED",
}  # asking again is in vain
_PASSING = {"E-AGENT-RATE", "E-AGENT-OVERLOADED", "E-AGENT-UNREACHABLE"}  # asked again after a while
_PATIENCE = 4  # times
_LONGEST = 60.0  # seconds of one while


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of a proposer left: the files in its scope, why they are not fit, what it said, and its own trouble."""

    files: Mapping[str, bytes]
    rejected: str
    idea: Idea
    error: ProposalError | None = None
    printed: str = ""  # what it wrote to its output, where that is plain text


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """An answer that was understood, who gave it, and what it has cost with all tries."""

    value: T
    agent: str
    tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """What is asked. ``brief`` makes the text, with what was wrong the last time; ``read`` understands the files or raises ``ValueError``."""

    name: str  # fit for a file name
    commit: str
    files: Mapping[str, bytes]  # that the answer goes to, as they are before
    brief: Callable[[str], str]
    read: Callable[[Mapping[str, str]], T]
    may_stay: bool = False  # to leave the files as they are is an answer too


class Asker:
    """Asks ``proposer`` in copies under ``folder``; safe to use from several threads.

    ``printed`` reads what the job of a request wrote to its output; ``say`` hears of what is waited for.
    """

    def __init__(
        self,
        workspace: Workspace,
        proposer: Proposer,
        study: Study,
        where: tuple[Path, Redactor, Callable[[str], str]],
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.workspace = workspace
        self.study = study
        self.stopping = threading.Event()
        self._proposer = proposer
        self._folder, self.secrets, self._printed = where
        self._say = say

    def ask(self, question: Question[T]) -> Answered[T]:
        """The answer; raises ``ProposalError`` if there is none that can be understood, also at the second time of asking."""
        problem = ""
        tokens, cost = 0, 0.0
        for last in (False, True):
            scope = Scope(tuple(question.files))
            turn = self.turn(f"{question.name}-{'b' if last else 'a'}", question.commit, question.files, scope, question.brief(problem))
            tokens, cost = tokens + turn.idea.tokens, cost + turn.idea.cost
            try:
                return Answered(question.read(self._texts(question, turn)), turn.idea.proposer, tokens, cost)
            except ValueError as exc:
                trouble = turn.error
                problem = f"Your last answer could not be used: {trouble.message if trouble else exc}."
                if last:
                    raise self._unanswered(turn, str(exc)) from exc
                self._say(f"{turn.idea.proposer}: {one_line(trouble.message if trouble else str(exc), 200)}; asked again")
        raise AssertionError

    def _texts(self, question: Question[T], turn: Turn) -> dict[str, str]:
        """The files of the answer as texts; what was only printed stands in for files that were left as they were."""
        if turn.rejected and not turn.files:
            raise ValueError(turn.rejected)
        if turn.files == dict(question.files) and not question.may_stay:
            if turn.error is not None or not turn.printed.strip():
                raise ValueError("you wrote nothing into the files of the answer")
            return {next(iter(question.files)): turn.printed}
        return {path: self.secrets.text(data.decode("utf-8", "replace")) for path, data in turn.files.items()}

    def _unanswered(self, turn: Turn, why: str) -> ProposalError:
        if turn.error is not None:
            return turn.error
        return ProposalError(
            "E-AGENT-GARBAGE", f"{turn.idea.proposer} gave no answer that can be used, also when asked again", why=one_line(why, 400),
            fix="try another one: --proposer NAME",
        )  # fmt: skip

    def turn(self, name: str, commit: str, files: Mapping[str, bytes], scope: Scope, brief: str) -> Turn:
        """Let the proposer work once on ``files`` over the tree of ``commit``; a model that is overloaded is waited for.

        Raises ``ProposalError`` for a trouble that asking again does not mend.
        """
        for attempt in range(_PATIENCE + 1):
            found = self._once(f"{name}{'abcdefgh'[attempt]}", commit, files, scope, brief)
            if found.error is None or found.error.code not in _PASSING or attempt == _PATIENCE:
                break
            wait = min(_LONGEST, found.error.wait * 2**attempt)
            self._say(f"{found.error.message}; asked again in {wait:.0f} s")
            if self.stopping.wait(wait):
                break
        if found.error is not None and (found.error.code in _HOPELESS | _PASSING or self.stopping.is_set()):
            raise found.error
        return found

    def _once(self, name: str, commit: str, files: Mapping[str, bytes], scope: Scope, brief: str) -> Turn:
        folder = self._folder / name
        remove(folder)
        copy, work = folder / "copy", folder / "work"
        try:
            work.mkdir(parents=True)
            self.workspace.export(commit, files, copy, {}, scope)
            parent = Experiment(0, 0, Operator.IMPROVE, Stage.APPLIED, "", self.study.tag, 0.0)
            request = Request(
                f"{self.study.tag}-{name}",
                self.study,
                Operator.IMPROVE,
                parent,
                copy,
                work,
                tuple(sorted(files)),
                brief,
                self.stopping.is_set,
            )
            idea, error = self._asked(request)
            found = self.workspace.collect(copy, commit, scope)
            said = "" if error else self.secrets.text(self._printed(request.id))
            return Turn(found.files, found.rejected, replace(idea, hypothesis=self.secrets.text(idea.hypothesis)), error, said)
        finally:
            remove(folder)

    def _asked(self, request: Request) -> tuple[Idea, ProposalError | None]:
        try:
            return self._proposer.ask(request), None
        except ProposalError as exc:
            return Idea("", self._proposer.name, exc.tokens, exc.cost), exc
