"""One night over a stream of known truth: with the shipping judgement and its audits, with its waves, and with the rules that others use.

Every rule answers with the same record. All values are oriented (more is better) and in units of one run's sd.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from streams import World

from overnight.judge import (
    Action,
    Budget,
    Knowledge,
    Node,
    Rules,
    Run,
    Verdict,
    judge,
    learn_audit,
    learn_result,
    learn_run,
    learn_taken_back,
    next_seed,
)
from overnight.judge.audit import CONFIRMED, SHARE, Keep, audit_due, audit_plan, refuted, report
from overnight.judge.noise import variance
from overnight.judge.policies import plackett_burman, wave_effects
from overnight.judge.records import Profile
from overnight.models import Direction

LAST = 4  # runs of a night that are left to its last look back


class Measured(Protocol):
    """Whatever gives a value for a state, a node's number, a seed, the count of runs and a worker."""

    def run(self, level: Any, node: int, seed: int, attempt: int, worker: int = 0) -> float:
        """One run, more is better."""
        ...


@dataclass
class Night:
    """What came of one night; ``low`` to ``high`` is its 90 % interval. Keeps that an audit took back are not counted as keeps."""

    gain: float = 0.0
    keeps: int = 0
    null: int = 0  # keeps whose true effect is zero
    harmful: int = 0
    missed: int = 0
    claimed: float = 0.0
    low: float = 0.0
    high: float = 0.0
    doubt: float = 0.0
    runs: int = 0
    checks: int = 0  # runs that looked again before a decision
    audits: int = 0  # runs that looked back at keeps
    back: int = 0  # keeps taken back
    decisions: int = 0
    seconds: float = 0.0

    def count(self, effect: float, *, kept: bool) -> None:
        """Book one decision."""
        self.keeps += kept
        self.null += kept and effect == 0
        self.harmful += kept and effect < 0
        self.missed += not kept and effect > 0

    def take_back(self, effect: float) -> None:
        """Book a keep that is none any more."""
        self.back += 1
        self.keeps -= 1
        self.null -= effect == 0
        self.harmful -= effect < 0
        self.missed += effect > 0


@dataclass
class Kept:
    """A keep that stands: what it was compared with, its P by now, and its true effect where that is known."""

    rival: int
    action: Action
    p: float
    effect: float = 0.0
    undoes: int = 0  # the keep that this one takes back


