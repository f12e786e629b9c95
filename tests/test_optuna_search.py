"""The search proposer on real files, with Optuna itself; and the template study with real training runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import overnight
from overnight import constants, settings
from overnight.errors import ProposalError
from overnight.models import Decision, Direction, Experiment, Idea, Operator, Stage, Study
from overnight.proposers.optuna_search import BEST, LATEST, OptunaProposer, _distribution
from overnight.protocols import Request

TEMPLATE = Path(overnight.__file__).parent / "templates" / "nanodigits"
SOURCE = b'LR = 0.1\r\nWIDTH = 32  # overnight: 8..64\r\nMOMENTUM = 0.5\r\nACT = "relu"  # overnight: relu|tanh\r\n# \xc3\xa9\r\n'
STUDY = Study(1, "t", "autoresearch/t", "", "loss", Direction.MINIMIZE, settings.Settings(), 0.0)


def request(copy: Path, *editable: str, operator: Operator = Operator.IMPROVE) -> Request:
    parent = Experiment(0, 0, Operator.BASELINE, Stage.APPLIED, "", "baseline", 0.0)
    return Request("r", STUDY, operator, parent, copy, copy, editable or ("train.py",), "", lambda: False)


def settled(number: int, value: float | None, state: Mapping[str, object], decision: Decision = Decision.DISCARD) -> Experiment:
    return Experiment(number, 0, Operator.IMPROVE, Stage.APPLIED, "", "", 0.0, decision=decision, value=value, state=state)


def no_files() -> Mapping[str, bytes]:
    pytest.fail("the files were read although the state has the constants")


def read(source: bytes) -> dict[str, constants.Value]:
    return {constant.id: constant.value for constant in constants.find(source.decode(), "train.py")}


def loss(source: bytes) -> float:
    """A bowl with its lowest point at LR 0.03, WIDTH 48, MOMENTUM 0.8, ACT tanh."""
    found = {name.partition(":")[2]: value for name, value in read(source).items()}
    lr, width, momentum = (float(found[name]) for name in ("LR", "WIDTH", "MOMENTUM"))
    return (lr / 0.03 - 1) ** 2 + ((width - 48) / 20) ** 2 + (momentum - 0.8) ** 2 + (found["ACT"] != "tanh")


def search(copy: Path, proposer: OptunaProposer, runs: int, source: bytes = SOURCE, measure: Callable[[bytes], float] = loss) -> list[Idea]:
    """A greedy loop on a function; gives back the ideas."""
    best, best_loss, ideas = source, measure(source), []
    proposer.tell(settled(0, best_loss, {}, Decision.KEEP), lambda: {"train.py": source})
    for number in range(1, runs + 1):
        (copy / "train.py").write_bytes(best)
        ideas.append(proposer.ask(request(copy)))
        edited = (copy / "train.py").read_bytes()
        value = measure(edited)
        proposer.tell(settled(number, value, json.loads(json.dumps(ideas[-1].state, sort_keys=True))), no_files)
        if value < best_loss:
            best, best_loss = edited, value
    return ideas


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_bytes(SOURCE)
    return tmp_path


def test_a_proposal_changes_one_to_three_constants_and_says_which(copy: Path) -> None:
    idea = OptunaProposer(0, Direction.MINIMIZE).ask(request(copy))
    before, after = read(SOURCE), read((copy / "train.py").read_bytes())
    changed = [name for name in before if before[name] != after[name]]
    said = ", ".join(f"{name[9:]} {constants.spoken(before[name])} -> {constants.spoken(after[name])}" for name in changed)
    assert (1 <= len(changed) <= 3, idea.hypothesis, idea.proposer, idea.state["params"]) == (True, said, "optuna", after)


def test_nothing_but_the_literals_changes(copy: Path) -> None:
    proposer = OptunaProposer(1, Direction.MINIMIZE)
    for _ in range(10):
        (copy / "train.py").write_bytes(SOURCE)
        proposer.ask(request(copy))
        edited = (copy / "train.py").read_bytes()
        back = constants.edit(edited, {name[9:]: value for name, value in read(SOURCE).items()})
        assert back == SOURCE


def test_the_search_finds_the_low_ground(copy: Path) -> None:
    proposer = OptunaProposer(3, Direction.MINIMIZE)
    losses = [
        loss(constants.edit(SOURCE, {name[9:]: value for name, value in params(idea).items()})) for idea in search(copy, proposer, 60)
    ]
    assert min(losses) < 0.15 * loss(SOURCE)


def params(idea: Idea) -> dict[str, constants.Value]:
    found = idea.state["params"]
    assert isinstance(found, dict)
    return found


def test_the_same_seed_and_tells_give_the_same_proposals(tmp_path: Path) -> None:
    nights = []
    for name in "ab":
        (tmp_path / name).mkdir()
        nights.append([idea.hypothesis for idea in search(tmp_path / name, OptunaProposer(5, Direction.MINIMIZE), 12)])
    assert nights[0] == nights[1]


def test_other_seeds_give_other_proposals(tmp_path: Path) -> None:
    nights = {tuple(idea.hypothesis for idea in search(tmp_path, OptunaProposer(seed, Direction.MINIMIZE), 3)) for seed in range(4)}
    assert len(nights) == 4


def test_a_point_is_proposed_once_and_the_end_of_a_small_space_is_said(copy: Path) -> None:
    source = b"NESTEROV = False\nDEPTH = 2  # overnight: 1..3\n"
    (copy / "train.py").write_bytes(source)
    proposer = OptunaProposer(0, Direction.MINIMIZE)
    seen = set()
    for number in range(5):
        (copy / "train.py").write_bytes(source)
        idea = proposer.ask(request(copy))
        seen.add((copy / "train.py").read_bytes())
        if number % 2:
            proposer.tell(settled(number, 1.0, idea.state), no_files)
    (copy / "train.py").write_bytes(source)
    with pytest.raises(ProposalError) as caught:
        proposer.ask(request(copy))
    assert (len(seen - {source}), caught.value.code, caught.value.outage) == (5, "E-SPACE-EXHAUSTED", True)


def test_what_an_earlier_process_tried_is_not_proposed_again(copy: Path) -> None:
    source = b"DEPTH = 2  # overnight: 1..4\n"
    (copy / "train.py").write_bytes(source)
    proposer = OptunaProposer(0, Direction.MINIMIZE)
    for number, depth in enumerate((2, 1, 4)):
        proposer.tell(settled(number, 1.0, {}), lambda depth=depth: {"train.py": constants.edit(source, {"DEPTH": depth})})  # type: ignore[misc]
    assert proposer.ask(request(copy)).hypothesis == "DEPTH 2 -> 3"


def test_the_same_constants_in_other_code_are_another_point(copy: Path) -> None:
    source = b"NESTEROV = False\n"
    proposer = OptunaProposer(0, Direction.MINIMIZE)
    proposer.tell(settled(1, 1.0, {}), lambda: {"train.py": b"NESTEROV = True\n"})
    (copy / "train.py").write_bytes(source + b"import math\n")
    assert proposer.ask(request(copy)).hypothesis == "NESTEROV False -> True"


def test_what_was_on_its_way_at_a_restart_is_not_proposed_again(copy: Path) -> None:
    before = OptunaProposer(0, Direction.MINIMIZE).ask(request(copy))
    (copy / "train.py").write_bytes(SOURCE)
    same = OptunaProposer(0, Direction.MINIMIZE).ask(request(copy))
    (copy / "train.py").write_bytes(SOURCE)
    restarted = OptunaProposer(0, Direction.MINIMIZE)
    restarted.tell(replace(settled(2, None, before.state), decision=None), no_files)
    after = restarted.ask(request(copy))
    assert (same.state == before.state, after.state["params"] == before.state["params"]) == (True, False)


def test_a_search_goes_on_after_a_restart(copy: Path) -> None:
    first = search(copy, OptunaProposer(3, Direction.MINIMIZE), 30)
    again = OptunaProposer(3, Direction.MINIMIZE)
    again.tell(settled(0, loss(SOURCE), {}, Decision.KEEP), lambda: {"train.py": SOURCE})
    for number, idea in enumerate(first, 1):
        value = loss(constants.edit(SOURCE, {name[9:]: value for name, value in params(idea).items()}))
        again.tell(settled(number, value, idea.state), no_files)
    near = []
    for _ in range(10):
        (copy / "train.py").write_bytes(SOURCE)
        near.append(params(again.ask(request(copy))))
    assert [point for point in near if point in [params(idea) for idea in first]] == []


def test_tpe_keeps_away_from_crashes_that_are_no_number_to_it() -> None:
    source = b"LR = 0.1\n"
    proposer = OptunaProposer(0, Direction.MAXIMIZE)
    for number in range(20):
        rate = 0.05 + 0.002 * number if number < 10 else 0.2 + 0.08 * (number - 10)
        told = settled(number, 0.5 + rate, {}) if number < 10 else settled(number, None, {}, Decision.CRASH)
        proposer.tell(told, lambda rate=rate: {"train.py": constants.edit(source, {"LR": rate})})  # type: ignore[misc]
    lr = constants.find(source.decode(), "train.py")
    study = proposer._study(lr, 1)
    asked = [study.ask({"train.py:LR": _distribution(lr[0])}).params["train.py:LR"] for _ in range(20)]
    assert ({trial.value for trial in study.trials[10:20]}, sum(rate < 0.2 for rate in asked) >= 15) == ({None}, True)


def test_a_crash_is_not_blamed_on_constants_that_have_worked() -> None:
    proposer = OptunaProposer(0, Direction.MINIMIZE)
    proposer.tell(settled(0, 1.0, {}, Decision.KEEP), lambda: {"train.py": SOURCE})
    proposer.tell(settled(1, None, {}, Decision.CRASH), lambda: {"train.py": SOURCE + b"import nothing\n"})
    assert [point.value for point in proposer._told] == [1.0]


def test_a_rejected_row_teaches_nothing(tmp_path: Path) -> None:
    hypotheses = set()
    for rejected in (False, True):
        (tmp_path / "train.py").write_bytes(SOURCE)
        proposer = OptunaProposer(0, Direction.MINIMIZE)
        if rejected:
            proposer.tell(settled(1, None, {}), lambda: {"train.py": SOURCE})
        hypotheses.add(proposer.ask(request(tmp_path)).hypothesis)
    assert len(hypotheses) == 1


def test_a_file_without_constants_says_what_to_do(copy: Path) -> None:
    (copy / "train.py").write_bytes(b"print(1)\n")
    with pytest.raises(ProposalError) as caught:
        OptunaProposer(0, Direction.MINIMIZE).ask(request(copy))
    assert (caught.value.code, caught.value.outage, "--proposer-command" in caught.value.fix) == ("E-NO-CONSTANTS", False, True)


def test_a_crash_is_not_for_a_search_to_mend(copy: Path) -> None:
    with pytest.raises(ProposalError, match="cannot mend") as caught:
        OptunaProposer(0, Direction.MINIMIZE).ask(request(copy, operator=Operator.REPAIR))
    assert (caught.value.code, (copy / "train.py").read_bytes()) == ("E-NO-REPAIR", SOURCE)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_bytes(SOURCE)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "train.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(ProposalError, match="no tunable constants"):
        OptunaProposer(0, Direction.MINIMIZE).ask(request(tmp_path / "copy"))


def test_names_that_two_files_share_are_told_apart(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_bytes(b"LR = 0.1\n")
    idea = OptunaProposer(0, Direction.MINIMIZE).ask(request(tmp_path, "a.py", "b.py", "README.md"))
    assert {part[:7] for part in idea.hypothesis.split(", ")} <= {"a.py:LR", "b.py:LR"}


def test_a_value_outside_its_own_range_is_a_start_like_any_other(copy: Path) -> None:
    source = b'LR = 5.0  # overnight: 1e-3..1e-1 log\nACT = "elu"  # overnight: relu|tanh\n'
    ideas = search(copy, OptunaProposer(0, Direction.MINIMIZE), 8, source, lambda found: float(len(found)))
    assert len({idea.hypothesis for idea in ideas}) == 8


def test_several_threads_may_ask_at_once(tmp_path: Path) -> None:
    proposer = OptunaProposer(0, Direction.MINIMIZE)
    found: list[str] = []

    def ask(folder: Path) -> None:
        folder.mkdir()
        for _ in range(5):
            (folder / "train.py").write_bytes(SOURCE)
            found.append(proposer.ask(request(folder)).hypothesis)

    threads = [threading.Thread(target=ask, args=(tmp_path / str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(set(found))) == (20, 20)


def test_what_tpe_is_shown_does_not_grow_with_the_night(copy: Path) -> None:
    proposer = OptunaProposer(0, Direction.MINIMIZE)
    for number in range(1000):
        state = {"params": {"train.py:LR": 0.01 + number / 1100}, "code": "x"}
        proposer.tell(settled(number, abs(500.0 - number), state), no_files)
    shown = proposer._shown(BEST, LATEST)
    assert (len(shown), min(point.value or 0 for point in shown), shown[-1].value) == (300, 0, 499)
    assert proposer.ask(request(copy)).proposer == "optuna"


def train(copy: Path, seed: int) -> str:
    env = {"PATH": os.environ.get("PATH", ""), "OVERNIGHT_SEED": str(seed), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "train.py"], cwd=copy, env=env, capture_output=True, text=True, timeout=60, check=True).stdout


def accuracy(output: str) -> float:
    return float(output.rsplit("@acc=", 1)[1])


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TEMPLATE, tmp_path / "digits", ignore=shutil.ignore_patterns("__pycache__")))


def test_the_template_trains_and_differs_between_seeds_only(digits: Path) -> None:
    first, again, other = train(digits, 1), train(digits, 1), train(digits, 2)
    assert (first == again, first == other, 0.8 < accuracy(first) < 0.92, first.count("@loss=")) == (True, False, True, 4)


def test_the_template_has_a_dozen_constants_and_keeps_its_budget(digits: Path) -> None:
    names = [constant.name for constant in constants.find((digits / "train.py").read_text(), "train.py")]
    assert (len(names) >= 12, "EPOCHS" in names) == (True, False)


def test_the_template_s_settings_are_settings(digits: Path) -> None:
    found = tomllib.loads((digits / "overnight.toml").read_text())
    assert (settings.convert("command", found["command"]), sorted(set(found) - set(settings.table()))) == (("python train.py",), [])


def test_twelve_real_runs_improve_the_template(digits: Path) -> None:
    proposer = OptunaProposer(0, Direction.MAXIMIZE)
    best_source = (digits / "train.py").read_bytes()
    baseline = best = accuracy(train(digits, 0))
    proposer.tell(settled(0, baseline, {}, Decision.KEEP), lambda: {"train.py": best_source})
    for number in range(1, 13):
        (digits / "train.py").write_bytes(best_source)
        idea = proposer.ask(request(digits))
        value = accuracy(train(digits, 0))
        proposer.tell(settled(number, value, idea.state), no_files)
        if value > best:
            best, best_source = value, (digits / "train.py").read_bytes()
    assert best > baseline
