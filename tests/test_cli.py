"""Every verb as a person types it, over one small night: what it prints, what it gives to programs, and how it ends."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

import overnight
from overnight.app.place import Place, held
from overnight.cli import VERBS, group
from overnight.cli.look import EXIT_CODES
from overnight.settings import table
from overnight.testing import git, repository
from studies import Study, study, until
from terminal import COMMAND, SHELL, environment, less_noise, plain, project, typed

STEPS = {
    1: "better 0.5",
    2: "echo 'raise ValueError(42)' > train.py; echo 'a gamble'",
    3: "echo \"print('@loss=0.7')\" > train.py; printf '=1+1\\tand a tab'",
}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A baseline, a keep, a crash and a discard."""
    found = study(tmp_path_factory.mktemp("night"), STEPS, "--budget", "3", "--repairs", "0")
    done = found.call("run")
    assert done.code == 0, done
    return found


# --- the rows ---------------------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[type, ...]] = {
    "number": (int,), "parent": (int, type(None)), "commit": (str,), "decision": (str,), "cause": (str,), "value": (float, type(None)),
    "trust": (str,), "description": (str,), "proposer": (str,), "started": (str,), "seconds": (float,), "memory_gb": (float,),
}  # fmt: skip


def test_a_row_has_the_promised_fields(night: Study) -> None:
    wrong = [
        (row["number"], name, row.get(name))
        for row in night.rows()
        for name, kinds in KINDS.items()
        if not isinstance(row.get(name), kinds)
    ]
    assert wrong == []


def test_the_rows_tell_what_was_tried_and_what_became_of_it(night: Study) -> None:
    found = [
        tuple(row[name] for name in ("number", "parent", "decision", "value", "trust", "proposer", "crash_kind")) for row in night.rows()
    ]
    assert found == [
        (1, None, "keep", 1.0, "self-reported", "overnight", None),
        (2, 1, "keep", 0.5, "self-reported", "command", None),
        (3, 2, "crash", None, "self-reported", "command", "error:ValueError"),
        (4, 2, "discard", 0.7, "self-reported", "command", None),
    ]


def test_a_crash_says_its_error_and_a_discard_by_how_much(night: Study) -> None:
    assert [row["cause"] for row in night.rows()[2:]] == ["ValueError: 42", "worse than #2 by 0.2"]


def test_times_are_iso_8601_in_utc(night: Study) -> None:
    wrong = [row for row in night.rows() if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["started"])]
    assert wrong == []


def test_the_table_is_the_seeds_byte_for_byte(night: Study) -> None:
    rows = night.rows()
    lines = ["commit\tmetric\tmemory_gb\tstatus\tdescription"]
    for row, text in zip(rows, ("baseline", "loss 0.5", "a gamble", "'=1+1 and a tab"), strict=True):
        value, memory = ("0.000000", "0.0") if row["value"] is None else (f"{row['value']:.6f}", f"{row['memory_gb']:.1f}")
        lines.append(f"{row['commit'][:7]}\t{value}\t{memory}\t{row['decision']}\t{text}")
    assert (night.root / "results.tsv").read_bytes() == ("\n".join(lines) + "\n").encode()


def test_the_table_can_bear_the_metrics_own_name(tmp_path: Path) -> None:
    root = project(tmp_path)
    assert typed(root, "run", "--budget", "0", "--tsv-metric-name", "--", *COMMAND).code == 0
    assert (root / "results.tsv").read_text().splitlines()[0] == "commit\tloss\tmemory_gb\tstatus\tdescription"


# --- the verbs that look ----------------------------------------------------------------------------------------------

LOOKS = {
    ("status",): (
        "BEST      1 → 0.5",
        {"schema", "tag", "state", "best", "metric", "direction", "experiments", "kept", "crashed", "reason"},
    ),
    ("best",): ("#2  loss 0.5", {"schema", "number", "value", "jobs"}),
    ("show", "3"): ("ValueError: 42", {"schema", "number", "cause", "jobs", "metrics"}),
    ("diff", "2"): ("-print('@loss=1.0')\n+print('@loss=0.5')", {"schema", "number", "against", "diff"}),
    ("log", "3"): ("ValueError: 42", {"schema", "number", "path", "log"}),
    ("config",): ("baseline_runs", set(table())),
    ("exit-codes",): ("124  time limit", {str(code) for code in EXIT_CODES}),
}


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_a_verb_that_looks_speaks_to_people_and_to_programs(night: Study, words: tuple[str, ...]) -> None:
    text, names = LOOKS[words]
    said, told = night.call(*words), night.call(*words, "--json")
    assert (said.code, said.err, text in said.out, told.code, names - json.loads(told.out).keys()) == (0, "", True, 0, set()), said