class Ours:
    """The shipping judgement in a loop of its own: one slot, no proposer, edits in the stream's order, audits within the same runs."""

    def __init__(self, world: Measured, runs: int, profile: Profile = "balanced") -> None:
        self.world, self.left, self.total, self.night = world, runs, runs, Night()
        self.rules = Rules(Direction.MAXIMIZE, profile=profile)
        self.known = Knowledge()
        self.truth: dict[int, Any] = {0: 0.0}
        self.nodes: dict[int, Node] = {}  # the baseline and what was kept, with all their runs
        self.kept: dict[int, Kept] = {}  # the keeps that stand, the tip as the last
        self.audited_at = self.number = 0

    def run(self, node: Node, seed: int, worker: int = 0, *, check: bool = False) -> Node:
        """One more run of the node, and what is learned from it."""
        self.left -= 1
        self.night.runs += 1
        self.night.audits += check
        value = self.world.run(self.truth[node.number], node.number, seed, self.night.runs, worker)
        node = replace(node, runs=(*node.runs, Run(value, seed, f"w{worker}", 10.0, check=check)))
        if node.number in self.nodes:
            self.nodes[node.number] = node
        begun = time.perf_counter()
        self.known = learn_run(self.known, node, self.rules)
        self.night.seconds += time.perf_counter() - begun
        return node

    def verdict(self, node: Node, best: Node | None) -> Verdict:
        """The judgement, timed."""
        begun = time.perf_counter()
        found = judge(node, best, self.known, self.rules, Budget(self.left))
        self.night.seconds += time.perf_counter() - begun
        return found

    def baseline(self) -> Node:
        """The baseline, as often as the rules ask."""
        node, found = Node(0, (), kind="baseline"), None
        while found is None or not found.final:
            node = self.nodes[0] = self.run(node, found.seed or 0 if found else 0)
            found = self.verdict(node, None)
        return node

    def settle(self, node: Node, keep: Kept, worker: int = 0) -> bool:
        """Run the candidate, and it or the incumbent again, until it is decided; if kept it is the tip from then on."""
        node = self.run(node, next_seed(node, self.known, self.rules), worker)
        while not (found := self.verdict(node, self.tip)).final:
            if found.action is Action.REPLICATE:
                node = self.run(node, found.seed or 0, worker)
            else:
                self.run(self.tip, found.seed or 0, int(found.worker[1:]) if found.worker else 0)
        begun = time.perf_counter()
        self.known = learn_result(self.known, node, self.tip, found, self.rules)
        self.night.seconds += time.perf_counter() - begun
        self.night.decisions += 1
        if found.kept:
            self.nodes[node.number], self.kept[node.number] = node, replace(keep, action=found.action, p=found.p)
        return found.kept

    @property
    def tip(self) -> Node:
        """The best so far."""
        return self.nodes[max(self.kept, default=0)]

    @property
    def reserve(self) -> int:
        """Runs that are left to the last look back, as the shipping loop makes it after the last experiment."""
        return min(LAST, max(0, int(SHARE * self.total) - self.night.audits)) if self.kept else 0

    def look_back(self, *, last: bool = False) -> list[int]:
        """An audit, if it is due; the keeps that it finds to be more likely none, without the tip: a refuted tip is gone already."""
        if not (audit_due(self.night.runs, self.audited_at, Budget()) or (last and self.night.runs > self.audited_at)):
            return []
        self.audited_at, doubtful = self.night.runs, []
        keeps = [Keep(self.nodes[number], kept.action, kept.p) for number, kept in sorted(self.kept.items())]
        for number, seed in audit_plan(keeps, self.known, self.night.runs, self.night.audits, Budget(self.left), self.rules):
            if number not in self.kept:
                continue
            node, kept = self.run(self.nodes[number], seed, check=True), self.kept[number]
            found = judge(node, self.nodes[kept.rival], self.known, self.rules, Budget(0))
            self.known = learn_audit(self.known, kept.p, found.p)
            self.kept[number] = replace(kept, p=found.p, action=Action.KEEP if found.p >= CONFIRMED else Action.PROVISIONAL)
            if number == self.tip.number and refuted(found.p, found.gain):
                self.take_back(number)
            elif number != self.tip.number and found.p < 0.5:
                doubtful.append(number)
        return doubtful

    def take_back(self, number: int) -> None:
        """The keep is undone."""
        gone = self.kept.pop(number)
        self.known = learn_taken_back(self.known, gone.p)
        if not gone.undoes:
            self.night.take_back(gone.effect)

    def play(self) -> Night:
        """The whole night, edits one at a time."""
        world = self.world
        if not isinstance(world, World):
            raise TypeError("edits of known effect come from a stream")
        self.baseline()
        for at, effect in enumerate(map(float, world.effects)):
            if self.left <= self.reserve:
                break
            if world.crashes[at]:
                self.left -= 1
                self.night.runs += 1
                continue
            self.night.count(effect, kept=self.experiment(effect, at % len(world.stream.workers)))
            for doubtful in self.look_back():
                self.without(doubtful)
        return self.end()

    def experiment(self, effect: float, worker: int = 0, undoes: int = 0) -> bool:
        """One edit of the tip, whose effect is known; whether it was kept."""
        self.number += 1
        self.truth[self.number] = self.truth[self.tip.number] + effect
        node = Node(self.number, (), kind="constants", parent=self.tip.number)
        return self.settle(node, Kept(self.tip.number, Action.KEEP, 0.0, effect, undoes), worker)

    def without(self, doubtful: int) -> None:
        """The tip without what a doubtful keep had changed, tried as an experiment of its own."""
        stands = self.left > self.reserve and doubtful in self.kept and doubtful != self.tip.number
        if stands and self.experiment(-self.kept[doubtful].effect, undoes=doubtful):
            self.take_back(doubtful)

    def climb(self, start: Any, propose: Callable[[Any, int], Any]) -> tuple[Any, Night]:
        """The whole night over edits without a known effect: ``propose`` gives the state of edit number n of a state; returns the last."""
        self.truth = {0: start}
        self.baseline()
        while self.left > self.reserve:
            number = self.number = self.number + 1
            self.truth[number] = propose(self.truth[self.tip.number], number)
            node = Node(number, (), kind="constants", parent=self.tip.number)
            self.night.keeps += self.settle(node, Kept(self.tip.number, Action.KEEP, 0.0))
            self.look_back()
        night = self.end()
        return self.truth[self.tip.number], night

    def end(self) -> Night:
        """The last look back, and the figures of the night."""
        while self.left > 0:
            before = self.left
            self.look_back(last=True)
            if self.left == before:
                break
        found = report(self.tip, self.nodes[0], self.known, self.rules)
        gain = self.truth[self.tip.number]
        self.night.gain = gain if isinstance(gain, float) else 0.0
        self.night.claimed, self.night.low, self.night.high = found.gain, found.low, found.high
        self.night.doubt, self.night.checks = self.known.doubt, self.known.checks
        return self.night


