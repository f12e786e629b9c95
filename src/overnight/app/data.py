"""Data that runs need and git does not hold: is it there, and what must an export link to reach it.

An entry of ``settings.data`` is a path in the repository, an absolute path, a ``$VARIABLE``, or several of these joined by " or ".
Must not know how an export is made; it looks at the disk and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from overnight.errors import UsageError

_ABSOLUTE = re.compile(r"(?<![\w./~$}{*-])(/(?:[\w.+-]+/)*[\w.+-]+)")
_AT_HOME = re.compile(r"(?<![\w./])(?:~|\$HOME|\$\{HOME\})/((?:[\w.+-]+/)*[\w.+-]+)")
_CACHE = re.compile(r"""["']\.cache["']\s*[,/]\s*["']([\w.+-]+)["']""")
_SYSTEM = {"bin", "boot", "dev", "etc", "lib", "lib64", "opt", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var"}
_OTHERS = {"home", "Users", "mnt", "media"}  # what lies in them belongs to somebody
_MOST = 32
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")


def check_data(entries: Sequence[str], root: Path, environ: Mapping[str, str]) -> list[str]:
    """What is missing, in words and with advice; empty = every entry is there. Raises ``UsageError`` (E-BAD-DATA)."""
    found = ((entry, _missing(entry, root, environ)) for entry in entries)
    return [f"{' and '.join(missing)}: {_advice(entry)}" for entry, missing in found if missing]


def data_links(entries: Sequence[str], root: Path, tracked: Collection[str]) -> dict[str, Path]:
    """What an export must link: path in the export -> absolute real path; of each entry the topmost part that git does not hold.

    ``.venv`` is linked too when it is there. Absolute paths need no link. Raises ``UsageError`` (E-BAD-DATA).
    """
    held = {*tracked, *(str(parent) for name in tracked for parent in PurePosixPath(name).parents)}
    links = {}
    for path in [PurePosixPath(".venv"), *(path for entry in entries for path in _paths(entry))]:
        if path.is_absolute() or str(path).startswith("~") or not is_there(root / path):
            continue
        for part in [*reversed(path.parents), path]:
            if str(part) not in held and part.parts:
                links[str(part)] = (root / part).resolve()
                break
    return links


def data_paths(entries: Sequence[str], environ: Mapping[str, str]) -> list[Path]:
    """Absolute paths outside the repository that entries lead to, by themselves or through a variable; of a file, its folder."""
    found = []
    for part in (part for entry in entries for part in _parts(entry)):
        match = _VARIABLE.fullmatch(part)
        text = environ.get(match[1] or match[2], "") if match else part
        path = Path(text).expanduser() if text else Path()
        if path.is_absolute() and is_there(path):
            found.append(path.resolve() if path.is_dir() else path.resolve().parent)
    return found


def named_paths(texts: Iterable[str], home: Path) -> list[Path]:
    """Places outside the repository that its own code names and that are there: ``/data/imagenet``, ``~/.cache/autoresearch``.

    Neither folders of the system nor the home folder as a whole, nor its hidden folders but what lies in ``.cache``.
    """
    found: set[Path] = set()
    for text in texts:
        found |= {Path(match[1]) for match in _ABSOLUTE.finditer(text)}
        found |= {home / match[1] for match in _AT_HOME.finditer(text)}
        found |= {home / ".cache" / match[1] for match in _CACHE.finditer(text)}
    fit = sorted(path for path in found if _is_data(path, home) and is_there(path))
    return [path for path in fit if not any(other in path.parents for other in fit)][:_MOST]


def _is_data(path: Path, home: Path) -> bool:
    if ".." in path.parts or path in (home, *home.parents):
        return False
    if home in path.parents:
        inside = path.relative_to(home).parts
        return not inside[0].startswith(".") or (inside[0] == ".cache" and len(inside) > 1)
    return path.parts[1] not in _SYSTEM and not (path.parts[1] in _OTHERS and len(path.parts) < 4)


def env_names(entries: Sequence[str]) -> set[str]:
    """The variables that entries name; runs must get them."""
    return {match[1] or match[2] for entry in entries for part in _parts(entry) if (match := _VARIABLE.fullmatch(part))}


def is_there(path: Path) -> bool:
    """Whether a path leads to something; what may not be looked at is not there."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _parts(entry: str) -> list[str]:
    return [part for part in re.split(r"\s+or\s+", entry.strip()) if part]


def _paths(entry: str) -> Iterator[PurePosixPath]:
    """The paths of an entry; one that leads out of the repository or into its bookkeeping is refused."""
    for part in _parts(entry) or [""]:
        if part.startswith("$"):
            if not _VARIABLE.fullmatch(part):
                _refuse(entry, f"'{part}' is no variable")
            continue
        path = PurePosixPath(part)
        if "\0" in part or not path.parts:
            _refuse(entry, "this is no path")
        if ".." in path.parts:
            _refuse(entry, "'..' leads out of the repository")
        if path.parts[0] in (".git", ".overnight"):
            _refuse(entry, f"{path.parts[0]} is no data")
        yield path


def _refuse(entry: str, why: str) -> None:
    fix = "write data as paths inside the repository, absolute paths or $VARIABLES in overnight.toml"
    raise UsageError("E-BAD-DATA", f"data: {entry!r} cannot be used: {why}", why=why, fix=fix)


def _missing(entry: str, root: Path, environ: Mapping[str, str]) -> list[str]:
    """Why no alternative of the entry is there; empty when one is."""
    reasons = []
    for path in _paths(entry):
        place = _home(path, environ) if str(path).startswith("~") else root / path
        if is_there(place):
            return []
        reasons.append(f"{path} does not exist")
    for name in (match[1] or match[2] for part in _parts(entry) if (match := _VARIABLE.fullmatch(part))):
        value = environ.get(name, "")
        if not value:
            reasons.append(f"${name} is not set")
        elif value.startswith("/") and not is_there(Path(value)):
            reasons.append(f"${name} points to {value}, which does not exist")
        else:
            return []
    return reasons


def _home(path: PurePosixPath, environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or "/", *path.parts[1:])


def _advice(entry: str) -> str:
    """The seed's advice: a person adds the data, the loop does not."""
    paths, names = list(_paths(entry)), sorted(env_names([entry]))
    exports = f"export {names[0]}={'/path/to/' + paths[0].name if paths else '…'}" if names else ""
    if paths and names:
        return f"add the data set first, or {exports}"
    return "add the data set first" if paths else f"{exports} first"
