"""What Slurm is asked for a job, and what is remembered of the asking in the job folder. Must not know how Slurm is spoken to."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from overnight.executors import folder as files
from overnight.executors import on_node
from overnight.models import JobSpec

ORDER = "slurm.json"  # in the job folder: the comment of its batch job, its place in an array, and the number once it has one
WARNING = 30  # seconds before Slurm's own limit at which it sends SIGTERM; it may come a minute early
_MARGIN = 60 + 60 + WARNING + 90  # seconds on top of a job's limit: its end, Slurm's minute, the warning, the start


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked of Slurm for one job folder."""

    comment: str
    index: str  # in its array; empty = no array
    job: str  # 12 or 12_3; empty = not known yet

    @classmethod
    def read(cls, folder: Path) -> Order | None:
        """What was asked for the folder's job; None if nothing was."""
        try:
            found = json.loads((folder / ORDER).read_bytes())
            return cls(str(found["comment"]), str(found["index"]), str(found["job"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Remember it. Raises ``OSError``."""
        files.replace(folder, ORDER, json.dumps({"comment": self.comment, "index": self.index, "job": self.job}))

    def known(self, number: str) -> Order:
        """The same, of which Slurm has told the number of job or array."""
        return replace(self, job=f"{number}_{self.index}" if self.index else number)


def wishes(spec: JobSpec) -> tuple[str, ...]:
    """Words for sbatch: time in minutes, memory in MiB, processors, GPUs by number and Slurm's own type; what is 0 is left to the cluster."""
    found = [f"--time={math.ceil((spec.time_limit + _MARGIN) / 60)}"] if spec.time_limit else []
    found += [f"--mem={math.ceil(spec.memory_limit / 2**20) + 512}M"] if spec.memory_limit else []
    found += [f"--cpus-per-task={math.ceil(spec.cpus)}"] if spec.cpus else []
    kind = f"{spec.gpu_type}:" if spec.gpu_type else ""
    return (*found, *([f"--gpus={kind}{len(spec.gpus)}"] if spec.gpus else []))


def script(folders: Sequence[Path]) -> str:
    """What runs on the node: our supervisor on the folder that this task of the array stands for."""
    cases = "\n".join(f"{index}) folder={shlex.quote(str(folder))};;" for index, folder in enumerate(folders))
    run = on_node.script('"$folder"', '"$SLURM_JOB_ID"', '"${SLURM_RESTART_COUNT:-0}"')
    return f'#!/bin/sh\ncase "${{SLURM_ARRAY_TASK_ID:-0}}" in\n{cases}\nesac\n{run}'
