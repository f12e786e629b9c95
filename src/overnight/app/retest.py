"""``overnight retest``: run kept experiments again with fresh seeds, and say how sure their gains are now."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from overnight.app import place as places
from overnight.app import prepare, read, wiring
from overnight.app.learned import knowledge_of
from overnight.app.options import Options
from overnight.auditing import Looked, look_again
from overnight.errors import NotFoundError, UsageError
from overnight.judge.audit import audit_seed
from overnight.ledger import Ledger
from overnight.models import Decision, Experiment, Operator
from overnight.referee import Referee
from overnight.store import Store
from overnight.workspace import Scope, Workspace


@dataclass(frozen=True, slots=True)
class Again:
    """What the new runs say, and all values by now."""

    looked: Looked
    values: tuple[float, ...]


def retest(options: Options, names: Sequence[str], runs: int, said: Callable[[str], None]) -> list[Again]:
    """Run each experiment ``runs`` more times (no names = every unconfirmed keep). The branch stays as it is.

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
        tables = wiring.tables(place, study, workspace)
        ledger = Ledger(store, workspace, Scope(study.settings.editable, study.settings.protect), tables)
        referee = Referee(store, study.id, lambda: math.inf)
        gpus = prepare.slot_gpus(study.settings, options.environ)[0]
        found = []
        for item in _chosen(read.Open(place, store, study), names):
            for _ in range(runs):
                seed = audit_seed(referee.node(study, item), referee.rules(study))
                said(f"#{item.number} with seed {seed}")
                runner.run(study, item.number, seed, gpus, lambda: "", again=True)
                looked = look_again(store, referee, ledger, study, (item.number, time.time()))
            values = tuple(run.value for run in store.runs(study.id, item.number) if run.value is not None)
            found.append(Again(looked, values))
            with contextlib.closing(knowledge_of(store, study, place, options.environ)) as knowledge:
                knowledge.looked_again(study, looked.experiment, looked.word, time.time())
    return found


def _chosen(found: read.Open, names: Sequence[str]) -> list[Experiment]:
    chosen = [read.which(found, name) for name in names] or [
        item
        for item in found.store.experiments(found.study.id, kept=True)
        if not item.confirmed and not item.reverted and item.operator is not Operator.BASELINE
    ]
    for item in chosen:
        if item.decision is not Decision.KEEP and item.value is None:
            raise UsageError("E-RETEST", f"#{item.number} has no value to look at again: {item.cause}", fix="overnight ls --kept")
    return chosen
