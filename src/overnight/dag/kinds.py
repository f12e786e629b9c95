"""The kinds of values that fields of a pipeline have: how a tree becomes one. Each raises ``ValueError`` with what is wanted instead."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from overnight.dag import globs
from overnight.dag.marked import Item, Map, Seq, Tree
from overnight.dag.words import MOST_TASKS, When
from overnight.kinds import parse_duration

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", re.ASCII)
NAMES = "letters, digits, _ and - of ASCII, 64 at most"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_CHOICE = re.compile(r"[^\x00-\x1f\x7f\[\],={}]{1,100}")  # a value of a matrix: it is part of a task's id
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def text(found: Tree) -> str:
    """A single value as it was written."""
    if isinstance(found, Item) and found.value is not None:
        return found.text
    raise ValueError(f"a text is wanted, not {found}")


def name(found: Tree) -> str:
    """The name of a node."""
    given = text(found)
    if NAME.fullmatch(given):
        return given
    raise ValueError(f"{found} cannot name a node; allowed are {NAMES}")


def texts(found: Tree) -> tuple[str, ...]:
    """One text or a list of them."""
    return tuple(text(item) for item in found.items) if isinstance(found, Seq) else (text(found),)


def command(found: Tree) -> str | tuple[str, ...]:
    """A text for the shell, or the words of a program."""
    given = texts(found) if isinstance(found, Seq) else text(found)
    if any("\0" in word for word in ((given,) if isinstance(given, str) else given)):
        raise ValueError("a command cannot hold a NUL character")
    if not given or not (given if isinstance(given, str) else given[0]).strip():
        raise ValueError("a command is wanted, as in: python train.py")
    return given


def folder(found: Tree) -> str:
    """A folder inside the pipeline's own."""
    given = text(found)
    path = PurePosixPath(given)
    if path.is_absolute() or ".." in path.parts or _CONTROL.search(given) or "~" in path.parts[:1]:
        raise ValueError(f"{found} is no folder inside that of the pipeline; a task runs in a fresh copy of it")
    return "" if str(path) == "." else str(path)


def kept(found: Tree) -> tuple[str, ...]:
    """Paths or patterns inside the pipeline's folder."""
    given = tuple(_path(entry, found) for entry in texts(found)) if not (isinstance(found, Seq) and not found.items) else ()
    for entry in given:
        path = PurePosixPath(entry)
        if path.is_absolute() or path.parts[0] in (".git", ".overnight", "~"):
            raise ValueError(f"'{entry}' is no path inside the folder of the pipeline")
    return given


def sources(found: Tree) -> tuple[str, ...]:
    """Paths or patterns of what a node reads: inside the folder, absolute, or below the home folder."""
    given = tuple(_path(entry, found) for entry in texts(found))
    for entry in given:
        if (entry.startswith(("/", "~"))) and globs.is_pattern(entry):
            raise ValueError(f"'{entry}': patterns are for paths inside the folder of the pipeline; name the folder above it")
    return given


def _path(entry: str, found: Tree) -> str:
    path = PurePosixPath(entry)
    if not path.parts or ".." in path.parts or _CONTROL.search(entry):
        raise ValueError(
            f"{found if isinstance(found, Item) else repr(entry)} is no path that can be used; '..' and control characters are not allowed"
        )
    globs.compiled(str(path))
    return str(path)


def count(found: Tree) -> int:
    """A whole number, zero or more."""
    value = found.value if isinstance(found, Item) else None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**6:
        return value
    raise ValueError(f"a whole number, zero or more, is wanted, not {found}")


def amount(found: Tree) -> float:
    """A number, zero or more."""
    value = found.value if isinstance(found, Item) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**9:
        return float(value)
    raise ValueError(f"a number, zero or more, is wanted, not {found}")


def duration(found: Tree) -> float:
    """Seconds of ``90``, ``90s``, ``2h``."""
    if isinstance(found, Item) and found.value is not None and not isinstance(found.value, bool):
        seconds = parse_duration(found.text)
        if 0 < seconds < math.inf:
            return seconds
    raise ValueError(f"a duration such as 90s, 5m or 2h is wanted, not {found}")


def flag(found: Tree) -> bool:
    """True or false."""
    if isinstance(found, Item) and isinstance(found.value, bool):
        return found.value
    raise ValueError(f"true or false is wanted, not {found}")


def when(found: Tree) -> When:
    """What a node waits for."""
    given = found.text if isinstance(found, Item) else ""
    if given in list(When):
        return When(given)
    raise ValueError(f"one of {', '.join(When)} is wanted, not {found}")


def variables(found: Tree) -> dict[str, str]:
    """Variables of the environment; nothing stands for an empty text."""
    if not isinstance(found, Map):
        raise ValueError(f"names with their values are wanted, not {found}")  # noqa: TRY004 - callers look for ValueError
    for key, value in found.pairs:
        if not _VARIABLE.fullmatch(key.text):
            raise ValueError(f"{key} cannot name a variable; allowed are letters, digits and _ of ASCII")
        if not isinstance(value, Item) or "\0" in value.text:
            raise ValueError(f"the variable {key} needs a single value, not {value}")
    return {key.text: value.text if value.value is not None else "" for key, value in found.pairs if isinstance(value, Item)}


def matrix(found: Tree) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Names with the values that each takes on, as they are written."""
    if not isinstance(found, Map) or not found.pairs:
        raise ValueError(f"names with lists of values are wanted, as in {{seed: [0, 1, 2]}}, not {found}")
    axes = []
    total = 1
    for key, values in found.pairs:
        if not _VARIABLE.fullmatch(key.text):
            raise ValueError(f"{key} cannot name a part of a matrix; allowed are letters, digits and _ of ASCII")
        given = texts(values)
        for value in given:
            if not _CHOICE.fullmatch(value):
                raise ValueError(f"'{value[:60]}' cannot be a value of {key}; 1 to 100 characters without [ ] {{ }} , = are allowed")
        if not given or len(set(given)) < len(given):
            raise ValueError(f"{key} needs a list of values, none of them twice")
        total *= len(given)
        if total > MOST_TASKS:
            raise ValueError(f"this makes more than {MOST_TASKS} tasks; {MOST_TASKS} are allowed")
        axes.append((key.text, given))
    return tuple(axes)


FIELDS: dict[str, Callable[[Tree], Any]] = {
    "name": name, "command": command, "working_dir": folder, "env": variables, "gpu_count": count, "gpu_type": text, "vram_gb": amount, "cpus": amount,
    "memory_gb": amount, "time_limit": duration, "retries": count, "retry_delay": duration, "needs": texts, "inputs": sources, "outputs": kept, "when": when,
    "matrix": matrix, "cache": flag,
}  # fmt: skip
