"""The nouns of the hub: a job as it is asked for, a worker as it offers itself, and what is said between them.

Pure: no clock, disk or network. Sizes of GPUs in MB, of memory in GB (10^9 bytes), times in seconds; wall times since the epoch (UTC).
Must not know how they are kept (``store.queue``) or carried (``queue.wire``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from overnight.models import JobState, JobStatus
from overnight.queue.inputs import address_of, input_of, leads_out

OURS = "overnight"  # the first word of a command that means this program, wherever it lies on the worker
MOST_HANDED = 512  # files that travel apart from the code
CHUNK = 256 * 2**10  # bytes of a stream that are told at once, at most
STREAM_LIMIT = 160 * 2**20  # bytes of one stream of one attempt that are kept
LEASE = 60.0  # seconds
SAFE = 0.8  # part of its lease after which a worker that hears nothing ends its jobs
NETWORK, CACHE = "network", "cache:"  # tags of what a worker grants beyond its walls: the network, and folders (cache:PATH)
LOSSES = 10  # attempts that may be lost before a job is given up: it may be what ends its workers
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_TEXTS = {"name": 200, "exp_id": 200, "gpu_type": 100, "pipeline": 200, "submission_key": 200, "metric": 256, "code": 64, "folder": 4096}
_LISTS = {"command": 4096, "tags": 64, "needs": 1024, "inputs": 256, "extras": 256, "outputs": 256, "workers": 256, "not_workers": 256}
_NUMBERS = {
    "gpu_count": 1024, "retries": 1000, "cpus": 4096, "vram_gb": 1e6, "memory_gb": 1e6, "time_limit": 1e9, "grace": 3600, "process_limit": 1e7,
    "disk_limit": 1e15, "log_limit": 1e15,
}  # fmt: skip
_BYTES = 128 * 2**10  # of command and variables together


@dataclass(frozen=True, slots=True)
class Now:
    """The time: by the clock of leases, which runs on while a machine sleeps, and on the wall."""

    clock: float
    wall: float


class OnLost(StrEnum):
    """What becomes of a running job whose worker is not heard of for a whole lease."""

    STOP = "stop"  # the worker ends it before the lease is over, and another may run it
    WAIT = "wait"  # it runs on and is waited for, however long that takes


@dataclass(frozen=True, slots=True)
class Submission:
    """A job as it is asked for. Numbers of 0 and empty texts ask for nothing."""

    command: tuple[str, ...]  # one word alone is a line for the shell
    name: str = ""
    code: str = ""  # the commit that is laid out for it; empty = nothing
    folder: str = ""  # below what is laid out, where the command runs
    gpu_count: int = 0
    exp_id: str = ""
    env: Mapping[str, str] = field(default_factory=dict)  # of a job that is over the names alone: values may be secrets
    tags: tuple[str, ...] = ()  # that its worker must have
    priority: int = 0  # -100..100; higher goes first
    time_limit: float = 0.0
    retries: int = 0  # how often it is run again after it failed
    gpu_type: str = ""  # part of the name of its GPUs, in any case
    vram_gb: float = 0.0  # of each of its GPUs
    cpus: int = 0
    memory_gb: float = 0.0
    needs: tuple[str, ...] = ()  # jobs that must have succeeded before
    inputs: tuple[
        str, ...
    ] = ()  # what it may read: PATH on its worker, or NAME=PATH, linked as NAME, or NAME=URL#sha256=HEX, fetched there
    extras: tuple[str, ...] = ()  # paths as ``inputs``, but passed over where they are not there
    outputs: tuple[str, ...] = ()  # globs below its folder; what they match is brought back
    pipeline: str = ""
    submission_key: str = ""  # the same key again is the same job
    metric: str = ""  # the goal metric
    grace: float = 1.5  # seconds between the request to end and the end
    process_limit: int = 0
    disk_limit: int = 0  # bytes
    log_limit: int = 64 * 2**20  # bytes of its output that are kept from the beginning
    on_lost: OnLost = OnLost.STOP
    wait: bool = False  # stays queued although no worker could run it
    handed: tuple[Output, ...] = ()  # large files that are laid into its folder, kept at the hub by their hash
    hands_on: bool = False  # outputs are handed on as by one task to the next: ``**`` alone is all that was not laid out for it
    workers: tuple[str, ...] = ()  # names: it goes to one of these alone; none = to any
    not_workers: tuple[str, ...] = ()  # names of workers that it does not go to

    def trouble(self) -> str:
        """What cannot be meant, in words; empty if nothing."""
        return next(filter(None, (_text_trouble(self), _number_trouble(self), _env_trouble(self))), "")


def _text_trouble(asked: Submission) -> str:
    for name, most in _TEXTS.items():
        if len(getattr(asked, name)) > most or "\0" in getattr(asked, name):
            return f"{name} has more than {most} characters, or a NUL"
    for name, most in _LISTS.items():
        if len(getattr(asked, name)) > most or any("\0" in word for word in getattr(asked, name)):
            return f"{name} has more than {most} entries, or a NUL"
    if not asked.command or not any(asked.command):
        return "there is no command"
    if asked.code and not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", asked.code):
        return f"code is no commit: {asked.code!r}"
    if asked.folder.startswith("/") or ".." in asked.folder.split("/"):
        return "folder must lie below the code"
    if any(not glob or glob.startswith("/") or ".." in glob.split("/") or glob.count("*") > 8 for glob in asked.outputs):
        return "outputs are globs below the folder of the job, with at most 8 stars"
    return _handed_trouble(asked.handed) or _placing_trouble(asked)


def _placing_trouble(asked: Submission) -> str:
    if odd := next((name for name in (*asked.workers, *asked.not_workers) if not is_worker_name(name)), ""):
        return f"no worker can be called {odd[:80]!r}"
    if out := next((each for each in asked.inputs if leads_out(each)), ""):
        return f"input {out!r} leads out of the folder of the job"
    paths = (*(each for each in asked.inputs if address_of(input_of(each)[1]) is None), *asked.extras)
    return next((f"input {entry!r} must lead to an absolute path" for entry in paths if not input_of(entry)[1].startswith("/")), "")


def _handed_trouble(handed: tuple[Output, ...]) -> str:
    if len(handed) > MOST_HANDED:
        return f"handed has more than {MOST_HANDED} entries"
    for each in handed:
        parts = each.path.split("/")
        if len(each.path) > 1000 or {"", ".", ".."} & set(parts) or any(ord(letter) < 32 for letter in each.path):
            return f"handed: {each.path[:80]!r} is no path below the folder of the job"
        if not re.fullmatch(r"[0-9a-f]{64}", each.sha256) or each.size < 0:
            return f"handed: {each.path[:80]!r} has no hash"
    return ""


def _number_trouble(asked: Submission) -> str:
    if not -100 <= asked.priority <= 100:
        return f"priority is {asked.priority}, and must lie within -100 and 100"
    for name, most in _NUMBERS.items():
        if not 0 <= getattr(asked, name) <= most:
            return f"{name} is {getattr(asked, name):g}, and must lie within 0 and {most:g}"
    return ""


def _env_trouble(asked: Submission) -> str:
    for name, value in asked.env.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            return f"env: {name[:80]!r} cannot be a variable"
    size = sum(len(word) for word in (*asked.command, *asked.env, *asked.env.values()))
    return f"command and env have {size} characters, at most {_BYTES} are taken" if size > _BYTES else ""


def cache_tag(path: str, home: str) -> str:
    """The tag for an absolute folder that jobs may write: the same on machines whose homes differ."""
    return CACHE + (f"~{path.removeprefix(home)}" if home != "/" and path.startswith(f"{home}/") else path)


def granted_by(tag: str) -> str:
    """The words of ``overnight worker start`` that give a worker this tag."""
    if tag == NETWORK:
        return "--network"
    return f"--cache {tag.removeprefix(CACHE)}" if tag.startswith(CACHE) else f"--tag {tag}"


def wish_of(asked: Submission, owner: str = "", *, seq: int = 0, job: str = "", doubted: Iterable[str] = ()) -> Wish:
    """What of a submission decides where it can run; ``doubted`` are workers that its owner has in quarantine."""
    return Wish(
        seq, job, asked.priority, asked.gpu_count, asked.gpu_type, asked.vram_gb, asked.cpus, asked.memory_gb, asked.tags, asked.time_limit, owner,
        asked.workers, (*asked.not_workers, *doubted), tuple(path for _, path in map(input_of, asked.inputs)),
    )  # fmt: skip


def is_worker_name(name: str) -> bool:
    """Whether a worker can be called that: it is part of file names and subjects."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Output:
    """A file that a job has left and that was brought back."""

    path: str  # below the folder of the job
    size: int
    sha256: str
    executable: bool = False


