"""The plugin at work in programs that are not ours: an agent of the user's own as the researcher, and each command of the plugin.

The model behind the programs is a server on loopback that follows a script; how the programs are come by says test_agents_real.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import clients
import planned
import studies
import test_ideas_verb
import test_plan_verb
from clients import settings
from model_server import Edit, ModelServer, Read, Say, Step, Use
from overnight.app.install import install
from studies import ended  # noqa: F401 - a fixture that every test gets
from test_agents_real import MODELS, PROGRAMS, programs  # noqa: F401 - a fixture
from test_mcp_real import START, environ
from test_mcp_real import words as codex_words
from yards import until

pytestmark = pytest.mark.timeout(900)  # the first test may have to fetch the programs
ALLOWED = "mcp__plugin_overnight_overnight,Read,Edit"


def told(name: str, study: studies.Study, programs: Path, prompt: str, steps: Sequence[Step]) -> tuple[int, str, list[dict[str, Any]]]:  # noqa: F811
    """How the program ends that is asked this in the study's repository; what it said, and what its model was sent."""
    with ModelServer(steps) as server:
        env = environ(study, server, programs)
        install(name, env, short=prompt.startswith("/") and not prompt.startswith("/overnight:"))
        argv = [
            "claude",
            "-p",
            "--output-format",
            "json",
            "--permission-mode",
            "acceptEdits",
            "--allowedTools",
            ALLOWED,
            "--model",
            MODELS[name],
            prompt,
        ]
        argv = argv if name == "claude" else codex_words(name, server, prompt)
        done = subprocess.run(
            argv, cwd=study.root, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False
        )
        return done.returncode, done.stdout + done.stderr, [dict(each.body) for each in server.seen]


def trial(number: int, old: str, new: str, hypothesis: str) -> tuple[Step, ...]:
    """A trial as the skill says it."""
    path = f".overnight/trials/t-{number}/train.py"
    edit = (Read(path), Edit(path, f"print('@loss={old}')", f"print('@loss={new}')"))
    return (Use("trial_begin", {"tag": "t"}), *edit, Use("trial_run", {"hypothesis": hypothesis}), Use("trial_settle", {}))


@pytest.mark.parametrize("name", ["claude", pytest.param("codex", marks=pytest.mark.slow)])
def test_an_agent_of_the_users_own_is_the_researcher_by_the_skill_and_has_one_change_kept_and_one_discarded(
    name: str,
    tmp_path: Path,
    programs: Path,  # noqa: F811 - a fixture
) -> None:
    assert name in PROGRAMS
    study = clients.study(tmp_path / "s")
    search = (Use("tool_search", {"query": "trial begin run settle", "limit": 40}),) if name == "codex" else ()
    steps = (*search, *trial(1, "1.0", "0.5", "half of it"), *trial(2, "0.5", "0.75", "more again"), Say("One was kept."))
    prompt = {"claude": "/overnight:overnight-research make the loss smaller", "codex": "$overnight-research make the loss smaller"}[name]
    code, said, seen = told(name, study, programs, prompt, steps)
    study.before.update(study.checkout())
    rows = [(row["decision"], row["value"], row["description"], row["proposer"]) for row in study.rows()]
    assert rows[1:] == [("keep", 0.5, "half of it", "trial"), ("discard", 0.75, "more again", "trial")], (said, seen[-1:])
    assert (code, "One was kept." in said, "## Being the researcher yourself" in json.dumps(seen)) == (0, True, True), said


def pi(folder: Path) -> tuple[studies.Study, str, tuple[Step, ...]]:
    made = test_ideas_verb.repository(folder, test_ideas_verb.BONES)
    settings(made.root, {"proposer_command": f"sh {made.out}/agent.sh", "unsafe_no_sandbox": True})
    steps = (Use("note_search", {"query": "MPJPE"}), Use("ideas", {"goal": test_ideas_verb.GOAL}))
    return made, test_ideas_verb.GOAL, steps


def plan(folder: Path) -> tuple[studies.Study, str, tuple[Step, ...]]:
    made = test_plan_verb.repository(folder, test_plan_verb.GOOD)
    settings(made.root, {"proposer_command": f"sh {made.out}/agent.sh", "unsafe_no_sandbox": True})
    return made, "1", (Use("idea_list", {}), Use("plan", {"ideas": [1]}))


def run(folder: Path) -> tuple[studies.Study, str, tuple[Step, ...]]:
    made = planned.planned(
        folder, planned.task("T1", "a.py") + planned.task("T2", "b.py"), {"T1.1": "echo A = 0 > a.py", "T2.1": "echo B = 0 > b.py"}
    )
    settings(made.root, {"proposer_command": f"sh {made.out}/agent.sh", "unsafe_no_sandbox": True})
    return made, "2", (Use("plan", {"only": "status"}), Use("implement", {"agents": 2}))


def loop(folder: Path) -> tuple[studies.Study, str, tuple[Step, ...]]:
    given = 'start --goal "less loss" --budget 2 --metric loss --direction minimize'
    return clients.study(folder), given, (Use("loop_start", START), Use("loop_status", {}))


def report(folder: Path) -> tuple[studies.Study, str, tuple[Step, ...]]:
    made = clients.study(folder)
    made.call("run", "--budget", "1")
    return made, "", (Use("report", {}), Use("experiment", {"which": "best", "diff": True}))


# What the command has in its text, and what its tools have answered when it is done.
COMMANDS = {
    "pi": (pi, "Look for what is known", "Bone length loss"),
    "plan": (plan, "Ideas to plan: 1", "plans/warm-restarts"),
    "run": (run, "Agents at once: 2", "overnight/plan/p"),
    "loop": (loop, "What is wanted: start --goal", "autoresearch/t"),
    "report": (report, "Begin with the answer", "+print('@loss=0.489')"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("prefix", ["/overnight:", "/"])
def test_each_command_of_the_plugin_works_in_claude_code(name: str, prefix: str, tmp_path: Path, programs: Path) -> None:  # noqa: F811 - a fixture
    make, text, answered = COMMANDS[name]
    study, arguments, steps = make(tmp_path / "s")
    code, said, seen = told("claude", study, programs, f"{prefix}{name} {arguments}".strip(), (*steps, Say("That is done.")))
    whole = json.dumps(seen, ensure_ascii=False)
    assert (code, "That is done." in said, text in whole, answered in whole) == (0, True, True, True), (said, whole[-3000:])
    if name == "loop":
        until(lambda: study.status()["state"] == "done")
        assert len(study.rows()) == 3
