"""``overnight plan``: asked, criticised, revised once, written beside the person's own files, checked again after edits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import studies
from overnight.testing import git
from planned import DECISION, REQUIREMENTS, task
from studies import ended  # noqa: F401 - a fixture that every test gets

GOOD = f"# Tasks: better\n\n{task('T1', 'train.py')}"
# Drafts come from out/draft.1, out/draft.2 …; the critique is out/critique.
AGENT = """\
folder=$(dirname "$(echo "$OVERNIGHT_EDITABLE" | head -1)")
n=$(($(cat {out}/asked 2>/dev/null || echo 0) + 1)); echo $n > {out}/asked
cp "$OVERNIGHT_BRIEF" {out}/told.$n
case "$OVERNIGHT_EDITABLE" in
*critique.md) cp {out}/critique "$folder/critique.md" ;;
*) d=$(($(cat {out}/drafts 2>/dev/null || echo 0) + 1)); echo $d > {out}/drafts
   cp {out}/requirements.md {out}/decision.md "$folder"; cp {out}/draft.$d "$folder/tasks.md" ;;
esac
echo HYPOTHESIS: planned
"""


def repository(folder: Path, *drafts: str, critique: str = "no gaps\n") -> studies.Study:
    """A repository with an idea in its queue, and an agent with these versions of the tasks."""
    made = studies.study(folder, files={"train.py": "print('@loss=1')\n"}, agent=AGENT)
    (made.out / "ideas.sh").write_text('echo \'{"title": "Warm restarts", "files": ["train.py"]}\' > overnight-ideas.jsonl\n')
    done = made.call("ideas", "loss from 1 to below 0.5", "--unsafe-no-sandbox", "--proposer-command", f"sh {made.out}/ideas.sh")
    assert done.code == 0, done
    for name, text in {
        "critique": critique,
        "requirements.md": REQUIREMENTS,
        "decision.md": DECISION,
        **{f"draft.{n}": text for n, text in enumerate(drafts, 1)},
    }.items():
        (made.out / name).write_text(text)
    return made


def plan(made: studies.Study, *words: str) -> studies.Done:
    return made.call("plan", "--unsafe-no-sandbox", "--proposer-command", f"sh {made.out}/agent.sh", *words)


def folder(made: studies.Study, name: str = "warm-restarts") -> Path:
    return made.root / "plans" / name


def test_the_files_of_the_plan_lie_in_the_checkout(tmp_path: Path) -> None:
    made = repository(tmp_path, GOOD)
    done = plan(made)
    assert (done.code, sorted(path.name for path in folder(made).iterdir())) == (
        0,
        ["critique.md", "decision.md", "requirements.md", "tasks.md"],
    )
    head = "# Tasks: better\n\nGoal: loss from 1 to below 0.5\nIdeas: 1\n\n## T1 Do T1\n"
    assert ((folder(made) / "tasks.md").read_text()[: len(head)], git(made.root, "diff", "--cached", "--name-only")) == (
        head,
        "notes.txt\n",
    )
    assert "Warm restarts (touches train.py)" in (made.out / "told.1").read_text()


def test_gaps_go_back_once_and_are_written_down(tmp_path: Path) -> None:
    made = repository(tmp_path, GOOD.replace("R1", "R7"), GOOD, critique="# Critique\n- tasks.md, T1: nothing checks the value\n")
    told = json.loads(plan(made, "--json").out)
    found = [
        "requirements.md:3: R1 has no task",
        "tasks.md:10: T1 names the requirement 'R7', which is not there; there are R1",
        "tasks.md, T1: nothing checks the value",
    ]
    assert (told["critique"], told["problems"]) == ([line.replace(":10", ":7") for line in found], [])
    assert [line for line in (folder(made) / "critique.md").read_text().splitlines() if line.startswith("- ")] == [
        f"- {line}" for line in told["critique"]
    ]
    assert all(line in (made.out / "told.3").read_text() for line in told["critique"])


def test_a_draft_that_cannot_be_carried_out_is_asked_for_again_with_its_places(tmp_path: Path) -> None:
    made = repository(tmp_path, GOOD.replace("none", "T5"), GOOD)
    assert (plan(made).code, "tasks.md:5: T1 depends on 'T5', which is no task; there are T1" in (made.out / "told.2").read_text()) == (
        0,
        True,
    )


def test_garbage_twice_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    made = repository(tmp_path, "\0garbage", "x" * 2_000_000)
    done = plan(made)
    assert (done.code, "error[E-AGENT-GARBAGE]" in done.err, folder(made).exists()) == (1, True, False)


def test_a_persons_plan_is_never_written_over_unless_it_is_said(tmp_path: Path) -> None:
    made = repository(tmp_path, *[GOOD] * 4)
    plan(made)
    mine = folder(made) / "tasks.md"
    mine.write_text("mine\n")
    plan(made)
    plan(made, "--name", "warm-restarts")
    kept = mine.read_text()
    plan(made, "--name", "warm-restarts", "--force")
    names = sorted(path.name for path in (made.root / "plans").iterdir())
    assert (kept, names, mine.read_text()[:7]) == ("mine\n", ["warm-restarts", "warm-restarts-2", "warm-restarts-3"], "# Tasks")


def test_edits_by_hand_are_checked_with_file_and_line(tmp_path: Path) -> None:
    made = repository(tmp_path, GOOD)
    plan(made)
    path = folder(made) / "tasks.md"
    path.write_text(path.read_text().replace("- depends: none", "- depends: T1").replace("R1", "R2"))
    done = made.call("plan", "--check")
    assert (done.code, done.out.splitlines()[:3]) == (2, [
        "plans/warm-restarts/tasks.md:8: tasks wait for each other: T1 → T1", "plans/warm-restarts/requirements.md:3: R1 has no task",
        "plans/warm-restarts/tasks.md:10: T1 names the requirement 'R2', which is not there; there are R1",
    ])  # fmt: skip


@pytest.mark.parametrize(("words", "code"), [(("--check",), "E-NO-PLAN"), (("99",), "E-NO-IDEA")])
def test_what_is_not_there_is_not_found(words: tuple[str, ...], code: str, tmp_path: Path) -> None:
    done = plan(repository(tmp_path, GOOD), *words)
    assert (done.code, f"error[{code}]" in done.err) == (3, True)


def test_control_characters_of_an_agent_do_not_reach_the_files(tmp_path: Path) -> None:
    made = repository(tmp_path, GOOD.replace("better", "\x1b[31mbetter\x07\u202e"))
    plan(made)
    assert (folder(made) / "tasks.md").read_text().split("\n")[0] == "# Tasks: better<U+202E>"


def test_a_plan_that_is_no_text_is_told_not_thrown(tmp_path: Path) -> None:
    made = repository(tmp_path, GOOD)
    folder(made, "odd").mkdir(parents=True)
    (folder(made, "odd") / "tasks.md").write_bytes(bytes(range(256)) * 9000)
    (folder(made, "odd") / "decision.md").mkdir()
    codes = [made.call("plan", "--check", "--name", name).code for name in ("odd", "od", "../..")]
    assert codes == [2, 3, 3]
