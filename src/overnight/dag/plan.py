"""From a pipeline to its tasks: matrices expanded, needs matched, everything in an order in which it can run; and what is due when."""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Mapping, Sequence

from overnight.dag.filling import check
from overnight.dag.read import Lines, refused
from overnight.dag.words import MOST_EDGES, MOST_TASKS, Node, Pipeline, Plan, Task, TaskState, When
from overnight.errors import UsageError, nearest


def plan(pipeline: Pipeline, lines: Lines, until: Sequence[str] = ()) -> Plan:
    """Every task in an order in which it can run; with ``until`` only these nodes and what they need.

    Raises ``UsageError`` (E-PIPELINE): a cycle with its path, too many tasks, a need without a match, a placeholder that cannot be filled.
    """
    nodes = {node.name: node for node in pipeline.nodes}
    order = _ordered(pipeline, nodes, lines)
    wanted = _needed(nodes, until) if until else set(order)
    tasks: list[Task] = []
    instances: dict[str, list[Task]] = {}
    followers: list[list[int]] = []
    edges = 0
    for name in order:
        if name not in wanted:
            continue
        node = nodes[name]
        gathers = frozenset(need for need in node.needs if not {key for key, _ in nodes[need].matrix} <= {key for key, _ in node.matrix})
        check(pipeline, node, gathers)
        for task in _expanded(pipeline, node, len(tasks), instances, gathers):
            tasks.append(task)
            followers.append([])
            edges += len(task.needs)
            if len(tasks) > MOST_TASKS or edges > MOST_EDGES:
                what = f"{MOST_TASKS} tasks" if len(tasks) > MOST_TASKS else f"{MOST_EDGES} dependencies between tasks"
                raise refused(pipeline.file, node.line, f"node '{name}': with its matrix there are more than {what}; so many are allowed")
            for need in task.needs:
                followers[need].append(task.position)
            instances.setdefault(name, []).append(task)
    return Plan(pipeline, tuple(tasks), tuple(map(tuple, followers)))


def _expanded(pipeline: Pipeline, node: Node, first: int, instances: Mapping[str, list[Task]], gathers: frozenset[str]) -> list[Task]:
    made = []
    slugs: dict[str, str] = {}
    for offset, values in enumerate(itertools.product(*(choices for _, choices in node.matrix))):
        matrix = tuple(zip((key for key, _ in node.matrix), values, strict=True))
        own = dict(matrix)
        needs: list[int] = []
        for need in node.needs:
            found = [each.position for each in instances[need] if all(own.get(key, value) == value for key, value in each.matrix)]
            if not found:
                shared = ", ".join(f"{key}={own[key]}" for key, _ in instances[need][0].matrix if key in own)
                raise refused(pipeline.file, node.line, f"node '{node.name}' needs '{need}', which has no task with {shared}")
            needs += found
        text = ",".join(f"{key}={value}" for key, value in matrix)
        if (other := slugs.setdefault(slug(text), text)) != text:
            raise refused(pipeline.file, node.line, f"node '{node.name}': matrix: {text} and {other} cannot be told apart in file names")
        made.append(Task(f"{node.name}[{text}]" if matrix else node.name, node, first + offset, matrix, tuple(needs), gathers))
    return made


def slug(instance: str) -> str:
    """An instance's name as a folder: ``config=a_b.yaml``."""
    return re.sub(r"[^A-Za-z0-9_.+=,-]", "_", instance)


def _ordered(pipeline: Pipeline, nodes: Mapping[str, Node], lines: Lines) -> list[str]:
    """Names such that each comes after its needs, else in the order written. Raises ``UsageError`` with the path of a cycle."""
    left = {name: len(node.needs) for name, node in nodes.items()}
    after: dict[str, list[str]] = {name: [] for name in nodes}
    for name, node in nodes.items():
        for need in node.needs:
            after[need].append(name)
    ready = deque(name for name, count in left.items() if not count)
    order = []
    while ready:
        name = ready.popleft()
        order.append(name)
        for follower in after[name]:
            left[follower] -= 1
            if not left[follower]:
                ready.append(follower)
    if len(order) < len(nodes):
        raise _cycle(pipeline, {name: nodes[name] for name, count in left.items() if count}, lines)
    return order


