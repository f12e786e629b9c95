#!/bin/sh
# Installs the agents that npm and PyPI have into the user's cache, unless they are there, and prints the folders for PATH.
# One that cannot be installed is passed over: its tests are then skipped with a reason.
set -u
cache="${XDG_CACHE_HOME:-$HOME/.cache}/overnight-tests/agents"
mkdir -p "$cache/bin"
cd "$cache" || exit 1
for package in opencode-ai@1.18.33 @earendil-works/pi-coding-agent@0.74.2 @google/gemini-cli@0.61.0 @qwen-code/qwen-code@0.24.4 \
    @github/copilot@1.0.102 cline@3.0.65 @agentclientprotocol/claude-agent-acp@0.49.0 @agentclientprotocol/codex-acp@2.6.0; do
    mark="npm-$(echo "$package" | tr '/@' '__').made"
    [ -e "$mark" ] || { npm install --no-audit --no-fund --silent --prefix "$cache/npm" "$package" >&2 && touch "$mark"; }
done
tool() { # name of the program, packages
    program="$1"
    shift
    mark="pip-$program.made"
    if [ ! -e "$mark" ]; then
        python3 -m venv "$cache/$program" && "$cache/$program/bin/python" -m pip install --quiet "$@" >&2 && touch "$mark"
    fi
    [ -e "$mark" ] && ln -sf "$cache/$program/bin/$program" "$cache/bin/$program"
}
tool mini mini-swe-agent==2.4.6 mcp
tool aider aider-chat==0.86.2
echo "$cache/bin:$cache/npm/node_modules/.bin"
