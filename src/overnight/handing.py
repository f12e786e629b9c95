"""What a task finds and what it leaves: the code as it was packed, files and numbers of its needs, and afterwards its own for others.

Knows nothing of executors, order or states. What tasks leave is kept by its hash before the record tells of it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from overnight.dag import globs
from overnight.dag.caching import Parts, code_hash, counted, handed_hash, parts_from_json, why
from overnight.dag.filling import Values, filled
from overnight.dag.plan import slug
from overnight.dag.words import Dag, Kept, Node, Plan, Row, Task
from overnight.errors import NotFoundError, StorageError
from overnight.folders import remove
from overnight.leavings import Outputs, Taken, fingerprint
from overnight.store.pipelines import Pipelines
from overnight.workspace import Parcels

# As Python says it, and as shells and libc do.
_MISSED = re.compile(r"""No such file or directory: ['"]([^'"\n]+)['"]|([^\s:'"]+)['"]?: (?:No such file or directory|Permission denied)""")
INPUTS = ".overnight/inputs.json"
_ENTER = 'cd -- "$0" && exec "$@"'
_ENTER_APART = 'cd -- "$0" && OVERNIGHT_INPUTS="$PWD/$1" && export OVERNIGHT_INPUTS && shift && exec "$@"'


@dataclass(frozen=True, slots=True)
class Filled:
    """A task whose placeholders are filled: what it will really run."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    outputs: tuple[str, ...] | None
    sources: tuple[str, ...]


@dataclass(slots=True)
class _Code:
    """The files of a pipeline's code below its folder: path -> mode and id."""

    files: dict[str, tuple[str, str]]
    hashes: dict[tuple[str, ...], str] = field(default_factory=dict)


class Handing:
    """Of one pipeline; ``plan`` is its plan, ``rows`` what has become of its tasks (kept up to date by whoever owns it).

    ``data`` are paths beside the code that every task needs.
    """

    def __init__(
        self, doors: tuple[Pipelines, Parcels, Outputs], dag: Dag, plan: Plan, rows: list[Row], home: Path, data: tuple[str, ...] = ()
    ) -> None:
        self._data = data
        self._record, self._parcels, self._outputs = doors
        self._dag, self._plan, self._rows, self._home = dag, plan, rows, home
        self._code = _Code(self._files(dag.commit, dag.folder))
        self._handed: dict[int, tuple[Kept, ...]] = {}

    # --- before a task -----------------------------------------------------------------------------------------------

    def filled(self, task: Task) -> Filled:
        """Command, variables and paths of a task. Raises ``ValueError`` for a number that no need has printed."""
        node, values = task.node, self._values(task)
        words = (node.command,) if isinstance(node.command, str) else node.command
        return Filled(
            tuple(filled(word, task, values) for word in words),
            {name: filled(value, task, values) for name, value in node.env.items()},
            tuple(filled(path, task, values) for path in node.outputs) if node.outputs is not None else None,
            (*(filled(path, task, values) for path in node.inputs), *self._data),
        )

    def parts(self, task: Task, found: Filled) -> Parts:
        """All that counts for the cache of a task."""
        node = task.node
        env = {**found.env, **{f"matrix.{key}": value for key, value in task.matrix}}
        if found.sources not in self._code.hashes:
            self._code.hashes[found.sources] = code_hash(self._code.files, found.sources, self._apart())
        data = {path: self._fingerprint(place) for path, place in self.outside(found.sources).items()}
        needs = {self._plan.tasks[need].id: handed_hash(self.handed(need), self._rows[need].values) for need in task.needs}
        words = found.argv if not isinstance(node.command, str) else ("/bin/sh", *found.argv)
        return Parts(
            words, node.working_dir, env, found.outputs, self._code.hashes[found.sources], data, needs, self._dag.commit, found.sources
        )

    def why_not(self, task: Task, parts: Parts) -> tuple[int, str]:
        """The last pipeline in which the task succeeded, and what has changed since; 0 = none."""
        number, text = self._record.previous(self._dag, task.id)
        before = parts_from_json(text) if text else None
        return number, why(before, parts, self._changed(before, parts) if before is not None and before.code != parts.code else ())

    def is_there(self, found: tuple[int, int]) -> bool:
        """Whether all that an earlier task has left is still kept."""
        return self._outputs.has(self._record.outputs(*found))

    def lay(self, task: Task, found: Filled, folder: Path) -> Path:
        """Lay code, files and numbers into the new ``folder``; returns the pipeline's folder in it.

        Raises ``ValueError`` if two needs hand on different files at one path; ``StorageError``, ``NotFoundError``.
        """
        remove(folder)
        chosen = self._chosen(task)
        self._parcels.export(self._dag.commit, folder)
        base = folder / self._dag.folder
        try:
            for name, place in self._links(folder, found).items():
                if not os.path.lexists(name):
                    name.parent.mkdir(parents=True, exist_ok=True)
                    name.symlink_to(place)
            self._outputs.lay(chosen.values(), base)
            (base / INPUTS).parent.mkdir(exist_ok=True)
            (base / INPUTS).write_text(json.dumps(self._told(task), indent=1) + "\n", encoding="utf-8")
        except OSError as exc:
            raise StorageError(
                "E-RUN-FOLDER", f"the folder of {task.id} cannot be made: {exc.strerror}", where=str(folder), fix="df -h ."
            ) from exc
        return base

    def outside(self, sources: tuple[str, ...]) -> dict[str, Path]:
        """What a node reads that is not code: path as written -> where it lies. What is nowhere yet may be handed on to it."""
        found = {}
        for entry in sources:
            place = self._home / entry[2:] if entry.startswith("~/") else Path(self._dag.workdir, entry)
            if entry.startswith(("/", "~")) or (
                not globs.is_pattern(entry) and place.exists() and not any(globs.is_named(path, (entry,)) for path in self._code.files)
            ):
                found[entry] = place
        return found

    # --- after a task ------------------------------------------------------------------------------------------------

    def take(self, task: Task, found: Filled, folder: Path, commit: str) -> Taken:
        """Keep what a task has left in its folder, which began as the code of ``commit``. Raises ``StorageError``."""
        files = self._code.files if commit == self._dag.commit else self._files(commit, self._dag.folder)
        known = {path: name for path, (_, name) in files.items()}
        given = {path: file.sha for path, file in self._chosen(task).items()}
        return self._outputs.take(folder / self._dag.folder, found.outputs, known, given)

    def unseen(self, output: str) -> str:
        """A path that a task has missed although it lies beside the code or elsewhere on this machine; empty if there is none."""
        named = [name for match in _MISSED.finditer(output[-4096:]) for name in match.groups() if name]
        return next((name for name in reversed(named) if name not in self._code.files and Path(self._dag.workdir, name).exists()), "")

    def handed(self, position: int) -> tuple[Kept, ...]:
        """What a task that is over hands on."""
        if position not in self._handed:
            self._handed[position] = self._record.outputs(self._dag.number, position)
        return self._handed[position]

    # --- parts -------------------------------------------------------------------------------------------------------

    def _files(self, commit: str, folder: str) -> dict[str, tuple[str, str]]:
        head = f"{folder}/" if folder else ""
        return {path[len(head) :]: (entry.mode, entry.id) for path, entry in self._parcels.files(commit).items() if path.startswith(head)}

    def _apart(self) -> tuple[str, ...]:
        """The pipeline's own file: what in it concerns a task is counted by itself."""
        return (self._dag.file,)

    def _values(self, task: Task) -> Values:
        found: dict[str, dict[str, Mapping[str, float]]] = {}
        for need in task.needs:
            other = self._plan.tasks[need]
            found.setdefault(other.node.name, {})[other.instance] = self._rows[need].values
        return found

    def _chosen(self, task: Task) -> dict[str, Kept]:
        """The files that a task finds, by path. What a need has made goes before what another merely passes on."""
        found: dict[str, tuple[Kept, str]] = {}
        for need in task.needs:
            other = self._plan.tasks[need]
            head = f"{other.node.name}/{slug(other.instance)}/" if other.node.name in task.gathers else ""
            for file in self.handed(need):
                path = head + file.path
                before = found.get(path)
                if before is None or before[0].sha == file.sha or (file.own and not before[0].own):
                    found[path] = (Kept(path, file.sha, file.size, file.executable, file.own), other.id)
                elif file.own == before[0].own:
                    raise ValueError(
                        f"both {before[1]} and {other.id} hand on {path}, and the two differ; name in outputs: of one of them what counts"
                    )
        return {path: file for path, (file, _) in found.items()}

    def _told(self, task: Task) -> dict[str, object]:
        """What $OVERNIGHT_INPUTS holds."""
        needs: dict[str, object] = {}
        for need in task.needs:
            other = self._plan.tasks[need]
            gathered = other.node.name in task.gathers
            told = {
                "values": dict(self._rows[need].values),
                "folder": f"{other.node.name}/{slug(other.instance)}" if gathered else ".",
                "files": [file.path for file in self.handed(need)],
            }
            if gathered:
                several = needs.setdefault(other.node.name, {})
                assert isinstance(several, dict)
                several[other.instance] = told
            else:
                needs[other.node.name] = told
        return {"schema": "overnight/inputs/1", "dag": self._dag.id, "task": task.id, "matrix": dict(task.matrix), "needs": needs}

    def _links(self, folder: Path, found: Filled) -> dict[Path, Path]:
        """Links that the folder needs: those of the code that lead out of it, the virtual environment, and data beside the code."""
        base, workdir = folder / self._dag.folder, Path(self._dag.workdir)
        links = {base / ".venv": workdir / ".venv"} if (workdir / ".venv").exists() else {}
        top = workdir.joinpath(*[".."] * len(PurePosixPath(self._dag.folder).parts))
        links |= {folder / path: Path(os.path.normpath((top / path).parent / target)) for path, target in self._dag.links.items()}
        return links | {
            base / entry: place.resolve() for entry, place in self.outside(found.sources).items() if not entry.startswith(("/", "~"))
        }

    def _fingerprint(self, place: Path) -> str:
        return fingerprint(place, self._record.digest, self._record.keep_digests)

    def _changed(self, before: Parts, now: Parts) -> list[str]:
        """The paths of code that counted and differ."""
        try:
            old = self._files(before.commit, self._dag.folder)
        except NotFoundError:  # it was cleared away
            return []
        new = self._code.files
        paths = {*counted(old, before.sources, self._apart()), *counted(new, now.sources, self._apart())}
        return sorted(path for path in paths if old.get(path) != new.get(path))


def shell(node: Node, found: Filled, inside: str, *, apart: bool) -> tuple[str, ...]:
    """The words that run a task, in ``working_dir`` of the pipeline's folder, which is ``inside`` of what was laid out.

    ``apart``: that is a copy somewhere else, where $OVERNIGHT_INPUTS is known only once the task begins.
    """
    words = found.argv if not isinstance(node.command, str) else ("/bin/sh", "-c", found.argv[0])
    if node.working_dir:
        words = ("/bin/sh", "-c", _ENTER, node.working_dir, *words)
    if apart:
        return ("/bin/sh", "-c", _ENTER_APART, inside or ".", INPUTS, *words)
    return ("/bin/sh", "-c", _ENTER, inside, *words) if inside else words


def job_name(dag: Dag, task: Task) -> str:
    """The job of a task without its attempt: fit for a file name."""
    same = f"+{task.position}" if task.matrix else ""
    return f"{dag.id}-{task.node.name}{same}"
