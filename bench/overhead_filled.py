"""A study with thousands of experiments behind it, made by the same store, workspace and ledger that a night uses.

    python bench/overhead_filled.py FOLDER EXPERIMENTS

``FOLDER`` is a study of ``overhead_loops`` that overnight has begun. Nothing is run: the numbers are what the runs would have given.
A program of its own, so that its memory is not taken for that of a loop.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from overhead_counting import spend
from overhead_loops import Bench, fresh, overnight
from overnight.decide import code_lines
from overnight.knowledge import Knowledge
from overnight.ledger import Ledger
from overnight.models import Decision, Idea, JobState, JobStatus, MetricPoint, MetricSummary, Operator, Proposal, Stage, Study
from overnight.redact import Redactor
from overnight.results import Table
from overnight.store import Store
from overnight.summing import summed
from overnight.workspace import Scope, Workspace

_TRAINING, _THINKING = 0.01, 0.01  # seconds that every experiment is said to have taken
_MEMORY = Path("/dev/shm")  # noqa: S108 - a disk that needs no flushing: the study is made there and then moved


def filled(folder: Path, experiments: int) -> Bench:
    """A study in ``folder`` with so many experiments behind it."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else folder.parent) as place:
        scratch = fresh(Path(place) / "filled")
        spend(overnight(scratch, 10), scratch.repository, scratch.env, scratch.output)
        spend([sys.executable, __file__, str(scratch.folder), str(experiments)], scratch.repository, scratch.env, scratch.output)
        shutil.copytree(scratch.folder, folder, symlinks=True)
    bench = Bench(folder, {**scratch.env, "HOME": str(folder / "home")})
    jobs = folder / "state" / "jobs"
    thought = next(jobs.glob("p*"))
    for number in range(12, experiments + 2):
        _copy_job(jobs / "bench-2.1", jobs / f"bench-{number}.1")
        _copy_job(thought, jobs / f"{thought.name}-{number}")
    return bench


def _copy_job(job: Path, other: Path) -> None:
    """A job folder like another one: as many names, but no more bytes."""
    other.mkdir()
    for file in job.iterdir():
        os.link(file, other / file.name)


class _Night:
    """The record, the repository and the tables of one study."""

    def __init__(self, folder: Path, store: Store, workspace: Workspace) -> None:
        self.study: Study = store.study()
        self._store = store
        self._scope = Scope(self.study.settings.editable, self.study.settings.protect)
        tables = [Table(folder / "state" / "results-bench.tsv"), Table(folder / "study" / "results.tsv")]
        self._ledger = Ledger(store, workspace, self._scope, tables)
        self._knowledge = Knowledge(store, Redactor({}))
        self._text = workspace.editable(self.study.base_commit, self._scope)["train.sh"].decode()

    def settle(self, x: int) -> None:
        """One experiment from its proposal to its place in the record."""
        store, study, now = self._store, self.study.id, time.time()
        best = store.bar(study)
        assert best is not None
        files = {"train.sh": self._text.replace("\nx=0\n", f"\nx={x}\n").encode()}
        idea = Idea(f"x -> {x}", "command", seconds=_THINKING)
        experiment = store.propose(study, Proposal(best[0], Operator.IMPROVE, idea, files), code_lines(files), now)
        experiment = self._ledger.keep(self.study, experiment)
        attempt = store.attempt(study, experiment.number, 0, now)
        value = 0.1 if x % 10 else best[1] + 1.0
        metrics = {"fitness": value, "training_seconds": 0.0, "peak_vram_mb": 512.0}
        status = JobStatus(
            JobState.SUCCEEDED, pid=1, started=now, seconds=_TRAINING, exit_code=0,
            metrics={name: MetricSummary(found, found, found, 1) for name, found in metrics.items()},
        )  # fmt: skip
        points = [MetricPoint(name, found, 1.0, _TRAINING) for name, found in metrics.items()]
        job = (study, experiment.number, attempt)
        store.ran(job, status, points, now, value=value, memory_gb=0.5, crash_kind="", cause="", metrics=json.dumps(metrics))
        store.learned(study, experiment.number, [attempt], store.knowledge(study))
        store.advance(study, experiment.number, Stage.MEASURED, **summed(store.runs(study, experiment.number), self.study))
        decision = Decision.KEEP if value > best[1] else Decision.DISCARD
        cause = (
            f"better than #{best[0]} by {value - best[1]:g}"
            if decision is Decision.KEEP
            else f"worse than #{best[0]} by {best[1] - value:g}"
        )
        bar = value if decision is Decision.KEEP else None
        experiment = store.decide(study, experiment.number, decision, cause, bar, now)
        self._knowledge.settled(self.study, experiment, now)
        self._ledger.settle(self.study, experiment)


def _fill(folder: Path, experiments: int) -> None:
    """Go on from where the study is until it has so many experiments after the baseline."""
    with (
        contextlib.closing(Store(folder / "state" / "overnight.db")) as store,
        Workspace.open(folder / "study", folder / "state") as workspace,
    ):
        night = _Night(folder, store, workspace)
        for x in range(store.count(night.study.id) + 1, experiments + 1):
            night.settle(x)


if __name__ == "__main__":
    _fill(Path(sys.argv[1]), int(sys.argv[2]))
