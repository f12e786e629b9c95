"""Whatever is wrong, the person gets one clear error, nothing is lost, and the same command works once the cause is mended."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from overnight.app import read
from overnight.app.place import Place, held, make
from overnight.errors import NotFoundError
from overnight.testing import git, repository
from terminal import BASELINE, COMMAND, PYTHON, SHELL, TRAIN, environment, project, typed


def _nothing(_root: Path) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Case:
    """A way to go wrong: what is broken, what is typed, what is answered, and what mends it."""

    harm: Callable[[Path], object]
    mend: Callable[[Path], object]
    code: str
    exit: int = 2
    words: tuple[str, ...] = ()
    command: tuple[str, ...] = tuple(COMMAND)
    says: str = ""


def _commit(root: Path, files: dict[str, str | bytes] | None = None) -> None:
    for name, content in (files or {}).items():
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", "more")


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


def _with(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda root: _commit(root, {name: content})


def _then(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    """The steps, one after the other."""

    def do(root: Path) -> None:
        for step in steps:
            step(root)

    return do


def _git(*words: str) -> Callable[[Path], object]:
    return lambda root: git(root, *words)


def _submodule(root: Path) -> None:
    git(root, "update-index", "--add", "--cacheinfo", f"160000,{git(root, 'rev-parse', 'HEAD').strip()},vendored")
    git(root, "commit", "-q", "-m", "a submodule")


def _without_submodule(root: Path) -> None:
    git(root, "rm", "-q", "--cached", "vendored")
    _commit(root)


def _link_out(root: Path) -> None:
    (root / "data").symlink_to("/etc")
    _commit(root)


def _script(root: Path) -> None:
    (root / "go.sh").write_text(f"#!/bin/sh\nexec {SHELL} train.py\n")
    (root / "go.sh").chmod(0o755)
    _commit(root)


CASES = {
    "no git repository": Case(
        lambda root: shutil.rmtree(root / ".git"), lambda root: repository(root, {}), "E-NO-REPOSITORY", says="fix:   git init && git add"
    ),
    "no commit yet": Case(
        _then(lambda root: shutil.rmtree(root / ".git"), _git("init", "-q", "-b", "main")), _commit, "E-NO-COMMIT", says="branch 'main'"
    ),
    "a detached HEAD": Case(_git("checkout", "-q", "--detach"), _git("checkout", "-q", "main"), "E-DETACHED-HEAD", says="git switch -c"),
    "a submodule": Case(_submodule, _without_submodule, "E-SUBMODULE", says="git rm --cached 'vendored'"),
    "a link that leads out": Case(_link_out, _then(lambda root: (root / "data").unlink(), _commit), "E-ESCAPING-LINK", says="data"),
    "a program that does not exist": Case(_nothing, _script, "E-NO-PROGRAM", command=("./go.sh",), says="no program './go.sh'"),
    "nothing to run": Case(
        _then(_git("rm", "-q", "train.py"), _commit), _with("train.py", TRAIN), "E-NO-COMMAND", command=(),
        says="overnight run -- python train.py",
    ),
    "a blank command": Case(
        _then(_git("mv", "train.py", "other.txt"), _commit), _with("train.py", TRAIN), "E-NO-COMMAND", command=(" ",)
    ),
    "an unknown key": Case(
        _write("overnight.toml", '\nmetrc = "loss"\n'), _write("overnight.toml", 'metric = "loss"\n'), "E-UNKNOWN-SETTING",
        says="overnight.toml:2: unknown setting 'metrc'; did you mean 'metric'?",
    ),
    "a file that is no TOML": Case(
        _write("overnight.toml", "slots = 1\n= 3\n"), _write("overnight.toml", "slots = 1\n"), "E-BAD-TOML", says="overnight.toml:2"
    ),
    "a metric that never appears": Case(
        _nothing, _with("train.py", TRAIN + "print('@accuracy=0.5')\n"), "E-METRIC-MISSING", exit=1, words=("--metric", "accuracy"),
        says="metrics found: loss",
    ),
    "a run that prints its metric in another form": Case(
        _with("train.py", "lr = 1\nprint('Loss = 31%')\n"), _with("train.py", TRAIN), "E-METRIC-MISSING", exit=1, words=("--metric", "loss"),
        says='metrics found: none; not in a form that is read: "Loss = 31%"',
    ),
    "a baseline that crashes": Case(
        _with("train.py", "lr = 0.1\nraise ValueError('too\\x1b[31m red')\n"), _with("train.py", TRAIN), "E-BASELINE", exit=1,
        words=("--metric", "loss"), says='output.log, last line: "ValueError: too red"',
    ),
    "a package of the checkout that a run does not see": Case(
        _then(lambda root: (root / "src" / "own").mkdir(parents=True), _with("train.py", "lr = 0.1\nimport own\n")), _with("train.py", TRAIN),
        "E-BASELINE", exit=1, words=("--metric", "loss"), says="fix:   overnight run -- env PYTHONPATH=src",
    ),
    "a command that fails": Case(
        _nothing, lambda root: _commit(root, {"start.py": TRAIN}), "E-BASELINE", exit=1, words=("--metric", "loss"), command=(*PYTHON, "start.py"),
        says="start.py': [Errno 2]",
    ),
    "a branch that exists": Case(
        _git("branch", "autoresearch/t"), _git("branch", "-D", "autoresearch/t"), "E-BRANCH-EXISTS", says="overnight run --tag tb"
    ),
    "a branch in the way": Case(
        _git("branch", "autoresearch"), _git("branch", "-m", "autoresearch", "mine"), "E-BRANCH-EXISTS", says="--branch-prefix research/"
    ),
    "experiments of an earlier study": Case(
        _git("update-ref", "refs/overnight/t/1", "HEAD"), _git("update-ref", "-d", "refs/overnight/t/1"), "E-BRANCH-EXISTS", says="refs/overnight/t"
    ),
    "settings that are not there": Case(
        _nothing, _write("../study.toml", "slots = 1\n"), "E-NO-CONFIG", exit=3, words=("--config", "../study.toml"), says="../study.toml"
    ),
    "a state folder inside a file": Case(
        _write("../blocker", "x"), lambda root: (root.parent / "blocker").unlink(), "E-READ-ONLY", words=("--state", "../blocker/state"),
        says="--state",
    ),
    "a state folder full of other things": Case(
        _then(lambda root: (root.parent / "full").mkdir(), _write("../full/thesis.tex", "mine")),
        lambda root: (root.parent / "full" / "thesis.tex").rename(root.parent / "thesis.tex"), "E-STATE-FOLDER", words=("--state", "../full"),
        says="holds other files",
    ),
    "data that is missing": Case(
        _nothing, _write("corpus.bin", "1"), "E-NO-DATA", words=("--data", "corpus.bin"), says="add the data set first"
    ),
    "an editable file that git does not know": Case(
        _write("model.py", "depth = 2\n"), _commit, "E-NOT-TRACKED", words=("--editable", "model.py"), says="git add 'model.py'"
    ),
    "a train.py of two megabytes": Case(
        _with("train.py", TRAIN + "#" * 2**21), _with("train.py", TRAIN), "E-TOO-LARGE", says="train.py is larger than 1 MiB"
    ),
    "a train.py that is no text": Case(
        _with("train.py", b"\xff\xfe\x00" * 500), _with("train.py", TRAIN), "E-BASELINE", exit=1, words=("--metric", "loss")
    ),
    "nothing to search": Case(
        _with("train.py", "print('@loss=1')\n"), _with("train.py", TRAIN), "E-NO-CONSTANTS", words=("--budget", "1"), says="no tunable constants"
    ),
    "a folder where the table goes": Case(
        lambda root: (root / "results.tsv").mkdir(), lambda root: (root / "results.tsv").rmdir(), "E-RESULTS", says="results.tsv is a folder"
    ),
}  # fmt: skip


def _own(root: Path) -> dict[str, bytes]:
    """Everything in the checkout and beside it that is the person's own."""
    paths = [
        path
        for path in root.parent.rglob("*")
        if path.is_file() and not {".git", ".overnight", "home"} & set(path.relative_to(root.parent).parts)
    ]
    return {str(path): path.read_bytes() for path in paths}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_said_once_and_the_same_command_works_when_it_is_mended(tmp_path: Path, name: str) -> None:
    case, root = CASES[name], project(tmp_path)
    words = ("run", *BASELINE, *case.words, "--json", *(("--", *case.command) if case.command else ()))
    case.harm(root)
    before = _own(root)
    found = typed(root, *words)
    told = found.json["error"]
    assert (found.refusal, told["code"], _own(root)) == ((case.code, case.exit), case.code, before | _table(root)), found
    assert case.says in found.err
    assert told["message"] in found.err
    case.mend(root)
    again = typed(root, *words)
    assert (again.code, again.json["kept"], again.json["best"]["value"] > 0) == (
        0,
        1 if case.words[:1] != ("--budget",) else again.json["kept"],
        True,
    ), again


