"""``overnight implement``: carry out a plan with several agents at once, on branches of its own."""

from __future__ import annotations

import contextlib
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from overnight.app import place as places
from overnight.app import plan as plans
from overnight.app import prepare, researching, walls, where
from overnight.app.data import data_links
from overnight.app.options import Options
from overnight.app.researching import Desk
from overnight.checks import Checker, Where
from overnight.errors import BusyError, NotFoundError, OvernightError, UsageError
from overnight.goals import read
from overnight.implementing import Implementer, Parts, failed, plan_branch
from overnight.models import Study
from overnight.notes import Source
from overnight.plans import Begun, Progress, Work
from overnight.settings import Settings

_SLUG = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,60}(?<!\.)(?<!\.lock)")
_LOCK = "implement.lock"
_LEFT = re.compile(r"pimplement-.+-[0-9a-f]+x-.+-\d+[a-z](?:\.\d+)*|check-.+-[0-9a-f]{12}")  # jobs; those of a study end in other ways
_WORDS = 3000  # of all checks, in which interpreters are looked for
_AGENT_FLAGS = ("proposer", "proposer_mix", "proposer_model", "proposer_args", "proposer_hosts", "proposer_command")


@dataclass(frozen=True, slots=True)
class Ended:
    """How carrying out ended: the plan, what became of its tasks, the branch, the command that goes on from it, and the exit code."""

    files: plans.Files
    works: Mapping[str, Work]
    branch: str
    next: str
    exit_code: int


def implement(options: Options, slots: int, name: str, tell: Callable[[str, str], None]) -> Ended:
    """Carry out the plan ``name`` (empty = the latest) with ``slots`` agents at once; ``tell`` hears of a task (or none) what happens.

    Raises ``UsageError``, ``NotFoundError``, ``BusyError``, ``ProposalError``, ``StorageError``, ``GitError``.
    """
    with contextlib.ExitStack() as stack:
        desk = stack.enter_context(researching.opened(options, lambda text: tell("", text)))
        files = plans.load(desk.workspace.root, name, desk.settings)
        if files.fatal:
            raise plans.refused(files)
        settings = researching.whom(desk.settings, options.environ, "implement")
        _check_names(desk, files.slug)
        stack.enter_context(_held(desk.place))
        begun = _begun(desk, files, tell)
        study = _study(settings, files, desk.base)
        executor = where.executor_at(desk.place.state)
        researching.end_leftovers(desk.place.jobs, executor, _LEFT)
        around = walls.around(study, desk.workspace, desk.place.state, options.environ, prepare.run_environment(settings, options.environ))
        folder = stack.enter_context(researching.folder_of(desk.place, "implement"))
        asker = researching.asker_of(desk, study, (executor, around), folder, lambda text: tell("", text))
        checker = Checker(executor, desk.workspace, _where(desk, settings, around, folder), asker.stopping)
        parts = Parts(desk.store, desk.workspace, asker, checker, tell, time.time, plans.protected(settings))
        with researching.signals(asker.stopping, lambda: tell("", "stopping; the same command goes on from here")) as caught:
            works = _worked(Implementer(parts, files.plan, begun), slots, asker.stopping, lambda: desk.store.works(begun.id))
        _close_ideas(desk, files, works)
        code = caught[-1] if caught else 1 if failed(works) or not _all_done(works) else 0
        return Ended(files, works, plan_branch(files.slug), _next(desk, files), code)


def _worked(implementer: Implementer, slots: int, stopping: threading.Event, known: Callable[[], dict[str, Work]]) -> dict[str, Work]:
    try:
        return implementer.run(slots)
    except OvernightError:
        if not stopping.is_set():
            raise
        return known()


def _all_done(works: Mapping[str, Work]) -> bool:
    return all(work.state is Progress.DONE for work in works.values())


def _check_names(desk: Desk, slug: str) -> None:
    """Refuse a plan whose name, or a repository whose branches, leave no room for the branches of its tasks."""
    if not _SLUG.fullmatch(slug):
        why = "letters and digits of ASCII and . _ - are allowed, 60 at most"
        raise UsageError(
            "E-PLAN-NAME",
            f"'{slug}' cannot name a branch",
            why=why,
            fix=f"mv {shlex.quote(f'{plans.FOLDER}/{slug}')} {plans.FOLDER}/another-name",
        )
    for name in ("overnight", "overnight/plan", "overnight/task", f"overnight/task/{slug}"):
        if desk.workspace.branch_exists(name):
            raise UsageError(
                "E-BRANCH-EXISTS", f"there is a branch named {name}", why=f"git cannot hold {plan_branch(slug)} and the branches of its tasks beside it",
                fix=f"git branch -m {name} {name.replace('/', '-')}-mine",
            )  # fmt: skip


