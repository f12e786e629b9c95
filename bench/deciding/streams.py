"""Streams of edits whose true effect is known: what a proposer may bring, in units of one run's sd.

A world is drawn from a seed alone. Level of a node = its parent's + the edit's effect; a run shows level + what its seed adds
+ what its worker adds + noise of its own, so that total variance is 1 whatever the share of the seed.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stream:
    """One kind of night."""

    name: str
    effect: float = 2.0  # mean size of a good edit
    good: float = 0.18  # shares of edits; the rest is null
    mild: float = 0.2
    bad: float = 0.15
    paired: float = 0.5  # share of the variance that belongs to the seed
    crash: float = 0.1
    tails: float = 0.0  # degrees of freedom of Student's t; 0 = normal
    workers: tuple[float, ...] = (0.0,)  # offset of each


STREAMS = {
    stream.name: stream
    for stream in (
        Stream("effect 2 sd, pairing 0", paired=0.0),
        Stream("effect 2 sd, pairing .5"),
        Stream("effect 2 sd, pairing .9", paired=0.9),
        Stream("effect 1 sd", effect=1.0),
        Stream("effect 5 sd", effect=5.0),
        Stream("plateau", effect=0.7, good=0.08, mild=0.3, bad=0.2),
        Stream("null", good=0.0),
        Stream("effect 2 sd, no crash", crash=0.0),
        Stream("heavy tails", tails=3.0),
        Stream("two workers", workers=(0.0, -3.0)),
    )
}


class World:
    """One night's edits and noise; every figure is a function of the seed and of what is asked."""

    def __init__(self, stream: Stream, seed: int, edits: int = 400) -> None:
        rng = np.random.default_rng([seed, 7])
        self.stream = stream
        self.seed = seed
        draw = rng.random(edits)
        size = rng.gamma(4.0, 0.25, edits) * stream.effect  # mean = effect, cv = .5
        mild = -np.abs(rng.normal(0.0, 1.0, edits))
        bad = -rng.gamma(1.5, 4.0, edits)
        ends = np.cumsum([stream.good, stream.mild, stream.bad])
        self.effects = np.select([draw < ends[0], draw < ends[1], draw < ends[2]], [size, mild, bad], 0.0)
        self.crashes = rng.random(edits) < stream.crash

    def _normal(self, *words: int) -> float:
        key = hashlib.blake2b(struct.pack(f"{len(words) + 1}q", self.seed, *words), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(key, "little"))
        if self.stream.tails and len(words) > 1:
            return float(rng.standard_t(self.stream.tails) / (self.stream.tails / (self.stream.tails - 2)) ** 0.5)
        return float(rng.normal())

    def run(self, level: float, node: int, seed: int, attempt: int, worker: int = 0) -> float:
        """One run's value: more is better; the attempt counts only where the seed does not decide all."""
        share = self.stream.paired
        own = self._normal(node, seed, attempt if share == 0 else 0)
        return float(level + share**0.5 * self._normal(seed) + (1 - share) ** 0.5 * own + self.stream.workers[worker])
