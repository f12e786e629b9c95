"""What every proposer does when it is asked and told. Real programs, real files, a model server on loopback."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from asked import SOURCE, program, request, result
from commands import ENV
from model_server import Edit, ModelServer
from overnight.errors import ProposalError
from overnight.executors.local import LocalExecutor
from overnight.models import Decision, Direction, Experiment, JobSpec, Operator, Stage
from overnight.proposers import PROPOSERS
from overnight.proposers.agent import AgentProposer, Wants
from overnight.proposers.agents import AGENTS
from overnight.proposers.chain import Chain
from overnight.proposers.command import CommandProposer
from overnight.proposers.llm import LlmProposer
from overnight.proposers.optuna_search import OptunaProposer
from overnight.protocols import Proposer

KINDS = (*PROPOSERS, "agent", "chain")


@dataclass(frozen=True)
class Kind:
    """One kind of proposer, made to answer well or to be slow."""

    name: str
    make: Callable[[bool], Proposer]


def as_it_is(spec: JobSpec) -> JobSpec:
    return spec


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    if request.param == "llm" and importlib.util.find_spec("httpx2") is None:
        pytest.skip("the extra 'llm' is not installed")
    executor = LocalExecutor(tmp_path / "jobs")
    env = {"PATH": f"{tmp_path}/bin:{ENV['PATH']}", "HOME": str(tmp_path)}
    with ModelServer([Edit("train.py", "LR = 0.1", "LR = 0.2")]) as server:

        def make(slow: bool) -> Proposer:
            program(tmp_path / "bin" / "claude", "time.sleep(60)\n" if slow else "edit()\n" + result())
            agent = AgentProposer(AGENTS["claude"], Wants(time_limit=30), executor, (env, as_it_is, False))
            made: Mapping[str, Callable[[], Proposer]] = {
                "optuna": lambda: OptunaProposer(0, Direction.MINIMIZE),
                "command": lambda: CommandProposer(
                    "sleep 60" if slow else "echo 'LR = 0.2' > train.py; echo larger", 30, executor, (env, as_it_is)
                ),
                "llm": lambda: LlmProposer("m", 30, {"OPENAI_BASE_URL": server.url}),
                "agent": lambda: agent,
                "chain": lambda: Chain([(agent, 1.0), (OptunaProposer(0, Direction.MINIMIZE), 1.0)], "order"),
            }
            return made[request.param]()

        yield Kind(request.param, make)
    executor.close()


def test_an_answer_names_who_gave_it_and_says_what_was_tried(kind: Kind, tmp_path: Path) -> None:
    proposer = kind.make(False)
    idea = proposer.ask(request(tmp_path))
    assert (idea.proposer, bool(idea.hypothesis), len(idea.hypothesis) <= 300) == (
        "claude" if kind.name == "chain" else proposer.name,
        True,
        True,
    )


def test_an_answer_changes_the_editable_file_and_no_other(kind: Kind, tmp_path: Path) -> None:
    made = request(tmp_path)
    kind.make(False).ask(made)
    found = {path.name: path.read_text() for path in made.copy.iterdir()}
    assert (found.pop("train.py") != SOURCE, found) == (True, {"prepare.py": "x = 1\n"})


def test_two_questions_have_two_answers(kind: Kind, tmp_path: Path) -> None:
    proposer = kind.make(False)
    assert all(proposer.ask(request(tmp_path, name)).proposer for name in ("t-1", "t-2"))


def test_a_question_that_is_not_wanted_any_more_is_an_outage(kind: Kind, tmp_path: Path) -> None:
    if kind.name in ("optuna", "llm"):
        pytest.skip("it answers at once")
    with pytest.raises(ProposalError) as caught:
        kind.make(True).ask(request(tmp_path, cancelled=lambda: True))
    assert (caught.value.code, caught.value.outage) == ("E-CANCELLED", True)


def test_it_can_be_told_of_any_experiment(kind: Kind) -> None:
    proposer = kind.make(False)
    for decision, value in ((Decision.KEEP, 0.5), (Decision.CRASH, None), (Decision.DISCARD, float("nan"))):
        experiment = Experiment(2, 1, Operator.IMPROVE, Stage.APPLIED, "somebody", "", 0.0, decision=decision, value=value)
        proposer.tell(experiment, lambda: {"train.py": SOURCE.encode()})
    assert proposer.name
