"""Slots in a virtual clock: how busy they are, and how soon a night's gain is reached, with the loop's own rule or in lock step.

The steady state asks ``Pace.wanted`` whenever something ends, as the loop does; in lock step every slot waits for the slowest.
Trainings last 60 s at the mean and differ by a quarter (lognormal), proposals 30 % of that; times are in seconds of the virtual clock.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
from streams import STREAMS, World

from overnight.judge import Action, Budget, Knowledge, Node, Rules, Run, judge, learn_result, learn_run, next_seed
from overnight.models import Direction, Experiment, Operator, Stage
from overnight.pace import Pace
from overnight.settings import Settings

TRAIN, THINK, SPREAD = 60.0, 0.3, 0.25
_WAIT = 1.0  # seconds from the end of a run to the decision and the start of the next


@dataclass
class Flight:
    """One experiment in its slot: which edits it holds, and the runs it has."""

    node: Node
    edits: frozenset[int]
    begun: float
    best: int  # the best version when it began
    asks: Action = Action.REPLICATE  # what the next run is of
    trained: float = 0.0


@dataclass
class Schedule:
    """A night on ``slots`` slots: when the true gain reached which height, and the seconds that slots were busy."""

    world: World
    slots: int
    steady: bool
    clock: float = 0.0
    busy: float = 0.0
    done: int = 0
    heights: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.world.seed, self.slots, self.steady])
        self.rules, self.known = Rules(Direction.MAXIMIZE), Knowledge()
        self.pace = Pace(Settings(slots=self.slots), {"train_seconds": 0.0, "cost": 0.0}, 0.0, 0)
        self.events: list[tuple[float, int, Flight | None]] = []
        self.order, self.numbers, self.fresh = itertools.count(), itertools.count(1), itertools.count()
        self.nodes: dict[int, Node] = {}
        self.edits: dict[int, frozenset[int]] = {0: frozenset()}
        self.tip, self.thinking = 0, 0
        self.flying: list[Flight] = []
        self.ready: deque[frozenset[int]] = deque()  # edits to add to the tip

    def truth(self, edits: frozenset[int]) -> float:
        """The true level of a version."""
        return float(sum(self.world.effects[at] for at in edits))

    def last(self, mean: float) -> float:
        """How long something lasts."""
        return float(mean * self.rng.lognormal(-SPREAD * SPREAD / 2, SPREAD))

    def start(self, flight: Flight) -> None:
        """One training in a slot."""
        seconds = self.last(TRAIN)
        flight.trained += seconds
        self.busy += seconds
        heapq.heappush(self.events, (self.clock + seconds + _WAIT, next(self.order), flight))

    def ran(self, node: Node, seed: int) -> Node:
        """The value of a run that ended now."""
        value = self.world.run(self.truth(self.edits[node.number]), node.number, seed, next(self.order))
        node = replace(node, runs=(*node.runs, Run(value, seed, "w0", TRAIN)))
        self.known = learn_run(self.known, node, self.rules)
        if node.number in self.nodes:
            self.nodes[node.number] = node
        return node

    def baseline(self) -> None:
        """Three runs of the baseline, one after another, as the loop makes them."""
        node = Node(0, (), kind="baseline")
        for seed in range(3):
            node = self.ran(node, seed)
            self.clock += self.last(TRAIN)
        self.nodes[0], self.began = node, self.clock
        self.pace.settled(_row(TRAIN, 0.0, Operator.BASELINE))

    def fill(self) -> None:
        """Give free slots what is ready, and have as much thought about as the pace wants."""
        together = self.steady or (len(self.ready) >= self.slots and not self.flying)
        while together and self.ready and len(self.flying) < self.slots:
            number = next(self.numbers)
            self.edits[number] = self.edits[self.tip] | self.ready.popleft()
            flight = Flight(Node(number, (), kind="constants", parent=self.tip), self.edits[number], self.clock, self.tip)
            self.flying.append(flight)
            self.start(flight)
        free = self.slots - len(self.flying)
        wanted = self.pace.wanted(free, [self.clock - flight.begun for flight in self.flying])
        if not self.steady:
            wanted = 0 if self.flying else self.slots
        while len(self.ready) + self.thinking < wanted:
            self.thinking += 1
            heapq.heappush(self.events, (self.clock + self.last(TRAIN * THINK), next(self.order), None))

    def play(self, goal: float, longest: float) -> Schedule:
        """Until the true gain is ``goal``, or for ``longest`` seconds."""
        self.baseline()
        self.fill()
        while self.events and self.truth(self.edits[self.tip]) < goal:
            self.clock, _, flight = heapq.heappop(self.events)
            if self.clock > longest:
                break
            if flight is None:
                self.thinking -= 1
                at = next(self.fresh)
                if at < len(self.world.effects):
                    self.ready.append(frozenset({at}))
            else:
                self.ended(flight)
            self.fill()
        return self

    def ended(self, flight: Flight) -> None:
        """A run has ended: decide, or run once more in the same slot."""
        if flight.asks is Action.REPLICATE_INCUMBENT:
            self.ran(self.nodes[flight.best], next_seed(self.nodes[flight.best], self.known, self.rules))
        elif flight.node.number not in self.nodes:
            flight.node = self.ran(flight.node, next_seed(flight.node, self.known, self.rules))
        found = judge(flight.node, self.nodes[self.tip], self.known, self.rules, Budget())
        if not found.final:
            flight.asks, flight.best = found.action, self.tip
            self.start(flight)
            return
        self.flying.remove(flight)
        self.done += 1
        self.known = learn_result(self.known, flight.node, self.nodes[self.tip], found, self.rules)
        self.pace.settled(_row(flight.trained, TRAIN * THINK, Operator.IMPROVE))
        before, parent = self.tip, self.nodes[flight.node.parent]
        if found.kept:
            self.tip, self.nodes[flight.node.number] = flight.node.number, flight.node
            self.heights.append((self.clock, self.truth(flight.edits)))
        other = before if found.kept else self.tip
        if other not in (0, flight.node.parent) and flight.node.mean > parent.mean:  # a win over its own parent: both, merged
            self.ready.appendleft(self.edits[other] | flight.edits)


def _row(trained: float, thought: float, operator: Operator) -> Experiment:
    return Experiment(0, 0, operator, Stage.APPLIED, "", "", 0.0, seconds=trained, think_seconds=thought)


def busy(seed: int, slots: int, *, steady: bool) -> float:
    """The share of its slots' time in which trainings ran, from the end of the baseline on, for about 240 trainings."""
    night = Schedule(World(STREAMS["effect 2 sd, no crash"], seed, 1000), slots, steady)
    night.play(float("inf"), 240 * TRAIN / slots)
    ahead = sum(max(0.0, end - night.clock) for end, _, flight in night.events if flight is not None)
    return (night.busy - ahead) / (slots * (night.clock - night.began))


