"""The real programs of Claude Code and Codex against a model server on loopback: edits, and every trouble ridden out.

They come from PyPI alone (770 MB) and are kept in a virtual environment in the user's cache; without them these tests are skipped. A folder with
such an environment can be named in $OVERNIGHT_TEST_AGENTS. The others, from npm and PyPI, are tried by ``make test-agents``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import studies
from asked import SOURCE, request
from model_server import Ask, Edit, Empty, Fail, Flood, Garbage, Hang, ModelServer, Read, Say, Shell, Step
from overnight.errors import ProposalError
from overnight.executors.local import LocalExecutor
from overnight.models import Idea, JobSpec
from overnight.proposers.agent import AgentProposer, Wants
from overnight.proposers.agents import AGENTS, find, lacks
from overnight.sandbox import Inside, Walls, check, confined
from studies import ended  # noqa: F401 - a fixture that every test gets

pytestmark = pytest.mark.timeout(900)  # the first test may have to fetch the programs
PACKAGES = ("claude-agent-sdk==0.2.187", "openai-codex==0.163.0")
PROGRAMS = {"claude": "claude_agent_sdk/_bundled/claude", "codex": "codex_cli_bin/bin/codex"}
MORE = ("gemini", "opencode", "pi", "qwen", "copilot", "cline", "aider", "mini-swe-agent")  # where they are on PATH
SPEAKING = tuple(name for name, row in AGENTS.items() if row.acp is not None)
MODELS = {
    "claude": "claude-sonnet-4-5",
    "codex": "gpt-5.5",
    "gemini": "gemini-2.5-flash",
    "aider": "openai/m",
    "mini-swe-agent": "openai/m",
}
ARGUMENTS = {"aider": "--edit-format diff"}
GOOD = (Read("train.py"), Edit("train.py", "LR = 0.1", "LR = 0.2"), Say("I doubled it.\n\nHYPOTHESIS: larger steps"))
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo HYPOTHESIS: larger steps"  # mini-swe-agent's way to say that it is done


def installed() -> Path:
    """The virtual environment with the programs, made if need be. Skips the test where that is impossible."""
    named = os.environ.get("OVERNIGHT_TEST_AGENTS")
    if named:
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "overnight-tests"
    folder = cache / "-".join(package.replace("==", "-") for package in PACKAGES)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "made").exists():
                if shutil.disk_usage(cache).free < 3 * 2**30:
                    pytest.skip("no room for the programs")
                shutil.rmtree(folder, ignore_errors=True)
                venv.create(folder, with_pip=True)
                pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", "--timeout", "30", "--retries", "1"]
                wanted = [*PACKAGES, "openai-codex-cli-bin"]
                done = subprocess.run([*pip, *wanted], capture_output=True, text=True, timeout=600, check=False)
                if done.returncode:
                    pytest.skip(f"the programs cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
                (folder / "made").touch()
    except (OSError, subprocess.SubprocessError) as exc:
        pytest.skip(f"the programs cannot be installed: {exc}")
    return folder


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH in which the programs lie."""
    found = {name: next(installed().glob(f"lib/python3*/site-packages/{path}"), None) for name, path in PROGRAMS.items()}
    folder = tmp_path_factory.mktemp("bin")
    for name, path in found.items():
        if path is None:
            pytest.skip(f"there is no {name} in the environment")
        (folder / name).symlink_to(path)
    return folder


