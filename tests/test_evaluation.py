"""The number that counts: measured by the trusted evaluator, with data that neither run nor proposer ever sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import warm
from overnight import exam
from overnight.evaluation import take
from overnight.sandbox import find
from overnight.testing import repository

needs_bubblewrap = pytest.mark.skipif(find() is None, reason="there is no bubblewrap")

_TRAIN = """\
import json
X = 0.5
json.dump({"x": X}, open("model.json", "w"))
print("@acc=0.99")
"""
_EVALUATE = """\
import json, sys
print(f"@acc={1 - abs(json.load(open(sys.argv[1]))['x'] - float(open(sys.argv[2]).read())):.4f}")
"""
_EXAMINE = """\
import json, sys
label = float(open(sys.argv[1]).read())
print(json.dumps({"id": 0, "input": 1}), flush=True)
answer = json.loads(sys.stdin.readline())["output"]
print(f"@acc={1 - abs(answer - label):.4f}", file=sys.stderr)
"""
_PREDICT = """\
import json, pathlib, sys
print("@acc=5", file=sys.stderr)
here = pathlib.Path.cwd()
seen = [place for above in (here, *here.parents[:6]) for place in above.glob("**/label.txt")]
model = json.load(open(sys.argv[1]))
for line in sys.stdin:
    print(json.dumps({"id": 0, "output": 100 if seen else model["x"]}), flush=True)
