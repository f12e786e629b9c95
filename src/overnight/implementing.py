"""Several agents at once carry out a plan: each task in a copy and on a branch of its own, checked, then merged onto the plan's branch.

The record says how far each task has come before the next step is begun; git follows it. The branch of the plan holds only what has passed all
checks so far. Knows the Proposer and Executor protocols by way of ``asking`` and ``checks``; prints nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from overnight import commissions
from overnight.asking import Asker, Turn
from overnight.checks import Checker
from overnight.errors import OvernightError
from overnight.plans import Begun, Plan, Progress, Task, Work, order
from overnight.printable import duration, one_line
from overnight.store import Store
from overnight.workspace import Scope, Workspace

BACK = 2  # how often a task goes back to its agent, for its own checks and again for its merge
_WAIT = 0.5  # seconds between two looks whether to stop
_OVER = (Progress.DONE, Progress.FAILED, Progress.SKIPPED)
_UNDECIDED = {"E-NO-EDIT", "E-WRONG-FILE", "E-AGENT-EMPTY", "E-AGENT-QUESTION"}  # what the copy holds says more


def plan_branch(slug: str) -> str:
    """Where the work of a plan is put together."""
    return f"overnight/plan/{slug}"


def task_branch(slug: str, task: str) -> str:
    """Where one task is done; below another name than the plan's, for git keeps no branch below a branch."""
    return f"overnight/task/{slug}/{task}"


@dataclass(frozen=True, slots=True)
class Parts:
    """What carrying out needs. ``tell`` hears of events: the task's name (empty = the plan) and words. ``clock``: seconds since the epoch."""

    store: Store
    workspace: Workspace
    asker: Asker
    checker: Checker
    tell: Callable[[str, str], None]
    clock: Callable[[], float]
    protect: tuple[str, ...] = ()


class _Setback(Exception):  # noqa: N818 - no error to anyone outside this file: the task goes back to its agent
    """Why work cannot be taken as it is, in words for the agent, and in a few for the person."""

    def __init__(self, problem: str, short: str) -> None:
        super().__init__(short)
        self.problem = problem
        self.short = short


