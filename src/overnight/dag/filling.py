"""Placeholders in commands, variables and outputs: ``{{ matrix.seed }}`` and ``{{ train.loss }}``, numbers that a need has printed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from overnight.dag.read import refused
from overnight.dag.words import Node, Pipeline, Task
from overnight.errors import UsageError, nearest

_PLACE = re.compile(r"\{\{\s*([A-Za-z0-9_-]+)\.([^{}\s]+)\s*\}\}")
_OF_MANY: dict[str, Callable[[list[float]], float]] = {"min": min, "max": max, "mean": lambda numbers: sum(numbers) / len(numbers)}
Values = Mapping[str, Mapping[str, Mapping[str, float]]]  # node -> instance ("" where there is but one) -> metric -> last value


def texts(node: Node) -> Iterator[tuple[str, str]]:
    """Every text of a node that may hold placeholders, with the field's name."""
    yield from (("command", word) for word in ((node.command,) if isinstance(node.command, str) else node.command))
    yield from (("env", value) for value in node.env.values())
    yield from (("outputs", path) for path in node.outputs or ())
    yield from (("inputs", path) for path in node.inputs)


def check(pipeline: Pipeline, node: Node, gathered: frozenset[str]) -> None:
    """Refuse a placeholder that no run could ever fill. Raises ``UsageError`` (E-PIPELINE)."""
    axes = dict(node.matrix)
    for field, found in texts(node):
        for match in _PLACE.finditer(found):
            who, what = match[1], match[2]
            if who == "matrix":
                if what not in axes:
                    why = f"its matrix has {', '.join(axes)}" if axes else "it has no matrix"
                    raise _no(pipeline, node, field, match[0], f"there is no '{what}'{nearest(what, axes)}", why)
            elif who not in node.needs:
                why = f"it needs {', '.join(node.needs)}" if node.needs else "it needs no node"
                raise _no(pipeline, node, field, match[0], f"'{who}' is not among its needs{nearest(who, node.needs)}", why)
            elif field in ("outputs", "inputs"):
                raise _no(pipeline, node, field, match[0], "paths are known before anything runs; use {{ matrix.… }}", "")
            elif who in gathered and what.rpartition(".")[2] not in _OF_MANY:
                raise _no(
                    pipeline, node, field, match[0], f"there are several of '{who}'", f"write {{{{ {who}.{what}.mean }}}}, .min or .max"
                )


def _no(pipeline: Pipeline, node: Node, field: str, place: str, what: str, why: str) -> UsageError:
    return refused(pipeline.file, node.line, f"node '{node.name}': {field}: {place[:80]}: {what}", why=why)


def filled(text: str, task: Task, values: Values) -> str:
    """The text with its placeholders filled. Raises ``ValueError`` for a number that was not printed."""
    if "{{" not in text:
        return text
    matrix = dict(task.matrix)
    return _PLACE.sub(lambda match: matrix[match[2]] if match[1] == "matrix" else _number(match[1], match[2], task, values), text)


def _number(node: str, metric: str, task: Task, values: Values) -> str:
    found = values.get(node, {})
    if node in task.gathers:
        metric, _, how = metric.rpartition(".")
        numbers = [each[metric] for each in found.values() if metric in each]
        if not numbers or len(numbers) < len(found):
            raise ValueError(
                f"{{{{ {node}.{metric}.{how} }}}}: {len(found) - len(numbers)} of {len(found)} tasks of {node} printed no @{metric}"
            )
        return shown(float(_OF_MANY[how](numbers)))
    known = next(iter(found.values()), {})
    if metric not in known:
        raise ValueError(
            f"{{{{ {node}.{metric} }}}}: {node} printed no @{metric}; it printed {', '.join(sorted(known)[:12]) or 'no number'}"
        )
    return shown(known[metric])


def shown(value: float) -> str:
    """A number for a command line: whole ones without a point, others so that nothing of them is lost."""
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)
