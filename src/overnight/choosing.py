"""What to try next: the tree as the policies see it, near-misses that are combined, and edits that wait for a wave.

Holds a bounded part of the tree in memory and learns of each result as it comes, so that a choice costs the same at the tenth
experiment and at the ten-thousandth. Knows no thread and no clock; who has the idea is not its business.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from overnight.judge.audit import plateau
from overnight.judge.policies import Leaf, State, Task, ask, wave_size
from overnight.judge.waves import rows, wave_target
from overnight.models import Decision, Direction, Experiment, Idea, Operator, Proposal, Study
from overnight.store import Store
from overnight.thinking import Thinker

FOLLOWS = frozenset({"greedy", "optuna", "wave"})  # policies that work on the best version: a proposal may be carried over to a new one
ALONE = "wave, alone"  # who proposes an edit whose wave was void: it is not crossed again
_LEAVES = 400  # of the tree; beyond them the worst are forgotten
_CRASHES = 50  # latest experiments whose crashes decide whether edits are crossed


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit that waits for a wave."""

    proposal: Proposal

    def data(self, parent: Mapping[str, bytes]) -> dict[str, object]:
        """What brings it back after a restart: its words and the files that it changes, in Latin-1, which holds any byte."""
        files = self.proposal.files
        changed = {path: content.decode("latin-1") for path, content in files.items() if parent.get(path) != content}
        told = {"told": list(self.proposal.told), "takes": list(self.proposal.takes)}
        return {"text": self.proposal.idea.hypothesis, "files": changed, "gone": [path for path in parent if path not in files], **told}


