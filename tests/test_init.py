"""What ``init`` sees in repositories of several kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from overnight.app import init
from overnight.app.detect import Findings
from overnight.gpus import Gpu
from seen import GPT, SKLEARN, VESSEL, looked, made


def test_the_language_model_seed_is_recognised_as_it_is(tmp_path: Path) -> None:
    found = looked(tmp_path, GPT, ("uv", "python"))
    assert (found.command, found.editable, found.protected) == (("uv run train.py",), ("train.py",), ("prepare.py", "pyproject.toml"))
    assert (found.metric, found.direction, found.guessed, found.others) == ("val_bpb", "minimize", False, ("peak_vram_mb",))
    assert (found.time_budget, found.time_limit, found.goal) == (300, 600, "get the lowest val_bpb")
    assert (found.data, found.program, found.network) == (("~/.cache/gptdata/",), True, False)
    assert (found.why["metric"], found.why["command"]) == ("found `val_bpb:` in train.py:5", "uv.lock + train.py")


def test_the_vessel_seed_is_recognised_as_it_is(tmp_path: Path) -> None:
    found = looked(tmp_path, VESSEL, ("uv",))
    assert (found.command, found.editable, found.metric) == (("uv run train.py",), ("train.py",), "fitness")
    assert (found.direction, found.guessed, found.why["direction"]) == ("maximize", False, "program.md:12")
    assert (found.time_budget, found.time_limit, found.goal) == (300, 0, "get the highest metrics/mAP50-95(B)")
    assert found.data == ("ships-aerial-images/data.yaml or $YOLO_DATA",)


def test_a_plain_script_is_found_by_what_it_prints(tmp_path: Path) -> None:
    made(tmp_path, {"data/wine.csv": "1\n", "out.csv": "1\n"})
    found = looked(tmp_path, SKLEARN)
    assert (found.command, found.editable, found.protected) == (("python fit_forest.py",), ("fit_forest.py",), ("tests/",))
    assert (found.metric, found.direction, found.guessed) == ("accuracy", "maximize", True)
    assert found.why["metric"] == "found `@accuracy=` in lib/report.py:2"
    assert (found.data, found.time_budget, found.program) == (("data/wine.csv",), 0, False)


def test_an_empty_repository_gives_empty_findings(tmp_path: Path) -> None:
    assert looked(tmp_path, {"README.md": "# nothing\n"}) == Findings()


@pytest.mark.parametrize(
    ("extra", "on_path", "expected"),
    [
        ({"pyproject.toml": "[project]\n", ".venv/bin/python": ""}, ("uv", "python"), "uv run train.py"),
        ({"pyproject.toml": "[project]\n", ".venv/bin/python": ""}, ("python",), ".venv/bin/python train.py"),
        ({"pyproject.toml": "[tool.ruff]\n"}, ("uv", "python"), "python train.py"),
        ({"pyproject.toml": "[project]\n"}, ("python",), "python train.py"),
        ({}, ("python3",), "python3 train.py"),
        ({}, (), "python train.py"),
    ],
)
def test_the_run_command_fits_what_is_installed(tmp_path: Path, extra: dict[str, str], on_path: tuple[str, ...], expected: str) -> None:
    assert looked(tmp_path, {"train.py": "print('@acc=1')\n", **extra}, on_path).command == (expected,)


def test_a_file_name_with_a_space_is_quoted_for_the_shell(tmp_path: Path) -> None:
    assert looked(tmp_path, {"my code/train.py": "print('@acc=1')\n"}).command == ("python 'my code/train.py'",)


def test_a_train_script_near_the_top_is_preferred(tmp_path: Path) -> None:
    text = "print('@acc=1')\n"
    assert looked(tmp_path, {"old/a/train.py": text, "src/train.py": text, "main.py": text}).editable == ("src/train.py",)


def test_a_time_budget_in_the_code_counts_when_the_program_is_silent(tmp_path: Path) -> None:
    found = looked(tmp_path, {"train.py": "from prepare import TIME_BUDGET\n", "prepare.py": "\nTIME_BUDGET = 5 * 60  # seconds\n"})
    assert (found.time_budget, found.why["time_budget"]) == (300, "prepare.py:2")


@pytest.mark.parametrize(
    "line", ["import wandb", "m = AutoModel.from_pretrained('x')", "d = MNIST('.', download=True)", "load_dataset('glue')"]
)
def test_use_of_the_network_is_noted(tmp_path: Path, line: str) -> None:
    found = looked(tmp_path, {"train.py": f"x = 1\n{line}\n"})
    assert (found.network, found.why["network"]) == (True, "train.py:2")


def test_the_network_is_proposed_to_who_wants_it_and_stays_off(tmp_path: Path) -> None:
    found = looked(tmp_path, {"train.py": "import wandb\n"})
    line = "# sandbox_network = true  # train.py:1 wants it: take the # at the start away"
    assert (line in init.config_text(found).splitlines(), "# sandbox_network = true" in init.config_text(Findings()).splitlines()) == (
        True,
        True,
    )


def test_untracked_data_is_found_and_outputs_are_not(tmp_path: Path) -> None:
    there = ("data/a.bin", "yolo.pt", "model.pt", "best.pt", "runs/x", "run.log", "tracked/new.csv")
    made(tmp_path, dict.fromkeys(there, "1"))
    code = """
import torch
OUT = "best.pt"
np.load("./data/a.bin"); YOLO("yolo.pt"); torch.save(x, "model.pt"); torch.save(x, OUT)
open("run.log", "w"); Path("runs/x"); read_csv("tracked/new.csv"); open("train.py"); open("/etc/hosts"); open("../x"); open("missing.csv")
"""
    found = looked(tmp_path, {"train.py": code, "tracked/old.csv": "1"})
    assert found.data == ("data/a.bin", "yolo.pt", "tracked/new.csv")


def test_a_printed_name_that_says_nothing_is_not_taken_for_the_goal(tmp_path: Path) -> None:
    found = looked(tmp_path, {"train.py": "print(f'items: {1}')\nprint(f'total_seconds: {2}')\n"})
    assert (found.metric, found.direction, found.others) == ("", "", ("items", "total_seconds"))


def test_agents_and_cards_are_named(tmp_path: Path) -> None:
    cards = (Gpu("0", "NVIDIA H200", 143771),)
    found = looked(tmp_path, {"train.py": ""}, ("codex", "claude", "vim"), cards)
    assert (found.agents, found.gpus) == (("claude", "codex"), cards)


def test_relative_imports_and_packages_lead_to_the_printing_module(tmp_path: Path) -> None:
    files = {"src/pkg/train.py": "from . import util\nfrom .sub.deep import x\n", "src/pkg/util.py": "import pkg.other\n"}
    files |= {
        "src/pkg/sub/deep.py": "from ..last import y\n",
        "src/pkg/last.py": "print(f'@f1={y}')\n",
        "src/pkg/other.py": "print(f'@lr={z}')\n",
    }
    found = looked(tmp_path, files)
    assert (found.metric, found.others) == ("f1", ("lr",))


@pytest.mark.parametrize("text", ["def (", "\0", "x = '\\d'", "(" * 3000, "a = " + "-" * 5000 + "1", "print(" + "'a'+" * 3000 + "'b')"])
def test_broken_sources_are_looked_at_without_a_complaint(tmp_path: Path, text: str) -> None:
    assert looked(tmp_path, {"train.py": text}).editable == ("train.py",)
