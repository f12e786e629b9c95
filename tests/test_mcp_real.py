"""Programs that are not ours at work with the tools: Claude Code and Codex, each with the plugin installed, and the Inspector's command line.

The model behind the two agents is a server on loopback that follows a script. The programs come as those of test_agents_real do; the Inspector
comes from npm into the user's cache (110 MB). What cannot be fetched is skipped with its reason.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import clients
import studies
from model_server import ModelServer, Say, Use
from overnight.app.install import install, uninstall
from overnight.app.plugins import source
from studies import ended  # noqa: F401 - a fixture that every test gets
from test_agents_real import MODELS, PROGRAMS, programs  # noqa: F401 - a fixture
from yards import until

pytestmark = pytest.mark.timeout(900)  # the first test may have to fetch the programs
INSPECTOR = "@modelcontextprotocol/inspector@2.12.0"
SUBMIT = {
    "name": "dinov2-boneloss-exp043",
    "command": "echo @mpjpe=21.43",
    "workdir": None,
    "gpu_count": 0,
    "exp_id": "exp-043",
    "wait": True,
}
START = {"goal": "less loss", "budget": ["2"], "metric": "loss", "direction": "minimize", "tag": "t"}
CLAUDE = ("-p", "--output-format", "json", "--allowedTools", "mcp__plugin_overnight_overnight")


def words(name: str, server: ModelServer, prompt: str) -> list[str]:
    if name == "claude":
        return ["claude", *CLAUDE, "--model", MODELS[name], prompt]
    own = f'{{name="own",base_url="{server.url}/v1",wire_api="responses",env_key="OPENAI_API_KEY",request_max_retries=2,stream_max_retries=2}}'
    return [
        "codex", "exec", "--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "-m", MODELS[name], "-c", "model_provider=own",
        "-c", f"model_providers.own={own}", "-c", "mcp_servers.overnight.required=true", prompt,
    ]  # fmt: skip


def environ(study: studies.Study, server: ModelServer, programs: Path) -> dict[str, str]:  # noqa: F811 - the fixture's own name
    return {
        **study.env, "PATH": f"{programs}:{study.env['PATH']}", "ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": "sk-ant-of-the-tests",
        "OPENAI_API_KEY": "sk-of-the-tests", "CODEX_API_KEY": "sk-of-the-tests", "OVERNIGHT_HUB": f"{study.out}/hub", "ENABLE_TOOL_SEARCH": "false",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1", "MCP_CONNECTION_NONBLOCKING": "false", "MCP_CONNECT_TIMEOUT_MS": "60000", "MCP_TIMEOUT": "60000",
    }  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_submits_a_job_and_starts_a_loop_by_our_tools_and_reads_what_they_answer(
    name: str,
    tmp_path: Path,
    programs: Path,  # noqa: F811 - a fixture
) -> None:
    study = clients.study(tmp_path / "s")
    # Codex offers tools of servers only to a model that has searched for them.
    search = (Use("tool_search", {"query": "queue a job; start the research loop; loop status", "limit": 40}),) if name == "codex" else ()
    steps = (*search, Use("hub_submit", SUBMIT), Use("loop_start", START), Use("loop_status", {}), Say("Both are under way."))
    with ModelServer(steps) as server:
        env = environ(study, server, programs)
        install(name, env)
        done = subprocess.run(words(name, server, "Submit it and start the loop."), cwd=study.root, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, check=False)  # fmt: skip
        seen = json.dumps([dict(each.body) for each in server.seen])
    assert (done.returncode, "Both are under way." in done.stdout) == (0, True), (done, [each.step for each in server.seen])
    until(lambda: study.status()["state"] == "done")
    jobs = subprocess.run([sys.executable, "-m", "overnight", "hub", "list", "--json"], env=env, capture_output=True, text=True, check=True)
    job = json.loads(jobs.stdout)["jobs"][0]
    assert (job["name"], job["asked"]["exp_id"], study.status()["goal"], len(study.rows())) == (SUBMIT["name"], "exp-043", "less loss", 3)
    assert (job["id"] in seen, "autoresearch/t" in seen) == (True, True)  # the answers came back to the model
    uninstall(name, env)


def test_claude_code_finds_nothing_wrong_with_the_plugin_and_loads_all_of_it(tmp_path: Path, programs: Path) -> None:  # noqa: F811 - a fixture
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path), "DISABLE_AUTOUPDATER": "1"}
    install("claude", env)

    def said(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["claude", "plugin", *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
        )

    checked = said("validate", str(tmp_path / ".claude/skills/overnight"))
    shown = said("details", "overnight@skills-dir").stdout
    assert (checked.returncode, "Validation passed" in checked.stdout) == (0, True), checked
    assert [part for part in ("overnight-research", "pi", "plan", "run", "loop", "report") if part not in shown] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "question", "said"),
    [("gemini", "extensions list", "MCP servers"), ("gemini", "skills list", "overnight-research"), ("opencode", "mcp list", "connected"), ("opencode", "debug skill", "overnight-research")],
)  # fmt: skip
def test_the_other_programs_load_what_was_installed_and_leave_it_removable(name: str, question: str, said: str, tmp_path: Path) -> None:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    install(name, env)
    done = subprocess.run([program, *question.split()], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=170, check=False)
    told = done.stdout + done.stderr
    assert ("overnight" in told, said in told) == (True, True), told
    assert uninstall(name, env).left == ()


def inspector() -> str:
    """The Inspector's program, fetched if need be. Skips the test where that is impossible."""
    if shutil.which("npm") is None:
        pytest.skip("there is no npm")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "overnight-tests"
    folder = cache / "inspector"
    program = folder / "node_modules" / ".bin" / "mcp-inspector"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "made").exists():
                call = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), INSPECTOR]
                done = subprocess.run(call, capture_output=True, text=True, timeout=500, check=False)
                if done.returncode:
                    pytest.skip(f"the Inspector cannot be installed: {done.stderr.strip()[-200:]}")
                (folder / "made").touch()
    except (OSError, subprocess.SubprocessError) as exc:
        pytest.skip(f"the Inspector cannot be installed: {exc}")
    return str(program)


