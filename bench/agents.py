"""What our own layer costs per proposal of an agent, beside the agent itself: CPU of the loop's side, and of walls and passage.

The agent is a shell script that edits a file and prints its record, so that nearly all that is measured is ours. The goal is 50 ms.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from overnight.executors.local import LocalExecutor
from overnight.models import Direction, Experiment, JobSpec, JobStatus, Operator, Stage, Study
from overnight.proposers.agent import AgentProposer, Wants
from overnight.proposers.agents import AGENTS
from overnight.protocols import Request
from overnight.sandbox import Inside, Walls, confined
from overnight.settings import Settings

_TIMES = 20
_SCRIPT = """#!/bin/sh
cat > /dev/null
echo "LR = 0.2" > train.py
echo '{"type":"result","subtype":"success","is_error":false,"result":"HYPOTHESIS: x","usage":{"input_tokens":1,"output_tokens":1},"total_cost_usd":0.01}'
"""


class _Measured(LocalExecutor):
    """Keeps the CPU seconds of every job that has ended."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.seconds: dict[str, float] = {}

    def poll(self, job: str, wait: float = 0.0) -> JobStatus:
        status = super().poll(job, wait)
        self.seconds[job] = status.cpu_seconds
        return status


def _request(folder: Path, name: str) -> Request:
    copy, work = folder / name / "copy", folder / name / "work"
    copy.mkdir(parents=True)
    work.mkdir()
    (copy / "train.py").write_text("LR = 0.1\n")
    study = Study(1, "t", "autoresearch/t", "", "loss", Direction.MINIMIZE, Settings(), 0.0)
    parent = Experiment(1, 0, Operator.BASELINE, Stage.APPLIED, "", "baseline", 0.0)
    return Request(name, study, Operator.IMPROVE, parent, copy, work, ("train.py",), "x" * 20_000, lambda: False)


def main() -> None:
    """Print milliseconds of CPU per proposal."""
    with tempfile.TemporaryDirectory(prefix="overnight-bench-") as place:
        folder = Path(place)
        (folder / "bin").mkdir()
        (folder / "bin" / "claude").write_text(_SCRIPT)
        (folder / "bin" / "claude").chmod(0o755)
        (folder / "home").mkdir()
        walls = Walls(keep=folder / "keep", inside=Inside.AGENT, network=True, home=folder / "home")
        env = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder / "home")}
        for what, hosts in (("walls, passage", ()), ("walls alone", ("*",))):
            executor = _Measured(folder / f"jobs-{len(hosts)}")

            def wrap(spec: JobSpec) -> JobSpec:
                return confined(walls, spec)

            proposer = AgentProposer(AGENTS["claude"], Wants(time_limit=30, hosts=hosts), executor, (env, wrap, True))
            ours, wall = [], []
            for number in range(_TIMES):
                request = _request(folder, f"t-{len(hosts)}-{number}")
                cpu, clock = time.process_time(), time.perf_counter()
                proposer.ask(request)
                ours.append(1000 * (time.process_time() - cpu))
                wall.append(1000 * (time.perf_counter() - clock))
            jobs = [1000 * value for value in executor.seconds.values()]
            executor.close()
            total = statistics.median(ours) + statistics.median(jobs)
            sys.stdout.write(
                f"{what:<16} loop {statistics.median(ours):5.1f} ms, job {statistics.median(jobs):5.1f} ms, together {total:5.1f} ms of CPU; {statistics.median(wall):.0f} ms by the clock\n"
            )


if __name__ == "__main__":
    main()
