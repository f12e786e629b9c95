"""Git, ``results.tsv`` and the branch follow the record, wherever an earlier loop was killed: with a real repository."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from overnight.errors import GitError, StorageError
from overnight.ledger import Ledger, message
from overnight.models import Decision, Direction, Experiment, Idea, Operator, Proposal, Stage, Study
from overnight.results import Table
from overnight.settings import Settings
from overnight.store import Store
from overnight.workspace import Workspace
from repositories import TRAIN, everything, git, make

_BRANCH = "autoresearch/nov21"


class House:
    """A repository, its record and its ledger; ``loop`` makes the parts anew, as the next loop would."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root = root
        self.tsv = root / "results.tsv"
        self.store = Store(state / "overnight.db")
        self.space = Workspace.open(root, state)
        self.study = self.store.create_study("nov21", self.space.head(), Direction.MINIMIZE, Settings(metric="loss"), 0.0)
        self.loop()

    def loop(self, table: Path | None = None) -> Ledger:
        self.ledger = Ledger(self.store, self.space, TRAIN, [Table(table or self.tsv)])
        return self.ledger

    def propose(self, content: bytes, parent: int = 1, hypothesis: str = "try") -> Experiment:
        operator = Operator.IMPROVE if parent else Operator.BASELINE
        proposal = Proposal(parent, operator, Idea(hypothesis, "optuna"), {"train.py": content})
        number = len(self.store.experiments(self.study.id)) + 1
        return self.store.propose(self.study.id, proposal, 1, 1_700_000_000.0 + number)

    def decide(self, experiment: Experiment, value: float | None, decision: Decision, now: float = 5.0) -> Experiment:
        self.store.advance(self.study.id, experiment.number, Stage.MEASURED, value=value)
        return self.store.decide(self.study.id, experiment.number, decision, "because", value, now)

    def run(self, content: bytes, value: float | None, decision: Decision, parent: int = 1, now: float = 5.0) -> Experiment:
        experiment = self.ledger.keep(self.study, self.propose(content, parent))
        return self.ledger.settle(self.study, self.decide(experiment, value, decision, now))

    def tip(self) -> str:
        return git(self.root, "rev-parse", _BRANCH)

    def rows(self) -> list[str]:
        return [" ".join(line.split("\t")[1:4]) for line in self.tsv.read_text().splitlines()[1:]]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    (tmp_path / "state").mkdir()
    found = House(make(tmp_path / "study"), tmp_path / "state")
    with contextlib.closing(found.store), found.space:
        found.ledger.open(found.study)
        yield found


@pytest.fixture
def night(house: House) -> House:
    """A baseline, a keep, a discard and a crash."""
    house.run(b"lr = 1\n", 1.0, Decision.KEEP, 0)
    house.run(b"lr = 2\n", 0.5, Decision.KEEP)
    house.run(b"lr = 3\n", 0.7, Decision.DISCARD, 2)
    house.run(b"lr = (\n", None, Decision.CRASH, 2)
    return house


def test_a_fresh_study_has_a_branch_at_its_base_and_an_empty_table(house: House) -> None:
    assert (house.tip(), house.tsv.read_text()) == (house.study.base_commit, "commit\tmetric\tmemory_gb\tstatus\tdescription\n")


def test_the_baseline_is_the_base_commit_itself(house: House) -> None:
    found = house.run(b"lr = 1\n", 1.0, Decision.KEEP, 0)
    ref = git(house.root, "rev-parse", "refs/overnight/nov21/1")
    assert (found.commit, ref, house.tip(), found.stage) == (*[house.study.base_commit] * 3, Stage.APPLIED)


def test_only_keeps_are_on_the_branch(night: House) -> None:
    log = git(night.root, "log", "--format=%s|%(trailers:separator=|,unfold)", f"{night.study.base_commit}..{_BRANCH}").splitlines()
    assert log == ["try|Overnight-Experiment: 2|Overnight-Metric: loss=0.5|Overnight-Decision: keep"]


def test_every_other_try_is_kept_as_a_commit_on_its_parent(night: House) -> None:
    found = [
        git(night.root, "log", "-1", "--format=%P %(trailers:key=Overnight-Decision,valueonly)", f"refs/overnight/nov21/{n}")
        for n in (3, 4)
    ]
    assert found == [f"{night.tip()} discard", f"{night.tip()} crash"]


def test_a_commit_holds_the_measured_bytes_and_no_other_change(night: House) -> None:
    changed = git(night.root, "diff", "--name-only", night.study.base_commit, "refs/overnight/nov21/3")
    assert (changed, git(night.root, "show", "refs/overnight/nov21/3:train.py")) == ("train.py", "lr = 3")


def test_the_record_knows_the_commits(night: House) -> None:
    refs = [git(night.root, "rev-parse", f"refs/overnight/nov21/{number}") for number in (1, 2, 3, 4)]
    assert [item.commit for item in night.store.experiments(night.study.id)] == refs


def test_every_settled_experiment_has_a_row(night: House) -> None:
    assert night.rows() == ["1.000000 0.0 keep", "0.500000 0.0 keep", "0.700000 0.0 discard", "0.000000 0.0 crash"]


