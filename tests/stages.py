"""A place where pipelines are run, for the contract that every executor keeps. Real processes, no doubles."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from commands import ENV
from overnight.app.spreading import executor_over_hub
from overnight.conducting import Conductor, Place
from overnight.dag.fit import Card, Machine
from overnight.dag.plan import plan
from overnight.dag.read import pipeline
from overnight.dag.words import Dag, DagState, Row
from overnight.executors import EXECUTORS
from overnight.handing import Handing
from overnight.leavings import Outputs
from overnight.models import JobSpec
from overnight.protocols import Executor
from overnight.settings import Settings
from overnight.store.pipelines import Pipelines
from overnight.workspace import Parcels
from overnight.yamls import read
from yards import Yard, end, until

PYTHON = f"{sys.executable} -I -S"


@dataclass
class Stage:
    """A place where pipelines are run: one record, one store of code, one of outputs, and an executor."""

    folder: Path
    executor: Executor
    record: Pipelines
    parcels: Parcels
    where: str = "local"
    lines: list[str] = field(default_factory=list)
    slots: int = 4

    @property
    def code(self) -> Path:
        return self.folder / "code"

    def begin(self, text: str) -> Dag:
        """Write a pipeline down, with the code as it is now."""
        packed = self.parcels.pack(self.code)
        found = plan(*pipeline(read(text.encode(), "pipeline.yaml"), "pipeline.yaml"))
        dag = Dag(0, found.pipeline.name, text, "pipeline.yaml", str(self.code), packed.commit, packed.folder, 1.0, {}, {**packed.links})
        return self.record.create(dag, [task.id for task in found.tasks])

    def conduct(
        self, dag: Dag, *, cached: bool = True, stop: Callable[[], str] = lambda: "", wrap: Callable[[JobSpec], JobSpec] = lambda spec: spec
    ) -> DagState:
        """Conduct it, as whoever takes it up does."""
        found = plan(*pipeline(read(dag.text.encode(), dag.file), dag.file))
        rows = self.record.tasks(dag.number)
        handing = Handing((self.record, self.parcels, Outputs(self.folder / "outputs")), dag, found, rows, self.folder)
        machine = Machine(self.slots, (Card("0"), Card("1")), 8.0, 64.0) if self.where == "local" else Machine(self.slots)
        place = Place(self.folder / "runs", ENV, machine, wrap, cached, apart=self.where == "hub")
        return Conductor(
            self.record, self.executor, (dag, found, rows, handing), place, lambda task, line: self.lines.append(f"[{task}] {line}"), stop
        ).run()

    def run(self, text: str, **more: Any) -> dict[str, Row]:
        """Run a pipeline to its end; its tasks by their ids."""
        dag = self.begin(text)
        self.conduct(dag, **more)
        return self.rows(dag)

    def rows(self, dag: Dag) -> dict[str, Row]:
        return {row.task: row for row in self.record.tasks(dag.number)}

    def marks(self) -> list[str]:
        """What tasks have written into the common file, in order."""
        file = self.folder / "marks"
        return file.read_text().split() if file.exists() else []

    def mark(self, word: str) -> str:
        """A command that writes a word into the common file."""
        return f"echo {word} >> {self.folder}/marks"


@pytest.fixture(params=sorted(EXECUTORS))  # conftest says which of them are long forms
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    executor = _executor(request, tmp_path / "jobs")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("print('@loss=0.5')\n")
    record, parcels = Pipelines(tmp_path / "dags.db"), Parcels(tmp_path / "parcels")
    yield Stage(tmp_path, executor, record, parcels, request.param)
    record.close()
    parcels.close()
    executor.close()


def _executor(request: pytest.FixtureRequest, folder: Path) -> Any:
    """The executor of a row, with the cluster or the workers that it needs."""
    if request.param == "hub":
        yard = request.getfixturevalue("crew")
        return executor_over_hub(folder, (f"--hub={yard.hub}",), Settings(), os.environ)
    if request.param != "local":
        request.getfixturevalue(request.param)
    module, _, name = EXECUTORS[request.param].partition(":")
    return getattr(importlib.import_module(module), name)(folder)


@pytest.fixture(scope="session")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """A hub with two workers, one of them with two cards, for all tests of a process."""
    yard = Yard(tmp_path_factory.mktemp("crew"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERNIGHT_WORKER_ROOM", "0")
        yard.worker("--slots", "4", "--gpus", "2", "--gpu-type", "H100", name="cards")
        yard.worker("--slots", "4", "--gpus", "0", name="plain")
    try:
        until(lambda: len(yard.alive()) == 2)
        yield yard
    finally:
        for process in yard.started:
            end(process)


def states(rows: dict[str, Row]) -> dict[str, str]:
    return {name: str(row.state) for name, row in rows.items()}


def words(found: str) -> str:
    """A text of YAML in quotes."""
    return json.dumps(found)
