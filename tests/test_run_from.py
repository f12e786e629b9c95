"""``overnight run --from``: a study that starts from a branch or a commit, not from where the checkout is."""

from __future__ import annotations

from pathlib import Path

import pytest

import studies
from overnight.testing import git
from studies import ended  # noqa: F401 - a fixture that every test gets


def branched(folder: Path) -> studies.Study:
    """A study of a repository with a branch on which the loss is another one."""
    made = studies.study(folder)
    git(made.root, "worktree", "add", "-q", "-b", "work/other", str(folder / "other"))
    (folder / "other" / "train.py").write_text("print('@loss=0.7')\n")
    git(folder / "other", "commit", "-q", "-a", "-m", "other")
    return made


@pytest.mark.parametrize("name", ["work/other", "work/other~0", "refs/heads/work/other"])
def test_a_study_starts_from_the_commit_that_is_named(tmp_path: Path, name: str) -> None:
    made = branched(tmp_path)
    done = made.call("run", "--budget", "0", "--from", name)
    assert (done.code, made.rows()[0]["value"], "uncommitted" in done.out, made.checkout()) == (0, 0.7, False, made.before)


def test_it_goes_on_from_there_without_being_told_again(tmp_path: Path) -> None:
    made = branched(tmp_path)
    made.call("run", "--budget", "0", "--from", "work/other")
    done = made.call("run", "--budget", "1")
    base = git(made.root, "merge-base", "autoresearch/t", "work/other").strip()
    assert (done.code, len(made.rows()), base) == (0, 2, git(made.root, "rev-parse", "work/other").strip())


def test_a_checkout_with_other_ends_of_lines_is_not_called_changed(tmp_path: Path) -> None:
    made = studies.study(tmp_path)
    git(made.root, "config", "core.autocrlf", "true")
    (made.root / "train.py").write_bytes((made.root / "train.py").read_bytes().replace(b"\n", b"\r\n"))
    done = made.call("run", "--budget", "0")
    assert (done.code, "uncommitted" in done.out + done.err) == (0, False)


def test_a_study_that_has_begun_elsewhere_is_another_one(tmp_path: Path) -> None:
    made = branched(tmp_path)
    made.call("run", "--budget", "0")
    done = made.call("run", "--budget", "0", "--from", "work/other")
    assert (done.code, "error[E-OTHER-STUDY]" in done.err) == (2, True)


@pytest.mark.parametrize("name", ["nowhere", "--help", "HEAD:train.py", "a..b"])
def test_what_is_no_commit_is_refused(tmp_path: Path, name: str) -> None:
    done = studies.study(tmp_path).call("run", f"--from={name}")
    assert (done.code, f"error[E-NO-COMMIT]: '{name}' is no branch and no commit" in done.err) == (3, True)


def test_a_detached_head_does_not_matter_then(tmp_path: Path) -> None:
    made = branched(tmp_path)
    git(made.root, "checkout", "-q", "--detach")
    assert made.call("run", "--budget", "0", "--from", "work/other").code == 0
