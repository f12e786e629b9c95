"""The number that counts, measured by us: after a run is dead, the trusted evaluator reads the artefact that it left.

The artefact is copied once, safely; the evaluator comes from the base commit, never from the proposal; the hold-out is data that only
the evaluator ever sees. Knows nothing of decisions. Method: the levels of the threat model in ``docs/security.md``.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from overnight.folders import remove
from overnight.models import JobSpec, JobState, JobStatus, Study
from overnight.protocols import Executor
from overnight.workspace import Scope, Workspace

_LARGEST = 8 * 2**30  # bytes of an artefact
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Exam:
    """How artefacts of a study are measured. ``holdout`` is an absolute path, or None.

    With ``predict`` the evaluation is blind: the predictor (the proposal's code, with the artefact) and the evaluator (the base
    commit's, with the hold-out) are two processes behind walls of their own that speak through a pipe.
    """

    command: str  # {artifact} and {holdout} are replaced
    artifact: str  # path in the run's folder
    holdout: Path | None
    hidden: Path | None  # a second hold-out, which decides nothing
    predict: str
    env: Mapping[str, str]
    time_limit: float
    scope: Scope
    wrap: Callable[[JobSpec], JobSpec]  # puts a job behind walls


class Examiner:
    """Measures artefacts; safe to use from several threads."""

    def __init__(self, executor: Executor, workspace: Workspace, exam: Exam) -> None:
        self._executor = executor
        self._workspace = workspace
        self._exam = exam

    def measure(self, study: Study, folder: Path, files: Mapping[str, bytes], stop: Callable[[], str]) -> JobStatus:
        """The status of the evaluator's own job over what the run left in ``folder``; FAILED with the cause if it left nothing fit.

        ``files`` are the proposal's. A job that was begun by an earlier loop is adopted.
        """
        return self._examine(study, (f"{folder.name}.eval", folder, self._exam.artifact, self._exam.holdout), files, stop)

    @property
    def looks_twice(self) -> bool:
        """Whether there is a hidden hold-out."""
        return self._exam.hidden is not None

    def keep_artifact(self, folder: Path, target: Path) -> None:
        """Put a copy of what the run left aside, for the hidden hold-out, should the experiment be kept."""
        remove(target)
        target.mkdir(parents=True)
        take(folder, self._exam.artifact, target / PurePosixPath(self._exam.artifact).name)

    def measure_hidden(self, study: Study, aside: Path, files: Mapping[str, bytes], stop: Callable[[], str]) -> JobStatus:
        """The same evaluator over an artefact put aside, with the hidden hold-out."""
        artifact = PurePosixPath(self._exam.artifact).name
        return self._examine(study, (f"{aside.name}.hidden", aside, artifact, self._exam.hidden), files, stop)

    def _examine(
        self, study: Study, what: tuple[str, Path, str, Path | None], files: Mapping[str, bytes], stop: Callable[[], str]
    ) -> JobStatus:
        name, folder, relative, holdout = what
        desk = folder.with_name(name)  # holds everything of this evaluation
        if self._executor.poll(name).state is JobState.LOST:
            remove(desk)
            desk.mkdir()
            artifact = desk / "artifact" / PurePosixPath(relative).name
            artifact.parent.mkdir()
            if problem := take(folder, relative, artifact):
                remove(desk)
                return JobStatus(JobState.FAILED, cause=problem)
            self._workspace.export(study.base_commit, {}, desk / "trusted")
            self._executor.submit(self._spec(study, (name, desk, artifact, holdout), files))
        asked = False
        while not (status := self._executor.poll(name, 0.5)).state.over:
            if not asked and (reason := stop()):
                self._executor.cancel(name, reason)
                asked = True
        remove(desk)
        return status

    def _spec(self, study: Study, where: tuple[str, Path, Path, Path | None], files: Mapping[str, bytes]) -> JobSpec:
        (name, desk, artifact, holdout), exam = where, self._exam
        trusted = JobSpec(
            id=name,
            argv=("/bin/sh", "-c", _filled(exam.command, artifact, holdout)),
            cwd=str(desk / "trusted"),
            env={**exam.env, "PYTHONNOUSERSITE": "1"},
            time_limit=exam.time_limit,
            log_head=2**22,
            log_tail=2**18,
            metric=study.metric,
            readable=(*((str(holdout),) if holdout else ()), *(() if exam.predict else (str(artifact.parent),))),
        )
        if not exam.predict:
            return exam.wrap(trusted)
        self._workspace.export(study.base_commit, files, desk / "predictor", None, exam.scope)
        argv = ("/bin/sh", "-c", _filled(exam.predict, artifact, None))
        predictor = JobSpec(id=name, argv=argv, cwd=str(desk / "predictor"), env=exam.env, readable=(str(artifact.parent),))
        plan = desk / "plan.json"
        plan.write_text(json.dumps({"examiner": _side(exam.wrap(trusted)), "predictor": _side(exam.wrap(predictor))}), encoding="utf-8")
        program = str(Path(__file__).with_name("blind.py"))
        return replace(trusted, argv=(sys.executable, "-I", "-S", program, str(plan)), cwd=str(desk), wrap=(), files=())


def _filled(command: str, artifact: Path, holdout: Path | None) -> str:
    return command.replace("{artifact}", shlex.quote(str(artifact))).replace("{holdout}", shlex.quote(str(holdout or "")))


def _side(spec: JobSpec) -> dict[str, object]:
    return {"argv": [*spec.wrap, *spec.argv], "cwd": spec.cwd, "env": dict(spec.env), "files": list(spec.files)}


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
