from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overnight.workspace import Collected, Scope, Workspace
from overnight.workspace.collect import ENTRY_LIMIT
from repositories import TRAIN, code, make, record, replace


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "study")


@pytest.fixture
def space(root: Path, tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(root, tmp_path / "state") as found:
        yield found


@pytest.fixture
def copy(space: Workspace, tmp_path: Path) -> Path:
    """An export of the base as a proposer gets it."""
    space.export(space.head(), {}, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def collect(space: Workspace, copy: Path) -> Callable[..., Collected]:
    def collected(scope: Scope = TRAIN) -> Collected:
        return space.collect(copy, space.head(), scope)

    return collected


# ---- collecting -------------------------------------------------------------------------------------------------------


def test_an_untouched_copy_gives_the_files_of_the_parent(collect: Callable[..., Collected]) -> None:
    assert collect() == Collected({"train.py": b"lr = 1\n"}, "", ())


def test_the_bytes_of_an_edited_file_are_the_proposal(copy: Path, collect: Callable[..., Collected]) -> None:
    (copy / "train.py").write_bytes(b"\xff\0")
    assert collect() == Collected({"train.py": b"\xff\0"})


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("gone", "train.py is missing"),
        ("link", "train.py is a symbolic link"),
        ("hard", "train.py is a hard link to another file"),
        ("folder", "train.py is a folder"),
        ("pipe", "train.py is a named pipe"),
        ("socket", "train.py is a socket"),
        ("big", "train.py is larger than 1 MiB"),
    ],
)
def test_an_editable_file_that_is_no_plain_file_is_rejected(copy: Path, collect: Callable[..., Collected], how: str, sentence: str) -> None:
    replace(copy / "train.py", how)
    assert collect().rejected == sentence


@pytest.mark.parametrize("how", ["gone", "link", "hard", "folder", "pipe", "big", "file"])
def test_a_protected_file_that_was_replaced_is_rejected(copy: Path, collect: Callable[..., Collected], how: str) -> None:
    replace(copy / "prepare.py", how)
    assert collect().rejected == "changed protected files: prepare.py"


def test_a_protected_file_with_other_bytes_of_the_same_length_is_rejected(copy: Path, collect: Callable[..., Collected]) -> None:
    (copy / "prepare.py").write_bytes(b"x = 2\n")
    assert collect().rejected == "changed protected files: prepare.py"


def test_a_protected_file_made_executable_is_rejected(copy: Path, collect: Callable[..., Collected]) -> None:
    (copy / "prepare.py").chmod(0o755)
    assert collect().rejected == "changed protected files: prepare.py"


@pytest.mark.parametrize(("how", "sentence"), [("link", "src is a symbolic link"), ("file", "src is a file")])
def test_a_folder_that_was_swapped_is_rejected(copy: Path, collect: Callable[..., Collected], how: str, sentence: str) -> None:
    replace(copy / "src", how)
    assert collect().rejected == f"{sentence}; changed protected files: src/deep/data.py, src/model.py"


def test_a_folder_of_editable_files_that_was_swapped_is_no_removal(copy: Path, collect: Callable[..., Collected]) -> None:
    replace(copy / "src", "link")
    assert collect(Scope(("train.py", "src/"))).rejected == "src is a symbolic link"


def test_changed_and_restored_is_no_change(copy: Path, collect: Callable[..., Collected]) -> None:
    (copy / "prepare.py").write_bytes(b"x = 2\n")
    (copy / "prepare.py").write_bytes(b"x = 1\n")
    assert collect().rejected == ""


def test_only_the_first_few_changed_files_are_named(tmp_path: Path) -> None:
    made = make(tmp_path / "r", {"train.py": b"", **{f"p{number}": b"" for number in range(9)}})
    with Workspace.open(made, tmp_path / "state") as found:
        (tmp_path / "copy").mkdir()
        (tmp_path / "copy" / "train.py").write_bytes(b"")
        assert found.collect(tmp_path / "copy", found.head(), TRAIN).rejected == "changed protected files: p0, p1, p2, p3, p4 and 4 more"


def test_unknown_files_are_not_carried_but_told(copy: Path, collect: Callable[..., Collected]) -> None:
    for name in ("json.py", "sitecustomize.py", "src/note\x1b[31m.md"):
        (copy / name).write_text("")
    (copy / "runs").mkdir()
    told = "not carried, because it is not editable: json.py, runs/, sitecustomize.py, src/note\\x1b[31m.md"
    assert collect() == Collected({"train.py": b"lr = 1\n"}, "", (told,))