def _table(root: Path) -> dict[str, bytes]:
    """The loop's own table, if there is one."""
    path = root / "results.tsv"
    return {str(path): path.read_bytes()} if path.is_file() else {}


USAGE = {
    ("run", "--bugdet", "3"): "did you mean",
    ("run", "--lr", "3"): "options of the experiment's own command follow --",
    ("run", "--budget", "soon"): "fix:   overnight run --budget 50",
    ("run", "--budget", "-5"): "'-5' is no budget",
    ("run", "--budget", "0x10"): "'0x10' is no budget",
    ("run", "--slots", "0"): "one or more",
    ("run", "--direction", "sideways"): "minimize or maximize",
    ("run", "--time-limit", "later"): "fix:   overnight run --time-limit 10m",
    ("run", "--seed", "x"): "--seed: a number is wanted",
    ("run", "--tag", "two words"): "fix:   overnight run --tag two-words",
    ("run", "--tag", "../up"): "cannot be the name of a study",
    ("run", "--tag", "a/b"): "cannot be the name of a study",
    ("run", "--tag", "é"): "letters and digits of ASCII",
    ("run", "--tag=-x"): "cannot be the name of a study",
    ("run", "--tag", "x" * 300): "64 at most",
    ("run", "--branch-prefix", "two words/"): "fix:   overnight run --branch-prefix",
    ("run", "--proposer", "optna"): "did you mean 'optuna'?",
    ("run", "--proposer", "command"): "--proposer-command",
    ("run", "--editable", "../up.py"): "is no pattern for files of the repository",
    ("run", "--editable", "tain.py"): "did you mean 'train.py'?",
    ("run", "--protect", "train.py"): "editable and protected",
    ("run", "--state", "."): "holds other files",
    ("init", "--farce"): "--force",
    ("demo", "--budget", "many"): "'many' is not a whole number",
    ("ls", "--last", "-1"): "--last",
    ("show",): "EXPERIMENT",
    ("shw", "3"): "did you mean 'show'?",
}