def inspected(root: Path, method: str, *more: str) -> Any:
    env = {"PATH": os.environ["PATH"], "HOME": str(root)}
    call = [inspector(), "--cli", sys.executable, *clients.SERVE, "--method", method, *more]
    done = subprocess.run(call, cwd=root, env=env, capture_output=True, text=True, timeout=120, check=False)
    return json.loads(done.stdout), done.returncode


@pytest.mark.slow  # a minute and more to install it
def test_the_inspector_lists_tools_resources_and_prompts(tmp_path: Path) -> None:
    told = [inspected(tmp_path, f"{what}/list")[0][what] for what in ("tools", "resources", "prompts")]
    assert [len(rows) for rows in told] == [23, 5, 5]


@pytest.mark.slow  # a minute and more to install it
def test_the_inspector_submits_a_job_and_is_told_of_errors(tmp_path: Path) -> None:
    given = [
        word
        for name, value in SUBMIT.items()
        for word in ("--tool-arg", f"{name}={value if isinstance(value, str) else json.dumps(value)}")
    ]
    job, _ = inspected(tmp_path, "tools/call", "--tool-name", "hub_submit", *given)
    error, _ = inspected(tmp_path, "tools/call", "--tool-name", "loop_status")
    assert (job["structuredContent"]["state"], job["structuredContent"]["asked"]["exp_id"]) == ("QUEUED", "exp-043")
    assert (error["isError"], json.loads(error["content"][0]["text"])["error"]["code"]) == (True, "E-NO-STUDY")


def test_the_skill_names_tools_that_there_are() -> None:
    import re

    from overnight.mcp_server.server import TOOLS

    texts = [
        source("skills/overnight-research/SKILL.md"),
        *(source(f"commands/{name}.md") for name in ("pi", "plan", "run", "loop", "report")),
    ]
    named = {word for text in texts for word in re.findall(r"`([a-z]+_[a-z_]+)`", text)}
    assert named - TOOLS.keys() == set()