@dataclass(frozen=True, slots=True)
class HubJob:
    """A job as the hub knows it."""

    id: str  # job-8b2f1e
    submission: Submission
    state: JobState
    attempt: int = 0  # the latest one: the fence
    worker: str = ""  # of that attempt
    gpus: tuple[str, ...] = ()
    cause: str = ""  # why it ended, or why it is queued again
    cancelled: str = ""  # the reason, once somebody wants its end
    submitted: float = 0.0
    started: float | None = None  # the latest attempt
    finished: float | None = None
    seconds: float = 0.0
    exit_code: int | None = None
    failures: int = 0
    losses: int = 0
    owner: str = ""  # who submitted it
    outputs: tuple[Output, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)  # last values, once it is over


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU: ``index`` is what ``CUDA_VISIBLE_DEVICES`` calls it."""

    index: str
    name: str = ""
    memory_mb: int = 0  # 0 = not told


@dataclass(frozen=True, slots=True)
class Machine:
    """What a worker has, in use or not."""

    name: str  # of the worker
    slots: int
    cards: tuple[Card, ...] = ()
    cpus: int = 0
    memory_gb: float = 0.0
    tags: tuple[str, ...] = ()
    host: str = ""
    kind: str = ""  # class of machine, in words
    clients: tuple[str, ...] | None = None  # whose jobs it runs beside those of the hub's owner; None = everybody's
    shares: tuple[str, ...] = ()  # folders below which jobs of clients may name inputs
    fetches: tuple[str, ...] = ()  # beginnings of URLs that jobs of clients may have fetched


@dataclass(frozen=True, slots=True)
class Offer:
    """What of its machine a worker has free now."""

    machine: Machine
    slots: int
    gpus: tuple[str, ...] = ()
    cpus: int = 0
    memory_gb: float = 0.0


@dataclass(frozen=True, slots=True)
class Grant:
    """A job given to a worker, under an attempt that no other ever bears."""

    job: HubJob
    lease: float  # seconds from the answer; the worker counts from before it asked


@dataclass(frozen=True, slots=True)
class Held:
    """A job that a worker says it has."""

    job: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a worker is told when it renews: what is not its own any more, and what somebody wants to end."""

    lease: float
    lost: tuple[Held, ...] = ()
    cancelled: tuple[tuple[Held, str], ...] = ()  # with the reason
    known: tuple[tuple[Held, int, int], ...] = ()  # of what it holds: bytes of log and of metrics that the hub has without a gap
    drain: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """The command of an attempt is about to run."""


