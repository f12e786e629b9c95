"""The steps of a scenario, and how each becomes a call of one of the tools that a request offers."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Read:
    path: str


@dataclass(frozen=True)
class Edit:
    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Shell:
    command: str


@dataclass(frozen=True)
class Use:
    """A tool of a server, by the end of its name."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Say:
    text: str


@dataclass(frozen=True)
class Ask(Say):
    """A question to a person who is not there."""


@dataclass(frozen=True)
class Fail:
    """An HTTP error: ``times`` requests long, or always."""

    status: int
    times: int = 0


@dataclass(frozen=True)
class Hang:
    """No answer, for as long as the server lives."""


@dataclass(frozen=True)
class Empty:
    """A well-formed answer that says nothing."""


@dataclass(frozen=True)
class Garbage:
    """Bytes that are no answer in any format."""


@dataclass(frozen=True)
class Flood:
    """A text of so many bytes."""

    size: int = 10 * 2**20


Step = Read | Edit | Shell | Use | Say | Fail | Hang | Empty | Garbage | Flood


@dataclass(frozen=True)
class Tool:
    """A tool as a request offers it; ``custom`` = it takes a free text rather than JSON."""

    name: str
    schema: Mapping[str, Any] = field(default_factory=dict)
    custom: bool = False
    space: str = ""  # the namespace that it is offered in

    @property
    def names(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.schema.get("properties") or {}
        return found


@dataclass(frozen=True)
class Call:
    """A tool called: with JSON arguments, or with a text."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    custom: bool = False
    space: str = ""


_PATHS = ("file_path", "filePath", "absolute_path", "path", "filename", "file")
_OLD = (("old_string", "new_string"), ("oldString", "newString"), ("old_str", "new_str"), ("oldText", "newText"), ("old_text", "new_text"))
_COMMANDS = ("command", "cmd", "commands", "script")


def _first(names: Sequence[str], tool: Tool) -> str:
    return next((name for name in names if name in tool.names), "")


def _filled(tool: Tool, given: dict[str, Any]) -> Call:
    """The call with something plausible for whatever else is required."""
    blanks: dict[str, Any] = {"string": "as planned", "boolean": False, "integer": 1, "number": 1, "array": [], "object": {}}
    for name in tool.schema.get("required") or []:
        kind = tool.names.get(name, {}).get("type", "string")
        given.setdefault(name, blanks.get(str(kind).lower(), "as planned"))
    return Call(tool.name, given)


def _shell(command: str, tools: Sequence[Tool]) -> Call | None:
    for tool in tools:
        name = _first(_COMMANDS, tool)
        if name and not tool.custom and re.search(r"bash|shell|exec|run|terminal|command", tool.name, re.IGNORECASE):
            kind = tool.names[name].get("type", "string")
            return _filled(
                tool,
                {
                    name: ["/bin/sh", "-c", command]
                    if str(kind).lower() == "array" and name != "commands"
                    else [command]
                    if str(kind).lower() == "array"
                    else command
                },
            )
    return None


def _read(path: str, tools: Sequence[Tool]) -> Call | None:
    for tool in tools:
        name = _first(_PATHS, tool)
        if (
            name
            and re.search(r"^(?!.*image).*(read|view|open_file)", tool.name, re.IGNORECASE)
            and not any(old in tool.names for old, _ in _OLD)
        ):
            return _filled(tool, {name: path})
    return _shell(f"cat {shlex.quote(path)}", tools)


def _edit(step: Edit, tools: Sequence[Tool]) -> Call | None:
    for tool in tools:
        name = _first(_PATHS, tool)
        for old, new in _OLD:
            if name and old in tool.names:
                return _filled(tool, {name: step.path, old: step.old, new: step.new})
            inner = ((tool.names.get("edits") or {}).get("items") or {}).get("properties") or {}
            if name and old in inner:
                return _filled(tool, {name: step.path, "edits": [{old: step.old, new: step.new}]})
    for tool in tools:
        if tool.name == "apply_patch":
            body = "".join(f"-{line}\n" for line in step.old.splitlines()) + "".join(f"+{line}\n" for line in step.new.splitlines())
            patch = f"*** Begin Patch\n*** Update File: {step.path}\n@@\n{body}*** End Patch\n"
            return Call(tool.name, text=patch, custom=True) if tool.custom else _filled(tool, {next(iter(tool.names), "input"): patch})
    script = f"import pathlib; p = pathlib.Path({step.path!r}); p.write_text(p.read_text().replace({step.old!r}, {step.new!r}))"
    return _shell(f"python3 -c {shlex.quote(script)}", tools)


def as_call(step: Step, tools: Sequence[Tool], folder: str) -> Call | None:
    """The step as a call of one of these tools; None if none of them can do it. ``folder`` makes paths absolute where a tool wants that."""
    if isinstance(step, Use):
        tool = next((each for each in tools if each.name == step.name or each.name.endswith(f"__{step.name}")), None)
        return Call(tool.name, step.arguments, space=tool.space) if tool else None
    if isinstance(step, Shell):
        return _shell(step.command, tools)
    if isinstance(step, Read | Edit) and folder and any(name in tool.names for tool in tools for name in ("file_path", "absolute_path")):
        step = type(step)(**{**step.__dict__, "path": f"{folder}/{step.path}" if not step.path.startswith("/") else step.path})
    if isinstance(step, Read):
        return _read(step.path, tools)
    return _edit(step, tools) if isinstance(step, Edit) else None


def in_words(steps: Sequence[Step], asked: str) -> str:
    """All edits of a scenario as one text, in the form that a request without tools asks for; empty if it asks for none."""
    edits = [step for step in steps if isinstance(step, Edit)]
    said = next((step.text for step in steps if isinstance(step, Say)), "done")
    if "SEARCH/REPLACE" in asked:
        blocks = (f"{each.path}\n```python\n<<<<<<< SEARCH\n{each.old}\n=======\n{each.new}\n>>>>>>> REPLACE\n```\n" for each in edits)
        return "\n".join(blocks) + "\n" + said
    if '"edits' in asked.replace('\\"', '"'):
        return json.dumps({"hypothesis": said, "edits": [{"path": each.path, "search": each.old, "replace": each.new} for each in edits]})
    return ""
