"""Two steps that only a reader of code can take: to make the best version simpler, and to bring two changes together that conflict."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asked import program, result
from overnight.errors import ProposalError
from overnight.judge.policies import POLICIES, Leaf, State, Task, ask
from overnight.knowledge import Knowledge
from overnight.models import Decision, Direction, Idea, Operator, Proposal, Stage, Study
from overnight.proposers.optuna_search import OptunaProposer
from overnight.protocols import Proposer
from overnight.redact import Redactor
from overnight.settings import Settings
from overnight.store import Store
from overnight.testing import Edit, ScriptedProposer, git, repository
from overnight.thinking import Talk, Thinker, Wish
from overnight.workspace import Scope, Workspace
from studies import Study as Night
from studies import ended, study  # noqa: F401 - ended is used by every test

TALK = Talk((), "", "", lambda: False)
COMBINE = Wish("w", Operator.COMBINE, 1, others=(2, 3))
NEAR = ("A = 0.5\nB = 1\n", "A = 1\nB = 0.25\n")  # two changes of neighbouring lines
APART = ("A = 0.5\n#\n#\n#\n#\nB = 1\n", "A = 1\n#\n#\n#\n#\nB = 0.25\n")


@pytest.fixture
def thinking(tmp_path: Path) -> Iterator[Callable[..., tuple[Study, Store, Thinker]]]:
    """Makes a study with two changes of its baseline, and a thinker that asks the given proposer."""
    with contextlib.ExitStack() as stack:

        def made(proposer: Proposer, *versions: str) -> tuple[Study, Store, Thinker]:
            base = versions[0].replace("0.5", "1")
            root = repository(tmp_path / "repository", {"train.py": base})
            store = stack.enter_context(contextlib.closing(Store(tmp_path / "overnight.db")))
            workspace = stack.enter_context(Workspace.open(root, tmp_path / "state"))
            found = store.create_study("t", workspace.head(), Direction.MINIMIZE, Settings(metric="loss"), 0.0)
            for number, text in enumerate((base, *versions)):
                operator = Operator.IMPROVE if number else Operator.BASELINE
                store.propose(found.id, Proposal(min(number, 1), operator, Idea(f"v{number}", "a"), {"train.py": text.encode()}), 2, 0.0)
            store.advance(found.id, 1, Stage.MEASURED, value=1.0)
            store.decide(found.id, 1, Decision.KEEP, "baseline", 1.0, 5.0)
            secrets = Redactor({})
            thinker = Thinker(
                store, workspace, proposer, Scope(("train.py",), ()), (tmp_path / "copies", secrets), Knowledge(store, secrets)
            )
            return found, store, thinker

        yield made


def write(value: float, lines: int = 1) -> str:
    """A call of the agent that leaves a train.py of so many lines of code."""
    body = "".join(f"x{number} = {number}\\n" for number in range(lines - 1))
    return f"printf '{body}print(\"@loss={value}\")\\n' > train.py; echo 'loss {value}, {lines} lines'\n"


def told(found: Night) -> list[str]:
    return (found.out / "operators").read_text().split()


def night(folder: Path, steps: dict[int, str], *words: str) -> Night:
    return study(
        folder, {number: f'echo "$OVERNIGHT_OPERATOR" >> {folder}/out/operators\n{step}' for number, step in steps.items()}, *words
    )


def tree(tip: int, grown: int, **more: int) -> State:
    return State((Leaf(1, 0, 0.0, lines=10, kept=True), Leaf(2, 1, 1.0, lines=10 + grown, kept=True)), tip, **{"lean": 10, **more})  # type: ignore[arg-type]


# --- simplify ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grown", "discards", "step"),
    [(19, 0, "improve"), (20, 0, "simplify"), (1, 14, "improve"), (1, 15, "simplify"), (0, 15, "improve"), (-5, 15, "improve")],
)
def test_the_best_is_simplified_when_it_has_grown_by_twenty_lines_or_at_all_at_a_plateau(grown: int, discards: int, step: str) -> None:
    assert ask("greedy", tree(2, grown, discards=discards), 1)[0].step == step


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "optuna"])
def test_every_policy_but_the_searchs_own_simplifies(name: str) -> None:
    assert ask(name, tree(2, 20), 1) == [Task("simplify", 2)]


def test_a_repair_goes_first_and_nobody_is_asked_who_cannot() -> None:
    state = tree(2, 20)
    broken = State((*state.leaves, Leaf(3, 2, fixable=True)), 2, lean=10)
    unable = State(state.leaves, 2, lean=None)
    assert (
        [task.step for task in ask("greedy", broken, 2)],
        ask("greedy", unable, 1),
        POLICIES["greedy"](unable, random.Random(0), 0).step,
    ) == (
        ["debug", "simplify"],
        [Task("improve", 2)],
        "improve",
    )


def test_the_agent_is_asked_to_simplify_once_and_equal_quality_with_less_code_is_kept(tmp_path: Path) -> None:
    found = night(tmp_path, {1: write(0.4, 30), 2: write(0.4, 3), 3: write(0.5), 4: write(0.39, 4)}, "--budget", "4")
    done = found.call("run")
    rows = [(row["operator"], row["parent"], row["decision"]) for row in found.rows()[1:]]
    assert (done.code, told(found), rows, found.faults()) == (
        0,
        ["improve", "simplify", "improve", "improve"],
        [("improve", 1, "keep"), ("simplify", 2, "keep"), ("improve", 3, "discard"), ("improve", 3, "keep")],
        [],
    ), done
    assert "27 fewer lines of code" in found.rows()[2]["cause"]
    assert "Make them simpler without making the metric worse" in (found.out / "brief.2").read_text()


def test_a_version_that_could_not_be_simplified_is_not_asked_about_again_after_a_restart_either(tmp_path: Path) -> None:
    found = night(tmp_path, {1: write(0.4, 30), 2: write(0.6, 29), 3: write(0.5)}, "--budget", "3")
    found.call("run")
    (found.out / "step.4").write_text(f'echo "$OVERNIGHT_OPERATOR" >> {found.out}/operators\n{write(0.55)}')
    found.words[found.words.index("3")] = "4"
    found.call("run")
    assert told(found) == ["improve", "simplify", "improve", "improve"]


def test_a_wish_to_simplify_that_nobody_could_follow_comes_again(tmp_path: Path) -> None:
    found = study(tmp_path, None, "--budget", "2", "--proposer", "claude", "--proposer-time-limit", "20")
    calls = tmp_path / "calls"
    body = f"""\