def test_the_checkout_of_the_person_is_not_touched(house: House) -> None:
    house.space.exclude("/results.tsv")
    (house.root / "prepare.py").write_bytes(b"not committed\n")
    before = everything(house.root)
    house.run(b"lr = 1\n", 1.0, Decision.KEEP, 0)
    house.run(b"lr = 2\n", 0.5, Decision.KEEP)
    assert everything(house.root) == before


def test_a_kept_try_on_a_parent_that_is_stale_goes_on_top_of_the_branch(night: House) -> None:
    before = night.tip()
    found = night.run(b"lr = 5\n", 0.4, Decision.KEEP, 1)
    assert (git(night.root, "rev-parse", f"{_BRANCH}^"), night.tip()) == (before, found.commit)


def test_opening_again_changes_nothing(night: House) -> None:
    before = (night.tip(), night.tsv.read_bytes(), git(night.root, "for-each-ref"))
    night.loop().open(night.study)
    assert (night.tip(), night.tsv.read_bytes(), git(night.root, "for-each-ref")) == before


def test_keeping_again_gives_the_same_commit(night: House) -> None:
    experiment = night.ledger.keep(night.study, night.propose(b"lr = 6\n", 2))
    refs = git(night.root, "for-each-ref")
    again = night.loop().keep(night.study, experiment)
    assert (again, git(night.root, "for-each-ref")) == (experiment, refs)


def test_a_lost_branch_is_made_again(night: House) -> None:
    tip = night.tip()
    git(night.root, "update-ref", "-d", f"refs/heads/{_BRANCH}")
    night.loop().open(night.study)
    assert night.tip() == tip


def test_a_branch_whose_last_move_was_lost_is_moved_again(night: House) -> None:
    tip = night.tip()
    git(night.root, "update-ref", f"refs/heads/{_BRANCH}", night.study.base_commit)
    night.loop().open(night.study)
    assert night.tip() == tip


def test_the_branch_stays_at_the_last_keep_when_the_clock_is_set_back(night: House) -> None:
    found = night.run(b"lr = 5\n", 0.4, Decision.KEEP, 2, now=-1000.0)
    night.loop().open(night.study)
    assert (night.tip(), night.rows()[-1]) == (found.commit, "0.400000 0.0 keep")


def test_a_branch_that_somebody_moved_is_left_alone_and_said(night: House) -> None:
    tree = git(night.root, "rev-parse", f"{_BRANCH}^{{tree}}")
    theirs = git(night.root, "commit-tree", tree, "-p", _BRANCH, "-m", "mine")
    git(night.root, "update-ref", f"refs/heads/{_BRANCH}", theirs)
    with pytest.raises(GitError) as caught:
        night.loop().open(night.study)
    assert (caught.value.code, night.tip()) == ("E-BRANCH-MOVED", theirs)


def test_a_loop_killed_between_decision_and_branch_is_caught_up_with(night: House) -> None:
    experiment = night.ledger.keep(night.study, night.propose(b"lr = 5\n", 2))
    decided = night.decide(experiment, 0.4, Decision.KEEP)
    night.loop().open(night.study)
    found = night.ledger.settle(night.study, decided)
    assert (night.tip(), found.stage, night.rows()[4:]) == (found.commit, Stage.APPLIED, ["0.400000 0.0 keep"])


def test_a_loop_killed_between_branch_and_table_is_caught_up_with(night: House) -> None:
    experiment = night.ledger.keep(night.study, night.propose(b"lr = 5\n", 2))
    decided = night.decide(experiment, 0.4, Decision.KEEP)
    broken = night.root / "src"
    with pytest.raises(StorageError):
        night.loop(broken).settle(night.study, decided)
    moved = night.tip()
    night.loop().open(night.study)
    found = night.ledger.settle(night.study, night.store.experiment(night.study.id, decided.number))
    assert (found.commit, night.tip(), night.rows()[4:]) == (moved, moved, ["0.400000 0.0 keep"])


def test_a_loop_killed_between_table_and_record_leaves_one_row(night: House) -> None:
    experiment = night.ledger.keep(night.study, night.propose(b"lr = 5\n", 2))
    decided = night.decide(experiment, 0.4, Decision.KEEP)
    night.ledger.settle(night.study, decided)
    night.store.advance(night.study.id, decided.number, Stage.DECIDED)
    night.loop().open(night.study)
    night.ledger.settle(night.study, night.store.experiment(night.study.id, decided.number))
    assert night.rows()[4:] == ["0.400000 0.0 keep"]


def test_a_table_that_somebody_spoiled_is_made_again(night: House) -> None:
    before = night.tsv.read_bytes()
    night.tsv.write_bytes(before[:-9] + b"garbage")
    night.loop().open(night.study)
    assert night.tsv.read_bytes() == before


_STUDY = Study(1, "t", "b", "c", "loss", Direction.MINIMIZE, Settings(), 0.0)


@pytest.mark.parametrize(
    ("description", "subject"),
    [
        ("wider", "wider"),
        ("", "experiment 7"),
        ("a\n\nOvernight-Decision: keep", "a Overnight-Decision: keep"),
        ("x" * 200, "x" * 99 + "…"),
    ],
)
def test_a_message_has_one_line_of_the_hypothesis(description: str, subject: str) -> None:
    experiment = Experiment(7, 2, Operator.IMPROVE, Stage.COMMITTED, "optuna", description, 0.0)
    assert message(experiment, _STUDY) == f"{subject}\n\nOvernight-Experiment: 7\n"
