"""Git, ``results.tsv`` and the branch as projections of the store: each can be made again from it, and is, at every start."""

from __future__ import annotations

from collections.abc import Sequence

from overnight.errors import GitError
from overnight.models import Decision, Experiment, Operator, Stage, Study
from overnight.printable import one_line
from overnight.results import Table
from overnight.store import Store
from overnight.workspace import Scope, Workspace


class Ledger:
    """Keeps git and the tables equal to the store."""

    def __init__(self, store: Store, workspace: Workspace, scope: Scope, tables: Sequence[Table]) -> None:
        self._store = store
        self._workspace = workspace
        self._scope = scope
        self._tables = tables

    def open(self, study: Study) -> None:
        """Make branch and tables equal to the record, whatever an earlier loop left undone."""
        applied = {item.number: item for item in self._store.experiments(study.id) if item.stage is Stage.APPLIED}
        settled = [applied[number] for number in self._store.decided(study.id) if number in applied]
        self._mend_branch(study, [item for item in settled if item.decision is Decision.KEEP])
        for table in self._tables:
            table.write(settled)

    def _mend_branch(self, study: Study, kept: Sequence[Experiment]) -> None:
        """A power cut can lose the last moves of a ref; a branch that somebody else has moved is left alone and said.

        ``kept`` is in the order of the decisions.
        """
        ours = {item.commit for item in self._store.experiments(study.id, kept=True)} | {study.base_commit}
        wanted = kept[-1].commit if kept else study.base_commit
        tip = self._workspace.tip(f"refs/heads/{study.branch}")
        if tip is None:
            self._workspace.create_branch(study.branch, wanted)
        elif tip not in ours:
            raise GitError(
                "E-BRANCH-MOVED", f"the branch {study.branch} holds a commit that is not of this study: {tip[:12]}",
                why="the branch is kept equal to the record", fix=f"git branch -m {study.branch} {study.branch}-mine   # then start again",
            )  # fmt: skip
        elif wanted not in (tip, study.base_commit):
            self._workspace.move_branch(study.branch, wanted, tip)

    def keep(self, study: Study, experiment: Experiment) -> Experiment:
        """Commit the proposal under ``refs/overnight/<tag>/<number>``; repeating it is harmless."""
        if experiment.operator is Operator.BASELINE:
            self._workspace.set_ref(_ref(study, experiment), study.base_commit)
            return self._store.advance(study.id, experiment.number, Stage.COMMITTED, commit_id=study.base_commit)
        return self._commit(study, experiment, self._store.experiment(study.id, experiment.parent).commit, Stage.COMMITTED)

    def _commit(self, study: Study, experiment: Experiment, parent: str, stage: Stage) -> Experiment:
        done = self._workspace.commit(
            parent=parent, base=study.base_commit, files=self._store.files(study.id, experiment.number), message=message(experiment, study),
            ref=_ref(study, experiment), when=experiment.started, scope=self._scope,
        )  # fmt: skip
        return self._store.advance(study.id, experiment.number, stage, commit_id=done.commit, tree=done.tree)

    def settle(self, study: Study, experiment: Experiment) -> Experiment:
        """After the decision: the final commit with its trailers, the branch for a keep, a row in the tables."""
        if experiment.operator is not Operator.BASELINE:
            experiment = self._publish(study, experiment)
        for table in self._tables:
            table.add(experiment)
        return self._store.advance(study.id, experiment.number, Stage.APPLIED)

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
        value = "none" if experiment.value is None else f"{experiment.value:.6g}"
        trailers += [f"Overnight-Metric: {one_line(study.metric)}={value}", f"Overnight-Decision: {experiment.decision}"]
    return "\n".join([subject, "", *trailers, ""])


def _ref(study: Study, experiment: Experiment) -> str:
    return f"refs/overnight/{study.tag}/{experiment.number}"
