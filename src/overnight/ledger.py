"""Git, ``results.tsv`` and the branch as projections of the store: each can be made again from it, and is, at every start."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from overnight.errors import GitError
from overnight.models import Decision, Experiment, Operator, Stage, Study
from overnight.printable import one_line
from overnight.results import Table
from overnight.store import Store
from overnight.workspace import Committed, Scope, Workspace

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_UNSURE = 200  # experiments whose commits are made again after the machine was started anew


class Ledger:
    """Keeps git and the tables equal to the store."""

    def __init__(self, store: Store, workspace: Workspace, scope: Scope, tables: Sequence[Table], boot: Path | None = None) -> None:
        self._store = store
        self._workspace = workspace
        self._scope = scope
        self._tables = tables
        self._boot = boot  # where the machine's last start is remembered

    def open(self, study: Study) -> None:
        """Make branch and tables equal to the record, whatever an earlier loop left undone."""
        applied = {item.number: item for item in self._store.experiments(study.id) if item.stage is Stage.APPLIED}
        settled = [applied[number] for number in self._store.decided(study.id) if number in applied]
        boot = self._new_boot()
        early = self._rewrite(study, settled) if boot else set()
        self._mend_branch(study, [item for item in settled if item.decision is Decision.KEEP], early)
        for table in self._tables:
            table.write(settled)
        if boot and self._boot is not None:  # only now: the next loop must not take half the work for all of it
            self._boot.write_text(boot, encoding="ascii")

    def _mend_branch(self, study: Study, kept: Sequence[Experiment], early: AbstractSet[str]) -> None:
        """A power cut can lose the last moves of a ref; a branch that somebody else has moved is left alone and said.

        ``kept`` is in the order of the decisions. ``early`` are commits that the branch may hold although the record does not know
        them yet: the move was on the disk, the note that followed the decision was not. That step is taken again.
        """
        ours = {item.commit for item in self._store.experiments(study.id, kept=True)} | {study.base_commit}
        wanted = kept[-1].commit if kept else study.base_commit
        tip = self._workspace.tip(f"refs/heads/{study.branch}")
        if tip is None:
            self._workspace.create_branch(study.branch, wanted)
        elif tip in early - ours:
            self._workspace.move_branch(study.branch, wanted, tip)
        elif tip not in ours:
            raise GitError(
                "E-BRANCH-MOVED", f"the branch {study.branch} holds a commit that is not of this study: {tip[:12]}",
                why="the branch is kept equal to the record", fix=f"git branch -m {study.branch} {study.branch}-mine   # then start again",
            )  # fmt: skip
        elif wanted not in (tip, study.base_commit):
            self._workspace.move_branch(study.branch, wanted, tip)

    def _new_boot(self) -> str:
        """The machine's present start, if it is not known to be that of the last loop: what git had not on the disk by then may be gone."""
        if self._boot is None or not _BOOT_ID.exists():
            return ""
        now = _BOOT_ID.read_text(encoding="ascii")
        known = self._boot.read_text(encoding="ascii", errors="replace") if self._boot.exists() else ""  # may be lost itself
        return now if known != now else ""

    def _rewrite(self, study: Study, settled: Sequence[Experiment]) -> set[str]:
        """Make the latest commits again, objects and refs: the same bytes give the same ids. ``settled`` is in the order of the decisions.

        Returns the commits of keeps that were decided and not yet applied.
        """
        self._workspace.drop_empty()
        tip, commits = study.base_commit, {item.number: item.commit for item in settled}
        for place, item in enumerate(settled):
            kept = item.decision is Decision.KEEP
            ground = tip if kept else commits.get(item.parent, study.base_commit)
            if place >= len(settled) - _UNSURE:
                self._remade(study, item, ground)
            tip = item.commit if kept else tip
        unfinished = self._store.unfinished(study.id)
        waiting = [item for item in unfinished if item.decision is Decision.KEEP or (item.operator is Operator.BASELINE and item.commit)]
        return {self._remade(study, item, tip) for item in waiting}

    def _remade(self, study: Study, experiment: Experiment, ground: str) -> str:
        """The commit of a settled experiment and its ref, made again."""
        if experiment.operator is not Operator.BASELINE:
            return self._made(study, experiment, ground).commit
        self._workspace.set_ref(_ref(study, experiment), study.base_commit)
        return study.base_commit

    def keep(self, study: Study, experiment: Experiment) -> Experiment:
        """Commit the proposal under ``refs/overnight/<tag>/<number>``; repeating it is harmless."""
        if experiment.operator is Operator.BASELINE:
            self._workspace.set_ref(_ref(study, experiment), study.base_commit)
            return self._store.advance(study.id, experiment.number, Stage.COMMITTED, commit_id=study.base_commit)
        return self._commit(study, experiment, self._store.experiment(study.id, experiment.parent).commit, Stage.COMMITTED)

    def _commit(self, study: Study, experiment: Experiment, parent: str, stage: Stage) -> Experiment:
        done = self._made(study, experiment, parent)
        return self._store.advance(study.id, experiment.number, stage, commit_id=done.commit, tree=done.tree)

    def _made(self, study: Study, experiment: Experiment, parent: str) -> Committed:
        return self._workspace.commit(
            parent=parent, base=study.base_commit, files=self._store.files(study.id, experiment.number), message=message(experiment, study),
            ref=_ref(study, experiment), when=experiment.started, scope=self._scope,
        )  # fmt: skip

    def settle(self, study: Study, experiment: Experiment) -> Experiment:
        """After the decision: the final commit with its trailers, the branch for a keep, a row in the tables."""
        if experiment.operator is not Operator.BASELINE:
            experiment = self._publish(study, experiment)
        for table in self._tables:
            table.add(experiment)
        return self._store.advance(study.id, experiment.number, Stage.APPLIED)

    def amend(self, before: Experiment, after: Experiment) -> None:
        """Let the tables follow a row that re-tests have changed."""
        for table in self._tables:
            table.amend(before, after)

    def _publish(self, study: Study, experiment: Experiment) -> Experiment:
        if experiment.decision is not Decision.KEEP:
            return self._commit(study, experiment, self._store.experiment(study.id, experiment.parent).commit, Stage.DECIDED)
        tip = self._workspace.tip(f"refs/heads/{study.branch}") or study.base_commit
        if tip == experiment.commit:  # moved by an earlier loop that was killed right after
            return experiment
        experiment = self._commit(study, experiment, tip, Stage.DECIDED)
        self._workspace.move_branch(study.branch, experiment.commit, tip)
        return experiment


def message(experiment: Experiment, study: Study) -> str:
    """The commit message: the hypothesis, then trailers with number, metric and decision once they are known."""
    subject = one_line(experiment.description, 100) or f"experiment {experiment.number}"
    trailers = [f"Overnight-Experiment: {experiment.number}"]
    if experiment.decision is not None:
        decided = experiment.value if experiment.decided_value is None else experiment.decided_value  # later runs change no commit
        value = "none" if decided is None else f"{decided:.6g}"
        trailers += [f"Overnight-Metric: {one_line(study.metric)}={value}", f"Overnight-Decision: {experiment.decision}"]
    return "\n".join([subject, "", *trailers, ""])


def _ref(study: Study, experiment: Experiment) -> str:
    return f"refs/overnight/{study.tag}/{experiment.number}"
