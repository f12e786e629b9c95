"""What is wrong with a plan, and what is missing in it; and the order in which its tasks can be done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from overnight.errors import nearest
from overnight.plans.ears import kind
from overnight.plans.reading import DECISION, REQUIREMENTS, TASKS
from overnight.plans.records import Plan, Problem, Task
from overnight.printable import one_line

MOST = 2000  # tasks of a plan
_LONGEST = 4000  # characters of a command
_PAIRS = 20  # of tasks that may conflict; more are not told


def problems(plan: Plan) -> list[Problem]:
    """Everything that keeps the plan from being carried out, in the order of the file."""
    found = [*_tasks(plan), *_names(plan), *_cycle(plan)]
    return sorted(found, key=lambda item: item.line)


def _tasks(plan: Plan) -> Iterator[Problem]:
    if not plan.tasks:
        yield Problem(TASKS, 0, "there is no task: one begins with a line such as  ## T1 title")
    if len(plan.tasks) > MOST:
        yield Problem(TASKS, plan.tasks[MOST].line, f"there are {len(plan.tasks)} tasks; {MOST} at most can be carried out as one plan")
    for task in plan.tasks:
        if not task.checks:
            yield Problem(TASKS, task.line, f"{task.name} has no check: add a line such as  - check: `pytest -q`")
        if not task.files and not task.new:
            yield Problem(TASKS, task.line, f"{task.name} names no files: add a line such as  - files: train.py")
        yield from _paths(task)
        for check in task.checks:
            if len(check) > _LONGEST:
                yield Problem(TASKS, task.at("check"), f"a check of {task.name} has {len(check)} characters; put it into a script")


def _paths(task: Task) -> Iterator[Problem]:
    for name, paths in (("files", task.files), ("new", task.new)):
        for path in paths:
            if why := _unfit(path):
                yield Problem(TASKS, task.at(name), f"{task.name} may not touch '{one_line(path, 80)}': {why}")


def _unfit(path: str) -> str:
    """Why a path or pattern cannot be a task's; empty if it can."""
    parts = path.removeprefix("./").rstrip("/").split("/")
    if path.startswith(("/", "~")):
        return "paths begin at the top of the repository"
    if ".." in parts:
        return "it leads out of the repository"
    if any(part.lower() in (".git", ".overnight") for part in parts):
        return "it is not part of the code"
    if not path.strip("./") or any(part in ("", ".") for part in parts):
        return "it names no file"
    return ""


def _names(plan: Plan) -> Iterator[Problem]:
    seen: dict[str, Task] = {}
    for task in plan.tasks:
        if first := seen.get(task.name.casefold()):
            yield Problem(TASKS, task.line, f"there are two tasks {task.name}; the other one is in line {first.line}")
        seen.setdefault(task.name.casefold(), task)
    for task in plan.tasks:
        for name in task.depends:
            if name.casefold() not in seen:
                known = [each.name for each in plan.tasks]
                yield Problem(
                    TASKS, task.at("depends"), f"{task.name} depends on '{one_line(name, 60)}', which is no task{_instead(name, known)}"
                )


def _instead(name: str, known: Sequence[str]) -> str:
    """The nearest name, or those that there are."""
    return nearest(name, known) or (f"; there are {', '.join(known[:8])}{' and more' if len(known) > 8 else ''}" if known else "")


def _cycle(plan: Plan) -> Iterator[Problem]:
    """One cycle, as a path, for each group of tasks that wait for each other."""
    after = _after(plan)
    state: dict[str, int] = {}  # 1 = on the path, 2 = done with
    names = {task.name.casefold(): task for task in plan.tasks}
    for start in after:
        if start in state:
            continue
        path, stack = [start], [iter(after[start])]
        state[start] = 1
        while stack:
            step = next(stack[-1], None)
            if step is None:
                state[path.pop()] = 2
                stack.pop()
            elif state.get(step) == 1:
                ring = [*path[path.index(step) :], step]
                task = names[step]
                told = " → ".join(names[each].name for each in (ring if len(ring) < 12 else [*ring[:6], *ring[-5:]]))
                yield Problem(TASKS, task.at("depends"), f"tasks wait for each other: {told}")
                return
            elif step not in state:
                state[step] = 1
                path.append(step)
                stack.append(iter(after[step]))


