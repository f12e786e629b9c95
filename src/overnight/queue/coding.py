"""Records as JSON and back, strictly: what comes in is exactly what the record's types say, or ``ValueError``.

Numbers that JSON does not know travel as texts, bytes as base64. Unknown keys are refused, unless the caller passes them over;
missing ones get the record's default. Pure.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

LONGEST = 2**20  # bytes of a message
DEEPEST = 32  # records and lists within each other
_MOST = 10**15  # whole numbers beyond it mean nothing here
_R = TypeVar("_R")


def plain(value: Any) -> Any:
    """A record as what ``json`` can write."""
    if dataclasses.is_dataclass(value):
        return {item.name: plain(found) for item in dataclasses.fields(value) if (found := getattr(value, item.name)) != item.default}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, tuple | list) else value


def written(value: Any) -> str:
    """A record as JSON text, in ASCII."""
    return json.dumps(plain(value), separators=(",", ":"))


def read(kind: type[_R], text: str | bytes, *, lenient: bool = False) -> _R:
    """The record that ``written`` wrote; ``lenient`` passes unknown keys over. Raises ``ValueError`` for anything else."""
    found: _R = record(kind, parsed(text), lenient=lenient)
    return found


def sound(value: _R) -> _R:
    """The record as it will be read again. Raises ``ValueError`` for what could not be: another type, half a letter, too much of it."""
    try:
        return read(type(value), written(value))
    except (TypeError, AttributeError, RecursionError) as exc:
        raise ValueError(f"{type(value).__name__}: {exc}") from exc


def parsed(text: str | bytes) -> Any:
    """JSON within bounds. Raises ``ValueError``."""
    if len(text) > LONGEST:
        raise ValueError(f"a message of {len(text)} bytes, at most {LONGEST} are taken")
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} levels") from None
    _measure(found)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _measure(found: Any) -> None:
    level, depth = [found], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels")
        level = [
            each
            for outer in level
            if isinstance(outer, dict | list)
            for each in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(each, dict | list)
        ]


def record(kind: Any, found: Any, *, lenient: bool = False) -> Any:
    """What ``plain`` made of a value of the type ``kind``. Raises ``ValueError``."""
    if dataclasses.is_dataclass(kind):
        return _made(kind, found, lenient=lenient)
    origin, inner = get_origin(kind), get_args(kind)
    if type(None) in inner:
        return None if found is None else record(next(each for each in inner if each is not type(None)), found, lenient=lenient)
    if origin is tuple:
        return _sequence(inner, found, lenient=lenient)
    if origin is not None and origin is not Union and issubclass(origin, Mapping):
        if not isinstance(found, dict):
            raise ValueError(f"an object was expected, not {_shown(found)}")
        return {name: record(inner[1], each, lenient=lenient) for name, each in found.items()}
    return _value(kind, found)


def _made(kind: Any, found: Any, *, lenient: bool) -> Any:
    if not isinstance(found, dict):
        raise ValueError(f"{kind.__name__}: an object was expected, not {_shown(found)}")  # noqa: TRY004 - callers look for ValueError
    hints, needed = _shape(kind)
    if not lenient and (unknown := found.keys() - hints.keys()):
        raise ValueError(f"{kind.__name__}: nobody knows {_shown(min(unknown))}")
    if missing := needed - found.keys():
        raise ValueError(f"{kind.__name__}: {min(missing)} is missing")
    made: dict[str, Any] = {}
    for name, each in found.items():
        try:
            if name in hints:
                made[name] = record(hints[name], each, lenient=lenient)
        except ValueError as exc:
            raise ValueError(f"{kind.__name__}.{name}: {exc}") from None
    return kind(**made)


@functools.cache
def _shape(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Types of the fields of a record, and which of them have no default."""
    known = get_type_hints(kind)
    rows = dataclasses.fields(kind)
    needed = {row.name for row in rows if row.default is dataclasses.MISSING and row.default_factory is dataclasses.MISSING}
    return {row.name: known[row.name] for row in rows}, frozenset(needed)


def _sequence(inner: tuple[Any, ...], found: Any, *, lenient: bool) -> tuple[Any, ...]:
    if not isinstance(found, list):
        raise ValueError(f"a list was expected, not {_shown(found)}")  # noqa: TRY004 - callers look for ValueError
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(record(inner[0], each, lenient=lenient) for each in found)
    if len(found) != len(inner):
        raise ValueError(f"{len(inner)} entries were expected, not {len(found)}")
    return tuple(record(kind, each, lenient=lenient) for kind, each in zip(inner, found, strict=True))


def _value(kind: Any, found: Any) -> Any:
    if kind is float and isinstance(found, int | float | str) and not isinstance(found, bool):
        if isinstance(found, str) and found not in ("nan", "inf", "-inf"):
            raise ValueError(f"a number was expected, not {_shown(found)}")
        if isinstance(found, int) and abs(found) > 10**300:
            raise ValueError("a number that is too large")
        return float(found)
    if kind is int and isinstance(found, int) and not isinstance(found, bool) and abs(found) <= _MOST:
        return found
    if kind in (str, bool) and type(found) is kind:
        if kind is str and not found.isascii() and any("\ud800" <= letter <= "\udfff" for letter in found):
            raise ValueError("a text with half a letter")
        return found
    if kind is bytes and isinstance(found, str):
        try:
            return base64.b64decode(found, validate=True)
        except ValueError:
            raise ValueError("bytes that are no base64") from None
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(found) if isinstance(found, str) else _refuse(kind, found)
    return _refuse(kind, found)


def _refuse(kind: Any, found: Any) -> Any:
    raise ValueError(f"{getattr(kind, '__name__', kind)} was expected, not {_shown(found)}")


def _shown(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= 80 else f"{text[:60]}…"
