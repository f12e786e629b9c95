"""What ``init`` sees in repositories of several kinds, and what it writes into them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight import config
from overnight.app import init, program
from overnight.app.detect import Findings, look
from overnight.errors import StorageError, UsageError
from overnight.gpus import Gpu
from overnight.proposers.agents import AGENTS
from overnight.settings import Settings, proposer_shares, table

_GPT = {
    "program.md": """# research

1. **Agree on a run tag**. The branch `autoresearch/<tag>` must not already exist.
2. **Read**: `prepare.py` holds the tokenizer and the evaluation. Do not modify.
   - `train.py` — the file you modify.
3. **Verify data exists**: Check that `~/.cache/gptdata/` contains shards and a tokenizer. If not, run `uv run prepare.py`.

Every run has a **fixed time budget of 5 minutes** of training. You launch it as `uv run train.py`.

**The goal is simple: get the lowest val_bpb.** Because time is fixed, everything else is fair game.

```
---
val_bpb:          0.997900
training_seconds: 300.1
peak_vram_mb:     45060.2
```

Read it with `grep "^val_bpb:\\|^peak_vram_mb:" run.log`.

**Timeout**: if a run exceeds 10 minutes, kill it and treat it as a failure.
""",
    "prepare.py": """TIME_BUDGET = 300
MAX_LEN = 2048

def evaluate(model):
    return 1.0
""",
    "train.py": """from prepare import MAX_LEN, evaluate

val_bpb = evaluate(None)
print("---")
print(f"val_bpb:          {val_bpb:.6f}")
print(f"peak_vram_mb:     {0.0:.1f}")
""",
    "pyproject.toml": """[project]
name = "gpt"
version = "0"
""",
    "uv.lock": "version = 1\n",
    "README.md": "# gpt\n",
}
_VESSEL = {
    "program.md": """# autoresearch

- `prepare.py` — fixed utilities. Do not modify.
- `train.py` — the file you modify. Everything lives here.
4. **Verify data exists**: Check that `ships-aerial-images/data.yaml` exists, or that `YOLO_DATA` points to one. If not, tell the human.
5. Create `results.tsv` with just the header row.

The script uses a **fixed 5-minute time budget** through the `time` argument.

- Modify `prepare.py`. It is read-only.

**The goal is simple: get the highest `metrics/mAP50-95(B)`.** Higher is better. Reduce batch if memory blows up.

```
---
fitness_key: metrics/mAP50-95(B)
fitness: 0.612345
peak_vram_mb: 8240.5
precision: 0.801234
map50_95: 0.612345
```

Extract the key metric with `grep "^fitness:\\|^peak_vram_mb:" run.log`.
""",
    "prepare.py": """import os

DATA = os.environ.get("YOLO_DATA", "ships-aerial-images/data.yaml")


def show(result):
    print("---")
    for key, value in result.items():
        print(f"{key}: {value}")
""",
    "train.py": """import prepare

prepare.show({})
""",
    "pyproject.toml": """[project]
name = "vessel"
version = "0"
[tool.uv]
package = false
""",
}
_SKLEARN = {
    "fit_forest.py": """from lib.report import show

TREES = 50

if __name__ == '__main__':
    model = object()
    show(0.5, 'data/wine.csv')
""",
    "lib/report.py": """def show(value, path):
    print('@accuracy=%.4f @seconds=%.1f' % (value, 1.0))
    open('out.csv', 'w')
""",
    "tests/test_fit.py": """if __name__ == '__main__':
    print('@loss=1')