def _after(plan: Plan) -> dict[str, list[str]]:
    """What each task waits for, by names in lower case; what is not there is left out."""
    known = {task.name.casefold() for task in plan.tasks}
    found: dict[str, list[str]] = {}
    for task in plan.tasks:
        found.setdefault(task.name.casefold(), [name.casefold() for name in task.depends if name.casefold() in known])
    return found


def order(plan: Plan) -> list[Task]:
    """The tasks so that each comes after all that it depends on, otherwise as in the file. Only for a plan without problems."""
    after = {name: set(others) for name, others in _after(plan).items()}
    waiting: dict[str, list[str]] = {}
    for name, others in after.items():
        for other in others:
            waiting.setdefault(other, []).append(name)
    by_name = {task.name.casefold(): task for task in plan.tasks}
    ready = [name for name, others in after.items() if not others]
    found: list[Task] = []
    for name in ready:  # grows while it is read
        found.append(by_name[name])
        for other in waiting.get(name, ()):
            after[other].discard(name)
            if not after[other]:
                ready.append(other)
    return found


def gaps(plan: Plan) -> list[Problem]:
    """What a careful reader would ask about: none of it keeps the plan from being carried out."""
    found = [*_requirements(plan), *_decision(plan), *_conflicts(plan)]
    return sorted(found, key=lambda item: (item.file, item.line))


def _requirements(plan: Plan) -> Iterator[Problem]:
    names = {each.name.casefold() for each in plan.requirements}
    covered = {name.casefold() for task in plan.tasks for name in task.requirements}
    if not plan.requirements:
        yield Problem(REQUIREMENTS, 0, "there is no requirement: write lines such as  - R1: The trainer shall print its loss.", fatal=False)
    for each in plan.requirements:
        if not kind(each.text):
            why = "is no EARS sentence (The <system> shall …; or While, When, Where …, the <system> shall …; or If …, then the <system> shall …)"
            yield Problem(REQUIREMENTS, each.line, f"{each.name} {why}", fatal=False)
        if each.name.casefold() not in covered:
            yield Problem(REQUIREMENTS, each.line, f"{each.name} has no task", fatal=False)
    for task in plan.tasks:
        for name in task.requirements:
            if name.casefold() not in names:
                told = _instead(name, [each.name for each in plan.requirements])
                yield Problem(
                    TASKS,
                    task.at("requirements"),
                    f"{task.name} names the requirement '{one_line(name, 60)}', which is not there{told}",
                    fatal=False,
                )


def _decision(plan: Plan) -> Iterator[Problem]:
    text = plan.decision.casefold()
    missing = [
        word
        for word in ("context", "options", "decision", "consequences")
        if not any(line.startswith("#") and word in line for line in text.split("\n"))
    ]
    if missing:
        yield Problem(DECISION, 0, f"it has no part about {', '.join(missing)}", fatal=False)


def _conflicts(plan: Plan) -> Iterator[Problem]:
    """Tasks that may run at once and name the same file."""
    above = _above(plan)
    by_file: dict[str, list[Task]] = {}
    for task in plan.tasks:
        for path in task.files:
            by_file.setdefault(path, []).append(task)
    told: set[tuple[str, str]] = set()
    for path, tasks in by_file.items():
        for one, other in _pairs(tasks):
            names = (one.name.casefold(), other.name.casefold())
            if names in told or names[0] in above[names[1]] or names[1] in above[names[0]]:
                continue
            told.add(names)
            yield Problem(
                TASKS,
                other.at("files"),
                f"{one.name} and {other.name} both touch {one_line(path, 80)} and do not wait for each other",
                fatal=False,
            )
            if len(told) >= _PAIRS:
                return


def _pairs(tasks: Sequence[Task]) -> Iterator[tuple[Task, Task]]:
    for at, one in enumerate(tasks[:50]):
        for other in tasks[at + 1 : 50]:
            if one.name.casefold() != other.name.casefold():
                yield one, other


def _above(plan: Plan) -> dict[str, set[str]]:
    """Everything that each task waits for, also by way of others."""
    found: dict[str, set[str]] = {name: set() for name in _after(plan)}
    after = _after(plan)
    for task in order(plan):
        name = task.name.casefold()
        for other in after[name]:
            found[name] |= {other} | found[other]
    return found
