"""The conductor: a pipeline run to its end, one loop without threads. Tasks run in parallel wherever the executor has them run.

Everything is in the record before it is done, so that another conductor goes on where this one was killed: jobs that run are adopted by
their names, nothing that has succeeded runs again. Must not know which executor it is given, nor who listens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from overnight.crashes import last_error
from overnight.dag.caching import Parts, parts_from_json
from overnight.dag.fit import Machine, Room
from overnight.dag.plan import Progress
from overnight.dag.words import Dag, DagState, End, Node, Plan, Row, Task, TaskState
from overnight.errors import JobError
from overnight.folders import remove
from overnight.handing import INPUTS, Filled, Handing, job_name, shell
from overnight.models import JobSpec, JobState, JobStatus, MetricPoint
from overnight.printable import duration, number, one_line
from overnight.protocols import Executor
from overnight.store.pipelines import Pipelines

_LOST_LIMIT = 3  # a task whose supervisor was killed this often has failed
_LONGEST_PAUSE = 300.0  # seconds between two attempts
_LOOK = 0.5  # seconds between two looks at the numbers of a task
_WAITS = (0.25, 0.03)  # seconds that one look at a job may wait for its end: of a single one, of one among several
_STATES = {JobState.SUCCEEDED: TaskState.SUCCEEDED, JobState.TIMED_OUT: TaskState.TIMED_OUT, JobState.CANCELLED: TaskState.CANCELLED}
_TELLS = 8  # numbers on one line

Say = Callable[[str, str], None]  # (task, line)


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how tasks run."""

    runs: Path  # each attempt has its folder here
    env: Mapping[str, str]
    machine: Machine
    wrap: Callable[[JobSpec], JobSpec]  # puts a job behind walls
    cached: bool = True  # what succeeded before need not run again
    redact: Callable[[str], str] = str  # takes known secrets out of what is said
    apart: bool = False  # tasks run in copies of their folders, elsewhere: what they are told of it is relative


@dataclass(slots=True)
class _Running:
    """A job under way."""

    task: Task
    job: str
    offset: int = 0
    looked: float = 0.0
    asked: str = ""  # why it was asked to end
    told: dict[str, float] = field(default_factory=dict)  # numbers that were said