@dataclass
class Real:
    """One real agent behind walls."""

    name: str
    folder: Path
    programs: Path

    def environ(self, server: ModelServer) -> dict[str, str]:
        home = self.folder / "person"
        home.mkdir(exist_ok=True)
        return {
            "PATH": f"{self.programs}:{os.environ['PATH']}", "HOME": str(home), "ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": "sk-ant-of-the-tests",
            "OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "sk-of-the-tests", "GOOGLE_GEMINI_BASE_URL": server.url, "GEMINI_API_KEY": "g-of-the-tests",
        }  # fmt: skip

    def ask(self, steps: Sequence[Step], time_limit: float = 90.0) -> tuple[Idea, str]:
        executor = LocalExecutor(self.folder / "jobs")
        try:
            with ModelServer(steps) as server:
                env = self.environ(server)
                walls = Walls(keep=self.folder / "keep", inside=Inside.AGENT, network=True, home=Path(env["HOME"]))
                stands = not check(walls)

                def wrap(spec: JobSpec) -> JobSpec:
                    return confined(walls, spec) if stands else spec

                wants = Wants(MODELS.get(self.name.removesuffix("-acp"), "m"), ARGUMENTS.get(self.name, ""), time_limit)
                proposer = AgentProposer(AGENTS[self.name], wants, executor, (env, wrap, stands))
                made = request(self.folder)
                idea = proposer.ask(made)
                return idea, (made.copy / "train.py").read_text()
        finally:
            executor.close()


@pytest.fixture(params=PROGRAMS)
def real(request: pytest.FixtureRequest, tmp_path: Path, programs: Path) -> Real:
    return Real(request.param, tmp_path, programs)


def test_a_study_goes_from_brief_to_commit(real: Real, tmp_path: Path) -> None:
    with ModelServer(GOOD) as server:
        study = studies.study(
            tmp_path / "study",
            None,
            "--proposer",
            real.name,
            "--proposer-model",
            MODELS[real.name],
            "--budget",
            "1",
            files={"train.py": SOURCE},
        )
        study.words.remove("--unsafe-no-sandbox")
        study.env.update({**real.environ(server), "HOME": study.env["HOME"]})
        done = subprocess.run(study.command("run"), cwd=study.root, env=study.env, capture_output=True, text=True, timeout=120, check=False)
    if "E-NO-SANDBOX" in done.stderr:
        pytest.skip("no walls here")
    row = study.rows()[1]
    told = (row["decision"], row["value"], row["proposer"], row["description"], row["tokens"], row["model"])
    assert (done.returncode, told, study.faults()) == (0, ("keep", 0.8, real.name, "larger steps", 3150, MODELS[real.name]), [])
    assert row["cost"] == pytest.approx(0.00963) if real.name == "claude" else row["cost"] >= 0


_TROUBLES: list[tuple[list[Step], str]] = (
    [
        ([Fail(401)], "E-AGENT-LOGIN"), ([Fail(402)], "E-AGENT-CREDIT"), ([Fail(429)], "E-AGENT-RATE"), ([Fail(529)], "E-AGENT-OVERLOADED"), ([Empty()], "E-AGENT-EMPTY"),
        ([Garbage()], "E-AGENT-GARBAGE"), ([Flood()], "E-AGENT-FLOOD"), ([Ask("Shall I go on?")], "E-AGENT-QUESTION"), ([Say("All is well.")], "E-NO-EDIT"),
        ([Read("prepare.py"), Edit("prepare.py", "x = 1", "x = 2"), Say("done")], "E-WRONG-FILE"),
    ]
)  # fmt: skip
_LONG = {
    "E-AGENT-EMPTY",
    "E-AGENT-GARBAGE",
    "E-AGENT-FLOOD",
    "E-AGENT-QUESTION",
    "E-NO-EDIT",
    "E-WRONG-FILE",
}  # codex asks its model again and again


@pytest.mark.parametrize(
    ("real", "steps", "code"),
    [
        pytest.param(name, steps, code, marks=[pytest.mark.slow] if name == "codex" and code in _LONG else [], id=f"{name}-{code}")
        for name in PROGRAMS
        for steps, code in _TROUBLES
    ],
    indirect=["real"],
)
def test_each_trouble_is_told_apart(real: Real, steps: list[Step], code: str) -> None:
    with pytest.raises(ProposalError) as caught:
        real.ask(steps)
    assert (caught.value.code, caught.value.outage) == (code, True)


