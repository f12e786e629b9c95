"""Which paths a proposal may change: the patterns of ``editable`` without those of ``protect``.

Pure: looks at names, never at a disk.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from overnight.errors import UsageError

_WILD = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Scope:
    """Editable and protected patterns, relative to the top of the repository.

    ``train.py`` is that path alone; ``*`` and ``?`` stay within a folder, ``**`` crosses folders, ``[ab]`` is one character of
    a set, and a slash at the end means everything below. ``protect`` wins. Raises ``UsageError`` (E-SCOPE) for a pattern that
    leaves the repository or says nothing.
    """

    editable: tuple[str, ...]
    protect: tuple[str, ...] = ()
    optional: bool = False  # also a path that is given by name may be missing

    def __post_init__(self) -> None:
        for pattern in (*self.editable, *self.protect):
            _check(pattern)

    def matches(self, path: str) -> bool:
        """Whether a proposal may change ``path``; a name that is not valid Unicode never may."""
        if any("\ud800" <= letter <= "\udfff" for letter in path):
            return False
        return any(_compiled(pattern).fullmatch(path) for pattern in self.editable) and not any(
            _compiled(pattern).fullmatch(path) for pattern in self.protect
        )

    @property
    def explicit(self) -> tuple[str, ...]:
        """The editable paths given by name: these must exist before and after a proposal."""
        if self.optional:
            return ()
        return tuple(path for path in map(_normal, self.editable) if not _WILD & set(path) and self.matches(path))

    def reaches(self, folder: str) -> bool:
        """Whether any path below ``folder`` could match: where new files need not be looked for otherwise."""
        return any(_may_reach(_normal(pattern), folder) for pattern in self.editable)


def _check(pattern: str) -> None:
    """Raise E-SCOPE for a pattern that no path of the repository can match."""
    parts = _normal(pattern).split("/")
    try:
        good = not {"", ".", "..", ".git"} & set(parts) and "\0" not in pattern and bool(_compiled(pattern))
    except re.error:
        good = False
    if not good:
        raise UsageError(
            "E-SCOPE",
            f"'{pattern}' is no pattern for files of the repository",
            why="patterns are relative to the top of the repository, such as train.py, src/*.py, src/**/*.py or configs/",
            fix='in overnight.toml:  editable = ["train.py"]',
        )


def _normal(pattern: str) -> str:
    """Without a leading ``./``; a slash at the end becomes ``/**``."""
    while pattern.startswith("./"):
        pattern = pattern[2:]
    return pattern + "**" if pattern.endswith("/") else pattern


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression over a whole path."""
    rest, out = _normal(pattern), ""
    while rest:
        part, rest = _next(rest)
        out += part
    return re.compile(out, re.DOTALL)


def _next(rest: str) -> tuple[str, str]:
    """The expression for the first element of ``rest``, and what follows it."""
    for element, expression in (("**/", "(?:[^/]+/)*"), ("**", ".*"), ("*", "[^/]*"), ("?", "[^/]")):
        if rest.startswith(element):
            return expression, rest[len(element) :]
    if rest[0] == "[" and (end := rest.find("]", 3 if rest[1:2] in ("!", "^") else 2)) > 0:
        inside = rest[1:end].replace("\\", "\\\\").replace("[", "\\[")
        negated = inside[0] in "!^"
        return f"(?!/)[{'^' if negated else ''}{inside[1:] if negated else inside}]", rest[end + 1 :]
    return re.escape(rest[0]), rest[1:]


def _may_reach(pattern: str, folder: str) -> bool:
    """Compare folder by folder up to the first ``**``; wrong only on the generous side."""
    wanted = pattern.split("/")
    for depth, name in enumerate(folder.split("/")):
        if depth >= len(wanted) - 1:
            return "**" in wanted[-1]
        if "**" in wanted[depth]:
            return True
        if wanted[depth] == "" or not _compiled(wanted[depth]).fullmatch(name):
            return False
    return True
