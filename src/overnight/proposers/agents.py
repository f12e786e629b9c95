"""The coding agents that are known by name: where each program is, how it is run without a person, what it may see, how it ends.

A row says everything about one agent; ``overnight.proposers.agent`` drives them all. Found by running the programs: the versions are in
docs/agents.md. Must not know how a job is run or judged.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from overnight.proposers import reports
from overnight.proposers.reports import Output, Report

_USUAL = (
    "PATH",
    "LANG",
    "LANGUAGE",
    "TZ",
    "USER",
    "LOGNAME",
    "SHELL",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
)
_OPENAI = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID")
_ANTHROPIC = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL")
_GOOGLE = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL")
_MANY = (*_OPENAI, *_ANTHROPIC, *_GOOGLE, "OPENROUTER_API_KEY", "DEEPSEEK_API_KEY", "GROQ_API_KEY", "MISTRAL_API_KEY", "XAI_API_KEY")
_AT_OPENAI, _AT_ANTHROPIC, _AT_GOOGLE = "api.openai.com:443", "api.anthropic.com:443", "generativelanguage.googleapis.com:443"
_AT_MANY = (
    _AT_OPENAI,
    _AT_ANTHROPIC,
    _AT_GOOGLE,
    "openrouter.ai:443",
    "api.deepseek.com:443",
    "api.groq.com:443",
    "api.mistral.ai:443",
    "api.x.ai:443",
)
_ADDRESSES = ("_BASE_URL", "_API_BASE", "_ENDPOINT")
_ORDINARY_PORTS = {"http": 80, "https": 443}


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


def _nothing(_setup: Setup) -> dict[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent. ``argv`` and ``env`` are made for each proposal; ``env`` may write configuration into the agent's own home."""

    name: str
    programs: tuple[str, ...]  # on PATH, the first that is there
    argv: Callable[[Setup], list[str]]  # after the program
    read: Callable[[Output], Report]
    keys: tuple[str, ...]  # variables that it gets beyond the usual ones
    hosts: tuple[str, ...]  # what it must reach, "name:port"
    login: str  # the exact next command when it is not logged in
    install: str
    env: Callable[[Setup], dict[str, str]] = _nothing
    prompt: str = "stdin"  # or "argument": how the brief reaches it
    tells_money: bool = True  # false: dollars come from the list of prices
    wheel: str = ""  # where a package of Python holds the program
    version: tuple[str, ...] = ("--version",)
    logins: tuple[tuple[str, str, str], ...] = ()  # variable that moves the folder, folder in the home, file: what a person's login left
    secrets: tuple[str, ...] = field(default=())  # of keys, one of these is enough


def find(agent: Agent, environ: Mapping[str, str]) -> str:
    """The program's path, or an empty string: on PATH, else inside an installed package."""
    for program in agent.programs:
        if path := shutil.which(program, path=environ.get("PATH", os.defpath)):
            return os.path.abspath(path)
    package, _, rest = agent.wheel.partition("/")
    spec = importlib.util.find_spec(package) if package else None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if os.access(path := os.path.join(folder, rest), os.X_OK):
            return path
    return ""