class Stream(StrEnum):
    """What of a job travels as bytes, in order, without gaps."""

    LOG = "log"  # what it prints
    METRICS = "metrics"  # lines of ``metrics.jsonl``


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of a stream from ``start`` on; told twice, or cut otherwise, it changes nothing."""

    stream: Stream
    start: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt is over: nothing of it runs any more."""

    status: JobStatus
    outputs: tuple[Output, ...] = ()


Report = Started | Chunk | Ended


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a stream: what follows begins at ``next`` of ``attempt``."""

    attempt: int
    start: int
    data: bytes
    state: JobState  # of the job, read before the data
    last: bool  # the attempt is over and this was all of it
    status: JobStatus | None = None  # how the attempt ended, with the empty part after its last

    @property
    def next(self) -> int:
        """Where to go on."""
        return self.start + len(self.data)


@dataclass(frozen=True, slots=True)
class Query:
    """Which jobs: all that fit every field that is set."""

    id: str = ""  # or its beginning
    states: tuple[JobState, ...] = ()
    worker: str = ""
    owner: str = ""
    exp_id: str = ""
    pipeline: str = ""
    before: str = ""  # queued earlier than this job
    after: str = ""  # queued later than this job
    last: int = 200  # newest of them, at most


@dataclass(frozen=True, slots=True)
class Doubt:
    """A worker in quarantine: jobs of ``owner`` (empty: of the hub's owner, and then everybody's) do not go there, and nothing of it counts."""

    owner: str
    reason: str
    since: float  # wall time


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker as the hub knows it."""

    machine: Machine
    seen: float  # wall time
    alive: bool  # heard of within a lease
    draining: bool
    jobs: tuple[str, ...]  # that it has now
    doubts: tuple[Doubt, ...] = ()  # who does not believe it any more, the hub's owner first
    revoked: bool = False  # cut off from the relay

    def doubted_by(self, owner: str) -> bool:
        """Whether it is in quarantine for jobs of this owner."""
        return any(doubt.owner in ("", owner) for doubt in self.doubts)


@dataclass(frozen=True, slots=True)
class Wish:
    """What of a queued job decides where it can run."""

    seq: int  # its age: lower is older
    id: str
    priority: int
    gpu_count: int = 0
    gpu_type: str = ""
    vram_gb: float = 0.0
    cpus: int = 0
    memory_gb: float = 0.0
    tags: tuple[str, ...] = ()
    time_limit: float = 0.0
    owner: str = ""
    workers: tuple[str, ...] = ()
    not_workers: tuple[str, ...] = ()  # also those that its owner has in quarantine
    inputs: tuple[str, ...] = ()  # paths on the worker, and URLs with their hashes, that it must be let read


@dataclass(frozen=True, slots=True)
class Busy:
    """What a running job takes of its worker, and until when at most (infinite = not known)."""

    gpus: tuple[str, ...]
    cpus: int
    memory_gb: float
    until: float


@dataclass(frozen=True, slots=True)
class Standing:
    """A live worker and what runs on it."""

    machine: Machine
    busy: tuple[Busy, ...] = ()
