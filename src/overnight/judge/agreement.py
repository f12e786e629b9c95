"""Whether workers agree on one version: runs of the same code on several of them, and which of these nobody else bears out.

Two workers are called apart where honest runs would be that far apart, either way, once in two hundred pairs: by Student's t with the spread between
all runs of one version that count, and by what is known of the difference between their classes of machine. That is no proof yet: it takes
a third worker that sides with the other to outvote anybody, and several times until somebody is not believed any more. ``bench/verifying.py``
has the error rates of the whole rule.

Pure. Must not know what becomes of a worker that is outvoted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overnight.judge.noise import place, worker_offset
from overnight.judge.records import Knowledge, Rules, Run

RARE = 0.005  # the chance that two honest workers are called apart
BETTER, STRIKES = (
    3,
    4,
)  # results of which a worker says better, or anything else, than all others who agree, until it is not believed any more
BASELINE = 5  # runs of the baseline, at least: what they spread by is all that is known at first
SAMPLE = 0.1  # of the results that are not to be kept are looked at by a second worker all the same
_EXACT = 1e-6  # of a value: what runs that repeat exactly may differ by between machines of one class
_ROUGH = 0.05  # the same between two classes


@dataclass(frozen=True, slots=True)
class Opinions:
    """What several workers say of one version. ``odd``: the one that all others, who agree, are apart from; ``better``: its value is the better one.

    ``torn``: there are two, and they are apart. More than two without one that is odd are taken for noise.
    """

    odd: str = ""
    better: bool = False
    torn: bool = False


def compare(said: Mapping[str, Sequence[Run]], knowledge: Knowledge, rules: Rules) -> Opinions:
    """What the runs of one version say of the workers, by name, that made them."""
    names = [name for name, runs in said.items() if runs]
    if not any(apart(said[one], said[other], knowledge, rules) for at, one in enumerate(names) for other in names[at + 1 :]):
        return Opinions()
    if len(names) == 2:
        return Opinions(torn=True)
    odd = [(name, side) for name in names if (side := _is_alone(name, said, names, (knowledge, rules)))]
    return Opinions(odd[0][0], odd[0][1] > 0) if len(odd) == 1 else Opinions()


def _is_alone(name: str, said: Mapping[str, Sequence[Run]], names: Sequence[str], known: tuple[Knowledge, Rules]) -> int:
    """On which side of the others the worker is alone, while these agree; 0 if that is not so."""
    others = [other for other in names if other != name]
    if any(apart(said[one], said[other], *known) for at, one in enumerate(others) for other in others[at + 1 :]):
        return 0
    return apart(said[name], [run for other in others for run in said[other]], *known)


def apart(ours: Sequence[Run], theirs: Sequence[Run], knowledge: Knowledge, rules: Rules) -> int:
    """1 or -1 where our runs are better or worse than theirs by more than honest ones would be, 0 if not or if the noise is not known."""
    if knowledge.deterministic:
        return _apart_exactly(ours, theirs, rules)
    if not knowledge.usable:
        return 0
    var = knowledge.squares / knowledge.dof
    (our, our_offset), (their, their_offset) = (_level(runs, knowledge, rules, var) for runs in (ours, theirs))
    gap, error = our - their, var * (1 / len(ours) + 1 / len(theirs)) + our_offset + their_offset
    return int(math.copysign(1, gap)) if _chance(abs(gap) / math.sqrt(error), knowledge.dof) < RARE else 0


def _chance(distance: float, dof: float) -> float:
    """How likely Student's t with ``dof`` degrees of freedom is as far from 0, either way (approximation of Wallace 1959)."""
    normal = (8 * dof + 1) / (8 * dof + 3) * math.sqrt(dof * math.log1p(distance * distance / dof))
    return math.erfc(normal / math.sqrt(2))


def _level(runs: Sequence[Run], knowledge: Knowledge, rules: Rules, var: float) -> tuple[float, float]:
    """Oriented mean of the runs without what their class of machine adds, and how surely that is known, as a variance."""
    offsets = [worker_offset(place(run, knowledge), knowledge, var) for run in runs]
    mean = math.fsum(rules.sign * run.value - offset.mean for run, offset in zip(runs, offsets, strict=True)) / len(runs)
    return mean, max(offset.var for offset in offsets)


def _apart_exactly(ours: Sequence[Run], theirs: Sequence[Run], rules: Rules) -> int:
    our, their = (math.fsum(run.value for run in runs) / len(runs) for runs in (ours, theirs))
    room = _EXACT if {run.worker for run in ours} == {run.worker for run in theirs} else _ROUGH
    gap = rules.sign * (our - their)
    return int(math.copysign(1, gap)) if abs(gap) > max(rules.min_delta, room * max(abs(our), abs(their))) else 0


def sampled(number: int, seed: int) -> bool:
    """Whether this result is one of the tenth that a second worker looks at although it is not to be kept: by its number alone."""
    digest = hashlib.blake2b(f"verify/{seed}/{number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < SAMPLE * 2**32