def test_where_nothing_differs_that_is_said_beside_an_empty_patch(night: Study) -> None:
    done = night.call("diff", "2", "--against", "best")
    assert (done.code, done.out, done.err) == (0, "", "nothing differs between #2 and best\n")


def test_the_list_has_a_line_for_each_experiment(night: Study) -> None:
    lines = night.call("ls").out.splitlines()
    assert (len(lines), [" ".join(line.split()[:1]) for line in lines]) == (5, ["#", "1", "2", "3", "4"])
    assert [len(json.loads(night.call("ls", *words, "--json").out)) for words in (("--last", "2"), ("--kept",))] == [2, 2]


@pytest.mark.parametrize(("name", "number"), [("2", 2), ("#2", 2), ("exp-002", 2), ("best", 2), ("last", 4), ("baseline", 1)])
def test_an_experiment_goes_by_many_names(night: Study, name: str, number: int) -> None:
    assert json.loads(night.call("show", name, "--json").out)["number"] == number


def test_the_gain_over_a_parent_that_is_not_listed_is_shown(night: Study) -> None:
    whole, part = (night.call("ls", *words).out.splitlines()[-1].split() for words in ((), ("--last", "1")))
    assert part == whole


def test_a_retest_takes_the_names_that_show_takes(tmp_path: Path) -> None:
    found = study(tmp_path, STEPS, "--budget", "1", "--repairs", "0")
    found.call("run")
    done = [found.call("retest", name, "--runs", "1") for name in ("best", "exp-002", "zz")]
    assert ([again.code for again in done], done[2].err.partition(":")[0]) == ([0, 0, 3], "error[E-NO-EXPERIMENT]"), done


def test_an_experiment_goes_by_the_beginning_of_its_commit(night: Study) -> None:
    commit = night.rows()[2]["commit"]
    assert json.loads(night.call("show", commit[:9], "--json").out)["number"] == 3


@pytest.mark.parametrize(
    "words", [("show", "99"), ("diff", "77"), ("diff", "2", "--against", "zz"), ("log", "0"), ("status", "--tag", "zz")]
)
def test_what_does_not_exist_is_not_found(night: Study, words: tuple[str, ...]) -> None:
    found = night.call(*words, "--json")
    assert (found.code, json.loads(found.out)["ok"], found.err.startswith("error[E-NO-")) == (3, False, True), found


def test_a_change_is_shown_against_what_is_asked_for(night: Study) -> None:
    found = [json.loads(night.call("diff", *words, "--json").out)["diff"] for words in (("4",), ("4", "--against", "baseline"), ("1",))]
    assert [[line for line in text.splitlines() if re.match(r"[-+][^-+]", line)] for text in found] == [
        ["-print('@loss=0.5')", "+print('@loss=0.7')"], ["-print('@loss=1.0')", "+print('@loss=0.7')"], [],
    ]  # fmt: skip


def test_looking_changes_nothing(night: Study) -> None:
    before = (night.refs(), night.checkout(), night.rows())
    for words in (*LOOKS, ("ls",)):
        night.call(*words)
    assert (night.refs(), night.checkout(), night.rows()) == before


def test_settings_are_shown_with_their_origin(tmp_path: Path) -> None:
    root = project(tmp_path)
    (root / "overnight.toml").write_text("# mine\nslots = 3\n")
    found = typed(root, "config", "--json", env=environment(tmp_path, OVERNIGHT_METRIC="loss")).json
    assert [found[name] for name in ("slots", "metric", "pick")] == [
        {"value": 3, "origin": "overnight.toml:2"}, {"value": "loss", "origin": "OVERNIGHT_METRIC"}, {"value": "last", "origin": "default"},
    ]  # fmt: skip


# --- the run ----------------------------------------------------------------------------------------------------------


