"""``note``, ``idea`` and ``brief`` as a person types them, over one small night, and what the loop makes of them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from noisy import edit, noisy
from overnight.notes import Source
from overnight.store import Store
from studies import Study, ended, study, until  # noqa: F401 - ended is used by every test

STEPS = {
    1: "better 0.5",
    2: "echo 'raise ValueError(42)' > train.py; echo 'a gamble on warmup'",
    3: "echo \"print('@loss=0.7')\" > train.py; echo 'a cosine schedule'",
}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A baseline, a keep, a crash and a discard."""
    found = study(tmp_path_factory.mktemp("night"), STEPS, "--budget", "3", "--repairs", "0")
    done = found.call("run")
    assert done.code == 0, done
    return found


def told(found: Study, *words: str) -> Any:
    """What a verb gives to programs."""
    done = found.call(*words, "--json")
    assert done.code == 0, done
    return json.loads(done.out)


def notes(found: Study) -> list[tuple[int, str, str]]:
    return [(row["experiment"], row["kind"], row["text"]) for row in told(found, "note", "ls")["notes"] if row["source"] == "experiment"]


LESSONS = [
    (1, "win", "baseline | loss 1, kept: baseline; one run, so nothing is known of the noise"),
    (2, "win", "loss 0.5 | loss 0.5, kept: better than #1 by 0.5"),
    (3, "failure", "a gamble on warmup | crashed [error:ValueError]: ValueError: 42"),
    (4, "dead-end", "a cosine schedule | loss 0.7, discarded: worse than #2 by 0.2"),
]


def test_every_settled_experiment_has_its_note(night: Study) -> None:
    assert notes(night) == LESSONS


def test_a_search_says_how_the_notes_are_tied(night: Study) -> None:
    rows = told(night, "note", "search", 'WARMUP OR "cosine*')["notes"]
    assert sorted((row["experiment"], row["snippet"][:25], [edge["experiment"] for edge in row["edges"]]) for row in rows) == [
        (3, "a gamble on [warmup] | cr", [2]),
        (4, "a [cosine] schedule | los", [2]),
    ]


def test_a_note_is_written_down_found_and_taken_back(night: Study) -> None:
    made = told(night, "note", "add", "head width matters", "--experiment", "2")["note"]
    found = [row["id"] for row in told(night, "note", "search", "heads")["notes"]]
    shown = night.call("note", "ls", "--experiment", "2").out.splitlines()[-1]
    gone = told(night, "note", "retract", str(made["id"]))["note"]["retracted"]
    left = told(night, "note", "search", "heads")["notes"]
    assert (made["source"], made["experiment"], found, left, gone is not None) == ("person", 2, [made["id"]], [], True)
    assert shown.split("  ")[-1] == "head width matters"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("note", "add", "  "), "E-NO-TEXT"),
        (("note", "add", "x" * 4001), "E-LONG-TEXT"),
        (("note", "add", "x", "--experiment", "99"), "E-NO-EXPERIMENT"),
        (("note", "retract", "99"), "E-NO-NOTE"),
        (("note", "retract", "x"), "E-USAGE"),
        (("note", "lss"), "E-USAGE"),
        (("idea", "add", ""), "E-NO-TEXT"),
        (("idea", "veto", "99"), "E-NO-IDEA"),
        (("idea", "up", str(2**70)), "E-NO-IDEA"),
        (("brief", "--operator", "combine"), "E-NO-WINS"),
        (("brief", "--operator", "dream"), "E-USAGE"),
        (("brief", "--tag", "other"), "E-NO-STUDY"),
    ],
)
def test_what_cannot_be_is_said(night: Study, words: tuple[str, ...], code: str) -> None:
    done = night.call(words[0], *words[1:], "--json")
    assert (json.loads(done.out)["error"]["code"], done.code in (2, 3), done.err.startswith(f"error[{code}]: ")) == (code, True, True)


@pytest.mark.parametrize("words", [("note", "ls"), ("note", "add", "x"), ("idea", "ls"), ("idea", "add", "x"), ("brief",)])
def test_without_a_study_there_is_nothing_to_know(tmp_path: Path, words: tuple[str, ...]) -> None:
    found = study(tmp_path)
    done = found.call(words[0], *words[1:])
    assert (done.code, done.err.splitlines()[0].split(":")[0], (found.root / ".overnight").exists()) == (3, "error[E-NO-STUDY]", False)