calls = pathlib.Path({str(calls)!r})
seen = calls.read_text().splitlines() if calls.exists() else []
calls.write_text("\\n".join([*seen, "simplify" if "Make them simpler" in brief else "improve"]))
if len(seen) == 1:
    print(json.dumps({{"type": "result", "subtype": "success", "is_error": True, "result": "Overloaded", "api_error_status": 529}}))
    sys.exit(1)
lines = ["x = 1"] * (30 if not seen else 0)
edit("train.py", "\\n".join([*lines, "print('@loss=0.4')", ""]))
"""
    program(tmp_path / "bin" / "claude", body + result())
    found.env.update({"PATH": f"{tmp_path}/bin:{found.env['PATH']}", "ANTHROPIC_API_KEY": "sk-of-the-tests"})
    done = found.call("run")
    rows = [(row["operator"], row["decision"]) for row in found.rows()[1:]]
    assert (done.code, calls.read_text().split(), rows) == (
        0,
        ["improve", "simplify", "simplify"],
        [("improve", "keep"), ("simplify", "keep")],
    )


def test_where_only_the_search_over_constants_proposes_nothing_is_simplified(tmp_path: Path) -> None:
    grows = "sed -i 's/^LR = .*/LR = 0.3/' train.py\n"
    body = "LR = 0.1\n" + "".join(f"x{number} = 'a'\n" for number in range(30)) + "print(f'@loss={1 - LR}')\n"
    found = study(tmp_path, {1: grows}, "--budget", "4", "--proposer", "optuna", files={"train.py": body})
    found.call("run")
    assert {row["operator"] for row in found.rows()[1:]} == {"improve"}


# --- combine -----------------------------------------------------------------------------------------------------

# The two lines that are changed are neighbours, so that the changes conflict. Waits until both runs are at work.
TRAIN = """\
import os, time
A = 1.0
B = 1.0
if A + B < 2:
    open({out!r} + "/at." + os.environ["OVERNIGHT_EXPERIMENT_ID"], "w").close()
until = time.monotonic() + 150
while 1 < A + B < 2 and len([x for x in os.listdir({out!r}) if x.startswith("at.")]) < 2 and time.monotonic() < until:
    time.sleep(0.01)
