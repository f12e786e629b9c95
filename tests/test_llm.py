"""A plain model as a proposer, against a model server on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asked import SOURCE, request
from model_server import Edit, Empty, Fail, Flood, Garbage, Hang, ModelServer, Say, Step
from overnight.errors import ProposalError
from overnight.models import Idea
from overnight.proposers.llm import LlmProposer
from overnight.protocols import Request

pytest.importorskip("httpx2", reason="the extra 'llm' is not installed")
MODELS = ("openai/gpt-5", "anthropic/claude-sonnet-4-5", "local-model")
CHANGE = Edit("train.py", "LR = 0.1", "LR = 0.2")


def proposer(server: ModelServer, model: str = "openai/gpt-5", time_limit: float = 20.0) -> LlmProposer:
    env = {"OPENAI_BASE_URL": f"{server.url}/v1", "ANTHROPIC_BASE_URL": server.url, "OPENAI_API_KEY": "k1", "ANTHROPIC_API_KEY": "k2"}
    return LlmProposer(model, time_limit, env)


def ask(folder: Path, *steps: Step, model: str = "openai/gpt-5", time_limit: float = 20.0) -> tuple[Idea, Request, ModelServer]:
    with ModelServer(steps) as server:
        made = request(folder)
        return proposer(server, model, time_limit).ask(made), made, server


def fails(folder: Path, *steps: Step, time_limit: float = 20.0) -> ProposalError:
    with pytest.raises(ProposalError) as caught:
        ask(folder, *steps, time_limit=time_limit)
    return caught.value


@pytest.mark.parametrize("model", MODELS)
def test_an_answer_is_applied(model: str, tmp_path: Path) -> None:
    idea, made, _ = ask(tmp_path, CHANGE, Say("larger steps"), model=model)
    assert ((made.copy / "train.py").read_text(), idea.hypothesis, idea.proposer, idea.tokens, idea.model) == (
        SOURCE.replace("0.1", "0.2"), "larger steps", "llm", 1050, model.rpartition("/")[2],
    )  # fmt: skip


def test_the_brief_and_the_files_are_in_the_question(tmp_path: Path) -> None:
    _, _, server = ask(tmp_path, CHANGE)
    said = server.seen[0].body["messages"][0]["content"]
    assert ("Lower the loss." in said, SOURCE in said, "prepare.py" in said) == (True, True, False)


def test_the_key_goes_where_the_endpoint_wants_it(tmp_path: Path) -> None:
    keys = []
    for number, model in enumerate(MODELS):
        _, _, server = ask(tmp_path / str(number), CHANGE, model=model)
        keys.append((server.seen[0].headers.get("Authorization"), server.seen[0].headers.get("x-api-key")))
    assert keys == [("Bearer k1", None), (None, "k2"), ("Bearer k1", None)]


@pytest.mark.parametrize(
    "wrong",
    [
        Edit("train.py", "LR = 7", "LR = 8"),
        Edit("train.py", "=", "=="),
        Edit("prepare.py", "x = 1", "x = 2"),
        Edit("../outside", "", "x"),
        Edit("train.py", "LR = 0.1", "LR = 0.1"),
    ],
)
def test_an_edit_that_does_not_fit_goes_back_once_with_what_was_wrong(wrong: Edit, tmp_path: Path) -> None:
    with ModelServer([wrong]) as server:
        made = request(tmp_path)
        with pytest.raises(ProposalError) as caught:
            proposer(server).ask(made)
        told = [len(seen.body["messages"]) for seen in server.seen]
    assert (caught.value.code, caught.value.tokens, told, (made.copy / "train.py").read_text()) == ("E-NO-EDIT", 2100, [1, 3], SOURCE)


def test_a_repaired_answer_is_applied(tmp_path: Path) -> None:
    with ModelServer([]) as server:
        answers = iter(
            ["I would raise the rate.", json.dumps({"hypothesis": "h", "edits": [{"path": "train.py", "search": "0.1", "replace": "0.3"}]})]
        )
        server.saying = lambda _: next(answers)
        made = request(tmp_path)
        idea = proposer(server).ask(made)
    assert ((made.copy / "train.py").read_text(), idea.tokens) == (SOURCE.replace("0.1", "0.3"), 2100)


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (Fail(401), "E-AGENT-LOGIN"), (Fail(402), "E-AGENT-CREDIT"), (Fail(429), "E-AGENT-RATE"), (Fail(529), "E-AGENT-OVERLOADED"), (Fail(503), "E-AGENT-OVERLOADED"),
        (Fail(404), "E-AGENT-MODEL"), (Empty(), "E-AGENT-EMPTY"), (Garbage(), "E-AGENT-GARBAGE"), (Say("hm"), "E-AGENT-GARBAGE"), (Flood(), "E-AGENT-FAILED"),
    ],
)  # fmt: skip
def test_each_trouble_has_its_code_and_leaves_the_files(step: Step, code: str, tmp_path: Path) -> None:
    with ModelServer([step]) as server:
        made = request(tmp_path)
        with pytest.raises(ProposalError) as caught:
            proposer(server).ask(made)
    assert (caught.value.code, caught.value.outage, (made.copy / "train.py").read_text()) == (code, True, SOURCE)


def test_a_model_that_hangs_is_left_at_the_time_limit(tmp_path: Path) -> None:
    assert fails(tmp_path, Hang(), time_limit=0.5).code == "E-PROPOSER-SLOW"


def test_an_answer_that_is_not_wanted_any_more_is_not_waited_for(tmp_path: Path) -> None:
    with ModelServer([Hang()]) as server, pytest.raises(ProposalError) as caught:
        proposer(server).ask(request(tmp_path, cancelled=lambda: True))
    assert caught.value.code == "E-CANCELLED"


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProposalError) as caught:
        LlmProposer("m", 10.0, {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}).ask(request(tmp_path))
    assert caught.value.code == "E-AGENT-UNREACHABLE"


def test_a_hosted_model_without_a_key_is_not_asked(tmp_path: Path) -> None:
    with pytest.raises(ProposalError) as caught:
        LlmProposer("anthropic/m", 10.0, {}).ask(request(tmp_path))
    assert (caught.value.code, caught.value.fix) == ("E-AGENT-LOGIN", "export ANTHROPIC_API_KEY=…")
