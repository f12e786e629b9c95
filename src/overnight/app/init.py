"""``overnight init``: what was found in a repository becomes a commented ``overnight.toml`` and, if there is none, a ``program.md``.

Runs nothing and overwrites nothing unless told to. Must not look for anything itself: that is ``detect``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overnight import config
from overnight.app.detect import Findings
from overnight.errors import OvernightError, StorageError, UsageError
from overnight.kinds import SIZES
from overnight.printable import clean, one_line
from overnight.settings import Settings, convert, table

_GROUPS = (
    ("What is sought", ("goal", "metric", "direction", "target", "budget", "min_delta", "pick")),
    ("What runs", ("command", "pipeline", "metric_node", "editable", "protect", "data", "pass_env", "time_budget", "time_limit", "seed")),
    (
        "Who proposes",
        (
            *("proposer", "proposer_mix", "proposer_model", "proposer_args", "proposer_hosts", "proposer_command", "proposer_time_limit"),
            *("policy", "program", "knowledge", "semantic_model", "repairs", "ahead"),
        ),
    ),
    ("When to believe it", ("profile", "baseline_runs", "early_stop", "plateau", "verify", "verify_wait")),
    ("Who measures", ("evaluate", "artifact", "holdout", "hidden_holdout", "predict", "evaluate_time_limit")),
    (
        "Where it runs",
        (
            "slots",
            "gpus",
            "executor",
            "executor_args",
            "gpus_per_run",
            "memory_soft",
            "memory_hard",
            "memory_limit",
            "process_limit",
            "disk_limit",
            "log_limit",
        ),
    ),
    ("Walls", ("sandbox_network", "caches", "unsafe_no_sandbox")),
    ("Names", ("tag", "branch_prefix", "tsv_metric_name")),
)

_EMBEDDED = "optuna"  # needs no key and no program


@dataclass(frozen=True, slots=True)
class Written:
    """What ``write`` has put into the repository; ``program`` is None where a ``program.md`` was there already."""

    config: Path
    program: Path | None

    def __str__(self) -> str:
        names = [path.name for path in (self.config, self.program) if path]
        return f"wrote {' and '.join(names)}"


def values(findings: Findings) -> dict[str, Any]:
    """The settings that were found, by name, as ``config.load`` would give them."""
    found = {
        "goal": findings.goal,
        "metric": findings.metric,
        "direction": findings.direction,
        "command": findings.command,
        "proposer": (*findings.agents, _EMBEDDED) if findings.agents else (),
        "editable": findings.editable,
        "data": findings.data,
        "time_budget": findings.time_budget,
        "time_limit": findings.time_limit,
    }
    return {name: convert(name, value) for name, value in found.items() if value}


def write(findings: Findings, root: Path, *, force: bool = False) -> Written:
    """Write ``overnight.toml`` and, where there is none, ``program.md`` into ``root``; neither is left half written.

    Raises ``UsageError`` E-EXISTS when there are settings already and ``force`` is not given (``program.md`` is never replaced),
    E-READ-ONLY when the folder may not be written, and ``StorageError`` when it cannot be.
    """
    target, guide = root / config.FILE_NAME, root / "program.md"
    if target.is_dir() and not target.is_symlink():
        raise UsageError("E-EXISTS", f"{target.name} is a folder", where=target.name, fix=f"ls -ld {target.name}")
    if not force:
        _nothing_there(root, target)
    fresh = not os.path.lexists(guide)
    if fresh:
        _put(guide, program_text(findings))
    _put(target, config_text(findings))
    return Written(target, guide if fresh else None)


def _nothing_there(root: Path, target: Path) -> None:
    place = target.name if os.path.lexists(target) else ""
    if not place:
        with contextlib.suppress(OvernightError):  # a broken pyproject.toml is reported by whoever reads the settings
            found = config.load(root, {}, {}).file
            place = f"[tool.overnight] in {found.name}" if found else ""
    if place:
        why = "init never replaces settings unless it is told to"
        raise UsageError("E-EXISTS", f"there is already {place}", where=place, why=why, fix="overnight init --force")


def _put(path: Path, text: str) -> None:
    """Write a file whole or not at all; a link in its place is replaced, not followed."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("x", encoding="utf-8", errors="replace", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except OSError as exc:
        with contextlib.suppress(OSError):
            draft.unlink()
        why = exc.strerror or str(exc)
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UsageError(
                "E-READ-ONLY", f"{path.name} cannot be written: {why}", where=str(path.parent), fix=f"ls -ld {path.parent}"
            ) from exc
        raise StorageError(
            "E-STORAGE", f"{path.name} cannot be written: {why}", where=str(path.parent), fix=f"df -h {path.parent}"
        ) from exc


