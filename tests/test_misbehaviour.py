"""Studies whose experiments or whose agent misbehave: one night each, with real processes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from studies import Study, ended, study  # noqa: F401 - ended is used by every test

LIMIT = ("--time-limit", "1.5")  # of a run that is to reach it


def experiment(source: str, said: str = "the idea") -> str:
    """An agent's step that leaves this train.py."""
    return f"cat > train.py <<'END'\n{source}\nEND\necho '{said}'\n"


def outcome(found: Study, number: int = 2) -> tuple[Any, ...]:
    """Decision, cause and value of an experiment, its row in results.tsv, and whether the next one worked."""
    rows = found.rows()
    row, after = rows[number - 1], rows[number]
    return (row["decision"], row["cause"], row["value"], found.table()[number - 1][1:], after["decision"], found.faults(rows))


def crash(cause: str) -> tuple[Any, ...]:
    return ("crash", cause, None, ["0.000000", "0.0", "crash", "the idea"], "keep", [])


def keep(value: float, said: str = "the idea") -> tuple[Any, ...]:
    return ("keep", f"better than #1 by {1 - value:.6g}", value, [f"{value:.6f}", "0.0", "keep", said], "keep", [])


def rejected(cause: str, said: str = "the idea") -> tuple[Any, ...]:
    return ("discard", f"rejected: {cause}", None, ["0.000000", "0.0", "discard", said], "keep", [])


HANG = "import time\ntime.sleep(600)"
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)"
CHILD = "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session={session})\nprint('@loss=0.5')\n{then}"
DAEMON = """\
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        mark = os.getcwd()
        os.chdir('/')
        os.execve('/bin/sh', ['sh', '-c', 'sleep 600; : ' + mark], {})
    os._exit(0)
print('@loss=0.5')"""
FLOOD = """\
import os
line = b'x' * 1023 + b'\\n'
for turn in range(100):
    os.write(1, b'@loss=0.5\\n' if turn == 50 else b'')
    for _ in range(16):
        data = line * 64
        while data:
            data = data[os.write(1, data):]"""

