"""The number that counts, measured by us: after a run is dead, the trusted evaluator reads the artefact that it left.

The artefact is copied once, safely; the evaluator comes from the base commit, never from the proposal; the hold-out is data that only
the evaluator ever sees. Knows nothing of decisions. Method: levels L0-L1 of the threat model in ``docs/security.md``.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from overnight.models import JobSpec, JobState, JobStatus, Study
from overnight.protocols import Executor
from overnight.workspace import Workspace

_LARGEST = 8 * 2**30  # bytes of an artefact
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Exam:
    """How artefacts of a study are measured. ``holdout`` is an absolute path, or None."""

    command: str  # {artifact} and {holdout} are replaced
    artifact: str  # path in the run's folder
    holdout: Path | None
    env: Mapping[str, str]
    time_limit: float
    wrap: Callable[[JobSpec], JobSpec]  # puts the job behind walls


class Examiner:
    """Measures artefacts; safe to use from several threads."""

    def __init__(self, executor: Executor, workspace: Workspace, exam: Exam) -> None:
        self._executor = executor
        self._workspace = workspace
        self._exam = exam

    def measure(self, study: Study, job: str, folder: Path, stop: Callable[[], str]) -> JobStatus:
        """The status of the evaluator's own job over what ``job`` left in ``folder``; FAILED with the cause if it left nothing fit.

        A job that was begun by an earlier loop is adopted.
        """
        name = f"{job}.eval"
        place = folder.with_name(name)
        if self._executor.poll(name).state is JobState.LOST:
            shutil.rmtree(place, ignore_errors=True)
            self._workspace.export(study.base_commit, {}, place)
            target = place / ".overnight-artifact" / PurePosixPath(self._exam.artifact).name
            target.parent.mkdir()
            problem = take(folder, self._exam.artifact, target)
            if problem:
                shutil.rmtree(place, ignore_errors=True)
                return JobStatus(JobState.FAILED, cause=problem)
            self._executor.submit(self._exam.wrap(self._spec(study, name, place, target)))
        asked = False
        while not (status := self._executor.poll(name, 0.5)).state.over:
            if not asked and (reason := stop()):
                self._executor.cancel(name, reason)
                asked = True
        shutil.rmtree(place, ignore_errors=True)
        return status

    def _spec(self, study: Study, name: str, place: Path, artifact: Path) -> JobSpec:
        words = {"{artifact}": shlex.quote(str(artifact)), "{holdout}": shlex.quote(str(self._exam.holdout or ""))}
        command = self._exam.command
        for word, value in words.items():
            command = command.replace(word, value)
        env = {**self._exam.env, "PYTHONNOUSERSITE": "1"}
        return JobSpec(
            id=name, argv=("/bin/sh", "-c", command), cwd=str(place), env=env, time_limit=self._exam.time_limit, log_head=2**22, log_tail=2**18, metric=study.metric
        )


def take(folder: Path, relative: str, target: Path) -> str:
    """Copy the artefact out of a dead run's folder, read once: a regular file with one name, no link on the way. Returns what is wrong."""
    parts = PurePosixPath(relative).parts
    if not parts or ".." in parts or parts[0] == "/":
        return f"the artefact '{relative}' does not lie in the run's folder"
    handles = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)]
    try:
        for part in parts[:-1]:
            handles.append(os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handles[-1]))
        handles.append(os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handles[-1]))
        found = os.fstat(handles[-1])
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            return f"the artefact {relative} is not a plain file"
        if found.st_size > _LARGEST:
            return f"the artefact {relative} is larger than {_LARGEST >> 30} GiB"
        with target.open("xb") as file:
            while block := os.read(handles[-1], _BLOCK):
                file.write(block)
    except FileNotFoundError:
        return f"the run left no artefact {relative}"
    except OSError as exc:
        return f"the artefact {relative} cannot be read: {exc.strerror}"
    finally:
        for handle in handles:
            os.close(handle)
    return ""
