"""What a pipeline's YAML means: fields, needs, matrices, order, what is skipped, what fits, and how it is drawn; every error with its line."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.dag import globs
from overnight.dag.caching import Parts, code_hash, parts_from_json, why
from overnight.dag.fit import Card, Machine, Room
from overnight.dag.graph import layers, tree
from overnight.dag.kinds import FIELDS
from overnight.dag.plan import Progress, plan
from overnight.dag.read import pipeline
from overnight.dag.svg import draw
from overnight.dag.words import Node, Pipeline, Plan, TaskState, When
from overnight.errors import UsageError
from overnight.yamls import read

SEED = (Path(__file__).parent / "seed_pipeline.yaml").read_text(encoding="utf-8")


def parsed(text: str) -> Pipeline:
    return pipeline(read(text.encode(), "pipeline.yaml"), "pipeline.yaml")[0]


def planned(text: str, *until: str) -> Plan:
    return plan(*pipeline(read(text.encode(), "pipeline.yaml"), "pipeline.yaml"), until)


def refusal(text: str) -> tuple[str, str]:
    """What is found, and why."""
    with pytest.raises(UsageError) as caught:
        planned(text)
    return caught.value.message, caught.value.why


def needs(found: Plan) -> dict[str, list[str]]:
    return {task.id: [found.tasks[need].id for need in task.needs] for task in found.tasks}


# --- reading ----------------------------------------------------------------------------------------------------------


def test_the_seeds_pipeline_is_read_as_it_is() -> None:
    found = parsed(SEED)
    assert (found.name, [(node.name, node.command, node.gpu_count, node.needs) for node in found.nodes]) == (
        "full-pipeline",
        [
            ("preprocess", "python preprocess.py", 0, ()), ("train", "python train.py", 1, ("preprocess",)),
            ("evaluate", "python evaluate.py", 0, ("train",)),
        ],
    )  # fmt: skip


def test_every_field_is_read() -> None:
    (node,) = parsed("""
name: all
description: every field
tags: [a, b]
env: {A: 1, B: 1}
defaults: {env: {B: 2, C: 2}, cpus: 2}
nodes:
  - name: train
    command: [python, train.py, --lr, 0.10]
    working_dir: sub/folder
    env: {C: 3, D: }
    gpu_count: 2
    gpu_type: H200
    vram_gb: 80
    memory_gb: 1.5
    time_limit: 2h
    retries: 3
    retry_delay: 90
    inputs: [train.py, /data/set, ~/set]
    outputs: out/**/*.pt
    when: always
    matrix: {lr: [0.10, 1e-3]}
    cache: false
