"""Recipes hold up: systemd, Slurm and YAML readers take them, their shell is sound, and every command in them exists."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clusters import Slurm
from overnight.app.recipes import KINDS, recipe
from relays import until
from test_docs import _wrong

ALL = [*((kind, "worker") for kind in KINDS), ("systemd", "relay")]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Something that is called overnight, and says which signal ended it."""
    found = tmp_path / "bin" / "overnight"
    found.parent.mkdir()
    heard = "lambda number, _: (open(os.environ['SAID'], 'w').write(signal.Signals(number).name), os._exit(0))"
    lines = [
        "import os, signal, time",
        f"for each in (2, 15): signal.signal(each, {heard})",
        "open(os.environ['SAID'], 'w').write('ready')",
        "time.sleep(60)",
    ]
    found.write_text(f"#!{sys.executable}\n" + "\n".join(lines))
    found.chmod(0o755)
    monkeypatch.setenv("PATH", f"{found.parent}:{os.environ['PATH']}")
    return found


@pytest.mark.parametrize(("kind", "what"), ALL)
def test_every_command_in_a_recipe_exists(kind: str, what: str) -> None:
    lines = [line for line in recipe(kind, what).splitlines() if "overnight " in line and not line.startswith(("Description", "# A "))]
    found = [each.strip("'\"` ") for line in lines for each in re.findall(r"overnight (?:worker|relay) [a-z][^|>&\")]*", line)]
    assert (found != [], [_wrong(each) for each in found if _wrong(each)]) == (True, [])


@pytest.mark.parametrize("what", ["worker", "relay"])
def test_systemd_takes_its_units(program: Path, tmp_path: Path, what: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    unit = tmp_path / f"overnight-{what}.service"
    unit.write_text(recipe("systemd", what))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (
        done.returncode,
        [line for line in done.stderr.splitlines() if unit.name in line],
        f"ExecStart={program} " in unit.read_text(),
    ) == (0, [], True)


@pytest.mark.parametrize(("kind", "key"), [("skypilot", "run"), ("dstack", "commands")])
def test_recipes_of_clouds_are_yaml_whose_shell_is_sound(kind: str, key: str) -> None:
    found = yaml.safe_load(recipe(kind))
    lines = found[key] if isinstance(found[key], list) else [found.get("setup", ""), found[key]]
    done = subprocess.run(["sh", "-n"], input="\n".join(lines), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, 'overnight worker start "$JOIN"' in "\n".join(lines)) == (0, "", True)


def test_a_worker_in_an_allocation_that_ends_is_asked_to_finish_its_jobs(program: Path, tmp_path: Path) -> None:
    script, said = tmp_path / "worker.sbatch", tmp_path / "said"
    script.write_text(recipe("slurm"))
    env = os.environ | {"SAID": str(said), "SLURM_JOB_ID": "7"}
    with subprocess.Popen(["bash", str(script)], env=env) as batch:
        assert until(lambda: said.exists() and said.read_text() == "ready")
        batch.send_signal(signal.SIGTERM)
        batch.wait(60)
    assert (said.read_text(), program.exists()) == ("SIGINT", True)


def test_slurm_takes_its_recipe(slurm: Slurm, tmp_path: Path) -> None:
    script = tmp_path / "worker.sbatch"
    script.write_text(recipe("slurm"))
    done = subprocess.run(
        ["sbatch", "--test-only", "--gpus=1", "--time=08:00:00", str(script)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "to start at" in done.stderr, slurm.says("squeue", "--noheader")) == (0, True, "")
