"""Agents that speak the Agent Client Protocol: what they may do, how their turn ends, and every trouble told apart."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import studies
from asked import request
from commands import ENV
from overnight.errors import ProposalError
from overnight.executors.local import LocalExecutor
from overnight.models import Idea, JobSpec
from overnight.proposers import reports
from overnight.proposers.agent import AgentProposer, Wants
from overnight.proposers.agents import AGENTS, find, lacks
from overnight.proposers.reports import Output
from overnight.sandbox import Inside, Walls, check, confined
from speaking import Step, speaking
from studies import ended  # noqa: F401 - a fixture that every test gets

pytestmark = pytest.mark.skipif(importlib.util.find_spec("acp") is None, reason="the extra 'acp' is not installed")
EDIT: tuple[Step, ...] = (("edit", "train.py", "LR = 0.2\n"), ("say", "I doubled it.\n\nHYPOTHESIS: a larger "), ("say", "step"))
SPEAKING = [name for name, row in AGENTS.items() if row.acp is not None]


class Bench:
    """A place to ask one agent that speaks the protocol; ``walled`` puts it behind walls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "person").mkdir()
        self.env = {
            "PATH": f"{folder}/bin:{ENV['PATH']}",
            "HOME": str(folder / "person"),
            "OPENAI_API_KEY": "sk-of-the-tests",
            "OTHER": "mine",
        }
        self.walls: Walls | None = None
        self.executor = LocalExecutor(folder / "jobs")
        self.asked = 0

    def wrap(self, spec: JobSpec) -> JobSpec:
        return confined(self.walls, spec) if self.walls else spec

    def ask(self, *steps: Step, time_limit: float = 30.0, cancelled: Path | None = None, name: str = "opencode-acp") -> Idea:
        speaking(self.folder / "bin" / AGENTS[name].programs[0], *steps)
        self.asked += 1
        proposer = AgentProposer(AGENTS[name], Wants("m", "", time_limit), self.executor, (self.env, self.wrap, True))
        self.request = request(self.folder, f"t-{self.asked}", lambda: cancelled is not None and cancelled.exists())
        return proposer.ask(self.request)

    def fails(self, *steps: Step, time_limit: float = 30.0, cancelled: Path | None = None) -> ProposalError:
        with pytest.raises(ProposalError) as caught:
            self.ask(*steps, time_limit=time_limit, cancelled=cancelled)
        return caught.value

    def text(self, name: str = "train.py") -> str:
        return (self.request.copy / name).read_text()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.executor.close()


def test_an_edit_that_was_asked_for_is_allowed_and_the_turn_is_an_idea(bench: Bench) -> None:
    idea = bench.ask(*EDIT, ("cost", 0.02, "USD"))
    assert (idea, bench.text()) == (
        Idea("a larger step", "opencode-acp", 60, 0.02, seconds=idea.seconds, model="m", session="s-1"),
        "LR = 0.2\n",
    )


def test_the_brief_is_its_prompt_and_its_session_asks_before_it_edits(bench: Bench, tmp_path: Path) -> None:
    bench.ask(("hear", str(tmp_path / "heard")), *EDIT, name="qwen-acp")
    heard = (tmp_path / "heard").read_text()
    assert ("Lower the loss" in heard, f"working directory is {bench.request.copy}" in heard, heard.endswith("|mode default")) == (
        True,
    ) * 3


ANSWERS: list[tuple[Step, str]] = [
    (("edit", "train.py", "LR = 0.3\n"), "allow_once"),
    (("edit", "prepare.py", "x = 2\n"), "reject_once"),
    (("edit", "../outside.py", "x = 2\n"), "reject_once"),
    (("edit", "link.py", "x = 2\n"), "reject_once"),
    (("ask", "edit", ""), "reject_once"),
    (("ask", "execute", ""), "reject_once"),
    (("ask", "delete", "train.py"), "reject_once"),
    (("ask", "fetch", ""), "reject_once"),
    (("ask", "other", "train.py"), "reject_once"),
    (("ask", "read", "prepare.py"), "allow_once"),
    (("ask", "read", "/etc/passwd"), "reject_once"),
    (("write", "prepare.py", "x = 2\n"), "prepare.py is protected"),
    (("write", "new.py", "x = 2\n"), "new.py is protected"),
    (("read", "prepare.py"), ""),
    (("read", "/etc/passwd"), "refused"),
]


def test_edits_of_editable_files_are_allowed_and_all_else_is_denied(bench: Bench) -> None:
    idea = bench.ask(
        ("link", "prepare.py", "link.py"), *(step for step, _ in ANSWERS), ("write", "train.py", "a\r\nb\n"), ("note", "answers")
    )
    answers = [text.rpartition("/")[2] for text in json.loads(bench.text("answers"))]
    assert (answers, idea.proposer) == ([answer for _, answer in ANSWERS], "opencode-acp")
    left = (bench.text("prepare.py"), (bench.request.copy / "train.py").read_bytes(), (bench.request.copy.parent / "outside.py").exists())
    assert left == ("x = 1\n", b"a\r\nb\n", False)


