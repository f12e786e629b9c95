"""The door to settings: flags, ``OVERNIGHT_*`` variables and TOML files become one ``Settings``, each value with its origin.

Precedence: flag > variable > ``overnight.toml`` > ``[tool.overnight]`` in ``pyproject.toml`` > the user's own file > default.
Must not know what a setting means (that is ``settings``), nor git, nor the store; it reads files and writes none.
"""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overnight.errors import NotFoundError, UsageError, nearest
from overnight.kinds import LISTS
from overnight.settings import Settings, convert, table

FILE_NAME = "overnight.toml"
_LARGEST = 1 << 20  # bytes of a settings file; /dev/zero must not fill the memory
# Set for whatever the loop starts: its OVERNIGHT_SEED and OVERNIGHT_TIME_BUDGET speak of that run, not of a study begun inside it.
_INSIDE = ("OVERNIGHT_EXPERIMENT_ID", "OVERNIGHT_BRIEF")
_TOKEN = re.compile(
    r'(?P<comment>#[^\n]*)|(?P<long>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5})|(?P<quoted>"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\')'
    r"|(?P<bare>[A-Za-z0-9_-]+)|(?P<newline>\n)|(?P<sign>[\[\]{}=])|(?P<other>[^\S\n]+|.)",
    re.DOTALL,
)
_Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings of a study, and where each one was found.

    ``origin`` names for every setting "flag", the variable, "overnight.toml:7", "pyproject.toml:31" or "default".
    ``file`` is the project's own file that was read, if there is one.
    """

    settings: Settings
    origin: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    """One settings file, read: the table that speaks of overnight, and the line of each key."""

    path: Path
    label: str
    values: Mapping[str, Any]
    lines: Mapping[_Path, int]
    above: _Path = ()  # where the table lies in the file: () or ("tool", "overnight")

    def where(self, key: _Path) -> str:
        """``overnight.toml:7`` for a key; a key inside an inline table has the line of that table."""
        full = self.above + key
        found = (self.lines[full[:end]] for end in range(len(full), 0, -1) if full[:end] in self.lines)
        return f"{self.label}:{next(found, 1)}"


def load(root: Path, flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None = None) -> Loaded:
    """Settings of the study in ``root``, from flags (None and () = not given), variables and files.

    ``file`` (``--config``) is read instead of ``overnight.toml`` and ``[tool.overnight]``. Raises ``UsageError`` for an unknown name
    (E-UNKNOWN-SETTING), a value that does not fit (E-BAD-SETTING), a file that cannot be used (E-BAD-TOML, E-UNREADABLE), and
    ``NotFoundError`` (E-NO-CONFIG) when ``file`` does not exist.
    """
    values: dict[str, Any] = {}
    origin = dict.fromkeys(table(), "default")
    project, warnings = _project(root, environ, file)
    user = _user(root, environ)
    for name, value, where in [
        *([] if user is None else _from_file(user)),
        *([] if project is None else _from_file(project)),
        *_from_environ(environ),
        *_from_flags(flags),
    ]:
        values[name], origin[name] = value, where
    return Loaded(Settings(**values), origin, warnings, None if project is None else project.path)


def user_file(environ: Mapping[str, str]) -> Path | None:
    """The user's own settings file, whether it exists or not; None without a home.

    An empty or relative variable counts as not set (XDG Base Directory Specification 0.8).
    """
    base, home = Path(environ.get("XDG_CONFIG_HOME", "")), Path(environ.get("HOME", ""))
    base = base if base.is_absolute() else home / ".config"
    return base / "overnight" / "config.toml" if base.is_absolute() else None


def _user(root: Path, environ: Mapping[str, str]) -> _Source | None:
    path = user_file(environ)
    if path is None or not os.path.lexists(path):  # lexists: a home that may not be entered is no home
        return None
    return _source(path, root, environ)


def _project(root: Path, environ: Mapping[str, str], file: Path | None) -> tuple[_Source | None, tuple[str, ...]]:
    """The one project file that counts, and a warning when a second one is passed over (as uv and ruff do)."""
    if file is not None:
        if not os.path.lexists(file):
            raise NotFoundError("E-NO-CONFIG", f"--config {_shown(str(file))}: there is no such file", fix="overnight init")
        return _source(file, root, environ, section=file.name == "pyproject.toml"), ()
    own, shared = root / FILE_NAME, root / "pyproject.toml"
    if os.path.lexists(own):
        found = _source(own, root, environ)
        passed = _mentions(shared)
        return found, (f"pyproject.toml: [tool.overnight] is passed over, because there is an {FILE_NAME}",) if passed else ()
    if _mentions(shared):
        found = _source(shared, root, environ, section=True)
        return (found, ()) if found.values else (None, ())
    return None, ()


def _mentions(shared: Path) -> bool:
    """Whether a pyproject.toml speaks of this program; what is wrong elsewhere in that file is its other readers' concern."""
    if not shared.is_file():
        return False
    try:
        text = _read(shared, "pyproject.toml")
    except UsageError:
        return False
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError):
        return bool(re.search(r"^\s*\[\s*tool\s*\.\s*overnight\b", text, re.MULTILINE))
    tool = found.get("tool", {})
    return isinstance(tool, dict) and "overnight" in tool


