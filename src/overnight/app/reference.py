"""The reference pages of ``docs/`` as Markdown, made from the tables that the program itself works with.

Must not know the command line's parser: what it says of itself is an argument. Writes nothing; ``python -m overnight.cli.reference DIR`` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from overnight.app.init import groups, shown
from overnight.settings import table

_MADE = "<!-- made by `python -m overnight.cli.reference docs`; change the source, not this page -->"
_SETTINGS = """\
Every setting has one name in three places: `time_limit` in a file, `--time-limit` on the command line, `OVERNIGHT_TIME_LIMIT` in the
environment. A flag wins over a variable, a variable over `overnight.toml`, that over `[tool.overnight]` in `pyproject.toml`, that over your own
`~/.config/overnight/config.toml`, and that over the default. `overnight config` shows every value and where it comes from; `overnight init`
writes a commented file. An unknown name is an error that suggests the nearest one.

Durations are written as `90s`, `5m`, `8h` or `1h30m`, sizes as `500MB` or `16GB` in steps of 1024. Lists are repeated flags on the command
line, or divided by commas in a variable; `command` has no flag, it follows `--`.
"""
_EXIT_CODES = """\
Errors go to standard error in four parts: what was found, where, why, and an exact command as the fix. With `--json` the same error is an object
on standard output: `{"ok": false, "error": {"code": "E-…", "message": "…", "hint": "…"}}`.
"""


@dataclass(frozen=True, slots=True)
class Verb:
    """What the command line says of one verb; ``rows`` are its arguments and options, each with a sentence."""

    name: str
    usage: str
    text: str
    rows: tuple[tuple[str, str], ...]


def settings_markdown() -> str:
    """Every setting with its default, an example and its sentence, in the groups of ``overnight.toml``."""
    known = table()
    lines = [_MADE, "", "# Settings", "", _SETTINGS]
    for title, names in groups():
        lines += [f"## {title}", "", "| setting | default | for example | what it is |", "|---|---|---|---|"]
        for name in names:
            default = shown(name, known[name]["default"])
            example = f"`{_cell(known[name]['example'])}`"
            lines.append(f"| `{name}` | {f'`{_cell(default)}`' if default else 'not set'} | {example} | {_cell(known[name]['help'])} |")
        lines.append("")
    return "\n".join(lines)


def exit_codes_markdown(codes: Mapping[int, str]) -> str:
    """The exit codes and what they mean."""
    return "\n".join(
        [_MADE, "", "# Exit codes", "", _EXIT_CODES, *_table(("code", "meaning"), ((str(code), text) for code, text in codes.items())), ""]
    )


def commands_markdown(verbs: Iterable[Verb]) -> str:
    """Every verb with its usage, its text and its options."""
    lines = [_MADE, "", "# Commands", "", "`overnight VERB --help` says the same; `python -m overnight` is `overnight`.", ""]
    for verb in verbs:
        lines += [f"## {verb.name}", "", "```text", verb.usage, "```", "", verb.text, ""]
        lines += [*_table(("option", "what it does"), ((f"`{name}`", text) for name, text in verb.rows)), ""] if verb.rows else []
    return "\n".join(lines)


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---|---|", *(f"| {_cell(left)} | {_cell(right)} |" for left, right in rows)]


def _cell(text: str) -> str:
    """Text that stays inside its cell."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
