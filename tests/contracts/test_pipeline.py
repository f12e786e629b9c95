"""What becomes of a pipeline, whatever executor runs its tasks. Real processes, no doubles.

An executor that is a row of ``EXECUTORS`` is tried by it; ``stages.stage`` is all that knows how one is made.
"""

from __future__ import annotations

import json
import os

import pytest

from overnight.dag.words import TaskState
from stages import PYTHON, Stage, states, words

# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_stages_run_in_the_order_of_their_needs(stage: Stage) -> None:
    rows = stage.run(
        f"""
nodes:
  - {{name: evaluate, command: {words(stage.mark("evaluate"))}}}
  - {{name: train, command: {words(stage.mark("train"))}}}
  - {{name: preprocess, command: {words(stage.mark("preprocess"))}}}
dependencies:
  - {{source: preprocess, target: train}}
  - {{source: train, target: evaluate}}
"""
    )
    assert (stage.marks(), set(states(rows).values())) == (["preprocess", "train", "evaluate"], {"SUCCEEDED"})


def test_independent_stages_run_at_the_same_time(stage: Stage) -> None:
    meet = "touch {folder}/{own}; n=0; while [ ! -e {folder}/{other} ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n+1)); done; test -e {folder}/{other}"
    left, right = (words(meet.format(folder=stage.folder, own=own, other=other)) for own, other in (("a", "b"), ("b", "a")))
    assert states(stage.run(f"nodes: [{{name: left, command: {left}}}, {{name: right, command: {right}}}]")) == {
        "left": "SUCCEEDED",
        "right": "SUCCEEDED",
    }


def test_no_more_tasks_run_at_once_than_there_are_slots(stage: Stage) -> None:
    stage.slots = 2
    alone = f"mkdir {stage.folder}/busy-$OVERNIGHT_MATRIX_N && ls -d {stage.folder}/busy-* | wc -l >> {stage.folder}/marks; sleep 0.05; rmdir {stage.folder}/busy-$OVERNIGHT_MATRIX_N"
    rows = stage.run(f"nodes: [{{name: many, command: {words(alone)}, matrix: {{n: [1, 2, 3, 4, 5, 6, 7, 8]}}}}]")
    assert (set(states(rows).values()), max(map(int, stage.marks())) <= 2) == ({"SUCCEEDED"}, True)


@pytest.mark.core
def test_a_card_is_given_to_one_task_at_a_time(stage: Stage) -> None:
    own = f"mkdir {stage.folder}/card-$CUDA_VISIBLE_DEVICES && sleep 0.05 && rmdir {stage.folder}/card-$CUDA_VISIBLE_DEVICES"
    rows = stage.run(f"nodes: [{{name: many, command: {words(own)}, gpu_count: 1, matrix: {{n: [1, 2, 3, 4, 5, 6]}}}}]")
    assert set(states(rows).values()) == {"SUCCEEDED"}


# --- failure ----------------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_a_failure_skips_its_descendants_and_nothing_else(stage: Stage) -> None:
    rows = stage.run("""
nodes:
  - {name: bad, command: exit 3}
  - {name: after, command: "true", needs: bad}
  - {name: later, command: "true", needs: after}
  - {name: other, command: "true"}
  - {name: beside, command: "true", needs: other}
""")
    assert (states(rows), rows["bad"].cause, rows["later"].cause) == (
        {"bad": "FAILED", "after": "SKIPPED", "later": "SKIPPED", "other": "SUCCEEDED", "beside": "SUCCEEDED"}, "exit code 3", "bad failed",
    )  # fmt: skip


def test_a_node_runs_always_or_on_failure_as_it_says(stage: Stage) -> None:
    rows = stage.run("""
nodes:
  - {name: good, command: "true"}
  - {name: bad, command: exit 1}
  - {name: skipped, command: "true", needs: bad}
  - {name: clean, command: "true", needs: [skipped, good], when: always}
  - {name: mourn, command: "true", needs: skipped, when: on_failure}
  - {name: idle, command: "true", needs: good, when: on_failure}
  - {name: after-idle, command: "true", needs: idle}
""")
    assert (states(rows), rows["idle"].cause) == (
        {
            "good": "SUCCEEDED", "bad": "FAILED", "skipped": "SKIPPED", "clean": "SUCCEEDED", "mourn": "SUCCEEDED", "idle": "SKIPPED",
            "after-idle": "SKIPPED",
        },
        "nothing that it needs has failed",
    )  # fmt: skip


def test_a_failing_task_is_tried_again_as_often_as_it_says(stage: Stage) -> None:
    third = f"echo x >> {stage.folder}/tries; test $(wc -l < {stage.folder}/tries) = 3"
    rows = stage.run(
        f"nodes: [{{name: flaky, command: {words(third)}, retries: 2, retry_delay: 0.01}}, {{name: after, command: 'true', needs: flaky}}]"
    )
    assert (states(rows), rows["flaky"].attempt) == ({"flaky": "SUCCEEDED", "after": "SUCCEEDED"}, 3)


