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
    own: bool = True  # false: the task itself was handed it, and passes it on as it was


@dataclass(frozen=True, slots=True)
class Dag:
    """A pipeline that was begun: the text as it was read, the code as it was packed, and how it is run. ``text`` decides, not the file."""

    number: int
    name: str
    text: str
    file: str  # what errors call it
    workdir: str
    commit: str
    folder: str  # where the pipeline's folder lies in the commit; "" = the top
    created: float
    options: Mapping[str, object] = field(default_factory=dict)  # as they were given: slots, gpus, executor, until, no_cache, …
    links: Mapping[str, str] = field(default_factory=dict)  # of the code that lead out of it
    state: DagState = DagState.RUNNING
    finished: float | None = None

    @property
    def id(self) -> str:
        """``dag-12``."""
        return f"dag-{self.number}"


@dataclass(frozen=True, slots=True)
class Row:
    """One task of a pipeline that was begun, as the record has it. Times are seconds."""

    position: int
    task: str
    state: TaskState = TaskState.WAITING
    attempt: int = 0  # the latest; 0 = none
    failures: int = 0  # attempts that have failed since the pipeline was begun or resumed
    lost: int = 0  # attempts whose supervisor died
    not_before: float = 0.0  # since the epoch
    cause: str = ""
    note: str = ""  # why it was not taken from the cache, or what else is to be said
    cached_from: int = 0  # the pipeline that ran it; 0 = this one
    job: str = ""  # of the latest attempt
    submitted: bool = False  # the executor has taken that job
    gpus: tuple[str, ...] = ()
    parts: str = ""  # what counted for the cache, as JSON
    started: float | None = None
    seconds: float = 0.0
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended, and what it left."""

    state: TaskState
    cause: str = ""
    seconds: float = 0.0
    exit_code: int | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    outputs: tuple[Kept, ...] = ()
    note: str = ""
