"""``overnight dag`` and ``overnight.dag_from_yaml``, as a person types and writes them."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from commands import until
from overnight.testing import git
from pipelines import SEED, STAGES, Project, lines, project, quoted


@pytest.fixture
def seed(tmp_path: Path) -> Project:
    """The seed's pipeline."""
    return project(tmp_path)


def test_the_seeds_pipeline_runs_as_it_is_and_is_told_in_the_seeds_shape(seed: Project) -> None:
    found = seed.dag("run", "pipeline.yaml")
    assert (found.code, lines(found)) == (
        0,
        [
            "[dag] dag-1: full-pipeline, 3 tasks", "[preprocess] started", "[preprocess] Status: SUCCEEDED", "[train] started (GPU 0)", "[train] @loss=0.31",
            "[train] Status: SUCCEEDED", "[evaluate] started", "[evaluate] @mpjpe=3.5", "[evaluate] Status: SUCCEEDED", "[dag] dag-1 SUCCEEDED: 3 succeeded",
        ],
    )  # fmt: skip


def test_the_seeds_call_begins_the_pipeline_and_gives_a_handle(seed: Project) -> None:
    found = seed.python(f'''
import overnight
handle = overnight.dag_from_yaml(yaml_content="""
{SEED}""")
print(handle.id, handle.wait(60), handle.metrics("evaluate"), [node["state"] for node in handle.status()["nodes"]])
''')
    assert (found.err, found.out) == ("", "dag-1 SUCCEEDED {'mpjpe': 3.5} ['SUCCEEDED', 'SUCCEEDED', 'SUCCEEDED']\n")


def test_a_handle_cancels(tmp_path: Path) -> None:
    found = project(tmp_path, files={}).python("""
import overnight
handle = overnight.dag_from_yaml(yaml_content="nodes: [{name: long, command: sleep 600}]")
print(handle.cancel(), overnight.DagRun(handle.id).state)
""")
    assert (found.err, found.out) == ("", "CANCELLED CANCELLED\n")


def test_a_second_time_nothing_is_run_and_that_is_said(seed: Project) -> None:
    seed.dag("run", "pipeline.yaml")
    assert lines(seed.dag("run", "pipeline.yaml"))[1:] == [
        "[preprocess] cached: nothing changed since dag-1", "[train] cached: nothing changed since dag-1", "[evaluate] cached: nothing changed since dag-1",
        "[dag] dag-2 SUCCEEDED: 3 cached",
    ]  # fmt: skip


def test_a_failed_node_ends_with_six_and_says_how_to_go_on(tmp_path: Path) -> None:
    found = project(tmp_path, files={**STAGES, "train.py": "raise ValueError('no')\n"})
    said = found.dag("run", "pipeline.yaml")
    assert (said.code, said.out.splitlines()[-4:], found.dag("status", "--exit-status").code) == (
        6,
        [
            "[train] last words: ValueError: no", "[evaluate] Status: SKIPPED (train failed)", "[dag] dag-1 FAILED: 1 succeeded, 1 failed, 1 skipped",
            "[dag] output: overnight dag log dag-1 'train'   ·   mend it, then: overnight dag resume dag-1",
        ],
        6,
    )  # fmt: skip


def test_resume_begins_at_the_failed_node_with_the_code_as_it_is_now(tmp_path: Path) -> None:
    found = project(tmp_path, files={**STAGES, "train.py": "raise ValueError('no')\n"})
    found.dag("run", "pipeline.yaml")
    (found.root / "train.py").write_text(STAGES["train.py"])
    said = found.dag("resume", "dag-1")
    assert (said.code, lines(said)[1], found.rows("SELECT position, attempt, state FROM attempt ORDER BY 1, 2")) == (
        0, "[dag] train.py changed since dag-1 began: what is left runs with the code as it is now",
        [(0, 1, "SUCCEEDED"), (1, 1, "FAILED"), (1, 2, "SUCCEEDED"), (2, 1, "SUCCEEDED")],
    )  # fmt: skip


