"""The search over the constants beside agents: it learns from every run, and its knowledge stands in every brief."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asked import SOURCE, request
from noisy import edit, noisy, table
from overnight.models import Decision, Direction, Experiment, Operator, Stage
from overnight.proposers.chain import Chain
from overnight.proposers.informed import Informed
from overnight.proposers.optuna_search import OptunaProposer
from overnight.testing import Edit, ScriptedProposer
from studies import Study, ended, study  # noqa: F401 - ended is used by every test

TRAIN = "LR = 0.1\nWIDTH = 8\nprint(f'@loss={abs(LR - 0.3) + WIDTH / 1000}')\n"
TITLE = "## What the search over the constants knows"


def section(text: str) -> list[str]:
    return text.split(f"{TITLE}\n\n")[1].split("\n\n", maxsplit=1)[0].splitlines() if TITLE in text else []


def change(name: str, value: float) -> str:
    return f"sed -i 's/^{name} = .*/{name} = {value}/' train.py; echo '{name} {value}'\n"


def night(folder: Path, *words: str) -> Study:
    return study(folder, {1: change("LR", 0.2), 2: change("LR", 0.4), 3: change("WIDTH", 4)}, *words, files={"train.py": TRAIN})


@pytest.mark.parametrize(
    "words", [(), ("--proposer", "command"), ("--proposer", "command", "--proposer", "optuna")], ids=["command", "named", "chain"]
)
def test_an_agent_is_told_what_the_search_has_learned_from_its_own_runs(tmp_path: Path, words: tuple[str, ...]) -> None:
    found = night(tmp_path, "--budget", "3", *words)
    done = found.call("run")
    told = [section((found.out / f"brief.{number}").read_text()) for number in (1, 2, 3)]
    assert (done.code, [lines[:2] for lines in told]) == (
        0,
        [
            ["1 settled points are known; the search moves these constants:", "- train.py:LR = 0.1: 1 values tried, best with 0.1"],
            ["2 settled points are known; the search moves these constants:", "- train.py:LR = 0.2: 2 values tried, best with 0.2, 0.1"],
            [
                "3 settled points are known; the search moves these constants:",
                "- train.py:LR = 0.2: 3 values tried, best with 0.2, 0.4, 0.1",
            ],
        ],
    ), done


def test_the_search_knows_after_a_restart_what_it_knew_before_and_the_person_is_shown_the_same(tmp_path: Path) -> None:
    found = night(tmp_path, "--budget", "2")
    found.call("run")
    shown = section(found.call("brief").out)
    found.words[found.words.index("--budget") + 1] = "3"
    found.call("run")
    assert (shown[0].split()[0], section((found.out / "brief.3").read_text())) == ("3", shown)


def test_where_there_are_no_constants_nothing_is_said(tmp_path: Path) -> None:
    found = study(tmp_path, {}, "--budget", "2")
    found.call("run")
    assert [TITLE in (found.out / f"brief.{number}").read_text() for number in (1, 2)] == [False, False]


def _settled(value: float) -> Experiment:
    return Experiment(2, 1, Operator.IMPROVE, Stage.APPLIED, "scripted", "", 0.0, decision=Decision.DISCARD, value=value)


def test_a_chain_knows_what_its_search_knows_and_tells_it_everything_once() -> None:
    search = OptunaProposer(0, Direction.MINIMIZE)
    chain = Chain([(ScriptedProposer([]), 1.0), (search, 1.0)], "order")
    chain.tell(_settled(1.0), lambda: {"train.py": SOURCE.encode()})
    assert (chain.state({"train.py": SOURCE.encode()}), chain.reads_briefs) == (search.state({"train.py": SOURCE.encode()}), True)
    assert chain.state({"train.py": SOURCE.encode()}).startswith("1 settled points are known")


def test_a_proposer_with_a_search_beside_it_answers_as_it_would_alone(tmp_path: Path) -> None:
    alone = ScriptedProposer([Edit("x", {"train.py": "LR = 0.2\n"})])
    informed = Informed(alone, OptunaProposer(0, Direction.MINIMIZE))
    idea = informed.ask(request(tmp_path))
    informed.tell(_settled(1.0), lambda: {"train.py": SOURCE.encode()})
    assert (idea.proposer, informed.name, informed.reads_briefs, [item.number for item in alone.told]) == (
        "scripted",
        "scripted",
        True,
        [2],
    )
    assert "1 settled points" in informed.state({"train.py": SOURCE.encode()})


# --- ideas of the person in waves ----------------------------------------------------------------------------------------


# Does what the idea in its brief asks for, else something that makes things worse.
OBEYS = """\
for idea in first second third; do
  if grep -q "now: $idea" "$OVERNIGHT_BRIEF"; then . {out}/idea.$idea; exit; fi