""",
    "setup.py": "x = 1\n",
}


def _make(root: Path, files: Mapping[str, str]) -> list[str]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return sorted(files)


def _look(root: Path, files: Mapping[str, str], on_path: tuple[str, ...] = ("python",), gpus: tuple[Gpu, ...] = ()) -> Findings:
    tracked = _make(root, files)
    return look(root, tracked, files.get, lambda name: f"/bin/{name}" if name in on_path else None, gpus)


def _loaded(root: Path) -> dict[str, object]:
    found = config.load(root, {}, {})
    return {name: getattr(found.settings, name) for name, origin in found.origin.items() if origin != "default"}


def test_the_language_model_seed_is_recognised_as_it_is(tmp_path: Path) -> None:
    found = _look(tmp_path, _GPT, ("uv", "python"))
    assert (found.command, found.editable, found.protected) == (("uv run train.py",), ("train.py",), ("prepare.py", "pyproject.toml"))
    assert (found.metric, found.direction, found.guessed, found.others) == ("val_bpb", "minimize", False, ("peak_vram_mb",))
    assert (found.time_budget, found.time_limit, found.goal) == (300, 600, "get the lowest val_bpb")
    assert (found.data, found.program, found.network) == (("~/.cache/gptdata/",), True, False)
    assert (found.why["metric"], found.why["command"]) == ("found `val_bpb:` in train.py:5", "uv.lock + train.py")


def test_the_vessel_seed_is_recognised_as_it_is(tmp_path: Path) -> None:
    found = _look(tmp_path, _VESSEL, ("uv",))
    assert (found.command, found.editable, found.metric) == (("uv run train.py",), ("train.py",), "fitness")
    assert (found.direction, found.guessed, found.why["direction"]) == ("maximize", False, "program.md:12")
    assert (found.time_budget, found.time_limit, found.goal) == (300, 0, "get the highest metrics/mAP50-95(B)")
    assert found.data == ("ships-aerial-images/data.yaml or $YOLO_DATA",)


def test_a_plain_script_is_found_by_what_it_prints(tmp_path: Path) -> None:
    _make(tmp_path, {"data/wine.csv": "1\n", "out.csv": "1\n"})
    found = _look(tmp_path, _SKLEARN)
    assert (found.command, found.editable, found.protected) == (("python fit_forest.py",), ("fit_forest.py",), ("tests/",))
    assert (found.metric, found.direction, found.guessed) == ("accuracy", "maximize", True)
    assert found.why["metric"] == "found `@accuracy=` in lib/report.py:2"
    assert (found.data, found.time_budget, found.program) == (("data/wine.csv",), 0, False)


def test_an_empty_repository_gives_empty_findings(tmp_path: Path) -> None:
    assert _look(tmp_path, {"README.md": "# nothing\n"}) == Findings()


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
    assert _look(tmp_path, {"train.py": "print('@acc=1')\n", **extra}, on_path).command == (expected,)


def test_a_file_name_with_a_space_is_quoted_for_the_shell(tmp_path: Path) -> None:
    assert _look(tmp_path, {"my code/train.py": "print('@acc=1')\n"}).command == ("python 'my code/train.py'",)


def test_a_train_script_near_the_top_is_preferred(tmp_path: Path) -> None:
    text = "print('@acc=1')\n"
    assert _look(tmp_path, {"old/a/train.py": text, "src/train.py": text, "main.py": text}).editable == ("src/train.py",)


def test_a_time_budget_in_the_code_counts_when_the_program_is_silent(tmp_path: Path) -> None:
    found = _look(tmp_path, {"train.py": "from prepare import TIME_BUDGET\n", "prepare.py": "\nTIME_BUDGET = 5 * 60  # seconds\n"})
    assert (found.time_budget, found.why["time_budget"]) == (300, "prepare.py:2")


@pytest.mark.parametrize(
    "line", ["import wandb", "m = AutoModel.from_pretrained('x')", "d = MNIST('.', download=True)", "load_dataset('glue')"]
)
def test_use_of_the_network_is_noted(tmp_path: Path, line: str) -> None:
    found = _look(tmp_path, {"train.py": f"x = 1\n{line}\n"})
    assert (found.network, found.why["network"]) == (True, "train.py:2")


def test_the_network_is_proposed_to_who_wants_it_and_stays_off(tmp_path: Path) -> None:
    found = _look(tmp_path, {"train.py": "import wandb\n"})
    line = "# sandbox_network = true  # train.py:1 wants it: take the # at the start away"
    assert (line in init.config_text(found).splitlines(), "# sandbox_network = true" in init.config_text(Findings()).splitlines()) == (
        True,
        True,
    )


def test_untracked_data_is_found_and_outputs_are_not(tmp_path: Path) -> None:
    there = ("data/a.bin", "yolo.pt", "model.pt", "best.pt", "runs/x", "run.log", "tracked/new.csv")
    _make(tmp_path, dict.fromkeys(there, "1"))
    code = """
