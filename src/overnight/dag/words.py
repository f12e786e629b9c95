"""The nouns of a pipeline: frozen records without behaviour. Sizes are GB, times seconds; 0 or empty = not set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MOST_TASKS = 1_000
MOST_EDGES = 100_000


class When(StrEnum):
    """What a node's needs must have come to before it runs; it waits until all of them are over."""

    ON_SUCCESS = "on_success"  # each has succeeded
    ALWAYS = "always"  # whatever became of them
    ON_FAILURE = "on_failure"  # at least one has failed, or was skipped because of a failure


class TaskState(StrEnum):
    """The life of a task."""

    WAITING = "WAITING"  # for its needs, for room, or for the pause before it is tried again
    RUNNING = "RUNNING"  # an attempt has been written down and may be at work
    SUCCEEDED = "SUCCEEDED"  # exit code 0, and all that it was to leave is there
    FAILED = "FAILED"  # every attempt has failed
    TIMED_OUT = "TIMED_OUT"  # the last attempt was ended at its time limit
    CANCELLED = "CANCELLED"  # the pipeline was cancelled before it was over
    SKIPPED = "SKIPPED"  # its needs did not come to what it waits for

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to the task, unless the pipeline is resumed."""
        return self not in (TaskState.WAITING, TaskState.RUNNING)

    @property
    def failed(self) -> bool:
        """Whether it is a failure of the task's own."""
        return self in (TaskState.FAILED, TaskState.TIMED_OUT)


class DagState(StrEnum):
    """The life of a pipeline that was begun."""

    RUNNING = "RUNNING"  # not over; without a conductor it is interrupted
    SUCCEEDED = "SUCCEEDED"  # no task has failed
    FAILED = "FAILED"  # a task has failed
    CANCELLED = "CANCELLED"  # ended on request

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it, unless it is resumed."""
        return self is not DagState.RUNNING


@dataclass(frozen=True, slots=True)
class Node:
    """One stage as it is written. ``command`` is one text for the shell or the words of a program; paths are those of the pipeline's folder."""

    name: str
    line: int
    command: str | tuple[str, ...]
    working_dir: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    gpu_count: int = 0
    gpu_type: str = ""
    vram_gb: float = 0.0
    cpus: float = 0.0
    memory_gb: float = 0.0
    time_limit: float = 0.0
    retries: int = 0
    retry_delay: float = 2.0  # before the first retry; doubled each time
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] | None = None  # None = everything in its folder that is not the code's
    when: When = When.ON_SUCCESS
    matrix: tuple[tuple[str, tuple[str, ...]], ...] = ()
    cache: bool = True


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A whole file."""

    name: str
    nodes: tuple[Node, ...]
    description: str = ""
    tags: tuple[str, ...] = ()
    file: str = "pipeline.yaml"  # what errors call it


@dataclass(frozen=True, slots=True)
class Task:
    """One instance of a node: ``train`` or, of a matrix, ``train[seed=0]``. ``needs`` are positions in the plan."""

    id: str
    node: Node
    position: int
    matrix: tuple[tuple[str, str], ...] = ()
    needs: tuple[int, ...] = ()
    gathers: frozenset[str] = frozenset()  # nodes of which it takes several instances, each in a folder of its own

    @property
    def instance(self) -> str:
        """``seed=0,lr=0.1``; empty without a matrix."""
        return ",".join(f"{key}={value}" for key, value in self.matrix)


@dataclass(frozen=True, slots=True)
class Plan:
    """Every task, each after all that it needs; ``followers`` are positions, by position."""

    pipeline: Pipeline
    tasks: tuple[Task, ...]
    followers: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that a task has left: where it lay, and the hash by which its bytes are found."""

    path: str
    sha: str
    size: int
    executable: bool = False