class Implementer:
    """Carries out ``plan``, which has no problems. The record has it as ``begun``."""

    def __init__(self, parts: Parts, plan: Plan, begun: Begun) -> None:
        self._parts = parts
        self._plan = plan
        self._begun = begun
        self._tasks = order(plan)
        self._folders = {
            path.rsplit("/", depth)[0] for path in parts.workspace.entries(begun.tip) for depth in range(1, path.count("/") + 1)
        }
        self._works: dict[str, Work] = {}
        self._names = {task.name.casefold(): task.name for task in self._tasks}
        self._lock = threading.Lock()  # around works and counters
        self._merging = threading.Lock()  # one merge at a time, with its checks
        self._turns = 0
        self._halt: OvernightError | None = None

    def run(self, slots: int) -> dict[str, Work]:
        """Work until nothing more can be done; what became of each task. Raises what keeps all tasks from going on."""
        self._recover()
        running: dict[Future[Work], Task] = {}
        with ThreadPoolExecutor(slots) as pool:
            while True:
                for task in self._ready(list(running.values()))[: slots - len(running)]:
                    running[pool.submit(self._carried_out, task)] = task
                if not running:
                    break
                for future in wait(running, timeout=_WAIT, return_when=FIRST_COMPLETED).done:
                    self._take_in(running.pop(future), future)
        if self._halt is not None:
            raise self._halt
        self._skip()
        return dict(self._works)

    def _take_in(self, task: Task, future: Future[Work]) -> None:
        try:
            future.result()
        except OvernightError as exc:
            self._halt = self._halt or exc
            work = self._works[task.name]
            if work.state is Progress.WORKING:
                self._save(replace(work, state=Progress.OPEN))
            self._parts.tell(task.name, f"put back: {exc.message}")

    def _ready(self, running: Collection[Task]) -> list[Task]:
        """The tasks that can be begun now."""
        if self._halt is not None or self._parts.asker.stopping.is_set():
            return []
        busy = {task.name for task in running}
        return [
            task for task in self._tasks if task.name not in busy and self._works[task.name].state not in _OVER and not self._waits(task)
        ]

    def _waits(self, task: Task) -> bool:
        return any(self._state(name) is not Progress.DONE for name in task.depends)

    def _state(self, name: str) -> Progress:
        return self._works[self._names[name.casefold()]].state

    def _save(self, work: Work) -> Work:
        work = replace(work, changed=self._parts.clock())
        self._parts.store.save_work(self._begun.id, work)
        with self._lock:
            self._works[work.name] = work
        return work

    def _recover(self) -> None:
        """Make works and branch what the record says, whatever a process that was killed has left."""
        known = self._parts.store.works(self._begun.id)
        for task in self._tasks:
            work = known.get(task.name, Work(task.name))
            if work.state in (Progress.FAILED, Progress.SKIPPED):
                self._parts.tell(task.name, "is tried again")
                work = Work(task.name, tokens=work.tokens, cost=work.cost)
            self._works[task.name] = work
        workspace, branch = self._parts.workspace, plan_branch(self._begun.slug)
        at = workspace.tip(f"refs/heads/{branch}")
        if at is None:
            workspace.create_branch(branch, self._begun.tip)
        elif at in workspace.parents(self._begun.tip)[:1]:
            workspace.move_branch(branch, self._begun.tip, at)
        elif at != self._begun.tip:
            self._parts.tell("", f"{branch} was moved by somebody; going on from {at[:7]}")
            self._parts.store.move_plan(self._begun.id, at)
            self._begun = replace(self._begun, tip=at)

    def _skip(self) -> None:
        """Say which tasks wait in vain."""
        for task in self._tasks:  # each after what it depends on
            work = self._works[task.name]
            broken = [name for name in task.depends if self._state(name) in (Progress.FAILED, Progress.SKIPPED)]
            if work.state not in _OVER and broken:
                self._save(replace(work, state=Progress.SKIPPED, note=f"it depends on {broken[0]}"))
                self._parts.tell(task.name, f"skipped: it depends on {broken[0]}, which is {self._state(broken[0])}")

    # --- one task ------------------------------------------------------------------------------------------------

    def _carried_out(self, task: Task) -> Work:
        """A task from its agent to the branch, back and forth as often as is allowed."""
        begun = self._parts.clock()
        work = self._works[task.name]
        while work.state not in _OVER:
            merging = False
            try:
                if work.state is not Progress.WRITTEN:
                    work = self._written(task, work)
                self._checked(task, work)
                merging = True
                work = self._merged(task, work, begun)
            except _Setback as exc:
                work = self._sent_back(task, self._works[task.name], exc, merging=merging)
        return work

    def _sent_back(self, task: Task, work: Work, setback: _Setback, *, merging: bool) -> Work:
        """Give the task back to its agent with the problem, or give it up."""
        times = (work.returns if merging else work.mends) + 1
        if times > BACK:
            self._parts.tell(task.name, f"failed: {setback.short}; it went back {BACK} times")
            return self._save(replace(work, state=Progress.FAILED, note=setback.short))
        self._parts.tell(task.name, f"{setback.short}; goes back to its agent ({times} of {BACK})")
        counted = replace(work, returns=times) if merging else replace(work, mends=times)
        return self._save(replace(counted, state=Progress.WORKING, note=setback.problem))

    def _scope(self, task: Task, *, new: bool = True) -> Scope:
        """What the task may touch; a folder that is named as such means all below it."""
        paths = (*task.files, *(task.new if new else ()))
        return Scope(
            tuple(f"{path}/" if path.removeprefix("./") in self._folders else path for path in paths), self._parts.protect, optional=True
        )

    def _written(self, task: Task, work: Work) -> Work:
        """Let an agent do the task and commit what it did on the task's branch."""
        workspace, scope = self._parts.workspace, self._scope(task)
        if not work.start:
            with self._merging:
                work = replace(work, start=self._begun.tip)
        work = self._save(replace(work, state=Progress.WORKING))
        there = workspace.editable(work.start, scope)
        files = workspace.editable(work.commit, scope) if work.commit else self._named(task, there)
        with self._lock:
            self._turns += 1
            name = f"{task.name}-{self._turns}"
        self._parts.tell(task.name, "is mended" if work.note else "begun")
        turn = self._parts.asker.turn(name, work.start, files, scope, commissions.task(self._plan, task, sorted(files), work.note))
        work = self._save(replace(work, agent=turn.idea.proposer, tokens=work.tokens + turn.idea.tokens, cost=work.cost + turn.idea.cost))
        self._fit(task, turn, files, there)
        message = (
            f"{task.name}: {task.title}\n\n{turn.idea.hypothesis}\n\nOvernight-Plan: {self._begun.slug}\nOvernight-Task: {task.name}\n"
        )
        made = workspace.commit(
            parent=work.start, files=turn.files, message=f"{message}Overnight-Agent: {turn.idea.proposer}", when=self._parts.clock(), scope=scope,
            ref=f"refs/heads/{task_branch(self._begun.slug, task.name)}",
        )  # fmt: skip
        return self._save(replace(work, state=Progress.WRITTEN, commit=made.commit, note=""))

    def _named(self, task: Task, there: Mapping[str, bytes]) -> dict[str, bytes]:
        """The files that the task may change; those that it names and that are not there yet are empty."""
        named = [path.removeprefix("./") for path in task.files if not set("*?[") & set(path) and not path.endswith("/")]
        scope = self._scope(task)
        fresh = [path for path in named if path not in there and path not in self._folders and scope.matches(path)]
        below = {path for path in fresh for other in (*there, *fresh) if path.startswith(f"{other}/")}
        return {**there, **{path: b"" for path in fresh if path not in below}}

    def _fit(self, task: Task, turn: Turn, before: Mapping[str, bytes], there: Mapping[str, bytes]) -> None:
        """Raise ``_Setback`` if what the agent left cannot be taken."""
        if turn.rejected:
            raise _Setback(f"Your work could not be taken: {turn.rejected}.", f"rejected: {one_line(turn.rejected, 160)}")
        if turn.error is not None and (turn.error.code not in _UNDECIDED or turn.files == before):
            raise _Setback(f"You did not come to an end: {turn.error.message}. {turn.error.why}", one_line(turn.error.message, 160))
        if turn.files == before:
            raise _Setback("You changed nothing.", "nothing was changed")
        may = self._scope(task, new=False)
        old = [path for path in there if not may.matches(path) and turn.files.get(path) != there[path]]
        if old:
            raise _Setback(
                f"You may make new files there, and not change {', '.join(old[:5])}.", f"rejected: it changed {', '.join(old[:3])}"
            )
        secrets = self._parts.asker.secrets
        if bad := [path for path, data in turn.files.items() if secrets.data(data) != data]:
            raise _Setback(
                f"You wrote a secret of the environment into {', '.join(bad[:5])}.", f"rejected: a secret in {', '.join(bad[:3])}"
            )

    def _checked(self, task: Task, work: Work) -> None:
        failure = self._parts.checker.run(f"{self._begun.slug}-{task.name}", work.commit, task.checks)
        if failure is not None:
            problem = commissions.failed(failure.check, failure.cause, self._parts.asker.secrets.text(failure.output))
            raise _Setback(problem, f"check failed: `{one_line(failure.check, 80)}` ({one_line(failure.cause, 80)})")

    # --- merging -------------------------------------------------------------------------------------------------

    def _merged(self, task: Task, work: Work, begun: float) -> Work:
        """Merge a task that has passed its own checks; the branch moves only if all checks so far pass on the result."""
        parts = self._parts
        with self._merging:
            tip = self._begun.tip
            files = self._together(task, work, tip)
            candidate = parts.workspace.commit(
                parent=tip, files=files, merges=work.commit, when=parts.clock(), scope=self._scope(task), ref=f"refs/overnight-plans/{self._begun.slug}/{task.name}",
                message=f"Merge {task.name}: {task.title}\n\nOvernight-Plan: {self._begun.slug}\nOvernight-Task: {task.name}",
            )  # fmt: skip
            failure = parts.checker.run(f"{self._begun.slug}-{task.name}-m", candidate.commit, self._so_far(task, moved=tip != work.start))
            if failure is not None:
                self._save(replace(work, start=tip, commit=candidate.commit))
                problem = "After your work was merged with that of others:\n\n" + commissions.failed(
                    failure.check, failure.cause, parts.asker.secrets.text(failure.output)
                )
                raise _Setback(problem, f"check broken after the merge: `{one_line(failure.check, 80)}` ({one_line(failure.cause, 80)})")
            work = replace(work, state=Progress.DONE, merged=candidate.commit, note="", changed=parts.clock())
            parts.store.merged(self._begun.id, work)
            with self._lock:
                self._works[task.name] = work
            self._begun = replace(self._begun, tip=candidate.commit)
            parts.workspace.move_branch(plan_branch(self._begun.slug), candidate.commit, tip)
        spent = f", {work.tokens} tokens" if work.tokens else ""
        parts.tell(task.name, f"{work.agent}, {duration(parts.clock() - begun)}{spent}: checks pass, merged {candidate.commit[:7]}")
        return work

    def _together(self, task: Task, work: Work, tip: str) -> Mapping[str, bytes]:
        """The files of the task with what others did since. Raises ``_Setback`` on a conflict."""
        workspace, scope = self._parts.workspace, self._scope(task)
        theirs = workspace.editable(work.commit, scope)
        if tip == work.start:
            return theirs
        merged = workspace.merge(workspace.editable(work.start, scope), workspace.editable(tip, scope), theirs)
        if merged is None:
            patch = workspace.diff(work.start, work.commit)
            self._save(replace(work, start=tip, commit=""))
            raise _Setback(commissions.conflict(patch), "conflict with what was merged meanwhile")
        return merged

    def _so_far(self, task: Task, *, moved: bool) -> Sequence[str]:
        """The checks that must pass after a merge: of all that is done, and the task's own if others came between."""
        done = [check for each in self._tasks if self._works[each.name].state is Progress.DONE for check in each.checks]
        return [*(task.checks if moved else ()), *done]


def failed(works: Mapping[str, Work]) -> list[Work]:
    """The tasks that did not come to a good end."""
    return [work for work in works.values() if work.state in (Progress.FAILED, Progress.SKIPPED)]