def _source(path: Path, root: Path, environ: Mapping[str, str], *, section: bool = False) -> _Source:
    label = _label(path, root, environ)
    text = _read(path, label).replace("\r\n", "\n")
    try:
        values: Any = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:  # ValueError: also dates and whole numbers that Python cannot hold
        found = re.search(r"\(at line (\d+), column \d+\)", str(exc))
        line = int(found[1]) if found else text.rstrip("\n").count("\n") + 1
        reason = "too deeply nested" if isinstance(exc, RecursionError) else str(exc)
        raise UsageError(
            "E-BAD-TOML", f"{label}:{line}: this is no TOML", where=f"{label}:{line}", why=_shown(reason), fix=_edit(label, line)
        ) from exc
    above: _Path = ("tool", "overnight") if section else ()
    for key in above:
        values = values.get(key, {}) if isinstance(values, dict) else {}
    source = _Source(path, label, values, _lines(text), above)
    if not isinstance(values, dict):
        where = source.where(())
        raise UsageError("E-BAD-SETTING", f"{where}: tool.overnight must be a table", where=where, fix=_edit(*where.rsplit(":", 1)))
    return source


def _read(path: Path, label: str) -> str:
    if path.is_dir():
        ours = path.name == FILE_NAME
        fix = (
            f"mv {label} {label}.folder && overnight init"
            if ours
            else f"overnight run --config {shlex.quote(str(Path(label) / FILE_NAME))}"
        )
        raise UsageError("E-UNREADABLE", f"{label} is a folder, not a file", where=label, fix=fix)
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise UsageError("E-UNREADABLE", f"{label}:{line}: the file is not UTF-8", where=f"{label}:{line}", fix=_edit(label, line)) from exc
    except OSError as exc:
        why = exc.strerror or str(exc)
        raise UsageError("E-UNREADABLE", f"{label} cannot be read: {why}", where=label, fix=f"ls -l {label}") from exc
    if len(data) > _LARGEST:
        raise UsageError("E-UNREADABLE", f"{label} is larger than 1 MiB: this is no settings file", where=label, fix=f"ls -l {label}")
    return text


def _lines(text: str) -> dict[_Path, int]:
    """The line of each key and table header of a valid TOML text; keys inside inline tables are left out."""
    found: dict[_Path, int] = {}
    above: _Path = ()
    key: list[str] = []
    line, depth, in_value, in_header = 1, 0, False, False
    for match in _TOKEN.finditer(text):
        kind, piece = match.lastgroup, match[0]
        if in_value:
            depth += (piece in "[{") - (piece in "]}") if kind == "sign" else 0
            in_value = kind != "newline" or depth > 0
        elif kind in ("bare", "quoted"):
            key.append(piece[1:-1] if kind == "quoted" else piece)
        elif piece == "[":
            in_header = True
        elif piece == "=" or (kind == "newline" and in_header):
            path = (() if in_header else above) + tuple(key)
            found.setdefault(path, line)
            above = path if in_header else above
            key, in_value, in_header = [], piece == "=", False
        line += piece.count("\n")
    if in_header:  # a header on the last line, without a line end
        found.setdefault(tuple(key), line)
    return found