print("@loss=" + str(A + B))
"""
AGENT = """\
echo "$OVERNIGHT_OPERATOR" >> {out}/operators
if [ "$OVERNIGHT_OPERATOR" = combine ]; then
  cp "$OVERNIGHT_BRIEF" {out}/brief.combine
  sed -i 's/^A = .*/A = 0.5/; s/^B = .*/B = 0.25/' train.py; echo 'both'
elif mkdir {out}/first 2>/dev/null; then sed -i 's/^A = .*/A = 0.5/' train.py; echo 'smaller A'
elif mkdir {out}/second 2>/dev/null; then sed -i 's/^B = .*/B = 0.25/' train.py; echo 'smaller B'
else until [ -e {out}/brief.combine ]; do sleep 0.05; done; sed -i 's/^A = .*/A = 3.0/' train.py; echo 'larger A'
fi
"""


def test_two_wins_that_conflict_go_to_the_agent_with_both_changes_and_what_it_makes_of_them_is_kept(tmp_path: Path) -> None:
    files = {"train.py": TRAIN.format(out=str(tmp_path / "out"))}
    found = study(tmp_path, {}, "--budget", "4", "--slots", "2", files=files, agent=AGENT)
    done = found.call("run")
    last = next(row for row in found.rows() if row["operator"] == "combine")
    both = ("A = 0.5" in (code := git(found.root, "show", "autoresearch/t:train.py")), "B = 0.25" in code)
    assert (done.code, last["operator"], last["decision"], last["value"], last["proposer"], both, found.faults()) == (
        0, "combine", "keep", 0.75, "command", (True, True), [],
    ), done  # fmt: skip
    brief = (found.out / "brief.combine").read_text()
    assert [line for line in brief.splitlines() if line in ("+A = 0.5", "+B = 0.25")] in (
        ["+A = 0.5", "+B = 0.25"],
        ["+B = 0.25", "+A = 0.5"],
    )
    assert (brief.count("## The change of #"), "(it is in the files already)" in brief, "so that both gains stay" in brief) == (
        2,
        True,
        True,
    )


def test_near_misses_that_conflict_go_to_the_agent_with_the_changes_of_both(thinking: Callable[..., tuple[Study, Store, Thinker]]) -> None:
    agent = ScriptedProposer([Edit("both", {"train.py": "A = 0.5\nB = 0.25\n"})])
    found, _, thinker = thinking(agent, *NEAR)
    proposal = thinker.think(found, COMBINE, TALK)
    assert (proposal.operator, proposal.parent, proposal.files) == (Operator.COMBINE, 1, {"train.py": b"A = 0.5\nB = 0.25\n"})
    titles = [line for line in agent.briefs[0].splitlines() if line.startswith("## The change of")]
    assert titles == ["## The change of #2", "## The change of #3"]


def test_near_misses_that_go_together_need_nobody(thinking: Callable[..., tuple[Study, Store, Thinker]]) -> None:
    found, _, thinker = thinking(ScriptedProposer([]), *APART)
    proposal = thinker.think(found, COMBINE, TALK)
    assert (proposal.idea.proposer, proposal.files) == ("merge", {"train.py": b"A = 0.5\n#\n#\n#\n#\nB = 0.25\n"})


def test_what_conflicts_is_left_alone_where_nobody_reads_briefs(thinking: Callable[..., tuple[Study, Store, Thinker]]) -> None:
    found, store, thinker = thinking(OptunaProposer(0, Direction.MINIMIZE), *NEAR)
    with pytest.raises(ProposalError) as caught:
        thinker.think(found, COMBINE, TALK)
    one, other = store.experiment(found.id, 2), store.experiment(found.id, 3)
    assert (caught.value.code, thinker.combined(found, one, other, 3)) == ("E-CANCELLED", None)


@pytest.mark.parametrize("tip", [2, 3])
def test_two_wins_that_conflict_become_a_wish_for_the_one_that_is_not_in_the_best(
    tip: int, thinking: Callable[..., tuple[Study, Store, Thinker]]
) -> None:
    found, store, thinker = thinking(ScriptedProposer([]), *NEAR)
    made = thinker.combined(found, store.experiment(found.id, 2), store.experiment(found.id, 3), tip)
    assert made == Wish("", Operator.COMBINE, tip, others=(tip, 5 - tip))
