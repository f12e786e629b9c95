"""The coding agents that are known by name: where each program is, how it is run without a person, what it may see, how it ends.

A row says everything about one agent; ``overnight.proposers.agent`` drives them all. Found by running the programs: the versions are in
docs/agents.md. Must not know how a job is run or judged.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from overnight.proposers import headless, reports
from overnight.proposers.headless import Setup
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
    acp: Mapping[str, str] | None = None  # it speaks the Agent Client Protocol: the mode of its session, the method of its login


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


def lacks(agent: Agent, program: str) -> str:
    """The command that installs what is missing, or an empty string; ``program`` is what ``find`` has found."""
    if not program:
        return agent.install
    return "pip install 'overnight[acp]'" if agent.acp is not None and importlib.util.find_spec("acp") is None else ""


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


_ROWS = (
    Agent(
        "claude", ("claude",), headless.claude_words, reports.claude, env=headless.claude_env, wheel="claude_agent_sdk/_bundled/claude",
        keys=(*_ANTHROPIC, "ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL", "ANTHROPIC_CUSTOM_HEADERS", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_MAX_OUTPUT_TOKENS"),
        secrets=("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"), logins=(("CLAUDE_CONFIG_DIR", ".claude", ".credentials.json"),),
        hosts=(_AT_ANTHROPIC, "platform.claude.com:443", "console.anthropic.com:443", "claude.ai:443"), login="claude /login   # or: export ANTHROPIC_API_KEY=…", install="npm install -g @anthropic-ai/claude-code",
    ),
    Agent(
        "codex", ("codex",), headless.codex_words, reports.codex, tells_money=False, env=headless.codex_env, wheel="codex_cli_bin/bin/codex", keys=(*_OPENAI, "CODEX_API_KEY"),
        secrets=("OPENAI_API_KEY", "CODEX_API_KEY"), logins=(("CODEX_HOME", ".codex", "auth.json"),), hosts=(_AT_OPENAI, "chatgpt.com:443", "auth.openai.com:443"),
        login="codex login   # or: export OPENAI_API_KEY=…", install="npm install -g @openai/codex",
    ),
    Agent(
        "gemini", ("gemini",), headless.gemini_words, reports.gemini, tells_money=False, env=headless.gemini_env, keys=_GOOGLE, secrets=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        logins=(("", ".gemini", "oauth_creds.json"), ("", ".gemini", "google_accounts.json")), hosts=(_AT_GOOGLE, "cloudcode-pa.googleapis.com:443", "oauth2.googleapis.com:443"),
        login="gemini   # and log in, or: export GEMINI_API_KEY=…", install="npm install -g @google/gemini-cli",
    ),
    Agent(
        "opencode", ("opencode",), headless.opencode_words, reports.opencode, env=headless.opencode_env, keys=_MANY, secrets=_MANY, logins=(("", ".local/share/opencode", "auth.json"),),
        hosts=(*_AT_MANY, "opencode.ai:443"), login="opencode auth login   # or: export ANTHROPIC_API_KEY=…", install="npm install -g opencode-ai",
    ),
    Agent(
        "pi", ("pi",), headless.pi_words, reports.pi, env=headless.pi_env, keys=_MANY, secrets=_MANY, logins=(("PI_CODING_AGENT_DIR", ".pi/agent", "auth.json"),), hosts=_AT_MANY,
        login="pi   # and /login, or: export ANTHROPIC_API_KEY=…", install="npm install -g @earendil-works/pi-coding-agent",
    ),
    Agent(
        "qwen", ("qwen",), headless.qwen_words, reports.qwen, tells_money=False, keys=(*_OPENAI, "DASHSCOPE_API_KEY"), secrets=("OPENAI_API_KEY", "DASHSCOPE_API_KEY"), logins=(("", ".qwen", "oauth_creds.json"),),
        hosts=(_AT_OPENAI, "portal.qwen.ai:443", "chat.qwen.ai:443", "dashscope.aliyuncs.com:443"), login="qwen   # and log in, or: export OPENAI_API_KEY=… OPENAI_BASE_URL=…",
        install="npm install -g @qwen-code/qwen-code", env=lambda _: {"QWEN_CODE_SUPPRESS_YOLO_WARNING": "1"},
    ),
    Agent(
        "aider", ("aider",), headless.aider_words, reports.aider, env=headless.litellm_env, keys=_MANY, secrets=_MANY, hosts=_AT_MANY, prompt="file",
        login="export ANTHROPIC_API_KEY=…   # or OPENAI_API_KEY", install="uv tool install aider-chat",
    ),
    Agent(
        "mini-swe-agent", ("mini", "mini-swe-agent"), headless.mini_words, reports.mini, env=headless.mini_env, keys=(*_MANY, "MSWEA_MODEL_NAME"), secrets=_MANY, hosts=_AT_MANY, prompt="argument",
        login="export ANTHROPIC_API_KEY=…   # or OPENAI_API_KEY", install="uv tool install mini-swe-agent --with mcp", version=(),
    ),
    Agent(
        "copilot", ("copilot",), headless.copilot_words, reports.copilot, tells_money=False, env=headless.copilot_env, keys=(*_OPENAI, "COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN"), prompt="argument",
        secrets=("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN", "OPENAI_API_KEY"), logins=(("", ".copilot", "config.json"),),
        hosts=("api.github.com:443", "api.githubcopilot.com:443", "api.individual.githubcopilot.com:443", "api.business.githubcopilot.com:443", "api.enterprise.githubcopilot.com:443"),
        login="copilot   # and /login, or: export GH_TOKEN=…", install="npm install -g @github/copilot",
    ),
    Agent(
        "cline", ("cline",), headless.cline_words, reports.cline,
        env=headless.cline_env, keys=_MANY, secrets=_MANY, logins=(("", ".cline", "secrets.json"),), hosts=(*_AT_MANY, "api.cline.bot:443"), prompt="argument",
        login="cline auth", install="npm install -g cline",
    ),
)  # fmt: skip
_AGENTS: dict[str, Agent] = {row.name: row for row in _ROWS}


def _speaking(name: str, program: str, words: Callable[[Setup], list[str]], env: Callable[[Setup], dict[str, str]], **more: Any) -> Agent:
    """The row of an agent whose program speaks the Agent Client Protocol."""
    row = _AGENTS[name]
    return replace(
        row, name=f"{name}-acp", programs=(program,), argv=words, env=env, read=reports.acp, prompt="stdin", tells_money=False, wheel="", **{"acp": {}, **more}
    )  # fmt: skip


_SPEAKING = (
    _speaking("claude", "claude-agent-acp", lambda _: [], headless.claude_acp_env, install="npm install -g @agentclientprotocol/claude-agent-acp", acp={"mode": "default"}),
    _speaking("codex", "codex-acp", lambda _: [], headless.codex_acp_env, install="npm install -g @agentclientprotocol/codex-acp"),
    _speaking("gemini", "gemini", headless.gemini_acp_words, headless.gemini_env, acp={"mode": "default", "method": "gemini-api-key"}),
    _speaking("opencode", "opencode", lambda _: ["acp"], headless.opencode_acp_env),
    _speaking("qwen", "qwen", headless.qwen_acp_words, _AGENTS["qwen"].env, acp={"mode": "default"}),
    _speaking("copilot", "copilot", headless.copilot_acp_words, headless.copilot_env),
)  # fmt: skip
AGENTS: dict[str, Agent] = {row.name: row for row in (*_ROWS, *_SPEAKING)}


def split(arguments: str) -> list[str]:
    """Further words of a command line, as a shell would take them. Raises ``ValueError``."""
    return shlex.split(arguments)