def test_resume_with_the_code_as_it_was_fails_as_before(tmp_path: Path) -> None:
    found = project(tmp_path, files={**STAGES, "train.py": "raise ValueError('no')\n"})
    found.dag("run", "pipeline.yaml")
    (found.root / "train.py").write_text(STAGES["train.py"])
    with (found.root / "pipeline.yaml").open("a") as file:
        file.write("# other nodes\n")
    said = found.dag("resume", "--code", "begun")
    other = "[dag] the nodes are those that dag-1 began with; for those of pipeline.yaml now: overnight dag run pipeline.yaml"
    assert (said.code, lines(said)[1]) == (6, other)


def test_a_pipeline_in_the_background_is_watched_to_its_end(seed: Project) -> None:
    begun = seed.dag("run", "pipeline.yaml", "--detach", "--json").json
    watched = seed.dag("watch", begun["id"])
    again = seed.dag("watch", "--json").json
    assert (watched.code, lines(watched)[-2:], again["state"]) == (
        0, ["[evaluate] Status: SUCCEEDED", "[dag] dag-1 SUCCEEDED: 3 succeeded"], "SUCCEEDED",
    )  # fmt: skip


def test_a_pipeline_in_the_background_is_cancelled_with_all_its_tasks(tmp_path: Path, mark: str) -> None:
    found = project(tmp_path, f"nodes: [{{name: long, command: sleep {mark}}}, {{name: after, command: 'true', needs: long}}]", {})
    found.dag("run", "pipeline.yaml", "--detach")
    until(lambda: found.states() == {"long": "RUNNING", "after": "WAITING"})
    said = found.dag("cancel", "dag-1", "--json").json
    assert (said["state"], [node["state"] for node in said["nodes"]]) == ("CANCELLED", ["CANCELLED", "CANCELLED"])


def test_a_pipeline_whose_conductor_was_killed_is_cancelled_by_whoever_asks(tmp_path: Path, mark: str) -> None:
    found = project(tmp_path, f"nodes: [{{name: long, command: sleep {mark}}}]", {})
    conductor = found.spawn("run", "pipeline.yaml")
    until(lambda: found.rows("SELECT submitted FROM task") == [(1,)])
    conductor.kill()
    conductor.wait()
    before = found.seen()["state"]
    assert (before, found.dag("cancel", "1").code, found.seen()["state"]) == ("INTERRUPTED", 0, "CANCELLED")


def test_the_next_run_of_an_interrupted_pipeline_goes_on_with_it(tmp_path: Path) -> None:
    go = tmp_path / "go"
    found = project(
        tmp_path, f"nodes: [{{name: a, command: {quoted(f'echo x >> {tmp_path}/marks; while [ ! -e {go} ]; do sleep 0.05; done')}}}]", {}
    )
    conductor = found.spawn("run", "pipeline.yaml")
    until((tmp_path / "marks").exists)
    conductor.kill()
    conductor.wait()
    go.write_text("")
    said = found.dag("run", "pipeline.yaml")
    assert (said.code, said.out.splitlines()[1], (tmp_path / "marks").read_text()) == (
        0,
        "[dag] dag-1 of this pipeline was interrupted: going on with it",
        "x\n",
    )


def test_an_interrupt_lets_what_runs_finish_and_begins_nothing_more(tmp_path: Path) -> None:
    go = tmp_path / "go"
    wait = f"touch {tmp_path}/begun; while [ ! -e {go} ]; do sleep 0.05; done"
    found = project(tmp_path, f"nodes: [{{name: a, command: {quoted(wait)}}}, {{name: b, command: 'true', needs: a}}]", {})
    conductor = found.spawn("run", "pipeline.yaml")
    until((tmp_path / "begun").exists)
    conductor.send_signal(signal.SIGINT)
    until(lambda: "what runs is finished first" in found.said.read_text())
    go.write_text("")
    assert (conductor.wait(), found.states(), found.seen()["state"]) == (130, {"a": "SUCCEEDED", "b": "WAITING"}, "INTERRUPTED")


def test_a_wish_to_cancel_that_nobody_has_heard_yet_outlives_a_resume(tmp_path: Path) -> None:
    found = project(tmp_path, "nodes: [{name: long, command: sleep 600}]", {})
    conductor = found.spawn("run", "pipeline.yaml")
    until(lambda: found.rows("SELECT submitted FROM task") == [(1,)])
    conductor.kill()
    conductor.wait()
    with closing(sqlite3.connect(found.hub / "dags.db")) as db, db:
        db.execute("UPDATE dag SET wanted='cancel'")
    assert (found.dag("resume", "1").code, found.seen()["state"]) == (1, "CANCELLED")