def _cycle(pipeline: Pipeline, stuck: Mapping[str, Node], lines: Lines) -> UsageError:
    """The error that shows a cycle: from any stuck node back along its needs until one comes again."""
    path = [next(iter(stuck))]
    while path.count(path[-1]) < 2:
        path.append(next(need for need in stuck[path[-1]].needs if need in stuck))
    path = path[path.index(path[-1]) :][::-1]
    at = [lines[pair] for pair in itertools.pairwise(path)]
    shown = path if len(path) <= 12 else [*path[:6], "…", *path[-5:]]
    why = f"lines {', '.join(map(str, at[:12]))}{' …' if len(at) > 12 else ''} make the circle; take one of them away"
    return refused(pipeline.file, at[0], f"these nodes wait for each other: {' -> '.join(shown)}", why=why)


def _needed(nodes: Mapping[str, Node], until: Sequence[str]) -> set[str]:
    """The nodes named, and all that they need."""
    todo, seen = list(until), set[str]()
    while todo:
        name = todo.pop()
        if name not in nodes:
            why = f"the nodes are {', '.join(list(nodes)[:12])}"
            raise UsageError(
                "E-NO-NODE", f"there is no node '{name}'{nearest(name, nodes)}", why=why, fix="overnight dag graph pipeline.yaml"
            )
        if name not in seen:
            seen.add(name)
            todo += nodes[name].needs
    return seen


class Progress:
    """What is due, given what has become of each task; every step costs no more than the followers of a task."""

    def __init__(self, found: Plan, states: Sequence[TaskState]) -> None:
        self._plan = found
        self._blame: dict[int, str] = {}  # a task that failed, or was skipped because of one -> whose failure it was
        self.states = [TaskState.WAITING] * len(found.tasks)
        self._left = [len(task.needs) for task in found.tasks]
        self._known = {position: state for position, state in enumerate(states) if state.over}
        self.due: deque[int] = deque()
        self.skipped: deque[tuple[int, str]] = deque()  # to be written down, with the reason
        for task in found.tasks:  # in order: whatever a task needs has been looked at before
            if task.position in self._known and self._known[task.position] is not TaskState.SKIPPED:
                self._close(task.position, self._known[task.position])
            elif not task.needs:
                self.due.append(task.position)

    def settle(self, position: int, state: TaskState) -> None:
        """A task is over: see who is due, and who is skipped."""
        self._close(position, state)

    def _close(self, position: int, state: TaskState) -> None:
        todo = [(position, state)]
        while todo:
            closed, became = todo.pop()
            self.states[closed] = became
            if became.failed:
                self._blame[closed] = self._plan.tasks[closed].id
            for follower in self._plan.followers[closed]:
                self._left[follower] -= 1
                if self._left[follower] or (follower in self._known and self._known[follower] is not TaskState.SKIPPED):
                    continue
                if reason := self._held_back(self._plan.tasks[follower]):
                    if self._known.get(follower) is not TaskState.SKIPPED:
                        self.skipped.append((follower, reason))
                    todo.append((follower, TaskState.SKIPPED))
                else:
                    self.due.append(follower)

    def _held_back(self, task: Task) -> str:
        """Why a task whose needs are over is not run; empty if it is."""
        if task.node.when is When.ALWAYS:
            return ""
        blamed = [need for need in task.needs if need in self._blame]
        if task.node.when is When.ON_FAILURE:
            return "" if blamed else "nothing that it needs has failed"
        if blamed:
            self._blame[task.position] = self._blame[blamed[0]]
            return f"{self._blame[blamed[0]]} failed"
        other = next((need for need in task.needs if self.states[need] is not TaskState.SUCCEEDED), None)
        return f"{self._plan.tasks[other].id} was {self.states[other].lower()}" if other is not None else ""