"""
_FILES = {"train.py": _TRAIN, "evaluate.py": _EVALUATE, "examine.py": _EXAMINE, "predict.py": _PREDICT, "label.txt": "0.7"}
_PYTHON = f"{sys.executable} -I -S"
_EVALUATED = ("--evaluate", f"{_PYTHON} evaluate.py {{artifact}} {{holdout}}", "--artifact", "model.json", "--holdout", "label.txt")
_BLIND = (
    "--evaluate", f"{_PYTHON} examine.py {{holdout}}", "--predict", f"{_PYTHON} predict.py {{artifact}}",
    "--artifact", "model.json", "--holdout", "label.txt",
)  # fmt: skip


def _overnight(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(folder.parent)}
    return warm.run(words, folder, env, 120)


def _rows(folder: Path, edit: str, *words: str, train: str = _TRAIN) -> list[dict[str, Any]]:
    """The rows of a study with one proposal, which ``edit`` makes."""
    repository(folder, {**_FILES, "train.py": train})
    given = ("--budget", "1", "--metric", "acc", "--proposer-command", edit)
    done = _overnight(folder, "run", *given, *words, "--", *_PYTHON.split(), "train.py")
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(_overnight(folder, "ls", "--json").stdout)
    return found


def _told(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["value"], row["trust"], row["decision"]) for row in rows]


@needs_bubblewrap
def test_the_evaluators_number_alone_counts_whatever_the_run_says_of_itself(tmp_path: Path) -> None:
    rows = _rows(tmp_path / "r", "sed -i 's/^X = .*/X = 0.6/' train.py; echo better", *_EVALUATED)
    assert _told(rows) == [(0.8, "evaluated", "keep"), (0.9, "evaluated", "keep")]


@needs_bubblewrap
def test_what_the_run_says_of_itself_is_shown_as_its_claim_beside_a_measured_value(tmp_path: Path) -> None:
    _rows(tmp_path / "r", "sed -i 's/^X = .*/X = 0.6/' train.py; echo better", *_EVALUATED)
    shown = dict(line.strip().partition(" ")[::2] for line in _overnight(tmp_path / "r", "show", "2").stdout.splitlines())
    assert (shown["result"].split()[0], shown["claimed"].strip(), "metrics" in shown) == (
        "0.9", "acc 0.99 (printed by the run; none of it counts)", False,
    )  # fmt: skip


@needs_bubblewrap
def test_a_tracked_holdout_is_in_no_run_and_in_no_copy(tmp_path: Path) -> None:
    look = "import os, json\njson.dump({'x': 100.0 if os.path.exists('label.txt') else 0.5}, open('model.json', 'w'))\n"
    agent = "test -e label.txt && echo 'X = 1' > train.py; sed -i 's/0.5/0.6/' train.py; echo looked"
    rows = _rows(tmp_path / "r", agent, *_EVALUATED, train=look)
    assert _told(rows) == [(0.8, "evaluated", "keep"), (0.9, "evaluated", "keep")]


@needs_bubblewrap
def test_a_run_that_leaves_no_artefact_is_a_crash(tmp_path: Path) -> None:
    rows = _rows(tmp_path / "r", "echo 'print(\"@acc=1\")' > train.py; echo nothing left", *_EVALUATED)
    assert (rows[1]["decision"], rows[1]["cause"]) == ("crash", "evaluation: the run left no artefact model.json")


@needs_bubblewrap
def test_an_evaluator_that_fails_on_the_baseline_is_shown_in_its_own_words(tmp_path: Path) -> None:
    folder = repository(tmp_path / "r", _FILES)
    words = ("--evaluate", "echo no scales here >&2; exit 2", "--artifact", "model.json", "--metric", "acc", "--budget", "1")
    done = _overnight(folder, "run", *words, "--", sys.executable, "-I", "-S", "train.py")
    assert (done.returncode, 'last line: "no scales here"' in done.stderr) == (1, True), done


@needs_bubblewrap
def test_an_evaluator_that_fails_does_not_quote_the_holdout_to_the_proposer(tmp_path: Path) -> None:
    quoting = "import json, sys\nprint('@acc=1' if 'x' in json.load(open(sys.argv[1])) else {}[open(sys.argv[2]).read()])\n"
    folder = repository(tmp_path / "r", {**_FILES, "evaluate.py": quoting})
    words = (*_EVALUATED, "--metric", "acc", "--tag", "t", "--budget", "1", "--proposer-command", "sed -i s/.x.:/1:/ train.py")
    done = _overnight(folder, "run", *words, "--", *_PYTHON.split(), "train.py")
    cause = json.loads(_overnight(folder, "show", "last", "--json").stdout)["cause"]
    assert cause == "evaluation: KeyError (its words stay in jobs/t-2.1.eval/output.log)", done


@needs_bubblewrap
def test_a_blind_predictor_sees_no_label_and_its_own_claims_are_not_read(tmp_path: Path) -> None:
    rows = _rows(tmp_path / "r", "sed -i 's/^X = .*/X = 0.6/' train.py; echo better", *_BLIND)
    assert _told(rows) == [(0.8, "blind", "keep"), (0.9, "blind", "keep")]


def test_without_walls_nothing_is_called_blind(tmp_path: Path) -> None:
    rows = _rows(tmp_path / "r", "sed -i 's/^X = .*/X = 0.6/' train.py; echo x", *_BLIND, "--unsafe-no-sandbox")
    assert {(row["trust"], row["sandbox"]) for row in rows} == {("evaluated", "none")}


@pytest.mark.parametrize(
    "words",
    [
        ("--predict", "python predict.py"),
        ("--evaluate", "python evaluate.py"),
        ("--holdout", "label.txt"),
        (*_EVALUATED, "--editable", "label.txt"),
    ],
)
def test_an_evaluation_that_cannot_be_trusted_is_refused_before_anything_runs(tmp_path: Path, words: tuple[str, ...]) -> None:
    folder = repository(tmp_path / "r", _FILES)
    done = _overnight(folder, "run", "--metric", "acc", "--budget", "0", *words, "--", *_PYTHON.split(), "train.py")
    assert (done.returncode, done.stderr.split(":")[0]) == (2, "error[E-EVALUATE]")


def _linked(folder: Path) -> None:
    (folder / "secret").write_text("secret")
    (folder / "model.json").symlink_to("secret")


def _twice(folder: Path) -> None:
    (folder / "other").write_text("x")
    os.link(folder / "other", folder / "model.json")


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (_linked, "the artefact model.json cannot be read: Too many levels of symbolic links"),
        (_twice, "the artefact model.json is not a plain file"),
        (lambda folder: os.mkfifo(folder / "model.json"), "the artefact model.json is not a plain file"),
        (lambda folder: (folder / "model.json").mkdir(), "the artefact model.json is not a plain file"),
        (lambda _: None, "the run left no artefact model.json"),
    ],
)
def test_an_artefact_that_is_no_plain_file_is_not_taken(tmp_path: Path, made: Any, problem: str) -> None:
    made(tmp_path)
    assert (take(tmp_path, "model.json", tmp_path / "taken"), (tmp_path / "taken").exists()) == (problem, False)


def test_an_artefact_outside_the_runs_folder_is_not_taken(tmp_path: Path) -> None:
    assert take(tmp_path, "../secret", tmp_path / "taken") == "the artefact '../secret' does not lie in the run's folder"


@needs_bubblewrap
def test_the_library_speaks_for_both_sides_and_a_predictor_that_ends_is_no_score(tmp_path: Path) -> None:
    place = "import sys; sys.path.insert(0, '.'); "
    files = {
        "exam.py": Path(exam.__file__).read_text(encoding="utf-8"),
        "examine.py": place + "from exam import ask, report\nreport(acc=sum(ask([n, 'x']) == n + 0.5 for n in range(50)) / 50)\n",
        "predict.py": place + "import json; from exam import answer\nx = json.load(open(sys.argv[1]))['x']\n"
        "answer(lambda asked: sys.exit() if x > 0.6 else asked[0] + x)\n",
    }
    repository(tmp_path / "study", {**_FILES, **files})
    words = (
        "--budget",
        "1",
        "--metric",
        "acc",
        "--proposer-command",
        "sed -i s/0.5/0.7/ train.py",
        "--repairs",
        "0",
        "--baseline-runs",
        "1",
    )
    done = _overnight(tmp_path / "study", "run", *words, *_BLIND, "--", *_PYTHON.split(), "train.py")
    rows = json.loads(_overnight(tmp_path / "study", "ls", "--json").stdout)
    assert _told(rows) == [(1.0, "blind", "keep"), (None, "blind", "crash")], done.stdout + done.stderr


def test_who_says_a_number_and_what_stood_around_its_run_is_in_every_list_and_summary(tmp_path: Path) -> None:
    _rows(tmp_path / "r", "sed -i 's/^X = .*/X = 0.6/; s/0.99/0.995/' train.py; echo better", "--unsafe-no-sandbox")
    listed = _overnight(tmp_path / "r", "ls").stdout.splitlines()[1:]
    best = next(line for line in _overnight(tmp_path / "r", "status").stdout.splitlines() if line.startswith("BEST"))
    assert ([(" self " in line, "[no sandbox]" in line) for line in listed], best.endswith("self-reported  no sandbox")) == (
        [(True, True)] * 2, True,
    )  # fmt: skip