def test_the_brief_of_a_repair_shows_the_end_of_the_log(night: Study) -> None:
    found = told(night, "brief", "--operator", "debug")
    body = found["text"].split("~~~~~~\n")[1]
    assert (found["text"].split("## The crash of ")[1][:2], body.splitlines()[-1], found["bytes"]) == (
        "#3", "ValueError: 42", len(found["text"].encode()),
    )  # fmt: skip


def test_the_brief_that_is_shown_is_the_one_that_the_next_proposer_gets(tmp_path: Path) -> None:
    found = study(tmp_path, STEPS, "--budget", "2", "--repairs", "0", files={"program.md": "Be bold.\n"})
    found.call("run")
    found.call("idea", "add", "try a P2 head", "--pin")
    found.call("idea", "add", "later")
    found.call("note", "add", "the loss has a floor")
    found.words[found.words.index("--budget") + 1] = "3"
    shown = found.call("brief")
    done = found.call("run")
    given = (found.out / "brief.3").read_text()
    asked = [line for line in given.splitlines() if line.startswith(("The person asks", "- the loss has", "Be bold", "- later"))]
    left = [line.replace("0 experiments", "1 experiments") for line in shown.out.splitlines()]  # the old budget is still in the record
    assert (done.code, given.splitlines() == left) == (0, True), (given, shown)
    assert asked == ["The person asks for this: try a P2 head", "- the loss has a floor", "- later", "Be bold."]


def test_the_experiment_that_took_an_idea_and_the_notes_it_was_told_are_recorded(tmp_path: Path) -> None:
    found = study(tmp_path, STEPS, "--budget", "1", "--repairs", "0")
    found.call("run")
    remark = told(found, "note", "add", "the loss has a floor")["note"]["id"]
    ideas = [told(found, "idea", "add", text)["idea"]["id"] for text in ("a", "b")]
    found.call("idea", "up", str(ideas[1]))
    found.words[found.words.index("--budget") + 1] = "2"
    found.call("run")
    rows = [(row["id"], row["state"], row["experiment"], row["decision"]) for row in told(found, "idea", "ls")["ideas"]]
    with contextlib.closing(Store(found.root / ".overnight" / "overnight.db", readonly=True)) as store:
        taught = store.taught(remark)
    assert (rows, taught) == ([(ideas[1], "taken", 3, "crash"), (ideas[0], "open", None, None)], [3])
    assert found.call("idea", "ls").out.splitlines()[0].split() == [str(ideas[1]), "#3", "crash", "b"]


def test_an_idea_that_is_added_while_the_loop_runs_is_taken_up_at_the_next_proposal(tmp_path: Path) -> None:
    found = study(tmp_path, {}, "--budget", "2")
    found.gate(1, 0.5)
    loop = found.spawn(found.command("run"))
    found.waiting()
    added = found.call("idea", "add", "try a P2 head", "--pin")
    found.open_gate()
    assert (added.code, loop.wait(60), "The person asks for this: try a P2 head" in (found.out / "brief.2").read_text()) == (0, 0, True)
    assert ("The person asks" in (found.out / "brief.1").read_text(), found.faults()) == (False, [])


@pytest.mark.parametrize("noted", [True, False], ids=["after the note", "before the note"])
def test_a_loop_that_was_killed_while_it_applied_a_decision_notes_it_once(tmp_path: Path, noted: bool) -> None:
    found = study(tmp_path, STEPS, "--budget", "3", "--repairs", "0")
    found.call("run")
    with contextlib.closing(sqlite3.connect(found.root / ".overnight" / "overnight.db")) as db, db:
        db.execute("UPDATE experiment SET stage='decided' WHERE number=4")
        if not noted:
            db.execute("DELETE FROM note WHERE experiment=4")
    done = found.call("run")
    assert (done.code, notes(found), found.faults()) == (0, LESSONS, [])


def test_notes_of_an_earlier_study_of_the_project_are_told_to_the_next(tmp_path: Path) -> None:
    found = study(tmp_path, STEPS, "--budget", "3", "--repairs", "0")
    found.call("run")
    found.words[found.words.index("t")] = "second"
    for each in found.out.glob("turn.*"):
        each.rmdir()
    found.words[0:0] = ["--goal", "a cosine schedule that helps"]
    found.call("run", "--budget", "1")
    section = (found.out / "brief.1").read_text().split("Dead ends near this:\n")[1].split("\n\n")[0]
    assert section.splitlines()[0] == "- t #4 a cosine schedule | loss 0.7, discarded: worse than #2 by 0.2"


def test_a_record_that_cannot_be_written_is_still_read(night: Study) -> None:
    with contextlib.closing(Store(night.root / ".overnight" / "overnight.db", readonly=True)) as store:
        assert [note.source for note in store.notes(store.study().id, last=1, sources=(Source.EXPERIMENT,))] == [Source.EXPERIMENT]


