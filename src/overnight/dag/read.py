"""From a tree with lines to a pipeline: every field checked, every error with file, line, what was found and the nearest name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from overnight.dag.kinds import FIELDS, text, texts, variables
from overnight.dag.marked import Item, Map, Seq, Tree
from overnight.dag.words import MOST_TASKS, Node, Pipeline
from overnight.errors import UsageError, nearest

_TOP = ("name", "description", "tags", "env", "nodes", "dependencies", "defaults")
_NO_DEFAULT = ("name", "command", "needs")
_MOST_RETRIES = 100
Lines = dict[tuple[str, str], int]  # (what is needed, who needs it) -> line


def pipeline(tree: Tree, file: str) -> tuple[Pipeline, Lines]:
    """The pipeline, and the line of each dependency. Raises ``UsageError`` (E-PIPELINE) with ``file:line:``."""
    return _Reader(file).read(tree)


def refused(file: str, line: int, what: str, *, why: str = "", code: str = "E-PIPELINE") -> UsageError:
    """The error for a line of a pipeline."""
    return UsageError(code, f"{file}:{line}: {what}", why=why, fix=f"mend line {line} of {file}")


class _Reader:
    def __init__(self, file: str) -> None:
        self._file = file
        self._needs: dict[str, list[str]] = {}
        self._lines: Lines = {}

    def read(self, tree: Tree) -> tuple[Pipeline, Lines]:
        top = self._fields(tree, _TOP, "a pipeline")
        if "nodes" not in top:
            raise self._no(tree.line, "there are no nodes", "a pipeline has at least one, with name and command")
        env = self._value(variables, top["env"], "env") if "env" in top else {}
        defaults = self._defaults(top["defaults"]) if "defaults" in top else {}
        found = self._list(top["nodes"], "nodes")
        if len(found) > MOST_TASKS:
            raise self._no(top["nodes"].line, f"there are {len(found)} nodes; {MOST_TASKS} are allowed")
        nodes = self._nodes(found, env, defaults)
        if "dependencies" in top:
            for entry in self._list(top["dependencies"], "dependencies"):
                self._dependency(entry, nodes)
        self._check_needs(nodes)
        made = tuple(Node(**{**fields, "needs": tuple(self._needs[name])}) for name, fields in nodes.items())
        tags = self._value(texts, top["tags"], "tags") if _is_given(top.get("tags")) else ()
        words = {key: self._value(text, top[key], key) for key in ("name", "description") if _is_given(top.get(key))}
        return Pipeline(words.get("name", "pipeline"), made, words.get("description", ""), tags, self._file), self._lines

    # --- parts -------------------------------------------------------------------------------------------------------

    def _nodes(self, found: Iterable[Tree], env: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        nodes: dict[str, dict[str, Any]] = {}
        for entry in found:
            fields = self._node(entry, env, defaults)
            name = fields["name"]
            if name in nodes:
                raise self._no(fields["line"], f"a second node is named '{name}'; the first is in line {nodes[name]['line']}")
            nodes[name] = fields
        return nodes

    def _node(self, entry: Tree, env: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, Any]:
        given = self._fields(entry, FIELDS, "a node")
        if not _is_given(given.get("name")):
            raise self._no(entry.line, "a node without a name")
        name = self._value(FIELDS["name"], given["name"], "name")
        if not _is_given(given.get("command")):
            raise self._no(entry.line, f"node '{name}' has no command", "write for example  command: python train.py")
        read = {key: self._value(FIELDS[key], value, key, name) for key, value in given.items()}
        read["env"] = {**env, **defaults.get("env", {}), **read.get("env", {})}
        if read.get("retries", 0) > _MOST_RETRIES:
            raise self._no(given["retries"].line, f"node '{name}': retries: at most {_MOST_RETRIES} are allowed, not {read['retries']}")
        self._needs[name] = []
        lines = given["needs"].items if isinstance(given.get("needs"), Seq) else [given["needs"]] if "needs" in given else []  # type: ignore[union-attr] # a Seq has items
        for need, item in zip(read.pop("needs", ()), lines, strict=True):
            self._depend(need, name, item.line)
        return {**defaults, **read, "name": name, "line": entry.line}

    def _defaults(self, tree: Tree) -> dict[str, Any]:
        given = self._fields(tree, [key for key in FIELDS if key not in _NO_DEFAULT], "defaults")
        return {key: self._value(FIELDS[key], value, key) for key, value in given.items()}

    def _dependency(self, entry: Tree, nodes: Mapping[str, Any]) -> None:
        given = self._fields(entry, ("source", "target"), "a dependency")
        for end in ("source", "target"):
            if not _is_given(given.get(end)):
                raise self._no(entry.line, f"a dependency without a {end}", "write for example  - source: preprocess  and  target: train")
        for target in self._value(texts, given["target"], "target"):
            if target not in nodes:
                raise self._no(given["target"].line, f"there is no node '{target}'{nearest(target, nodes)}", _known(nodes))
            for source in self._value(texts, given["source"], "source"):
                self._depend(source, target, given["source"].line)

    def _depend(self, source: str, target: str, line: int) -> None:
        if source not in self._needs[target]:
            self._needs[target].append(source)
            self._lines[source, target] = line

    def _check_needs(self, nodes: Mapping[str, Any]) -> None:
        for (source, target), line in self._lines.items():
            if source not in nodes:
                raise self._no(line, f"node '{target}' needs '{source[:80]}', which is no node{nearest(source, nodes)}", _known(nodes))
            if source == target:
                raise self._no(line, f"node '{target}' needs itself: {target} -> {target}")

    # --- shapes ------------------------------------------------------------------------------------------------------

    def _fields(self, tree: Tree, known: Iterable[str], what: str) -> dict[str, Tree]:
        if not isinstance(tree, Map):
            raise self._no(tree.line, f"{what} is written as names with their values, not as {tree}")
        allowed = list(known)
        for key, _ in tree.pairs:
            if key.text not in allowed:
                why = f"allowed are {', '.join(allowed)}"
                raise self._no(key.line, f"{what} has no field {key}{nearest(key.text, allowed)}", why)
        return {key.text: value for key, value in tree.pairs}

    def _list(self, tree: Tree, what: str) -> tuple[Tree, ...]:
        if not isinstance(tree, Seq):
            raise self._no(tree.line, f"{what} is a list, each entry after a dash, not {tree}")
        if not tree.items and what == "nodes":
            raise self._no(tree.line, "there are no nodes", "a pipeline has at least one, with name and command")
        return tree.items

    def _value(self, kind: Any, tree: Tree, field: str, node: str = "") -> Any:
        try:
            return kind(tree)
        except ValueError as exc:
            about = f"node '{node}': {field}" if node else field
            raise self._no(tree.line, f"{about}: {exc}") from exc

    def _no(self, line: int, what: str, why: str = "") -> UsageError:
        return refused(self._file, line, what, why=why)


def _is_given(tree: Tree | None) -> bool:
    return tree is not None and not (isinstance(tree, Item) and tree.value is None)


def _known(nodes: Iterable[str]) -> str:
    names = list(nodes)
    return f"the nodes are {', '.join(names[:12])}{' …' if len(names) > 12 else ''}"
