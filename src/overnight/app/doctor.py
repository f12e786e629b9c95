"""``overnight doctor``: is everything there for a night, how noisy is the metric, and how long will it take."""

from __future__ import annotations

import contextlib
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from overnight import gpus
from overnight.app import agents, prepare, wiring
from overnight.app import place as places
from overnight.app.options import Options
from overnight.errors import OvernightError
from overnight.models import Direction, Run
from overnight.printable import duration, number
from overnight.store import Store
from overnight.workspace import Workspace

_ROOM = 2**30  # bytes of disk under which a night is not begun


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor: ``ok`` is None for something to know rather than to mend."""

    ok: bool | None
    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Noise:
    """What repeated runs of the baseline showed."""

    metric: str
    values: tuple[float, ...]
    seconds: float  # of one run
    sd: float

    @property
    def believable(self) -> float:
        """The gain of a single run that luck alone reaches in about one of twenty tries: 1.645 sd of a difference."""
        return 1.645 * math.sqrt(2) * self.sd


def look(options: Options) -> Iterator[Finding]:
    """Every check that costs nothing; ends at the first that makes the others pointless."""
    place = prepare.locate(options)
    free = shutil.disk_usage(options.folder).free
    yield Finding(
        free > _ROOM, f"{free / 2**30:.1f} GiB free on the disk", "" if free > _ROOM else "make room: a night needs 1 GiB at least"
    )
    try:
        with places.workspace(options.folder, place) as workspace:
            base = workspace.head()
            yield Finding(True, f"git repository, the study starts from {base[:7]}")
            settings, notes = prepare.settle(options, workspace)
            prepare.check(options, settings, workspace, base)
            yield Finding(True, f"command: {' '.join(settings.command)}")
            yield Finding(None, f"metric: {settings.metric or 'shown by the first run'}, editable: {', '.join(settings.editable)}")
            for note in notes:
                yield Finding(None, note)
            tag = settings.tag or prepare.today(time.time())
            taken = workspace.branch_exists(settings.branch_prefix + tag)
            yield Finding(
                None if taken else True,
                f"branch {settings.branch_prefix}{tag} {'exists: a fresh study needs another --tag' if taken else 'is free'}",
            )
    except OvernightError as exc:
        yield Finding(False, exc.message, exc.fix)
        return
    found = gpus.found(options.environ.get("CUDA_VISIBLE_DEVICES"))
    yield Finding(None, "GPU: " + (", ".join(f"{gpu.index} {gpu.name}" for gpu in found) or "none found"))
    yield from (Finding(*line) for line in agents.lines(options.environ))


def measure(options: Options, repeats: int, said: Callable[[str], None]) -> Noise:
    """Run the baseline ``repeats`` times with different seeds, beside any study; raises ``OvernightError`` if it does not work."""
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overnight-doctor-")))
        workspace = stack.enter_context(Workspace.open(options.folder, scratch))
        store = stack.enter_context(contextlib.closing(Store(scratch / "overnight.db")))
        settings, _ = prepare.settle(options, workspace)
        study = store.create_study("doctor", workspace.head(), Direction.MINIMIZE, settings, time.time())
        prepare.check(options, settings, workspace, study.base_commit)
        proposal = prepare.baseline(study, workspace)
        store.propose(study.id, proposal, prepare.lines(proposal), time.time())
        runner = wiring.runner_for(options, scratch, study, (store, workspace))
        runs: list[Run] = []
        for seed in range(settings.seed, settings.seed + repeats):
            runner.run(study, 1, seed, prepare.slot_gpus(settings, options.environ)[0], lambda: "")
            runs = store.runs(study.id, 1)
            if not study.metric and runs[-1].metrics:
                name, direction = prepare.name_goal(settings, runs[-1].metrics)
                study = replace(study, metric=name, direction=direction)
            value = runs[-1].metrics.get(study.metric)
            if value is None:
                raise OvernightError(
                    "E-BASELINE", f"the baseline did not work: {runs[-1].cause}", fix="overnight run -- COMMAND   # and read the log"
                )
            said(f"run {len(runs)} of {repeats}: {study.metric} {number(value)} in {duration(runs[-1].seconds)}")
        values = tuple(run.value if run.value is not None else run.metrics[study.metric] for run in runs)
    sd = statistics.stdev(values) if len(values) > 1 else math.nan
    return Noise(study.metric, values, statistics.fmean(run.seconds for run in runs), sd)


def words(noise: Noise) -> list[str]:
    """What the noise means, in the words of a researcher."""
    count, middle = len(noise.values), statistics.fmean(noise.values)
    lines = [f"baseline {', '.join(number(value) for value in noise.values[:8])}"]
    if math.isnan(noise.sd):
        lines.append("one run says nothing of the noise: --repeats 5 does")
    elif noise.sd == 0:
        lines.append("all runs are equal: the metric is deterministic (or the script ignores OVERNIGHT_SEED), so any gain is real")
    else:
        rough = " (rough; 5 runs give a better one: --repeats 5)" if count < 5 else ""
        share = f", {noise.sd / abs(middle):.2%} of the mean" if middle else ""
        lines.append(f"noise: sd ≈ {noise.sd:.3g}{share}{rough}")
        lines.append(
            f"a single run that is better by less than {noise.believable:.3g} may well be luck; larger gains can be believed at 95 %"
        )
    hours = 8 * 3600 / max(noise.seconds, 0.1)
    lines.append(f"a run takes {duration(noise.seconds)}: about {hours:.0f} experiments in a night of 8 h on one slot")
    return lines
