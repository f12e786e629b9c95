from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from overnight.errors import GitError, NotFoundError, UsageError
from overnight.workspace import Scope, Workspace
from repositories import START, TRAIN, code, contents, everything, git, make, plant, record, whole_cycle


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "study")


@pytest.fixture
def space(root: Path, tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(root, tmp_path / "state") as found:
        yield found


# ---- opening ----------------------------------------------------------------------------------------------------------


def test_opening_inside_a_folder_finds_the_top_of_the_checkout(root: Path, tmp_path: Path) -> None:
    with Workspace.open(root / "src" / "deep", tmp_path / "state") as found:
        assert (found.root, found.git_dir) == (root, root / ".git")


def test_head_is_the_commit_that_git_shows(root: Path, space: Workspace) -> None:
    assert space.head() == git(root, "rev-parse", "HEAD")


def test_a_folder_without_repository_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as caught:
        Workspace.open(tmp_path / "empty", tmp_path / "state")
    assert (caught.value.code, caught.value.fix) == ("E-NO-REPOSITORY", "git init && git add -A && git commit -m start")


def test_a_repository_without_commit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    git(tmp_path / "new", "init", "-q")
    with Workspace.open(tmp_path / "new", tmp_path / "state") as found:
        assert code(found.head) == "E-NO-COMMIT"


def test_a_detached_head_is_refused(root: Path, space: Workspace) -> None:
    git(root, "checkout", "-q", "--detach")
    assert code(space.head) == "E-DETACHED-HEAD"


def test_a_bare_repository_is_refused(root: Path, tmp_path: Path) -> None:
    git(root, "clone", "-q", "--bare", ".", str(tmp_path / "bare"))
    assert code(lambda: Workspace.open(tmp_path / "bare", tmp_path / "state")) == "E-BARE-REPOSITORY"


@pytest.mark.parametrize(("name", "fix"), [("home", "cd your-repository"), ("home/study", "git init && git add -A && git commit -m start")])
def test_a_whole_home_is_not_advised_to_become_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fix: str) -> None:
    (tmp_path / "home" / "study").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(UsageError) as caught:
        Workspace.open(tmp_path / name, tmp_path / "state")
    assert caught.value.fix == fix


def test_a_line_break_in_the_path_of_the_repository_is_said(root: Path, tmp_path: Path) -> None:
    moved = root.rename(tmp_path / "two\nlines")
    assert code(lambda: Workspace.open(moved, tmp_path / "state")) == "E-PATH"


def test_no_git_on_path_is_said(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code(lambda: Workspace.open(root, tmp_path / "state")) == "E-NO-GIT"


def test_a_damaged_configuration_is_quoted_from_git(root: Path, tmp_path: Path) -> None:
    (root / ".git" / "config").write_text("[core\n")
    with pytest.raises(GitError) as caught:
        Workspace.open(root, tmp_path / "state")
    assert "bad config line 1" in caught.value.why


def test_exclude_adds_each_pattern_once(root: Path, space: Workspace) -> None:
    (root / ".git" / "info" / "exclude").write_text("mine")
    space.exclude("/.overnight/", "/results.tsv")
    space.exclude("/results.tsv")
    assert (root / ".git" / "info" / "exclude").read_text() == "mine\n/.overnight/\n/results.tsv\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_repository_that_cannot_be_written_is_refused_before_the_study(root: Path, space: Workspace) -> None:
    (root / ".git" / "objects").chmod(0o555)
    found = code(lambda: space.check(space.head(), TRAIN))
    (root / ".git" / "objects").chmod(0o755)
    assert found == "E-READ-ONLY"


# ---- what may be a base commit ----------------------------------------------------------------------------------------


def test_an_ordinary_commit_passes_the_check(space: Workspace) -> None:
    assert space.check(space.head(), Scope(("train.py", "src/**/*.py"))) is None  # type: ignore[func-returns-value]


def test_an_editable_file_that_git_does_not_know_is_refused_with_the_command_to_add_it(root: Path, space: Workspace) -> None:
    (root / "new.py").write_text("")
    with pytest.raises(UsageError) as caught:
        space.check(space.head(), Scope(("new.py",)))
    assert (caught.value.code, caught.value.fix) == ("E-NOT-TRACKED", "git add 'new.py' && git commit -m 'add new.py'")


def test_a_mistyped_editable_file_is_refused_with_the_nearest_name(space: Workspace) -> None:
    with pytest.raises(UsageError) as caught:
        space.check(space.head(), Scope(("trian.py",)))
    assert "did you mean 'train.py'?" in caught.value.message


def test_an_editable_link_is_refused(tmp_path: Path) -> None:
    made = make(tmp_path / "r", {"other.py": b""})
    (made / "train.py").symlink_to("other.py")
    git(made, "add", "-A")
    git(made, "commit", "-q", "-m", "link")
    with Workspace.open(made, tmp_path / "state") as found:
        assert code(lambda: found.check(found.head(), TRAIN)) == "E-EDITABLE-LINK"


def test_a_submodule_is_refused(root: Path, space: Workspace) -> None:
    git(root, "update-index", "--add", "--cacheinfo", f"160000,{space.head()},vendor")
    git(root, "commit", "-q", "-m", "submodule")
    assert code(lambda: space.check(space.head(), TRAIN)) == "E-SUBMODULE"


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "src/../../outside", "hop/../../outside"])
def test_a_link_out_of_the_tree_is_refused(root: Path, space: Workspace, target: str) -> None:
    (root / "src" / "deep" / "hop").symlink_to("../../src")
    (root / "src" / "deep" / "link").symlink_to(target if target.startswith("/") else f"../../{target}" if "hop" not in target else target)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "link")
    assert code(lambda: space.check(space.head(), TRAIN)) == "E-ESCAPING-LINK"