def config_text(findings: Findings) -> str:
    """The commented ``overnight.toml``: found values as settings, all others as comments with an example."""
    known = table()
    lines = [
        "# Settings of this study, written by `overnight init`. A line that begins with # is not in force.",
        "# Origin of each value in force: overnight config",
    ]
    found = values(findings)
    for title, names in groups():
        lines += ["", f"# ---- {title} ----"]
        for name in names:
            lines += ["", f"# {known[name]['help']}", *_setting(name, found, findings)]
    return "\n".join(lines) + "\n"


def groups() -> list[tuple[str, tuple[str, ...]]]:
    """Titles with the names of settings below them; each setting is in one group."""
    grouped = {name for _, names in _GROUPS for name in names}
    rest = tuple(name for name in table() if name not in grouped)
    return [*_GROUPS, ("More", rest)] if rest else [*_GROUPS]


def shown(name: str, value: Any) -> str:
    """A value as it stands in a file; empty if it says nothing."""
    if value in ("", (), None) or (value == 0 and table()[name]["kind"] in ("duration", "limit", *SIZES)):
        return ""
    if table()[name]["kind"] in SIZES:
        return _quoted(next(f"{value // unit}{letter}" for unit, letter in ((2**30, "GB"), (2**20, "MB"), (1, "")) if value % unit == 0))
    return _toml(name, value)


def _setting(name: str, found: dict[str, Any], findings: Findings) -> Iterator[str]:
    if name in found:
        why = one_line(
            findings.why.get(name, "found on PATH; the next steps in while the one before is down" if name == "proposer" else "")
        )
        if name == "direction" and findings.guessed:
            why += ": check it"
        yield f"{name} = {_toml(name, found[name])}" + (f"  # {why}" if why else "")
        return
    why = (
        f"  # {one_line(findings.why['network'])} wants it: take the # at the start away"
        if name == "sandbox_network" and findings.network
        else ""
    )
    yield f"# {name} = {table()[name]['example']}{why}"


def _toml(name: str, value: Any) -> str:
    """A value as TOML that ``settings.convert`` reads back."""
    if table()[name]["kind"] in ("duration", "limit"):
        return _quoted(_duration(value))
    if isinstance(value, tuple):
        return _quoted(value[0]) if name == "command" and len(value) == 1 else f"[{', '.join(_quoted(item) for item in value)}]"
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    """A basic string of TOML: JSON's escapes are valid there, and DEL must be escaped too."""
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")


def _duration(seconds: float) -> str:
    for unit, letter in ((3600, "h"), (60, "m")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:.0f}{letter}"
    return f"{seconds:.15g}s"


def _spoken(seconds: float) -> str:
    """Seconds for people, as ``10 minutes``."""
    for unit, word in ((3600, "hour"), (60, "minute")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:.0f} {word}{'' if seconds == unit else 's'}"
    return f"{seconds:g} seconds"


