"""``overnight plan``: the files of a plan in the checkout, made by an agent, checked by us, edited by a person, read anew before use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overnight import planning
from overnight.app import researching
from overnight.app.options import Options
from overnight.app.researching import Desk
from overnight.app.suggest import detail_of, goal_of
from overnight.errors import NotFoundError, StorageError, UsageError, nearest
from overnight.goals import Goal
from overnight.notes import QueuedIdea
from overnight.plans import FILES, TASKS, Plan, Problem, Progress, Task, Work
from overnight.printable import moment, one_line
from overnight.settings import Settings

FOLDER = "plans"
CRITIQUE = "critique.md"
_TOP = 3  # ideas that are planned when none is named
_LARGEST = 2**20  # bytes of a file of a plan
_SHOWN = 30  # problems in an error


@dataclass(frozen=True, slots=True)
class Files:
    """A plan as it lies in the checkout, and what is wrong with it or missing."""

    slug: str
    folder: Path
    plan: Plan
    problems: tuple[Problem, ...]

    @property
    def fatal(self) -> tuple[Problem, ...]:
        """What keeps it from being carried out."""
        return tuple(item for item in self.problems if item.fatal)


@dataclass(frozen=True, slots=True)
class Made:
    """A plan that was made: its files, what was found in its first version, and what it has cost."""

    files: Files
    critique: tuple[str, ...]
    agent: str
    tokens: int
    cost: float


def make(options: Options, wanted: Sequence[int], say: Callable[[str], None], where: tuple[str, bool], tag: str = "") -> Made:
    """Plan the ideas ``wanted`` (none = the first of the queue). ``where`` is a name (empty = of the first idea), and whether to overwrite.

    Raises ``UsageError``, ``NotFoundError``, ``ProposalError``, ``StorageError``.
    """
    name, force = where
    with researching.opened(options, say, tag) as desk:
        chosen = _chosen(desk, wanted)
        researching.whom(desk.settings, options.environ, "plan")
        goal = next((found for idea in chosen if (found := goal_of(idea))), None) or researching.understood(desk, "")
        top = desk.workspace.root / FOLDER
        slug = _slug(name or str(detail_of(chosen[0]).get("title") or chosen[0].text), top, force=bool(name) and force)
        for idea in chosen:
            say(f"idea {idea.id}: {one_line(idea.text, 160)}")
        with researching.asker(desk, "plan", say) as asker:
            lines = [_told(idea) for idea in chosen]
            drafted = planning.draft(asker, desk.base, goal, desk.ground(), (lines, f"{FOLDER}/{slug}"), say)
        texts = {**drafted.texts, TASKS: _headed(drafted.texts[TASKS], goal, chosen), CRITIQUE: _critique(drafted.critique)}
        _write(top / slug, texts, force=bool(name) and force)
        return Made(load(desk.workspace.root, slug, desk.settings), drafted.critique, drafted.agent, drafted.tokens, drafted.cost)


def _chosen(desk: Desk, wanted: Sequence[int]) -> list[QueuedIdea]:
    if wanted:
        return [desk.store.idea(desk.study.id, number) for number in dict.fromkeys(wanted)]
    found = desk.store.ideas(desk.study.id, "open")[:_TOP]
    if not found:
        raise NotFoundError("E-NO-IDEA", "no idea is queued that could be planned", fix='overnight ideas "improve accuracy, target 95 %"')
    return found


def _told(idea: QueuedIdea) -> str:
    detail = detail_of(idea)
    files = detail.get("files")
    touched = f" (touches {', '.join(str(path) for path in files)})" if isinstance(files, list) and files else ""
    before = detail.get("before")
    again = f" (tried before: {'; '.join(str(each) for each in before)})" if isinstance(before, list) and before else ""
    return f"{idea.text}{touched}{again}"


def _slug(text: str, top: Path, *, force: bool) -> str:
    taken = [] if force else sorted(path.name for path in top.iterdir()) if top.is_dir() else []
    return planning.slug(text, taken)


def _headed(text: str, goal: Goal, ideas: Sequence[QueuedIdea]) -> str:
    """``tasks.md`` with goal and ideas below its title, so that whoever carries it out knows them."""
    lines = [line for line in text.split("\n") if not line.lower().startswith(("goal:", "ideas:"))]
    at = next((number for number, line in enumerate(lines) if line.startswith("# ")), -1)
    title = [] if at >= 0 else ["# Tasks"]
    head = ["", f"Goal: {one_line(goal.text, 500)}", f"Ideas: {', '.join(str(idea.id) for idea in ideas)}", ""]
    rest = "\n".join(lines[at + 1 :]).strip("\n")
    return "\n".join([*lines[: at + 1], *title, *head, rest]).rstrip() + "\n"


def _critique(found: Sequence[str]) -> str:
    rows = "\n".join(f"- {line}" for line in found) or "no gaps"
    return f"# Critique\n\nFound in the first version; the plan was revised once after it.\n\n{rows}\n"


def _write(folder: Path, texts: Mapping[str, str], *, force: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=force)
        for name, text in texts.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_TRUNC if force else os.O_EXCL)
            with os.fdopen(os.open(folder / name, flags, 0o644), "w", encoding="utf-8", errors="replace") as file:
                file.write(text if text.endswith("\n") else f"{text}\n")
    except (PermissionError, FileExistsError, NotADirectoryError) as exc:
        raise UsageError("E-PLAN-FOLDER", f"{folder} cannot be written: {exc.strerror}", fix="overnight plan --name another-name") from exc
    except OSError as exc:
        raise StorageError("E-STORE", f"{folder} cannot be written: {exc.strerror}", fix="df -h .") from exc


def load(root: Path, slug: str, settings: Settings) -> Files:
    """The plan ``slug``, read anew; empty = the only one, or the one that was edited last. Raises ``NotFoundError``, ``UsageError``."""
    top = root / FOLDER
    known = (
        sorted((path.parent.name for path in top.glob(f"*/{TASKS}")), key=lambda name: (top / name / TASKS).stat().st_mtime)
        if top.is_dir()
        else []
    )
    if not known:
        raise NotFoundError("E-NO-PLAN", f"there is no plan in {top}", fix="overnight plan")
    name = slug.removeprefix(f"{FOLDER}/").rstrip("/") or known[-1]
    if name not in known:
        raise NotFoundError(
            "E-NO-PLAN",
            f"there is no plan '{one_line(slug, 80)}'{nearest(name, known)}",
            why=f"there are {', '.join(known[-8:])}",
            fix="overnight plan --check",
        )
    texts = {file: text for file in FILES if (text := _text(top / name / file)) is not None}
    plan, wrong = planning.check(texts, lambda plan: planning.fenced(plan, protected(settings)))
    return Files(name, top / name, plan, tuple(wrong))


def protected(settings: Settings) -> tuple[str, ...]:
    """What no task may touch: what the settings protect, what evaluators hold, and what says how things are done."""
    holdouts = (path for path in (settings.holdout, settings.hidden_holdout) if path and not path.startswith(("/", "~", "..")))
    return (
        *settings.protect,
        *(pattern for path in holdouts for pattern in (path.rstrip("/"), f"{path.rstrip('/')}/")),
        f"{FOLDER}/",
        "overnight.toml",
        settings.program,
    )


def _text(path: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        try:
            with path.open("rb") as file:
                return file.read(_LARGEST + 1).decode("utf-8", "replace")
        except OSError as exc:
            raise UsageError("E-UNREADABLE", f"{path} cannot be read: {exc.strerror}", fix=f"ls -l {path.parent}") from exc
    return None


def found(options: Options, slug: str) -> tuple[Files, dict[str, Work]]:
    """A plan and how far its tasks have come. Raises ``NotFoundError``, ``UsageError``."""
    with researching.opened(options, lambda _text: None) as desk:
        files = load(desk.workspace.root, slug, desk.settings)
        begun = desk.store.plan(files.slug)
        return files, desk.store.works(begun.id) if begun else {}


def refused(files: Files) -> UsageError:
    """The error for a plan that cannot be carried out, with every place."""
    bad = files.fatal
    first = f"{FOLDER}/{files.slug}/{bad[0]}"
    more = "\n".join(f"{FOLDER}/{files.slug}/{item}" for item in bad[1:_SHOWN])
    line = f":{bad[0].line}" if bad[0].line else ""
    return UsageError(
        "E-BAD-PLAN", first, where=f"{FOLDER}/{files.slug}/{bad[0].file}{line}", why=more,
        fix=f"edit it, then: overnight plan --check --name {files.slug}",
    )  # fmt: skip


def work_of(task: Task, works: Mapping[str, Work]) -> Work:
    """What was done of a task."""
    return works.get(task.name, Work(task.name))


def plan_json(files: Files, works: Mapping[str, Work]) -> dict[str, Any]:
    """A plan for ``--json``."""
    plan = files.plan
    return {
        "schema": "overnight/plan/1", "slug": files.slug, "folder": str(files.folder), "title": plan.title, "goal": plan.goal, "ideas": list(plan.ideas),
        "requirements": [{"name": each.name, "text": each.text} for each in plan.requirements],
        "tasks": [task_json(task, work_of(task, works)) for task in plan.tasks],
        "problems": [{"file": item.file, "line": item.line, "text": item.text, "fatal": item.fatal} for item in files.problems],
    }  # fmt: skip


def task_json(task: Task, work: Work) -> dict[str, Any]:
    """A task and what was done of it, for ``--json``."""
    return {
        "name": task.name, "title": task.title, "depends": list(task.depends), "files": list(task.files), "new": list(task.new), "checks": list(task.checks),
        "state": work.state, "agent": work.agent or None, "commit": work.commit or None, "merged": work.merged or None, "mends": work.mends,
        "returns": work.returns, "note": work.note or None, "tokens": work.tokens, "cost": work.cost, "changed": moment(work.changed or None),
    }  # fmt: skip


def counts(works: Mapping[str, Work], plan: Plan) -> str:
    """``3 done, 1 failed, 2 open``."""
    states = [work_of(task, works).state for task in plan.tasks]
    return ", ".join(f"{states.count(state)} {state}" for state in Progress if state in states)
