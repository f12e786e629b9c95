"""A study goes on as what it was begun as, also when nobody says it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from overnight.app.before import remembered
from overnight.app.options import Options
from overnight.models import Direction
from overnight.settings import Settings
from overnight.store import Store
from overnight.testing import repository

_TRAIN = "X = 0.5\nopen('model', 'w').write(str(X))\nprint('@acc=0.99')\n"
_FILES = {"go.py": _TRAIN, "evaluate.py": "import sys\nprint('@acc=' + open(sys.argv[1]).read())\n"}
_BEGUN = {
    "command": ("python", "go.py"), "editable": ("go.py",), "time_limit": 5.0, "evaluate": "python evaluate.py", "artifact": "model",
    "budget": ("8h",), "slots": 4, "unsafe_no_sandbox": True,
}  # fmt: skip


def _again(folder: Path, begun: dict[str, Any], flags: dict[str, object], file: str | None = None) -> dict[str, object]:
    """The settings that count as said when a study that was begun with ``begun`` is started with ``flags`` and the file's text."""
    root = repository(folder / "r", _FILES)
    if file is not None:
        (root / "overnight.toml").write_text(file)
    store = Store(folder / "overnight.db")
    store.create_study("t", "c0ffee", Direction.MAXIMIZE, Settings(**begun), 0.0)
    options, _ = remembered(Options(root, flags, {}), store)
    store.close()
    return dict(options.flags)


def test_what_a_study_is_stays_and_what_each_start_says_does_not(tmp_path: Path) -> None:
    expected = {name: _BEGUN[name] for name in ("command", "editable", "time_limit", "evaluate", "artifact")}
    assert expected == _again(tmp_path, _BEGUN, {})


@pytest.mark.parametrize(
    ("flags", "gone"),
    [
        ({"command": ("python", "new.py")}, {"command", "editable"}),
        ({"pipeline": "p.yaml"}, {"command", "editable"}),
        ({"evaluate": ""}, {"evaluate", "artifact"}),
        ({"time_limit": 9.0}, {"time_limit"}),
    ],
)
def test_what_is_said_anew_counts_alone_and_takes_what_belongs_to_it_along(
    tmp_path: Path, flags: dict[str, object], gone: set[str]
) -> None:
    kept = {"command", "editable", "time_limit", "evaluate", "artifact"} - gone
    assert {name: _BEGUN[name] for name in kept} | flags == _again(tmp_path, _BEGUN, flags)


def test_a_pipeline_stays_without_the_command_that_was_made_of_it(tmp_path: Path) -> None:
    assert _again(tmp_path, {"pipeline": "p.yaml", "command": ("dag", "p.yaml")}, {}) == {"pipeline": "p.yaml"}


def test_with_a_file_of_the_project_who_measures_stays_alone(tmp_path: Path) -> None:
    assert _again(tmp_path, _BEGUN, {}, "slots = 1\n") == {"evaluate": "python evaluate.py", "artifact": "model"}


def test_where_there_is_no_study_nothing_is_added(tmp_path: Path) -> None:
    store = Store(tmp_path / "overnight.db")
    options = Options(repository(tmp_path / "r", _FILES), {"slots": 2}, {})
    assert remembered(options, store) == (options, "")
    store.close()


def test_a_study_goes_on_with_its_command_and_its_evaluator_without_being_told_again(tmp_path: Path) -> None:
    root = repository(tmp_path / "r", _FILES)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        return subprocess.run(
            [sys.executable, "-m", "overnight", *words], cwd=root, env=env, capture_output=True, text=True, timeout=120, check=True
        )

    python = f"{sys.executable} -I -S"
    plain = ("--unsafe-no-sandbox", "--baseline-runs", "1")
    call(
        "run",
        *plain,
        "--budget",
        "0",
        "--metric",
        "acc",
        "--evaluate",
        f"{python} evaluate.py {{artifact}}",
        "--artifact",
        "model",
        "--",
        *python.split(),
        "go.py",
    )
    again = call("run", *plain, "--budget", "1")
    rows = json.loads(call("ls", "--json").stdout)
    assert [row["trust"] for row in rows] == ["evaluated", "evaluated"], again
