"""The coding agents of this machine: which are there, which are logged in, and whether one works."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from overnight.errors import UsageError, nearest
from overnight.proposers import PROPOSERS
from overnight.proposers.agents import AGENTS, find
from overnight.settings import Settings, proposer_shares


def check_proposer(settings: Settings, environ: Mapping[str, str]) -> None:
    """Refuse a proposer that is not known or not there. One that stands behind another in a chain may still be missing."""
    names = [name for name, _ in proposer_shares(settings.proposer)]
    known = [*PROPOSERS, *AGENTS]
    installed = [
        name for name, agent in AGENTS.items() if any(each not in known or each in AGENTS for each in names) and find(agent, environ)
    ]
    told = f"known: {', '.join(known)}; installed agents: {', '.join(installed) or 'none'}"
    for name in names:
        if name not in known and (":" not in name or name.partition(":")[0] in known):
            raise UsageError(
                "E-NO-PROPOSER", f"there is no proposer '{name}'{nearest(name, known)}", why=told, fix="overnight run --proposer optuna"
            )
    missing = [name for name in names if name in AGENTS and name not in installed]
    if missing and len(missing) == len(names):
        raise UsageError("E-NO-AGENT", f"{missing[0]} is not installed", why=told, fix=AGENTS[missing[0]].install)
    if "llm" in names and not settings.proposer_model:
        raise UsageError(
            "E-NO-MODEL",
            "the proposer 'llm' needs a model",
            fix="overnight run --proposer llm --proposer-model anthropic/claude-sonnet-4-5",
        )
    if "command" in names and not settings.proposer_command:
        raise UsageError("E-NO-PROPOSER", "the proposer 'command' has no command", fix="overnight run --proposer-command 'claude -p'")
    try:
        shlex.split(settings.proposer_args)
    except ValueError as exc:
        raise UsageError(
            "E-BAD-SETTING", f"proposer_args cannot be split into words: {exc}", fix="overnight run --proposer-args '--effort high'"
        ) from exc