def test_a_task_that_keeps_failing_ends_with_its_last_failure(stage: Stage) -> None:
    rows = stage.run("nodes: [{name: bad, command: exit 4, retries: 1, retry_delay: 0.01}]")
    assert (states(rows), rows["bad"].attempt, rows["bad"].cause) == ({"bad": "FAILED"}, 2, "exit code 4")


def test_the_pause_before_a_retry_doubles(stage: Stage) -> None:
    stage.run("nodes: [{name: bad, command: exit 4, retries: 2, retry_delay: 0.2}]")
    told = [line for line in stage.lines if " in 0." in line]
    assert [line.rpartition(" in ")[2] for line in told] == ["0.2 s", "0.4 s"]


def test_a_task_is_ended_at_its_time_limit(stage: Stage) -> None:
    assert states(
        stage.run("nodes: [{name: slow, command: sleep 600, time_limit: 0.3s}, {name: after, command: 'true', needs: slow}]")
    ) == {"slow": "TIMED_OUT", "after": "SKIPPED"}


# --- matrices ---------------------------------------------------------------------------------------------------------


def test_a_matrix_fans_out_and_in(stage: Stage) -> None:
    rows = stage.run(f"""
nodes:
  - {{name: train, command: "echo @loss={{{{ matrix.seed }}}}.5; echo $OVERNIGHT_MATRIX_SEED > model.txt", matrix: {{seed: [0, 1, 2]}}}}
  - {{name: test, command: "cat model.txt; echo @acc=$(cat model.txt)", matrix: {{seed: [0, 1, 2]}}, needs: train}}
  - name: report
    command: "cat train/seed=0/model.txt train/seed=2/model.txt >> {stage.folder}/marks; echo {{{{ train.loss.mean }}}} {{{{ train.loss.min }}}} {{{{ test.acc.max }}}} >> {stage.folder}/marks"
    needs: [train, test]
""")
    assert (set(states(rows).values()), len(rows), stage.marks()) == ({"SUCCEEDED"}, 7, ["0", "2", "1.5", "0.5", "2"])


# --- handing on -------------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_files_and_numbers_are_handed_on(stage: Stage) -> None:
    rows = stage.run("""
nodes:
  - {name: train, command: "mkdir out; echo weights > out/model; echo junk > junk; echo @loss=0.25", outputs: [out/*]}
  - name: use
    command: ["sh", "-c", "test $(cat out/model) = weights && test ! -e junk && test $0 = 0.25", "{{ train.loss }}"]
    needs: train
""")
    assert (states(rows), rows["train"].values) == ({"train": "SUCCEEDED", "use": "SUCCEEDED"}, {"loss": 0.25})


def test_without_outputs_everything_that_a_task_made_is_handed_on_as_in_one_folder(stage: Stage) -> None:
    rows = stage.run("""
nodes:
  - {name: a, command: "echo 1 > a.txt"}
  - {name: b, command: "cat a.txt && echo 2 > b.txt && echo changed > train.py", needs: a}
  - {name: c, command: "cat a.txt b.txt && test $(cat train.py) = changed", needs: b}
""")
    assert states(rows) == {"a": "SUCCEEDED", "b": "SUCCEEDED", "c": "SUCCEEDED"}


def test_what_a_task_removes_is_not_handed_on(stage: Stage) -> None:
    rows = stage.run("""
nodes:
  - {name: a, command: "mkdir d; echo 1 > d/x; echo 3 > keep", outputs: [d, keep]}
  - {name: b, command: "rm -r d && echo 4 > d && chmod +x keep", needs: a}
  - {name: c, command: "test $(cat d) = 4 && test -x keep && test $(cat keep) = 3", needs: b}
""")
    assert states(rows) == {"a": "SUCCEEDED", "b": "SUCCEEDED", "c": "SUCCEEDED"}


def test_a_link_to_a_file_of_the_folder_is_handed_on_as_that_file_and_one_that_leads_out_is_not(stage: Stage) -> None:
    (stage.folder / "secret").write_text("s")
    rows = stage.run(f"""
nodes:
  - {{name: a, command: "echo 7 > model-7; ln -s model-7 latest; ln -s {stage.folder}/secret out", outputs: ["*"]}}
  - {{name: b, command: "test $(cat latest) = 7 && test ! -L latest && test ! -e out", needs: a}}
""")
    assert states(rows) == {"a": "SUCCEEDED", "b": "SUCCEEDED"}


def test_a_task_finds_what_it_is_handed_from_wherever_it_works(stage: Stage) -> None:
    look = "import json, os; print('@files=%d' % len(json.load(open(os.environ['OVERNIGHT_INPUTS']))['needs']['a']['files']))"
    rows = stage.run(f"""
nodes:
  - {{name: a, command: "mkdir deep; echo 1 > deep/x"}}
  - {{name: b, command: {words(f'test -e x && {PYTHON} -c "{look}"')}, working_dir: deep, needs: a}}
""")
    assert (states(rows)["b"], dict(rows["b"].values)) == ("SUCCEEDED", {"files": 1.0})


