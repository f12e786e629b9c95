"""What becomes of a pipeline that is run again, goes on, or is ended, whatever executor runs its tasks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from overnight.dag.words import DagState, Row, TaskState
from overnight.models import JobSpec
from stages import Stage, states, words

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


@pytest.mark.core
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


@pytest.mark.core
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