""").nodes
    assert node == Node(
        name="train", line=8, command=("python", "train.py", "--lr", "0.10"), working_dir="sub/folder", env={"A": "1", "B": "2", "C": "3", "D": ""}, gpu_count=2, gpu_type="H200",
        vram_gb=80, cpus=2, memory_gb=1.5, time_limit=7200, retries=3, retry_delay=90, inputs=("train.py", "/data/set", "~/set"), outputs=("out/**/*.pt",),
        when=When.ALWAYS, matrix=(("lr", ("0.10", "1e-3")),), cache=False,
    )  # fmt: skip


NODE = "nodes:\n  - name: a\n    command: x\n    "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nodes: []", "pipeline.yaml:1: there are no nodes"),
        ("name: x", "pipeline.yaml:1: there are no nodes"),
        ("- a", "pipeline.yaml:1: a pipeline is written as names with their values, not as a list"),
        ("nodes:\n  a: {command: x}", "pipeline.yaml:2: nodes is a list, each entry after a dash, not a mapping"),
        ("nodes:\n  - command: x", "pipeline.yaml:2: a node without a name"),
        ("nodes:\n  - name: a", "pipeline.yaml:2: node 'a' has no command"),
        ("nodes:\n  - {name: a b, command: x}", "pipeline.yaml:2: name: 'a b' cannot name a node; allowed are letters, digits, _ and - of ASCII, 64 at most"),
        ("nodes:\n  - {name: a, command: x}\n  - {name: a, command: y}", "pipeline.yaml:3: a second node is named 'a'; the first is in line 2"),
        ("node: 1", "pipeline.yaml:1: a pipeline has no field 'node'; did you mean 'nodes'?"),
        (f"{NODE}gpu_cont: 1", "pipeline.yaml:4: a node has no field 'gpu_cont'; did you mean 'gpu_count'?"),
        (f"{NODE}gpu_count: one", "pipeline.yaml:4: node 'a': gpu_count: a whole number, zero or more, is wanted, not 'one'"),
        (f"{NODE}gpu_count: true", "pipeline.yaml:4: node 'a': gpu_count: a whole number, zero or more, is wanted, not 'true'"),
        (f"{NODE}retries: -1", "pipeline.yaml:4: node 'a': retries: a whole number, zero or more, is wanted, not '-1'"),
        (f"{NODE}retries: 101", "pipeline.yaml:4: node 'a': retries: at most 100 are allowed, not 101"),
        (f"{NODE}time_limit: soon", "pipeline.yaml:4: node 'a': time_limit: 'soon' is no duration; write for example 90s, 5m, 8h or 1h30m"),
        (f"{NODE}working_dir: ../x", "pipeline.yaml:4: node 'a': working_dir: '../x' is no folder inside that of the pipeline; a task runs in a fresh copy of it"),
        (f"{NODE}outputs: [a, ../b]", "pipeline.yaml:4: node 'a': outputs: '../b' is no path that can be used; '..' and control characters are not allowed"),
        (f"{NODE}outputs: /b", "pipeline.yaml:4: node 'a': outputs: '/b' is no path inside the folder of the pipeline"),
        (f"{NODE}when: never", "pipeline.yaml:4: node 'a': when: one of on_success, always, on_failure is wanted, not 'never'"),
        (f"{NODE}cache: yes", "pipeline.yaml:4: node 'a': cache: true or false is wanted, not 'yes'"),
        (f"{NODE}env: {{a-b: 1}}", "pipeline.yaml:4: node 'a': env: 'a-b' cannot name a variable; allowed are letters, digits and _ of ASCII"),
        (f"{NODE}matrix: {{s: [1, 1]}}", "pipeline.yaml:4: node 'a': matrix: 's' needs a list of values, none of them twice"),
        (f"{NODE}needs: [b]", "pipeline.yaml:4: node 'a' needs 'b', which is no node"),
        (f"{NODE}needs: a", "pipeline.yaml:4: node 'a' needs itself: a -> a"),
        (f"{NODE}needs: {{b: 1}}", "pipeline.yaml:4: node 'a': needs: a text is wanted, not a mapping"),
        ("nodes:\n  - {name: train, command: x}\ndependencies:\n  - source: trian\n    target: train", "pipeline.yaml:4: node 'train' needs 'trian', which is no node; did you mean 'train'?"),
        ("nodes:\n  - {name: train, command: x}\ndependencies:\n  - source: train\n    target: tain", "pipeline.yaml:5: there is no node 'tain'; did you mean 'train'?"),
        ("nodes:\n  - {name: a, command: x}\ndependencies:\n  - source: a", "pipeline.yaml:4: a dependency without a target"),
        (f"{NODE}command2: x", "pipeline.yaml:4: a node has no field 'command2'; did you mean 'command'?"),
        ("defaults: {needs: [a]}\nnodes: [{name: a, command: x}]", "pipeline.yaml:1: defaults has no field 'needs'"),
        ("nodes: [{name: a, command: 'x {{ matrix.seed }}'}]", "pipeline.yaml:1: node 'a': command: {{ matrix.seed }}: there is no 'seed'"),
        ("nodes: [{name: a, command: x}, {name: b, command: 'x {{ a.loss }}'}]", "pipeline.yaml:1: node 'b': command: {{ a.loss }}: 'a' is not among its needs"),
        ("nodes: [{name: a, command: x, matrix: {s: [1]}}, {name: b, needs: a, command: 'x {{ a.loss }}'}]", "pipeline.yaml:1: node 'b': command: {{ a.loss }}: there are several of 'a'"),
        ("nodes: [{name: a, command: x}, {name: b, needs: a, command: x, outputs: '{{ a.loss }}'}]", "pipeline.yaml:1: node 'b': outputs: {{ a.loss }}: paths are known before anything runs; use {{ matrix.… }}"),
        ("nodes: [{name: a, command: x, matrix: {c: [a/b, a_b]}}]", "pipeline.yaml:1: node 'a': matrix: c=a_b and c=a/b cannot be told apart in file names"),
    ],
)  # fmt: skip
def test_an_error_names_file_line_what_was_found_and_the_nearest_name(text: str, said: str) -> None:
    assert refusal(text)[0] == said


def test_a_cycle_is_shown_as_a_path_with_the_lines_that_make_it() -> None:
    text = "nodes:\n  - {name: a, command: x, needs: c}\n  - {name: b, command: x, needs: a}\n  - {name: c, command: x, needs: b}\n  - {name: d, command: x, needs: a}\n"
    assert refusal(text) == (
        "pipeline.yaml:3: these nodes wait for each other: a -> b -> c -> a", "lines 3, 4, 2 make the circle; take one of them away",
    )  # fmt: skip


def test_more_than_a_thousand_tasks_are_refused() -> None:
    text = "nodes:\n" + "".join(f"  - {{name: n{number}, command: x, matrix: {{s: [1, 2]}}}}\n" for number in range(501))
    assert refusal(text)[0] == "pipeline.yaml:502: node 'n500': with its matrix there are more than 1000 tasks; so many are allowed"


# --- planning ---------------------------------------------------------------------------------------------------------


def test_a_matrix_is_every_combination() -> None:
    assert [task.id for task in planned("nodes: [{name: a, command: x, matrix: {lr: [0.1, 0.2], seed: [0, 1]}}]").tasks] == [
        "a[lr=0.1,seed=0]", "a[lr=0.1,seed=1]", "a[lr=0.2,seed=0]", "a[lr=0.2,seed=1]",
    ]  # fmt: skip


def test_shared_keys_of_two_matrices_are_matched_and_others_gathered() -> None:
    found = planned("""
