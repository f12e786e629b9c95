"""What tasks leave is taken without trust, kept once by its hash, and laid out again byte by byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overnight import leavings
from overnight.dag.words import Kept
from overnight.errors import StorageError
from overnight.leavings import Outputs, fingerprint


@pytest.fixture
def kept(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "kept")


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The folder of a dead task."""
    folder = tmp_path / "left"
    (folder / "out" / "deep").mkdir(parents=True)
    (folder / "out" / "model.pt").write_bytes(b"\x00weights")
    (folder / "out" / "deep" / "log").write_text("log")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return folder


def paths(found: leavings.Taken) -> list[str]:
    return [file.path for file in found.files]


def test_files_come_back_as_they_were_with_their_mode(kept: Outputs, left: Path, tmp_path: Path) -> None:
    taken = kept.take(left, None, {}, {})
    (tmp_path / "next").mkdir()
    kept.lay(taken.files, tmp_path / "next")
    found = {path: ((tmp_path / "next" / path).read_bytes(), os.access(tmp_path / "next" / path, os.X_OK)) for path in paths(taken)}
    assert found == {"out/model.pt": (b"\x00weights", False), "out/deep/log": (b"log", False), "run.sh": (b"#!/bin/sh\n", True)}


def test_only_what_is_named_is_taken(kept: Outputs, left: Path) -> None:
    assert paths(kept.take(left, ("out/*",), {}, {})) == ["out/model.pt"]


def test_what_was_named_and_is_not_there_is_told(kept: Outputs, left: Path) -> None:
    assert kept.take(left, ("model.pt", "*.log", "out"), {}, {}).missing == ("model.pt", "*.log")


def test_an_empty_folder_that_was_named_is_no_fault(kept: Outputs, left: Path) -> None:
    (left / "empty").mkdir()
    assert kept.take(left, ("empty",), {}, {}) == leavings.Taken(())


def test_code_as_it_was_is_not_taken_and_changed_code_is(kept: Outputs, left: Path) -> None:
    known = {path: leavings.git_id(left / path, (left / path).stat().st_size) for path in ("run.sh", "out/model.pt")}
    (left / "run.sh").write_text("#!/bin/sh\nx")
    assert paths(kept.take(left, None, known, {})) == ["out/deep/log", "run.sh"]


def test_what_was_given_and_is_the_same_is_passed_on_and_not_its_own(kept: Outputs, left: Path) -> None:
    first = {file.path: file for file in kept.take(left, None, {}, {}).files}
    (left / "out" / "deep" / "log").write_text("more")
    again = kept.take(left, None, {}, {path: file.sha for path, file in first.items()}).files
    assert {file.path: file.own for file in again} == {"out/deep/log": True, "out/model.pt": False, "run.sh": False}


def test_links_that_lead_out_are_not_followed_and_others_are_taken_as_what_they_lead_to(kept: Outputs, left: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "x").write_text("secret")
    (left / "steal").symlink_to(tmp_path / "secret")
    (left / "climb").symlink_to("../secret")
    (left / "room").symlink_to(tmp_path / "hidden")
    (left / "circle").symlink_to("circle")
    (left / "best.pt").symlink_to("out/model.pt")
    os.mkfifo(left / "pipe")
    taken = kept.take(left, None, {}, {})
    assert (paths(taken), {kept.read(file) for file in taken.files}) == (
        ["best.pt", "out/deep/log", "out/model.pt", "run.sh"], {b"\x00weights", b"log", b"#!/bin/sh\n"},
    )  # fmt: skip


def test_a_link_in_the_way_is_replaced_and_nothing_is_written_through_it(kept: Outputs, left: Path, tmp_path: Path) -> None:
    taken = kept.take(left, ("out/model.pt",), {}, {})
    (tmp_path / "outside").mkdir()
    (tmp_path / "victim").write_text("as it was")
    top = tmp_path / "next"
    top.mkdir()
    (top / "out").symlink_to(tmp_path / "outside")
    kept.lay(taken.files, top)
    (top / "out" / "model.pt").unlink()
    (top / "out" / "model.pt").symlink_to(tmp_path / "victim")
    kept.lay(taken.files, top)
    assert ((tmp_path / "victim").read_text(), list((tmp_path / "outside").iterdir()), (top / "out" / "model.pt").read_bytes()) == (
        "as it was",
        [],
        b"\x00weights",
    )


def test_the_same_bytes_are_kept_once(kept: Outputs, left: Path, tmp_path: Path) -> None:
    (left / "copy").write_bytes((left / "out" / "model.pt").read_bytes())
    kept.take(left, None, {}, {})
    kept.take(left, None, {}, {})
    assert len([path for path in (tmp_path / "kept").rglob("*") if path.is_file()]) == 3


def test_too_much_that_nobody_has_named_is_not_handed_on_and_that_is_said(
    kept: Outputs, left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leavings, "MOST_FILES", 2)
    taken = kept.take(left, None, {}, {})
    assert (taken.files, taken.note) == ((), "nothing is handed on: it left 3 files of 0.0 GB; name in outputs: what others need")


def test_files_that_were_cleared_away_are_missed(kept: Outputs, left: Path, tmp_path: Path) -> None:
    taken = kept.take(left, None, {}, {})
    before = kept.has(taken.files)
    next(path for path in (tmp_path / "kept").rglob("*") if path.is_file()).unlink()
    assert (before, kept.has(taken.files)) == (True, False)


def test_a_file_that_is_gone_is_one_clear_error(kept: Outputs, tmp_path: Path) -> None:
    (tmp_path / "next").mkdir()
    with pytest.raises(StorageError) as caught:
        kept.lay([Kept("x", "0" * 64, 1)], tmp_path / "next")
    assert caught.value.code == "E-OUTPUTS"


def test_a_folder_of_data_is_read_again_only_where_it_changed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_text("1")
    (data / "b").write_text("2")
    memory: dict[tuple[str, str], str] = {}
    read: list[str] = []

    def learn(found: list[tuple[str, str, str]]) -> None:
        read.extend(Path(path).name for path, _, _ in found)
        memory.update({(path, stamp): sha for path, stamp, sha in found})

    def look() -> str:
        return fingerprint(data, lambda path, stamp: memory.get((path, stamp), ""), learn)

    first, second = look(), look()
    (data / "b").write_text("22")
    third = look()
    assert (first == second, first == third, read) == (True, False, ["a", "b", "b"])