class Chooser:
    """Chooses for one study. Not safe for several threads: the loop's own thread calls it."""

    def __init__(self, study: Study, store: Store, thinker: Thinker) -> None:
        self._thinker = thinker
        self._store = store
        self._policy = study.settings.policy
        self._sign = 1.0 if study.direction is Direction.MAXIMIZE else -1.0
        self._leaves: dict[int, Leaf] = {}
        self._discards = 0
        self._asked = store.count(study.id)
        self._crashed: deque[bool] = deque(maxlen=_CRASHES)
        self._gains: deque[float] = deque(maxlen=max(1, study.settings.plateau))
        self.waves = self._policy == "wave"
        self._patience, self._least = study.settings.plateau, study.settings.min_delta
        self._seed = study.settings.seed
        self._lean: int | None = None  # lines of code of what was simplified last, else of the baseline
        self._leaner: int | None = None  # the same before the latest wish to simplify
        self._held: list[Proposal] = []
        self._union: Mapping[str, bytes] = {}  # the parent with all that is held, merged
        first = store.baseline(study.id)
        latest = store.experiments(study.id, last=max(_LEAVES, study.settings.plateau))
        known = {item.number: item for item in (*store.experiments(study.id, last=64, kept=True), *latest, *((first,) if first else ()))}
        for number in sorted(known):
            if known[number].decision is not None:
                self.settled(known[number])

    def settled(self, item: Experiment) -> None:
        """Learn of a result."""
        parent = self._leaves.get(item.parent)
        if parent is not None and item.number not in self._leaves:
            self._leaves[item.parent] = replace(parent, children=parent.children + 1)
        kept = item.decision is Decision.KEEP
        if item.operator is not Operator.BASELINE:
            self._discards = 0 if kept else self._discards + 1
            self._crashed.append(item.decision is Decision.CRASH)
            self._gains.append(item.gain if kept and item.gain is not None else 0.0)
        if item.operator is Operator.REVERT:
            if kept and isinstance(item.state.get("takes_back"), int):
                self._leaves.pop(int(str(item.state["takes_back"])), None)
            return
        self._weigh(item, kept=kept)
        level = item.value if item.believed is None else item.believed
        if item.decision is Decision.CRASH or level is not None:
            mean = self._sign * level if level is not None and item.decision is not Decision.CRASH else -math.inf
            depth = self._leaves[item.repairs].repairs + 1 if item.repairs in self._leaves else 0
            self._leaves[item.number] = Leaf(
                item.number,
                item.parent,
                mean,
                item.believed_sd or 0.0,
                kept=kept and not item.reverted,
                near=item.near,
                repairs=depth,
                lines=item.lines,
            )
        if len(self._leaves) > _LEAVES:
            self._forget()

    def _weigh(self, item: Experiment, *, kept: bool) -> None:
        """Learn how long the code was when somebody last tried to make it shorter; a row without an answer is no try."""
        if item.operator is Operator.BASELINE:
            self._lean = item.lines
        elif item.operator is Operator.SIMPLIFY and item.proposer != "none":
            before = self._leaves.get(item.parent)
            self._lean = item.lines if kept or before is None else before.lines

    def not_simplified(self) -> None:
        """Say that nobody could be asked to simplify: the wish comes again."""
        self._lean = self._leaner

    def _forget(self) -> None:
        """Leave out what no policy would choose: the worst that were not kept, and among equals the oldest."""
        first = min(self._leaves)
        spare = [leaf for leaf in self._leaves.values() if not leaf.kept and leaf.number != first] or list(self._leaves.values())[1:]
        for leaf in sorted(spare, key=lambda leaf: (leaf.mean, leaf.number))[: _LEAVES // 4]:
            del self._leaves[leaf.number]

    def next(self, tip: int, flying: Sequence[int]) -> Task:
        """What to ask for now. ``flying``: parents of what is thought about, waits or runs."""
        leaves = tuple(self._leaves[number] for number in sorted(self._leaves))
        if not leaves:
            return Task("improve", tip)
        state = State(leaves, tip, self._discards, flying=tuple(flying), asked=self._asked, seed=self._seed,
                      lean=self._lean if self._thinker.reads_briefs else None)  # fmt: skip
        self._asked += 1
        task = ask("greedy" if self._policy == "wave" else self._policy, state, 1)[0]
        if task.step == "simplify":
            self._leaner, self._lean = self._lean, self._leaves[tip].lines
        for number in task.others if task.step == "combine" else ():
            self._leaves[number] = replace(self._leaves[number], near=False)  # tried once, whatever comes of it
        return task

    def carried(self, proposal: Proposal, tip: int) -> bool:
        """Whether a proposal made from an earlier best is to be carried over to the present one."""
        if self._policy not in FOLLOWS or proposal.operator not in (Operator.IMPROVE, Operator.SIMPLIFY):
            return False
        at = self._leaves.get(tip)
        while at is not None and at.number != proposal.parent:
            at = self._leaves.get(at.parent) if at.parent != at.number else None
        known = self._leaves.get(proposal.parent)
        return at is not None or known is None or known.kept

    def plateau(self, sigma: float | None) -> str:
        """The reason to end when the last experiments have together brought next to nothing; empty while they do, or if nobody asked."""
        least = max(self._least, 0.5 * (sigma or 0.0), 1e-300)
        if not plateau(list(self._gains), self._patience, least):
            return ""
        return f"plateau: the last {self._patience} experiments together brought {math.fsum(self._gains):.3g}, less than {least:.3g}"

    # --- waves ---------------------------------------------------------------------------------------------------

    def target(self, runs_left: float, *, noisy: bool) -> int:
        """How many edits the next wave holds; 0 = edits are run one at a time."""
        if not self.waves or not noisy:
            return 0
        crashes = sum(self._crashed) / len(self._crashed) if self._crashed else 0.0
        return wave_size(wave_target(runs_left), crashes)

    def hold(self, study: Study, proposal: Proposal, tip: int) -> bool:
        """Let an edit of the best version wait for a wave, one of each; False if it cannot be merged with those that wait already."""
        fresh = proposal.operator is Operator.IMPROVE and proposal.idea.proposer != ALONE
        if proposal.rejected or not fresh or proposal.parent != tip:
            return False
        if any(item.files == proposal.files for item in self._held):
            return True  # it waits already
        if self._store.same_files(study.id, proposal.files):
            return False
        ground = self._store.files(study.id, tip)
        if not self._held:
            self._union = ground
        merged = self._thinker.merge_files(ground, self._union, proposal.files)
        if merged is None or merged == self._union:
            return False
        self._held.append(proposal)
        self._union = merged
        return True

    @property
    def held(self) -> tuple[Proposal, ...]:
        """The edits that wait."""
        return tuple(self._held)

    def release(self, tip: int | None = None) -> list[Proposal]:
        """Give up what waits, to be run one at a time: all of it, or only if it was made from another version than ``tip``."""
        if tip is not None and all(item.parent == tip for item in self._held):
            return []
        freed, self._held = self._held, []
        return freed

    def wave(self, study: Study, size: int, seed: int) -> list[Proposal]:
        """The runs of a wave over the first edits that wait; none if they do not go together, or if one of the runs was made before."""
        edits, self._held = self._held[:size], self._held[size:]
        ground = self._store.files(study.id, edits[0].parent)
        made = []
        for place, row in enumerate(rows(len(edits))):
            files = crossed(self._thinker, ground, [edits[at].files for at in row])
            if files is None or self._store.same_files(study.id, files):
                return []
            text = f"wave: {' + '.join(edits[at].idea.hypothesis for at in row)}"
            told = {"wave": {"row": place, "size": len(edits), "seed": seed, "edits": list(row)}}
            idea = Idea(hypothesis=text[:300], proposer="wave", seconds=0.0, state=told)
            notes = tuple(dict.fromkeys(note for at in row for note in edits[at].told))
            # Each row holds the edit of its own place: what becomes of that edit's idea is told of this row.
            made.append(Proposal(edits[0].parent, Operator.WAVE, idea, files, told=notes, takes=edits[place].takes))
        for place, edit in enumerate(edits):  # what thinking took and cost is booked once, on the first rows
            at = place % len(made)
            idea = made[at].idea
            spent = replace(
                idea, seconds=idea.seconds + edit.idea.seconds, tokens=idea.tokens + edit.idea.tokens, cost=idea.cost + edit.idea.cost
            )
            made[at] = replace(made[at], idea=spent)
        return made


def crossed(thinker: Thinker, ground: Mapping[str, bytes], edits: Sequence[Mapping[str, bytes]]) -> dict[str, bytes] | None:
    """Several edits of ``ground`` merged into one version; None on a conflict."""
    files: dict[str, bytes] = dict(ground)
    for edit in edits:
        merged = thinker.merge_files(ground, files, edit)
        if merged is None:
            return None
        files = merged
    return files