nodes:
  - {name: a, command: x, matrix: {seed: [0, 1], lr: [1, 2]}}
  - {name: b, command: x, matrix: {seed: [1, 0]}, needs: a}
  - {name: c, command: x, matrix: {seed: [0], k: [7]}, needs: b}
""")
    assert (needs(found)["b[seed=0]"], needs(found)["c[seed=0,k=7]"], [set(task.gathers) for task in found.tasks[4:]]) == (
        ["a[seed=0,lr=1]", "a[seed=0,lr=2]"], ["b[seed=0]"], [{"a"}, {"a"}, set()],
    )  # fmt: skip


def test_a_value_that_no_task_of_a_need_has_is_refused() -> None:
    text = "nodes: [{name: a, command: x, matrix: {s: [0]}}, {name: b, command: x, matrix: {s: [0, 1]}, needs: a}]"
    assert refusal(text)[0] == "pipeline.yaml:1: node 'b' needs 'a', which has no task with s=1"


def test_until_leaves_out_what_is_not_needed() -> None:
    assert [task.id for task in planned(SEED, "train").tasks] == ["preprocess", "train"]


@st.composite
def graphs(draw: st.DrawFn) -> str:
    """Pipelines without a cycle, in any order."""
    count = draw(st.integers(1, 12))
    rows = [
        f"  - {{name: n{number}, command: x, needs: {sorted(draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else [])}, when: {draw(st.sampled_from(When))}}}"
        for number in range(count)
    ]
    text = "nodes:\n" + "\n".join(draw(st.permutations(rows))) + "\n"
    return re.sub(
        r"needs: \[(.*?)\]", lambda match: "needs: [" + ", ".join(f"n{each}" for each in match[1].split(", ") if each) + "]", text
    )


@given(graphs(), st.randoms(use_true_random=False))
def test_every_task_comes_to_its_end_once_and_after_its_needs(text: str, chance: object) -> None:
    found = planned(text)
    progress = Progress(found, [TaskState.WAITING] * len(found.tasks))
    over: list[int] = []
    while progress.due or progress.skipped:
        if progress.skipped:
            over.append(progress.skipped.popleft()[0])
            continue
        position = progress.due.popleft()
        assert {need for need in found.tasks[position].needs if not progress.states[need].over} == set()
        over.append(position)
        progress.settle(position, chance.choice([TaskState.SUCCEEDED, TaskState.FAILED]))  # type: ignore[attr-defined] # hypothesis' random
    assert sorted(over) == list(range(len(found.tasks)))


@given(graphs(), st.randoms(use_true_random=False))
def test_what_is_due_after_a_restart_is_what_was_due_before(text: str, chance: object) -> None:
    found = planned(text)
    progress = Progress(found, [TaskState.WAITING] * len(found.tasks))
    for _ in range(len(found.tasks) // 2):
        if progress.due:
            progress.settle(progress.due.popleft(), chance.choice([TaskState.SUCCEEDED, TaskState.FAILED]))  # type: ignore[attr-defined] # hypothesis' random
    again = Progress(found, progress.states)
    assert (sorted(again.due), again.states) == (sorted(progress.due), progress.states)


# --- what counts for the cache ----------------------------------------------------------------------------------------

FILES = {"train.py": ("100644", "1"), "lib/a.py": ("100644", "2"), "lib/deep/b.py": ("100644", "3"), "notes.md": ("100644", "4")}


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("train.py", ["train.py"]), ("lib", ["lib/a.py", "lib/deep/b.py"]), ("*.py", ["train.py"]), ("**/*.py", ["train.py", "lib/a.py", "lib/deep/b.py"]), ("lib/*", ["lib/a.py"]),
        ("lib/**", ["lib/a.py", "lib/deep/b.py"]), ("[mn]otes.md", ["notes.md"]), ("[!m]otes.md", ["notes.md"]), ("?otes.md", ["notes.md"]), ("rain.py", []), ("lib/a", []),
    ],
)  # fmt: skip
def test_a_pattern_names_what_a_shell_would(pattern: str, found: list[str]) -> None:
    assert [path for path in FILES if globs.is_named(path, (pattern,))] == found


def test_code_that_is_not_named_does_not_count() -> None:
    other = {**FILES, "notes.md": ("100644", "9")}
    assert (code_hash(FILES, ("*.py",)) == code_hash(other, ("*.py",)), code_hash(FILES, ()) == code_hash(other, ())) == (True, False)


def test_parts_come_back_as_they_were_written_and_have_their_key() -> None:
    parts = Parts(("a", "b"), "d", {"A": "1"}, None, "code", {"/x": "1"}, {"n": "2"}, "commit", ("s",))
    assert (parts_from_json(parts.to_json()), parts_from_json(parts.to_json()).key) == (parts, parts.key)


def test_many_changed_files_are_counted() -> None:
    parts = Parts(("x",), "", {}, None, "1")
    assert why(parts, Parts(("x",), "", {}, None, "2"), ["a", "b", "c", "d", "e"]) == "a, b, c and 2 more changed"


# --- what fits --------------------------------------------------------------------------------------------------------

CARDS = (Card("0", "NVIDIA A100-SXM4-80GB", 79.6), Card("1", "NVIDIA GeForce RTX 3090", 24.0), Card("2"))


@pytest.mark.parametrize(
    ("node", "fits"),
    [
        (Node("a", 1, "x"), ["0", "1", "2"]), (Node("a", 1, "x", gpu_type="a100"), ["0", "2"]), (Node("a", 1, "x", vram_gb=80), ["0", "2"]),
        (Node("a", 1, "x", gpu_type="rtx_3090"), ["1", "2"]),
    ],
)  # fmt: skip
def test_a_card_fits_by_kind_and_memory_as_far_as_is_known(node: Node, fits: list[str]) -> None:
    assert [card.name for card in CARDS if card.fits(node)] == fits


def test_a_node_that_no_card_fits_is_refused_with_its_line_and_a_way_on() -> None:
    with pytest.raises(UsageError) as caught:
        Machine(1, ()).check(parsed(SEED))
    assert (caught.value.message, caught.value.fix) == (
        "pipeline.yaml:5: node 'train' wants 1 GPU; here are 0", "overnight dag run pipeline.yaml --gpus 0   # says that they are there",
    )  # fmt: skip


def test_memory_and_processors_are_shared_out() -> None:
    room = Room(Machine(8, (), 4.0, 16.0))
    node = Node("a", 1, "x", cpus=2, memory_gb=6)
    taken = [room.take(position, node) for position in range(3)]
    room.give_back(0)
    assert (taken, room.take(3, node)) == ([(), (), None], ())


# --- drawing ----------------------------------------------------------------------------------------------------------

DIAMOND = """
name: <b>&
nodes:
  - {name: load, command: "x > y"}
  - {name: train, command: x, needs: load, matrix: {seed: [0, 1, 2]}, gpu_count: 1}
  - {name: check, command: x, needs: load}
  - {name: report, command: x, needs: [train, check, load], when: always}
