"""Putting the plugin where an agent's program looks for it, and taking it away again: what was the user's own is as it was before, byte for byte.

What is put there is noted beside it all in the user's state folder: what we did not write, or somebody has changed since, is not removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overnight.app import plugins
from overnight.errors import NotFoundError, StorageError, UsageError

_SCHEMA = "$schema"  # OpenCode writes it into a settings file by itself
_ENDS = ("\n# >>> overnight\n", "# <<< overnight\n")  # around our lines of a TOML file


@dataclass(frozen=True, slots=True)
class Done:
    """What was written or removed, and what was left because it is not as we wrote it."""

    agent: str
    folder: Path
    written: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def install(agent: str, environ: Mapping[str, str], *, short: bool = False) -> Done:
    """Put the plugin in place for ``agent``, ``short``: its commands also by their bare names; again is the same, or an update.

    Raises ``UsageError``, ``StorageError``.
    """
    plugin, folder = plugins.AGENTS[agent](short=short), plugins.folder(agent, environ)
    note = _note(environ, agent)
    before = _noted(note)
    for path, text in plugin.files.items():
        place = folder / path
        if place.exists() and _hash(_bytes(place)) not in (before["files"].get(path), _hash(text.encode())):
            raise UsageError("E-NOT-OURS", f"{place} is there already, and not as it was written by us", fix=f"mv {place} {place}.mine")
    name, entry = plugin.entry
    edited = _edited(folder / name, entry) if name else None
    made = [*before["folders"], *_missing(folder, plugin.files, name), *(str(each) for each in note.parents if not each.exists())]
    row = {
        "folder": str(folder), "files": {path: _hash(text.encode()) for path, text in plugin.files.items()},
        "folders": list(dict.fromkeys(made)), "entry": name, "before": before["before"] if before["entry"] else _text(folder / name) if name else None,
    }  # fmt: skip
    _write(note, json.dumps(row, indent=2) + "\n", 0o600)
    for path, text in plugin.files.items():
        _write(folder / path, text)
    if edited is not None:
        _write(folder / name, edited)
    for path in before["files"].keys() - plugin.files.keys():
        _remove(folder / path, before["files"][path])
    _tidy(folder, made)
    return Done(agent, folder, (*plugin.files, *([name] if name else [])))


def uninstall(agent: str, environ: Mapping[str, str]) -> Done:
    """Take away what ``install`` has put there. Raises ``NotFoundError``, ``StorageError``."""
    note = _note(environ, agent)
    if not note.exists():
        raise NotFoundError("E-NOT-INSTALLED", f"nothing was installed for {agent}", fix=f"overnight install {agent}")
    row = _noted(note)
    folder = Path(row["folder"])
    removed: list[str] = []
    left: list[str] = []
    for path, known in row["files"].items():
        (removed if _remove(folder / path, known) else left).append(path)
    if row["entry"]:
        (removed if _restored(folder / row["entry"], row["before"]) else left).append(row["entry"])
    note.unlink()
    _tidy(folder, row["folders"])
    return Done(agent, folder, removed=tuple(removed), left=tuple(left))


def _tidy(folder: Path, made: Sequence[str]) -> None:
    """Remove folders that we have made where they are empty, the inner ones first."""
    for each in sorted(made, key=lambda each: (each.startswith("/"), -len(each))):
        with contextlib.suppress(OSError):
            (folder / each).rmdir()


def _edited(path: Path, entry: str) -> str | None:
    """The user's file with our entry in it; None if it is there already. Raises ``UsageError`` where it cannot be put there safely."""
    text = _text(path) or ""
    return _toml(path, text, entry) if path.suffix == ".toml" else _with_value(path, text, json.loads(entry))


def _toml(path: Path, text: str, entry: str) -> str | None:
    bare = _without(text)
    try:
        found = tomllib.loads(bare)
    except tomllib.TOMLDecodeError as exc:
        raise UsageError("E-NOT-TOML", f"{path} cannot be read: {exc}", fix=f"${{EDITOR:-vi}} {path}") from exc
    if plugins.NAME in found.get("mcp_servers", {}):
        raise UsageError("E-NOT-OURS", f"{path} has a server named {plugins.NAME} already", fix=f"${{EDITOR:-vi}} {path}")
    made = bare + ("" if not bare or bare.endswith("\n") else "\n") + _ENDS[0] + entry + _ENDS[1]
    tomllib.loads(made)
    return None if made == text else made