class Conductor:
    """Conducts one pipeline. ``stop`` says ``finish`` (start nothing more) or ``now`` (put back what runs), else nothing."""

    def __init__(
        self,
        record: Pipelines,
        executor: Executor,
        work: tuple[Dag, Plan, list[Row], Handing],
        place: Place,
        say: Say,
        stop: Callable[[], str] = lambda: "",
    ) -> None:
        self._record, self._executor, self._place, self._say, self._stop = record, executor, place, say, stop
        self._dag, self._plan, self._rows, self._handing = work
        self._progress = Progress(self._plan, [row.state for row in self._rows])
        self._room = Room(place.machine)
        self._running: dict[int, _Running] = {}
        self._paused: dict[int, float] = {}  # tasks that wait before they are tried again -> until when
        self._lines: list[tuple[float, str, str]] = []  # said, and not yet in the record
        self._ready: dict[int, tuple[Filled, Parts]] = {}  # looked up in the cache in vain, waiting for room

    def run(self) -> DagState:
        """Conduct until all is over, or until ``stop``; RUNNING if it was left. Raises ``StorageError``, ``NotFoundError``."""
        try:
            return self._conduct()
        finally:
            self._keep_lines()

    def _conduct(self) -> DagState:
        self._adopt()
        while True:
            reason = self._asked()
            self._write_skips()
            if not reason:
                self._start_due()
                self._write_skips()
            self._keep_lines()
            if not self._running and (reason or not (self._progress.due or self._paused)):
                break
            self._watch()
        return self._finish() if not reason or self._over() else DagState.RUNNING

    # --- beginning and end -------------------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Take over what an earlier conductor had running; what it had not handed to the executor is forgotten, as are folders it left."""
        live = {row.job for row in self._rows if row.state is TaskState.RUNNING}
        for folder in self._place.runs.glob(f"{self._dag.id}-*"):
            if folder.name not in live:
                remove(folder)
        for row in self._rows:
            if row.state is not TaskState.RUNNING:
                continue
            task = self._plan.tasks[row.position]
            if row.position in self._progress.due:
                self._progress.due.remove(row.position)
            status = self._executor.poll(row.job)
            if status.state is JobState.LOST and not row.submitted:
                self._executor.cancel(row.job, "its conductor was gone before it began")  # should it be about to
                self._put_back(row, End(TaskState.CANCELLED, "it was never begun"))
                continue
            self._room.keep(row.position, task.node, row.gpus)
            self._running[row.position] = _Running(task, row.job)
            if not status.state.over:
                self._tell(task, "going on: it ran while nobody conducted")

    def _over(self) -> bool:
        return all(row.state.over for row in self._rows)

    def _finish(self) -> DagState:
        states = {row.state for row in self._rows}
        ended = DagState.CANCELLED if TaskState.CANCELLED in states else DagState.SUCCEEDED
        state = DagState.FAILED if any(each.failed for each in states) else ended
        self._record.finish(self._dag.number, state, time.time())
        return state

    def _asked(self) -> str:
        """What was asked of us: ``cancel``, ``now``, ``finish`` or nothing; running jobs are told."""
        reason = "cancel" if self._record.wanted(self._dag.number) == "cancel" else self._stop()
        if reason in ("cancel", "now"):
            for each in self._running.values():
                if each.asked != reason:
                    self._executor.cancel(each.job, "the pipeline was cancelled" if reason == "cancel" else "put back")
                    each.asked = reason
        if reason == "cancel" and any(row.state is TaskState.WAITING for row in self._rows):
            self._record.cancel_waiting(self._dag.number, "the pipeline was cancelled")
            self._rows[:] = self._record.tasks(self._dag.number)
            self._progress.due.clear()
            self._progress.skipped.clear()
            self._paused.clear()
        return reason

    # --- starting ----------------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        now = time.time()
        self._progress.due.extend(position for position, until in self._paused.items() if until <= now)
        self._paused = {position: until for position, until in self._paused.items() if until > now}
        held = []
        while self._progress.due:
            position = self._progress.due.popleft()
            if (position in self._ready and self._room.full) or not self._start(self._plan.tasks[position]):
                held.append(position)
        self._progress.due.extend(held)

    def _start(self, task: Task) -> bool:
        """Begin a task, or find it in the cache; false if there is no room for it now."""
        row = self._rows[task.position]
        if task.position not in self._ready:
            if row.not_before > time.time():
                self._paused[task.position] = row.not_before
                return True
            try:
                found = self._handing.filled(task)
            except ValueError as exc:
                self._settle(row, End(TaskState.FAILED, str(exc)))
                return True
            parts = self._handing.parts(task, found)
            if self._from_cache(task, row, parts):
                return True
            self._ready[task.position] = (found, parts)
        gpus = self._room.take(task.position, task.node)
        if gpus is None:
            return False
        found, parts = self._ready.pop(task.position)
        self._submit(task, found, parts, gpus)
        return True

    def _from_cache(self, task: Task, row: Row, parts: Parts) -> bool:
        if not task.node.cache or not self._place.cached or row.attempt:
            return False
        hit = self._record.cached(parts.key)
        if hit is not None and not self._handing.is_there(hit):
            self._note(row, "not cached: what it left then is not kept any more")
        elif hit is not None and self._record.take_cached(self._dag, replace(row, parts=parts.to_json()), hit, time.time()):
            self._refresh(task.position)
            self._tell(task, f"cached: nothing changed since dag-{self._rows[task.position].cached_from}")
            self._progress.settle(task.position, TaskState.SUCCEEDED)
            return True
        elif reason := self._why_not(task, parts):
            self._note(row, f"not cached: {reason}")
            self._tell(task, f"not cached: {reason}")
        return False

    def _why_not(self, task: Task, parts: Parts) -> str:
        """``train.py changed since dag-12``; empty for what was not run before."""
        since, reason = self._handing.why_not(task, parts)
        return f"{reason or 'it was run without the cache'} since dag-{since}" if since else ""

    def _note(self, row: Row, note: str) -> None:
        self._rows[row.position] = replace(row, note=note)

    def _submit(self, task: Task, found: Filled, parts: Parts, gpus: tuple[str, ...]) -> None:
        row = replace(self._rows[task.position], job=job_name(self._dag, task), gpus=gpus, parts=parts.to_json())
        row = self._rows[task.position] = self._record.begin(self._dag.number, row, time.time())
        folder = self._place.runs / row.job
        try:
            base = self._handing.lay(task, found, folder)
            spec = self._spec(task, found, row, (folder, base))
            self._executor.submit(self._place.wrap(spec))
        except (JobError, ValueError) as exc:
            self._room.give_back(task.position)
            self._ended(row, JobStatus(JobState.FAILED, exc.message if isinstance(exc, JobError) else str(exc)), None)
            return
        self._record.submitted(self._dag.number, task.position)
        self._running[task.position] = _Running(task, row.job)
        tries = f"attempt {row.failures + 1} of {task.node.retries + 1}" if row.failures else ""
        cards = f"GPU {', '.join(gpus)}" if self._place.machine.cards is not None else f"{len(gpus)} GPU"
        said = ", ".join(filter(None, (tries, cards if gpus else "")))
        self._tell(task, f"started{f' ({said})' if said else ''}")

    def _spec(self, task: Task, found: Filled, row: Row, at: tuple[Path, Path]) -> JobSpec:
        folder, base = at
        inside = "" if base == folder else str(base.relative_to(folder))
        env = {
            **self._place.env, **found.env, "OVERNIGHT_DAG": self._dag.id, "OVERNIGHT_NODE": task.node.name, "OVERNIGHT_TASK": task.id,
            "OVERNIGHT_INPUTS": str(base / INPUTS), **{f"OVERNIGHT_MATRIX_{key.upper()}": value for key, value in task.matrix},
        }  # fmt: skip
        if row.gpus and self._place.machine.cards is not None:
            env |= {"CUDA_VISIBLE_DEVICES": ",".join(row.gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        node, argv = task.node, shell(task.node, found, inside, apart=self._place.apart)
        left = [f"{inside}/{path}" if inside else path for path in found.outputs] if found.outputs is not None else ["**"]
        return JobSpec(
            id=row.job, argv=argv, cwd=str(folder), env=env, time_limit=node.time_limit, gpus=row.gpus,
            memory_limit=int(node.memory_gb * 2**30), readable=tuple(map(str, self._handing.outside(found.sources).values())),
            cpus=node.cpus, gpu_type=node.gpu_type, vram_gb=node.vram_gb, outputs=tuple(left), hands_on=bool(left),
        )  # fmt: skip

    # --- watching and ending -----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Look at every job once, waiting a moment for the first; settle what is over."""
        wait = _WAITS[len(self._running) > 1 or bool(self._paused)]
        if not self._running:
            time.sleep(min(max(0.0, min(self._paused.values(), default=0.0) - time.time()), 0.2))
        for position, each in list(self._running.items()):
            status = self._executor.poll(each.job, wait)
            wait = 0.0
            now = time.monotonic()
            if not status.state.over and now - each.looked < _LOOK:
                continue
            each.looked = now
            points, each.offset = self._executor.tail(each.job, each.offset)
            self._tell_numbers(each, points)
            if status.state.over:
                del self._running[position]
                self._room.give_back(position)
                self._ended(self._rows[position], status, each)

    def _ended(self, row: Row, status: JobStatus, job: _Running | None) -> None:
        """An attempt is over: the task is, or waits for the next one."""
        task = self._plan.tasks[row.position]
        end = End(
            _STATES.get(status.state, TaskState.FAILED), status.cause, status.seconds, status.exit_code,
            {name: item.last for name, item in status.metrics.items() if math.isfinite(item.last)},
        )  # fmt: skip
        if end.state is TaskState.SUCCEEDED:
            end = self._taken(task, row, end)
        again = self._again(task.node, row, status, end)
        if again is not None:
            self._put_back(again, end)
            if end.state.failed:
                self._tell(
                    task,
                    f"{end.state} ({end.cause}); "
                    + (
                        f"attempt {again.failures + 1} of {task.node.retries + 1} in {duration(_pause(task.node, row))}"
                        if again.failures > row.failures
                        else "again"
                    ),
                )
        else:
            if job is not None:
                self._tell_rest(job, end)
            self._settle(row, end, status.end)
        remove(self._place.runs / row.job)

    def _taken(self, task: Task, row: Row, end: End) -> End:
        """The end with what the task has left; a failure if something that it was to leave is not there."""
        try:
            taken = self._handing.take(task, self._handing.filled(task), self._place.runs / row.job, parts_from_json(row.parts).commit)
        except ValueError as exc:
            return replace(end, state=TaskState.FAILED, cause=str(exc))
        if taken.missing:
            return replace(end, state=TaskState.FAILED, cause=f"it left no {', '.join(taken.missing)} (outputs)")
        return replace(end, outputs=taken.files, note=taken.note)

    def _again(self, node: Node, row: Row, status: JobStatus, end: End) -> Row | None:
        """The row as it waits for another attempt; None if there is none."""
        if status.state is JobState.LOST and row.lost + 1 < _LOST_LIMIT:
            return replace(row, lost=row.lost + 1)
        if end.state is TaskState.CANCELLED and self._stop() == "now" and self._record.wanted(self._dag.number) != "cancel":
            return row
        if end.state.failed and row.failures < node.retries:
            return replace(row, failures=row.failures + 1, not_before=time.time() + _pause(node, row))
        return None

    def _put_back(self, row: Row, end: End) -> None:
        self._record.put_back(self._dag.number, row, end)
        self._refresh(row.position)
        self._progress.due.append(row.position)

    def _settle(self, row: Row, end: End, output: str = "") -> None:
        task = self._plan.tasks[row.position]
        key = ""
        if task.node.cache and end.state is TaskState.SUCCEEDED:
            key = parts_from_json(row.parts).key if row.parts else ""
        end = replace(end, cause=self._place.redact(end.cause))
        self._record.settle(self._dag, row.position, end, key)
        self._rows[row.position] = replace(
            row, state=end.state, cause=end.cause, seconds=end.seconds, values=end.values, note=end.note or row.note
        )
        told = (
            duration(end.seconds)
            if end.state is TaskState.SUCCEEDED
            else f"{end.cause}{f', {duration(end.seconds)}' if end.seconds else ''}"
        )
        self._tell(task, f"Status: {end.state} ({told})")
        if end.note:
            self._tell(task, end.note)
        if end.state.failed and (last := last_error(output.encode("utf-8", "replace"))):
            self._tell(task, f"last words: {last}")
        if end.state.failed and (unseen := self._handing.unseen(output)):
            self._tell(task, f"{unseen} is there, but a task sees the code and what it names: write  inputs: {unseen}")
        self._progress.settle(row.position, end.state)

    def _write_skips(self) -> None:
        if not self._progress.skipped:
            return
        skipped = [(position, reason) for position, reason in self._progress.skipped if self._rows[position].state is TaskState.WAITING]
        self._progress.skipped.clear()
        self._record.skip(self._dag.number, skipped)
        for position, reason in skipped:
            self._rows[position] = replace(self._rows[position], state=TaskState.SKIPPED, cause=reason)
            self._tell(self._plan.tasks[position], f"Status: SKIPPED ({reason})")

    def _refresh(self, position: int) -> Row:
        self._rows[position] = self._record.task(self._dag.number, position)
        return self._rows[position]

    # --- telling -----------------------------------------------------------------------------------------------------

    def _tell(self, task: Task, line: str) -> None:
        line = one_line(self._place.redact(line), 400)
        self._lines.append((time.time(), task.id, line))
        self._say(task.id, line)

    def _keep_lines(self) -> None:
        """Write down what was said since the last time."""
        if self._lines:
            self._record.say(self._dag.number, self._lines)
            self._lines.clear()

    def _tell_numbers(self, each: _Running, points: list[MetricPoint]) -> None:
        """The latest of every number since the last look, on one line."""
        latest = {point.name: point.value for point in points}
        each.told |= latest
        if latest:
            self._tell(
                each.task,
                "  ".join(
                    f"@{name}={number(value)}" if math.isfinite(value) else f"@{name}={value}"
                    for name, value in list(latest.items())[:_TELLS]
                ),
            )

    def _tell_rest(self, each: _Running, end: End) -> None:
        """Numbers that were not seen on the way."""
        rest = [f"@{name}={number(value)}" for name, value in end.values.items() if name not in each.told]
        if rest:
            self._tell(each.task, "  ".join(rest[:_TELLS]))


def _pause(node: Node, row: Row) -> float:
    """Seconds before the attempt after this one."""
    return min(node.retry_delay * 2.0**row.failures, max(_LONGEST_PAUSE, node.retry_delay))
