"""The nouns that travel between the rooms: frozen records, no behaviour beyond reading themselves.

Pure: no clock, disk, network or environment. Times are seconds since the epoch (UTC) unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from overnight.settings import Settings

NO_SECOND = "no second worker"  # why a run that must not go to some workers was not made
FIRST_FILE = 100  # far above what a supervisor has open itself


class Direction(StrEnum):
    """Which way the goal metric improves."""

    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"

    def gain(self, new: float, old: float) -> float:
        """How much better ``new`` is than ``old``; above zero is an improvement."""
        return old - new if self is Direction.MINIMIZE else new - old


class Decision(StrEnum):
    """What became of an experiment: the words of ``results.tsv``."""

    KEEP = "keep"  # measurably better than the best before it: the branch advances
    DISCARD = "discard"  # equal, worse, or not fit to be run
    CRASH = "crash"  # gave no usable number: failed, timed out, no metric, not finite


class Trust(StrEnum):
    """Where the number of a row comes from, weakest first."""

    SELF_REPORTED = "self-reported"  # the run printed it about itself
    EVALUATED = "evaluated"  # our evaluator measured the artefact after the run was dead
    BLIND = "blind"  # the labels were never within reach of the run


class Confined(IntEnum):
    """What stood around a run: false for nothing at all."""

    NONE = 0  # because somebody asked for it
    BUBBLEWRAP = 1  # namespaces
    LANDLOCK = 2  # the weaker walls, where no namespaces can be made

    @property
    def word(self) -> str:
        """``none``, ``bubblewrap`` or ``landlock``."""
        return self.name.lower()


class Stage(StrEnum):
    """How far an experiment has come; each is written before the next is begun."""

    PROPOSED = "proposed"  # numbered, its files are in the store
    COMMITTED = "committed"  # kept in git under refs/overnight
    SUBMITTED = "submitted"  # its job may be running
    MEASURED = "measured"  # the job is over and its numbers are in the store
    DECIDED = "decided"  # keep, discard or crash is in the store
    APPLIED = "applied"  # branch, results.tsv and proposer have followed


class Operator(StrEnum):
    """What kind of step an experiment is."""

    BASELINE = "baseline"  # the base commit as it is
    IMPROVE = "improve"  # a change to the best so far
    SIMPLIFY = "simplify"  # less code for the same value
    REPAIR = "repair"  # a fix of an experiment that crashed on a dumb mistake
    DRAFT = "draft"  # a fresh attempt from the baseline
    COMBINE = "combine"  # two improvements on the same parent, merged
    WAVE = "wave"  # one run of a factorial design: half of several waiting edits together
    REVERT = "revert"  # the best without a keep that an audit doubts, or back to what was best before it


class JobState(StrEnum):
    """The life of one command on one machine."""

    QUEUED = "QUEUED"  # accepted, not started
    RUNNING = "RUNNING"  # the supervisor is at work
    SUCCEEDED = "SUCCEEDED"  # exit code 0
    FAILED = "FAILED"  # another exit code, a signal, or a limit other than time
    CANCELLED = "CANCELLED"  # ended on request
    TIMED_OUT = "TIMED_OUT"  # ended at its time limit
    LOST = "LOST"  # its supervisor died without a word

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One number that a run printed: ``time`` is seconds since the start of the job."""

    name: str
    value: float
    step: float
    time: float


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """What is left of one metric when the job is over."""

    last: float
    lowest: float  # nan if no finite value was seen
    highest: float
    count: int


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What to run, complete: nothing is inherited from the process that submits it.

    ``argv`` is executed as it is (no shell), after ``wrap`` (a sandbox prefix). Sizes are bytes, times seconds; 0 = no limit.
    """

    id: str
    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""  # a file; empty = /dev/null
    wrap: tuple[str, ...] = ()
    keepers: int = 0  # processes of the wrap that stay while the command runs; its walls fall with the first of them
    files: tuple[str, ...] = ()  # opened for the command, read-only, as descriptors FIRST_FILE, FIRST_FILE + 1, …
    writable: tuple[str, ...] = ()  # paths outside ``cwd`` that walls must let the command change
    readable: tuple[str, ...] = ()  # paths outside ``cwd`` that walls must let through
    hosts: tuple[str, ...] = ()  # all that walls let the command reach of the network, each "name:port"; none = as the walls have it
    time_limit: float = 0.0
    grace: float = 1.5  # between SIGTERM and SIGKILL
    memory_limit: int = 0
    process_limit: int = 0
    disk_limit: int = 0
    log_head: int = 64 * 2**20
    log_tail: int = 4 * 2**20
    gpus: tuple[str, ...] = ()  # where a cluster hands them out, their number counts and not their names
    lease: str = ""  # a file that says until when the command may run (``jobs.lease_text``); empty = for ever
    durable: bool = True  # its end is on the disk before it is told; a proposer's is not, for it can be asked again
    metric: str = ""  # the goal metric: exempt from the cap on metric names
    worker: str = ""  # class of machine that it is to run on, where one can be chosen; empty = any
    cpus: float = 0.0  # processors that it takes up, where a place is sought for it
    gpu_type: str = ""  # part of the name of its GPUs, where they are chosen
    vram_gb: float = 0.0  # of each of them
    outputs: tuple[str, ...] = ()  # paths and patterns below ``cwd`` that a machine with files of its own must bring back
    hands_on: bool = False  # as one task hands on to the next: ``**`` alone is all that was not laid out for it, what it removed counts
    parked: str = ""  # walls that stand already, as ``wrap`` would make them; where they are gone, ``wrap`` is taken
    away: tuple[str, ...] = ()  # names of workers that it must not go to; where no other comes in time it is CANCELLED with NO_SECOND


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What is known of a job: grows from QUEUED to its end."""

    state: JobState
    cause: str = ""  # in words, e.g. "exit code 1", "time limit of 600 s", "SIGKILL", "cancelled: stop --now"
    pid: int = 0  # of the supervisor
    started: float = 0.0
    seconds: float = 0.0  # by the monotonic clock, around the whole process tree
    exit_code: int | None = None
    signal: int | None = None
    cpu_seconds: float = 0.0
    peak_rss_mb: float = 0.0  # whole tree
    peak_vram_mb: float = 0.0
    log_bytes: int = 0  # printed, not kept
    survivors: int = 0  # processes that had outlived the command and were ended
    end: str = ""  # the last 16 kB of its output, once it is over
    taken: bool = False  # LOST because its place was given to somebody else: no fault of the job, which may be run again and again
    worker: str = ""  # class of the machine, where the executor knows it better than the loop
    host: str = ""  # name of the worker that ran it, where there are several, as the hub knows it
    confined: str = ""  # what stood around it (``Confined.word``), where the executor knows it better than the loop
    metrics: Mapping[str, MetricSummary] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Study:
    """One effort: what is sought, from which commit, on which branch."""

    id: int
    tag: str
    branch: str
    base_commit: str
    metric: str  # "" until the baseline has shown which one it is
    direction: Direction
    settings: Settings
    created: float
    confined: Confined = Confined.BUBBLEWRAP  # what stands around its runs now; not kept with the study, but with every row


