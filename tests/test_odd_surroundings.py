"""Odd surroundings are no error: no home, no reader, strange names, linked worktrees, subfolders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from overnight.app.place import Place, make
from overnight.testing import git, repository
from terminal import BASELINE, COMMAND, PYTHON, SHELL, TRAIN, Said, environment, project, typed

# --- odd surroundings -------------------------------------------------------------------------------------------------


def test_a_run_needs_no_home_and_no_locale(tmp_path: Path) -> None:
    root = project(tmp_path)
    env = {name: text for name, text in environment(tmp_path).items() if name != "HOME"}
    plain = {**env, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"}
    done = typed(root, "run", *BASELINE, "--", *COMMAND, env=plain)
    shown = [typed(root, *words, env=plain) for words in (("ls",), ("status",), ("show", "1"), ("--help",))]
    assert ([said.code for said in (done, *shown)], "? keep" in shown[0].out) == ([0] * 5, True), done


@pytest.mark.parametrize(("words", "code"), [(("ls",), 0), (("show", "9", "--json"), 3), (("--help",), 0), ((), 0)])
@pytest.mark.parametrize("streams", [">&-", ">&- 2>&-", ">/dev/full", "| true"])
def test_nobody_who_listens_is_no_reason_for_a_traceback(tmp_path: Path, words: tuple[str, ...], code: int, streams: str) -> None:
    root, env = project(tmp_path), environment(tmp_path)
    make(Place(root / ".overnight"))
    _record(root)
    script = f"{SHELL.split(' -I')[0]} -m overnight {' '.join(words)} {streams}; echo ${{PIPESTATUS[0]}} >&9"
    done = subprocess.run(
        ["bash", "-c", f"exec 9>../status; {script}"], cwd=root, env=env, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    expected = 1 if streams == ">/dev/full" and code == 0 else code
    assert (int((tmp_path / "status").read_text()), "Traceback" in done.stderr or "Exception ignored" in done.stderr) == (
        expected,
        False,
    ), done


def _record(root: Path) -> None:
    """A study without an experiment, made without a run."""
    from overnight.models import Direction
    from overnight.settings import Settings
    from overnight.store import Store

    store = Store(root / ".overnight" / "overnight.db")
    store.create_study("t", git(root, "rev-parse", "HEAD").strip(), Direction.MINIMIZE, Settings(metric="loss"), 0.0)
    store.close()


def test_a_run_whose_reader_goes_away_goes_on_to_its_end(tmp_path: Path) -> None:
    root, env = project(tmp_path), environment(tmp_path)
    words = f"run --budget 1 --tag t -- {SHELL} train.py"
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m overnight {words} | head -n 1; echo ${{PIPESTATUS[0]}}"],
        cwd=root, env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    told = typed(root, "status", "--json", env=env).json
    assert (done.stdout.splitlines()[-1], done.stderr, told["state"], told["experiments"]) == ("0", "", "done", 2)


@pytest.mark.parametrize("name", ["my dir/tr ain.py", "ünï/träin.py", "a'b\"c.py", "new\nline.py", "-x.py", "$(touch pwned).py"])
def test_a_script_may_have_any_name(tmp_path: Path, name: str) -> None:
    root = repository(tmp_path / "pro ject ü", {name: TRAIN, "new\nline\t.txt": "x", "späce ünï.txt": "y"})
    done = typed(root, "run", "--budget", "1", "--tag", "t", "--json", "--", *PYTHON, f"./{name}" if name.startswith("-") else name)
    shown = [typed(root, *words) for words in (("diff", "2"), ("ls",), ("show", "2"), ("log", "2"))]
    assert (done.code, [said.code for said in shown]) == (0, [0] * 4), done
    assert ("lr = " in shown[0].out or "width = " in shown[0].out, (root / "pwned").exists()) == (True, False)


def test_a_linked_worktree_is_studied_as_it_is(tmp_path: Path) -> None:
    root = project(tmp_path)
    git(root, "worktree", "add", "-q", "-b", "side", str(tmp_path / "linked"))
    linked = tmp_path / "linked"
    done = typed(linked, "run", *BASELINE, "--", *COMMAND)
    assert (done.code, git(linked, "status", "--porcelain"), git(root, "status", "--porcelain"), (linked / ".overnight").is_dir()) == (
        0,
        "",
        "",
        True,
    )


def test_a_subfolder_is_as_good_as_the_top(tmp_path: Path) -> None:
    root = project(tmp_path, **{"overnight.toml": 'metric = "loss"\n', "deep/er/readme": "x"})
    inside = root / "deep" / "er"
    env = environment(tmp_path)
    done = typed(inside, "run", *BASELINE, "--", *COMMAND, env=env)
    shown = typed(inside, "config", "--json", env=env).json["metric"]
    assert (done.code, typed(inside, "ls", "--json", env=env).json[0]["value"], os.listdir(inside)) == (0, 0.2549, ["readme"]), done
    assert shown == {"value": "loss", "origin": "overnight.toml:1"}


def test_what_follows_two_dashes_belongs_to_the_experiment(tmp_path: Path) -> None:
    root = project(tmp_path, TRAIN + "import sys\nprint(sys.argv[1:])\n")
    done = typed(root, "run", *BASELINE, "--", *COMMAND, "--lr", "3", "--json", "--help", "--", "-h")
    assert (done.code, done.out.startswith("[loop]"), typed(root, "log", "1").out.splitlines()[-1]) == (
        0, True, "['--lr', '3', '--json', '--help', '--', '-h']",
    )  # fmt: skip


def test_a_broken_record_is_one_error(tmp_path: Path) -> None:
    root = project(tmp_path)
    make(Place(root / ".overnight"))
    (root / ".overnight" / "overnight.db").write_bytes(b"no database " * 500)
    found = [typed(root, *words, "--json") for words in (("ls",), ("status",), ("run", *BASELINE))]
    assert [(said.refusal, json.loads(said.out)["ok"]) for said in found] == [(("E-STORE", 1), False)] * 3


def test_every_error_can_be_read_by_a_program(tmp_path: Path) -> None:
    root = project(tmp_path)
    found: list[Said] = [typed(root, *words, "--json") for words in (("ls",), ("stop",), ("log", "3"), ("retest",), ("show",), ("nope",))]
    assert [sorted({"code", "message", "hint"} - said.json["error"].keys()) for said in found] == [[]] * 6
    assert [said.json["error"]["code"] == said.refusal[0] for said in found] == [True] * 6