def ours(world: World, runs: int) -> Night:
    """The shipping judgement, profile balanced."""
    return Ours(world, runs).play()


def fast(world: World, runs: int) -> Night:
    """The shipping judgement, profile fast."""
    return Ours(world, runs, "fast").play()


def strict(world: World, runs: int) -> Night:
    """The shipping judgement, profile strict."""
    return Ours(world, runs, "strict").play()


def waves(world: World, runs: int) -> Night:
    """Eleven edits of one parent in twelve runs on one seed panel; all that are likely enough are kept together."""
    play, at, level = Ours(world, runs), 0, 0.0
    play.baseline()
    design = plackett_burman(11)
    number, claimed, spread = 1000, 0.0, 0.0
    while play.left >= len(design):
        edits = [float(effect) for effect in world.effects[at : at + 11]]
        at += 11
        values = []
        for row, held in enumerate(design):
            number += 1
            total = level + sum(effect for effect, on in zip(edits, held, strict=True) if on)
            values.append(world.run(total, number, row % 3 if world.stream.paired else number, number))
        play.left -= len(design)
        play.night.runs += len(design)
        begun = time.perf_counter()
        effects = wave_effects(values, design, play.known, variance(play.known))
        play.night.seconds += time.perf_counter() - begun
        for effect, (gain, p) in zip(edits, effects, strict=True):
            play.night.decisions += 1
            kept = p >= 0.7 and gain > 0
            play.night.count(effect, kept=kept)
            if kept:
                level, claimed, spread = level + effect, claimed + gain, spread + 0.33
                play.night.doubt += 1 - p
    reach = 1.645 * spread**0.5
    play.night.gain, play.night.claimed = level, claimed
    play.night.low, play.night.high = claimed - reach, claimed + reach
    return play.night


def single(world: World, runs: int) -> Night:
    """Keep whatever beats the best value seen, after one run."""
    night, level = Night(runs=runs), 0.0
    best = first = world.run(0.0, 0, 0, 0)
    for i in range(runs - 1):
        if not world.crashes[i]:
            value = world.run(level + world.effects[i], i + 1, 1000 + i, i)
            night.count(float(world.effects[i]), kept=value > best)
            if value > best:
                best, level = value, level + float(world.effects[i])
    return replace(night, gain=level, claimed=best - first, low=best - first, high=best - first)


