"""The files of a plan: what is read from them, what is wrong with them, and in which order their tasks come."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight import plans
from overnight.plans import Plan, Task

REQUIREMENTS = "# R\n\n- R1: The trainer shall print its loss.\n- R2: When the loss is not finite,\n  the trainer shall stop.\n"
DECISION = "## Context\n## Options\n## Decision\n## Consequences\n"
TASKS = """\
# Tasks: a better pose

Goal: MPJPE below 25
Ideas: 1, 3

## T1 Bone loss

- depends: none
- files: losses.py, `train.py`
- new: tests/
- requirements: R1
- check: `python -m pytest -q`
- check: `python train.py --smoke, now`
- done: it is finite

Bones are rigid.

## Task T2: Augment
- **Depends on**: T1
- files:
  - aug.py
  - more/*.py
- covers: R2
- checks: `true`, `false`
"""


def read(tasks: str = TASKS, requirements: str = REQUIREMENTS, decision: str = DECISION) -> Plan:
    return plans.read({"tasks.md": tasks, "requirements.md": requirements, "decision.md": decision})[0]


def wrong(tasks: str, requirements: str = REQUIREMENTS) -> list[str]:
    plan, found = plans.read({"tasks.md": tasks, "requirements.md": requirements, "decision.md": DECISION})
    return [str(item) for item in (*found, *plans.problems(plan)) if item.fatal]


def gaps(tasks: str = TASKS, requirements: str = REQUIREMENTS, decision: str = DECISION) -> list[str]:
    return [str(item) for item in plans.gaps(read(tasks, requirements, decision))]


def one(name: str, *lines: str, files: str = "a.py") -> str:
    return "\n".join([f"## {name} x", f"- files: {files}", "- check: `true`", *lines, ""])


def test_a_task_is_read_with_all_its_fields() -> None:
    first, second = read().tasks
    assert (first.name, first.title, first.depends, first.files, first.new, first.requirements) == (
        "T1",
        "Bone loss",
        (),
        ("losses.py", "train.py"),
        ("tests/",),
        ("R1",),
    )
    assert (first.checks, first.done, first.text) == (
        ("python -m pytest -q", "python train.py --smoke, now"),
        "it is finite",
        "Bones are rigid.",
    )
    assert (second.name, second.title, second.depends, second.files, second.checks) == (
        "T2",
        "Augment",
        ("T1",),
        ("aug.py", "more/*.py"),
        ("true", "false"),
    )


def test_title_goal_ideas_and_requirements_are_read() -> None:
    plan = read()
    told = (plan.title, plan.goal, plan.ideas, [(each.name, each.text) for each in plan.requirements])
    assert told == (
        "a better pose",
        "MPJPE below 25",
        (1, 3),
        [("R1", "The trainer shall print its loss."), ("R2", "When the loss is not finite, the trainer shall stop.")],
    )


def test_a_good_plan_has_neither_problems_nor_gaps() -> None:
    assert (wrong(TASKS), gaps()) == ([], [])


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        (one("T1", "- depends: T3") + one("T2"), ["tasks.md:4: T1 depends on 'T3', which is no task; there are T1, T2"]),
        (one("Train1", "- depends: Trian2") + one("Train2"), ["tasks.md:4: Train1 depends on 'Trian2', which is no task; did you mean 'Train2'?"]),
        (one("T1", "- depends: T3") + one("T2", "- depends: T1") + one("T3", "- depends: T2"), ["tasks.md:4: tasks wait for each other: T1 → T3 → T2 → T1"]),
        (one("T1", "- depends: T1"), ["tasks.md:4: tasks wait for each other: T1 → T1"]),
        ("## T1 x\n- files: a.py\n", ["tasks.md:1: T1 has no check: add a line such as  - check: `pytest -q`"]),
        ("## T1 x\n- check: true\n", ["tasks.md:1: T1 names no files: add a line such as  - files: train.py"]),
        (one("T1") + one("t1"), ["tasks.md:4: there are two tasks t1; the other one is in line 1"]),
        (one("T1", "- fiels: b.py"), ["tasks.md:4: T1 has no field 'fiels'; did you mean 'files'?"]),
        (one("T1", files="../x, .git/config, /etc/passwd, a/.GIT/b, ."), [
            "tasks.md:2: T1 may not touch '../x': it leads out of the repository", "tasks.md:2: T1 may not touch '.git/config': it is not part of the code",
            "tasks.md:2: T1 may not touch '/etc/passwd': paths begin at the top of the repository", "tasks.md:2: T1 may not touch 'a/.GIT/b': it is not part of the code",
            "tasks.md:2: T1 may not touch '.': it names no file",
        ]),
        ("- files: a.py\n" + one("T1"), ["tasks.md:1: 'files' belongs to no task: a task begins with a line such as  ## T1 title"]),
        ("", ["tasks.md: there is no task: one begins with a line such as  ## T1 title"]),
    ],
)  # fmt: skip
def test_a_bad_edit_is_told_with_its_line(tasks: str, told: list[str]) -> None:
    assert wrong(tasks) == told


def test_the_example_in_the_documents_is_a_plan() -> None:
    page = (Path(__file__).parents[1] / "docs" / "planning.md").read_text(encoding="utf-8")
    example = page.partition("```markdown\n")[2].partition("```")[0]
    task = read(example).tasks[0]
    assert (wrong(example), task.new, task.checks) == ([], ("tests/",), ("python -m pytest -q tests/test_losses.py",))


def test_a_file_that_is_missing_is_told() -> None:
    assert [str(item) for item in plans.read({"tasks.md": one("T1")})[1]] == [
        "requirements.md: the file is missing",
        "decision.md: the file is missing",
    ]


def test_gaps_are_told_and_keep_nobody_from_working() -> None:
    requirements = "- R1: The trainer shall print.\n- R2: Make it fast.\n- just a wish\n"
    told = gaps(one("T1", "- requirements: R1, R9") + one("T2"), requirements, "## Context\n")
    assert told == [
        "decision.md: it has no part about options, decision, consequences",
        "requirements.md:2: R2 is no EARS sentence (The <system> shall …; or While, When, Where …, the <system> shall …; or If …, then the <system> shall …)",
        "requirements.md:2: R2 has no task",
        "tasks.md:4: T1 names the requirement 'R9', which is not there; there are R1, R2",
        "tasks.md:6: T1 and T2 both touch a.py and do not wait for each other",
    ]


def test_tasks_that_wait_for_each_other_by_way_of_others_may_share_a_file() -> None:
    three = one("T1", "- requirements: R1, R2") + one("T2", "- depends: T1", files="b.py") + one("T3", "- depends: T2")
    assert gaps(three) == []


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("The trainer shall print its loss.", "ubiquitous"), ("When it is asked, the trainer shall stop.", "event"), ("While it trains, the trainer shall not swap.", "state"),
        ("Where a GPU is there, the trainer shall use it.", "option"), ("If the loss is nan, then the trainer shall stop.", "unwanted"),
        ("While it trains, when it is asked, the trainer shall save.", "complex"), ("WHEN a, b or c come, THE trainer SHALL stop.", "event"),
        ("If the loss is nan, the trainer shall stop.", ""), ("The trainer should stop.", ""), ("Make it fast.", ""), ("Stop, the trainer shall.", ""),
        ("Because it is slow, the trainer shall stop.", ""), ("", ""), ("shall", ""),
    ],
)  # fmt: skip
def test_the_form_of_a_requirement_is_known(text: str, form: str) -> None:
    assert plans.kind(text) == form


def test_each_task_comes_after_what_it_depends_on() -> None:
    chance = random.Random(1)
    names = [f"T{number}" for number in range(200)]
    tasks = {name: [] if at == 0 else chance.sample(names[:at], min(at, chance.randrange(3))) for at, name in enumerate(names)}
    shuffled = chance.sample(names, len(names))
    plan = read("".join(one(name, f"- depends: {', '.join(tasks[name]) or 'none'}") for name in shuffled))
    place = {task.name: at for at, task in enumerate(plans.order(plan))}
    assert len(place) == 200
    assert [(name, other) for name in names for other in tasks[name] if place[other] > place[name]] == []


def test_two_thousand_tasks_in_a_row_are_checked_and_one_more_is_refused() -> None:
    rows = [one(f"T{number}", f"- depends: T{number - 1}" if number else "") for number in range(2001)]
    assert (wrong("".join(rows[:-1])), len(wrong("".join(rows)))) == ([], 1)


def test_a_ring_of_a_thousand_tasks_is_told_in_one_line() -> None:
    rows = [one(f"T{number}", f"- depends: T{(number + 1) % 1000}") for number in range(1000)]
    assert wrong("".join(rows))[0].startswith("tasks.md:4: tasks wait for each other: T0 → T1 → T2")


def test_control_characters_never_come_through() -> None:
    task = read("## T1 a\x1b[31mb\u202e\n- files: a\x07.py\n- check: `echo \x1b]0;x\x07`\n").tasks[0]
    assert (task.title, task.files, task.checks) == ("ab<U+202E>", ("a.py",), ("echo",))


PARTS = st.sampled_from(
    [
        "## T1 x",
        "## ",
        "- depends: T1",
        "- files: a",
        "- check: `",
        "  - ",
        "```",
        "~~~",
        "- R1: The a shall b",
        "\0",
        "Goal:",
        "Ideas: 9",
        "# ",
        "T1",
        "\u2028",
        "-" * 50,
    ]
)


@settings(deadline=None, database=None)
@given(st.lists(PARTS | st.text(max_size=30), max_size=40).map("\n".join))
def test_any_text_is_read_and_checked(text: str) -> None:
    plan, _ = plans.read(dict.fromkeys(plans.FILES, text))
    bad = plans.problems(plan)
    plans.gaps(plan)
    assert all(isinstance(task, Task) for task in plans.order(plan))
    assert bad or len(plans.order(plan)) == len(plan.tasks)
