"""What counts for the cache of a task, its key, and in words what has changed since the last time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from overnight.dag.globs import is_named
from overnight.dag.words import Kept

_VERSION = 1  # of the key: another one makes all that was kept of no use


@dataclass(frozen=True, slots=True)
class Parts:
    """All that a task's result is taken to depend on. ``code``, ``data`` and ``needs`` are hashes; ``commit`` and ``sources`` only explain."""

    command: tuple[str, ...]  # one word = for the shell
    working_dir: str
    env: Mapping[str, str]
    outputs: tuple[str, ...] | None
    code: str
    data: Mapping[str, str] = field(default_factory=dict)  # path -> hash of all that lies there
    needs: Mapping[str, str] = field(default_factory=dict)  # task -> hash of what it handed on and printed
    commit: str = ""
    sources: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """64 hex digits: equal exactly if nothing that counts differs."""
        return _hash({"version": _VERSION, **self._fields(), "commit": "", "sources": ()})

    def to_json(self) -> str:
        """The text that ``parts_from_json`` reads."""
        return json.dumps(self._fields())

    def _fields(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


def parts_from_json(text: str) -> Parts:
    """What ``Parts.to_json`` wrote."""
    found = json.loads(text)
    for name in ("command", "sources", "outputs"):
        found[name] = tuple(found[name]) if found[name] is not None else None
    return Parts(**found)


def code_hash(files: Mapping[str, tuple[str, str]], sources: Sequence[str], apart: Iterable[str] = ()) -> str:
    """One hash over those files (path -> mode and hash) that ``sources`` name, or over all if they name none; never over those ``apart``."""
    return _hash(sorted((path, *files[path]) for path in counted(files, sources, apart)))


def counted(files: Iterable[str], sources: Sequence[str], apart: Iterable[str] = ()) -> list[str]:
    """The paths of the code that count."""
    left = sorted(set(files) - set(apart))
    return [path for path in left if is_named(path, sources)] or left


def handed_hash(files: Sequence[Kept], values: Mapping[str, float]) -> str:
    """One hash over what a task hands on: its files, and the numbers that it printed."""
    return _hash(
        [sorted((file.path, file.sha, file.executable) for file in files), sorted((name, repr(value)) for name, value in values.items())]
    )


def why(before: Parts | None, now: Parts, changed: Sequence[str]) -> str:
    """What differs between two times, as the end of a sentence; ``changed`` are paths of code that differ. Empty if nothing does."""
    if before is None:
        return "it was not run before"
    if before.command != now.command:
        return "the command changed"
    if before.working_dir != now.working_dir:
        return "working_dir changed"
    if names := _differing(before.env, now.env):
        return f"{_listed(names)} of env changed"
    if before.outputs != now.outputs:
        return "outputs changed"
    if before.code != now.code:
        return f"{_listed(changed)} changed" if changed else "the code that counts changed"
    if names := _differing(before.data, now.data):
        return f"{_listed(names)} changed"
    if names := _differing(before.needs, now.needs):
        return f"what {_listed(names)} handed on changed"
    return ""


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _hash(found: object) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True, separators=(",", ":")).encode("utf-8", "surrogatepass")).hexdigest()
