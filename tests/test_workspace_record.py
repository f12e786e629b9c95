from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from overnight.errors import GitError
from overnight.workspace import Scope, Workspace
from repositories import START, TRAIN, code, contents, git, make, record


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "study")


@pytest.fixture
def space(root: Path, tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(root, tmp_path / "state") as found:
        yield found


# ---- exporting --------------------------------------------------------------------------------------------------------


def test_an_export_is_the_tree_with_the_files_over_it(space: Workspace, tmp_path: Path) -> None:
    space.export(space.head(), {"train.py": b"lr = 9\n", "src/new/a.py": b""}, tmp_path / "out")
    assert contents(tmp_path / "out") == START | {"train.py": b"lr = 9\n", "src/new/a.py": b""}


def test_an_editable_file_that_the_proposal_lacks_is_absent(space: Workspace, tmp_path: Path) -> None:
    space.export(space.head(), {"train.py": b""}, tmp_path / "out", scope=Scope(("train.py", "src/**/*.py")))
    assert contents(tmp_path / "out") == {"train.py": b"", "prepare.py": b"x = 1\n"}


def test_nothing_of_attributes_or_line_ends_is_applied(tmp_path: Path) -> None:
    files = {
        ".gitattributes": b"*.txt eol=crlf text\n*.py ident\n*.enc working-tree-encoding=UTF-16LE\n",
        "a.txt": b"one\ntwo\n",
        "b.txt": b"",
        "train.py": b"# $Id$\n",
        "c.bin": bytes(range(256)),
        "d.dat": b"one\r\ntwo\r\n",
    }
    made = make(tmp_path / "r", files)
    git(made, "config", "core.autocrlf", "true")
    with Workspace.open(made, tmp_path / "state") as found:
        found.export(found.head(), {}, tmp_path / "out")
    assert contents(tmp_path / "out") == files


def test_modes_are_644_and_755_whatever_the_umask(root: Path, space: Workspace, tmp_path: Path) -> None:
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "script")
    old = os.umask(0o077)
    space.export(space.head(), {}, tmp_path / "out")
    os.umask(old)
    assert [(tmp_path / "out" / name).stat().st_mode & 0o777 for name in ("run.sh", "train.py")] == [0o755, 0o644]


def test_the_hash_of_an_export_tells_its_bytes(space: Workspace, tmp_path: Path) -> None:
    head = space.head()
    hashes = [space.export(head, {"train.py": data}, tmp_path / f"out{at}") for at, data in enumerate((b"a", b"a", b"b"))]
    assert [hashes[0] == hashes[1], hashes[0] == hashes[2]] == [True, False]


def test_the_hash_is_the_documented_one(tmp_path: Path) -> None:
    made = make(tmp_path / "r", {"train.py": b"x"})
    with Workspace.open(made, tmp_path / "state") as found:
        hashed = found.export(found.head(), {}, tmp_path / "out", {"data": tmp_path})
    assert hashed == hashlib.sha256(b"train.py\x00100644\x00" + hashlib.sha256(b"x").hexdigest().encode() + b"\n").hexdigest()