@dataclass(frozen=True, slots=True)
class Idea:
    """What a proposer says about the edit it made in its disposable copy."""

    hypothesis: str
    proposer: str
    tokens: int = 0  # read and written, cached ones included
    cost: float = 0.0  # US dollars
    estimated: bool = False  # the cost is by the list prices of tokens, not by what the proposer says
    model: str = ""
    session: str = ""  # by which the proposer finds its conversation again
    note: str = ""  # what is to be said about the proposer, e.g. for whom it stands in
    seconds: float = 0.0  # thinking time
    state: Mapping[str, object] = field(default_factory=dict)  # JSON; handed back by ``tell``


@dataclass(frozen=True, slots=True)
class Proposal:
    """A hypothesis and the exact bytes that test it."""

    parent: int  # the experiment whose files it starts from; 0 for the baseline
    operator: Operator
    idea: Idea
    files: Mapping[str, bytes]  # every editable file of the proposal, by path
    rejected: str = ""  # why it is not fit to be run; empty = fit
    repairs: int = 0  # the experiment it mends; 0 = none
    notes: tuple[str, ...] = ()  # what the scope check wants to be known, e.g. files not carried
    told: tuple[int, ...] = ()  # ids of the notes that stood in its brief
    takes: tuple[int, ...] = ()  # ids of the queued ideas that its brief asked for
    trial: int = 0  # the trial in whose copy it was made; 0 = none


