"""What strangers leave behind is removed, whatever it is, and nothing beside it is touched."""

from __future__ import annotations

import os
from pathlib import Path

from overnight.folders import remove


def test_thousands_of_folders_within_each_other_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "run"
    top.mkdir()
    handles = [os.open(top, os.O_RDONLY)]
    for _ in range(3000):
        os.mkdir("d", dir_fd=handles[-1])
        handles.append(os.open("d", os.O_RDONLY, dir_fd=handles[-1]))
        os.close(handles.pop(0))
    os.close(handles.pop())
    remove(top)
    assert os.listdir(tmp_path) == []


def test_closed_folders_are_opened_and_removed(tmp_path: Path) -> None:
    inner = tmp_path / "run" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    for folder in (inner, inner.parent, tmp_path / "run"):
        folder.chmod(0)
    remove(tmp_path / "run")
    assert os.listdir(tmp_path) == []


def test_links_are_removed_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    run = tmp_path / "run"
    run.mkdir()
    (run / "link").symlink_to(outside)
    (run / "loop").symlink_to(run)
    remove(run)
    assert (os.listdir(tmp_path), outside.stat().st_mode & 0o777) == (["outside"], 0o500)


def test_what_is_not_there_is_no_trouble(tmp_path: Path) -> None:
    remove(tmp_path / "nothing")
    assert os.listdir(tmp_path) == []
