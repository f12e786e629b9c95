"""A study whose command is a pipeline: its metric comes from one node, its walls, its time and its end are those of any run."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import SOURCE, processes
from pipelines import quoted
from terminal import BASELINE, Said, environment, less_noise, project, typed

TEXT = """
nodes:
  - {name: prepare, command: echo 4 > width; echo @loss=99}
  - {name: train, command: python -I -S train.py, needs: prepare}
  - {name: report, command: echo @loss=77, needs: train}
"""
TRAIN = 'lr = 0.1\nwidth = int(open("width").read())\nprint(f"@loss={(lr - 0.03) ** 2 + 1 / width:.6f}")\n'


def study(folder: Path, *words: str, text: str = TEXT, **more: str) -> Said:
    root = project(folder, TRAIN, **{"pipeline.yaml": text})
    env = environment(folder, PYTHONPATH=SOURCE, **more)
    return typed(root, "run", *BASELINE, "--metric", "loss", "--direction", "min", "--pipeline", "pipeline.yaml", *words, env=env)


def test_the_metric_comes_from_the_node_that_is_named_and_from_no_other(tmp_path: Path) -> None:
    found = study(tmp_path, "--metric-node", "train", OVERNIGHT_UNSAFE_NO_SANDBOX="0")
    assert (found.err, found.code, "  Result: @loss=0.2549  (baseline)  keep" in less_noise(found.out).splitlines()) == ("", 0, True)


def test_without_a_name_the_last_node_counts(tmp_path: Path) -> None:
    assert "  Result: @loss=77  (baseline)  keep" in less_noise(study(tmp_path).out).splitlines()


def test_a_search_over_a_pipeline_tries_and_keeps(tmp_path: Path) -> None:
    found = study(tmp_path, "--metric-node", "train", "--budget", "3", "--json")
    assert (found.code, found.json["experiments"]) == (0, 4)


def test_the_end_of_a_run_is_the_end_of_all_its_tasks(tmp_path: Path, mark: str) -> None:
    found = study(tmp_path, "--time-limit", "3s", text=f"nodes: [{{name: long, command: {quoted(f'sleep {mark}')}}}]")
    assert (found.refusal, processes(f"sleep {mark}")) == (("E-BASELINE", 1), [])


def test_a_node_that_fails_is_the_crash_of_the_run(tmp_path: Path) -> None:
    found = study(tmp_path, text="nodes: [{name: a, command: exit 3}]")
    assert (found.refusal, "exit code 6" in found.err) == (("E-BASELINE", 1), True)


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("--metric-node", "trian"), ("E-NO-NODE", 2)),
        (("--pipeline", "absent.yaml"), ("E-NO-FILE", 3)),
        (("--pipeline", "train.py"), ("E-PIPELINE", 2)),
        (("--", "true"), ("E-TWO-COMMANDS", 2)),
    ],
)
def test_a_pipeline_that_cannot_be_run_is_refused_before_anything_is_spent(
    tmp_path: Path, words: tuple[str, ...], refusal: tuple[str, int]
) -> None:
    assert study(tmp_path, *words).refusal == refusal