EXPERIMENTS = {
    "fails": ("raise SystemExit(3)", crash("exit code 3")),
    "hangs": (HANG, crash("time limit of 1.5 s")),
    "hangs and ignores SIGTERM": (STUBBORN, crash("time limit of 1.5 s")),
    "hangs with a child in its own session": (CHILD.format(session=True, then=HANG), crash("time limit of 1.5 s")),
    "leaves a child in its own session": (CHILD.format(session=True, then=""), keep(0.5)),
    "leaves a child that holds its output": (CHILD.format(session=False, then=""), keep(0.5)),
    "leaves a daemon without environment": (DAEMON, keep(0.5)),
    "is not a number": ("print('@loss=nan')", crash("loss is nan, not a finite number")),
    "is infinite": ("print('@loss=-inf')", crash("loss is -inf, not a finite number")),
    "prints no metric": ("print('all is well')", crash("it ended without printing loss; no metric was found")),
    "prints another metric": ("print('@accuracy=1')", crash("it ended without printing loss; found: accuracy")),
    "prints 100 MB": (FLOOD, keep(0.5)),
    "prints its metric and fails": ("print('@loss=0.1')\nraise SystemExit(1)", crash("exit code 1")),
    "kills itself": ("import os\nprint('@loss=0.1', flush=True)\nos.kill(os.getpid(), 9)", crash("killed by SIGKILL")),
    "removes its own folder": ("import os, shutil\nshutil.rmtree(os.getcwd())\nprint('@loss=0.5')", keep(0.5)),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_that_misbehaves_gets_its_row_and_the_next_one_works(tmp_path: Path, name: str) -> None:
    source, expected = EXPERIMENTS[name]
    found = study(tmp_path, {1: experiment(source)}, "--budget", "2", *(LIMIT if "hangs" in name else ()))
    done = found.call("run")
    assert (done.code, outcome(found)) == (0, expected), done


AGENTS = {
    "half an edit": (experiment("print('@loss=0.5')") + "exit 1", rejected("half an edit: the proposer failed: exit code 1 (the idea)", "(the proposer failed: exit code 1)")),
    "no edit": ("echo 'the idea'", rejected("no change: the proposer edited nothing")),
    "an edit outside the scope": ("echo 'size = 9' > prepare.py\n" + experiment("print('@loss=0.5')"), rejected("changed protected files: prepare.py")),
    "the editable file is gone": ("rm train.py\necho 'the idea'", rejected("train.py is missing")),
    "the editable file is a link": ("mv train.py other.py\nln -s other.py train.py\necho 'the idea'", rejected("train.py is a symbolic link")),
    "the editable file is a hard link": ("ln -f prepare.py train.py\necho 'the idea'", rejected("train.py is a hard link to another file; changed protected files: prepare.py")),
    "the editable file is a folder": ("rm train.py\nmkdir train.py\necho 'the idea'", rejected("train.py is a folder")),
    "the editable file is huge": ("head -c 1100000 /dev/zero > train.py\necho 'the idea'", rejected("train.py is larger than 1 MiB")),
    "the editable file is a pipe": ("rm train.py\nmkfifo train.py\necho 'the idea'", rejected("train.py is a named pipe")),
    "the whole copy is gone": ('rm -rf "$PWD"\necho "the idea"', rejected("the copy cannot be read: No such file or directory")),
    "10 MB of output": ("head -c 10000000 /dev/zero | tr '\\0' 'y'\necho\n" + experiment("print('@loss=0.5')"), keep(0.5)),
    "a daemon": ("(setsid sleep 600 &)\n" + experiment("print('@loss=0.5')"), keep(0.5)),
    "a description that breaks tables": (experiment("print('@loss=0.5')") + "printf '=a\\tb\\033[31mc\\n'", keep(0.5, "'=a bc")),
}  # fmt: skip


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_that_misbehaves_gets_its_row_and_the_next_experiment_works(tmp_path: Path, name: str) -> None:
    script, expected = AGENTS[name]
    found = study(tmp_path, {1: script}, "--budget", "2")
    done = found.call("run")
    assert (done.code, outcome(found), "exp-002" in found.runs()) == (0, expected, expected[0] == "keep"), done


def asked(found: Study, call: int) -> str:
    """The brief of the agent's n-th call."""
    return (found.out / f"brief.{call}").read_text()


def test_a_dumb_crash_goes_back_to_the_agent_with_its_traceback_and_is_mended(tmp_path: Path) -> None:
    broken = "lr = 0.5\nprint(f'@loss={learning_rate}')"
    found = study(tmp_path, {1: experiment(broken), 2: "sed -i 's/learning_rate/lr/' train.py\necho mended"}, "--budget", "3")
    done = found.call("run")
    rows = [(row["decision"], row["operator"], row["repairs"], row["parent"], row["cause"]) for row in found.rows()[1:]]
    expected = [
        ("crash", "improve", None, 1, "NameError: name 'learning_rate' is not defined"),
        ("keep", "repair", 2, 1, "better than #1 by 0.5"),
        ("keep", "improve", None, 3, "better than #3 by 0.013"),
    ]
    told = asked(found, 2)
    shown = all(
        text in told for text in ("Traceback (most recent call last):", "train.py", "NameError: name 'learning_rate' is not defined")
    )
    assert (done.code, rows, shown, found.faults()) == (0, expected, True, []), done


def test_a_crash_that_is_never_mended_is_given_up_after_two_repairs(tmp_path: Path) -> None:
    steps = {number: experiment(f"print(unknown_{number})") for number in range(1, 4)}
    found = study(tmp_path, steps, "--budget", "4")
    found.call("run")
    rows = [(row["operator"], row["repairs"], row["decision"]) for row in found.rows()[1:]]
    expected = [("improve", None, "crash"), ("repair", 2, "crash"), ("repair", 3, "crash"), ("improve", None, "keep")]
    assert (rows, found.faults()) == (expected, [])


def test_a_repair_that_changes_nothing_does_not_run_again(tmp_path: Path) -> None:
    found = study(tmp_path, {1: experiment("print(unknown)"), 2: "echo 'it looks right to me'"}, "--budget", "3")
    found.call("run")
    rows = [(row["operator"], row["decision"], row["cause"]) for row in found.rows()[1:]]
    expected = [
        ("improve", "crash", "NameError: name 'unknown' is not defined"),
        ("repair", "discard", "rejected: no change: the proposer edited nothing"),
        ("improve", "keep", "better than #1 by 0.513"),
    ]
    assert (rows, found.runs(), found.faults()) == (expected, ["exp-001", "exp-002", "exp-004"], [])


def test_an_agent_that_hangs_is_ended_at_its_limit_and_asked_again(tmp_path: Path) -> None:
    hang = "trap '' TERM\nsetsid sleep 600 &\nsleep 600\nsleep 600"
    found = study(tmp_path, {1: hang}, "--budget", "1", "--proposer-time-limit", "1")
    done = found.call("run")
    rows = [(row["decision"], row["value"]) for row in found.rows()]
    said = "[loop] E-PROPOSER-SLOW the proposer did not answer within its time limit of 1 s; asked again in 1 s" in done.out
    assert (done.code, rows, said, found.faults()) == (0, [("keep", 1.0), ("keep", 0.488)], True, []), done


def test_an_agent_that_fails_at_once_is_ridden_out_with_growing_pauses(tmp_path: Path) -> None:
    fails = "echo 'API Error: 429 rate_limit_error'\nexit 1"
    found = study(tmp_path, {1: fails, 2: fails}, "--budget", "1")
    done = found.call("run")
    said = [line for line in done.out.splitlines() if "asked again" in line]
    why = "[loop] E-PROPOSER-FAILED the proposer failed: exit code 1: API Error: 429 rate_limit_error; asked again in"
    expected = [f"{why} 1 s", f"{why} 2 s (failed 2 times in a row)"]
    rows = [(row["decision"], row["value"]) for row in found.rows()]
    assert (done.code, said, rows, found.faults()) == (0, expected, [("keep", 1.0), ("keep", 0.487)], []), done


def test_the_same_edit_is_never_run_twice(tmp_path: Path) -> None:
    found = study(tmp_path, dict.fromkeys((1, 2), experiment("print('@loss=2')")), "--budget", "3")
    found.call("run")
    rows = [(row["decision"], row["cause"]) for row in found.rows()[1:]]
    expected = [
        ("discard", "worse than #1 by 1"),
        ("discard", "rejected: same files as #2, which was tried already"),
        ("keep", "better than #1 by 0.513"),
    ]
    assert (rows, found.runs(), found.faults()) == (expected, ["exp-001", "exp-002", "exp-004"], [])


def test_an_edit_back_to_an_older_version_is_not_run(tmp_path: Path) -> None:
    found = study(tmp_path, {2: experiment("print('@loss=1.0')")}, "--budget", "2")
    found.call("run")
    rows = [(row["decision"], row["cause"]) for row in found.rows()[1:]]
    assert rows == [("keep", "better than #1 by 0.511"), ("discard", "rejected: same files as #1, which was tried already")]


def test_an_experiment_that_kills_its_supervisor_is_a_crash_after_three_attempts(tmp_path: Path) -> None:
    source = "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(600)"
    found = study(tmp_path, {1: experiment(source)}, "--budget", "2")
    done = found.call("run")
    rows = [(row["decision"], row["crash_kind"]) for row in found.rows()[1:]]
    assert (done.code, rows, found.runs().count("exp-002"), found.faults()) == (0, [("crash", "lost"), ("keep", None)], 3, []), done


def test_an_agent_that_kills_its_supervisor_is_asked_again(tmp_path: Path) -> None:
    found = study(tmp_path, {1: "kill -9 $PPID; sleep 600"}, "--budget", "1")
    done = found.call("run")
    rows = [(row["decision"], row["value"]) for row in found.rows()]
    assert (done.code, rows, found.faults()) == (0, [("keep", 1.0), ("keep", 0.488)], []), done


def test_files_that_are_not_editable_are_not_carried_and_the_row_says_so(tmp_path: Path) -> None:
    source = "import os\nprint('@loss=0.5' if not os.path.exists('helper.py') else '@loss=0.1')"
    found = study(tmp_path, {1: "touch helper.py\n" + experiment(source)}, "--budget", "1")
    done = found.call("run")
    rows = [(row["decision"], row["value"]) for row in found.rows()]
    assert (rows, found.faults()) == ([("keep", 1.0), ("keep", 0.5)], []), done


EVIL = "import sys\nprint('@loss=0.0', flush=True)\nsys.exit(0)\n"
LOADED_BY_ITSELF = ("json.py", "sitecustomize.py", "usercustomize.py", "evil.pth", "json/__init__.py", "python3", "__pycache__/json.pyc")


def test_what_python_would_load_by_itself_has_no_effect_from_proposal_checkout_or_earlier_run(tmp_path: Path) -> None:
    plant = "".join(f"mkdir -p $(dirname {name}); cp $OUT/evil {name}; chmod +x {name}\n" for name in LOADED_BY_ITSELF)
    honest = "import json\nprint('@loss=' + json.dumps({value}))\n"
    leaving = honest + f"import subprocess\nsubprocess.run(['sh', '-c', {plant!r}], check=True)\n"
    run = f'echo "$OVERNIGHT_EXPERIMENT_ID" >> "$OUT/runs"\nexec {shlex.quote(sys.executable)} train.py\n'
    steps = {1: plant + experiment(leaving.format(value=0.5)), 2: plant + experiment(honest.format(value=0.4))}
    found = study(
        tmp_path,
        steps,
        "--budget",
        "2",
        "--pass-env",
        "OUT",
        files={"run.sh": run, "train.py": honest.format(value=1.0), ".gitignore": "json.py\nsitecustomize.py\n"},
    )
    found.env["PYTHONSAFEPATH"] = "1"  # for us, who are started as a module in the checkout; runs do not get it
    (found.out / "evil").write_text(EVIL)
    for name in ("json.py", "sitecustomize.py", "evil.pth"):
        (found.root / name).write_text(EVIL)
    found.before.clear()
    found.before.update(found.checkout())
    done = found.call("run")
    rows = [(row["decision"], row["value"]) for row in found.rows()]
    assert (done.code, rows, found.faults()) == (0, [("keep", 1.0), ("keep", 0.5), ("keep", 0.4)], []), done


def test_a_study_whose_agent_never_answers_ends_by_its_budget(tmp_path: Path) -> None:
    found = study(tmp_path, dict.fromkeys(range(1, 9), "exit 1"), "--budget", "1")
    done = found.call("run")
    rows = [(row["decision"], row["cause"]) for row in found.rows()[1:]]
    assert (done.code, rows, found.faults()) == (0, [("discard", "rejected: no proposal: the proposer failed: exit code 1")], []), done
    assert "budget used up: 1 of 1 experiments; 1 of these brought no proposal: the proposer failed: exit code 1" in done.out
