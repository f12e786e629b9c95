"""Trials: whoever calls is the proposer; measuring, judging and keeping the record are the loop's."""

from __future__ import annotations

from pathlib import Path

import pytest

import noisy
import studies
from overnight.app import place as places
from overnight.testing import git
from studies import ended  # noqa: F401 - a fixture that every test gets
from test_evaluation import _EVALUATED, _FILES, _PYTHON, needs_bubblewrap
from trials import Tried, loss, refusal


@pytest.fixture
def made(tmp_path: Path) -> Tried:
    return Tried(tmp_path / "s")


def decisions(made: Tried) -> list[tuple[object, ...]]:
    return made.told("number", "parent", "decision", "value", "description", "proposer")


def test_a_better_edit_is_kept_and_a_worse_one_discarded_with_record_branch_and_table_as_the_loop_has_them(made: Tried) -> None:
    better, worse = made.tried(loss(0.5), "half"), made.tried(loss(0.7), "more")
    assert (better.decision, worse.decision, made.study.faults()) == ("keep", "discard", [])
    assert decisions(made) == [
        (1, None, "keep", 1.0, "baseline", "overnight"),
        (2, 1, "keep", 0.5, "half", "trial"),
        (3, 2, "discard", 0.7, "more", "trial"),
    ]
    assert git(made.study.root, "show", "autoresearch/t:train.py") == loss(0.5)


def test_trials_and_a_loop_come_to_the_same_rows_by_the_same_edits_also_under_noise(tmp_path: Path) -> None:
    edits = [("A", 0.15), ("B", 0.1), ("A", -1.0), ("C", 0.3)]
    steps = {at: noisy.edit(*edit) for at, edit in enumerate(edits, 1)}
    looped = noisy.noisy(tmp_path / "loop", steps, "--budget", str(len(edits)), "--seed", "3")
    assert looped.call("run").code == 0
    tried = Tried(
        tmp_path, noisy.noisy(tmp_path / "trial", {}), metric="loss", direction="minimize", unsafe_no_sandbox=True, baseline_runs=3, seed=3,
        command=("sh", "run.sh"), budget=str(len(edits)),
    )  # fmt: skip
    for name, value in edits:
        begun = tried.begin()
        text = (begun.copy / "train.py").read_text()
        old = next(line for line in text.splitlines() if line.startswith(f"{name} = "))
        tried.edit(begun, text.replace(old, f"{name} = {value}"))
        tried.run(f"{name} = {value}")
        tried.settle()
    told = "SELECT number, parent, decision, cause, value, p, gain, bar FROM experiment, study ORDER BY number"
    runs = "SELECT number, seed, value FROM job WHERE NOT looks_again ORDER BY number, attempt"
    counted = len(edits) + 1  # an audit at the loop's end may take a keep back
    ours, theirs = (noisy.table(study, runs) for study in (tried.study, looped))
    assert (ours, len(ours) > counted + 2) == (theirs, True)
    assert noisy.table(tried.study, told) == noisy.table(looped, told)[:counted]


def test_what_was_given_up_is_no_keep_whatever_it_is_worth(made: Tried) -> None:
    item = made.tried(loss(0.1), "too good", given_up="it cheats")
    best = made.begin().best
    assert (item.decision, item.value, item.cause) == ("discard", 0.1, "given up: it cheats; better than #1 by 0.9")
    assert (best and best.number, made.study.faults()) == (1, [])


def test_a_change_to_a_protected_file_is_refused_costs_nothing_and_can_be_mended(made: Tried) -> None:
    begun = made.edit(made.edit(made.begin(), loss(0.5)), "size = 0\n", "prepare.py")
    code = refusal(made.run)
    made.edit(begun, "size = 1\n", "prepare.py")
    assert (code, made.study.runs(), made.run().state) == ("E-NOT-FIT", ["exp-001"], "measured")


def test_each_thing_that_cannot_be_run_has_an_error_of_its_own_and_leaves_the_trial_open(made: Tried) -> None:
    assert refusal(made.run) == "E-NO-STUDY"
    begun = made.begin(budget="2")
    codes = [refusal(made.run), refusal(made.settle), refusal(made.begin), refusal(made.run, number=9)]
    made.edit(begun, loss(0.5))
    codes += [refusal(made.run, said=" ")]
    made.run()
    codes += [refusal(made.begin)]
    made.settle()
    codes += [refusal(made.run), refusal(made.run, number=1)]
    made.edit(made.begin(), loss(1.0))
    codes += [refusal(made.run)]
    assert codes == ["E-NO-EDIT", "E-NOT-MEASURED", "E-TRIAL-OPEN", "E-NO-TRIAL", "E-NO-HYPOTHESIS", "E-TRIAL-OPEN", "E-NO-TRIAL", "E-TRIAL-OVER", "E-TRIED"]  # fmt: skip
    made.settle(given_up="nothing came of it")
    made.tried(loss(0.4))
    assert (refusal(made.begin), refusal(made.begin, budget="3"), len(made.study.rows())) == ("E-BUDGET", "", 3)


def test_several_trials_may_be_open_when_that_was_asked_for(made: Tried) -> None:
    first, second = made.begin(), made.begin(another=True)
    made.edit(first, loss(0.5)), made.edit(second, loss(0.4))
    assert (refusal(made.run), made.run(number=2).state, made.run(number=1).state) == ("E-WHICH-TRIAL", "measured", "measured")
    assert [made.settle(number).experiment and made.show(number).state for number in (1, 2)] == ["settled", "settled"]
    assert ([row[2:4] for row in decisions(made)], made.study.faults()) == ([("keep", 1.0), ("keep", 0.4), ("keep", 0.5)], [])