def test_code_that_is_named_as_a_module_of_ours_does_not_get_in_the_way(tmp_path: Path) -> None:
    bad = "raise SystemExit('not mine')\n"
    found = project(tmp_path, "nodes: [{name: a, command: 'true'}]", {"yaml.py": bad, "sqlite3.py": bad, "overnight.py": bad})
    begun = found.python(
        "import sys; sys.path.remove(''); import overnight; print(overnight.dag_from_yaml(open('pipeline.yaml').read()).wait(60))"
    )
    assert (begun.err, begun.out) == ("", "SUCCEEDED\n")


def test_only_one_conducts(tmp_path: Path, mark: str) -> None:
    found = project(tmp_path, f"nodes: [{{name: long, command: sleep {mark}}}]", {})
    found.dag("run", "pipeline.yaml", "--detach")
    assert (found.dag("resume", "dag-1").refusal, found.dag("cancel", "dag-1").code) == (("E-BUSY", 1), 0)


def test_tasks_stand_behind_the_walls_of_runs(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    peek = f"cat {tmp_path}/secret; echo y > {tmp_path}/project/train.py; test -e {tmp_path}/secret"
    found = project(
        tmp_path,
        f"nodes: [{{name: peek, command: {quoted(peek)}}}, {{name: stage, command: python preprocess.py && test -s clean.csv}}]",
        OVERNIGHT_UNSAFE_NO_SANDBOX="0",
    )
    said = found.dag("run", "pipeline.yaml")
    assert (said.code, found.states(), (found.root / "train.py").read_text()) == (
        6,
        {"peek": "FAILED", "stage": "SUCCEEDED"},
        STAGES["train.py"],
    )


DATA = {"read.py": "print(open('data/x').read())\n", ".gitignore": "data\n"}


def _with_data(folder: Path, inputs: str, **files: str) -> Project:
    """A checkout whose data git ignores."""
    found = project(folder, f"nodes: [{{name: read, command: python read.py{inputs}}}]", {**DATA, **files}, OVERNIGHT_UNSAFE_NO_SANDBOX="0")
    (found.root / "data").mkdir()
    (found.root / "data" / "x").write_text("1")
    git(found.root, "init", "-q")
    return found


def test_data_beside_the_code_that_a_task_has_missed_is_named(tmp_path: Path) -> None:
    said = _with_data(tmp_path, "").dag("run", "pipeline.yaml")
    assert (
        said.code,
        "[read] data/x is there, but a task sees the code and what it names: write inputs: data/x" in said.out.splitlines(),
    ) == (6, True)


def test_data_beside_the_code_is_seen_behind_walls_where_it_is_named(tmp_path: Path) -> None:
    assert _with_data(tmp_path, ", inputs: data").dag("run", "pipeline.yaml").code == 0


def test_data_that_the_settings_name_is_seen_by_every_task(tmp_path: Path) -> None:
    assert _with_data(tmp_path, "", **{"overnight.toml": 'data = ["data/x"]\n'}).dag("run", "pipeline.yaml").code == 0


def test_a_pipeline_is_drawn_before_and_after_it_was_run(seed: Project) -> None:
    before = seed.dag("graph", "pipeline.yaml").out
    seed.dag("run", "pipeline.yaml")
    picture = seed.dag("graph", "dag-1", "--svg", "picture.svg")
    assert (before, seed.dag("graph", "dag-1").out, picture.out, (seed.root / "picture.svg").read_text()[:5]) == (
        "preprocess\n└─ train [1 GPU]\n   └─ evaluate\n", "preprocess ✔\n└─ train [1 GPU] ✔\n   └─ evaluate ✔\n", "dag-1 is drawn in picture.svg\n", "<svg ",
    )  # fmt: skip


def test_pipelines_are_listed_and_their_output_is_shown(seed: Project) -> None:
    seed.dag("run", "pipeline.yaml")
    (row,) = seed.dag("ls", "--json").json["dags"]
    assert (row["id"], row["state"], row["tasks"], seed.dag("log", "dag-1", "train").out) == (
        "dag-1",
        "SUCCEEDED",
        {"SUCCEEDED": 3},
        "@loss=0.31\n",
    )


def test_until_runs_only_what_a_node_needs(seed: Project) -> None:
    assert (seed.dag("run", "pipeline.yaml", "--until", "train").code, seed.states()) == (
        0,
        {"preprocess": "SUCCEEDED", "train": "SUCCEEDED"},
    )


def test_standard_output_is_one_object_with_json(seed: Project) -> None:
    found = seed.dag("run", "pipeline.yaml", "--json")
    told = json.loads(found.out)
    assert (told["schema"], told["id"], told["nodes"][1]["metrics"], "[train] @loss=0.31" in found.err) == (
        "overnight/dag/1",
        "dag-1",
        {"loss": 0.31},
        True,
    )


def test_a_pipeline_in_a_checkout_is_packed_with_what_is_not_committed(tmp_path: Path) -> None:
    found = project(
        tmp_path,
        "nodes: [{name: a, command: test -e new.py && test ! -e ignored, working_dir: .}]",
        {".gitignore": "ignored\n", "ignored": "x"},
    )
    git(found.root, "init", "-q")
    git(found.root, "add", "-A")
    (found.root / "new.py").write_text("")
    assert found.dag("run", "pipeline.yaml").code == 0


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("run", "absent.yaml"), ("E-NO-FILE", 3)), (("run", "."), ("E-NO-FILE", 3)), (("run", "bad.yaml"), ("E-YAML", 2)), (("run", "cycle.yaml"), ("E-PIPELINE", 2)),
        (("run", "pipeline.yaml", "--executor", "locl"), ("E-NO-EXECUTOR", 2)), (("run", "pipeline.yaml", "--until", "trian"), ("E-NO-NODE", 2)), (("run",), ("E-USAGE", 2)),
        (("status", "dag-7"), ("E-NO-DAG", 3)), (("status", "x"), ("E-BAD-ID", 2)), (("resume", "7"), ("E-NO-DAG", 3)), (("cancel", "7"), ("E-NO-DAG", 3)),
        (("log", "dag-1", "x"), ("E-NO-DAG", 3)), (("watch",), ("E-NO-DAG", 3)), (("graph", "bad.yaml"), ("E-YAML", 2)), (("run", "pipeline.yaml", "--workdir", "/nowhere"), ("E-NO-FOLDER", 2)),
    ],
    ids=lambda found: " ".join(found) if isinstance(found[0], str) and not found[0].startswith("E-") else "",
)  # fmt: skip
def test_bad_input_is_one_clear_error(seed: Project, words: tuple[str, ...], refusal: tuple[str, int]) -> None:
    (seed.root / "bad.yaml").write_text("a: &x 1\nb: *x\n")
    (seed.root / "cycle.yaml").write_text("nodes: [{name: a, command: x, needs: b}, {name: b, command: x, needs: a}]")
    assert seed.dag(*words).refusal == refusal


def test_a_task_that_does_not_exist_is_named_with_the_nearest(seed: Project) -> None:
    seed.dag("run", "pipeline.yaml")
    assert "did you mean 'train'?" in seed.dag("log", "dag-1", "trian").err


def test_a_node_that_wants_a_gpu_where_there_is_none_is_refused_before_anything_runs(seed: Project) -> None:
    found = seed.dag("run", "pipeline.yaml", OVERNIGHT_GPUS="", CUDA_VISIBLE_DEVICES="")
    assert (found.refusal, seed.dag("status").refusal) == (("E-NO-GPU", 2), ("E-NO-DAG", 3))


def test_a_pipeline_that_writes_terminal_codes_is_shown_without_them(tmp_path: Path) -> None:
    found = project(tmp_path, 'name: "\\e[31mred"\nnodes: [{name: a, command: "printf \'\\\\033[31mred @loss=1\\\\n\'; exit 1"}]', {})
    said = found.dag("run", "pipeline.yaml").out + found.dag("status").out + found.dag("ls").out + found.dag("log", "dag-1", "a").out
    assert "\x1b" not in said
