"""Patterns for paths: ``*`` and ``?`` stay within one folder, ``**`` does not, and a name stands for all that lies in it."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

_PIECES = re.compile(r"((?:\*\*/)+|\*\*+|\*|\?|\[[^\]/]+\])")
_MOST_STARS = 8  # more of them could take for ever to be tried
_WILD = re.compile(r"[*?\[]")


def is_pattern(path: str) -> bool:
    """Whether it is more than the name of one file or folder."""
    return _WILD.search(path) is not None


@functools.lru_cache(1024)
def compiled(glob: str) -> re.Pattern[str]:
    """The pattern as a regular expression for whole paths. Raises ``ValueError``."""
    if glob.count("*") > _MOST_STARS:
        raise ValueError(f"'{glob[:60]}' holds more than {_MOST_STARS} stars")
    parts = []
    for piece in _PIECES.split(glob):
        if piece.startswith("**"):
            parts.append("(?:.*/)?" if piece.endswith("/") else ".*")
        elif piece in ("*", "?"):
            parts.append("[^/]*" if piece == "*" else "[^/]")
        elif _PIECES.fullmatch(piece):
            inner = re.sub(r"([\\\[&~|])", r"\\\1", piece[1:-1])
            parts.append(f"[{'^' + inner[1:] if inner.startswith('!') else inner}]")
        else:
            parts.append(re.escape(piece))
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error as exc:
        raise ValueError(f"'{glob[:60]}' is no pattern: {exc}") from exc


def is_named(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path is one of these, lies in one of them or matches one of them."""
    return any(path == each or path.startswith(f"{each}/") or (is_pattern(each) and _matches(path, each)) for each in patterns)


def _matches(path: str, glob: str) -> bool:
    found = compiled(glob)
    return found.fullmatch(path) is not None
