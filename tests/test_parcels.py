"""Code travels: a folder as it is becomes a commit, a bundle and the same folder elsewhere; what arrives is not trusted."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overnight.errors import OvernightError, UsageError
from overnight.workspace import Parcels, parcels
from overnight.workspace.trees import GitObject, object_id


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder with code."""
    folder = tmp_path / "code"
    (folder / "lib").mkdir(parents=True)
    (folder / "train.py").write_text("print('@loss=0.5')\n" * 400)
    (folder / "lib" / "model.py").write_bytes(b"crlf\r\n$Id$\r\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "latest").symlink_to("lib/model.py")
    return folder


def git(folder: Path, *words: str, stdin: bytes = b"") -> bytes:
    who = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }
    return subprocess.run(["git", *words], cwd=folder, input=stdin, env={**os.environ, **who}, check=True, capture_output=True).stdout


def content(folder: Path) -> dict[str, object]:
    """All that lies in a folder: bytes, link targets and whether it may be run."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = os.readlink(path)
        elif path.is_file():
            found[str(path.relative_to(folder))] = (path.read_bytes(), os.access(path, os.X_OK))
    return found


def test_a_folder_arrives_elsewhere_byte_by_byte(tmp_path: Path, code: Path) -> None:
    here, there = Parcels(tmp_path / "here"), Parcels(tmp_path / "there")
    packed = here.pack(code)
    there.take(here.bundle(packed.commit), packed.commit)
    there.export(packed.commit, tmp_path / "laid")
    assert content(tmp_path / "laid") == content(code)


def test_the_same_bytes_make_the_same_commit_wherever_they_lie(tmp_path: Path, code: Path) -> None:
    subprocess.run(["cp", "-a", code, tmp_path / "copy"], check=True)
    assert Parcels(tmp_path / "here").pack(code) == Parcels(tmp_path / "there").pack(tmp_path / "copy")


def test_a_small_change_travels_as_a_small_difference(tmp_path: Path, code: Path) -> None:
    (code / "noise").write_bytes(b"".join(hashlib.sha256(bytes([number % 256, number // 256])).digest() for number in range(4000)))
    here, there = Parcels(tmp_path / "here"), Parcels(tmp_path / "there")
    first = here.pack(code).commit
    there.take(here.bundle(first), first)
    with (code / "noise").open("r+b") as file:
        file.seek(60_000)
        file.write(b"changed")
    second = here.pack(code).commit
    small = here.bundle(second, there.commits())
    there.take(small, second)
    there.export(second, tmp_path / "laid")
    assert (len(small) < 1000, content(tmp_path / "laid")) == (True, content(code))


def test_a_bundle_of_what_the_other_side_has_already_is_empty_and_right(tmp_path: Path, code: Path) -> None:
    here, there = Parcels(tmp_path / "here"), Parcels(tmp_path / "there")
    first = here.pack(code).commit
    there.take(here.bundle(first), first)
    (code / "run.sh").rename(code / "start.sh")
    second = here.pack(code).commit
    there.take(here.bundle(second, [first, "f" * 40]), second)
    assert there.commits(1) == (second,)


def test_of_a_checkout_travels_what_is_not_ignored_as_it_is_now(tmp_path: Path, code: Path) -> None:
    git(code, "init", "-q")
    (code / ".gitignore").write_text("data/\n*.pt\n")
    git(code, "add", "-A")
    git(code, "commit", "-qm", "x")
    (code / "data").mkdir()
    (code / "data" / "big").write_text("no")
    (code / "train.py").write_text("changed\n")
    (code / "new.py").write_text("new\n")
    (code / "lib" / "model.py").unlink()
    (code / "latest").unlink()
    here = Parcels(tmp_path / "here")
    here.export(here.pack(code).commit, tmp_path / "laid")
    assert sorted(content(tmp_path / "laid")) == [".gitignore", "new.py", "run.sh", "train.py"]


def test_a_folder_inside_a_checkout_travels_with_all_of_it(tmp_path: Path, code: Path) -> None:
    git(code, "init", "-q")
    packed = Parcels(tmp_path / "here").pack(code / "lib")
    assert (packed.folder, packed.files) == ("lib", 4)


def test_an_ignored_folder_is_packed_alone(tmp_path: Path, code: Path) -> None:
    git(code, "init", "-q")
    (code / ".gitignore").write_text("out/\n")
    (code / "out").mkdir()
    (code / "out" / "train.py").write_text("x")
    packed = Parcels(tmp_path / "here").pack(code / "out")
    assert (packed.folder, packed.files) == ("", 1)


def test_a_submodule_travels_with_its_files(tmp_path: Path, code: Path) -> None:
    (code / "sub").mkdir()
    (code / "sub" / "a.py").write_text("a")
    for folder in (code / "sub", code):
        git(folder, "init", "-q")
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", "x")
    here = Parcels(tmp_path / "here")
    here.export(here.pack(code).commit, tmp_path / "laid")
    assert (tmp_path / "laid" / "sub" / "a.py").read_text() == "a"


def test_nothing_that_a_repository_plants_runs_or_changes_a_byte(tmp_path: Path, code: Path) -> None:
    git(code, "init", "-q")
    (code / ".gitattributes").write_text("* text=auto eol=crlf ident filter=evil\n")
    for key in ("core.fsmonitor", "filter.evil.clean", "filter.evil.smudge", "core.hooksPath"):
        git(code, "config", key, f"sh -c 'touch {tmp_path}/ran; cat'")
    here = Parcels(tmp_path / "here")
    here.export(here.pack(code).commit, tmp_path / "laid")
    seen = {name: found for name, found in content(code).items() if not name.startswith(".git/")}
    assert (content(tmp_path / "laid"), (tmp_path / "ran").exists()) == (seen, False)


def test_links_that_lead_out_are_told_and_not_followed(tmp_path: Path, code: Path) -> None:
    (code / "data").symlink_to("/data/imagenet")
    packed = Parcels(tmp_path / "here").pack(code)
    assert (dict(packed.links), packed.files) == ({"data": "/data/imagenet"}, 4)


def test_too_much_code_is_refused_with_the_biggest_file_named(tmp_path: Path, code: Path) -> None:
    with (code / "weights.bin").open("wb") as file:
        file.truncate(parcels.MOST_BYTES + 1)
    with pytest.raises(UsageError) as error:
        Parcels(tmp_path / "here").pack(code)
    assert (error.value.code, "weights.bin" in str(error.value.why)) == ("E-CODE-TOO-LARGE", True)


def test_code_that_is_not_used_any_more_can_be_dropped(tmp_path: Path, code: Path) -> None:
    here = Parcels(tmp_path / "here")
    old = here.pack(code).commit
    (code / "train.py").write_text("new")
    new = here.pack(code).commit
    dropped = here.forget(float("inf"), [new])
    here.export(new, tmp_path / "laid")
    assert (dropped, here.has(old), content(tmp_path / "laid")) == (1, False, content(code))


# --- what arrives is hostile -------------------------------------------------------------------------------------------


def bundle_of(folder: Path, tree: bytes, *blobs: bytes, note: bytes = b"") -> tuple[bytes, str]:
    """A bundle with such a tree, made by git itself from objects that nobody has checked."""
    folder.mkdir()
    git(folder, "init", "-q", "--bare")
    for blob in blobs:
        git(folder, "hash-object", "-w", "--stdin", stdin=blob)
    top = git(folder, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=tree).decode().strip()
    text = parcels._COMMIT % top.encode() + note
    commit = git(folder, "hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=text).decode().strip()
    pack = git(folder, "pack-objects", "--stdout", "--revs", "-q", stdin=f"{commit}\n".encode())
    return b"# v2 git bundle\n%s refs/heads/code\n\n" % commit.encode() + pack, commit


def row(mode: str, name: str, data: bytes) -> bytes:
    return b"%s %s\0%s" % (mode.encode(), name.encode(), bytes.fromhex(object_id("blob", data, "sha1")))


HOSTILE: dict[str, Callable[[Path], tuple[bytes, str]]] = {
    "a file outside": lambda at: bundle_of(at, row("100644", "../evil", b"x"), b"x"),
    "a folder named ..": lambda at: bundle_of(at, row("100644", "..", b"x"), b"x"),
    "a file .git": lambda at: bundle_of(at, row("100644", ".git", b"x"), b"x"),
    "a file .GIT": lambda at: bundle_of(at, row("100644", ".GIT", b"x"), b"x"),
    "an absolute link": lambda at: bundle_of(at, row("120000", "out", b"/etc/passwd"), b"/etc/passwd"),
    "a link out of it": lambda at: bundle_of(at, row("120000", "out", b"a/../../x"), b"a/../../x"),
    "a submodule": lambda at: bundle_of(at, row("160000", "sub", b"x"), b"x"),
    "a device": lambda at: bundle_of(at, row("060000", "dev", b"x"), b"x"),
    "a line in a name": lambda at: bundle_of(at, row("100644", "a\nb", b"x"), b"x"),
    "the same name twice": lambda at: bundle_of(at, row("100644", "a", b"x") * 2, b"x"),
    "rows out of order": lambda at: bundle_of(at, row("100644", "b", b"x") + row("100644", "a", b"x"), b"x"),
    "a commit that is none": lambda at: bundle_of(at, row("100644", "a", b"x"), b"x", note=b"\0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_bundle_is_refused_and_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    bundle, commit = HOSTILE[name](tmp_path / "evil")
    there = Parcels(tmp_path / "there")
    before = sorted(str(path) for path in (tmp_path / "there" / "objects").rglob("*") if path.is_file())
    with pytest.raises(OvernightError) as error:
        there.take(bundle, commit)
    after = sorted(str(path) for path in (tmp_path / "there" / "objects").rglob("*") if path.is_file())
    assert (error.value.code, after, list((tmp_path / "there" / "tmp").iterdir()), there.has(commit)) == ("E-BAD-BUNDLE", before, [], False)


def test_a_bundle_that_leaves_an_object_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    git(tmp_path / "evil", "init", "-q", "--bare")
    tree = GitObject("tree", row("100644", "a", b"never sent"))
    commit = GitObject("commit", parcels._COMMIT % tree.name("sha1").encode())
    for found in (tree, commit):
        git(tmp_path / "evil", "hash-object", "-t", found.kind, "-w", "--literally", "--stdin", stdin=found.data)
    names = f"{tree.name('sha1')}\n{commit.name('sha1')}\n".encode()
    pack = git(tmp_path / "evil", "pack-objects", "--stdout", "-q", stdin=names)
    head = b"# v2 git bundle\n%s refs/heads/code\n\n" % commit.name("sha1").encode()
    with pytest.raises(UsageError) as error:
        Parcels(tmp_path / "there").take(head + pack, commit.name("sha1"))
    assert error.value.code == "E-BAD-BUNDLE"


def test_a_bundle_of_something_else_is_refused(tmp_path: Path, code: Path) -> None:
    here, there = Parcels(tmp_path / "here"), Parcels(tmp_path / "there")
    with pytest.raises(UsageError) as error:
        there.take(here.bundle(here.pack(code).commit), "a" * 40)
    assert error.value.code == "E-BAD-BUNDLE"


def test_a_difference_to_code_that_is_not_here_says_what_to_ask_for(tmp_path: Path, code: Path) -> None:
    here, there = Parcels(tmp_path / "here"), Parcels(tmp_path / "there")
    first = here.pack(code).commit
    (code / "train.py").write_text("x")
    second = here.pack(code).commit
    with pytest.raises(UsageError) as error:
        there.take(here.bundle(second, [first]), second)
    assert error.value.fix == "ask for all of it, not for a difference"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_a_bundle_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "code").mkdir()
    (folder / "code" / "a.py").write_text("a = 1\n" * 50)
    here, there = Parcels(folder / "here"), Parcels(folder / "there")
    commit = here.pack(folder / "code").commit
    bundle = bytearray(here.bundle(commit))
    for at in data.draw(st.lists(st.integers(0, len(bundle) - 1), min_size=1, max_size=4)):
        bundle[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(bundle)))
    try:
        there.take(bytes(bundle[:cut] if data.draw(st.booleans()) else bundle), commit)
    except OvernightError as error:
        found: object = (error.code, there.has(commit))
    else:
        there.export(commit, folder / "laid")
        found = content(folder / "laid")
    assert found in (("E-BAD-BUNDLE", False), content(folder / "code"))


def test_a_folder_that_is_packed_whole_is_all_that_lies_in_it_and_nothing_of_the_checkout_around(tmp_path: Path, code: Path) -> None:
    git(code, "init", "-q")
    export = code / "runs" / "t-1.1"
    (export / "venv").mkdir(parents=True)
    (export / "venv" / "kept.pyc").write_bytes(b"tracked")
    with contextlib.closing(Parcels(tmp_path / "here")) as here:
        found = here.pack(export, whole=True)
        assert (sorted(here.files(found.commit)), found.folder) == (["venv/kept.pyc"], "")