def test_many_and_larger_files_are_handed_on_whole(stage: Stage) -> None:
    make = "import os; [open(f'f{n}', 'wb').write(b'%d' % n) for n in range(300)]; open('big', 'wb').write(os.urandom(2**16) * 160)"
    rows = stage.run(f"""
nodes:
  - {{name: a, command: {words(f'{PYTHON} -c "{make}" && echo @sum=$(cksum < big | cut -d" " -f1)')}}}
  - {{name: b, command: "test $(ls f* | wc -l) = 300 && test $(cksum < big | cut -d' ' -f1) = $(printf %.0f {{{{ a.sum }}}}) && chmod +x big", needs: a}}
  - {{name: c, command: "test $(cksum < big | cut -d' ' -f1) = $(printf %.0f {{{{ a.sum }}}}) && test -x big && mv big large", needs: [a, b]}}
  - {{name: d, command: "test -s large && test ! -e big", needs: c}}
""")
    assert set(states(rows).values()) == {"SUCCEEDED"}


def test_what_one_need_changed_goes_before_what_another_passes_on(stage: Stage) -> None:
    rows = stage.run("""
nodes:
  - {name: a, command: "echo old > x"}
  - {name: b, command: "echo new > x", needs: a}
  - {name: c, command: "true", needs: a}
  - {name: d, command: "test $(cat x) = new", needs: [c, b]}
""")
    assert states(rows)["d"] == "SUCCEEDED"


def test_two_needs_that_hand_on_different_files_at_one_path_are_a_failure_that_says_so(stage: Stage) -> None:
    rows = stage.run("nodes: [{name: a, command: echo 1 > x}, {name: b, command: echo 2 > x}, {name: c, command: 'true', needs: [a, b]}]")
    assert (rows["c"].state, rows["c"].cause.split(";")[0]) == (TaskState.FAILED, "both a and b hand on x, and the two differ")


def test_a_file_that_was_to_be_left_and_is_not_is_a_failure(stage: Stage) -> None:
    rows = stage.run("nodes: [{name: train, command: 'true', outputs: [model.pt, '*.log']}]")
    assert (rows["train"].state, rows["train"].cause) == (TaskState.FAILED, "it left no model.pt, *.log (outputs)")


def test_a_number_that_was_not_printed_is_a_failure_that_names_it(stage: Stage) -> None:
    rows = stage.run("nodes: [{name: train, command: echo @acc=1}, {name: use, command: 'echo {{ train.loss }}', needs: train}]")
    assert (rows["use"].state, rows["use"].cause) == (TaskState.FAILED, "{{ train.loss }}: train printed no @loss; it printed acc")


def test_all_that_needs_have_left_is_in_a_file_that_a_variable_names(stage: Stage) -> None:
    stage.run(f"""
nodes:
  - {{name: train, command: "echo @loss=0.5 && echo x > model", matrix: {{seed: [7]}}, outputs: model}}
  - {{name: prepare, command: "echo @rows=12"}}
  - {{name: use, command: "cp $OVERNIGHT_INPUTS {stage.folder}/told", needs: [train, prepare]}}
""")
    told = json.loads((stage.folder / "told").read_text())
    assert (told["schema"], told["task"], told["needs"]) == (
        "overnight/inputs/1", "use",
        {
            "train": {"seed=7": {"values": {"loss": 0.5}, "folder": "train/seed=7", "files": ["model"]}},
            "prepare": {"values": {"rows": 12.0}, "folder": ".", "files": []},
        },
    )  # fmt: skip


def test_tasks_run_in_a_copy_and_leave_the_code_alone(stage: Stage) -> None:
    before = sorted(os.listdir(stage.code))
    stage.run("nodes: [{name: a, command: echo x > y && rm train.py}]")
    assert sorted(os.listdir(stage.code)) == before


def test_a_node_runs_in_its_own_folder_inside_the_copy(stage: Stage) -> None:
    (stage.code / "sub").mkdir()
    (stage.code / "sub" / "here").write_text("")
    text = "nodes: [{name: a, command: test -e here, working_dir: sub}, {name: b, command: [test, -e, here], working_dir: sub}]"
    assert states(stage.run(text)) == {"a": "SUCCEEDED", "b": "SUCCEEDED"}


def test_data_beside_the_code_is_linked_where_a_node_names_it(stage: Stage) -> None:
    (stage.code / "venv").mkdir()  # what no parcel carries
    (stage.code / "venv" / "big.bin").write_text("data")
    assert states(stage.run("nodes: [{name: a, command: test $(cat venv/big.bin) = data, inputs: venv}]")) == {"a": "SUCCEEDED"}
