"""Pipelines from Python: ``overnight.dag_from_yaml`` begins one in the background and gives a handle on it."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from overnight.app import dag, dag_look, dag_place
from overnight.errors import OvernightError

_LOOK = 0.05  # seconds between two looks
_PATIENCE = 5.0  # seconds in which somebody may take up a pipeline that nobody conducts


class DagRun:
    """A pipeline that was begun. Any process may hold one: ``DagRun("dag-12")``."""

    def __init__(self, id: str) -> None:  # noqa: A002 - the word that users know
        self.id = f"dag-{dag.number_of(id)}"

    def __repr__(self) -> str:
        return f"<DagRun {self.id}>"

    @property
    def state(self) -> str:
        """RUNNING, SUCCEEDED, FAILED, CANCELLED, or INTERRUPTED where nobody conducts it."""
        return dag_look.seen(os.environ, self.id).state

    def status(self) -> dict[str, Any]:
        """What ``overnight dag status --json`` says: state, and of each task state, cause, seconds and metrics."""
        return dag_look.dag_json(dag_look.seen(os.environ, self.id))

    def wait(self, timeout: float | None = None) -> str:
        """Wait for the end and return the state. Raises ``TimeoutError`` after ``timeout`` seconds, ``OvernightError`` if nobody conducts it."""
        begun = time.monotonic()
        alone = 0.0
        with dag_place.recorded(os.environ) as (home, record):
            number = dag.number_of(self.id)
            while not (state := record.dag(number).state).over:
                alone = 0.0 if dag_place.is_conducted(home, number) else alone + _LOOK
                if alone > _PATIENCE:
                    raise OvernightError("E-INTERRUPTED", f"nobody conducts {self.id} any more", fix=f"overnight dag resume {self.id}")
                if timeout is not None and time.monotonic() - begun > timeout:
                    raise TimeoutError(f"{self.id} is not over after {timeout:g} s")
                time.sleep(_LOOK)
        return str(state)

    def cancel(self) -> str:
        """End it with all its tasks; returns the state."""
        with dag_place.opened(os.environ) as doors:
            return str(dag.cancel(doors, dag.number_of(self.id), os.environ))

    def metrics(self, task: str) -> Mapping[str, float]:
        """The last value of every number that a task has printed."""
        return {row["task"]: row["metrics"] for row in self.status()["nodes"]}[task]  # type: ignore[no-any-return] # a mapping of numbers


def dag_from_yaml(
    yaml_content: str, *, workdir: str | Path = ".", slots: int | None = None, gpus: Sequence[str] = (), executor: str = "", executor_args: str = "",
    cache: bool = True, until: Sequence[str] = (), unsafe_no_sandbox: bool = False, sandbox_network: bool = False,
) -> DagRun:  # fmt: skip
    """Begin the pipeline of a YAML text in the background; ``workdir`` holds its code.

    ``slots`` tasks run at once (by default one per processor) on the cards named in ``gpus`` (by default all that are found). ``executor`` is
    local, hub, slurm or ray, by default that of the settings; ``executor_args`` are its words.
    Raises ``UsageError`` with ``line`` and reason for a text that is no pipeline, ``OvernightError`` if it cannot be begun.
    """
    given = {
        "slots": slots, "gpus": list(gpus), "executor": executor, "executor_args": executor_args, "cache": cache, "until": list(until),
        "unsafe_no_sandbox": unsafe_no_sandbox, "sandbox_network": sandbox_network,
    }  # fmt: skip
    text = textwrap.dedent(yaml_content)
    with dag_place.opened(os.environ) as doors:
        begun = dag.begin(doors, dag.Wanted(text, "yaml_content", Path(workdir).absolute(), options_of(given)), os.environ, time.time())
        dag.in_background(doors, begun.dag, os.environ)
    return DagRun(begun.dag.id)


def options_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, as it is kept with a pipeline: nothing that is as by default."""
    defaults = {"cache": True}
    return {
        name: value
        for name, value in given.items()
        if (value not in (None, [], (), False, "") and defaults.get(name) != value) or (name == "cache" and value is False)
    }