def test_outside_data_is_linked_in(space: Workspace, tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    space.export(space.head(), {}, tmp_path / "out", {"data/train": tmp_path / "big"})
    assert (tmp_path / "out" / "data" / "train").readlink() == tmp_path / "big"


def test_an_export_over_something_is_refused_and_leaves_it(space: Workspace, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    found = code(lambda: space.export(space.head(), {}, tmp_path / "out"))
    assert (found, [path.name for path in (tmp_path / "out").iterdir()]) == ("E-STORAGE", ["mine"])


def test_a_failed_export_leaves_nothing(space: Workspace, tmp_path: Path) -> None:
    code(lambda: space.export(space.head(), {"train.py/below": b""}, tmp_path / "out"))
    assert (tmp_path / "out").exists() is False


def test_strange_names_come_through_export_commit_and_collect(tmp_path: Path) -> None:
    files = {
        "train.py": b"",
        "with space.py": b"1",
        "ünï.py": b"2",
        "new\nline.py": b"3",
        'quote".py': b"4",
        "-rf": b"5",
        os.fsdecode(b"\xff.py"): b"6",
    }
    made = make(tmp_path / "r", files)
    with Workspace.open(made, tmp_path / "state") as found:
        found.export(found.head(), {"train.py": b"7"}, tmp_path / "out")
        seen = found.collect(tmp_path / "out", found.head(), TRAIN)
        commit = record(found, 1, seen.files)
        assert (seen.rejected, found.read(commit, files)) == ("", files | {"train.py": b"7"})


def test_a_large_file_is_laid_out_whole(tmp_path: Path) -> None:
    data = bytes(range(256)) * 12_000
    made = make(tmp_path / "r", {"big.bin": data})
    with Workspace.open(made, tmp_path / "state") as found:
        found.export(found.head(), {}, tmp_path / "out")
    assert (tmp_path / "out" / "big.bin").read_bytes() == data


# ---- committing -------------------------------------------------------------------------------------------------------


def test_a_commit_holds_the_tree_that_was_exported(root: Path, space: Workspace) -> None:
    commit = record(space, 1, {"train.py": b"lr = 2\n"})
    assert git(root, "diff-tree", "-r", "--name-status", "HEAD", commit) == "M\ttrain.py"


def test_a_commit_is_whole_in_the_eyes_of_git(root: Path, space: Workspace) -> None:
    scope = Scope(("train.py", "src/**/*.py", "a/**"))
    first = record(space, 1, {"train.py": b"", "a/b/c.py": b"1", "a-b": b"", "a.b": b""}, scope=scope)
    record(space, 2, {"train.py": b"2"}, first, scope)
    assert git(root, "fsck", "--strict", "--no-dangling") == ""


def test_removed_files_and_their_empty_folders_are_gone(root: Path, space: Workspace) -> None:
    commit = record(space, 1, {"train.py": b"lr = 1\n"}, scope=Scope(("train.py", "src/**/*.py")))
    assert git(root, "ls-tree", "-r", "-t", "--name-only", commit).split() == ["prepare.py", "train.py"]


def test_the_same_arguments_give_the_same_commit(space: Workspace) -> None:
    assert record(space, 1, {"train.py": b"2"}) == record(space, 1, {"train.py": b"2"})


def test_a_commit_on_a_parent_can_take_its_tree_from_the_base(root: Path, space: Workspace) -> None:
    base = space.head()
    scope = Scope(("train.py", "src/*.py"))
    parent = record(space, 1, {"train.py": b"2", "src/extra.py": b"", "src/model.py": b""}, scope=scope)
    made = space.commit(parent=parent, base=base, files={"train.py": b"3"}, message="m", ref="refs/overnight/t/2", when=1.0, scope=scope)
    assert git(root, "diff-tree", "-r", "--name-status", base, made.commit).split() == ["D", "src/model.py", "M", "train.py"]


def test_author_date_and_message_are_ours(root: Path, space: Workspace) -> None:
    commit = record(space, 1, {"train.py": b"2"})
    assert git(root, "log", "-1", "--format=%an <%ae> %cn %at %ci %s", commit) == (
        "overnight <overnight@localhost> overnight 1700000000 2023-11-14 22:13:20 +0000 try 1"
    )


def test_control_characters_never_reach_a_message(root: Path, space: Workspace) -> None:
    head = space.head()
    made = space.commit(parent=head, files={}, message="a\x1b[31m\0b\u202ec\n\nKey: v", ref="refs/overnight/t/1", when=1.0)
    assert git(root, "log", "-1", "--format=%B", made.commit) == "a[31mb\\u202ec\n\nKey: v"


def test_the_executable_bit_of_an_editable_file_is_kept(root: Path, space: Workspace) -> None:
    git(root, "update-index", "--chmod=+x", "train.py")
    git(root, "commit", "-q", "-m", "script")
    assert space.entries(record(space, 1, {"train.py": b"2"}))["train.py"].mode == "100755"


def test_an_empty_editable_file_and_one_that_is_no_text_are_kept(space: Workspace) -> None:
    files = {"train.py": b"", "prepare.py": b"\xff\xfe\0"}
    commit = record(space, 1, files)
    assert space.read(commit, files) == files


def test_a_ref_that_was_lost_is_made_again(root: Path, space: Workspace) -> None:
    commit = record(space, 1, {"train.py": b"2"})
    (root / ".git" / "refs" / "overnight" / "t" / "1").unlink()
    record(space, 1, {"train.py": b"2"})
    assert space.tip("refs/overnight/t/1") == commit


@pytest.mark.parametrize("left", [b"", b"\0" * 41])
def test_a_ref_that_a_power_cut_left_empty_is_made_again(root: Path, space: Workspace, left: bytes) -> None:
    commit = record(space, 1, {"train.py": b"2"})
    (root / ".git" / "refs" / "overnight" / "t" / "1").write_bytes(left)
    record(space, 1, {"train.py": b"2"})
    assert git(root, "rev-parse", "refs/overnight/t/1") == commit


@pytest.mark.parametrize("left", [None, b"", b"\0\0\0"])
def test_objects_that_a_power_cut_took_are_made_again(root: Path, space: Workspace, tmp_path: Path, left: bytes | None) -> None:
    commit = record(space, 1, {"train.py": b"2"})
    for name in git(root, "rev-parse", commit, f"{commit}^{{tree}}", f"{commit}:train.py").split():
        place = root / ".git" / "objects" / name[:2] / name[2:]
        place.unlink()
        if left is not None:
            place.write_bytes(left)
    with Workspace.open(root, tmp_path / "after-the-power-cut") as again:
        record(again, 1, {"train.py": b"2"})
    assert git(root, "fsck", "--strict", "--no-dangling") == ""


def test_a_lock_in_the_way_is_named(root: Path, space: Workspace) -> None:
    record(space, 1, {"train.py": b"2"})
    lock = root / ".git" / "refs" / "overnight" / "t" / "2.lock"
    lock.write_text("")
    with pytest.raises(GitError) as caught:
        record(space, 2, {"train.py": b"3"})
    assert (caught.value.code, str(lock) in caught.value.fix) == ("E-GIT-LOCKED", True)


def test_a_lock_of_ours_that_nobody_can_hold_any_more_is_removed(root: Path, space: Workspace) -> None:
    record(space, 1, {"train.py": b"2"})
    lock = root / ".git" / "refs" / "overnight" / "t" / "2.lock"
    lock.write_text("")
    os.utime(lock, (1, 1))
    assert record(space, 2, {"train.py": b"3"}) == space.tip("refs/overnight/t/2")


def test_an_old_lock_on_a_branch_is_left_to_the_person(root: Path, space: Workspace) -> None:
    lock = root / ".git" / "refs" / "heads" / "mine.lock"
    lock.write_text("")
    os.utime(lock, (1, 1))
    assert (code(lambda: space.create_branch("mine", space.head())), lock.exists()) == ("E-GIT-LOCKED", True)


def test_several_threads_commit_at_once(root: Path, space: Workspace) -> None:
    threads = [threading.Thread(target=record, args=(space, number, {"train.py": b"%d" % number})) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [git(root, "show", f"refs/overnight/t/{number}:train.py") for number in range(8)] == [str(number) for number in range(8)]


def test_a_repository_of_sha256_works_the_same(tmp_path: Path) -> None:
    made = make(tmp_path / "r", None, "--object-format=sha256")
    with Workspace.open(made, tmp_path / "state") as found:
        found.export(found.head(), {"train.py": b"9"}, tmp_path / "out")
        commit = record(found, 1, found.collect(tmp_path / "out", found.head(), TRAIN).files)
        found.create_branch("autoresearch/t", commit)
        told = (
            len(commit),
            git(made, "show", "autoresearch/t:train.py"),
            git(made, "fsck", "--strict"),
            "+9" in found.diff(found.head(), commit),
        )
    assert told == (64, "9", "", True)


def test_a_linked_worktree_works_the_same(root: Path, tmp_path: Path) -> None:
    git(root, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    with Workspace.open(tmp_path / "side", tmp_path / "state") as found:
        found.exclude("/results.tsv")
        commit = record(found, 1, {"train.py": b"2"})
        (tmp_path / "side" / "results.tsv").write_text("")
        told = (found.root, found.git_dir, git(root, "rev-parse", "refs/overnight/t/1"), git(tmp_path / "side", "status", "--porcelain"))
    assert told == (tmp_path / "side", root / ".git", commit, "")
