"""A pipeline as the command of a study: every run conducts it from its beginning, inside the run's own walls, time and memory.

The run's supervisor ends conductor and tasks alike, so that budget, limits and the end of a run are what they are for any command.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from overnight.app import dag as dags
from overnight.app import dag_place
from overnight.dag.words import DagState
from overnight.errors import NotFoundError, UsageError, nearest
from overnight.settings import Settings
from overnight.workspace import Workspace


def command(settings: Settings, workspace: Workspace, base: str) -> tuple[str, ...]:
    """The command that runs the pipeline of the settings. Raises ``UsageError``, ``NotFoundError`` for one that cannot be run."""
    name, node = settings.pipeline.removeprefix("./"), settings.metric_node
    ours = (sys.executable, "-P", "-m", "overnight", "dag", "inside")
    if settings.command and settings.command[: len(ours)] != ours:
        raise UsageError(
            "E-TWO-COMMANDS",
            "there are a command and a pipeline",
            why="a pipeline stands in place of the command",
            fix="overnight run --pipeline ''",
        )
    if name not in workspace.entries(base):
        raise NotFoundError(
            "E-NO-FILE", f"the pipeline {name} is not in commit {base[:7]}", fix=f"git add {name} && git commit -m pipeline"
        )
    found = dags.planned(workspace.read(base, [name])[name].decode("utf-8", "replace"), name).pipeline
    names = [each.name for each in found.nodes]
    if node and node not in names:
        raise UsageError(
            "E-NO-NODE", f"{name} has no node '{node}'{nearest(node, names)}", why=f"its nodes are {', '.join(names[:12])}", fix=f"overnight run --metric-node {names[-1]}"
        )  # fmt: skip
    return (*ours, name, node or names[-1])


def inside(file: Path, node: str, environ: Mapping[str, str], say: Callable[[str], None]) -> DagState:
    """Conduct a pipeline in this folder, with a record that goes with it; only the numbers of ``node`` are printed as numbers.

    Raises what ``begin`` raises.
    """
    cards = [part for part in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    options = {
        "unsafe_no_sandbox": True,
        "executor": "local",
        **({"gpus": cards} if cards else {}),
    }  # the run's walls are around us already
    own = {**environ, "OVERNIGHT_HUB": str(Path.cwd() / ".overnight" / "hub")}

    def tell(task: str, line: str) -> None:
        counts = task.partition("[")[0] == node
        say(f"[{task}] {line if counts else line.replace('@', '')}")

    with dag_place.opened(own) as doors:
        wanted = dags.from_file(file, Path.cwd(), options)
        begun = dags.begin(doors, wanted, own, time.time())
        return dags.conduct(doors, begun, own, tell)
