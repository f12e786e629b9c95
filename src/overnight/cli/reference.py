"""The reference pages, written: ``python -m overnight.cli.reference docs``. No verb: only who changes the program needs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from overnight.app.reference import Verb, commands_markdown, exit_codes_markdown, settings_markdown
from overnight.cli import VERBS, group
from overnight.cli.look import EXIT_CODES
from overnight.settings import table


def pages() -> dict[str, str]:
    """File name -> text of every page that is made."""
    return {"settings.md": settings_markdown(), "exit-codes.md": exit_codes_markdown(EXIT_CODES), "cli.md": commands_markdown(_verbs())}


def _verbs() -> Iterator[Verb]:
    for name in VERBS:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield _verb(name, command)
        if isinstance(command, click.Group):
            yield from (_verb(f"{name} {part}", each) for part, each in command.commands.items())


def _verb(name: str, command: click.Command) -> Verb:
    context = click.Context(command, info_name=f"overnight {name}")
    text = " ".join((command.help or "").split())
    rows = [row for parameter in command.params if not _is_setting(parameter) and (row := _row(parameter, context))]
    if any(_is_setting(parameter) for parameter in command.params):
        rows.append(("settings", "Every setting of settings.md is an option here: time_limit is --time-limit."))
    return Verb(name, " ".join([context.info_name or "", *command.collect_usage_pieces(context)]), text, tuple(rows))


def _is_setting(parameter: click.Parameter) -> bool:
    row = table().get(parameter.name or "", {})
    return isinstance(parameter, click.Option) and bool(row) and (parameter.help or "").removesuffix(" Repeatable.") == row["help"]


def _row(parameter: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    if not isinstance(parameter, click.Option):
        return None
    value = "" if parameter.is_flag else f" {parameter.metavar or parameter.type.name.upper()}"
    default = f" Default: {parameter.get_default(context)}." if parameter.show_default else ""
    return " / ".join(", ".join(words) for words in (parameter.opts, parameter.secondary_opts) if words) + value, (
        parameter.help or ""
    ) + default


if __name__ == "__main__":
    for name, page in pages().items():
        (Path(sys.argv[1]) / name).write_text(page, encoding="utf-8")
