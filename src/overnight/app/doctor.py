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
from overnight.app.walls import Standing, standing
from overnight.errors import OvernightError
from overnight.models import Direction, Run
from overnight.printable import duration, number
from overnight.settings import Settings
from overnight.store import Store
from overnight.workspace import Workspace

_ROOM = 2**30  # bytes of disk under which a night is not begun


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor: ``ok`` is None for something to know rather than to mend."""

    ok: bool | None
    text: str
    fix: str = ""
    walls: Standing | None = None  # what the line is about


@dataclass(frozen=True, slots=True)
class Noise:
    """What repeated runs of the baseline showed."""

    metric: str
    values: tuple[float, ...]
    seconds: float  # of one run, with all that the loop does around it
    sd: float  # between seeds
    again: float | None = None  # how far two runs on one and the same seed were apart; None = that was not tried
    night: float = 8 * 3600.0  # seconds that there are
    slots: int = 1
    experiments: int = 0  # that there may be; 0 = any number

    @property
    def believable(self) -> float:
        """The gain of a single run over a single run that luck alone reaches in one of twenty tries: t times the sd of a difference.

        By Student's t, for the sd itself is only known from so many runs.
        """
        return _t95(len(self.values) - 1 - (self.again is not None)) * math.sqrt(2) * self.sd


def _t95(dof: int) -> float:
    """The one-sided 95 % quantile of Student's t: exact for one and two degrees of freedom, else within one in a hundred (Peizer and Pratt 1968)."""
    if dof < 3:
        return 6.314 if dof < 2 else 2.920
    return math.sqrt(dof * math.expm1(1.645 * 1.645 * (dof - 5 / 6) / (dof - 2 / 3 + 0.1 / dof) ** 2))


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
            yield from _walls(options, settings, workspace, base)
    except OvernightError as exc:
        yield Finding(False, exc.message, exc.fix)
        return
    yield from _cards(options)
    yield from (Finding(*line) for line in agents.lines(options.environ))


def _cards(options: Options) -> Iterator[Finding]:
    """The GPUs, who told of them, and which of them should not be used now."""
    told = gpus.look()
    seen = gpus.found(options.environ.get("CUDA_VISIBLE_DEVICES"), told.cards)
    sizes = [f"{card.index} {card.name}" + (f", {card.memory_mb / 1024:.0f} GB" if card.memory_mb else "") for card in seen]
    yield Finding(None, f"GPU: {'; '.join(sizes)} (by {told.by})" if sizes else "GPU: none found")
    if told.trouble:
        yield Finding(False, f"GPU: {told.trouble}", "nvidia-smi")
    broken = [card for card in told.cards if card.trouble]
    for line in gpus.offer([*seen, *broken])[1]:
        yield Finding(None, line)


def _walls(options: Options, settings: Settings, workspace: Workspace, base: str) -> Iterator[Finding]:
    """What stands around runs, probe by probe, and what else could hold them."""
    if settings.unsafe_no_sandbox:
        yield Finding(None, "walls: none, by --unsafe-no-sandbox")
        return
    with tempfile.TemporaryDirectory(prefix="overnight-doctor-") as scratch:
        Path(scratch).chmod(0o711)  # another user is to pass it
        found = standing(settings, workspace, base, Path(scratch, "walls"), options.environ)
    if found.by == "none":
        yield Finding(False, f"walls: none stand: {found.why}", found.fix, found)
    elif found.why:
        text = f"walls: {found.what}, which hold less (docs/security.md), for bubblewrap's do not stand: {found.why}"
        yield Finding(None, text, found.fix.partition("\n")[0], found)
    else:
        yield Finding(True, f"walls: {found.what}", "", found)
    good = [f"{probe.name} ok {1e3 * probe.seconds:.0f} ms" for probe in found.probes if not probe.faults]
    if good:
        yield Finding(None, f"probes of the walls: {', '.join(good)}")
    for probe in found.probes:
        if probe.faults:
            yield Finding(False, f"probe {probe.name}, {1e3 * probe.seconds:.0f} ms, failed: {'; '.join(probe.faults)}")
    yield Finding(None, f"limits by control groups: {found.cgroups or 'none here; processes are counted four times a second instead'}")
    if found.user_namespaces is False:
        yield Finding(None, "user namespaces cannot be made by this user")