def program_text(findings: Findings) -> str:
    """A short ``program.md`` for this repository; what ``detect`` reads out of it is what went in."""
    best = {"minimize": "lowest", "maximize": "highest"}.get(findings.direction, "best")
    better = {"minimize": " Lower is better.", "maximize": " Higher is better."}.get(findings.direction, "")
    goal = (
        f"The goal: get the {best} `{findings.metric}`.{better}"
        if findings.metric
        else "The goal: (say here in a sentence what is to become better)"
    )
    edit = ", ".join(f"`{name}`" for name in findings.editable) or "(name the file here)"
    kept = ", ".join(f"`{name}`" for name in findings.protected)
    command = f"`{findings.command[0]}`" if findings.command else "the command in `overnight.toml`"
    budget = f" It has a time budget of {_spoken(findings.time_budget)}." if findings.time_budget else ""
    limit = findings.time_limit or 2 * findings.time_budget or Settings().limit
    metric = f"`{findings.metric}`" if findings.metric else "the goal metric"
    return f"""# Research program

You improve this repository by experiments, one idea at a time, while nobody is watching.

{goal}

## What you may edit

- {edit} is the only file you edit: model, optimizer, hyperparameters, data handling, everything in it is open.
- All other files are read-only{f", among them {kept}" if kept else ""}. Touching them or adding packages makes the experiment void.

## How it is measured

- Each experiment runs {command}.{budget} A run is killed after {_spoken(limit)} and counts as failed.
- The last value of {metric} that the run prints decides. Strictly better is kept; equal or worse is discarded; a crash is a crash.
- Memory is a soft limit: a little more is fine for a real gain, a blow-up is not.

## How to work

- Read the results of earlier experiments first, and do not repeat what has failed.
- Change one thing for one reason, and say both in a line.
- Simpler is better. A tiny gain that costs ugly code is not worth it; the same result with less code is a win.
- Never stop and never ask. When ideas run out, combine near misses, read the code again, or try something bolder.
"""


def describe(findings: Findings) -> list[str]:
    """The block ``looking at this repo`` for a screen: what was found, in aligned columns, and where."""
    rows = [(label, clean(value), clean(note)) for label, value, note in _rows(findings)]
    left = max(len(label) for label, _, _ in rows) + 3
    right = min(max(len(value) for _, value, _ in rows) + 3, 60)
    return ["looking at this repo", *(f"  {label:<{left}}{value:<{right - 1}} {note}".rstrip() for label, value, note in rows)]


def _rows(findings: Findings) -> Iterator[tuple[str, str, str]]:
    why = findings.why
    command = findings.command[0] if findings.command else "not found"
    yield (
        "run command",
        command,
        f"({why['command']})" if findings.command else "set command in overnight.toml, or: overnight run -- COMMAND",
    )
    editable = ", ".join(findings.editable) or "not found"
    reason = f"({why['editable']})   " if "editable" in why else ""
    kept = ", ".join(findings.protected) or "everything else"
    yield "editable", editable, f"{reason}read-only: {kept}" if findings.editable else "set editable in overnight.toml"
    yield "metric", *_metric_row(findings)
    budget = f"{_spoken(findings.time_budget)} a run" if findings.time_budget else "not said"
    limit = findings.time_limit or 2 * findings.time_budget or Settings().limit
    cards = [f"gpu {gpu.index}: {gpu.name}" + (f" {round(gpu.memory_mb / 1024)} GB" if gpu.memory_mb else "") for gpu in findings.gpus]
    yield "time limit", f"{budget}, killed at {_spoken(limit)}", ", ".join(cards) or "no GPU found"
    if findings.data:
        yield "data", ", ".join(findings.data), f"({why['data']})"
    if findings.network:
        yield "network", "runs want it", f"({why['network']})   they have none unless sandbox_network = true in overnight.toml"
    if findings.agents:
        others = f"also found: {', '.join(findings.agents[1:])}; " if findings.agents[1:] else ""
        yield (
            "agent",
            f"{findings.agents[0]} (found on PATH)",
            f"{others}{_EMBEDDED} stands in while {'all are' if others else 'it is'} down",
        )
    else:
        yield "agent", "none on PATH", f"{_EMBEDDED} searches the constants, no key needed"


def _metric_row(findings: Findings) -> tuple[str, str]:
    others = f"   also printed: {', '.join(findings.others[:4])}" if findings.others else ""
    if not findings.metric:
        return "not found", f"print it as @name=value, then set metric in overnight.toml{others}"
    unknown = "direction unknown: set it in overnight.toml"
    better = {"minimize": "lower is better", "maximize": "higher is better"}.get(findings.direction, unknown)
    guess = " (a guess from its name: check it)" if findings.guessed else ""
    return f"{findings.metric}  {better}{guess}", f"({findings.why['metric']}){others}"
