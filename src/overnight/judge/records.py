"""The nouns of judgement under noise: what ran, what was learned, what is asked, what is answered.

Pure: math and the standard library. Values of runs are in the metric's own units and direction; everything learned is
oriented, so that more is better. Must not know the store, the loop, nor where a run happened beyond the name of its worker.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Literal

from overnight.decide import Rules as FirstRules
from overnight.models import Direction

Kind = Literal["baseline", "constants", "structural"]
Profile = Literal["fast", "balanced", "strict"]

# Half-normal scales of good and bad edits, in units of the noise. The ladder is that of adaptive shrinkage (Stephens 2016):
# few enough to learn their weights within a night, dense enough that no effect falls between two rungs.
GOOD = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
MILD = (0.5, 1.0, 2.0)
BAD = (4.0, 8.0, 16.0, 64.0)
SCALES = (0.0, *GOOD, *(-scale for scale in MILD), *(-scale for scale in BAD))
FIRST_COUNTS = (3.5, 0.7, 0.8, 0.7, 0.4, 0.2, 0.1, 1.3, 1.2, 1.0, 0.9, 0.6, 0.4, 0.2)

# Hypotheses on the noise: the sd of one run as a multiple of the baseline's own sd, and the share of its variance that
# belongs to the seed (two edits on one seed have it in common).
NOISE = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
SHARED = (0.0, 0.3, 0.5, 0.7, 0.9, 0.97)


FAR = 1e60  # no metric is there; beyond it only comparisons are made, for fourth powers must stay finite


class Action(StrEnum):
    """What is to be done with an experiment."""

    KEEP = "keep"  # an improvement, as sure as the profile asks
    PROVISIONAL = "provisional"  # more likely an improvement than not; the branch advances, the audit comes back to it
    DISCARD = "discard"  # no improvement, or not fit
    NEAR_MISS = "near-miss"  # not sure enough to be kept, too good to be forgotten: may be combined with others
    REPLICATE = "replicate"  # one more run of the candidate
    REPLICATE_INCUMBENT = "replicate-incumbent"  # one more run of the best so far
    CRASH = "crash"  # no usable number


FINAL = frozenset({Action.KEEP, Action.PROVISIONAL, Action.DISCARD, Action.NEAR_MISS, Action.CRASH})
KEPT = frozenset({Action.KEEP, Action.PROVISIONAL})


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a node: a value that is not finite is a run that failed."""

    value: float
    seed: int = 0
    worker: str = ""  # runs are compared freely within one name
    seconds: float = 0.0
    throughput: float = 0.0  # steps (or tokens) per second, as far as the run prints it; 0 = unknown
    check: bool = False  # made to look again (replicate, audit), not to select: fit for the report of gains


@dataclass(frozen=True, slots=True)
class Node:
    """One experiment as the judgement sees it."""

    number: int
    runs: tuple[Run, ...]
    lines: int = 0  # of code
    memory_gb: float = 0.0
    kind: Kind = "structural"
    parent: int = 0
    bar: float | None = None  # of an incumbent: the value to beat where there is no noise; None = its mean
    failure: str = ""  # why it gave no number

    @property
    def values(self) -> tuple[float, ...]:
        """The finite values, in order."""
        return tuple(run.value for run in self.runs if math.isfinite(run.value))

    @property
    def near(self) -> bool:
        """Whether there is a value, and none so far out that arithmetic breaks down."""
        return bool(self.values) and all(abs(value) < FAR for value in self.values)

    @property
    def mean(self) -> float:
        """The plain mean of the finite values; nan without one."""
        if not self.values:
            return math.nan
        count = len(self.values)
        return math.fsum(self.values) / count if self.near else math.fsum(value / count for value in self.values)


@dataclass(frozen=True, slots=True)
class Level:
    """What is believed of one node's true level, oriented (more is better); ``base`` is the covariance with the baseline's level."""

    mean: float
    var: float
    base: float = 0.0
    runs: int = 0  # how many of the node's runs are in it


@dataclass(frozen=True, slots=True)
class Offset:
    """A seed's or a worker's effect on a value, oriented, as mean and variance."""

    mean: float
    var: float


@dataclass(frozen=True, slots=True)
class Rules:
    """What the study asks of a keep. Memory in GB, 0 = no limit; ``min_delta`` in the metric's units."""

    direction: Direction
    min_delta: float = 0.0
    memory_soft: float = 0.0
    memory_hard: float = 0.0
    profile: Profile = "balanced"
    baseline_runs: int = 3
    n_max: int = 5  # runs of one candidate
    line_cost: float = 0.025  # in sd of one run: twenty added lines cost half an sd
    memory_cost: float = 5.0  # in sd of one run, for each whole of the soft limit above it
    target: float | None = None
    seed: int = 0

    @property
    def sign(self) -> float:
        """Turns values into more-is-better."""
        return 1.0 if self.direction is Direction.MAXIMIZE else -1.0

    def without_noise(self) -> FirstRules:
        """The same for a study whose runs repeat exactly."""
        return FirstRules(self.direction, self.min_delta, self.memory_soft, self.memory_hard)


