"""What an environment takes from elsewhere: the folders that ``pip install -e`` and its like have named in it.

Read as text, never imported. Must not know what a run may see of them.
"""

from __future__ import annotations

import ast
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

_LARGEST = 2**16  # bytes of a file that is read
# How setuptools names the packages of an editable install (``editable_wheel.py``): MAPPING: dict[str, str] = {'name': '/its/folder'}
_MAPPING = re.compile(r"^MAPPING\b[^=\n]*=[ ]*(\{.*\})[ ]*$", re.MULTILINE)


def elsewhere(prefix: str) -> Iterator[str]:
    """Absolute folders that the environment in ``prefix`` has modules in beside its own; empty for what is no environment."""
    try:
        names = [name for name in os.listdir(f"{prefix}/lib") if name.startswith("python3")]
        for name in names:
            site = f"{prefix}/lib/{name}/site-packages"
            yield from _named(site, os.stat(site).st_mtime_ns)
    except OSError:
        return


@functools.lru_cache(maxsize=64)
def _named(site: str, _changed: int) -> tuple[str, ...]:
    found: list[str] = []
    for file in sorted(Path(site).iterdir()):
        if file.suffix == ".pth":
            found += [
                os.path.join(site, line)
                for line in _text(file).splitlines()
                if line.strip() and not line.startswith(("#", "import ", "import\t"))
            ]
        elif file.name.startswith("__editable__") and file.suffix == ".py" and (match := _MAPPING.search(_text(file))):
            found += _folders(match[1])
    return tuple(path for path in map(os.path.normpath, found) if os.path.isdir(path))


def _folders(literal: str) -> list[str]:
    try:
        mapping = ast.literal_eval(literal)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return [path for path in mapping.values() if isinstance(path, str) and path.startswith("/")] if isinstance(mapping, dict) else []


def _text(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(_LARGEST).decode("utf-8", "replace")