@pytest.mark.parametrize("words", USAGE, ids=" ".join)
def test_a_word_that_makes_no_sense_is_refused_before_anything_is_made(tmp_path: Path, words: tuple[str, ...]) -> None:
    root = project(tmp_path)
    refs = git(root, "for-each-ref")
    found = typed(root, *words)
    assert (found.refusal[1], found.code, git(root, "for-each-ref"), git(root, "status", "--porcelain")) == (2, 2, refs, ""), found
    assert USAGE[words].lower() in found.err.lower()
    with pytest.raises(NotFoundError), read.opened(root, None, {}):
        pass


def test_no_git_on_the_path_is_said_by_every_verb_that_needs_it(tmp_path: Path) -> None:
    root, env = project(tmp_path), environment(tmp_path, PATH=str(tmp_path))
    found = [typed(root, *words, env=env) for words in (("run", "--", *COMMAND), ("init",), ("demo", "--folder", "../demo"))]
    assert [said.refusal for said in found] == [("E-NO-GIT", 2)] * 3
    assert sorted(path.name for path in root.parent.iterdir()) == ["home", "project"]


def test_a_second_loop_is_told_who_holds_the_study(tmp_path: Path) -> None:
    root = project(tmp_path)
    place = Place(root / ".overnight")
    make(place)
    with held(place):
        found = [typed(root, verb, *BASELINE, "--", *COMMAND) for verb in ("run", "start")]
    assert [said.refusal for said in found] == [("E-BUSY", 1)] * 2
    assert all(f"pid {os.getpid()} on " in said.err for said in found)
    assert typed(root, "run", *BASELINE, "--", *COMMAND).code == 0


