"""What becomes of a pipeline, whatever executor runs its tasks. Real processes, no doubles.

An executor that is a row of ``EXECUTORS`` is tried by it; ``stage`` is all that knows how one is made.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from commands import ENV
from overnight.conducting import Conductor, Place
from overnight.dag.fit import Card, Machine
from overnight.dag.plan import plan
from overnight.dag.read import pipeline
from overnight.dag.words import Dag, DagState, Row, TaskState
from overnight.executors import EXECUTORS
from overnight.handing import Handing
from overnight.leavings import Outputs
from overnight.models import JobSpec
from overnight.protocols import Executor
from overnight.store.pipelines import Pipelines
from overnight.workspace import Parcels
from overnight.yamls import read

PYTHON = f"{sys.executable} -I -S"


@dataclass
class Stage:
    """A place where pipelines are run: one record, one store of code, one of outputs, and an executor."""

    folder: Path
    executor: Executor
    record: Pipelines
    parcels: Parcels
    lines: list[str] = field(default_factory=list)
    slots: int = 4

    @property
    def code(self) -> Path:
        return self.folder / "code"

    def begin(self, text: str) -> Dag:
        """Write a pipeline down, with the code as it is now."""
        packed = self.parcels.pack(self.code)
        found = plan(*pipeline(read(text.encode(), "pipeline.yaml"), "pipeline.yaml"))
        dag = Dag(0, found.pipeline.name, text, "pipeline.yaml", str(self.code), packed.commit, packed.folder, 1.0, {}, {**packed.links})
        return self.record.create(dag, [task.id for task in found.tasks])

    def conduct(
        self, dag: Dag, *, cached: bool = True, stop: Callable[[], str] = lambda: "", wrap: Callable[[JobSpec], JobSpec] = lambda spec: spec
    ) -> DagState:
        """Conduct it, as whoever takes it up does."""
        found = plan(*pipeline(read(dag.text.encode(), dag.file), dag.file))
        rows = self.record.tasks(dag.number)
        handing = Handing((self.record, self.parcels, Outputs(self.folder / "outputs")), dag, found, rows, self.folder)
        machine = Machine(self.slots, (Card("0"), Card("1")), 8.0, 64.0)
        place = Place(self.folder / "runs", ENV, machine, wrap, cached)
        return Conductor(
            self.record, self.executor, (dag, found, rows, handing), place, lambda task, line: self.lines.append(f"[{task}] {line}"), stop
        ).run()

    def run(self, text: str, **more: Any) -> dict[str, Row]:
        """Run a pipeline to its end; its tasks by their ids."""
        dag = self.begin(text)
        self.conduct(dag, **more)
        return self.rows(dag)

    def rows(self, dag: Dag) -> dict[str, Row]:
        return {row.task: row for row in self.record.tasks(dag.number)}

    def marks(self) -> list[str]:
        """What tasks have written into the common file, in order."""
        file = self.folder / "marks"
        return file.read_text().split() if file.exists() else []

    def mark(self, word: str) -> str:
        """A command that writes a word into the common file."""
        return f"echo {word} >> {self.folder}/marks"


@pytest.fixture(
    params=["local", *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(EXECUTORS) if name not in ("local", "hub"))]
)  # a hub is for studies alone
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    if request.param != "local":
        request.getfixturevalue(request.param)
    module, _, name = EXECUTORS[request.param].partition(":")
    executor = getattr(importlib.import_module(module), name)(tmp_path / "jobs")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("print('@loss=0.5')\n")
    record, parcels = Pipelines(tmp_path / "dags.db"), Parcels(tmp_path / "parcels")
    yield Stage(tmp_path, executor, record, parcels)
    record.close()
    parcels.close()
    executor.close()


def states(rows: dict[str, Row]) -> dict[str, str]:
    return {name: str(row.state) for name, row in rows.items()}


def words(found: str) -> str:
    """A text of YAML in quotes."""
    return json.dumps(found)


# --- order ------------------------------------------------------------------------------------------------------------


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


def test_a_card_is_given_to_one_task_at_a_time(stage: Stage) -> None:
    own = f"mkdir {stage.folder}/card-$CUDA_VISIBLE_DEVICES && sleep 0.05 && rmdir {stage.folder}/card-$CUDA_VISIBLE_DEVICES"
    rows = stage.run(f"nodes: [{{name: many, command: {words(own)}, gpu_count: 1, matrix: {{n: [1, 2, 3, 4, 5, 6]}}}}]")
    assert set(states(rows).values()) == {"SUCCEEDED"}


# --- failure ----------------------------------------------------------------------------------------------------------


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


# --- the cache --------------------------------------------------------------------------------------------------------

CHAIN = "name: chain\nnodes: [{name: a, command: echo 1 > x; echo @rows=3}, {name: b, command: cat x, needs: a}]"


def cached(rows: dict[str, Row]) -> dict[str, int]:
    return {name: row.cached_from for name, row in rows.items()}


def test_what_has_not_changed_is_not_run_again_and_still_hands_on(stage: Stage) -> None:
    stage.run(CHAIN)
    rows = stage.run(CHAIN.replace("cat x", "cat x && echo again"))
    assert (cached(rows), states(rows), stage.lines[-4:-2]) == (
        {"a": 1, "b": 0}, {"a": "SUCCEEDED", "b": "SUCCEEDED"}, ["[a] cached: nothing changed since dag-1", "[b] not cached: the command changed since dag-1"],
    )  # fmt: skip


def test_a_third_time_names_the_pipeline_that_ran_it(stage: Stage) -> None:
    for _ in range(2):
        stage.run(CHAIN)
    assert cached(stage.run(CHAIN)) == {"a": 1, "b": 1}


def why(stage: Stage, before: str, after: str, change: Callable[[], object] = lambda: None) -> str:
    """What is said of the last task when a pipeline is run again after a change."""
    stage.run(before)
    stage.lines.clear()
    change()
    stage.run(after)
    return next((line for line in stage.lines if "cached" in line), "")


ONE = "name: one\nnodes: [{name: a, command: cat train.py%s}]"


def test_changed_code_is_named(stage: Stage) -> None:
    assert (
        why(stage, ONE % "", ONE % "", lambda: (stage.code / "train.py").write_text("new"))
        == "[a] not cached: train.py changed since dag-1"
    )


def test_new_code_is_named(stage: Stage) -> None:
    assert (
        why(stage, ONE % "", ONE % "", lambda: (stage.code / "model.py").write_text("new"))
        == "[a] not cached: model.py changed since dag-1"
    )


def test_code_that_the_inputs_do_not_name_does_not_count(stage: Stage) -> None:
    text = ONE % ", inputs: train.py"
    assert why(stage, text, text, lambda: (stage.code / "model.py").write_text("new")) == "[a] cached: nothing changed since dag-1"


def test_the_pipelines_own_file_does_not_count_as_code(stage: Stage) -> None:
    assert (
        why(stage, ONE % "", ONE % "", lambda: (stage.code / "pipeline.yaml").write_text("new"))
        == "[a] cached: nothing changed since dag-1"
    )


def test_a_changed_variable_is_named(stage: Stage) -> None:
    assert why(stage, ONE % ", env: {LR: 1}", ONE % ", env: {LR: 2}") == "[a] not cached: LR of env changed since dag-1"


def test_changed_data_outside_is_named(stage: Stage) -> None:
    data = stage.folder / "data"
    data.mkdir()
    (data / "x").write_text("1")
    text = ONE % f", inputs: {data}"
    assert why(stage, text, text, lambda: (data / "x").write_text("2")) == f"[a] not cached: {data} changed since dag-1"


def test_what_a_need_handed_on_is_named(stage: Stage) -> None:
    rows = stage.run(CHAIN)
    stage.lines.clear()
    stage.run(CHAIN.replace("rows=3", "rows=4"))
    assert (len(rows), "[b] not cached: what a handed on changed since dag-1" in stage.lines) == (2, True)


def test_a_node_without_cache_is_always_run(stage: Stage) -> None:
    text = ONE % ", cache: false"
    stage.run(text)
    assert cached(stage.run(text)) == {"a": 0}


def test_a_failure_is_not_cached(stage: Stage) -> None:
    text = "nodes: [{name: bad, command: exit 1}]"
    stage.run(text)
    assert states(stage.run(text)) == {"bad": "FAILED"}


def test_outputs_that_were_cleared_away_are_made_again(stage: Stage) -> None:
    stage.run(CHAIN)
    for file in (stage.folder / "outputs").rglob("*"):
        if file.is_file():
            file.unlink()
    rows = stage.run(CHAIN)
    assert (cached(rows)["a"], states(rows)) == (0, {"a": "SUCCEEDED", "b": "SUCCEEDED"})


# --- stopping and going on --------------------------------------------------------------------------------------------


def test_a_pipeline_that_was_left_goes_on_and_runs_nothing_twice(stage: Stage) -> None:
    dag = stage.begin(
        f"nodes: [{{name: a, command: {words(stage.mark('a'))}}}, {{name: b, command: {words(stage.mark('b'))}, needs: a}}, {{name: c, command: {words(stage.mark('c'))}, needs: b}}]"
    )
    left = stage.conduct(dag, stop=lambda: "finish" if stage.marks() else "")
    done = stage.conduct(dag)
    assert (left, done, stage.marks()) == (DagState.RUNNING, DagState.SUCCEEDED, ["a", "b", "c"])


class _Killed(BaseException):
    """Stands for the end of the conductor's process at a point of a test's choice."""


def test_a_running_job_is_adopted_by_the_next_conductor(stage: Stage) -> None:
    go = stage.folder / "go"
    dag = stage.begin(f"nodes: [{{name: a, command: {words(stage.mark('a') + f'; while [ ! -e {go} ]; do sleep 0.05; done')}}}]")

    def dies() -> str:
        if stage.marks():
            raise _Killed
        return ""

    with pytest.raises(_Killed):
        stage.conduct(dag, stop=dies)
    go.write_text("")
    assert (stage.conduct(dag), stage.marks(), stage.rows(dag)["a"].attempt) == (DagState.SUCCEEDED, ["a"], 1)


def test_a_task_that_was_written_down_and_never_submitted_is_begun_again(stage: Stage) -> None:
    dag = stage.begin(f"nodes: [{{name: a, command: {words(stage.mark('a'))}}}]")

    def dies(_spec: JobSpec) -> JobSpec:
        raise _Killed

    for _ in range(5):
        with pytest.raises(_Killed):
            stage.conduct(dag, wrap=dies)
    assert (stage.conduct(dag), stage.marks()) == (DagState.SUCCEEDED, ["a"])


def test_put_back_tasks_are_run_when_the_pipeline_goes_on(stage: Stage) -> None:
    go = stage.folder / "go"
    dag = stage.begin(f"nodes: [{{name: a, command: {words(stage.mark('a') + f'; while [ ! -e {go} ]; do sleep 0.05; done')}}}]")
    left = stage.conduct(dag, stop=lambda: "now" if stage.marks() else "")
    waiting = stage.rows(dag)["a"].state
    go.write_text("")
    assert (left, waiting, stage.conduct(dag), stage.marks()) == (DagState.RUNNING, TaskState.WAITING, DagState.SUCCEEDED, ["a", "a"])


def test_a_cancelled_pipeline_ends_what_runs_and_begins_nothing(stage: Stage) -> None:
    dag = stage.begin(
        "nodes: [{name: a, command: touch started; sleep 600}, {name: b, command: 'true', needs: a}, {name: c, command: 'true', needs: a, when: always}]"
    )

    def wish() -> str:
        if any(row.submitted for row in stage.record.tasks(dag.number)):
            stage.record.want(dag.number, "cancel")
        return ""

    state = stage.conduct(dag, stop=wish)
    assert (state, states(stage.rows(dag))) == (DagState.CANCELLED, {"a": "CANCELLED", "b": "CANCELLED", "c": "CANCELLED"})


def test_a_failed_pipeline_begins_again_where_it_failed(stage: Stage) -> None:
    mend = stage.folder / "mended"
    dag = stage.begin(
        f"nodes: [{{name: a, command: {words(stage.mark('a'))}}}, {{name: b, command: {words(f'test -e {mend}')}, needs: a}}, {{name: c, command: {words(stage.mark('c'))}, needs: b}}]"
    )
    first = stage.conduct(dag)
    mend.write_text("")
    stage.record.resume(dag.number, commit=dag.commit, folder=dag.folder, links={})
    assert (first, stage.conduct(stage.record.dag(dag.number)), stage.marks()) == (DagState.FAILED, DagState.SUCCEEDED, ["a", "c"])


def test_what_a_task_prints_is_said_in_the_seeds_shape(stage: Stage) -> None:
    stage.run("nodes: [{name: train, command: 'echo @loss=0.31'}]")
    assert (stage.lines[:2], stage.lines[2].startswith("[train] Status: SUCCEEDED (")) == (["[train] started", "[train] @loss=0.31"], True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_nodes_are_run(stage: Stage) -> None:
    rows = "".join(f"  - {{name: n{number}, command: 'true', needs: [{f'n{number // 3}' if number else ''}]}}\n" for number in range(1000))
    assert set(states(stage.run("nodes:\n" + rows)).values()) == {"SUCCEEDED"}
