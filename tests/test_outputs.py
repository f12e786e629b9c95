"""What is brought back of a hostile folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overnight import outputs
from overnight.errors import UsageError


def brought(folder: Path, *globs: str) -> list[str]:
    return [item.path for item in outputs.bring_back(folder, globs, folder.parent / "out" / "1")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "run"
    for name in ("a.pt", "b.txt", "deep/er/c.pt", "deep/d.pt", "[x]/e.pt", "f-1.pt", "f-2.pt"):
        (found / name).parent.mkdir(parents=True, exist_ok=True)
        (found / name).write_text(name)
    return found


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("*.pt", ["a.pt", "f-1.pt", "f-2.pt"]),
        ("**/*.pt", ["[x]/e.pt", "a.pt", "deep/d.pt", "deep/er/c.pt", "f-1.pt", "f-2.pt"]),
        ("deep", ["deep/d.pt", "deep/er/c.pt"]),
        ("deep/", ["deep/d.pt", "deep/er/c.pt"]),
        ("deep/*.pt", ["deep/d.pt"]),
        ("f-[!1].pt", ["f-2.pt"]),
        ("?.txt", ["b.txt"]),
        ("nothing", []),
        ("(", []),
    ],
)
def test_a_glob_matches_as_one_expects(folder: Path, glob: str, found: list[str]) -> None:
    assert brought(folder, glob) == found


def test_links_pipes_and_names_that_cannot_be_shown_are_passed_over(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.pt").write_text("secret")
    (folder / "link.pt").symlink_to(tmp_path / "secret" / "key.pt")
    (folder / "out").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe.pt")
    (folder / "new\nline.pt").touch()
    assert brought(folder, "**") == ["[x]/e.pt", "a.pt", "b.txt", "deep/d.pt", "deep/er/c.pt", "f-1.pt", "f-2.pt"]


def test_too_much_is_refused_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MOST_FILES", 3), ("MOST_BYTES", 5)):
        monkeypatch.setattr(outputs, name, value)
        with pytest.raises(UsageError) as caught:
            brought(folder, "**")
        assert (caught.value.code, list((folder.parent / "out").iterdir())) == ("E-OUTPUTS", [])
        monkeypatch.undo()


def test_what_is_brought_back_again_replaces_what_was_there(folder: Path) -> None:
    brought(folder, "*.pt")
    (folder / "a.pt").write_text("new")
    brought(folder, "a.pt")
    kept = folder.parent / "out" / "1"
    assert ([path.name for path in kept.iterdir()], (kept / "a.pt").read_text()) == (["a.pt"], "new")
