"""``overnight retest``: run kept experiments again with fresh seeds, and say how sure their gains are now."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from overnight.app import place as places
from overnight.app import prepare, wiring
from overnight.app.options import Options
from overnight.errors import NotFoundError, UsageError
from overnight.models import Decision, Experiment, Operator, Study
from overnight.referee import Referee
from overnight.store import Store
from overnight.workspace import Workspace

_SURE = 0.9


@dataclass(frozen=True, slots=True)
class Again:
    """What the new runs say: the experiment as it was, its values by now, and the probability that it is better than its parent."""

    experiment: Experiment
    values: tuple[float, ...]
    p: float
    gain: float

    @property
    def word(self) -> str:
        """``confirmed``, ``contradicted`` or ``still open``."""
        return "confirmed" if self.p >= _SURE else "contradicted" if self.p <= 1 - _SURE else "still open"


def retest(options: Options, numbers: Sequence[int], runs: int, said: Callable[[str], None]) -> list[Again]:
    """Run each experiment ``runs`` more times (no numbers = every unconfirmed keep). The branch stays as it is.

    Raises ``UsageError``, ``NotFoundError``, ``BusyError``.
    """
    place = prepare.locate(options)
    if not place.database.exists():
        raise NotFoundError("E-NO-STUDY", "there is no study here", fix="overnight run -- python train.py")
    with contextlib.ExitStack() as stack:
        workspace = stack.enter_context(Workspace.open(options.folder, place.state))
        stack.enter_context(places.held(place))
        store = stack.enter_context(contextlib.closing(Store(place.database)))
        study = store.study(str(options.flags.get("tag", "")))
        runner = wiring.runner_for(options, place.state, study, (store, workspace))
        referee = Referee(store, study.id, lambda: math.inf)
        gpus = prepare.slot_gpus(study.settings, options.environ)[0]
        found = []
        for item in _chosen(store, study.id, numbers):
            for _ in range(runs):
                seed = referee.fresh_seed(study, item)
                said(f"#{item.number} with seed {seed}")
                runner.run(study, item.number, seed, gpus, lambda: "")
                referee.learn(study, item.number)
            found.append(_result(store, referee, study, item))
    return found


def _chosen(store: Store, study: int, numbers: Sequence[int]) -> list[Experiment]:
    chosen = [store.experiment(study, number) for number in numbers] or [
        item for item in store.experiments(study, kept=True) if not item.confirmed and item.operator is not Operator.BASELINE
    ]
    for item in chosen:
        if item.decision is not Decision.KEEP and item.value is None:
            raise UsageError("E-RETEST", f"#{item.number} has no value to look at again: {item.cause}", fix="overnight ls --kept")
    return chosen


def _result(store: Store, referee: Referee, study: Study, item: Experiment) -> Again:
    values = tuple(run.value for run in store.runs(study.id, item.number) if run.value is not None)
    verdict = referee.against_parent(study, item)
    p, gain = (verdict.p, verdict.gain) if verdict else (1.0, 0.0)
    again = Again(item, values, p, gain)
    store.retested(study.id, item.number, confirmed=p >= _SURE, p=p if verdict else None, gain=gain if verdict else None, now=time.time())
    return again