def test_litter_of_tools_is_passed_over(copy: Path, collect: Callable[..., Collected]) -> None:
    (copy / "src" / "__pycache__").mkdir()
    (copy / "src" / "__pycache__" / "model.cpython-311.pyc").write_text("")
    (copy / ".git").mkdir()
    (copy / "train.py~").write_text("")
    assert collect().notes == ()


def test_linked_data_is_passed_over(space: Workspace, tmp_path: Path) -> None:
    links = {"data/train": tmp_path, ".venv": tmp_path}
    space.export(space.head(), {}, tmp_path / "copy", links)
    assert space.collect(tmp_path / "copy", space.head(), TRAIN, links) == Collected({"train.py": b"lr = 1\n"})


def test_new_files_of_an_editable_pattern_are_carried(copy: Path, collect: Callable[..., Collected]) -> None:
    (copy / "src" / "more" / "inner").mkdir(parents=True)
    (copy / "src" / "more" / "inner" / "new.py").write_bytes(b"new")
    found = collect(Scope(("train.py", "src/**/*.py"), protect=("src/deep/",)))
    assert found == Collected({"src/model.py": b"layers = 2\n", "src/more/inner/new.py": b"new", "train.py": b"lr = 1\n"})


def test_files_of_an_editable_pattern_may_be_removed(copy: Path, collect: Callable[..., Collected]) -> None:
    (copy / "src" / "model.py").unlink()
    assert collect(Scope(("train.py", "src/*.py"))) == Collected({"train.py": b"lr = 1\n"})


def test_a_new_file_that_is_a_link_is_rejected(copy: Path, collect: Callable[..., Collected]) -> None:
    (copy / "src" / "new.py").symlink_to("/etc/passwd")
    assert collect(Scope(("train.py", "src/*.py"))).rejected == "src/new.py is a symbolic link"


def test_a_flood_of_files_is_rejected(copy: Path, collect: Callable[..., Collected]) -> None:
    (copy / "src" / "one").touch()
    for number in range(ENTRY_LIMIT):
        os.link(copy / "src" / "one", copy / "src" / f"{number:x}")
    assert collect().rejected == "the copy holds more than 50000 files"


def test_a_flood_in_a_folder_that_cannot_count_is_not_looked_at(copy: Path, collect: Callable[..., Collected]) -> None:
    (copy / "junk" / ("d/" * 900)).mkdir(parents=True)
    assert collect() == Collected({"train.py": b"lr = 1\n"}, "", ("not carried, because it is not editable: junk/",))


def test_endless_folders_are_rejected(copy: Path, collect: Callable[..., Collected]) -> None:
    (copy / ("d/" * 100)).mkdir(parents=True)
    assert collect(Scope(("train.py", "**/*.py"))).rejected == "folders are nested more than 64 deep in the copy"


def test_editable_files_that_are_too_large_together_are_rejected(copy: Path, collect: Callable[..., Collected]) -> None:
    for number in range(17):
        (copy / "src" / f"{number}.py").write_bytes(b"x" * 2**20)
    assert collect(Scope(("train.py", "src/*.py"))).rejected == "the editable files hold more than 16 MiB"


def test_a_copy_that_is_gone_is_rejected(copy: Path, collect: Callable[..., Collected]) -> None:
    shutil.rmtree(copy)
    assert collect().rejected == "the copy cannot be read: No such file or directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_editable_file_without_permission_to_read_is_rejected(copy: Path, collect: Callable[..., Collected]) -> None:
    (copy / "train.py").chmod(0)
    assert collect().rejected == "train.py cannot be read: Permission denied"


# ---- merging and comparing --------------------------------------------------------------------------------------------

LINES = b"1\n2\n3\n4\n5\n6\n7\n"


def test_changes_in_different_places_are_put_together(space: Workspace) -> None:
    merged = space.merge({"a": LINES}, {"a": LINES.replace(b"1", b"one")}, {"a": LINES.replace(b"7", b"seven")})
    assert merged == {"a": b"one\n2\n3\n4\n5\n6\nseven\n"}


def test_changes_in_the_same_place_are_a_conflict(space: Workspace) -> None:
    assert space.merge({"a": LINES}, {"a": LINES.replace(b"4", b"x")}, {"a": LINES.replace(b"4", b"y")}) is None


def test_files_that_one_side_added_or_removed_follow_that_side(space: Workspace) -> None:
    merged = space.merge({"a": b"1", "b": b"2"}, {"a": b"1", "b": b"2", "new": b"3"}, {"a": b"9"})
    assert merged == {"a": b"9", "new": b"3"}


