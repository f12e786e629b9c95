"""The door to YAML: bytes become a tree whose values know their lines, by the parser's events alone.

Nothing is ever constructed: anchors, aliases, tags, merge keys, further documents and duplicate names are refused with their lines, and
so is what is too big, too deep or too much, in milliseconds. Plain values are read by the core rules of YAML 1.2: ``yes``, ``on`` and
``1:30`` are texts. Must not know what a document means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from overnight.dag.marked import Item, Map, Seq, Tree
from overnight.errors import UsageError
from overnight.printable import one_line

MOST_BYTES = 2**20
MOST_EVENTS = 100_000
DEEPEST = 16
_LONGEST_NUMBER = 40  # characters; longer ones are texts
_FIRST = frozenset("~nNtTfF+-.0123456789")  # what anything but a text begins with
_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OCTAL = re.compile(r"0o[0-7]+", re.ASCII)
_HEX = re.compile(r"0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_ODD_FLOAT = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", re.ASCII)


def read(data: bytes, name: str) -> Tree:
    """The tree of one document; ``name`` is what errors call it. Raises ``UsageError`` (E-YAML) with ``name:line:`` and what is allowed."""
    if len(data) > MOST_BYTES:
        raise _refused(name, 1, f"it has {len(data)} bytes; {MOST_BYTES} are allowed")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise _refused(name, data.count(b"\n", 0, exc.start) + 1, "it is no UTF-8 text") from exc
    return _Builder(name).build(_events(text, name))


def _events(text: str, name: str) -> Iterator[Any]:
    """The parser's events, as many as are allowed; its own errors mapped."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as quick, and not everywhere
    try:
        parser = loader(text)
        left = MOST_EVENTS
        while parser.check_event():
            event = parser.get_event()
            left -= 1
            if left < 0:
                raise _refused(name, event.start_mark.line + 1, f"there is more than {MOST_EVENTS} values in it")
            yield event
    except yaml.MarkedYAMLError as exc:
        line = getattr(exc.problem_mark or exc.context_mark, "line", 0)
        what = one_line(f"{exc.problem or exc}{f' ({exc.context})' if exc.context else ''}", 160)
        raise _refused(name, line + 1, f"this is no YAML: {what}", _hint(text, line)) from exc
    except yaml.reader.ReaderError as exc:
        found = re.search("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
        line = text.count("\n", 0, found.start()) + 1 if found else 1
        raise _refused(name, line, "a character that no YAML may hold") from exc
    except yaml.YAMLError as exc:
        raise _refused(name, 1, f"this is no YAML: {one_line(str(exc), 160)}") from exc


def _hint(text: str, line: int) -> str:
    """What mostly is wrong with a line that cannot be read."""
    lines = text.split("\n")
    found = lines[line] if line < len(lines) else ""
    if "\t" in found[: len(found) - len(found.lstrip())]:
        return "indent with blanks, not with tabs"
    return 'put the value in quotes if it holds ": " or begins with one of { [ & * ! | > @ % `'


class _Builder:
    """Puts events together; recursion is bounded by ``DEEPEST``."""

    def __init__(self, name: str) -> None:
        self._name = name

    def build(self, events: Iterator[Any]) -> Tree:
        found: Tree | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if event.tags:
                    raise self._no(event, "a directive %TAG is not allowed here")
                if found is not None:
                    raise self._no(event, "a second document begins here; a file holds one")
            elif isinstance(event, (yaml.ScalarEvent, yaml.SequenceStartEvent, yaml.MappingStartEvent, yaml.AliasEvent)):
                found = self._value(event, events, 1)
        if found is None or (isinstance(found, Item) and found.value is None):
            raise _refused(self._name, 1, "it is empty")
        return found

    def _value(self, event: Any, events: Iterator[Any], depth: int) -> Tree:
        if isinstance(event, yaml.AliasEvent):
            raise self._no(event, f"the alias *{one_line(str(event.anchor), 40)} is not allowed; write the value out")
        if event.anchor is not None:
            raise self._no(event, f"the anchor &{one_line(event.anchor, 40)} is not allowed; write the value out, or use defaults:")
        if event.tag is not None:
            raise self._no(event, f"the tag {one_line(event.tag, 60)} is not allowed; write the plain value")
        line = event.start_mark.line + 1
        if type(event) is yaml.ScalarEvent:
            plain = event.implicit[0] and not event.style
            return Item(resolved(event.value) if plain else event.value, event.value, line)
        if depth > DEEPEST:
            raise self._no(event, f"this is nested more than {DEEPEST} levels deep")
        if isinstance(event, yaml.SequenceStartEvent):
            return Seq(tuple(self._items(events, depth)), line)
        return Map(tuple(self._pairs(events, depth)), line)

    def _items(self, events: Iterator[Any], depth: int) -> Iterator[Tree]:
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                return
            yield self._value(event, events, depth + 1)

    def _pairs(self, events: Iterator[Any], depth: int) -> Iterator[tuple[Item, Tree]]:
        seen: dict[str, int] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                return
            key = self._value(event, events, depth + 1)
            if not isinstance(key, Item):
                raise self._no(event, f"{key} cannot be a name")
            if key.text == "<<" and not event.style:
                raise self._no(event, "the merge key << is not allowed; use defaults:")
            if key.text in seen:
                raise self._no(event, f"{key} stands here a second time; the first is in line {seen[key.text]}")
            seen[key.text] = key.line
            yield key, self._value(next(events), events, depth + 1)

    def _no(self, event: Any, what: str) -> UsageError:
        return _refused(self._name, event.start_mark.line + 1, what)


def resolved(text: str) -> bool | int | float | str | None:
    """What a plain value is by the core schema of YAML 1.2 (section 10.3.2 of the specification)."""
    if text and text[0] not in _FIRST:
        return text
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if len(text) > _LONGEST_NUMBER:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text) or _HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _ODD_FLOAT.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


def _refused(name: str, line: int, what: str, why: str = "") -> UsageError:
    return UsageError("E-YAML", f"{name}:{line}: {what}", why=why, fix=f"mend line {line} of {name}")