def test_a_turn_in_which_only_protected_files_were_wanted_says_which(bench: Bench) -> None:
    failed = bench.fails(("edit", "prepare.py", "x = 2\n"), ("say", "done"))
    assert (failed.code, failed.message, failed.tokens) == ("E-WRONG-FILE", "opencode-acp was refused: edit prepare.py", 60)


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([("refuse",)], "E-AGENT-LOGIN"),
        ([("fail", "429 rate limit")], "E-AGENT-RATE"),
        ([("crash", "TypeError: boom")], "E-AGENT-FAILED"),
        ([("crash", "")], "E-AGENT-EMPTY"),
        ([("garbage", 5000), ("hang", "x")], "E-AGENT-GARBAGE"),
        ([("end", "end_turn")], "E-AGENT-EMPTY"),
        ([("say", "All is well.")], "E-NO-EDIT"),
        ([("say", "Retrying...\n\nError: Authentication failed (HTTP 401).\n  Check your key.")], "E-AGENT-LOGIN"),
        ([("edit", "prepare.py", "x = 2\n"), ("end", "cancelled")], "E-WRONG-FILE"),
    ],
    ids=lambda found: found if isinstance(found, str) else "",
)
def test_each_trouble_is_told_apart(bench: Bench, steps: list[Step], code: str) -> None:
    failed = bench.fails(*steps)
    assert (failed.code, failed.outage) == (code, True), (failed.message, failed.why)


@pytest.mark.parametrize(
    ("steps", "tokens"),
    [([("quota",)], 44), ([("meta", 10), ("meta", 20), ("end", "end_turn")], 40)],
    ids=["of the turn", "of each answer"],
)
def test_tokens_are_counted_however_an_agent_tells_them(bench: Bench, steps: list[Step], tokens: int) -> None:
    assert bench.ask(*EDIT, *steps).tokens == tokens


def test_a_child_of_the_agent_that_holds_its_pipe_is_not_waited_for(bench: Bench) -> None:
    assert bench.ask(("child",), *EDIT).hypothesis == "a larger step"


def test_some_lines_that_are_no_messages_do_no_harm(bench: Bench) -> None:
    assert bench.ask(("garbage", 20), *EDIT).hypothesis == "a larger step"


def test_at_the_time_limit_the_turn_is_called_off_first_and_what_it_has_cost_is_known(bench: Bench) -> None:
    failed = bench.fails(("hang", "said"), time_limit=6.0)
    assert (failed.code, failed.tokens, bench.text("said")) == ("E-PROPOSER-SLOW", 30, "cancelled in time")


def test_an_answer_that_is_not_wanted_any_more_leaves_nothing_running(bench: Bench, tmp_path: Path) -> None:
    failed = bench.fails(("hear", str(tmp_path / "heard")), ("hang", "said"), cancelled=tmp_path / "heard")
    assert (failed.code, [line for line in studies.bearers(str(tmp_path)).values() if "opencode" in line]) == ("E-CANCELLED", [])


def test_behind_walls_the_client_and_the_agent_work_as_without_and_see_no_more(bench: Bench) -> None:
    bench.walls = Walls(keep=bench.folder / "keep", inside=Inside.AGENT, network=True, home=bench.folder / "person")
    if check(bench.walls):
        pytest.skip("no walls here")
    (bench.folder / "person" / ".netrc").write_text("secret")
    idea = bench.ask(("hear", "train.py"), ("open", str(bench.folder / "person" / ".netrc")), ("note", "answers"))
    assert (idea.proposer, json.loads(bench.text("answers")), "Lower the loss" in bench.text()) == (
        "opencode-acp",
        [""],
        True,
    )


def test_without_the_library_the_agent_counts_as_missing_and_the_fix_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert (lacks(AGENTS["opencode-acp"], "/bin/opencode"), lacks(AGENTS["opencode"], "/bin/opencode"), lacks(AGENTS["opencode"], "")) == (
        "pip install 'overnight[acp]'", "", "npm install -g opencode-ai",
    )  # fmt: skip


@pytest.mark.parametrize("name", SPEAKING)
def test_every_row_is_found_by_its_program_and_knows_the_hosts_of_its_agent(name: str, tmp_path: Path) -> None:
    row, plain = AGENTS[name], AGENTS[name.removesuffix("-acp")]
    program = speaking(tmp_path / "bin" / row.programs[0], ("say", ""))
    assert (find(row, {"PATH": str(program.parent)}), row.hosts, row.keys, row.logins) == (
        str(program),
        plain.hosts,
        plain.keys,
        plain.logins,
    )


@pytest.mark.parametrize(
    "text", ["", "{}", '{"type": "result"}', '{"type": "result", "stop": 3, "usage": [], "cost": "x", "denied": [1, {}]}', "[]"]
)
def test_no_record_that_is_left_breaks_the_reading(text: str, tmp_path: Path) -> None:
    found = reports.acp(Output(text, tmp_path))
    assert (found.final, found.tokens_read, found.cost) == (False, 0, None)


def test_a_night_with_an_agent_that_speaks_the_protocol(tmp_path: Path) -> None:
    study = studies.study(tmp_path, None, "--proposer", "opencode-acp", "--budget", "1", files={"train.py": "print('@loss=1.0')\n"})
    speaking(tmp_path / "bin" / "opencode", ("edit", "train.py", "print('@loss=0.5')\n"), ("say", "HYPOTHESIS: half"), ("cost", 0.5, "USD"))
    study.env["PATH"] = f"{tmp_path}/bin{os.pathsep}{study.env['PATH']}"
    done = study.call("run")
    row = study.rows()[1]
    told = (row["proposer"], row["description"], row["tokens"], row["cost"], row["session"], row["decision"])
    assert (done.code, told) == (0, ("opencode-acp", "half", 60, 0.5, "s-1", "keep")), done