done
n=1; until mkdir {out}/turn.$n 2>/dev/null; do n=$((n + 1)); done
sed -i "s/^A = .*/A = -5.$n/" train.py; echo "A = -5.$n"
"""


def wave(folder: Path, ideas: dict[str, str], budget: str, *words: str) -> Study:
    """A night of waves with three ideas in its queue, one remark, and a noise that is known beforehand."""
    found = noisy(folder, {}, "--budget", "0", "--policy", "wave", *words, agent=OBEYS)
    found.call("run")
    for text, script in ideas.items():
        (found.out / f"idea.{text}").write_text(script)
        found.call("idea", "add", text)
    found.call("note", "add", "the loss has a floor")
    found.words[found.words.index("--budget") + 1] = budget
    found.call("run")
    return found


def taken(found: Study) -> dict[str, tuple[str, int, str]]:
    """Idea -> operator, number and description of the experiment that took it."""
    rows = {row["number"]: row for row in found.rows()} | {None: {"operator": "none", "description": ""}}
    ideas = json.loads(found.call("idea", "ls", "--json").out)["ideas"]
    return {
        idea["text"]: (rows[idea["experiment"]]["operator"], idea["experiment"], rows[idea["experiment"]]["description"]) for idea in ideas
    }


def test_each_idea_in_a_wave_is_taken_by_a_row_that_holds_its_change_the_kept_one_where_there_is_one(tmp_path: Path) -> None:
    found = wave(tmp_path, {"first": edit("A", 1.0), "second": edit("B", -1.0), "third": edit("C", 1.5)}, "5")
    held = taken(found)
    kept = next(row["number"] for row in found.rows()[1:] if row["decision"] == "keep")
    assert (held["first"][1], held["second"][0], held["second"][1] != kept, held["third"][1]) == (kept, "wave", True, kept), held
    assert ["A = 1.0" in held["first"][2], "B = -1.0" in held["second"][2], "C = 1.5" in held["third"][2]] == [True] * 3
    remark = table(found, "SELECT number FROM brief_note JOIN note ON note.id = brief_note.note WHERE note.kind = 'remark' ORDER BY number")
    assert remark[:3] == [(2,), (3,), (4,)]


def test_an_idea_that_the_wave_supports_is_taken_along_into_the_version_that_holds_it_alone(tmp_path: Path) -> None:
    found = wave(tmp_path, {"first": edit("A", 1.0), "second": edit("B", -1.0), "third": edit("C", -1.5)}, "5")
    held = taken(found)
    assert (held["first"][0], held["second"][0], held["third"][0]) == ("combine", "wave", "wave"), held


def test_ideas_of_a_wave_that_was_void_are_taken_by_what_was_kept_of_it_and_by_the_changes_tried_alone(tmp_path: Path) -> None:
    ideas = {"first": edit("A", 1.0), "second": "sed -i 's/^B = .*/B = 1 \\/ 0/' train.py; echo broken B\n", "third": edit("C", 1.5)}
    found = wave(tmp_path, ideas, "8", "--repairs", "0")
    kept = next(row["number"] for row in found.rows()[1:] if row["decision"] == "keep")
    held = taken(found)
    assert (held["first"][1], held["second"][0], held["third"][1]) == (kept, "improve", kept), held