def _without(text: str) -> str:
    """A TOML file without our lines, as it was before them."""
    head, first, rest = text.partition(_ENDS[0])
    _, last, tail = rest.partition(_ENDS[1])
    return head + tail if first and last else text


def _with_value(path: Path, text: str, entry: dict[str, Any]) -> str | None:
    try:
        found = _object(json.loads(text or "{}"))
        inside = {name: _object(found.get(name, {})) for name in entry}
    except (ValueError, TypeError) as exc:
        told = json.dumps(entry)
        raise UsageError(
            "E-NOT-JSON", f"{path} cannot be edited safely: {exc}", why=f"put this into it by hand: {told}", fix=f"${{EDITOR:-vi}} {path}"
        ) from exc
    made = {**found, **{name: {**inside[name], **value} for name, value in entry.items()}}
    return None if made == found else json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{json.dumps(value)[:40]} is no object")
    return value


def _restored(path: Path, before: str | None) -> bool:
    """Whether the user's file is without our entry again: the very bytes of before where nobody has edited it since."""
    text = _text(path)
    if text is None:
        return False
    if path.suffix == ".toml":
        bare = _without(text)
        bare = before if before is not None and bare.rstrip("\n") == before.rstrip("\n") else bare
    else:
        bare = _without_value(text, before)
    if bare == text:
        return False
    if not bare and before is None:
        path.unlink()
    else:
        _write(path, bare)
    return True


def _without_value(text: str, before: str | None) -> str:
    try:
        found, old = json.loads(text), json.loads(before or "{}")
    except ValueError:
        return text
    if not isinstance(found, dict) or not isinstance(found.get("mcp"), dict):
        return text
    found["mcp"].pop(plugins.NAME, None)
    if not found["mcp"] and "mcp" not in old:
        del found["mcp"]
    same = all(found.get(name) == old.get(name) for name in (found.keys() | old.keys()) - {_SCHEMA})
    return (before or "") if same else json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _missing(folder: Path, files: Mapping[str, str], entry: str) -> list[str]:
    """Folders that are made: relative to the agent's own, that one itself as '.', and those above it with their whole paths."""
    below = {parent for path in (*files, *([entry] if entry else [])) for parent in Path(path).parents}
    return [str(each) for each in (*below, *folder.parents) if not (folder / each).exists()]


def _note(environ: Mapping[str, str], agent: str) -> Path:
    state = environ.get("XDG_STATE_HOME", "")
    root = Path(state) if state.startswith("/") else Path(environ.get("HOME") or "/nonexistent") / ".local" / "state"
    return root / "overnight" / "installed" / f"{agent}.json"


def _noted(note: Path) -> dict[str, Any]:
    empty: dict[str, Any] = {"folder": "", "files": {}, "folders": [], "entry": "", "before": None}
    text = _text(note)
    return {**empty, **json.loads(text)} if text else empty


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise StorageError("E-INSTALL", f"{path} cannot be read: {exc.strerror}", fix=f"ls -l {path}") from exc


def _text(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        return _bytes(path).decode()
    except UnicodeDecodeError as exc:
        raise UsageError("E-NOT-TEXT", f"{path} is no text: {exc}", fix=f"${{EDITOR:-vi}} {path}") from exc


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file at once; the one a link leads to, and with the rights that it had."""
    try:
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else mode
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".overnight-")
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode())
            os.fchmod(handle, mode)
        os.replace(name, path)
    except OSError as exc:
        raise StorageError("E-INSTALL", f"{path} cannot be written: {exc.strerror}", fix=f"ls -ld {path.parent}") from exc


def _remove(path: Path, known: str) -> bool:
    """Whether a file of ours is gone; one that somebody has changed stays."""
    if not path.exists():
        return True
    if _hash(_bytes(path)) != known:
        return False
    path.unlink()
    return True
