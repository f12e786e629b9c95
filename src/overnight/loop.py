"""The research loop: ask, run, decide, keep, and again. Whatever kills it, the next one goes on where it was.

Knows Protocols, the store and the workspace through its parts; no concrete proposer or executor, no screen. Several slots are
several threads that run the same ``run_cycle``; proposals are prepared in further threads, ahead of free slots.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from overnight.auditing import Check
from overnight.choosing import Chooser
from overnight.decide import code_lines
from overnight.errors import OvernightError, ProposalError
from overnight.models import Experiment, Idea, Operator, Proposal, Stage, Study
from overnight.operators import SPOKEN
from overnight.pace import Pace, Patience
from overnight.steps import Parts, Steps, repair_of
from overnight.store import Store
from overnight.thinking import ASKS_AN_AGENT, Talk, Wish


def run_cycle(steps: Steps, experiment: Experiment, slot: int, *, settle: bool = True) -> Experiment | None:
    """Take one experiment from its number to its place in the branch; without ``settle`` to where it can be decided.

    Each step is in the store before the next begins; steps taken by an earlier loop are passed over. None = put back.
    """
    if experiment.stage is Stage.PROPOSED:
        experiment = steps.commit(experiment)
    wanted = steps.next_run(experiment) if experiment.stage in (Stage.COMMITTED, Stage.SUBMITTED) else None
    while True:
        if wanted is not None:
            measured = steps.measure(experiment, wanted, slot)
            if measured is None:
                return None
            experiment = measured
        with steps.deciding:
            if experiment.stage is not Stage.DECIDED:
                experiment, wanted = steps.decide(experiment) if settle else (experiment, steps.wanted(experiment))
            if wanted is not None and not wanted.number:  # a row of a wave waits for the others
                return None
            if wanted is None:
                experiment = steps.apply(experiment) if settle else experiment
                break
    if settle:
        steps.look_once(experiment)
    return experiment


def run_check(steps: Steps, check: Check, slot: int) -> None:
    """Look again at a settled experiment."""
    steps.check(check, slot)


class _HaltedError(Exception):
    """The loop is going down on an error elsewhere; this run goes on without it and is adopted later."""


class Loop:
    """One running loop over one study. ``run`` returns the reason why it ended; ``stop`` may be called from anywhere."""

    def __init__(self, study: Study, parts: Parts) -> None:
        self._parts = parts
        self._store: Store = parts.store
        self._pace = Pace(
            study.settings,
            self._store.totals(study.id, settled=True),
            self._store.ran_seconds(study.id),
            self._store.count(study.id),
            max(1, len(parts.gpus[0])),
        )
        self._steps = Steps(study, parts, self._reason_to_put_back, self._runs_left)
        self._chooser = Chooser(study, self._store, parts.thinker)
        self._patience = Patience()
        self._begun = time.monotonic()
        self._stop = ""  # "", "finish" or "now"
        self._halted = False
        self._end = ""  # the reason, once there is one
        self._trouble = ""  # what the loop waits for
        self._unanswered: list[str] = []  # why there was no proposal, of each row that says so
        self._woken = threading.Event()
        self._resume = deque(self._store.unfinished(study.id))
        self._checks = deque(Check(*found) for found in self._store.open_checks(study.id))
        self._ready: deque[Proposal] = deque()
        self._wishes = deque(self._steps.unmended())  # what is thought about before anything that the policy wants
        self._running: dict[Future[Experiment | None], tuple[int, Experiment, float]] = {}  # slot, what, since when
        self._thinking: dict[Future[Proposal], Wish] = {}
        self._asked = 0
        self._unbilled = (0, 0.0)  # tokens and dollars of proposals that came to nothing; the next row bears them

    @property
    def study(self) -> Study:
        """The study as it is now; the baseline may have shown which metric is its goal."""
        return self._steps.study

    def stop(self, how: str) -> None:
        """End the loop: ``finish`` the running experiments first, or put them back ``now``. Safe in a signal handler."""
        self._stop = how
        self._woken.set()

    def _reason_to_put_back(self) -> str:
        if self._halted:
            raise _HaltedError
        return "stop --now" if self._stop == "now" else ""

    def _elapsed(self) -> float:
        return time.monotonic() - self._begun

    def _runs_left(self) -> float:
        return self._pace.runs_left(self._elapsed())

    def run(self) -> str:
        """Work until the goal, the budget or a person ends it; returns the reason. Raises the first error that is fatal."""
        self._store.set_state(self.study.id, "running", "")
        cycles = ThreadPoolExecutor(self.study.settings.slots, "slot")
        thoughts = ThreadPoolExecutor(16, "thought")
        try:
            self._work(cycles, thoughts)
        except OvernightError as exc:
            self._end = f"error: {exc.message}"
            raise
        finally:
            self._halted = True
            thoughts.shutdown(wait=True, cancel_futures=True)
            cycles.shutdown(wait=True, cancel_futures=True)
            reason = self._end or ("stopped by a person" if self._stop else "ended by an error")
            self._store.set_state(self.study.id, "done" if self._end else "stopped", reason, self._pace.ran(self._elapsed()))
        self._parts.listen("end", None, reason)
        return reason

    def _work(self, cycles: ThreadPoolExecutor, thoughts: ThreadPoolExecutor) -> None:
        """The schedule, turn by turn: look at the person's wishes, take in what is done, fill the free slots."""
        told, beat = "", 0.0
        self._end = self._steps.goal_reached()
        self._steps.doubt_best()
        self._steps.verifier.unsupported(self.study)
        for number in self._parts.runner.unlooked(self.study):
            if (left := self._store.experiment(self.study.id, number)).stage is Stage.APPLIED:
                self._steps.look_once(left)
        while True:
            self._take_in_thoughts()
            self._take_in_runs()
            paused = self._heed()  # after what has ended, before what begins: a stop that was asked for in between is followed
            self._end = self._end or self._used_up()
            ending = bool(self._end or self._stop)
            if (
                ending
                and not self._running
                and (self._stop or not (self._resume or self._checks or self._steps.undoing or self._steps.verifier.checks))
            ):
                self._end = self._steps.goal_reached() or self._end
                if self._stop or self._end.startswith("goal reached") or not self._last_look():
                    return
            if not self._stop and not paused:
                self._fill(cycles, thoughts)
            state = "stopping" if ending else "paused" if paused else "running"
            if state != told or self._elapsed() - beat > 2:
                told, beat = state, self._elapsed()
                self._store.set_state(self.study.id, state, self._trouble, self._pace.ran(beat))
            self._woken.wait(0.2)
            self._woken.clear()

    def _used_up(self) -> str:
        """Which bound is reached, and how much of it went for want of proposals."""
        bound = self._pace.used_up(self._elapsed())
        count = len(self._unanswered)
        return f"{bound}; {count} of these brought no proposal: {self._unanswered[-1]}" if bound and count else bound

    def _heed(self) -> bool:
        """Follow what a person asked for through the store; true = paused."""
        wanted = self._store.wanted(self.study.id)
        if wanted in ("stop", "stop-now") and self._stop != "now":
            self._stop = "now" if wanted == "stop-now" else "finish"
        return wanted == "pause"

    # --- filling the slots ---------------------------------------------------------------------------------------

    def _fill(self, cycles: ThreadPoolExecutor, thoughts: ThreadPoolExecutor) -> None:
        slots = deque(set(range(self.study.settings.slots)) - {slot for slot, _, _ in self._running.values()})
        self._undo()
        while slots and self._resume:
            self._submit(cycles, self._resume.popleft(), slots.popleft())
        if slots and (not self._end or self._steps.verifier.checks):
            self._checks.extend(self._steps.look_back(self._runs_left()))
        while slots and self._checks:
            self._submit_check(cycles, self._checks.popleft(), slots.popleft())
        if self._end or not (self._store.bar(self.study.id) or self._may_think_early()):
            return
        hunger = self._gather()
        while slots and self._resume:
            self._submit(cycles, self._resume.popleft(), slots.popleft())
        while slots and self._ready and self._pace.room(0) and self._store.bar(self.study.id):
            experiment = self._number(self._ready.popleft())
            if experiment is not None:
                self._submit(cycles, experiment, slots.popleft())
        while self._wishes and self._pace.room(len(self._ready) + len(self._thinking)):
            self._think(thoughts, self._wishes.popleft())
        ages = [self._elapsed() - begun for _, _, begun in self._running.values()]
        while (
            len(self._ready) + len(self._thinking) < max(self._pace.wanted(len(slots), ages), hunger)
            and self._pace.room(len(self._ready) + len(self._thinking) + len(self._chooser.held))
            and self._patience.due(self._elapsed())
            and not (self._patience.streak and self._thinking)
        ):
            self._think(thoughts, None)

    def _may_think_early(self) -> bool:
        """Whether the baseline trains, its goal is known, and other slots would have to wait for proposals when it is done."""
        return bool(self.study.settings.slots > 1 and self.study.settings.ahead and self.study.metric and self._running)

    def _submit(self, cycles: ThreadPoolExecutor, experiment: Experiment, slot: int) -> None:
        future = cycles.submit(run_cycle, self._steps, experiment, slot)
        self._running[future] = (slot, experiment, self._elapsed())
        future.add_done_callback(lambda _: self._woken.set())

    def _submit_check(self, cycles: ThreadPoolExecutor, check: Check, slot: int) -> None:
        future: Future[Experiment | None] = cycles.submit(run_check, self._steps, check, slot)
        again = self._store.experiment(self.study.id, check.number)
        self._running[future] = (slot, replace(again, description=""), self._elapsed())
        future.add_done_callback(lambda _: self._woken.set())

    def _last_look(self) -> bool:
        """Whether there is something to run again before the study ends."""
        if self._pace.spare(self._elapsed()):
            self._checks.extend(self._steps.look_back(self._runs_left(), last=True))
        return bool(self._checks)

    def _undo(self) -> None:
        """Number what takes refuted keeps back; that needs no budget."""
        while self._steps.undoing:
            proposal = self._steps.undoing.popleft()
            if proposal.parent != self._tip():
                self._parts.listen("note", None, f"{proposal.idea.hypothesis}: not any more, there is a new best")
                continue
            self._resume.appendleft(self._propose(proposal))

    def _gather(self) -> int:
        """Let edits wait for a wave, and begin it when there are enough of them; returns how many more are wanted."""
        if not self._chooser.waves:
            return 0
        tip = self._tip()
        size = self._chooser.target(self._runs_left(), noisy=self._steps.noisy)
        self._ready.extend(self._chooser.release(tip if size else None))
        if not size:
            return 0
        for _ in range(len(self._ready)):
            proposal = self._ready.popleft()
            if len(self._chooser.held) >= size or not self._chooser.hold(self.study, proposal, tip):
                self._ready.append(proposal)
        if len(self._chooser.held) >= size:
            edits = self._chooser.held[:size]
            rows = self._chooser.wave(self.study, size, self._steps.fresh_seed(tip))
            if not rows:
                self._ready.extend(edits)
                return 0
            begun = [self._propose(row) for row in rows]
            self._steps.waves.begun(self.study, begun[0].number, edits, self._parts.clock())
            self._resume.extend(begun)
        return max(0, size - len(self._chooser.held))

    def _number(self, proposal: Proposal) -> Experiment | None:
        """Make the proposal an experiment; None if it became a repetition while it waited."""
        best = self._store.bar(self.study.id)
        tip = best[0] if best else 0
        stale = proposal.parent != tip
        if not proposal.rejected:
            if stale and self._chooser.carried(proposal, tip):
                proposal = self._parts.thinker.rebased(self.study, proposal, tip)
            same = self._store.same_files(self.study.id, proposal.files)
            if same and (stale or proposal.operator is Operator.COMBINE):
                self._parts.listen("note", None, f"a proposal was passed over: same files as #{same}")
                self._store.hand_over_ideas(self.study.id, same, proposal.takes)
                return None
            if same:
                proposal = replace(proposal, rejected=f"same files as #{same}, which was tried already")
        if proposal.rejected and not self._patience.streak:
            self._patience.rejected(self._elapsed())
        return self._propose(proposal)

    def _propose(self, proposal: Proposal) -> Experiment:
        self._pace.begun()
        (tokens, cost), self._unbilled = self._unbilled, (0, 0.0)
        proposal = replace(proposal, idea=replace(proposal.idea, tokens=proposal.idea.tokens + tokens, cost=proposal.idea.cost + cost))
        return self._store.propose(self.study.id, proposal, code_lines(proposal.files), self._parts.clock())

    def _tip(self) -> int:
        """The best experiment; the baseline as long as it is on its way."""
        best, baseline = self._store.bar(self.study.id), self._store.baseline(self.study.id)
        return best[0] if best else baseline.number if baseline else 0

    def _think(self, thoughts: ThreadPoolExecutor, wanted: Wish | None) -> None:
        self._asked += 1
        name = f"{int(self._parts.clock() * 1000):x}-{self._asked}"
        wish = replace(wanted, id=name) if wanted else self._wish(name)
        output = self._parts.runner.output(self.study, wish.crashed) if wish.crashed else ""
        running = (item.description for _, item, _ in self._running.values() if item.description)
        flying = (*running, *(item.idea.hypothesis for item in (*self._ready, *self._chooser.held)))
        talk = Talk(flying, self._pace.left(self._elapsed()), output, lambda: bool(self._halted or self._stop or self._end))
        future = thoughts.submit(self._parts.thinker.think, self.study, wish, talk)
        self._thinking[future] = wish
        future.add_done_callback(lambda _: self._woken.set())

    def _wish(self, name: str) -> Wish:
        """What the policy wants to be tried next."""
        flying = [wish.parent for wish in self._thinking.values()] + [item.parent for item in (*self._ready, *self._chooser.held)]
        task = self._chooser.next(self._tip(), flying + [item.parent for _, item, _ in self._running.values() if item.description])
        if task.step == "debug":
            broken = self._store.experiment(self.study.id, task.parent)
            return replace(repair_of(broken), id=name)
        return Wish(name, SPOKEN.get(task.step, Operator.IMPROVE), task.parent, others=task.others)

    # --- taking in what is done ----------------------------------------------------------------------------------

    def _take_in_runs(self) -> None:
        for future in [item for item in self._running if item.done()]:
            del self._running[future]
            experiment = future.result()
            if experiment is None:
                continue
            self._pace.settled(experiment)
            self._chooser.settled(experiment)
            if experiment.operator is Operator.BASELINE and experiment.decision != "keep":
                raise OvernightError("E-BASELINE", f"the baseline did not work: {experiment.cause}")
            after = self._steps.after(experiment)
            self._end = self._end or after.goal
            self._wishes.extend(after.wishes)
            self._end = self._end or self._chooser.plateau(self._steps.sigma)
            if self._pace.room(0):  # before whatever else is being thought about
                self._ready.extendleft(reversed(after.combined))
        self._resume.extend(self._steps.ripe())

    def _take_in_thoughts(self) -> None:
        for future in [item for item in self._thinking if item.done()]:
            wish = self._thinking.pop(future)
            try:
                proposal = future.result()
            except ProposalError as exc:
                self._no_proposal(wish, exc)
                continue
            if (said := proposal.idea.note) and said != self._trouble:
                self._parts.listen("note", None, said)
            self._trouble = said
            if not proposal.rejected:
                self._patience.worked()
            (self._ready.appendleft if wish.operator is Operator.REPAIR else self._ready.append)(proposal)

    def _no_proposal(self, wish: Wish, error: ProposalError) -> None:
        """Ride it out: say it, wait longer each time, and now and then write it down as a row."""
        if wish.operator is Operator.SIMPLIFY and error.outage and error.wait:  # the proposer is down; what it cannot do is not asked again
            self._chooser.not_simplified()
        if error.code == "E-CANCELLED" or (wish.operator in (Operator.REPAIR, *ASKS_AN_AGENT) and not error.outage):
            return
        if error.code == "E-SPACE-EXHAUSTED" and self._chooser.held:
            self._ready.extend(self._chooser.release())
            return
        if error.code == "E-SPACE-EXHAUSTED":
            self._end = self._end or error.message
            return
        if not error.outage:
            raise error
        self._unbilled = (self._unbilled[0] + error.tokens, self._unbilled[1] + error.cost)
        seconds = self._patience.failed(self._elapsed(), error.wait)
        self._trouble = (
            f"{error.code} {error.message}{': ' + error.why if error.why else ''}; asked again in {seconds:.0f} s"
            + (f" (failed {self._patience.streak} times in a row)" if self._patience.streak > 1 else "")
            + (f"; fix: {error.fix}" if error.fix else "")
        )
        self._store.set_state(self.study.id, "running", self._trouble)
        self._parts.listen("note", None, self._trouble)
        if self._patience.row_due():
            idea = Idea(hypothesis="no proposal", proposer="none")
            files = self._store.files(self.study.id, wish.parent)
            self._unanswered.append(f"{error.message}{': ' + error.why if error.why else ''}")
            cause = f"no proposal: {self._unanswered[-1]}"
            self._ready.append(Proposal(parent=wish.parent, operator=wish.operator, idea=idea, files=files, rejected=cause))