import torch
OUT = "best.pt"
np.load("./data/a.bin"); YOLO("yolo.pt"); torch.save(x, "model.pt"); torch.save(x, OUT)
open("run.log", "w"); Path("runs/x"); read_csv("tracked/new.csv"); open("train.py"); open("/etc/hosts"); open("../x"); open("missing.csv")
"""
    found = _look(tmp_path, {"train.py": code, "tracked/old.csv": "1"})
    assert found.data == ("data/a.bin", "yolo.pt", "tracked/new.csv")


def test_a_printed_name_that_says_nothing_is_not_taken_for_the_goal(tmp_path: Path) -> None:
    found = _look(tmp_path, {"train.py": "print(f'items: {1}')\nprint(f'total_seconds: {2}')\n"})
    assert (found.metric, found.direction, found.others) == ("", "", ("items", "total_seconds"))


def test_agents_and_cards_are_named(tmp_path: Path) -> None:
    cards = (Gpu("0", "NVIDIA H200", 143771),)
    found = _look(tmp_path, {"train.py": ""}, ("codex", "claude", "vim"), cards)
    assert (found.agents, found.gpus) == (("claude", "codex"), cards)


def test_relative_imports_and_packages_lead_to_the_printing_module(tmp_path: Path) -> None:
    files = {"src/pkg/train.py": "from . import util\nfrom .sub.deep import x\n", "src/pkg/util.py": "import pkg.other\n"}
    files |= {
        "src/pkg/sub/deep.py": "from ..last import y\n",
        "src/pkg/last.py": "print(f'@f1={y}')\n",
        "src/pkg/other.py": "print(f'@lr={z}')\n",
    }
    found = _look(tmp_path, files)
    assert (found.metric, found.others) == ("f1", ("lr",))


@pytest.mark.parametrize("text", ["def (", "\0", "x = '\\d'", "(" * 3000, "a = " + "-" * 5000 + "1", "print(" + "'a'+" * 3000 + "'b')"])
def test_broken_sources_are_looked_at_without_a_complaint(tmp_path: Path, text: str) -> None:
    assert _look(tmp_path, {"train.py": text}).editable == ("train.py",)


@pytest.mark.parametrize("files", [_GPT, _VESSEL, _SKLEARN, {"README.md": "x"}])
def test_what_is_written_loads_back_as_what_was_found(tmp_path: Path, files: dict[str, str]) -> None:
    found = _look(tmp_path, files, ("uv", *AGENTS))
    init.write(found, tmp_path)
    assert _loaded(tmp_path) == init.values(found)


def test_the_values_of_the_vessel_seed_are_the_expected_settings(tmp_path: Path) -> None:
    init.write(_look(tmp_path, _VESSEL, ("uv",)), tmp_path)
    assert _loaded(tmp_path) == {
        "goal": "get the highest metrics/mAP50-95(B)",
        "metric": "fitness",
        "direction": "maximize",
        "command": ("uv run train.py",),
        "editable": ("train.py",),
        "data": ("ships-aerial-images/data.yaml or $YOLO_DATA",),
        "time_budget": 300.0,
    }


def test_every_setting_is_explained_in_what_is_written(tmp_path: Path) -> None:
    text = init.config_text(_look(tmp_path, _GPT))
    assert [name for name, row in table().items() if f"# {row['help']}\n" not in text] == []


def test_the_commented_examples_are_settings_too(tmp_path: Path) -> None:
    text = "\n".join(re.findall(r"^# ([a-z_]+ = .*)", init.config_text(Findings()), re.MULTILINE))
    (tmp_path / "overnight.toml").write_text(text, encoding="utf-8")
    assert set(_loaded(tmp_path)) == set(table())


def test_a_guessed_direction_is_said_out_loud(tmp_path: Path) -> None:
    found = _look(tmp_path, {"train.py": "print('@acc=1')\n"})
    assert 'direction = "maximize"  # guessed from its name: check it' in init.config_text(found).splitlines()
    assert "acc  higher is better (a guess from its name: check it)" in init.describe(found)[3]


def test_found_agents_are_the_proposers_with_the_embedded_search_behind_them(tmp_path: Path) -> None:
    found = _look(tmp_path, {"train.py": ""}, ("mini", "codex", "claude"))
    text = init.config_text(found)
    assert tomllib.loads(text)["proposer"] == ["claude", "codex", "mini-swe-agent", "optuna"]
    assert (proposer_shares(init.values(found)["proposer"])[0], "# proposer_command =" in text) == (("claude", 1.0), True)


def test_without_an_agent_nothing_is_set_and_the_embedded_search_is_named(tmp_path: Path) -> None:
    found = _look(tmp_path, {"train.py": ""})
    assert ("proposer" in tomllib.loads(init.config_text(found)), init.describe(found)[-1].split()) == (
        False, ["agent", "none", "on", "PATH", "optuna", "searches", "the", "constants,", "no", "key", "needed"],
    )  # fmt: skip


_TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


@settings(deadline=None, database=None)
@given(_TEXTS, _TEXTS, _TEXTS, st.floats(0.001, 1e7))
def test_no_text_of_a_repository_breaks_the_file(
    tmp_path_factory: pytest.TempPathFactory, goal: str, name: str, why: str, seconds: float
) -> None:
    reasons = dict.fromkeys(("goal", "editable", "time_budget", "direction"), why)
    found = Findings(goal=goal, editable=(name,), direction="minimize", guessed=True, time_budget=seconds, why=reasons)
    root = tmp_path_factory.getbasetemp() / "any"
    root.mkdir(exist_ok=True)
    init.write(found, root, force=True)
    assert _loaded(root) == {**init.values(found), "time_budget": pytest.approx(seconds, rel=1e-12)}


def test_a_program_is_written_that_says_what_was_found(tmp_path: Path) -> None:
    found = _look(tmp_path, {**_GPT, "program.md": _GPT["program.md"]}, ("uv",))
    (tmp_path / "program.md").unlink()
    written = init.write(replace(found, program=False), tmp_path)
    said = program.read((tmp_path / "program.md").read_text(encoding="utf-8"))
    facts = (said.metric, said.direction, said.time_budget, said.time_limit, *said.editable)
    assert [fact.value for fact in facts if fact] == ["val_bpb", "minimize", "5m", "10m", "train.py"]
    assert (said.read_only, str(written)) == (("prepare.py", "pyproject.toml"), "wrote overnight.toml and program.md")


def test_settings_that_are_there_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "overnight.toml").write_text("slots = 3\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        init.write(Findings(), tmp_path)
    assert (caught.value.code, caught.value.exit_code, caught.value.fix) == ("E-EXISTS", 2, "overnight init --force")
    assert [path.name for path in tmp_path.iterdir()] == ["overnight.toml"]
    assert _loaded(tmp_path) == {"slots": 3}


def test_settings_in_pyproject_are_not_put_out_of_force(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.overnight]\nslots = 3\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"there is already \[tool.overnight\] in pyproject.toml"):
        init.write(Findings(), tmp_path)


def test_force_replaces_the_settings_but_never_the_program(tmp_path: Path) -> None:
    _make(tmp_path, {"overnight.toml": "slots = 3\n", "program.md": "mine\n"})
    written = init.write(Findings(metric="loss"), tmp_path, force=True)
    assert (_loaded(tmp_path), (tmp_path / "program.md").read_text(encoding="utf-8")) == ({"metric": "loss"}, "mine\n")
    assert (written.program, sorted(path.name for path in tmp_path.iterdir())) == (None, ["overnight.toml", "program.md"])


def test_a_link_in_place_of_the_settings_is_replaced_and_not_followed(tmp_path: Path) -> None:
    _make(tmp_path, {"elsewhere": "precious\n"})
    (tmp_path / "overnight.toml").symlink_to("elsewhere")
    init.write(Findings(), tmp_path, force=True)
    assert ((tmp_path / "elsewhere").read_text(encoding="utf-8"), (tmp_path / "overnight.toml").is_symlink()) == ("precious\n", False)


def test_a_folder_that_is_gone_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"program.md cannot be written: No such file or directory"):
        init.write(Findings(), tmp_path / "gone")


def test_a_folder_in_place_of_the_settings_is_said(tmp_path: Path) -> None:
    (tmp_path / "overnight.toml").mkdir()
    with pytest.raises(UsageError, match=r"overnight.toml is a folder"):
        init.write(Findings(), tmp_path, force=True)


def test_the_findings_are_shown_in_aligned_columns(tmp_path: Path) -> None:
    found = _look(tmp_path, _VESSEL, ("uv", "claude", "codex"), (Gpu("0", "RTX 4090", 24564),))
    assert init.describe(found) == [
        "looking at this repo",
        "  run command   uv run train.py                               (pyproject + train.py)",
        "  editable      train.py                                      (program.md:4)   read-only: prepare.py, pyproject.toml",
        "  metric        fitness  higher is better                     (found in program.md:17)",
        "  time limit    5 minutes a run, killed at 10 minutes         gpu 0: RTX 4090 24 GB",
        "  data          ships-aerial-images/data.yaml or $YOLO_DATA   (program.md:5)",
        "  agent         claude (found on PATH)                        also found: codex; optuna stands in while all are down",
    ]


def test_nothing_found_is_said_with_what_to_do(tmp_path: Path) -> None:
    shown = init.describe(_look(tmp_path, {"README.md": "x"}))
    assert [line.split()[-1] for line in shown[1:4] if "not found" in line] == ["COMMAND", "overnight.toml", "overnight.toml"]


def test_defaults_are_not_written_as_found_values() -> None:
    assert init.values(Findings(editable=Settings().editable)) == {"editable": ("train.py",)}
