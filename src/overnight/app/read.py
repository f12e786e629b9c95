"""The verbs that only look: ``ls``, ``show``, ``diff``, ``log``, ``best``, ``status``. They work while a loop runs, and without one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overnight import jobs
from overnight.app import place as places
from overnight.errors import NotFoundError
from overnight.models import Experiment, Stage, Study, Summary
from overnight.printable import moment
from overnight.referee import Referee
from overnight.settings import Settings, as_dict
from overnight.store import Store

if TYPE_CHECKING:  # only `diff` needs git
    from overnight.workspace import Workspace


_MARGIN = 2.33  # sd of one run: 1.645 of the difference of two
_SHARE = 0.25  # of a gain that may be missing on the hidden hold-out


@dataclass(frozen=True, slots=True)
class Open:
    """A study opened for reading."""

    place: places.Place
    store: Store
    study: Study


@contextlib.contextmanager
def opened(start: Path, state: Path | None, environ: Mapping[str, str], tag: str = "") -> Iterator[Open]:
    """The study at ``start``, or the one with ``tag``; raises ``NotFoundError``."""
    place = places.find(start, state, environ)
    with contextlib.closing(place.read()) as store:
        yield Open(place, store, store.study(tag))


def summary(found: Open) -> Summary:
    """The study in numbers, with the state that is true now: a loop that was killed is not running."""
    told, holder = found.store.summary(found.study), found.place.holder()
    state, reason = told.state, told.reason
    if holder and state in ("done", "stopped"):
        state, reason = "running", ""
    if not holder and state not in ("done", "stopped"):
        state, reason = "interrupted", "the loop was ended from outside; `overnight run` or `overnight start` goes on"
    return with_gain(found.store, at_rest(replace(told, state=state, reason=reason, holder=holder)))


def at_rest(told: Summary) -> Summary:
    """The summary; what a loop that ended by itself has put back waits for the next one and is not running."""
    return replace(told, running=()) if told.state in ("done", "stopped") else told


def rows(found: Open, *, last: int = 0, kept: bool = False) -> list[Experiment]:
    """Experiments by rising number, for people: what a loop that ended by itself has put back is queued, not running."""
    listed = found.store.experiments(found.study.id, last=last, kept=kept)
    if not any(item.stage is Stage.SUBMITTED for item in listed):
        return listed
    if summary(found).running:
        return listed
    return [replace(item, stage=Stage.COMMITTED) if item.stage is Stage.SUBMITTED else item for item in listed]


def parents(found: Open, listed: Sequence[Experiment]) -> dict[int, float | None]:
    """The values of the parents of some experiments, also of those that are not among them."""
    values = {item.number: item.value for item in listed}
    away = {item.parent for item in listed if item.parent and item.parent not in values}
    return values | {number: found.store.experiment(found.study.id, number).value for number in away}


def with_gain(store: Store, told: Summary) -> Summary:
    """The summary with the gain of the best and its interval, from runs that decided nothing where there are enough of them."""
    if told.best is None or told.baseline is None or told.best.number == told.baseline.number or not told.sigma:
        return told
    gain = Referee(store, told.study.id, lambda: 0.0).report(told.study, told.best, told.baseline)
    return replace(told, told_gain=(gain.gain, gain.low, gain.high), fresh=gain.fresh)


@dataclass(frozen=True, slots=True)
class Hidden:
    """What the hidden hold-out says of a keep, beside the baseline: ``holds`` = three quarters of its gain are there, or as much as noise leaves to be seen."""

    value: float | None
    cause: str
    gain: float | None = None
    holds: bool | None = None


def hidden(found: Open, item: Experiment) -> Hidden:
    """The hidden hold-out's word on an experiment; it saw keeps alone, each once."""
    value, cause = found.store.hidden(found.study.id, item.number)
    base = found.store.baseline(found.study.id)
    first = found.store.hidden(found.study.id, base.number)[0] if base is not None else None
    if value is None or first is None or base is None or item.value is None or base.value is None:
        return Hidden(value, cause or ("" if value is not None else "it was not kept" if item.decision != "keep" else "not looked at"))
    if item.number == base.number:
        return Hidden(value, "the reference")
    way, sigma = found.study.direction, found.store.sigma(found.study.id) or 0.0
    gain, shown = way.gain(value, first), way.gain(item.value, base.value)
    return Hidden(value, cause, gain, gain >= shown - max(_MARGIN * sigma, _SHARE * abs(shown)))


def which(found: Open, name: str) -> Experiment:
    """An experiment by ``12``, ``#12``, ``exp-012``, ``best``, ``last``, ``baseline`` or the beginning of its commit. Raises ``NotFoundError``."""
    text = name.strip().lower().removeprefix("#").removeprefix("exp-")
    told = found.store.summary(found.study)
    named = {"best": told.best, "baseline": told.baseline}
    if text in named:
        item = named[text]
        if item is None:
            raise NotFoundError("E-NO-EXPERIMENT", f"there is no {text} yet", fix="overnight ls")
        return item
    if text.isascii() and text.isdigit() and len(text) < 8:
        return found.store.experiment(found.study.id, int(text))
    rows = found.store.experiments(found.study.id, last=1) if text == "last" else found.store.experiments(found.study.id)
    match = [item for item in rows if text == "last" or (len(text) >= 4 and item.commit.startswith(text))]
    if len(match) != 1:
        raise NotFoundError(
            "E-NO-EXPERIMENT",
            f"there is no experiment '{name}'",
            why="a number, best, last, baseline or a commit is wanted",
            fix="overnight ls",
        )
    return match[0]


