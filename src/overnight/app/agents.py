"""The coding agents of this machine: which are there, which are logged in, and whether one really answers."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from overnight.app.options import Options
from overnight.errors import UsageError, nearest
from overnight.printable import duration, one_line
from overnight.proposers import PROPOSERS, prices
from overnight.proposers.agents import AGENTS, Agent, find, lacks
from overnight.settings import Settings, proposer_shares

_PATIENCE = 20.0  # seconds in which a program has to tell its version

_DRY = 300.0  # seconds for a dry proposal


@dataclass(frozen=True, slots=True)
class Known:
    """One agent as it is found here."""

    name: str
    program: str  # empty = not installed
    version: str
    login: str  # what speaks for a login: a variable or a file; empty = nothing was found


def names(settings: Settings) -> list[str]:
    """The proposers that are named, without their shares."""
    return [name for name, _ in proposer_shares(settings.proposer)]


def check_proposer(settings: Settings, environ: Mapping[str, str]) -> None:
    """Refuse a proposer that is not known or not there; one of several may be missing. Raises ``UsageError``."""
    wanted = names(settings)
    known = [*PROPOSERS, *AGENTS]
    absent = {name: lacks(agent, find(agent, environ)) for name, agent in AGENTS.items() if set(wanted) - set(PROPOSERS)}
    installed = [name for name, missing in absent.items() if not missing]
    told = f"known: {', '.join(known)}; installed agents: {', '.join(installed) or 'none'}"
    for name in wanted:
        if name not in known and (":" not in name or name.partition(":")[0] in known):
            raise UsageError(
                "E-NO-PROPOSER", f"there is no proposer '{name}'{nearest(name, known)}", why=told, fix="overnight run --proposer optuna"
            )
    missing = [name for name in wanted if name in AGENTS and name not in installed]
    if missing and len(missing) == len(wanted):
        raise UsageError("E-NO-AGENT", f"{missing[0]} is not installed", why=told, fix=absent[missing[0]])
    silent = [name for name in wanted if name == "llm" or (name in AGENTS and not AGENTS[name].tells_money)]
    if settings.bounds.dollars and silent and not prices.known():
        why = f"{', '.join(silent)} tells tokens but no money, and the list of prices is not installed"
        raise UsageError("E-NO-PRICES", "a budget of dollars would never end", why=why, fix=prices.INSTALL)
    if "llm" in wanted and not settings.proposer_model:
        fix = "overnight run --proposer llm --proposer-model anthropic/claude-sonnet-4-5"
        raise UsageError("E-NO-MODEL", "the proposer 'llm' needs a model", fix=fix)
    if "command" in wanted and not settings.proposer_command:
        raise UsageError("E-NO-PROPOSER", "the proposer 'command' has no command", fix="overnight run --proposer-command 'claude -p'")
    try:
        shlex.split(settings.proposer_args)
    except ValueError as exc:
        fix = "overnight run --proposer-args 'WORDS'"
        raise UsageError("E-BAD-SETTING", f"proposer_args cannot be split into words: {exc}", fix=fix) from exc


def look(environ: Mapping[str, str]) -> list[Known]:
    """Every known agent; those that are installed are asked for their version, all at once."""
    rows = [agent for agent in AGENTS.values() if agent.acp is None]
    with ThreadPoolExecutor(len(rows)) as pool:
        return list(pool.map(lambda agent: _known(agent, environ), rows))


def _known(agent: Agent, environ: Mapping[str, str]) -> Known:
    program = find(agent, environ)
    return Known(agent.name, program, _version(agent, program, environ) if program and agent.version else "", _login(agent, environ))


def _version(agent: Agent, program: str, environ: Mapping[str, str]) -> str:
    """What the program says of its version, in a home that is thrown away; empty if it says nothing in time."""
    with tempfile.TemporaryDirectory(prefix="overnight-version-") as home, contextlib.suppress(OSError, subprocess.TimeoutExpired):
        env = {"PATH": environ.get("PATH", os.defpath), "HOME": home, "DISABLE_AUTOUPDATER": "1", "NO_COLOR": "1"}
        done = subprocess.run(
            [program, *agent.version],
            env=env,
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
            start_new_session=True,
        )
        lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if any(letter.isdigit() for letter in line)]
        return one_line(lines[0], 60) if lines else ""
    return ""


def _login(agent: Agent, environ: Mapping[str, str]) -> str:
    """The variable or the file that a login has left; whether it is still good, only the agent itself can tell."""
    for name in agent.secrets:
        if environ.get(name):
            return f"${name}"
    home = Path(environ.get("HOME") or "/nonexistent")
    for variable, folder, name in agent.logins:
        path = (Path(environ[variable]) if variable and environ.get(variable) else home / folder) / name
        if path.is_file():
            return str(path)
    return ""


def lines(environ: Mapping[str, str]) -> Iterator[tuple[bool | None, str, str]]:
    """What the doctor says of agents: whether it is good, words, and what mends it."""
    found = look(environ)
    for item in found:
        if item.program:
            version = f" {item.version}" if item.version else ""
            login = f"login: {item.login}" if item.login else "no login or key found"
            yield (True if item.login else None), f"agent {item.name}{version}, {login}", "" if item.login else AGENTS[item.name].login
    absent = [item.name for item in found if not item.program]
    if absent:
        yield None, f"agents not installed: {', '.join(absent)}; the embedded search needs none", ""
    speaking = [agent.name for agent in AGENTS.values() if agent.acp is not None and not lacks(agent, find(agent, environ))]
    if speaking:
        yield True, f"by the Agent Client Protocol also: {', '.join(speaking)}", ""
    if not prices.known():
        yield None, "no list of prices: agents that tell no money (codex, gemini, qwen, copilot, llm) count as $0", prices.INSTALL


def prove(options: Options, name: str) -> str:
    """One proposal by ``name`` in a scratch copy, with nothing kept; what came of it, in words. Raises ``OvernightError``."""
    from overnight.app import prepare, walls, wiring
    from overnight.app.where import executor_at
    from overnight.knowledge import Knowledge
    from overnight.models import Direction, Idea, Operator
    from overnight.redact import Redactor
    from overnight.store import Store
    from overnight.thinking import NO_CHANGE, Talk, Thinker, Wish
    from overnight.workspace import Scope, Workspace

    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overnight-doctor-")))
        workspace = stack.enter_context(Workspace.open(options.folder, scratch))
        store = stack.enter_context(contextlib.closing(Store(scratch / "overnight.db")))
        settings, _ = prepare.settle(replace(options, flags={**options.flags, "proposer": (name,)}), workspace)
        check_proposer(settings, options.environ)
        settings = replace(settings, proposer_time_limit=min(settings.proposer_time_limit or _DRY, _DRY))
        metric = settings.metric or "loss"
        direction = prepare.direction_of(settings, metric)[0] if settings.direction else Direction.MINIMIZE
        study = store.create_study("doctor", workspace.head(), direction, replace(settings, metric=metric), time.time())
        baseline = prepare.baseline(study, workspace)
        store.propose(study.id, baseline, prepare.lines(baseline), time.time())
        executor = executor_at(scratch)
        around = walls.around(study, workspace, scratch, options.environ, prepare.run_environment(settings, options.environ))
        proposer = wiring.proposer_for(study, executor, options.environ, around.proposer)
        scope = Scope(settings.editable, settings.protect)
        secrets = Redactor(options.environ)
        thinker = Thinker(store, workspace, proposer, scope, (scratch / "copies", secrets), Knowledge(store, secrets))
        proposal = thinker.think(study, Wish("dry", Operator.IMPROVE, 1), Talk((), "", "", lambda: False))
    idea: Idea = proposal.idea
    if proposal.rejected:
        raise UsageError("E-NO-EDIT" if proposal.rejected == NO_CHANGE else "E-REJECTED", f"{name}: {proposal.rejected}")
    money = f", ${idea.cost:.4f}{' by list prices' if idea.estimated else ''}" if idea.cost else ""
    model = f" ({idea.model})" if idea.model else ""
    return f"{name}{model} made an edit in {duration(idea.seconds)}, {idea.tokens} tokens{money}: {idea.hypothesis}"