def environment(agent: Agent, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that the agent gets of the person's: the usual ones and its own keys."""
    return {name: value for name, value in environ.items() if name in _USUAL or name in agent.keys or name.startswith("LC_")}


def reachable(agent: Agent, environ: Mapping[str, str], more: tuple[str, ...]) -> tuple[str, ...]:
    """Every "name:port" that the agent may reach: its own, those of addresses that the person has set, and ``more``.

    Nothing at all means the whole network: ``more`` holds "*".
    """
    if "*" in more:
        return ()
    told = [pair for name, value in environment(agent, environ).items() if name.endswith(_ADDRESSES) and (pair := pair_of(value))]
    return tuple(dict.fromkeys((*agent.hosts, *told, *(pair_of(each) or each for each in more))))


def pair_of(address: str) -> str:
    """``name:port`` of an address such as ``https://api.example.com/v1`` or ``localhost:8000``; empty for what is none."""
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        port = parts.port or _ORDINARY_PORTS.get(parts.scheme, 443)
    except ValueError:
        return ""
    return f"{parts.hostname}:{port}" if parts.hostname else ""


def _model(setup: Setup, flag: str) -> list[str]:
    return [flag, setup.model] if setup.model else []


# --- one pair of functions for each agent ------------------------------------------------------------------------------


def _claude(setup: Setup) -> list[str]:
    tools = "Read,Edit,Write,Glob,Grep" + (",Bash" if setup.confined else "")
    modes = ("--permission-mode", "acceptEdits", "--tools", tools, "--allowedTools", tools, "--strict-mcp-config")
    return ["-p", "--output-format", "stream-json", "--verbose", *modes, *_model(setup, "--model")]


def _claude_env(_setup: Setup) -> dict[str, str]:
    return {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_MAX_RETRIES": "2"}


def _codex(setup: Setup) -> list[str]:
    words = ["exec", "--json", "--skip-git-repo-check", "--ephemeral", "-C", str(setup.copy), *_model(setup, "-m")]
    # Its own sandbox cannot be built within ours.
    words += ["--dangerously-bypass-approvals-and-sandbox"] if setup.confined else ["-s", "workspace-write"]
    if base := setup.base("OPENAI_BASE_URL"):
        row = f'{{name="own",base_url={json.dumps(base)},wire_api="responses",env_key="OPENAI_API_KEY",request_max_retries=2,stream_max_retries=2}}'
        words += ["-c", "model_provider=own", "-c", f"model_providers.own={row}"]
    return [*words, "-"]


def _codex_env(setup: Setup) -> dict[str, str]:
    key = setup.environ.get("OPENAI_API_KEY")
    return {"CODEX_HOME": _folder(setup, ".codex"), **({"CODEX_API_KEY": key} if key and "CODEX_API_KEY" not in setup.environ else {})}


def _gemini(setup: Setup) -> list[str]:
    mode = "yolo" if setup.confined else "auto_edit"
    return ["--skip-trust", "--approval-mode", mode, "-o", "stream-json", *_model(setup, "-m")]


def _gemini_env(setup: Setup) -> dict[str, str]:
    kind = "gemini-api-key" if setup.environ.get("GEMINI_API_KEY") else "oauth-personal"
    settings = {
        "security": {"auth": {"selectedType": kind}},
        "privacy": {"usageStatisticsEnabled": False},
        "general": {"disableAutoUpdate": True},
    }
    (Path(_folder(setup, ".gemini")) / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return {"GEMINI_CLI_TRUST_WORKSPACE": "true"}


def _opencode(setup: Setup) -> list[str]:
    own = setup.base("OPENAI_BASE_URL") and setup.model and "/" not in setup.model
    return ["run", "--format", "json", *(["-m", f"own/{setup.model}"] if own else _model(setup, "-m"))]


def _opencode_env(setup: Setup) -> dict[str, str]:
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


def _pi(setup: Setup) -> list[str]:
    tools = "read,edit,write,grep,find,ls" + (",bash" if setup.confined else "")
    words = ["-p", "--mode", "json", "--tools", tools, "--no-extensions", "--no-session"]
    return [*words, *(["--provider", "own"] if setup.base("OPENAI_BASE_URL") else []), *_model(setup, "--model")]


def _pi_env(setup: Setup) -> dict[str, str]:
    folder = _folder(setup, ".pi/agent")
    if base := setup.base("OPENAI_BASE_URL"):
        row = {"baseUrl": base, "api": "openai-completions", "apiKey": "OPENAI_API_KEY", "models": [{"id": setup.model or "default"}]}
        (Path(folder) / "models.json").write_text(json.dumps({"providers": {"own": row}}), encoding="utf-8")
    return {"PI_CODING_AGENT_DIR": folder, "PI_OFFLINE": "1"}


def _qwen(setup: Setup) -> list[str]:
    kind = ["--auth-type", "openai"] if setup.environ.get("OPENAI_API_KEY") else []
    return [*kind, "--approval-mode", "yolo" if setup.confined else "auto-edit", "-o", "stream-json", "--bare", *_model(setup, "-m")]


def _copilot(setup: Setup) -> list[str]:
    allowed = ["--allow-all-tools"] if setup.confined else ["--allow-tool", "write", "--deny-tool", "shell"]
    quiet = ("--no-ask-user", "--no-auto-update", "--disable-builtin-mcps")
    usage = ("--usage-output-file", str(setup.work / "usage.json"))
    return ["-p", _prompt(setup), "--output-format", "json", *allowed, *quiet, *usage, *_model(setup, "--model")]


def _copilot_env(setup: Setup) -> dict[str, str]:
    base = setup.base("OPENAI_BASE_URL")
    if not base:
        return {}
    own = {
        "COPILOT_OFFLINE": "true",
        "COPILOT_PROVIDER_BASE_URL": base,
        "COPILOT_PROVIDER_API_KEY": setup.environ.get("OPENAI_API_KEY", ""),
    }
    return {**own, "COPILOT_MODEL": setup.model}


def _cline(setup: Setup) -> list[str]:
    provider = ["-P", "openai-compatible"] if setup.base("OPENAI_BASE_URL") else []
    return [
        "--json",
        "--auto-approve",
        "true",
        "--data-dir",
        _folder(setup, ".cline"),
        "-c",
        str(setup.copy),
        *provider,
        *_model(setup, "-m"),
        _prompt(setup),
    ]


def _cline_env(setup: Setup) -> dict[str, str]:
    if base := setup.base("OPENAI_BASE_URL"):
        provider = "openai-compatible"
        row = {"provider": provider, "apiKey": setup.environ.get("OPENAI_API_KEY", ""), "model": setup.model, "baseUrl": base}
        settings = {
            "version": 1,
            "lastUsedProvider": provider,
            "modes": {},
            "providers": {provider: {"settings": row, "updatedAt": "2026-01-01T00:00:00.000Z", "tokenSource": "manual"}},
        }
        (Path(_folder(setup, ".cline/settings")) / "providers.json").write_text(json.dumps(settings), encoding="utf-8")
    return {}


def _aider(setup: Setup) -> list[str]:
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
        *_model(setup, "--model"),
        "--message-file",
        str(setup.brief),
        *quiet,
        *work,
        "--map-tokens",
        "0",
        *(f"./{path}" for path in setup.editable),
    ]


def _litellm_env(setup: Setup) -> dict[str, str]:
    bases = {f"{name}_API_BASE": base for name in ("OPENAI", "ANTHROPIC") if (base := setup.base(f"{name}_BASE_URL"))}
    return {**bases, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def _mini(setup: Setup) -> list[str]:
    return [*_model(setup, "-m"), "-t", _prompt(setup), "-y", "--exit-immediately", "-o", str(setup.work / "trajectory.json")]


def _mini_env(setup: Setup) -> dict[str, str]:
    return {**_litellm_env(setup), "MSWEA_CONFIGURED": "true", "MSWEA_COST_TRACKING": "ignore_errors", "MSWEA_SILENT_STARTUP": "1"}


def _prompt(setup: Setup) -> str:
    return setup.brief.read_text(encoding="utf-8")


def _folder(setup: Setup, name: str) -> str:
    path = setup.home / name
    path.mkdir(parents=True, exist_ok=True)
    return str(path)


_ROWS = (
    Agent(
        "claude", ("claude",), _claude, reports.claude, env=_claude_env, wheel="claude_agent_sdk/_bundled/claude",
        keys=(*_ANTHROPIC, "ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL", "ANTHROPIC_CUSTOM_HEADERS", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_MAX_OUTPUT_TOKENS"),
        secrets=("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"), logins=(("CLAUDE_CONFIG_DIR", ".claude", ".credentials.json"),),
        hosts=(_AT_ANTHROPIC, "platform.claude.com:443", "console.anthropic.com:443", "claude.ai:443"), login="claude /login   # or: export ANTHROPIC_API_KEY=…", install="npm install -g @anthropic-ai/claude-code",
    ),
    Agent(
        "codex", ("codex",), _codex, reports.codex, tells_money=False, env=_codex_env, wheel="codex_cli_bin/bin/codex", keys=(*_OPENAI, "CODEX_API_KEY"),
        secrets=("OPENAI_API_KEY", "CODEX_API_KEY"), logins=(("CODEX_HOME", ".codex", "auth.json"),), hosts=(_AT_OPENAI, "chatgpt.com:443", "auth.openai.com:443"),
        login="codex login   # or: export OPENAI_API_KEY=…", install="npm install -g @openai/codex",
    ),
    Agent(
        "gemini", ("gemini",), _gemini, reports.gemini, tells_money=False, env=_gemini_env, keys=_GOOGLE, secrets=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        logins=(("", ".gemini", "oauth_creds.json"), ("", ".gemini", "google_accounts.json")), hosts=(_AT_GOOGLE, "cloudcode-pa.googleapis.com:443", "oauth2.googleapis.com:443"),
        login="gemini   # and log in, or: export GEMINI_API_KEY=…", install="npm install -g @google/gemini-cli",
    ),
    Agent(
        "opencode", ("opencode",), _opencode, reports.opencode, env=_opencode_env, keys=_MANY, secrets=_MANY, logins=(("", ".local/share/opencode", "auth.json"),),
        hosts=(*_AT_MANY, "opencode.ai:443"), login="opencode auth login   # or: export ANTHROPIC_API_KEY=…", install="npm install -g opencode-ai",
    ),
    Agent(
        "pi", ("pi",), _pi, reports.pi, env=_pi_env, keys=_MANY, secrets=_MANY, logins=(("PI_CODING_AGENT_DIR", ".pi/agent", "auth.json"),), hosts=_AT_MANY,
        login="pi   # and /login, or: export ANTHROPIC_API_KEY=…", install="npm install -g @earendil-works/pi-coding-agent",
    ),
    Agent(
        "qwen", ("qwen",), _qwen, reports.qwen, tells_money=False, keys=(*_OPENAI, "DASHSCOPE_API_KEY"), secrets=("OPENAI_API_KEY", "DASHSCOPE_API_KEY"), logins=(("", ".qwen", "oauth_creds.json"),),
        hosts=(_AT_OPENAI, "portal.qwen.ai:443", "chat.qwen.ai:443", "dashscope.aliyuncs.com:443"), login="qwen   # and log in, or: export OPENAI_API_KEY=… OPENAI_BASE_URL=…",
        install="npm install -g @qwen-code/qwen-code", env=lambda _: {"QWEN_CODE_SUPPRESS_YOLO_WARNING": "1"},
    ),
    Agent(
        "aider", ("aider",), _aider, reports.aider, env=_litellm_env, keys=_MANY, secrets=_MANY, hosts=_AT_MANY, prompt="file",
        login="export ANTHROPIC_API_KEY=…   # or OPENAI_API_KEY", install="uv tool install aider-chat",
    ),
    Agent(
        "mini-swe-agent", ("mini", "mini-swe-agent"), _mini, reports.mini, env=_mini_env, keys=(*_MANY, "MSWEA_MODEL_NAME"), secrets=_MANY, hosts=_AT_MANY, prompt="argument",
        login="export ANTHROPIC_API_KEY=…   # or OPENAI_API_KEY", install="uv tool install mini-swe-agent --with mcp", version=(),
    ),
    Agent(
        "copilot", ("copilot",), _copilot, reports.copilot, tells_money=False, env=_copilot_env, keys=(*_OPENAI, "COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN"), prompt="argument",
        secrets=("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN", "OPENAI_API_KEY"), logins=(("", ".copilot", "config.json"),),
        hosts=("api.github.com:443", "api.githubcopilot.com:443", "api.individual.githubcopilot.com:443", "api.business.githubcopilot.com:443", "api.enterprise.githubcopilot.com:443"),
        login="copilot   # and /login, or: export GH_TOKEN=…", install="npm install -g @github/copilot",
    ),
    Agent(
        "cline", ("cline",), _cline, reports.cline,
        env=_cline_env, keys=_MANY, secrets=_MANY, logins=(("", ".cline", "secrets.json"),), hosts=(*_AT_MANY, "api.cline.bot:443"), prompt="argument",
        login="cline auth", install="npm install -g cline",
    ),
)  # fmt: skip
AGENTS: dict[str, Agent] = {row.name: row for row in _ROWS}


def split(arguments: str) -> list[str]:
    """Further words of a command line, as a shell would take them. Raises ``ValueError``."""
    return shlex.split(arguments)