def time_to_goal(seed: int, slots: int, *, steady: bool, goal: float = 10.0) -> float:
    """Seconds until the true gain is ``goal`` sd of one run."""
    night = Schedule(World(STREAMS["effect 2 sd, no crash"], seed, 1000), slots, steady)
    return night.play(goal, float("inf")).clock - night.began


def tier(first: int, seeds: int) -> None:
    """Print both for one slot, four and sixteen."""
    nights = range(first, first + seeds)
    print(f"slots: {seeds} nights; busy, and how much sooner than one slot the true gain is 10 sd (ratio of mean times)")
    alone = np.array([time_to_goal(seed, 1, steady=True) for seed in nights])
    for slots, steady in itertools.product((1, 4, 16), (True, False)):
        shares = np.array([busy(seed, slots, steady=steady) for seed in nights])
        times = np.array([time_to_goal(seed, slots, steady=steady) for seed in nights])
        picks = np.random.default_rng(0).integers(0, seeds, (300, seeds))
        drawn = alone[picks].mean(1) / times[picks].mean(1)
        print(f"  {slots:2d} slots, {'steady state' if steady else 'lock step':12s}  busy {shares.mean():.3f} ±{1.96 * shares.std(ddof=1) / seeds**0.5:.3f}"
              f"  time to goal {alone.mean() / times.mean():5.2f}x ±{1.96 * drawn.std():.2f}", flush=True)  # fmt: skip
