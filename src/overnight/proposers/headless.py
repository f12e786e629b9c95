"""The command line and the configuration of each agent for one proposal: how it runs without a person, or speaks its protocol.

Found by running the programs. Writes into the agent's own home alone. Must not know what an agent may reach, nor how its end is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Setup:
    """One proposal as an agent's command line needs it. ``home`` is a folder of its own; ``confined`` = walls stand around it."""

    brief: Path
    copy: Path
    work: Path
    home: Path
    model: str
    editable: tuple[str, ...]
    environ: Mapping[str, str]  # what the agent gets of the person's variables
    confined: bool

    def base(self, variable: str) -> str:
        """An address that the person has set, without its last slash."""
        return self.environ.get(variable, "").rstrip("/")


def model(setup: Setup, flag: str) -> list[str]:
    """The flag that chooses the model, if one is wanted."""
    return [flag, setup.model] if setup.model else []


def claude_words(setup: Setup) -> list[str]:
    """The words after Claude Code's program."""
    tools = "Read,Edit,Write,Glob,Grep" + (",Bash" if setup.confined else "")
    modes = ("--permission-mode", "acceptEdits", "--tools", tools, "--allowedTools", tools, "--strict-mcp-config")
    return ["-p", "--output-format", "stream-json", "--verbose", *modes, *model(setup, "--model")]