def test_a_study_that_somebody_works_on_is_refused_by_name(made: Tried) -> None:
    made.begin()
    place = places.default(made.study.root)
    with places.held(place):
        codes = [refusal(made.begin, another=True), refusal(made.run), refusal(made.settle)]
    with places.held(place, what=places.TRIAL):
        said = str(made.study.call("run", "--budget", "1").err)
    assert (codes, "E-BUSY" in said, "a trial is run on this study now: pid" in said) == (["E-BUSY"] * 3, True, True)


def test_the_loop_goes_on_from_what_trials_have_kept_and_tells_its_proposer(made: Tried) -> None:
    made.tried(loss(0.48), "by hand")
    made.loop(budget="3")
    brief = (made.study.out / "brief.1").read_text()
    assert ("by hand" in brief, decisions(made)[2:]) == (
        True,
        [(3, 2, "discard", 0.489, "loss 0.489", "command"), (4, 2, "discard", 0.488, "loss 0.488", "command")],
    )
    assert made.study.faults() == []


def test_a_loop_settles_what_a_trial_has_measured_and_settling_again_changes_nothing(made: Tried) -> None:
    made.edit(made.begin(), loss(0.5))
    made.run("by hand")
    made.loop(budget="1")
    before = made.study.rows()
    seen = made.settle(1)
    assert (seen.state, seen.experiment and seen.experiment.decision, made.study.rows() == before) == ("settled", "keep", True)
    assert (made.study.faults(), seen.copy.exists(), made.begin(budget="9").trial.number) == ([], False, 2)


def test_a_trial_that_was_overtaken_is_carried_over_to_the_new_best(tmp_path: Path) -> None:
    text = "A = 1.0\n# a line\n# between\n# the two\nB = 1.0\nprint(f'@loss={A + B}')\n"
    step = {1: "sed -i 's/^B = .*/B = 0.5/' train.py; echo B\n"}
    study = studies.study(tmp_path / "s", step, files={"train.py": text})
    study.call("run", "--budget", "0")
    made = Tried(tmp_path, study)
    made.edit(made.begin(budget="9"), text.replace("A = 1.0", "A = 0.5"))
    study.call("run", "--budget", "1")
    made.run("A")
    assert (made.settle().state, made.told("parent", "value")) == ("settled", [(None, 2.0), (1, 1.5), (2, 1.0)])


def test_a_crash_is_settled_as_one_and_mended_in_a_trial_that_begins_with_its_files(made: Tried) -> None:
    crashed = made.tried("print(missing)\n", "a typo")
    begun = made.begin("debug")
    there = (begun.copy / "train.py").read_text()
    made.edit(begun, loss(0.5))
    mended = made.run("mended").experiment
    assert (crashed.decision, crashed.crash_kind, there) == ("crash", "error:NameError", "print(missing)\n")
    assert mended is not None
    assert (mended.parent, mended.repairs, mended.operator, "NameError" in begun.brief) == (1, crashed.number, "repair", True)


def test_what_the_study_was_run_with_last_stays_where_nothing_says_otherwise(tmp_path: Path) -> None:
    study = studies.study(tmp_path / "s")
    study.call("run", "--budget", "0", "--time-limit", "7s")
    begun = Tried(tmp_path, study).begin(slots=2, budget="5")
    settings = begun.study.settings
    assert (settings.command, settings.limit, settings.unsafe_no_sandbox, settings.slots) == (("sh", "run.sh"), 7.0, True, 2)


@needs_bubblewrap
def test_runs_of_trials_stand_behind_walls_and_a_tracked_holdout_is_not_in_the_copy(tmp_path: Path) -> None:
    study = studies.study(tmp_path / "s", files=_FILES)
    words = dict(zip(("evaluate", "artifact", "holdout"), _EVALUATED[1::2], strict=True))
    made = Tried(tmp_path, study, metric="acc", baseline_runs=1, command=(*_PYTHON.split(), "train.py"), **words)
    begun = made.begin()
    made.edit(begun, _FILES["train.py"].replace("X = 0.5", "X = 0.6"))
    made.run("closer")
    item = made.settle().experiment
    assert item is not None
    assert ((begun.copy / "label.txt").exists(), item.decision, item.value, item.trust, item.confined.word) == (False, "keep", 0.9, "evaluated", "bubblewrap")  # fmt: skip


def test_a_secret_of_the_environment_is_refused_and_never_recorded(made: Tried) -> None:
    made.study.env["WANDB_API_KEY"] = "wandb-0123456789abcdef0123"
    made.edit(made.begin(), "print('@loss=0.5')  # wandb-0123456789abcdef0123\n")
    assert (refusal(made.run), made.study.runs()) == ("E-NOT-FIT", ["exp-001"])


def test_metrics_are_told_while_the_run_goes_on(made: Tried) -> None:
    gate = made.study.out / "go"
    waits = f"import os, time\nprint('@loss=0.9 @step=1', flush=True)\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.05)\nprint('@loss=0.5 @step=2')\n"
    made.edit(made.begin(), waits)

    def hear(event: str, _item: object, text: str) -> None:
        if event == "metrics" and "@loss=0.9" in text:
            gate.touch()

    made._listen = hear  # type: ignore[method-assign, assignment] # the run ends only once its first metric was told
    assert [run.value for run in made.run().runs] == [0.5]


def test_edits_after_the_run_are_said_not_to_be_in_it(made: Tried) -> None:
    begun = made.edit(made.begin(), loss(0.5))
    first = made.run().notes
    made.edit(begun, loss(0.4))
    again = made.run()
    assert (first, len(again.notes), [run.value for run in again.runs], len(made.study.runs())) == ((), 1, [0.5], 2)
