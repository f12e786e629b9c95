"""A pipeline as lines for a terminal: each node under the last of its needs, a matrix as one line with its count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from overnight.dag.words import Node, Pipeline, Plan, TaskState
from overnight.printable import clean

_SHAPES = {
    TaskState.WAITING: "·", TaskState.RUNNING: "▶", TaskState.SUCCEEDED: "✔", TaskState.FAILED: "✖", TaskState.TIMED_OUT: "✖",
    TaskState.CANCELLED: "◼", TaskState.SKIPPED: "↷",
}  # fmt: skip


def counts(node: Node) -> int:
    """How many tasks a node has."""
    total = 1
    for _, values in node.matrix:
        total *= len(values)
    return total


def marks(plan: Plan, states: Sequence[TaskState]) -> dict[str, str]:
    """What has become of each node, in signs and words: ``✔`` or ``✔ 2 of 3``."""
    by_node: dict[str, Counter[TaskState]] = {}
    for task, state in zip(plan.tasks, states, strict=True):
        by_node.setdefault(task.node.name, Counter())[state] += 1
    return {
        name: " ".join(_SHAPES[state] + (f"{count}" if found.total() > 1 else "") for state, count in found.items())
        for name, found in by_node.items()
    }


def tree(pipeline: Pipeline, said: Mapping[str, str] = {}) -> list[str]:
    """One line for each node; ``said`` is put behind its name. Needs other than the one above a node stand behind ``also after``."""
    depth = layers(pipeline)
    order = {node.name: number for number, node in enumerate(pipeline.nodes)}
    parent = {node.name: max(node.needs, key=lambda need: (depth[need], order[need])) for node in pipeline.nodes if node.needs}
    children: dict[str, list[Node]] = {}
    for node in pipeline.nodes:
        children.setdefault(parent.get(node.name, ""), []).append(node)
    lines: list[str] = []
    todo: list[tuple[Node, str, str]] = [(node, "", "") for node in reversed(children.get("", []))]
    while todo:
        node, head, below = todo.pop()
        lines.append(head + _line(node, parent.get(node.name, ""), said.get(node.name, "")))
        inner = children.get(node.name, [])
        deep = len(below) > 120  # a chain of hundreds would be drawn off the screen
        for number, child in reversed(list(enumerate(inner))):
            last = number == len(inner) - 1
            todo.append(
                (
                    child,
                    (below if not deep else below[:120]) + ("└─ " if last else "├─ "),
                    below if deep else below + ("   " if last else "│  "),
                )
            )
    return lines


def _line(node: Node, parent: str, said: str) -> str:
    words = [node.name]
    if node.matrix:
        axes = (f"{key}={clean(', '.join(values), limit=40)}" for key, values in node.matrix)
        words.append(f"\N{MULTIPLICATION SIGN}{counts(node)} ({'; '.join(axes)})")
    if node.gpu_count:
        words.append(f"[{node.gpu_count} GPU]")
    if node.when != "on_success":
        words.append(f"({node.when})")
    if others := [need for need in node.needs if need != parent]:
        words.append(f"also after {', '.join(others)}")
    return " ".join([*words, *([said] if said else [])])


def layers(pipeline: Pipeline) -> dict[str, int]:
    """The longest way from a node without needs to each node."""
    nodes = {node.name: node for node in pipeline.nodes}
    found: dict[str, int] = {}
    for name in nodes:
        todo = [name]
        while todo:
            missing = [need for need in nodes[todo[-1]].needs if need not in found]
            if missing:
                todo += missing
            else:
                at = todo.pop()
                found[at] = 1 + max((found[need] for need in nodes[at].needs), default=-1)
    return found
