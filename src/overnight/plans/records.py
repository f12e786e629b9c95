"""The nouns of a plan. Lines count from 1; 0 = of the whole file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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

    def task(self, name: str) -> Task | None:
        """The task of that name, whatever the case."""
        return next((task for task in self.tasks if task.name.casefold() == name.casefold()), None)