def claude_env(_setup: Setup) -> dict[str, str]:
    """The variables of Claude Code."""
    return {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_MAX_RETRIES": "2"}


def codex_words(setup: Setup) -> list[str]:
    """The words after Codex's program."""
    words = ["exec", "--json", "--skip-git-repo-check", "--ephemeral", "-C", str(setup.copy), *model(setup, "-m")]
    # Its own sandbox cannot be built within ours.
    words += ["--dangerously-bypass-approvals-and-sandbox"] if setup.confined else ["-s", "workspace-write"]
    if base := setup.base("OPENAI_BASE_URL"):
        row = f'{{name="own",base_url={json.dumps(base)},wire_api="responses",env_key="OPENAI_API_KEY",request_max_retries=2,stream_max_retries=2}}'
        words += ["-c", "model_provider=own", "-c", f"model_providers.own={row}"]
    return [*words, "-"]


def codex_env(setup: Setup) -> dict[str, str]:
    """The variables of Codex."""
    key = setup.environ.get("OPENAI_API_KEY")
    return {"CODEX_HOME": folder(setup, ".codex"), **({"CODEX_API_KEY": key} if key and "CODEX_API_KEY" not in setup.environ else {})}


def gemini_words(setup: Setup) -> list[str]:
    """The words after Gemini CLI's program."""
    mode = "yolo" if setup.confined else "auto_edit"
    return ["--skip-trust", "--approval-mode", mode, "-o", "stream-json", *model(setup, "-m")]


def gemini_env(setup: Setup) -> dict[str, str]:
    """The variables of Gemini CLI; its configuration is written."""
    kind = "gemini-api-key" if setup.environ.get("GEMINI_API_KEY") else "oauth-personal"
    settings = {
        "security": {"auth": {"selectedType": kind}},
        "privacy": {"usageStatisticsEnabled": False},
        "general": {"disableAutoUpdate": True},
    }
    (Path(folder(setup, ".gemini")) / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return {"GEMINI_CLI_TRUST_WORKSPACE": "true"}


def opencode_words(setup: Setup) -> list[str]:
    """The words after OpenCode's program."""
    own = setup.base("OPENAI_BASE_URL") and setup.model and "/" not in setup.model
    return ["run", "--format", "json", *(["-m", f"own/{setup.model}"] if own else model(setup, "-m"))]


def opencode_env(setup: Setup) -> dict[str, str]:
    """The variables of OpenCode."""
    shell = "allow" if setup.confined else "deny"
    config: dict[str, object] = {
        "permission": {"edit": "allow", "bash": shell, "webfetch": "deny", "external_directory": "deny"}, "share": "disabled", "autoupdate": False,
    }  # fmt: skip
    if base := setup.base("OPENAI_BASE_URL"):
        options = {"baseURL": base, "apiKey": "{env:OPENAI_API_KEY}"}
        config["provider"] = {
            "own": {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {setup.model.split("/", 1)[-1] or "default": {}}},
            "openai": {"options": {"baseURL": base}},
        }
    quiet = (
        "OPENCODE_DISABLE_AUTOUPDATE",
        "OPENCODE_DISABLE_MODELS_FETCH",
        "OPENCODE_DISABLE_LSP_DOWNLOAD",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS",
    )
    return {"OPENCODE_CONFIG_CONTENT": json.dumps(config), **dict.fromkeys(quiet, "1")}


def pi_words(setup: Setup) -> list[str]:
    """The words after pi's program."""
    tools = "read,edit,write,grep,find,ls" + (",bash" if setup.confined else "")
    words = ["-p", "--mode", "json", "--tools", tools, "--no-extensions", "--no-session"]
    return [*words, *(["--provider", "own"] if setup.base("OPENAI_BASE_URL") else []), *model(setup, "--model")]


def pi_env(setup: Setup) -> dict[str, str]:
    """The variables of pi; its configuration is written."""
    place = folder(setup, ".pi/agent")
    if base := setup.base("OPENAI_BASE_URL"):
        row = {"baseUrl": base, "api": "openai-completions", "apiKey": "OPENAI_API_KEY", "models": [{"id": setup.model or "default"}]}
        (Path(place) / "models.json").write_text(json.dumps({"providers": {"own": row}}), encoding="utf-8")
    return {"PI_CODING_AGENT_DIR": place, "PI_OFFLINE": "1"}


def qwen_words(setup: Setup) -> list[str]:
    """The words after Qwen Code's program."""
    kind = ["--auth-type", "openai"] if setup.environ.get("OPENAI_API_KEY") else []
    return [*kind, "--approval-mode", "yolo" if setup.confined else "auto-edit", "-o", "stream-json", "--bare", *model(setup, "-m")]


def copilot_words(setup: Setup) -> list[str]:
    """The words after Copilot CLI's program."""
    allowed = ["--allow-all-tools"] if setup.confined else ["--allow-tool", "write", "--deny-tool", "shell"]
    quiet = ("--no-ask-user", "--no-auto-update", "--disable-builtin-mcps")
    usage = ("--usage-output-file", str(setup.work / "usage.json"))
    return ["-p", prompt(setup), "--output-format", "json", *allowed, *quiet, *usage, *model(setup, "--model")]


def copilot_env(setup: Setup) -> dict[str, str]:
    """The variables of Copilot CLI."""
    base = setup.base("OPENAI_BASE_URL")
    if not base:
        return {}
    own = {
        "COPILOT_OFFLINE": "true",
        "COPILOT_PROVIDER_BASE_URL": base,
        "COPILOT_PROVIDER_API_KEY": setup.environ.get("OPENAI_API_KEY", ""),
    }
    return {**own, "COPILOT_MODEL": setup.model}


def cline_words(setup: Setup) -> list[str]:
    """The words after Cline's program."""
    provider = ["-P", "openai-compatible"] if setup.base("OPENAI_BASE_URL") else []
    return [
        "--json",
        "--auto-approve",
        "true",
        "--data-dir",
        folder(setup, ".cline"),
        "-c",
        str(setup.copy),
        *provider,
        *model(setup, "-m"),
        prompt(setup),
    ]


def cline_env(setup: Setup) -> dict[str, str]:
    """The variables of Cline; its configuration is written."""
    if base := setup.base("OPENAI_BASE_URL"):
        provider = "openai-compatible"
        row = {"provider": provider, "apiKey": setup.environ.get("OPENAI_API_KEY", ""), "model": setup.model, "baseUrl": base}
        settings = {
            "version": 1,
            "lastUsedProvider": provider,
            "modes": {},
            "providers": {provider: {"settings": row, "updatedAt": "2026-01-01T00:00:00.000Z", "tokenSource": "manual"}},
        }
        (Path(folder(setup, ".cline/settings")) / "providers.json").write_text(json.dumps(settings), encoding="utf-8")
    return {}


def aider_words(setup: Setup) -> list[str]:
    """The words after aider's program."""
    quiet = (
        "--yes-always",
        "--no-auto-commits",
        "--no-git",
        "--no-check-update",
        "--no-analytics",
        "--no-stream",
        "--no-pretty",
        "--no-show-model-warnings",
    )
    work = (f"--{name}-history-file={setup.work / name}" for name in ("chat", "input"))
    return [
        *model(setup, "--model"),
        "--message-file",
        str(setup.brief),
        *quiet,
        *work,
        "--map-tokens",
        "0",
        *(f"./{path}" for path in setup.editable),
    ]


def litellm_env(setup: Setup) -> dict[str, str]:
    """The variables of agents that are built on litellm."""
    bases = {f"{name}_API_BASE": base for name in ("OPENAI", "ANTHROPIC") if (base := setup.base(f"{name}_BASE_URL"))}
    return {**bases, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def mini_words(setup: Setup) -> list[str]:
    """The words after mini-swe-agent's program."""
    return [*model(setup, "-m"), "-t", prompt(setup), "-y", "--exit-immediately", "-o", str(setup.work / "trajectory.json")]


def mini_env(setup: Setup) -> dict[str, str]:
    """The variables of mini-swe-agent."""
    return {**litellm_env(setup), "MSWEA_CONFIGURED": "true", "MSWEA_COST_TRACKING": "ignore_errors", "MSWEA_SILENT_STARTUP": "1"}


def prompt(setup: Setup) -> str:
    """The brief as a text."""
    return setup.brief.read_text(encoding="utf-8")


def folder(setup: Setup, name: str) -> str:
    """A folder in the agent's own home, made."""
    path = setup.home / name
    path.mkdir(parents=True, exist_ok=True)
    return str(path)


# --- the same programs, or others for the same agents, that speak the Agent Client Protocol -------------------------------------------


def own_config(setup: Setup) -> dict[str, Any]:
    """OpenCode's configuration: every edit is asked for, nothing else is done."""
    config: dict[str, Any] = json.loads(opencode_env(setup)["OPENCODE_CONFIG_CONTENT"])
    config["permission"] = {**config["permission"], "edit": "ask", "bash": "deny"}
    own = setup.base("OPENAI_BASE_URL") and "/" not in setup.model
    return {**config, **({"model": f"own/{setup.model}" if own else setup.model} if setup.model else {})}


def opencode_acp_env(setup: Setup) -> dict[str, str]:
    """The variables of OpenCode where it speaks the protocol."""
    return {**opencode_env(setup), "OPENCODE_CONFIG_CONTENT": json.dumps(own_config(setup))}


def claude_acp_env(setup: Setup) -> dict[str, str]:
    """The variables of Claude Code where it speaks the protocol."""
    chosen = {"ANTHROPIC_MODEL": setup.model} if setup.model else {}
    # Without it Claude Code refuses to start as root.
    return {**claude_env(setup), **chosen, **({"IS_SANDBOX": "1"} if setup.confined else {})}


def gemini_acp_words(setup: Setup) -> list[str]:
    """The words after Gemini CLI's program where it speaks the protocol."""
    return ["--acp", "--skip-trust", *model(setup, "-m")]


def qwen_acp_words(setup: Setup) -> list[str]:
    """The words after Qwen Code's program where it speaks the protocol."""
    kind = ["--auth-type", "openai"] if setup.environ.get("OPENAI_API_KEY") else []
    return ["--acp", *kind, *model(setup, "-m")]


def copilot_acp_words(setup: Setup) -> list[str]:
    """The words after Copilot CLI's program where it speaks the protocol."""
    return ["--acp", "--no-auto-update", "--disable-builtin-mcps", *model(setup, "--model")]


def codex_acp_env(setup: Setup) -> dict[str, str]:
    """The variables of Codex where it speaks the protocol."""
    config: dict[str, Any] = {"model": setup.model} if setup.model else {}
    found = {"NO_BROWSER": "1", "INITIAL_AGENT_MODE": "agent-full-access" if setup.confined else "agent"}
    if base := setup.base("OPENAI_BASE_URL"):
        row = {
            "name": "own",
            "base_url": base,
            "wire_api": "responses",
            "env_key": "OPENAI_API_KEY",
            "request_max_retries": 2,
            "stream_max_retries": 2,
        }
        config |= {"model_provider": "own", "model_providers": {"own": row}}
        found["MODEL_PROVIDER"] = "own"
    return {**codex_env(setup), **found, **({"CODEX_CONFIG": json.dumps(config)} if config else {})}
