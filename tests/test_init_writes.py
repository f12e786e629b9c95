"""What ``init`` writes into repositories of several kinds, and what it shows."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.app import init, program
from overnight.app.detect import Findings
from overnight.errors import StorageError, UsageError
from overnight.gpus import Gpu
from overnight.proposers.agents import AGENTS
from overnight.settings import Settings, proposer_shares, table
from seen import GPT, SKLEARN, VESSEL, loaded, looked, made


@pytest.mark.parametrize("files", [GPT, VESSEL, SKLEARN, {"README.md": "x"}])
def test_what_is_written_loads_back_as_what_was_found(tmp_path: Path, files: dict[str, str]) -> None:
    found = looked(tmp_path, files, ("uv", *AGENTS))
    init.write(found, tmp_path)
    assert loaded(tmp_path) == init.values(found)


def test_the_values_of_the_vessel_seed_are_the_expected_settings(tmp_path: Path) -> None:
    init.write(looked(tmp_path, VESSEL, ("uv",)), tmp_path)
    assert loaded(tmp_path) == {
        "goal": "get the highest metrics/mAP50-95(B)",
        "metric": "fitness",
        "direction": "maximize",
        "command": ("uv run train.py",),
        "editable": ("train.py",),
        "data": ("ships-aerial-images/data.yaml or $YOLO_DATA",),
        "time_budget": 300.0,
    }


def test_every_setting_is_explained_in_what_is_written(tmp_path: Path) -> None:
    text = init.config_text(looked(tmp_path, GPT))
    assert [name for name, row in table().items() if f"# {row['help']}\n" not in text] == []


def test_the_commented_examples_are_settings_too(tmp_path: Path) -> None:
    text = "\n".join(re.findall(r"^# ([a-z_]+ = .*)", init.config_text(Findings()), re.MULTILINE))
    (tmp_path / "overnight.toml").write_text(text, encoding="utf-8")
    assert set(loaded(tmp_path)) == set(table())


def test_a_guessed_direction_is_said_out_loud(tmp_path: Path) -> None:
    found = looked(tmp_path, {"train.py": "print('@acc=1')\n"})
    assert 'direction = "maximize"  # guessed from its name: check it' in init.config_text(found).splitlines()
    assert "acc  higher is better (a guess from its name: check it)" in init.describe(found)[3]


def test_found_agents_are_the_proposers_with_the_embedded_search_behind_them(tmp_path: Path) -> None:
    found = looked(tmp_path, {"train.py": ""}, ("mini", "codex", "claude"))
    text = init.config_text(found)
    assert tomllib.loads(text)["proposer"] == ["claude", "codex", "mini-swe-agent", "optuna"]
    assert (proposer_shares(init.values(found)["proposer"])[0], "# proposer_command =" in text) == (("claude", 1.0), True)


def test_without_an_agent_nothing_is_set_and_the_embedded_search_is_named(tmp_path: Path) -> None:
    found = looked(tmp_path, {"train.py": ""})
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
    assert loaded(root) == {**init.values(found), "time_budget": pytest.approx(seconds, rel=1e-12)}


def test_a_program_is_written_that_says_what_was_found(tmp_path: Path) -> None:
    found = looked(tmp_path, {**GPT, "program.md": GPT["program.md"]}, ("uv",))
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
    assert loaded(tmp_path) == {"slots": 3}


def test_settings_in_pyproject_are_not_put_out_of_force(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.overnight]\nslots = 3\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"there is already \[tool.overnight\] in pyproject.toml"):
        init.write(Findings(), tmp_path)


def test_force_replaces_the_settings_but_never_the_program(tmp_path: Path) -> None:
    made(tmp_path, {"overnight.toml": "slots = 3\n", "program.md": "mine\n"})
    written = init.write(Findings(metric="loss"), tmp_path, force=True)
    assert (loaded(tmp_path), (tmp_path / "program.md").read_text(encoding="utf-8")) == ({"metric": "loss"}, "mine\n")
    assert (written.program, sorted(path.name for path in tmp_path.iterdir())) == (None, ["overnight.toml", "program.md"])


def test_a_link_in_place_of_the_settings_is_replaced_and_not_followed(tmp_path: Path) -> None:
    made(tmp_path, {"elsewhere": "precious\n"})
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
    found = looked(tmp_path, VESSEL, ("uv", "claude", "codex"), (Gpu("0", "RTX 4090", 24564),))
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
    shown = init.describe(looked(tmp_path, {"README.md": "x"}))
    assert [line.split()[-1] for line in shown[1:4] if "not found" in line] == ["COMMAND", "overnight.toml", "overnight.toml"]


def test_defaults_are_not_written_as_found_values() -> None:
    assert init.values(Findings(editable=Settings().editable)) == {"editable": ("train.py",)}