def _leaves(values: Mapping[str, Any], above: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            if not value and not any(name.startswith(f"{_name((*above, key))}_") for name in table()):
                yield (*above, key), value
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _name(key: _Path) -> str:
    """``[sandbox] network`` and ``sandbox-network`` are both the setting ``sandbox_network``."""
    return "_".join(key).replace("-", "_")


def _from_file(source: _Source) -> list[tuple[str, Any, str]]:
    seen: dict[str, str] = {}
    found = []
    for key, value in _leaves(source.values):
        name, where = _name(key), source.where(key)
        fix = _edit(*where.rsplit(":", 1))
        _known(name, key, where, fix)
        if name in seen:
            message = f"{where}: '{_shown('.'.join(key))}' sets {name} a second time; the first is at {seen[name]}"
            raise UsageError("E-BAD-SETTING", message, where=where, fix=fix)
        seen[name] = where
        found.append((name, _converted(name, value, where, fix), where))
    return found


def _from_environ(environ: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    """Variables that bear the name of a setting; an empty one is not set, and lists are divided at commas."""
    if any(name in environ for name in _INSIDE):
        return []
    found = []
    for name, row in table().items():
        variable = f"OVERNIGHT_{name.upper()}"
        text = environ.get(variable, "").strip()
        if text:
            parts = tuple(part.strip() for part in text.split(",") if part.strip())
            value = parts if row["kind"] in LISTS else text
            found.append((name, _converted(name, value, variable, f"unset {variable}"), variable))
    return found


def _from_flags(flags: Mapping[str, object]) -> list[tuple[str, Any, str]]:
    found = []
    for key, value in flags.items():
        if value is None or value == ():
            continue
        name, flag = _name((key,)), f"--{key.replace('_', '-')}"
        _known(name, (key,), flag, "overnight run --help")
        found.append((name, _converted(name, value, flag, "overnight run --help"), "flag"))
    return found


def _known(name: str, key: _Path, where: str, fix: str) -> None:
    names = table()
    if name in names:
        return
    likely = f"; did you mean '{key[-1]}'?" if len(key) > 1 and key[-1] in names else nearest(name, names)
    message = f"{where}: unknown setting '{_shown('.'.join(key))}'{likely}"
    raise UsageError("E-UNKNOWN-SETTING", message, where=where, fix=fix)


def _converted(name: str, value: object, where: str, fix: str) -> Any:
    try:
        return convert(name, value)
    except (ValueError, OverflowError) as exc:
        wanted = "the number is too large" if isinstance(exc, OverflowError) else _shown(str(exc))
        example = table()[name]["example"]
        hint = f"{fix}     (for example: {name} = {example})" if example else fix
        if where.startswith("--"):
            shown = tomllib.loads(f"it = {example}")["it"] if example else ""
            hint = f"overnight run {where} {shlex.quote(str(shown[0] if isinstance(shown, list) else shown))}" if example else fix
        subject = where if where.startswith(("--", "OVERNIGHT_")) else f"{where}: {name}"
        raise UsageError("E-BAD-SETTING", f"{subject}: {wanted}", where=where, fix=hint) from exc


def _label(path: Path, root: Path, environ: Mapping[str, str]) -> str:
    """The shortest name under which a person finds the file."""
    home = Path(environ.get("HOME", ""))
    if path.is_relative_to(root):
        return _shown(str(path.relative_to(root)))
    if home.is_absolute() and path.is_relative_to(home):
        return _shown(str("~" / path.relative_to(home)))
    return _shown(str(path))


def _edit(label: str, line: int | str) -> str:
    return f"${{EDITOR:-vi}} +{line} {label if ' ' not in label else shlex.quote(label)}"


def _shown(text: str) -> str:
    """A name out of a file, fit to be printed: control characters are escaped."""
    return text if text.isprintable() else ascii(text)[1:-1]