def test_what_stops_a_loop_in_the_background_is_said_as_in_the_foreground(tmp_path: Path) -> None:
    root = project(tmp_path)
    words = (*BASELINE, "--metric", "accuracy", "--json", "--", *COMMAND)
    (root / "overnight.toml").write_text("slts = 2\n")
    found, other = typed(root, "start", *words), typed(root, "run", *words)
    assert (found.refusal, found.err, found.json) == (other.refusal, other.err, other.json)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_ends_the_loop_with_one_error_and_room_lets_it_go_on(tmp_path: Path, small_disk: Path) -> None:
    root, env = project(small_disk), environment(tmp_path)
    words = ("run", "--budget", "2", "--tag", "t", "--", *COMMAND)
    with (small_disk / "ballast").open("wb") as file:
        while (free := shutil.disk_usage(small_disk).free) > 200_000:
            file.write(b"x" * (free - 190_000))
            file.flush()
    full = typed(root, *words, env=env)
    assert (full.refusal[1], full.code) == (1, 1)
    assert "full" in full.err or "No space left" in full.err
    subprocess.run(["mount", "-o", "remount,size=32M", str(small_disk)], check=True)
    again = typed(root, *words, env=env)
    rows = typed(root, "ls", "--json", env=env).json
    assert (again.code, [row["number"] for row in rows], all(row["decision"] for row in rows)) == (0, [1, 2, 3], True), again


def _may_not_write() -> tuple[str, ...]:
    """What is put in front of a command so that the permissions of files count for it, also for root."""
    if os.geteuid() != 0:
        return ()
    words = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
    if shutil.which("setpriv") is None or subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("root may write everywhere, and there is no setpriv to give that up")
    return words


@pytest.mark.parametrize("words", [("run", *BASELINE), ("init",)], ids=["run", "init"])
def test_a_read_only_folder_is_refused_and_works_once_it_may_be_written(tmp_path: Path, words: tuple[str, ...]) -> None:
    root, env, weak = project(tmp_path), environment(tmp_path), _may_not_write()
    root.chmod(0o555)
    found = typed(root, *words, env=env, before=weak)
    root.chmod(0o755)
    assert (found.refusal, sorted(path.name for path in root.iterdir())) == (("E-READ-ONLY", 2), [".git", "train.py"]), found
    assert typed(root, *words, env=env, before=weak).code == 0


def test_a_repository_that_may_not_be_written_is_refused_also_with_the_state_elsewhere(tmp_path: Path) -> None:
    root, env, weak = project(tmp_path), environment(tmp_path), _may_not_write()
    words = ("run", *BASELINE, "--state", "../state", "--", *COMMAND)
    for folder in (root / ".git", *(root / ".git").rglob("*")):
        folder.chmod(folder.stat().st_mode & 0o555)
    found = typed(root, *words, env=env, before=weak)
    for folder in (root / ".git", *(root / ".git").rglob("*")):
        folder.chmod(folder.stat().st_mode | 0o200)
    assert found.refusal == ("E-READ-ONLY", 2)
    assert typed(root, *words, env=env, before=weak).code == 0


def test_a_table_that_somebody_else_wrote_is_kept(tmp_path: Path) -> None:
    root = project(tmp_path)
    (root / "results.tsv").write_text("commit\tmetric\nabc\t1\n")
    assert typed(root, "run", *BASELINE, "--", *COMMAND).code == 0
    assert [path.read_text() for path in (root / ".overnight").glob("results-before-*.tsv")] == ["commit\tmetric\nabc\t1\n"]


def test_init_in_a_repository_without_a_commit_leaves_nothing_that_git_would_add(tmp_path: Path) -> None:
    root = project(tmp_path)
    shutil.rmtree(root / ".git")
    git(root, "init", "-q", "-b", "main")
    found = typed(root, "init")
    git(root, "add", "-A")
    assert (found.refusal, git(root, "ls-files")) == (("E-NO-COMMIT", 2), "train.py\n")


def test_a_demo_that_is_refused_leaves_its_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine").write_text("x")
    (tmp_path / "here").mkdir()
    found = typed(tmp_path / "here", "demo", "--folder", "../demo", "--json")
    assert (found.refusal, found.json["error"]["code"], os.listdir(tmp_path / "demo")) == (("E-EXISTS", 2), "E-EXISTS", ["mine"])