def test_progress_is_told_in_the_seeds_shape(tmp_path: Path) -> None:
    found = less_noise(study(tmp_path, {1: "better 0.5"}, "--budget", "1").call("run").out)
    assert [line for line in found.splitlines() if line.startswith(("[loop]", "  "))][-9:] == [
        "[loop] study t: the baseline comes first",
        "[loop] Baseline",
        "  Execute: sh run.sh",
        "  Result: @loss=1  (baseline)  keep",
        "[loop] Cycle 1 — best: 1",
        "  Hypothesis: loss 0.5",
        "  Execute: exp-002  sh run.sh",
        "  Result: @loss=0.5  (improvement: 0.5)  keep",
        "[loop] budget used up: 1 of 1 experiments",
    ]


def test_a_run_for_programs_gives_one_object_and_its_progress_elsewhere(tmp_path: Path) -> None:
    found = plain(tmp_path, "--json")
    told = found.json
    assert (found.code, told["schema"], told["exit_code"], told["experiments"], told["reason"]) == (
        0, "overnight/status/1", 0, 1, "budget used up: 0 of 0 experiments",
    )  # fmt: skip
    assert found.err.splitlines()[-1] == "[loop] budget used up: 0 of 0 experiments"


def test_a_budget_counts_experiments_after_the_baseline_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    found = study(tmp_path)
    first = (found.call("run", "--budget", "1").code, [row["number"] for row in found.rows()])
    again = found.call("run", "--budget", "3")
    assert (first, again.code, [row["number"] for row in found.rows()]) == ((0, [1, 2]), 0, [1, 2, 3, 4])
    assert "[loop] study t: going on" in again.out
    assert "the baseline comes first" not in again.out


@pytest.mark.parametrize(("target", "code"), [("0.5", 0), ("0.1", 5)])
def test_a_target_ends_the_study_and_the_exit_status_can_tell(tmp_path: Path, target: str, code: int) -> None:
    found = study(tmp_path, {1: "better 0.5"}, "--target", target, "--budget", "2", "--exit-status")
    done = found.call("run")
    assert (done.code, len(found.rows()), "goal reached: loss 0.5 (#2)" in done.out) == (code, 2 if code == 0 else 3, code == 0), done


def test_a_fresh_study_bears_todays_name(tmp_path: Path) -> None:
    root = project(tmp_path)
    assert typed(root, "run", "--budget", "0", "--", *COMMAND).code == 0
    names = {time.strftime("%b%d", time.localtime(when)).lower().replace("0", "", 1) if time.localtime(when).tm_mday < 10
             else time.strftime("%b%d", time.localtime(when)).lower() for when in (time.time(), time.time() - 60)}  # fmt: skip
    assert git(root, "for-each-ref", "--format=%(refname:short)", "refs/heads/autoresearch").strip() in {
        f"autoresearch/{name}" for name in names
    }


def test_several_studies_live_side_by_side(tmp_path: Path) -> None:
    root = project(tmp_path)
    codes = [typed(root, "run", "--budget", "0", "--tag", tag, "--", *COMMAND).code for tag in ("a", "b", "a")]
    found = [typed(root, "status", "--json", *words).json["tag"] for words in ((), ("--tag", "a"))]
    missing = typed(root, "ls", "--tag", "c")
    assert (codes, found, missing.refusal, "known: b, a" in missing.err) == ([0, 0, 0], ["b", "a"], ("E-NO-STUDY", 3), True)


def test_config_and_state_may_lie_outside_the_repository(tmp_path: Path) -> None:
    root = project(tmp_path)
    (tmp_path / "study.toml").write_text(f'command = "{SHELL} train.py"\nbudget = "0"\ntag = "t"\n')
    done = typed(root, "run", "--config", "../study.toml", "--state", "../state")
    found = typed(root, "ls", "--state", "../state", "--json")
    assert (done.code, len(found.json), (root / ".overnight").exists(), git(root, "status", "--porcelain")) == (0, 1, False, ""), done


# --- the log ----------------------------------------------------------------------------------------------------------

WAITS = """\
import os, time
lr = 0.1
print("first", flush=True)
while not os.path.exists({gate!r}):
    time.sleep(0.01)
print("w\\u00e4hrend", flush=True)
print("@loss=1")
"""