def test_links_within_the_tree_pass_and_are_laid_out(root: Path, space: Workspace, tmp_path: Path) -> None:
    (root / "src" / "again.py").symlink_to("../prepare.py")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "link")
    space.check(space.head(), TRAIN)
    space.export(space.head(), {}, tmp_path / "out")
    assert (tmp_path / "out" / "src" / "again.py").readlink() == Path("../prepare.py")


# ---- reading ----------------------------------------------------------------------------------------------------------


def test_entries_hold_mode_id_and_size(root: Path, space: Workspace) -> None:
    entry = space.entries(space.head())["src/model.py"]
    assert (entry.mode, entry.id, entry.size) == ("100644", git(root, "rev-parse", "HEAD:src/model.py"), 11)


def test_reading_gives_the_bytes_of_the_commit_not_of_the_checkout(root: Path, space: Workspace) -> None:
    (root / "train.py").write_text("changed")
    assert space.read(space.head(), ["train.py"]) == {"train.py": b"lr = 1\n"}


def test_reading_a_file_that_is_not_there_is_not_found(space: Workspace) -> None:
    with pytest.raises(NotFoundError) as caught:
        space.read(space.head(), ["none.py"])
    assert caught.value.code == "E-NO-FILE"


def test_editable_reads_all_files_of_the_scope(space: Workspace) -> None:
    found = space.editable(space.head(), Scope(("src/**/*.py",), protect=("src/deep/",)))
    assert found == {"src/model.py": b"layers = 2\n"}


def test_a_killed_reader_is_replaced(space: Workspace, tmp_path: Path) -> None:
    space.export(space.head(), {}, tmp_path / "one")
    os.kill(space._objects._process[0].pid, signal.SIGKILL)
    space._objects._process[0].wait()
    space._objects._cache.clear()
    space.export(space.head(), {}, tmp_path / "two")
    assert contents(tmp_path / "two") == START


def test_bytes_that_do_not_match_their_id_are_refused(root: Path, space: Workspace) -> None:
    entries = space.entries(space.head())
    mine, other = ((root / ".git" / "objects" / entries[name].id[:2] / entries[name].id[2:]) for name in ("train.py", "prepare.py"))
    mine.chmod(0o644)
    mine.write_bytes(other.read_bytes())
    assert code(lambda: space.read(space.head(), ["train.py"])) == "E-GIT-OBJECT"


def test_a_missing_object_is_said(root: Path, space: Workspace) -> None:
    name = space.entries(space.head())["train.py"].id
    (root / ".git" / "objects" / name[:2] / name[2:]).unlink()
    assert code(lambda: space.read(space.head(), ["train.py"])) == "E-GIT-OBJECT"


def test_reading_goes_on_after_a_missing_object(root: Path, space: Workspace) -> None:
    name = space.entries(space.head())["train.py"].id
    (root / ".git" / "objects" / name[:2] / name[2:]).unlink()
    code(lambda: space.read(space.head(), ["train.py"]))
    assert space.read(space.head(), ["prepare.py"]) == {"prepare.py": b"x = 1\n"}