def test_a_model_that_is_overloaded_twice_is_ridden_out(real: Real) -> None:
    idea, text = real.ask([GOOD[0], Fail(529, times=2), *GOOD[1:]])
    assert (idea.hypothesis, text) == ("larger steps", SOURCE.replace("0.1", "0.2"))


def test_a_model_that_hangs_is_left_at_the_time_limit(real: Real) -> None:
    with pytest.raises(ProposalError) as caught:
        real.ask([Hang()], time_limit=6.0)
    assert caught.value.code == "E-PROPOSER-SLOW"


def test_its_shell_sees_neither_the_persons_home_nor_another_server(real: Real, tmp_path: Path) -> None:
    with ModelServer([]) as other:
        (tmp_path / "person").mkdir()
        (tmp_path / "person" / ".netrc").write_text("secret")
        tries = f"(cat {tmp_path}/person/.netrc; curl -s -m 3 {other.url}/models; python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {other.port}), 2)') 2>&1"
        idea, text = real.ask(
            [
                Shell(f"printf 'LR = 0.3\\n' > train.py; {tries} | grep -c -e secret -e '\"object\"' >> train.py; true"),
                Say("HYPOTHESIS: I looked around"),
            ]
        )
        assert (idea.hypothesis, text, other.seen) == ("I looked around", "LR = 0.3\n0\n", [])


OTHERS: dict[str, tuple[list[Step], set[str]]] = {
    "401": ([Fail(401)], {"E-AGENT-LOGIN"}),
    "429": ([Fail(429)], {"E-AGENT-RATE"}),
    "no edit": ([Say("All is well.")], {"E-NO-EDIT"}),
    "a protected file": ([Read("prepare.py"), Edit("prepare.py", "x = 1", "x = 2"), Say("done")], {"E-WRONG-FILE"}),
    "hang": ([Hang()], {"E-PROPOSER-SLOW"}),
}
BY_SHELL: dict[str, list[Step]] = {  # for who has no tool but a shell
    "good": [Shell("sed -i s/0.1/0.2/ train.py"), Shell(SUBMIT), Say("done")],
    "no edit": [Shell(SUBMIT), Say("done")],
    "a protected file": [Shell("sed -i s/1/2/ prepare.py"), Shell(SUBMIT), Say("done")],
}


def other(name: str, folder: Path) -> Real:
    """An agent that is on PATH, with its library where it speaks the protocol; skips the test where it is not."""
    if lacks(AGENTS[name], find(AGENTS[name], os.environ)):
        pytest.skip(f"{name} is not installed")
    (folder / "bin").mkdir()
    return Real(name, folder, folder / "bin")


def steps_for(name: str, case: str, steps: Sequence[Step]) -> Sequence[Step]:
    return BY_SHELL.get(case, steps) if name == "mini-swe-agent" else steps


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MORE, *SPEAKING])
def test_every_other_agent_that_is_on_the_path_makes_an_edit(name: str, tmp_path: Path) -> None:
    idea, text = other(name, tmp_path).ask(steps_for(name, "good", GOOD), 170.0)
    assert (text, idea.proposer, idea.tokens > 0) == (SOURCE.replace("0.1", "0.2"), name, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MORE, *SPEAKING])
def test_every_other_agent_rides_out_a_model_that_is_overloaded_twice(name: str, tmp_path: Path) -> None:
    good = steps_for(name, "good", GOOD)
    _, text = other(name, tmp_path).ask([good[0], Fail(529, times=2), *good[1:]], 170.0)
    assert text == SOURCE.replace("0.1", "0.2")


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("name", [*MORE, *SPEAKING])
def test_every_other_agents_troubles_are_told_apart(name: str, case: str, tmp_path: Path) -> None:
    steps, codes = OTHERS[case]
    with pytest.raises(ProposalError) as caught:
        other(name, tmp_path).ask(steps_for(name, case, steps), 12.0 if case == "hang" else 60.0)
    assert caught.value.code in codes | ({"E-PROPOSER-SLOW"} if case in ("401", "429") else set()), (caught.value.message, caught.value.why)