def test_a_log_is_followed_until_the_run_is_over(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    found = study(tmp_path, files={"train.py": WAITS.format(gate=str(gate))})
    loop = found.spawn(found.command("run", "--budget", "0"))
    until(lambda: "first" in found.call("log", "1").out)
    reader = subprocess.Popen(found.command("log", "last", "-f"), cwd=found.root, env=found.env, stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    first = reader.stdout.readline()
    gate.touch()
    rest, _ = reader.communicate(timeout=60)
    assert (first, rest, reader.returncode, loop.wait(60)) == ("first\n", "während\n@loss=1\n", 0, 0)


def test_a_log_that_cannot_grow_any_more_is_not_waited_for(tmp_path: Path) -> None:
    found = study(tmp_path, files={"train.py": WAITS.format(gate=str(tmp_path / "never"))})
    loop = found.spawn(found.command("run", "--budget", "0"))
    until(lambda: "first" in found.call("log", "1").out)
    found.call("stop", "--now")
    assert (loop.wait(60), found.rows()[0]["decision"], found.call("log", "1", "-f").out) == (0, None, "first\n")


# --- steering, seen from outside --------------------------------------------------------------------------------------


def test_the_exit_status_tells_whether_a_loop_runs(night: Study) -> None:
    quiet = night.call("status", "--exit-status").code
    with held(Place(night.root / ".overnight")):
        found = (night.call("status", "--exit-status").code, night.call("status").code, night.call("stop", "--wait", "0.1", "--json").code)
    assert (quiet, found) == (0, (8, 0, 8))


# --- help -------------------------------------------------------------------------------------------------------------


def test_the_bare_word_shows_every_verb_and_ends_well(tmp_path: Path) -> None:
    found = [typed(tmp_path, *words) for words in ((), ("--help",), ("-h",))]
    assert [(said.code, said.err, said.out) for said in found] == [(0, "", found[0].out)] * 3
    assert [verb for verb in VERBS if not re.search(rf"^  {verb}  +\S", found[0].out, re.MULTILINE)] == []


def test_the_version_names_what_a_report_needs(tmp_path: Path) -> None:
    python = sys.version.split()[0]
    assert typed(tmp_path, "--version").out == f"overnight {overnight.__version__} (Python {python}, {sys.platform})\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_every_option_explains_itself(verb: str) -> None:
    command = group.get_command(click.Context(group), verb)
    assert command is not None
    told = command.get_help(click.Context(command, info_name=f"overnight {verb}"))
    silent = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]
    parts = command.commands.values() if isinstance(command, click.Group) else [command]
    silent += [option.name for part in parts for option in part.params if isinstance(option, click.Option) and not option.help]
    as_json = [any("--json" in option.opts for option in part.params) and bool(part.help) for part in parts]
    assert (told.startswith(f"Usage: overnight {verb} "), silent, all(as_json), bool(command.help)) == (True, [], True, True)


def test_every_setting_is_an_option_of_run() -> None:
    command = group.get_command(click.Context(group), "run")
    assert command is not None
    flags = {word for option in command.params for word in option.opts}
    assert [name for name in table() if name != "command" and f"--{name.replace('_', '-')}" not in flags] == []


def test_init_asks_for_the_command_that_it_has_not_found(tmp_path: Path) -> None:
    found = [typed(repository(tmp_path / name[:1], {name: "print(1)\n"}), "init").out.splitlines()[-1] for name in ("main.txt", "train.py")]
    assert [line.partition("     ")[0] for line in found] == [
        "next: overnight run --budget 20 -- COMMAND",
        "next: overnight run --budget 20",
    ]


# --- the demo ---------------------------------------------------------------------------------------------------------


def test_the_demo_tries_real_things_and_says_what_to_type_next(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    done = typed(tmp_path / "here", "demo", "--budget", "2", "--folder", "../demo")
    rows = typed(tmp_path / "demo", "ls", "--json").json
    assert (done.code, done.err, [row["number"] for row in rows], rows[0]["decision"]) == (0, "", [1, 2, 3], "keep"), done
    program = "overnight" if shutil.which("overnight", path=environment(tmp_path)["PATH"]) else f"{sys.executable} -m overnight"
    assert done.out.splitlines()[-1] == f"NEXT      cd your-repository && {program} init"


def test_the_demo_for_programs_gives_its_rows(tmp_path: Path) -> None:
    found = typed(tmp_path, "demo", "--budget", "0", "--json")
    told = found.json
    assert (found.code, told["schema"], len(told["rows"]), told["folder"]) == (
        0, "overnight/demo/1", 1, str(Path(environment(tmp_path.parent)["HOME"]) / "overnight-demo"),
    )  # fmt: skip