def floor(world: World, runs: int) -> Night:
    """Two baseline runs; keep what beats the best value by more than their difference."""
    night, level = Night(runs=runs), 0.0
    pair = [world.run(0.0, 0, seed, 0) for seed in (0, 1)]
    best, need = max(pair), abs(pair[0] - pair[1])
    for i in range(runs - 2):
        if not world.crashes[i]:
            value = world.run(level + world.effects[i], i + 1, 1000 + i, i)
            night.count(float(world.effects[i]), kept=value > best + need)
            if value > best + need:
                best, level = value, level + float(world.effects[i])
    return replace(night, gain=level, claimed=best - sum(pair) / 2, low=best, high=best)


def deviation(world: World, runs: int) -> Night:
    """Keep what beats the best value by the median absolute deviation of the last 20 values."""
    night, level = Night(runs=runs), 0.0
    best = first = world.run(0.0, 0, 0, 0)
    seen = [best]
    for i in range(runs - 1):
        if not world.crashes[i]:
            value = world.run(level + world.effects[i], i + 1, 1000 + i, i)
            seen = [*seen[-19:], value]
            need = float(np.median(np.abs(np.array(seen) - np.median(seen)))) if len(seen) > 3 else 0.0
            night.count(float(world.effects[i]), kept=value > best + need)
            if value > best + need:
                best, level = value, level + float(world.effects[i])
    return replace(night, gain=level, claimed=best - first, low=best - first, high=best - first)


def best_of_five(world: World, runs: int) -> Night:
    """Five edits of one parent, one run each; the best of them is kept if it beats the best value seen."""
    night, level = Night(runs=runs), 0.0
    best = first = world.run(0.0, 0, 0, 0)
    for i in range(0, runs - 5, 5):
        alive = [at for at in range(i, i + 5) if not world.crashes[at]]
        values = [world.run(level + world.effects[at], at + 1, 1000 + at, at) for at in alive]
        won = max(values, default=best) > best
        for at, value in zip(alive, values, strict=True):
            night.count(float(world.effects[at]), kept=won and value == max(values))
        if won:
            best, level = max(values), level + float(world.effects[alive[values.index(max(values))]])
    return replace(night, gain=level, claimed=best - first, low=best - first, high=best - first)


def _thrice(world: World, runs: int, better: Callable[[list[float], list[float]], bool]) -> Night:
    night, level, left = Night(runs=runs, checks=2 * runs // 3), 0.0, runs - 3
    best = first = [world.run(0.0, 0, seed, 0) for seed in range(3)]
    for i in range(len(world.effects)):
        left -= 1 if world.crashes[i] else 3
        if left < 0:
            break
        if not world.crashes[i]:
            values = [world.run(level + world.effects[i], i + 1, 1000 + 3 * i + seed, i) for seed in range(3)]
            kept = better(values, best)
            night.count(float(world.effects[i]), kept=kept)
            if kept:
                best, level = values, level + float(world.effects[i])
    gain = float(np.mean(best) - np.mean(first))
    return replace(night, gain=level, claimed=gain, low=gain, high=gain)


def welch(world: World, runs: int) -> Night:
    """Three seeds for everything; keep at t > 2.13, one-sided 5 % with four degrees of freedom."""
    return _thrice(world, runs, lambda a, b: np.mean(a) - np.mean(b) > 2.13 * ((np.var(a, ddof=1) + np.var(b, ddof=1)) / 3) ** 0.5)


def bootstrap(world: World, runs: int) -> Night:
    """Three seeds for everything; keep when 90 % of the resampled means are better."""
    rng = np.random.default_rng(0)
    return _thrice(world, runs, lambda a, b: float(np.mean(rng.choice(a, (200, 3)).mean(1) > rng.choice(b, (200, 3)).mean(1))) > 0.9)


RULES: dict[str, Callable[[World, int], Night]] = {
    "single run": single,
    "two baselines": floor,
    "median deviation": deviation,
    "best of five": best_of_five,
    "bootstrap of 3": bootstrap,
    "always 3 + Welch": welch,
    "fast": fast,
    "balanced": ours,
    "strict": strict,
    "waves": waves,
}
