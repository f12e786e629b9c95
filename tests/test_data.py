"""Untracked data: whether it is there, what to say when it is not, and what an export links."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from overnight import sandbox
from overnight.app.data import check_data, data_links, env_names, named_paths
from overnight.errors import OvernightError
from overnight.testing import repository


def _make(root: Path, names: Iterable[str]) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")


_ENTRY = "ships-aerial-images/data.yaml or $YOLO_DATA"


def test_missing_data_gets_the_advice_of_the_seed(tmp_path: Path) -> None:
    advice = "add the data set first, or export YOLO_DATA=/path/to/data.yaml"
    expected = [f"ships-aerial-images/data.yaml does not exist and $YOLO_DATA is not set: {advice}"]
    assert check_data([_ENTRY], tmp_path, {}) == expected


def test_either_alternative_is_enough(tmp_path: Path) -> None:
    with_variable = check_data([_ENTRY], tmp_path, {"YOLO_DATA": str(tmp_path)})
    _make(tmp_path, ["ships-aerial-images/data.yaml"])
    assert (with_variable, check_data([_ENTRY], tmp_path, {})) == ([], [])


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("$KEY", "$KEY is not set: export KEY=… first"),
        ("${KEY}", "$KEY is not set: export KEY=… first"),
        ("$EMPTY", "$EMPTY is not set: export EMPTY=… first"),
        ("$GONE", "$GONE points to /no/such/place, which does not exist: export GONE=… first"),
        ("data", "data does not exist: add the data set first"),
        ("/no/such/place", "/no/such/place does not exist: add the data set first"),
        ("~/none", "~/none does not exist: add the data set first"),
        ("x" * 5000, f"{'x' * 5000} does not exist: add the data set first"),
    ],
)
def test_each_kind_of_missing_data_is_said(tmp_path: Path, entry: str, expected: str) -> None:
    environ = {"HOME": str(tmp_path), "EMPTY": "", "GONE": "/no/such/place", "SET": "word"}
    assert check_data([entry, "$SET", "~/", "/"], tmp_path, environ) == [expected]


@pytest.mark.parametrize("entry", ["../data", "a/../../b", ".git/objects", ".overnight/x", "", "$", "$1", "a\0b", "ok or ../x"])
def test_entries_that_lead_out_of_the_repository_are_refused(tmp_path: Path, entry: str) -> None:
    with pytest.raises(OvernightError) as caught:
        check_data([entry], tmp_path, {})
    assert (caught.value.code, caught.value.exit_code) == ("E-BAD-DATA", 2)


def test_links_are_the_topmost_untracked_part_of_existing_data(tmp_path: Path) -> None:
    _make(tmp_path, ["ships/deep/data.yaml", "held/new/a.bin", "held/old.py", ".venv/bin/python", "one.csv"])
    entries = ["ships/deep/data.yaml or $X", "held/new/a.bin", "held/old.py", "missing/x", "one.csv", "./one.csv", "/etc", "~/x", "$Y"]
    links = data_links(entries, tmp_path, {"held/old.py", "train.py"})
    assert links == {name: (tmp_path / name).resolve() for name in (".venv", "ships", "held/new", "one.csv")}


def test_links_lead_to_the_real_place_of_linked_data(tmp_path: Path) -> None:
    _make(tmp_path, ["store/a.bin", "repo/x"])
    (tmp_path / "repo/data").symlink_to("../store")
    assert data_links(["data/a.bin"], tmp_path / "repo", {"x"}) == {"data": (tmp_path / "store").resolve()}


def test_a_tracked_environment_needs_no_link(tmp_path: Path) -> None:
    _make(tmp_path, [".venv/bin/python"])
    assert data_links([], tmp_path, {".venv/bin/python"}) == {}


def test_variables_of_the_entries_are_named() -> None:
    assert env_names([_ENTRY, "${A_B} or $C", "plain", "a$D"]) == {"YOLO_DATA", "A_B", "C"}


def test_places_that_the_code_names_are_found_and_nothing_of_the_system_or_of_others(tmp_path: Path) -> None:
    home = tmp_path / "home" / "me"
    for name in (".cache/autoresearch/data", ".cache/x", ".ssh", "sets/ships", "other"):
        (home / name).mkdir(parents=True)
    texts = [
        'CACHE = os.path.join(os.path.expanduser("~"), ".cache", "autoresearch")',
        f"a = '~/sets/ships'; b = '~/.ssh'; c = '~/.cache'; d = '~'; e = '~/none'; f = '{home}'; g = '{home}/other'",
        "h = '/etc/passwd'; i = '/usr/lib'; j = 'https://host/data'; k = '/home/somebody'; l = '/'; m = '../../x'",
        "n = '~/sets/../.ssh'",
    ]
    assert named_paths(texts, home) == [home / ".cache" / "autoresearch", home / "other", home / "sets" / "ships"]


@pytest.mark.skipif(sandbox.find() is None, reason="there is no bubblewrap")
def test_a_run_reads_the_cache_that_the_study_names_and_not_the_one_beside_it(tmp_path: Path) -> None:
    for name in ("known", "beside"):
        _make(tmp_path / "home" / ".cache", [f"{name}/x"])
    train = "ls ~/.cache/known/x && ! ls $HOME/.cache/$(echo beside)/x && echo @loss=0.25\n"
    root = repository(tmp_path / "repository", {"train.sh": train})
    words = ["--metric", "loss", "--budget", "0", "--baseline-runs", "1", "--editable", "train.sh", "--proposer-command", "true"]
    env = {**os.environ, "HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "overnight", "run", *words, "--", "sh", "train.sh"],
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "@loss=0.25" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.skipif(sandbox.find() is None, reason="there is no bubblewrap")
def test_a_run_that_misses_what_the_walls_hide_is_told_how_to_name_it(tmp_path: Path) -> None:
    _make(tmp_path, ["set/x"])
    first, second = str(tmp_path / "set" / "x")[:6], str(tmp_path / "set" / "x")[6:]
    root = repository(tmp_path / "repository", {"train.sh": f'cat {first}""{second} && echo @loss=1\n'})
    words = ["--metric", "loss", "--budget", "0", "--baseline-runs", "1", "--editable", "train.sh", "--proposer-command", "true"]
    command = [sys.executable, "-m", "overnight", "run", *words]
    told = subprocess.run([*command, "--", "sh", "train.sh"], cwd=root, capture_output=True, text=True, check=False)
    follow = [*command, "--tag", "u", "--data", f"{tmp_path}/set/x", "--", "sh", "train.sh"]
    done = subprocess.run(follow, cwd=root, capture_output=True, text=True, check=False)
    assert (f"overnight run --data {tmp_path}/set/x" in told.stderr, done.returncode) == (True, 0), told.stderr + done.stderr