def measure(options: Options, repeats: int, said: Callable[[str], None]) -> Noise:
    """Run the baseline ``repeats`` times with different seeds, beside any study; raises ``OvernightError`` if it does not work."""
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overnight-doctor-", dir=_shared(options))))
        workspace = stack.enter_context(Workspace.open(options.folder, scratch))
        store = stack.enter_context(contextlib.closing(Store(scratch / "overnight.db")))
        settings, _ = prepare.settle(options, workspace)
        study = store.create_study("doctor", workspace.head(), Direction.MINIMIZE, settings, time.time())
        prepare.check(options, settings, workspace, study.base_commit)
        proposal = prepare.baseline(study, workspace)
        store.propose(study.id, proposal, prepare.lines(proposal), time.time())
        runner = wiring.runner_for(options, scratch, study, (store, workspace))
        runs: list[Run] = []
        begun = time.monotonic()
        for seed in _seeds(settings.seed, repeats):
            runner.run(study, 1, seed, prepare.slot_gpus(settings, options.environ)[0], lambda: "")
            runs = store.runs(study.id, 1)
            if not study.metric and runs[-1].metrics:
                name, direction = prepare.name_goal(settings, runs[-1].metrics)
                study = replace(study, metric=name, direction=direction)
            value = _value(runs[-1], study.metric)
            if value is None:
                raise OvernightError(
                    "E-BASELINE", f"the baseline did not work: {runs[-1].cause}", fix="overnight run -- COMMAND   # and read the log"
                )
            said(f"run {len(runs)} of {repeats}: {study.metric} {number(value)} in {duration(runs[-1].seconds)}")
        seconds = (time.monotonic() - begun) / len(runs)
        values = tuple(value for run in runs if (value := _value(run, study.metric)) is not None)
    twice = len({run.seed for run in runs}) < len(runs)
    apart = values[:-1] if twice else values
    sd = statistics.stdev(apart) if len(apart) > 1 else math.nan
    again = abs(values[-1] - values[0]) if twice else None
    bounds = settings.bounds
    night = bounds.seconds or (math.inf if bounds.experiments else 8 * 3600.0)
    return Noise(study.metric, values, seconds, sd, again, night, settings.slots, bounds.experiments or 0)


def _shared(options: Options) -> Path | None:
    """Where a cluster's nodes see the runs too; None for any place of this machine."""
    if prepare.resolved(options).settings.executor == "local":
        return None
    place = prepare.locate(options)
    places.make(place)
    return place.state


def _seeds(first: int, repeats: int) -> list[int]:
    """A seed for each run; of four or more the last is the first once again, which shows whether the seed is used at all."""
    seeds = list(range(first, first + repeats))
    return [*seeds[:-1], first] if repeats > 3 else seeds


def _value(run: Run, metric: str) -> float | None:
    """The number that counts, also of a run that ended before it was known which one that is."""
    found = run.value if run.value is not None or run.crash_kind != "no-metric" else run.metrics.get(metric)
    return found if found is not None and math.isfinite(found) else None


def words(noise: Noise) -> list[str]:
    """What the noise means, in the words of a researcher."""
    count, middle = len(noise.values), statistics.fmean(noise.values)
    more = f" … ({count} in all)" if count > 8 else ""
    lines = [f"baseline: {noise.metric} {', '.join(number(value) for value in noise.values[:8])}{more}"]
    if math.isnan(noise.sd):
        lines.append("one run says nothing of the noise: --repeats 5 does")
    elif noise.sd == 0:
        lines.append(f"all {count} runs are equal: the metric is deterministic (or the script ignores OVERNIGHT_SEED), so any gain is real")
    else:
        rough = " (rough; --repeats 5 gives a better one)" if count < 5 else ""
        share = f", {noise.sd / abs(middle):.2%} of the mean" if middle else ""
        lines.append(f"noise: sd ≈ {noise.sd:.3g} between seeds{share}{rough}")
        lines.append(
            f"one run against one: a gain below {noise.believable:.3g} may well be luck, a larger one can be believed at 95 %; "
            f"a gain of {noise.sd:.3g} (one sd) takes about six runs of each version"
        )
    if noise.again is not None and noise.sd > 0:
        lines.append(
            "the same seed gave the same value: runs can be compared in pairs; how much that takes out is learned from the edits"
            if noise.again == 0
            else f"the same seed gave values {noise.again:.2g} apart: "
            + ("much of the noise is not the seed's" if noise.again > noise.sd else "some of the noise is not the seed's")
            + " (OVERNIGHT_SEED is not used everywhere, or the hardware adds its own)"
        )
    lines.append(f"a run takes {duration(noise.seconds)}: {_length(noise)}, if the proposer keeps up")
    return lines


def _length(noise: Noise) -> str:
    """How many runs the night holds, or how long the experiments that it may have take."""
    runs = noise.slots * noise.night / max(noise.seconds, 0.01)
    where = f"{noise.slots} slots" if noise.slots > 1 else "one slot"
    if noise.experiments and noise.experiments <= runs:
        looks = ", up to a fourth more where it looks again at what seemed good" if noise.sd > 0 else ""
        return f"{noise.experiments} experiments take about {duration(noise.experiments * noise.seconds / noise.slots)} on {where}{looks}"
    looks = ", of which up to a fifth look again at what seemed good" if noise.sd > 0 else ""
    return f"about {runs:.0f} runs in {duration(noise.night)} on {where}{looks}"