"""


def test_a_pipeline_is_drawn_as_a_tree() -> None:
    assert tree(parsed(DIAMOND)) == [
        "load", "├─ train \N{MULTIPLICATION SIGN}3 (seed=0, 1, 2) [1 GPU]", "└─ check", "   └─ report (always) also after train, load",
    ]  # fmt: skip


def test_layers_are_the_longest_way() -> None:
    assert layers(parsed(DIAMOND)) == {"load": 0, "train": 1, "check": 1, "report": 2}


def test_the_picture_is_whole_and_nothing_in_it_is_code() -> None:
    found = ET.fromstring(draw(parsed(DIAMOND)))  # noqa: S314 - our own picture
    texts = [item.text for item in found.iter("{http://www.w3.org/2000/svg}text")]
    assert (found.get("aria-label"), texts, len(list(found.iter("{http://www.w3.org/2000/svg}path")))) == (
        "<b>&", ["load", "train", "\N{MULTIPLICATION SIGN}3 · 1 GPU", "check", "report", "always"], 5,
    )  # fmt: skip


def test_a_thousand_nodes_are_planned_and_followed_to_their_end() -> None:
    rows = "".join(
        f"  - {{name: n{number}, command: x, needs: [{', '.join(f'n{need}' for need in range(max(0, number - 3), number))}]}}\n"
        for number in range(1000)
    )
    found = planned("nodes:\n" + rows)
    progress = Progress(found, [TaskState.WAITING] * 1000)
    while progress.due:
        progress.settle(progress.due.popleft(), TaskState.SUCCEEDED)
    assert (set(progress.states), len(tree(found.pipeline)), draw(found.pipeline).count("<rect")) == ({TaskState.SUCCEEDED}, 1000, 1000)


# --- the page about it ------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[1] / "docs" / "pipelines.md").read_text(encoding="utf-8")


def test_every_pipeline_of_the_page_can_be_run_and_the_first_is_the_seeds() -> None:
    found = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert ([len(planned(text).tasks) for text in found], found[0]) == ([3, 8], SEED)


def test_every_field_has_its_place_on_the_page() -> None:
    assert [name for name in FIELDS if f"`{name}`" not in PAGE] == []