def test_a_file_changed_here_and_removed_there_is_a_conflict(space: Workspace) -> None:
    assert space.merge({"a": b"1"}, {"a": b"2"}, {}) is None


def test_binary_files_that_both_sides_changed_are_a_conflict(space: Workspace) -> None:
    assert space.merge({"a": b"\0" + LINES}, {"a": b"\0" + LINES + b"8"}, {"a": b"\0" + b"0" + LINES}) is None


def test_a_diff_is_a_plain_patch(space: Workspace) -> None:
    head = space.head()
    patch = space.diff(head, record(space, 1, {"train.py": b"lr = 2\n"}))
    assert patch.splitlines()[-3:] == ["@@ -1 +1 @@", "-lr = 1", "+lr = 2"]


def test_a_diff_of_something_unknown_is_an_error(space: Workspace) -> None:
    assert code(lambda: space.diff(space.head(), "0" * 40)) == "E-GIT"


# ---- scope ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("train.py", "train.py", True),
        ("./train.py", "train.py", True),
        ("train.py", "src/train.py", False),
        ("train.py", "train.py/x", False),
        ("train.py", "trainxpy", False),
        ("*.py", "train.py", True),
        ("*.py", "src/train.py", False),
        ("src/*.py", "src/a.py", True),
        ("src/*.py", "src/a/b.py", False),
        ("src/**/*.py", "src/a.py", True),
        ("src/**/*.py", "src/a/b/c.py", True),
        ("src/**/*.py", "srcs/a.py", False),
        ("configs/", "configs/a/b.yaml", True),
        ("configs/", "configs", False),
        ("configs", "configs/a", False),
        ("**", "any/thing", True),
        ("run?.py", "run1.py", True),
        ("run?.py", "run/.py", False),
        ("run[12].py", "run2.py", True),
        ("run[!12].py", "run2.py", False),
        ("run[!12].py", "run3.py", True),
        ("a[", "a[", True),
        ("a+b.py", "a+b.py", True),
        ("*.py", "\udcff.py", False),
    ],
)
def test_a_pattern_matches_what_a_person_expects(pattern: str, path: str, expected: bool) -> None:
    assert Scope((pattern,)).matches(path) is expected


def test_protect_wins_over_editable() -> None:
    assert Scope(("*.py",), protect=("prepare.py",)).matches("prepare.py") is False


@pytest.mark.parametrize("pattern", ["", "/etc/passwd", "../x", "a/../b", "a//b", ".git/config", "./", "x\0", "[z-a]"])
def test_a_pattern_that_leaves_the_repository_is_refused(pattern: str) -> None:
    assert code(lambda: Scope((pattern,))) == "E-SCOPE"


@pytest.mark.parametrize(
    ("pattern", "folder", "expected"),
    [
        ("train.py", "src", False),
        ("src/*.py", "src", True),
        ("src/*.py", "src/a", False),
        ("src/**/*.py", "src/a/b", True),
        ("configs/", "configs", True),
        ("configs/", "configs/a/b", True),
        ("*/x.py", "any", True),
        ("a/b/c.py", "a", True),
        ("a/b/c.py", "a/c", False),
        ("**", "any/where", True),
    ],
)
def test_only_folders_that_a_pattern_reaches_are_looked_into(pattern: str, folder: str, expected: bool) -> None:
    assert Scope((pattern,)).reaches(folder) is expected


def test_new_folders_below_an_editable_folder_are_carried(copy: Path, collect: Callable[..., Collected]) -> None:
    (copy / "src" / "more").mkdir()
    (copy / "src" / "more" / "new.py").write_bytes(b"new")
    assert collect(Scope(("src/",))).files["src/more/new.py"] == b"new"


@pytest.mark.parametrize("name", [".git", ".GIT", ".Git"])
def test_what_git_would_refuse_to_hold_is_not_carried(copy: Path, collect: Callable[..., Collected], name: str) -> None:
    (copy / "src" / name).mkdir()
    (copy / "src" / name / "config").write_bytes(b"[core]\n")
    assert [path for path in collect(Scope(("src/", "**/config"))).files if "git" in path.lower()] == []


def test_a_file_that_is_named_may_be_missing_where_the_scope_says_so(copy: Path, collect: Callable[..., Collected]) -> None:
    (copy / "train.py").unlink()
    assert (collect(Scope(("train.py",), optional=True)).rejected, collect(Scope(("train.py",))).rejected) == ("", "train.py is missing")