@contextlib.contextmanager
def _held(place: places.Place) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(places.held(place, _LOCK))
        except BusyError as exc:
            holder = exc.message.partition(": ")[2]
            raise BusyError(
                "E-BUSY", f"a plan is being carried out already: {holder}", where=str(place.state), fix="overnight plan --status"
            ) from exc
        yield


def _begun(desk: Desk, files: plans.Files, tell: Callable[[str, str], None]) -> Begun:
    """The plan in the record; one of which nothing is done begins where the checkout is now."""
    found = desk.store.begin_plan(files.slug, files.plan.goal, desk.base, time.time())
    if found.base == desk.base:
        return found
    works = desk.store.works(found.id)
    if found.tip == found.base and not any(work.state is Progress.DONE for work in works.values()):
        branch = plan_branch(files.slug)
        if desk.workspace.tip(f"refs/heads/{branch}") == found.tip:
            desk.workspace.move_branch(branch, desk.base, found.tip)
        desk.store.begin_again(found.id, desk.base)
        for work in works.values():  # made from a commit that is not the base any more
            desk.store.save_work(found.id, replace(work, state=Progress.OPEN, start="", commit="", note=""))
        return replace(found, base=desk.base, tip=desk.base)
    tell("", f"the plan goes on from its own base {found.base[:7]}; later commits of the checkout are not in it")
    return found


def _study(settings: Settings, files: plans.Files, base: str) -> Study:
    """What stands in for a study: its runs are the checks, so that their interpreters are seen behind the walls; they get no network."""
    words = dict.fromkeys(word for task in files.plan.tasks for check in task.checks for word in check.split())
    command = (*settings.command, *list(words)[:_WORDS])
    settings = replace(settings, command=(" ".join(command),), sandbox_network=False)
    return researching.stand_in(settings, base, f"implement-{files.slug}-{time.time_ns():x}x")


def _where(desk: Desk, settings: Settings, around: walls.Around, folder: Path) -> Where:
    environ = desk.options.environ
    return Where(
        folder / "checks", prepare.run_environment(settings, environ), data_links(settings.data, desk.workspace.root, set(desk.workspace.entries(desk.base))), around.run,
        settings.limit, settings.memory_limit, settings.process_limit, settings.disk_limit, prepare.slot_gpus(replace(settings, slots=1), environ)[0],
    )  # fmt: skip


def _close_ideas(desk: Desk, files: plans.Files, works: Mapping[str, Work]) -> None:
    """The ideas of a plan that is carried out need no proposal any more, unless a person has put them up again."""
    if not works or not _all_done(works):
        return
    for number in files.plan.ideas:
        with contextlib.suppress(NotFoundError):
            idea = desk.store.idea(desk.study.id, number)
            if idea.state == "open" and (idea.source is Source.AGENT or not idea.pinned):
                desk.store.mark_idea(desk.study.id, number, "done")


def _next(desk: Desk, files: plans.Files) -> str:
    """The command that starts the loop from the branch of the plan, towards its goal."""
    settings, flags = desk.settings, desk.options.flags
    goal = read(files.plan.goal, [name for name in (settings.metric, *desk.metrics()) if name])
    words = ["overnight", "run", "--from", plan_branch(files.slug)]
    if goal.metric and goal.metric != settings.metric:
        words += ["--metric", goal.metric]
    if goal.direction and goal.direction != settings.direction:
        words += ["--direction", goal.direction]
    if goal.target is not None and goal.target != settings.target:
        words += ["--target", f"{goal.target:g}"]
    for name in _AGENT_FLAGS:
        found = flags.get(name)
        for value in found if isinstance(found, tuple) else () if found is None else (found,):
            if not (name == "proposer" and value == "command"):
                words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, *(["--unsafe-no-sandbox"] if flags.get("unsafe_no_sandbox") else [])])


def ended_json(ended: Ended) -> dict[str, Any]:
    """The same for ``--json``."""
    found = plans.plan_json(ended.files, ended.works)
    return {**found, "schema": "overnight/implement/1", "branch": ended.branch, "next": ended.next, "exit_code": ended.exit_code}
