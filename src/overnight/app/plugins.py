"""The plugin for coding agents: its commands, its skill and the server's address, in the form that each agent's program reads.

One text for all of them, that of ``plugins/claude``. Puts nothing in place: ``install`` does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from overnight.proposers.agents import AGENTS as AGENTS_ASKED

NAME = "overnight"
SKILL = "overnight-research"
COMMANDS = ("pi", "plan", "run", "loop", "report")


@dataclass(frozen=True, slots=True)
class Plugin:
    """What one agent's program is given: whole files below its folder, and one entry in a file of the user's own."""

    files: Mapping[str, str]  # below the agent's folder
    entry: tuple[str, str] = ("", "")  # file below the agent's folder, and the text (TOML) or value (JSON) that belongs there


def source(path: str) -> str:
    """A file of the plugin as it is shipped."""
    return resources.files("overnight").joinpath("plugins", "claude", *path.split("/")).read_text(encoding="utf-8")


def _parts(name: str) -> tuple[str, str]:
    """Description and text of a command."""
    _, head, body = source(f"commands/{name}.md").split("---\n", 2)
    rows = dict(line.split(": ", 1) for line in head.strip().splitlines())
    return rows["description"], body.strip() + "\n"


def command(name: str, arguments: str) -> str:
    """The text of a command with what was said after it."""
    return _parts(name)[1].replace("$ARGUMENTS", arguments)


def server() -> list[str]:
    """The command that starts the server, wherever it is started from."""
    return [sys.executable, "-P", "-m", "overnight", "mcp"]  # -P: no file of the folder it is started in takes the place of a module


def claude(*, short: bool = False) -> Plugin:
    """A plugin below ``~/.claude/skills``, which Claude Code loads by itself; no file of the user's is changed."""
    first, *rest = server()
    here = f"skills/{NAME}"
    files = {f"{here}/{path}": source(path) for path in (".claude-plugin/plugin.json", f"skills/{SKILL}/SKILL.md")}
    files |= {f"{here}/commands/{name}.md": source(f"commands/{name}.md") for name in COMMANDS}
    files |= {f"commands/{name}.md": source(f"commands/{name}.md") for name in COMMANDS if short}
    files[f"{here}/.mcp.json"] = _json({"mcpServers": {NAME: {"command": first, "args": rest}}})
    return Plugin(files)


def codex(*, short: bool = False) -> Plugin:
    """Prompts and a skill below ``~/.codex``, and a table in its ``config.toml``."""
    first, *rest = server()
    files = {f"skills/{SKILL}/SKILL.md": source(f"skills/{SKILL}/SKILL.md")}
    files |= {f"prompts/overnight-{name}.md": source(f"commands/{name}.md") for name in COMMANDS}
    files |= {f"prompts/{name}.md": source(f"commands/{name}.md") for name in COMMANDS if short}
    table = [
        f"[mcp_servers.{NAME}]",
        f"command = {json.dumps(first)}",
        f"args = {json.dumps(rest)}",
        "startup_timeout_sec = 30",
        "tool_timeout_sec = 3600",
    ]
    table.append(f"env_vars = {json.dumps(_variables())}")
    return Plugin(files, ("config.toml", "\n".join(table) + "\n"))


def _variables() -> list[str]:
    """Names of variables that the verbs go by; Codex passes no other on to a server, and a loop would lack its agent's key."""
    own = ("OVERNIGHT_HUB", "OVERNIGHT_STATE", "OVERNIGHT_CREDENTIALS", "CUDA_VISIBLE_DEVICES")
    homes = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
    asked = {name for row in AGENTS_ASKED.values() for name in (*row.keys, *row.secrets)}
    return [*own, *homes, *sorted(asked)]


def gemini(*, short: bool = False) -> Plugin:
    """An extension below ``~/.gemini/extensions``, which Gemini CLI loads by itself; no file of the user's is changed."""
    first, *rest = server()
    here = f"extensions/{NAME}"
    version = json.loads(source(".claude-plugin/plugin.json"))["version"]
    told = {"name": NAME, "version": version, "mcpServers": {NAME: {"command": first, "args": rest, "timeout": 3_600_000}}}
    files = {f"{here}/gemini-extension.json": _json(told), f"{here}/skills/{SKILL}/SKILL.md": source(f"skills/{SKILL}/SKILL.md")}
    for name in COMMANDS:
        description, body = _parts(name)
        prompt = json.dumps(body.replace("$ARGUMENTS", "{{args}}"), ensure_ascii=False)
        for path in (f"{NAME}/{name}", *([name] if short else [])):
            files[f"{here}/commands/{path}.toml"] = f"description = {json.dumps(description)}\nprompt = {prompt}\n"
    return Plugin(files)


def opencode(*, short: bool = False) -> Plugin:
    """Commands and a skill below ``~/.config/opencode``, and a server in its ``opencode.json``."""
    files = {f"skills/{SKILL}/SKILL.md": source(f"skills/{SKILL}/SKILL.md")}
    for name in COMMANDS:
        description, body = _parts(name)
        for path in (f"overnight-{name}", *([name] if short else [])):
            files[f"commands/{path}.md"] = f"---\ndescription: {description}\n---\n{body}"
    value = {"mcp": {NAME: {"type": "local", "command": server(), "enabled": True, "timeout": 3_600_000}}}
    return Plugin(files, ("opencode.json", _json(value)))


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def folder(agent: str, environ: Mapping[str, str]) -> Path:
    """Where an agent's program keeps what is the user's own."""
    home = Path(environ.get("HOME") or "/nonexistent")
    if agent == "opencode":
        config = environ.get("XDG_CONFIG_HOME", "")
        return (Path(config) if config.startswith("/") else home / ".config") / "opencode"
    variable = {"claude": "CLAUDE_CONFIG_DIR", "codex": "CODEX_HOME"}.get(agent, "")
    return Path(environ[variable]).absolute() if variable and environ.get(variable) else home / f".{agent}"


AGENTS = {"claude": claude, "codex": codex, "gemini": gemini, "opencode": opencode}
