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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from overnight.judge.noise import place, worker_offset
from overnight.judge.records import Knowledge, Offset, Rules, Run

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


@dataclass(frozen=True, slots=True)
class Known:
    """By what is judged: the sum of squares within versions and its degrees of freedom, what the study has learned of its machines, its rules."""

    squares: float
    dof: float
    knowledge: Knowledge
    rules: Rules


def known(versions: Iterable[Sequence[Run]], knowledge: Knowledge, rules: Rules) -> Known:
    """What the runs of some versions show of the noise: on one class of machine, each seed of a version once.

    The judgement's own noise is not asked: it forgets after a leap, and whoever lies makes leaps.
    """
    squares = dof = 0.0
    for runs in versions:
        first = {(place(run, knowledge), run.seed): run.value for run in reversed(runs)}
        for where in {where for where, _ in first}:
            values = [value for (other, _), value in first.items() if other == where]
            middle = math.fsum(values) / len(values)
            squares, dof = squares + math.fsum((value - middle) ** 2 for value in values), dof + len(values) - 1
    return Known(squares, dof, knowledge, rules)


def compare(said: Mapping[str, Sequence[Run]], by: Known) -> Opinions:
    """What the runs of one version say of the workers, by name, that made them."""
    names = [name for name, runs in said.items() if runs]
    if not any(apart(said[one], said[other], by) for at, one in enumerate(names) for other in names[at + 1 :]):
        return Opinions()
    if len(names) == 2:
        return Opinions(torn=True)
    odd = [(name, side) for name in names if (side := _is_alone(name, said, names, by))]
    return Opinions(odd[0][0], odd[0][1] > 0) if len(odd) == 1 else Opinions()


def _is_alone(name: str, said: Mapping[str, Sequence[Run]], names: Sequence[str], by: Known) -> int:
    """On which side of the others the worker is alone, while these agree; 0 if that is not so."""
    others = [other for other in names if other != name]
    if any(apart(said[one], said[other], by) for at, one in enumerate(others) for other in others[at + 1 :]):
        return 0
    return apart(said[name], [run for other in others for run in said[other]], by)


def apart(ours: Sequence[Run], theirs: Sequence[Run], by: Known) -> int:
    """1 or -1 where our runs are better or worse than theirs by more than honest ones would be, 0 if not or if the noise is not known."""
    if by.dof < 1:
        return 0
    var = by.squares / by.dof
    (our, our_offset), (their, their_offset) = (_level(runs, by, var) for runs in (ours, theirs))
    gap = our - their
    alike = by.squares > 0 or {run.worker for run in ours} == {run.worker for run in theirs}
    least = (_EXACT if alike else _ROUGH) * max(abs(run.value) for run in (*ours, *theirs))
    error = var * (1 / len(ours) + 1 / len(theirs)) + our_offset + their_offset + least * least
    if abs(gap) <= by.rules.min_delta or not error or _chance(abs(gap) / math.sqrt(error), by.dof) >= RARE:
        return 0
    return int(math.copysign(1, gap))


def _chance(distance: float, dof: float) -> float:
    """How likely Student's t with ``dof`` degrees of freedom is as far from 0, either way (approximation of Wallace 1959)."""
    normal = (8 * dof + 1) / (8 * dof + 3) * math.sqrt(dof * math.log1p(distance * distance / dof))
    return math.erfc(normal / math.sqrt(2))


def _level(runs: Sequence[Run], by: Known, var: float) -> tuple[float, float]:
    """Oriented mean of the runs without what their class of machine adds, and how surely that is known, as a variance."""
    offsets = [worker_offset(place(run, by.knowledge), by.knowledge, var) if var else Offset(0.0, 0.0) for run in runs]
    mean = math.fsum(by.rules.sign * run.value - offset.mean for run, offset in zip(runs, offsets, strict=True)) / len(runs)
    return mean, max(offset.var for offset in offsets)


def sampled(number: int, seed: int) -> bool:
    """Whether this result is one of the tenth that a second worker looks at although it is not to be kept: by its number alone."""
    digest = hashlib.blake2b(f"verify/{seed}/{number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < SAMPLE * 2**32
