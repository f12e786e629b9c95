"""The nouns of a plan. Lines count from 1; 0 = of the whole file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at a place. ``fatal``: nothing can be built from it; otherwise it is a gap that somebody should think about."""

    file: str
    line: int
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One sentence that must come true."""

    name: str
    text: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work that one agent does in one go. ``files`` and ``new`` are paths or patterns, ``checks`` commands for the shell."""

    name: str
    title: str
    depends: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # it may change, make and remove these
    new: tuple[str, ...] = ()  # it may make these, and not change what is there
    requirements: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    done: str = ""  # definition of done, in words
    text: str = ""  # whatever else is said
    line: int = 0
    lines: Mapping[str, int] = field(default_factory=dict)  # of its fields

    def at(self, name: str) -> int:
        """The line of a field, else that of the task."""
        return self.lines.get(name, self.line)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the files of a plan say. ``ideas`` are numbers of queued ideas."""

    title: str
    goal: str
    ideas: tuple[int, ...]
    requirements: tuple[Requirement, ...]
    decision: str
    tasks: tuple[Task, ...]


class Progress(StrEnum):
    """How far a task has come; each is in the record before the next is begun."""

    OPEN = "open"  # nobody has begun it, or whoever had was interrupted
    WORKING = "working"  # an agent is at it
    WRITTEN = "written"  # its commit is there; checks and merge come next
    DONE = "done"  # its checks pass, and it is on the plan's branch
    FAILED = "failed"  # given up, with a reason
    SKIPPED = "skipped"  # it depends on one that failed


@dataclass(frozen=True, slots=True)
class Begun:
    """A plan that is being carried out: where its branch began, and where it is to be."""

    id: int
    slug: str
    goal: str
    base: str
    tip: str
    created: float


@dataclass(frozen=True, slots=True)
class Work:
    """What the record knows of a task."""

    name: str
    state: Progress = Progress.OPEN
    agent: str = ""
    start: str = ""  # the commit of the plan's branch that its own was made from
    commit: str = ""
    merged: str = ""  # the commit on the plan's branch
    mends: int = 0  # how often its own checks sent it back
    returns: int = 0  # how often a merge did
    note: str = ""  # why it failed, or what is to be mended
    tokens: int = 0
    cost: float = 0.0
    changed: float = 0.0
