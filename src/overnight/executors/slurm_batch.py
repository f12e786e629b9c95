"""What Slurm is asked for a job, and what is remembered of the asking in the job folder. Must not know how Slurm is spoken to."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import overnight
from overnight.executors import folder as files

ORDER = "slurm.json"  # in the job folder: the comment of its batch job, its place in an array, and the number once it has one
WARNING = 30  # seconds before Slurm's own limit at which it sends SIGTERM; it may come a minute early
_MARGIN = 60 + 60 + WARNING + 90  # seconds on top of a job's limit: its end, Slurm's minute, the warning, the start
_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from overnight.node import main; sys.exit(main(sys.argv[1:]))"


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


def wishes(seconds: float, memory: int, gpus: int) -> tuple[str, ...]:
    """Words for sbatch: time in minutes, memory in MiB, GPUs; what is 0 is left to the cluster."""
    found = [f"--time={math.ceil((seconds + _MARGIN) / 60)}"] if seconds else []
    found += [f"--mem={math.ceil(memory / 2**20) + 512}M"] if memory else []
    return (*found, *([f"--gpus={gpus}"] if gpus else []))


# The shell stays: should the supervisor be killed, a second one finds what is left of the job on this node and ends it.
_BATCH = """\
#!/bin/sh
case "${SLURM_ARRAY_TASK_ID:-0}" in
%(cases)s
esac
set -- %(words)s "$folder" "$SLURM_JOB_ID" "${SLURM_RESTART_COUNT:-0}" $$
"$@" & run=$!
trap 'kill -TERM $run' TERM
wait $run; code=$?
while kill -0 $run 2>/dev/null; do wait $run; code=$?; done
[ $code = 0 ] || "$@"
"""


def script(folders: Sequence[Path]) -> str:
    """What runs on the node: our python on the folder that this task of the array stands for."""
    cases = "\n".join(f"{index}) folder={shlex.quote(str(folder))};;" for index, folder in enumerate(folders))
    place = str(Path(overnight.__file__).parent.parent)
    return _BATCH % {
        "cases": cases,
        "words": shlex.join([sys.executable, "-I", "-B", "-X", f"utf8={sys.flags.utf8_mode}", "-c", _PROGRAM, place]),
    }
