"""Several proposers as one: who is asked, who steps in, who rests. Scripted members; time is an argument."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from asked import SOURCE, request
from overnight.errors import ProposalError
from overnight.models import Decision, Direction, Experiment, Idea, Operator, Stage
from overnight.proposers.chain import Chain
from overnight.proposers.optuna_search import OptunaProposer
from overnight.protocols import Request
from overnight.testing import Edit, ScriptedProposer

GOOD = Edit("good", {"train.py": "LR = 0.2\n"})
DOWN = ProposalError("E-AGENT-LOGIN", "it is down", outage=True, wait=60.0)


class Member(ScriptedProposer):
    """A scripted proposer with a name of its own."""

    def __init__(self, name: str, steps: Iterable[Edit | ProposalError]) -> None:
        super().__init__(steps)
        self.name = name


class Night:
    """A chain, its clock, and a fresh request for every question."""

    def __init__(self, folder: Path, *members: tuple[Member, float], mix: str = "order") -> None:
        self.now = 0.0
        self.folder = folder
        self.chain = Chain(members, mix, lambda: self.now)
        self.asked = 0

    def ask(self) -> Idea:
        self.asked += 1
        self.request = request(self.folder, f"t-{self.asked}")
        return self.chain.ask(self.request)


def settled(proposer: str, decision: Decision, cost: float) -> Experiment:
    return Experiment(2, 1, Operator.IMPROVE, Stage.APPLIED, proposer, "", 0.0, decision=decision, cost=cost)


def no_files() -> Mapping[str, bytes]:
    return {}


def test_the_first_that_is_well_answers(tmp_path: Path) -> None:
    night = Night(tmp_path, (Member("a", [GOOD] * 3), 1), (Member("b", [GOOD] * 3), 1))
    assert [night.ask().proposer for _ in range(3)] == ["a", "a", "a"]


def test_the_next_steps_in_at_once_and_says_for_whom(tmp_path: Path) -> None:
    night = Night(tmp_path, (Member("a", [DOWN]), 1), (Member("b", [GOOD]), 1))
    idea = night.ask()
    assert (idea.proposer, idea.note) == ("b", "it is down; b stands in")


def test_one_that_is_down_rests_and_is_asked_again_when_its_rest_is_over(tmp_path: Path) -> None:
    night = Night(tmp_path, (Member("a", [DOWN, GOOD]), 1), (Member("b", [GOOD] * 5), 1))
    found = []
    for now in (0.0, 30.0, 59.0, 61.0):
        night.now = now
        found.append(night.ask().proposer)
    assert found == ["b", "b", "b", "a"]


def test_one_that_is_well_again_is_not_spoken_of_any_more(tmp_path: Path) -> None:
    night = Night(tmp_path, (Member("a", [DOWN, GOOD]), 1), (Member("b", [GOOD]), 1))
    night.ask()
    night.now = 61.0
    assert night.ask().note == ""


def test_when_all_are_down_the_last_error_is_raised(tmp_path: Path) -> None:
    last = ProposalError("E-AGENT-RATE", "b is limited", outage=True)
    night = Night(tmp_path, (Member("a", [DOWN]), 1), (Member("b", [last]), 1))
    with pytest.raises(ProposalError) as caught:
        night.ask()
    assert caught.value is last


def test_while_all_rest_the_one_that_is_due_first_is_asked(tmp_path: Path) -> None:
    soon = ProposalError("E-AGENT-RATE", "b is limited", outage=True, wait=10.0)
    night = Night(tmp_path, (Member("a", [DOWN, GOOD]), 1), (Member("b", [soon, GOOD]), 1))
    with pytest.raises(ProposalError):
        night.ask()
    assert night.ask().proposer == "b"


def test_half_an_edit_of_one_is_taken_back_before_the_next_is_asked(tmp_path: Path) -> None:
    class Half(Member):
        def ask(self, request: Request) -> Idea:
            (request.copy / "train.py").write_text("LR = \n")
            raise DOWN

    class Looks(Member):
        def ask(self, request: Request) -> Idea:
            seen.append((request.copy / "train.py").read_text())
            return super().ask(request)

    seen: list[str] = []
    Night(tmp_path, (Half("a", []), 1), (Looks("b", [GOOD]), 1)).ask()
    assert seen == [SOURCE]


def test_a_change_that_cannot_be_taken_back_ends_the_question(tmp_path: Path) -> None:
    class Litters(Member):
        def ask(self, request: Request) -> Idea:
            (request.copy / "prepare.py").write_text("x = 2\n")
            raise DOWN

    night = Night(tmp_path, (Litters("a", []), 1), (Member("b", [GOOD]), 1))
    with pytest.raises(ProposalError) as caught:
        night.ask()
    assert (caught.value.code, night.ask().proposer) == ("E-AGENT-LOGIN", "b")


def test_a_cancelled_question_goes_to_nobody_else(tmp_path: Path) -> None:
    stopped = ProposalError("E-CANCELLED", "stopped", outage=True)
    other = Member("b", [GOOD])
    night = Night(tmp_path, (Member("a", [stopped]), 1), (other, 1))
    with pytest.raises(ProposalError) as caught:
        night.ask()
    assert (caught.value.code, other.briefs) == ("E-CANCELLED", [])


def test_a_search_that_is_exhausted_does_not_end_a_night_with_others(tmp_path: Path) -> None:
    night = Night(tmp_path, (Member("a", []), 1), (Member("b", [DOWN]), 1))
    with pytest.raises(ProposalError) as caught:
        night.ask()
    assert caught.value.code == "E-AGENT-LOGIN"


def test_searches_that_are_all_exhausted_end_the_night(tmp_path: Path) -> None:
    night = Night(tmp_path, (Member("a", []), 1), (Member("b", []), 1))
    with pytest.raises(ProposalError) as caught:
        night.ask()
    assert caught.value.code == "E-SPACE-EXHAUSTED"


def test_a_search_without_constants_leaves_the_floor_to_others(tmp_path: Path) -> None:
    made = request(tmp_path)
    (made.copy / "train.py").write_text("print('@loss=1')\n")
    idea = Chain([(OptunaProposer(0, Direction.MINIMIZE), 1), (Member("b", [GOOD]), 1)], "order").ask(made)
    assert idea.proposer == "b"


def test_what_cannot_mend_a_crash_lets_another_try(tmp_path: Path) -> None:
    made = replace(request(tmp_path), operator=Operator.REPAIR)
    idea = Chain([(OptunaProposer(0, Direction.MINIMIZE), 1), (Member("b", [GOOD]), 1)], "order").ask(made)
    assert idea.proposer == "b"


def test_shares_are_kept(tmp_path: Path) -> None:
    night = Night(tmp_path, (Member("a", [GOOD] * 40), 3), (Member("b", [GOOD] * 40), 1), mix="shares")
    assert Counter(night.ask().proposer for _ in range(40)) == {"a": 30, "b": 10}


def test_a_bandit_asks_everybody_and_then_whoever_wins_more(tmp_path: Path) -> None:
    night = Night(tmp_path, (Member("a", [GOOD] * 60), 1), (Member("b", [GOOD] * 60), 1), mix="bandit")
    found: Counter[str] = Counter()
    for _ in range(60):
        name = night.ask().proposer
        found[name] += 1
        night.chain.tell(settled(name, Decision.KEEP if name == "b" else Decision.DISCARD, 0.1), no_files)
    assert found["b"] > 2 * found["a"] > 0


def test_a_bandit_prefers_the_cheaper_of_two_that_win_alike(tmp_path: Path) -> None:
    night = Night(tmp_path, (Member("a", [GOOD] * 60), 1), (Member("b", [GOOD] * 60), 1), mix="bandit")
    found: Counter[str] = Counter()
    for _ in range(60):
        name = night.ask().proposer
        found[name] += 1
        night.chain.tell(settled(name, Decision.KEEP, 1.0 if name == "a" else 0.1), no_files)
    assert found["b"] > 2 * found["a"] > 0


def test_everybody_learns_from_everything(tmp_path: Path) -> None:
    members = [Member("a", []), Member("b", [])]
    Night(tmp_path, *((member, 1.0) for member in members)).chain.tell(settled("a", Decision.KEEP, 0.0), no_files)
    assert [len(member.told) for member in members] == [1, 1]