def test_help_names_what_a_group_can_do(night: Study) -> None:
    found = [night.call("note", "--help"), night.call("idea")]
    assert [word in found[0].out for word in ("add", "ls", "search", "retract")] == [True] * 4
    assert (found[0].code, [word in found[1].out + found[1].err for word in ("add", "ls", "veto", "up", "done")]) == (0, [True] * 5)


def test_the_loop_ends_when_the_agent_never_takes_the_idea(tmp_path: Path) -> None:
    found = study(tmp_path, dict.fromkeys(range(1, 6), "echo nothing"), "--budget", "4")
    found.call("run", "--budget", "0")
    found.call("idea", "add", "do the impossible")
    found.words[found.words.index("--budget") + 1] = "4"
    done = found.call("run")
    row = told(found, "idea", "ls")["ideas"][0]
    assert (done.code, row["state"], row["tries"]) == (0, "taken", 3)
    assert until(lambda: found.faults() == [])


def test_the_brief_of_a_searched_study_says_what_the_search_knows(tmp_path: Path) -> None:
    found = study(
        tmp_path, {}, "--budget", "3", files={"train.py": "LR = 0.1\nWIDTH = 8\nprint(f'@loss={abs(LR - 0.3) + WIDTH / 1000}')\n"}
    )
    place = found.words.index("--proposer-command")
    found.words[place : place + 2] = ["--proposer", "optuna"]
    found.call("run")
    waits = found.call("idea", "add", "for an agent").out
    section = found.call("brief").out.split("## What the search over the constants knows\n\n")[1].split("\n\n")[0]
    heads = [line.split(" =")[0] for line in section.splitlines()[1:]]
    found.words[found.words.index("--budget") + 1] = "4"
    done = found.call("run")
    assert (done.code, heads, told(found, "idea", "ls")["ideas"][0]["state"]) == (0, ["- train.py:LR", "- train.py:WIDTH"], "open")
    assert waits == "idea 1 waits for a proposer that reads briefs (optuna does not): for an agent\n"


def test_a_retest_is_noted_with_its_word(tmp_path: Path) -> None:
    found = study(tmp_path, {}, "--budget", "1")
    found.call("run")
    done = found.call("retest", "2", "--runs", "1")
    rows = [(row["kind"], row["text"].split(" | ")[0], row["edges"]) for row in told(found, "note", "ls", "--experiment", "2")["notes"]]
    lesson = told(found, "note", "ls", "--experiment", "2")["notes"][0]["id"]
    assert (done.code, [row[0] for row in rows], rows[1][1].split(", ")[0]) == (0, ["win", "retest"], "re-test of #2: confirmed"), done
    assert [(edge["kind"], edge["note"]) for edge in rows[1][2]] == [("reproduces", lesson)]


def test_an_idea_is_asked_for_again_when_the_agent_was_down(tmp_path: Path) -> None:
    found = study(tmp_path, {1: "better 0.5", 2: "echo 'error 529: overloaded'; exit 1"}, "--budget", "2")
    found.call("run", "--budget", "1")
    found.call("idea", "add", "try a P2 head")
    done = found.call("run")
    asked = ["try a P2 head" in (found.out / f"brief.{number}").read_text() for number in (2, 3)]
    row = told(found, "idea", "ls")["ideas"][0]
    assert (done.code, asked, row["state"], row["experiment"], row["tries"]) == (0, [True, True], "taken", 3, 1)


def test_a_keep_that_an_audit_refutes_is_contradicted_by_its_re_test_and_by_what_takes_it_back(tmp_path: Path) -> None:
    found = noisy(tmp_path, {3: edit("LUCK", 0.55)}, "--budget", "18", "--profile", "fast")
    done = found.call("run")
    lucky = next(row for row in found.rows() if row["description"] == "LUCK = 0.55")
    rows = told(found, "note", "ls", "--last", "0")["notes"]
    lesson, again = (row for row in rows if row["experiment"] == lucky["number"])
    back = next(row["id"] for row in rows if row["experiment"] == lucky["reverted"])
    at_odds = sorted(edge["note"] for edge in lesson["edges"] if edge["kind"] == "contradicts")
    assert (again["kind"], "contradicted" in again["text"], at_odds) == ("retest", True, sorted([again["id"], back])), done
    brief = found.call("brief").out
    assert [f"#{lucky['number']} LUCK = 0.55" in line for line in brief.splitlines() if " BUT " in line][:2] == [True, True], brief