@dataclass(frozen=True, slots=True)
class Budget:
    """What is left, in runs of typical length; infinite = until a person stops it."""

    runs_left: float = math.inf
    idea_seconds: float = 0.0  # proposing and preparing one new idea, on top of its run


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, and why. ``gain`` is E[d] in the metric's units, more is better; ``low`` to ``high`` hold 90 %."""

    action: Action
    cause: str
    p: float = 0.0  # P(d > delta)
    gain: float = 0.0
    low: float = 0.0
    high: float = 0.0
    seed: int | None = None  # of the run asked for
    worker: str | None = None  # None = any
    bar: float | None = None  # where there is no noise: the value to beat from now on
    seen: float = 0.0  # the observed difference, oriented, and its variance: what ``learn_result`` learns from
    seen_var: float = 0.0

    @property
    def final(self) -> bool:
        """Whether the experiment is settled."""
        return self.action in FINAL

    @property
    def kept(self) -> bool:
        """Whether the branch advances."""
        return self.action in KEPT


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Everything a study has learned that belongs to no single node; changed only by the functions of ``learn``."""

    scale: float = 0.0  # the baseline's sd of one run: the unit of ``counts`` and of NOISE; 0 = not known yet
    squares: float = 0.0  # pooled within-node sum of squares
    dof: float = 0.0  # its degrees of freedom
    noise: tuple[float, ...] = (0.0,) * len(NOISE)  # log weights of the hypotheses on the noise, from replicates
    shared: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # kind -> log weights of SHARED
    recent: tuple[float, ...] = ()  # what the latest replicates of candidates added to ``squares``
    repeats: tuple[float, float] = (0.0, 0.0)  # sum of squares and dof of runs of one node on one and the same seed
    counts: tuple[float, ...] = FIRST_COUNTS  # how often each rung of SCALES was met, with the prior
    levels: Mapping[int, Level] = field(default_factory=dict)  # of the baseline and of what was kept
    seeds: Mapping[int, Offset] = field(default_factory=dict)  # of the seeds that are used again and again
    workers: Mapping[str, Offset] = field(default_factory=dict)
    throughput: Mapping[str, float] = field(default_factory=dict)  # usual one of each worker
    baseline: int | None = None
    earned: float = 0.6  # gain of new ideas lately, in ``scale``
    earned_runs: float = 3.0  # and the runs it took; both fade
    run_seconds: float = 0.0  # a typical run
    ideas: int = 0  # first runs of candidates
    checks: int = 0  # further runs, of whom ever
    keeps: int = 0
    doubt: float = 0.0  # sum of 1 - P over the keeps

    @property
    def known(self) -> bool:
        """Whether anything is known of the noise."""
        return self.dof > 0

    @property
    def usable(self) -> bool:
        """Whether the noise is known, above nothing, and of a size that arithmetic can bear."""
        return self.dof > 0 and 1 / FAR < self.scale < FAR

    @property
    def deterministic(self) -> bool:
        """Whether every repetition gave the same value."""
        return self.dof > 0 and self.squares == 0

    @property
    def ignores_seed(self) -> bool:
        """Whether one seed gives different values: the script ignores it, or something else is at work (clock, kernels)."""
        squares, dof = self.repeats
        return dof > 0 and self.dof > 0 and squares / dof > 0.5 * self.squares / self.dof

    def to_json(self) -> str:
        """One line of JSON; ``from_json`` reads it back, exactly."""
        return json.dumps(self, separators=(",", ":"), default=_as_record)

    @classmethod
    def from_json(cls, text: str) -> Knowledge:
        """Knowledge as it was written; names of other versions are passed over. Raises ``ValueError`` for what is no JSON object."""
        found: Any = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("knowledge is a JSON object")  # noqa: TRY004 - the text is wrong, not the caller's type
        values = {item.name: found[item.name] for item in fields(cls) if item.name in found}
        for name in ("noise", "counts", "repeats", "recent"):
            if name in values:
                values[name] = tuple(values[name])
        values["shared"] = {kind: tuple(weights) for kind, weights in values.get("shared", {}).items()}
        values["levels"] = {int(number): Level(**level) for number, level in values.get("levels", {}).items()}
        values["seeds"] = {int(seed): Offset(**offset) for seed, offset in values.get("seeds", {}).items()}
        values["workers"] = {worker: Offset(**offset) for worker, offset in values.get("workers", {}).items()}
        return cls(**values)

    def with_level(self, number: int, level: Level) -> Knowledge:
        """The same with one level more (or anew); of many, the baseline and the latest sixty-four stay."""
        levels = {**self.levels, number: level}
        for old in sorted(levels)[:-64]:
            if old != self.baseline:
                del levels[old]
        return replace(self, levels=levels)


def _as_record(found: object) -> dict[str, object]:
    return {item.name: getattr(found, item.name) for item in fields(found)}  # type: ignore[arg-type] # JSON knows all but records