@dataclass(frozen=True, slots=True)
class Trial:
    """A copy of a version in which somebody outside the loop edits, until what came of it is decided."""

    number: int
    operator: Operator
    parent: int
    crashed: int  # the experiment that it mends; 0 = none
    begun: float
    told: tuple[int, ...]  # as in its proposal
    takes: tuple[int, ...]
    experiment: int = 0  # that tried what was in the copy; 0 = none yet
    ended: float | None = None  # when it was settled or given up


@dataclass(frozen=True, slots=True)
class Experiment:
    """One proposal tried: the row of the ledger."""

    number: int
    parent: int
    operator: Operator
    stage: Stage
    proposer: str
    description: str
    started: float
    commit: str = ""
    tree: str = ""
    repairs: int = 0
    decision: Decision | None = None
    confirmed: bool = True  # false: kept, but not as sure as the profile asks
    p: float | None = None  # probability that it is better than what it was compared with
    gain: float | None = None  # expected, with the 90 % interval; more is better
    gain_low: float | None = None
    gain_high: float | None = None
    cause: str = ""
    rival: int = 0  # the best at the decision: what it was compared with; 0 = nothing
    near: bool = False  # a discard that was not sure enough, and too good to be forgotten
    retests: int = 0  # runs made after the decision, to look again
    reverted: int = 0  # the experiment that took this keep back; 0 = it stands
    spared: str = ""  # why it would have been ended early, had it not been let go on to count wrong kills
    value: float | None = None
    decided_value: float | None = None  # at the decision, where re-tests have changed the mean; its commit says this one
    verified: str = ""  # which further workers have measured it, or that none has
    believed: float | None = None  # of its true level, after shrinkage
    believed_sd: float | None = None
    trust: Trust = Trust.SELF_REPORTED
    confined: Confined = Confined.BUBBLEWRAP
    seconds: float = 0.0  # training
    think_seconds: float = 0.0
    memory_gb: float = 0.0
    lines: int = 0  # of all editable files
    tokens: int = 0
    cost: float = 0.0
    estimated: bool = False  # the cost is by list prices
    model: str = ""
    session: str = ""
    finished: float | None = None
    crash_kind: str = ""  # oom, nan, timeout, no-metric, error:NameError, …
    metrics: Mapping[str, float] = field(default_factory=dict)
    state: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run of an experiment: ``value`` is None exactly if ``crash_kind`` says what went wrong."""

    attempt: int
    seed: int
    value: float | None  # the number that counts
    reported: float | None  # what the run said of itself, where an evaluator's number counts
    cause: str
    crash_kind: str
    seconds: float
    memory_gb: float
    metrics: Mapping[str, float]  # the last value of everything it printed
    worker: str = ""  # class of machine
    throughput: float = 0.0  # what it said of its own speed; 0 = nothing
    looks_again: bool = False  # made after the decision, not to select
    confined: str = ""  # what stood around it (``Confined.word``); empty = what stands around the study's runs
    host: str = ""  # name of the worker, where there are several


@dataclass(frozen=True, slots=True)
class Summary:
    """One night in numbers: computed once in ``store``, formatted by every face."""

    study: Study
    state: str  # running, paused, stopping, stopped, done
    reason: str  # why it ended, or what it waits for
    total: int
    kept: int
    discarded: int
    crashed: int
    running: tuple[int, ...]
    baseline: Experiment | None
    best: Experiment | None
    seconds: float  # since the study began running, this and earlier loops
    train_seconds: float
    think_seconds: float
    tokens: int
    cost: float
    crash_kinds: Mapping[str, int]
    unconfirmed: int = 0  # keeps that are not as sure as the profile asks
    standing: int = 0  # keeps that were compared with another and not taken back
    false_keeps: float = 0.0  # how many of the keeps are expected to be no improvement: the sum of 1 - P
    sigma: float | None = None  # sd of one run between seeds; None = not known, 0 = deterministic
    reverted: int = 0  # keeps that were taken back
    looks: int = 0  # runs made to look again: re-tests and audits
    early: int = 0  # runs ended before their time
    spared: int = 0  # runs that would have been, and were let go on to count wrong kills
    wrong_kills: int = 0  # of those, how many were kept in the end
    told_gain: tuple[float, float, float] | None = None  # of the best over the baseline, and its 90 % interval
    fresh: int = 0  # runs in it that no decision was made on; 0 = the figure is the judgement's own
    unverified: int = 0  # keeps that a second worker was to measure, and none did
    quarantined: tuple[tuple[str, str], ...] = ()  # workers that were put in quarantine, and why
    holder: str = ""  # who runs the loop now
