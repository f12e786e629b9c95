"""What lies in a home folder: what nobody inside walls may see, and what a coding agent must be able to write.

Names only, each with its reason. Must not know how something is hidden.
"""

from __future__ import annotations

import itertools
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

# Keys, tokens and passwords, by path below HOME; folders and files.
_SECRET = (
    ".ssh", ".aws", ".azure", ".gnupg", ".kube", ".docker", ".oci", ".password-store", ".pki", ".step", ".terraform.d", ".config/gh",
    ".config/glab-cli", ".config/gcloud", ".config/git/credentials", ".config/hub", ".config/op", ".config/rclone", ".config/sops",
    ".config/doctl", ".config/containers", ".config/wandb", ".config/huggingface", ".netrc", "_netrc", ".git-credentials", ".pypirc", ".npmrc",
    ".yarnrc.yml", ".boto", ".s3cfg", ".pgpass", ".my.cnf", ".vault-token", ".terraformrc", ".gem/credentials", ".cargo/credentials",
    ".cargo/credentials.toml", ".m2/settings.xml", ".gradle/gradle.properties", ".kaggle", ".cache/huggingface/token",
    ".cache/huggingface/stored_tokens", ".huggingface", ".local/share/keyrings", ".local/share/kwalletd", ".local/share/uv/credentials",
    ".local/state/gh",
)  # fmt: skip
# Browsers keep cookies and passwords in their profiles, mailers their letters.
_PROFILES = (
    ".mozilla", ".thunderbird", ".config/google-chrome", ".config/chromium", ".config/BraveSoftware", ".config/microsoft-edge",
    ".config/vivaldi", ".config/opera", "snap/firefox", "snap/chromium", ".var/app", ".config/Slack", ".config/discord", ".config/Signal",
)  # fmt: skip
_HISTORIES = (".local/share/fish/fish_history", ".lesshst", ".viminfo", ".zsh_sessions", ".bash_sessions")
_TOKENS = ("token", "stored_tokens", "credentials", "credentials.toml", "credentials.json", ".netrc")  # in folders that a variable names
_TOKEN_HOMES = ("HF_HOME", "CARGO_HOME", "TORCH_HOME", "UV_CACHE_DIR")

# Where coding agents keep their session, and what among it would run outside the walls when a person starts the agent later.
_AGENTS = (
    ".claude", ".claude.json", ".codex", ".gemini", ".qwen", ".pi", ".config/opencode", ".local/share/opencode", ".local/state/opencode",
    ".cache/opencode", ".cache/claude-cli-nodejs", ".local/state/claude", ".aider", ".goose", ".config/goose", ".local/share/goose",
    ".cursor", ".config/cursor", ".factory", ".copilot", ".amp", ".config/amp", ".cache/amp",
)  # fmt: skip
_AGENT_RULES = (
    ".claude/settings.json", ".claude/settings.local.json", ".claude/hooks", ".claude/commands", ".claude/agents", ".claude/skills",
    ".claude/plugins", ".claude/CLAUDE.md", ".claude/local", ".codex/config.toml", ".codex/AGENTS.md", ".codex/prompts", ".codex/rules",
    ".gemini/settings.json", ".gemini/GEMINI.md", ".gemini/extensions", ".gemini/commands", ".qwen/settings.json", ".config/opencode",
    ".cursor/mcp.json", ".cursor/hooks.json", ".config/goose/config.yaml", ".pi/agent/settings.json", ".pi/agent/extensions",
)  # fmt: skip
_LOOKS = 3000  # entries of a shared folder that are looked at
_LOOKS_INSIDE = 64
_SETTLED = 2 * 10**9  # ns: the coarsest clock of a file system
_MOST_SEEN = 10_000
_SEEN: dict[str, tuple[int, tuple[list[str], list[str]]]] = {}  # folder -> when it had changed, and what was in it


def secrets(home: Path, environ: Mapping[str, str]) -> list[Path]:
    """What is there of keys, tokens, profiles and histories."""
    named = [f"{home}/{name}" for name in (*_SECRET, *_PROFILES, *_HISTORIES)]
    moved = [f"{environ[variable]}/{name}" for variable in _TOKEN_HOMES if environ.get(variable, "").startswith("/") for name in _TOKENS]
    return [Path(path) for path in (*named, *moved, *_histories(home)) if os.path.lexists(path)]


def _histories(home: Path) -> Iterator[str]:
    try:
        names = os.listdir(home)
    except OSError:
        return
    yield from (f"{home}/{name}" for name in names if name.startswith(".") and name.endswith(("_history", "_hist", ".history", "-hsts")))


def dotenv(folder: Path) -> list[Path]:
    """What a project keeps its keys in, by custom: ``.env``, ``.env.local``, ``.envrc``, but not ``.env.example``."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    examples = (".example", ".sample", ".template", ".dist")
    return [folder / name for name in names if name in (".env", ".envrc") or (name.startswith(".env.") and not name.endswith(examples))]


def agent_folders(home: Path) -> list[Path]:
    """What agents write between two sessions."""
    return [home / name for name in _AGENTS if os.path.lexists(home / name)]


def agent_rules(home: Path) -> list[Path]:
    """What lies in these and is executed or obeyed by later sessions: for reading only."""
    return [home / name for name in _AGENT_RULES if os.path.lexists(home / name)]


def sockets(folder: Path) -> list[Path]:
    """Sockets in a shared folder, one level deep: who speaks with a terminal multiplexer or a key agent has left the walls.

    Not all of a crowded folder is looked at.
    """
    folders, found = _looked(str(folder), _LOOKS)
    inner = [path for name in folders for path in _looked(name, _LOOKS_INSIDE)[1]]
    return [Path(path) for path in (*found, *inner)]


def _looked(folder: str, most: int) -> tuple[list[str], list[str]]:
    """Folders and sockets in a folder; what vanishes meanwhile, or may not be looked at, is passed over.

    A folder that has not changed is not read again: a crowded /tmp would cost more than all else about a proposal.
    """
    try:
        changed = os.stat(folder).st_ctime_ns  # which no program can set
        known = _SEEN.get(folder)
        if known is not None and known[0] == changed:
            return known[1]
        found = _read(folder, most)
    except OSError:
        return [], []
    if changed < time.time_ns() - _SETTLED:  # else more may come within the same tick of its clock
        if len(_SEEN) > _MOST_SEEN:
            _SEEN.clear()
        _SEEN[folder] = changed, found
    return found


def _read(folder: str, most: int) -> tuple[list[str], list[str]]:
    folders: list[str] = []
    found: list[str] = []
    with os.scandir(folder) as entries:
        for entry in itertools.islice(entries, most):
            try:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif not entry.is_file(follow_symlinks=False) and stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                    found.append(entry.path)
            except OSError:
                continue
    return folders, found