def test_several_threads_read_at_once(space: Workspace, tmp_path: Path) -> None:
    head = space.head()
    threads = [threading.Thread(target=space.export, args=(head, {}, tmp_path / f"out{number}")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [contents(tmp_path / f"out{number}") for number in range(8)] == [START] * 8


def test_objects_borrowed_from_another_repository_are_found(root: Path, tmp_path: Path) -> None:
    git(root, "clone", "-q", "--shared", ".", str(tmp_path / "clone"))
    with Workspace.open(tmp_path / "clone", tmp_path / "state") as found:
        assert found.read(found.head(), ["train.py"]) == {"train.py": b"lr = 1\n"}


def test_packed_objects_are_found_after_the_users_housekeeping(root: Path, space: Workspace, tmp_path: Path) -> None:
    commit = record(space, 1, {"train.py": b"lr = 2\n"})
    git(root, "gc", "-q", "--prune=now")
    space.export(commit, {}, tmp_path / "out")
    assert (tmp_path / "out" / "train.py").read_bytes() == b"lr = 2\n"


# ---- branches ---------------------------------------------------------------------------------------------------------


def test_a_branch_is_made_and_moved(space: Workspace) -> None:
    head, commit = space.head(), record(space, 1, {"train.py": b"2"})
    space.create_branch("autoresearch/t", head)
    space.move_branch("autoresearch/t", commit, head)
    assert space.tip("refs/heads/autoresearch/t") == commit


def test_a_branch_that_exists_is_refused(space: Workspace) -> None:
    space.create_branch("autoresearch/t", space.head())
    assert code(lambda: space.create_branch("autoresearch/t", space.head())) == "E-BRANCH-EXISTS"


def test_a_name_that_git_does_not_allow_is_refused(space: Workspace) -> None:
    assert code(lambda: space.create_branch("two words", space.head())) == "E-BRANCH-NAME"


def test_moving_a_branch_again_changes_nothing(space: Workspace) -> None:
    head, commit = space.head(), record(space, 1, {"train.py": b"2"})
    space.create_branch("t", head)
    space.move_branch("t", commit, head)
    space.move_branch("t", commit, head)
    assert space.tip("refs/heads/t") == commit


def test_a_branch_that_somebody_else_moved_is_not_overwritten(root: Path, space: Workspace) -> None:
    head = space.head()
    space.create_branch("t", head)
    theirs = record(space, 1, {"train.py": b"2"})
    git(root, "update-ref", "refs/heads/t", theirs)
    found = code(lambda: space.move_branch("t", record(space, 2, {"train.py": b"3"}), head))
    assert (found, space.tip("refs/heads/t")) == ("E-GIT-REF", theirs)


def test_a_branch_that_is_an_alias_never_moves_the_users_branch(root: Path, space: Workspace) -> None:
    head = space.head()
    git(root, "symbolic-ref", "refs/heads/t", "refs/heads/main")
    space.move_branch("t", record(space, 1, {"train.py": b"2"}), head)
    assert git(root, "rev-parse", "main") == head


def test_there_is_no_tip_of_a_ref_that_does_not_exist(space: Workspace) -> None:
    assert (space.tip("refs/heads/none"), space.branch_exists("none"), space.branch_exists("main")) == (None, False, True)


def test_refs_below_a_prefix_are_listed(space: Workspace) -> None:
    made = {f"refs/overnight/t/{number}": record(space, number, {"train.py": b"%d" % number}) for number in (1, 2)}
    assert space.refs("refs/overnight/t/") == made


# ---- the user's checkout and whatever is planted in it ----------------------------------------------------------------


def test_a_dirty_checkout_stays_exactly_as_it_is(root: Path, tmp_path: Path) -> None:
    (root / "prepare.py").write_text("stashed")
    git(root, "stash", "-q")
    (root / "train.py").write_text("half an edit")
    (root / "src" / "model.py").write_text("staged")
    (root / "untracked").write_text("")
    git(root, "add", "src/model.py")
    before = everything(root)
    with Workspace.open(root, tmp_path / "state") as found:
        whole_cycle(found, tmp_path)
    assert everything(root) == before


def test_nothing_planted_in_the_repository_runs(root: Path, tmp_path: Path) -> None:
    (root / ".gitattributes").write_text("* filter=x diff=x merge=x\n")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "attributes")
    plant(root, tmp_path / "canary")
    with Workspace.open(root, tmp_path / "state") as found:
        whole_cycle(found, tmp_path)
    assert [path.name for path in tmp_path.glob("canary*")] == []


def test_the_planted_programs_do_run_for_a_careless_git(root: Path, tmp_path: Path) -> None:
    plant(root, tmp_path / "canary")
    git(root, "update-ref", "refs/heads/t", "HEAD")
    with contextlib.suppress(subprocess.CalledProcessError):  # the planted filter is none
        git(root, "hash-object", "--path=train.py", "train.py")
    assert {path.name for path in tmp_path.glob("canary*")} >= {"canary-reference-transaction", "canary-process"}


def test_replaced_objects_are_not_believed(root: Path, space: Workspace) -> None:
    old = git(root, "rev-parse", "HEAD:train.py")
    (root / "other").write_text("replaced")
    git(root, "replace", old, git(root, "hash-object", "-w", "other"))
    assert space.read(space.head(), ["train.py"]) == {"train.py": b"lr = 1\n"}


def test_variables_of_the_users_shell_do_not_reach_git(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_WORK_TREE", "GIT_EXTERNAL_DIFF", "GIT_TRACE"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    with Workspace.open(root, tmp_path / "state") as found:
        whole_cycle(found, tmp_path)
    assert (tmp_path / "nowhere").exists() is False


def test_our_own_git_directory_is_mended_when_it_is_opened(root: Path, tmp_path: Path) -> None:
    Workspace.open(root, tmp_path / "state").close()
    (tmp_path / "state" / "git" / "config").write_text("[core\n")
    (tmp_path / "state" / "git" / "HEAD").unlink()
    (tmp_path / "state" / "git" / "index.lock").write_text("")
    with Workspace.open(root, tmp_path / "state") as found:
        whole_cycle(found, tmp_path)
        assert found.branch_exists("autoresearch/t") is True
