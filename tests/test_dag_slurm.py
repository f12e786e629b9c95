"""``overnight dag run --executor slurm`` on a real Slurm, behind walls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clusters import Slurm
from pipelines import Project, project

SEES = "test ! -e {hidden} && echo @seen=0 || echo @seen=1"
TEXT = """
nodes:
  - {{name: a, command: "{sees}; echo 1 > x", cpus: 2}}
  - {{name: b, command: "cat x; echo @cards=$(echo $CUDA_VISIBLE_DEVICES | wc -w)", needs: a, gpu_count: 1}}
"""


@pytest.fixture
def night(tmp_path: Path, slurm: Slurm) -> Project:
    """Two nodes, one of which looks for a file that no task may see."""
    (tmp_path / "project.secret").write_text("s")
    found = project(tmp_path, TEXT.format(sees=SEES.format(hidden=tmp_path / "hub" / "dags.db")), {})
    env = {name: value for name, value in found.env.items() if name not in ("OVERNIGHT_GPUS", "OVERNIGHT_UNSAFE_NO_SANDBOX")}
    return replace(found, env={**env, "SLURM_CONF": str(slurm.place / "slurm.conf"), "OVERNIGHT_UNSAFE_NO_SANDBOX": "0"})


def test_tasks_on_slurm_run_behind_walls_and_hand_on(night: Project) -> None:
    said = night.dag("run", "pipeline.yaml", "--executor", "slurm")
    values = [row["metrics"] for row in night.seen()["nodes"]]
    assert (said.err, said.code, values) == ("", 0, [{"seen": 0.0}, {"cards": 1.0}])


@pytest.mark.parametrize(
    ("field", "words"), [("vram_gb: 40", "Slurm chooses no GPUs by their memory"), ("gpu_type: h100", "pipeline.yaml:2: node 'a':")]
)
def test_what_slurm_would_never_give_is_refused_with_the_line(night: Project, field: str, words: str) -> None:
    (night.root / "pipeline.yaml").write_text(f"nodes:\n  - {{name: a, command: 'true', gpu_count: 1, {field}}}\n")
    said = night.dag("run", "pipeline.yaml", "--executor", "slurm")
    assert (said.code, words in said.err, night.rows("SELECT 1 FROM dag")) == (2, True, [])
