"""Command line options made from the table of settings, so that flags, file and documentation cannot differ."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from overnight.app.options import Options
from overnight.kinds import LISTS
from overnight.settings import table

_F = TypeVar("_F", bound=Callable[..., Any])
_METAVAR = {
    "amount": "X",
    "profile": "fast|balanced|strict",
    "stopper": "off|health|envelope|asha",
    "verifying": "off|keeps|all",
    "policy": "greedy|best-of-n|aide|uct|weighted|optuna|wave",
    "count": "N",
    "positive": "N",
    "number": "X",
    "duration": "TIME",
    "limit": "TIME",
    "size": "SIZE",
    "memory": "SIZE",
    "disk": "SIZE",
    "direction": "minimize|maximize",
    "pick": "last|best",
    "keeping": "project|user",
    "mix": "order|shares|bandit",
    "budget": "N|TIME|GPU-H|$",
}


AGENT_SETTINGS = (
    "proposer",
    "proposer_mix",
    "proposer_model",
    "proposer_args",
    "proposer_hosts",
    "proposer_command",
    "proposer_time_limit",
    "unsafe_no_sandbox",
)


def settings_options(function: _F) -> _F:
    """Add one option for every setting but the command, which follows ``--``."""
    for name in reversed([name for name in table() if name != "command"]):
        function = _option(name)(function)
    return function


def agent_options(*more: str) -> Callable[[_F], _F]:
    """Add the options that say whom to ask, and those of the settings ``more``."""

    def added(function: _F) -> _F:
        for name in reversed([*AGENT_SETTINGS, *more]):
            function = _option(name)(function)
        return function

    return added


def _option(name: str) -> Callable[[_F], _F]:
    row, flag = table()[name], "--" + name.replace("_", "-")
    if row["kind"] == "flag":
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=row["help"])
    if row["kind"] in LISTS:
        return click.option(flag, name, multiple=True, metavar=_METAVAR.get(row["kind"], "TEXT"), help=row["help"] + " Repeatable.")
    return click.option(flag, name, default=None, metavar=_METAVAR.get(row["kind"], "TEXT"), help=row["help"])


def place_options(function: _F) -> _F:
    """Add ``--config`` and ``--state``."""
    function = click.option(
        "--state", type=click.Path(path_type=Path), metavar="DIR", help="State folder instead of .overnight/ in the repository."
    )(function)
    return click.option(
        "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="Read this file instead of overnight.toml."
    )(function)


def base_option(function: _F) -> _F:
    """Add ``--from``."""
    told = "Branch or commit that a fresh study starts from, such as overnight/plan/NAME; where HEAD is if not given."
    return click.option("--from", "base", default=None, metavar="COMMIT", help=told)(function)


def state_option(function: _F) -> _F:
    """Add ``--state`` and ``--tag`` to a verb that looks or steers."""
    function = click.option("--tag", default="", metavar="TAG", help="Which study; the latest if not given.")(function)
    return click.option(
        "--state", type=click.Path(path_type=Path), metavar="DIR", help="State folder, if it is not .overnight/ here or above."
    )(function)


def json_option(function: _F) -> _F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="JSON on standard output, for programs.")(function)


def options_of(config_file: Path | None, state: Path | None, command: tuple[str, ...], given: dict[str, Any]) -> Options:
    """What the person said, for the app. Lists may be written with commas."""
    flags = {name: value for name, value in given.items() if value not in (None, ())}
    for name in ("editable", "protect", "gpus", "proposer", "proposer_hosts"):
        if name in flags:
            flags[name] = tuple(part.strip() for item in flags[name] for part in item.split(",") if part.strip())
    if command:
        flags["command"] = command
    if "proposer_command" in flags and "proposer" not in flags:
        flags["proposer"] = ("command",)
    base = str(flags.pop("base", ""))
    return Options(Path.cwd(), flags, os.environ, config_file, state, base)
