"""What pipelines cost beyond their commands: planning, conducting, the cache, drawing.

    python bench/dag.py [--nodes N] [--run N]

CPU seconds are of this process and of the children that it has waited for: git, and where commands are run, these and their supervisors.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import tempfile
import time
from pathlib import Path

from overnight.conducting import Conductor, Place
from overnight.dag.fit import Machine
from overnight.dag.graph import tree
from overnight.dag.plan import Progress, plan
from overnight.dag.read import pipeline
from overnight.dag.svg import draw
from overnight.dag.words import Dag, TaskState
from overnight.executors.local import LocalExecutor
from overnight.handing import Handing
from overnight.leavings import Outputs
from overnight.models import JobSpec, JobState, JobStatus, MetricPoint
from overnight.store.pipelines import Pipelines
from overnight.workspace import Parcels
from overnight.yamls import read


class Instant:
    """An executor that runs nothing: what is left is the conductor's own cost."""

    def __init__(self, _root: Path) -> None:
        self._jobs: set[str] = set()

    def submit(self, spec: JobSpec) -> None:
        """Take it."""
        self._jobs.add(spec.id)

    def poll(self, job: str, wait: float = 0.0) -> JobStatus:  # noqa: ARG002 - an executor's signature
        """It is over."""
        return JobStatus(JobState.SUCCEEDED if job in self._jobs else JobState.LOST, seconds=0.001)

    def tail(self, _job: str, offset: int) -> tuple[list[MetricPoint], int]:
        """Nothing."""
        return [], offset

    def cancel(self, job: str, reason: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def layered(count: int, command: str = "true") -> str:
    """Nodes that each need three earlier ones."""
    rows = (
        f"  - {{name: n{number}, command: '{command}', needs: [{', '.join(f'n{need}' for need in {number // 2, number * 2 // 3, number - 1} if 0 <= need < number)}]}}\n"
        for number in range(count)
    )
    return "name: bench\nnodes:\n" + "".join(rows)


def cpu() -> float:
    """CPU seconds of this process and of children it has waited for."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def planning(count: int) -> None:
    """From bytes to a plan, five times; the best. CPU time, since others use this machine too."""
    data = layered(count).encode()
    times = []
    for _ in range(5):
        start = time.process_time()
        found = plan(*pipeline(read(data, "x.yaml"), "x.yaml"))
        times.append(time.process_time() - start)
    start = time.process_time()
    progress = Progress(found, [TaskState.WAITING] * count)
    while progress.due:
        progress.settle(progress.due.popleft(), TaskState.SUCCEEDED)
    followed = time.process_time() - start
    start = time.process_time()
    tree(found.pipeline)
    drawn = time.process_time() - start
    start = time.process_time()
    draw(found.pipeline)
    print(
        f"{count} nodes: planned in {1000 * min(times):.0f} ms, followed in {1000 * followed:.1f} ms, as a tree in {1000 * drawn:.1f} ms, as SVG in {1000 * (time.process_time() - start):.1f} ms"
    )


def conducting(count: int, executor: type[Instant | LocalExecutor], label: str, slots: int) -> None:
    """A pipeline run twice: the second time from the cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "code").mkdir()
        for number in range(5):
            (folder / "code" / f"file{number}.py").write_text(f"x = {number}\n" * 200)
        with contextlib.closing(Pipelines(folder / "dags.db")) as record, contextlib.closing(Parcels(folder / "parcels")) as parcels:
            for again in (False, True):
                cost, wall = cpu(), time.perf_counter()
                code = parcels.pack(folder / "code")
                text = layered(count)
                found = plan(*pipeline(read(text.encode(), "x.yaml"), "x.yaml"))
                dag = record.create(
                    Dag(0, "bench", text, "x.yaml", str(folder / "code"), code.commit, code.folder, 1.0), [task.id for task in found.tasks]
                )
                rows = record.tasks(dag.number)
                handing = Handing((record, parcels, Outputs(folder / "outputs")), dag, found, rows, folder)
                place = Place(folder / "runs", {"PATH": os.environ["PATH"]}, Machine(slots, ()), lambda spec: spec)
                made = executor(folder / "jobs")
                state = Conductor(record, made, (dag, found, rows, handing), place, lambda _task, _line: None).run()
                made.close()
                cost, wall = cpu() - cost, time.perf_counter() - wall
                print(
                    f"{label}, {count} nodes, {'from the cache' if again else 'run'}: {1000 * cost / count:.2f} ms of CPU a node, {wall:.1f} s in all, {state}"
                )


def main() -> None:
    """Print one line for each figure."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--nodes", type=int, default=1000)
    options.add_argument("--run", type=int, default=200, help="nodes that are really run")
    chosen = options.parse_args()
    planning(chosen.nodes)
    conducting(chosen.nodes, Instant, "no commands", 2)
    conducting(chosen.run, LocalExecutor, "`true` under supervisors", 2)


if __name__ == "__main__":
    main()