def diff(found: Open, experiment: Experiment, against: str) -> str:
    """The patch from the parent (or from ``against``) to the experiment."""
    other = which(found, against) if against not in ("", "parent") else None
    if other is None:
        other = found.store.experiment(found.study.id, experiment.parent) if experiment.parent else experiment
    for item in (experiment, other):
        if not item.commit:
            raise NotFoundError("E-NO-COMMIT-YET", f"#{item.number} has no commit yet", fix="overnight ls")
    if experiment.commit == other.commit:
        return ""
    with _workspace(found) as workspace:
        return workspace.diff(other.commit, experiment.commit)


@contextlib.contextmanager
def _workspace(found: Open) -> Iterator[Workspace]:
    """The repository of the study: where the state folder lies, or the current folder when it lies elsewhere."""
    inside = any((folder / ".git").exists() for folder in found.place.state.parents)
    from overnight.workspace import Workspace

    with Workspace.open(found.place.state.parent if inside else Path.cwd(), found.place.state) as workspace:
        yield workspace


def log_file(found: Open, experiment: Experiment) -> Path:
    """The output of the experiment's latest run. Raises ``NotFoundError``."""
    attempt = found.store.last_attempt(found.study.id, experiment.number)
    path = found.place.jobs / f"{found.study.tag}-{experiment.number}.{attempt}" / "output.log"
    if not attempt or not path.exists():
        why = experiment.cause if experiment.decision else "it has not started"
        raise NotFoundError("E-NO-LOG", f"#{experiment.number} has no output", why=why, fix=f"overnight show {experiment.number}")
    return path


def follow(found: Open, experiment: Experiment, wait: Callable[[], None]) -> Iterator[bytes]:
    """The output as it grows, until the run is over; ``wait`` is called when there is nothing new."""
    path = log_file(found, experiment)
    with path.open("rb") as file:
        while True:
            over = _over(found, experiment, path.parent)
            while chunk := file.read(65536):
                yield chunk
            if over:
                return
            wait()


def _over(found: Open, experiment: Experiment, job: Path) -> bool:
    """Whether the run's output will not grow: settled, ended, or left by a supervisor that died while no loop is there to see it."""
    if found.store.experiment(found.study.id, experiment.number).finished is not None:
        return True
    with contextlib.suppress(OSError, ValueError):
        if jobs.status_from_json((job / jobs.STATUS).read_bytes()).state.over:
            return True
    return not found.place.holder() and not places.is_held(job / jobs.LOCK)


def experiment_json(item: Experiment) -> dict[str, Any]:
    """An experiment for ``--json``: times in ISO 8601 UTC, durations in seconds, missing = null."""
    return {
        "number": item.number, "id": f"exp-{item.number:03d}", "parent": item.parent or None, "operator": item.operator, "commit": item.commit or None,
        "stage": item.stage, "decision": item.decision, "cause": item.cause, "value": item.value, "trust": item.trust, "sandbox": item.confined.word, "confirmed": item.confirmed, "verified": item.verified or None, "rival": item.rival or None, "near": item.near, "retests": item.retests, "reverted": item.reverted or None, "spared": item.spared or None, "believed": item.believed, "believed_sd": item.believed_sd, "p": item.p, "gain": item.gain, "gain_low": item.gain_low, "gain_high": item.gain_high,
        "description": item.description, "proposer": item.proposer, "started": moment(item.started), "finished": moment(item.finished),
        "seconds": round(item.seconds, 3), "think_seconds": round(item.think_seconds, 3), "memory_gb": round(item.memory_gb, 3), "lines": item.lines,
        "crash_kind": item.crash_kind or None, "repairs": item.repairs or None, "tokens": item.tokens, "cost": item.cost, "cost_estimated": item.estimated, "model": item.model or None, "session": item.session or None, "metrics": dict(item.metrics),
    }  # fmt: skip


def summary_json(told: Summary) -> dict[str, Any]:
    """A summary for ``--json``; ``schema`` names its version."""
    study = told.study
    gain, report = None, None
    if told.told_gain is not None:
        report = {"gain": told.told_gain[0], "low": told.told_gain[1], "high": told.told_gain[2], "fresh_runs": told.fresh}
    if told.best and told.baseline and told.best.value is not None and told.baseline.value is not None:
        gain = study.direction.gain(told.best.value, told.baseline.value)
    return {
        "schema": "overnight/status/1", "tag": study.tag, "branch": study.branch, "state": told.state, "reason": told.reason, "holder": told.holder or None,
        "goal": study.settings.goal, "metric": study.metric, "direction": study.direction, "target": study.settings.target,
        "budget": list(study.settings.budget), "proposer": list(study.settings.proposer), "slots": study.settings.slots, "base_commit": study.base_commit,
        "experiments": told.total, "kept": told.kept, "discarded": told.discarded, "crashed": told.crashed, "crash_kinds": dict(told.crash_kinds), "unconfirmed": told.unconfirmed, "expected_false_keeps": round(told.false_keeps, 3), "sigma": told.sigma,
        "running": list(told.running), "baseline": experiment_json(told.baseline) if told.baseline else None,
        "best": experiment_json(told.best) if told.best else None, "gain": gain, "report": report, "retests": told.looks, "reverted": told.reverted, "stopped_early": told.early, "spared": told.spared, "wrong_kills": told.wrong_kills,
        "unverified": told.unverified, "quarantined": [{"worker": worker, "reason": reason} for worker, reason in told.quarantined], "seconds": round(told.seconds, 1),
        "train_seconds": round(told.train_seconds, 1), "think_seconds": round(told.think_seconds, 1), "tokens": told.tokens, "cost": told.cost,
    }  # fmt: skip


def settings_json(settings: Settings) -> dict[str, Any]:
    """Every setting by name."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in as_dict(settings).items()}
