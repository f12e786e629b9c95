"""``Workspace``: what the loop does with git, as one noun in and one noun out.

Combines the parts of this room; holds no rule of its own but what may be in a base commit.
"""

from __future__ import annotations

import difflib
import os
import shlex
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from overnight.errors import GitError, NotFoundError, UsageError
from overnight.workspace import collect as reading
from overnight.workspace import repository as place
from overnight.workspace.collect import Collected
from overnight.workspace.export import Sink, lay_out
from overnight.workspace.merge import merge_files
from overnight.workspace.objects import Objects
from overnight.workspace.scope import Scope
from overnight.workspace.trees import LINK, MODULE, PLAIN, Entry, GitObject, Snapshot, escaping_links, overlay, parse_listing

_SNAPSHOTS = 32  # trees kept in memory
_SMALL = 2**20  # bytes of a file that is read whole
_UNSEEN = {code: None for code in (*range(32), 127, *range(128, 160)) if code not in (9, 10)} | {
    code: f"\\u{code:04x}" for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


@dataclass(frozen=True, slots=True)
class Committed:
    """Ids of a commit and of its tree."""

    commit: str
    tree: str


class Workspace:
    """The user's repository, seen safely. Safe to use from several threads; ``close`` ends the git process it keeps."""

    def __init__(self, repository: place.Repository) -> None:
        self.root = repository.root  # top of the user's checkout
        self.git_dir = repository.common  # the git directory that all checkouts share
        self._repository = repository
        self._git = repository.git
        self._objects = Objects(repository.git, repository.objects, repository.algorithm)
        self._snapshots: OrderedDict[str, Snapshot] = OrderedDict()
        self._lock = threading.Lock()
        self._hidden: tuple[str, ...] = ()

    @classmethod
    def open(cls, start: Path, state: Path) -> Workspace:
        """The repository whose checkout holds ``start``; what we need of our own goes to ``state``, which may lie anywhere.

        Raises ``UsageError`` (E-NO-GIT, E-NO-REPOSITORY, E-BARE-REPOSITORY), ``StorageError`` if ``state`` cannot be written.
        """
        repository = place.find(start, state)
        place.prepare(repository.git.home, repository.algorithm)
        return cls(repository)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def drop_empty(self) -> None:
        """Remove what a power cut has left of objects that were not yet on the disk."""
        self._objects.drop_empty()

    def close(self) -> None:
        """End the git process that reads objects."""
        self._objects.close()
        self._repository.keeper.close()

    def head(self) -> str:
        """The commit id of HEAD. Raises ``UsageError``: E-NO-COMMIT, E-DETACHED-HEAD."""
        return self._repository.head()[1]

    def exclude(self, *patterns: str) -> None:
        """Add patterns such as ``/.overnight/`` to ``info/exclude``, once. Raises ``UsageError`` (E-READ-ONLY)."""
        place.exclude(self.git_dir, patterns)

    def check(self, commit: str, scope: Scope) -> None:
        """Refuse a base commit or a repository that a study cannot work with.

        Raises ``UsageError``: E-NOT-TRACKED, E-SUBMODULE, E-EDITABLE-LINK, E-ESCAPING-LINK, E-TOO-LARGE, E-READ-ONLY.
        """
        files = self.entries(commit)
        _refuse_modules(files)
        targets = {path: os.fsdecode(self._objects.read(entry.id)) for path, entry in files.items() if entry.mode == LINK}
        if escaping := escaping_links(targets):
            raise UsageError(
                "E-ESCAPING-LINK",
                f"the symbolic link {reading.shown(escaping[0])} leads out of the repository, to {reading.shown(targets[escaping[0]])}",
                why="runs see a copy of the commit, from which nothing may lead out",
                fix=f"git rm --cached '{escaping[0]}', and name the data in overnight.toml:  data = [\"{escaping[0]}\"]",
            )
        for pattern in scope.editable:
            _check_editable(pattern, scope, files, self.root)
        place.check_writable(self._repository)

    def hide(self, paths: Iterable[str]) -> None:
        """Leave these files or folders of the commit out of every copy from now on: a hold-out that git tracks."""
        self._hidden = (*self._hidden, *(path.strip("/") for path in paths if path.strip("/")))

    def _visible(self, commit: str) -> Snapshot:
        """The commit's tree without what is hidden."""
        snapshot = self._snapshot(commit)
        if not self._hidden:
            return snapshot
        shown = {
            path: entry
            for path, entry in snapshot.files.items()
            if not any(path == name or path.startswith(f"{name}/") for name in self._hidden)
        }
        return replace(snapshot, files=shown)

    def entries(self, commit: str) -> Mapping[str, Entry]:
        """Path -> entry of every file of a commit, links and submodules included. Raises ``GitError``, ``NotFoundError``."""
        return self._snapshot(commit).files

    def editable(self, commit: str, scope: Scope) -> dict[str, bytes]:
        """Path -> bytes of the editable files of a commit."""
        return self.read(commit, [path for path in self.entries(commit) if scope.matches(path)])

    def read(self, commit: str, paths: Iterable[str]) -> dict[str, bytes]:
        """Path -> bytes of some files of a commit. Raises ``NotFoundError`` (E-NO-FILE)."""
        files = self.entries(commit)
        found: dict[str, bytes] = {}
        for path in paths:
            if path not in files:
                raise NotFoundError(
                    "E-NO-FILE", f"commit {commit[:7]} holds no file {reading.shown(path)}", fix=f"git ls-tree -r {commit[:7]}"
                )
            found[path] = self._objects.read(files[path].id)
        return found

    def tip(self, ref: str) -> str | None:
        """The commit id that a ref stands for; None if there is no such ref."""
        return self._repository.tip(ref)

    def refs(self, prefix: str) -> dict[str, str]:
        """Name -> commit id of every ref below a prefix such as ``refs/overnight/nov21/``."""
        return self._repository.refs(prefix)

    def branch_exists(self, branch: str) -> bool:
        """Whether there is a branch of that name."""
        return self.tip(f"refs/heads/{branch}") is not None

    def create_branch(self, branch: str, commit: str) -> None:
        """Make a branch at a commit. Raises ``UsageError`` (E-BRANCH-EXISTS, E-BRANCH-NAME), ``GitError``."""
        ref = f"refs/heads/{branch}"
        if self._git.run(("check-ref-format", ref), cwd=self._git.home).returncode != 0:
            raise UsageError(
                "E-BRANCH-NAME", f"'{branch}' cannot be the name of a branch", fix="overnight run --branch-prefix autoresearch/"
            )
        try:
            self._repository.set_ref(ref, commit, "0" * len(commit))
        except GitError as exc:
            if exc.code == "E-GIT-LOCKED" or not self.branch_exists(branch):
                raise
            raise UsageError(
                "E-BRANCH-EXISTS",
                f"the branch {branch} exists already",
                why="a fresh study makes a branch of its own",
                fix="overnight run --tag another-name",
            ) from exc

    def move_branch(self, branch: str, new: str, old: str) -> None:
        """Move a branch from ``old`` to ``new``; nothing happens if it is at ``new`` already.

        Raises ``GitError``: E-GIT-REF if somebody else moved it, E-GIT-LOCKED.
        """
        ref = f"refs/heads/{branch}"
        try:
            self._repository.set_ref(ref, new, old)
        except GitError:
            if self.tip(ref) != new:
                raise

    def set_ref(self, ref: str, commit: str) -> None:
        """Point a ref such as ``refs/overnight/nov21/1`` to a commit, wherever it pointed before. Raises ``GitError``."""
        self._repository.set_ref(ref, commit)

    def export(
        self, commit: str, files: Mapping[str, bytes], dest: Path, links: Mapping[str, Path] | None = None, scope: Scope | None = None
    ) -> str:
        """Lay out a commit's tree with ``files`` over it in the new folder ``dest``.

        With ``scope``, ``files`` are all the editable files: others of the commit are left out. Raw bytes, modes 644 and 755,
        no ``.git``. ``links`` (name -> absolute path) are made symbolic links to data outside. Returns 64 hex digits that stand
        for every path, mode and byte laid out, ``links`` apart. Raises ``StorageError``, ``GitError``.
        """
        known = self._visible(commit).files
        _refuse_modules(known)
        gone = _left_out(known, files, scope)
        modes = {path: entry.mode for path, entry in known.items() if path not in gone}
        modes |= {path: PLAIN for path in files if path not in known}

        def pour(path: str, sink: Sink) -> None:
            if path in files:
                sink(files[path])
            elif known[path].size <= _SMALL:
                sink(self._objects.read(known[path].id))
            else:
                self._objects.stream(known[path].id, sink)

        return lay_out(dest, modes, pour, links or {})

    def commit(
        self,
        *,
        parent: str,
        files: Mapping[str, bytes],
        message: str,
        ref: str,
        when: float,
        base: str = "",
        scope: Scope | None = None,
        merges: str = "",
    ) -> Committed:
        """Record the tree of ``base`` (not given = of ``parent``) with ``files`` over it as a child of ``parent``, kept by ``ref``.

        ``scope`` as in ``export``, so that the commit holds the same bytes as an export with the same arguments. ``merges`` is a second
        parent. The same
        arguments give the same ids, so repeating it is harmless, and mends what a power cut took, objects and ref. Author and
        committer are ``overnight``, the date is ``when`` in whole seconds, UTC. Raises ``UsageError`` (E-READ-ONLY),
        ``StorageError``, ``GitError``.
        """
        snapshot = self._snapshot(base or parent)
        written: dict[str, Entry] = {}
        for path, data in files.items():
            old = snapshot.files.get(path)
            written[path] = Entry(old.mode if old else PLAIN, self._objects.write(GitObject("blob", data)), len(data))
        snapshot, trees = overlay(snapshot, written, _left_out(snapshot.files, files, scope), self._objects.algorithm)
        for tree in trees:
            self._objects.write(tree)
        stamp = f"overnight <overnight@localhost> {int(when)} +0000"
        text = message.translate(_UNSEEN).strip() or "experiment"
        second = f"\nparent {merges}" if merges else ""
        body = f"tree {snapshot.tree}\nparent {parent}{second}\nauthor {stamp}\ncommitter {stamp}\n\n{text}\n"
        commit = self._objects.write(GitObject("commit", body.encode("utf-8", "replace")))
        self._repository.set_ref(ref, commit)
        self._remember(commit, snapshot)
        return Committed(commit, snapshot.tree)

    def collect(self, copy: Path, base: str, editable: Scope, links: Iterable[str] = ()) -> Collected:
        """Read what a proposer left in ``copy``, an export of ``base`` with other editable files; ``links`` as in ``export``.

        What is wrong with the copy is said in ``rejected``; raises ``GitError`` only if ``base`` cannot be read.
        """
        return reading.collect(copy, self._visible(base), editable, self._objects.algorithm, tuple(links))

    def merge(self, base: Mapping[str, bytes], ours: Mapping[str, bytes], theirs: Mapping[str, bytes]) -> dict[str, bytes] | None:
        """The editable files with the changes of both sides to ``base``; None on a conflict or for binary files."""
        return merge_files(self._git, base, ours, theirs)

    def parents(self, commit: str) -> list[str]:
        """The ids of the parents of a commit, the first one first. Raises ``GitError``."""
        head = self._objects.read(commit, "commit").split(b"\n\n", 1)[0].decode("ascii", "replace")
        return [line.removeprefix("parent ") for line in head.split("\n") if line.startswith("parent ")]

    def diff(self, old: str, new: str) -> str:
        """The patch from one commit to another, as ``git diff`` shows it without colour or any program of the user's."""
        words = ("diff-tree", "-p", "-r", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--end-of-options", old, new)
        return self._repository.ask(*words).decode("utf-8", "replace")

    def _snapshot(self, commit: str) -> Snapshot:
        with self._lock:
            if (found := self._snapshots.get(commit)) is not None:
                self._snapshots.move_to_end(commit)
                return found
        header = self._objects.read(commit, "commit").split(b"\n", 1)[0].decode("ascii", "replace")
        listing = self._repository.ask("ls-tree", "-r", "-t", "-z", "-l", "--full-tree", commit)
        snapshot = parse_listing(listing, header.removeprefix("tree "))
        self._remember(commit, snapshot)
        return snapshot

    def _remember(self, commit: str, snapshot: Snapshot) -> None:
        with self._lock:
            self._snapshots[commit] = snapshot
            while len(self._snapshots) > _SNAPSHOTS:
                self._snapshots.popitem(last=False)


def _left_out(known: Mapping[str, Entry], files: Mapping[str, bytes], scope: Scope | None) -> set[str]:
    """The editable files of a commit that a proposal does not have."""
    return set() if scope is None else {path for path in known if path not in files and scope.matches(path)}


def _refuse_modules(files: Mapping[str, Entry]) -> None:
    for path, entry in files.items():
        if entry.mode == MODULE:
            raise UsageError(
                "E-SUBMODULE",
                f"the commit holds a submodule: {reading.shown(path)}",
                why="its files are not in the repository, so a run could not be repeated from the commit",
                fix=f"git rm --cached '{path}' && git commit -m 'leave the submodule out', and name it under data in overnight.toml",
            )


def _check_editable(pattern: str, scope: Scope, files: Mapping[str, Entry], root: Path) -> None:
    """Refuse a pattern without a file, and files that no proposal could change."""
    found = [path for path in files if Scope((pattern,), scope.protect).matches(path)]
    for path in found:
        if files[path].mode == LINK:
            raise UsageError(
                "E-EDITABLE-LINK", f"the editable file {reading.shown(path)} is a symbolic link", fix="name the file it leads to"
            )
        if files[path].size > reading.FILE_LIMIT:
            raise UsageError(
                "E-TOO-LARGE",
                f"the editable file {reading.shown(path)} is larger than 1 MiB",
                why="a proposal is text of that size at most",
                fix="overnight run --editable OTHER_FILE",
            )
    if found:
        return
    if any(Scope((pattern,)).matches(path) for path in files):
        raise UsageError(
            "E-SCOPE", f"{pattern} is editable and protected: nothing could be changed", fix="leave it out of editable or of protect"
        )
    if (root / pattern).is_file():
        raise UsageError(
            "E-NOT-TRACKED",
            f"the editable file {pattern} is not in the commit that the study starts from",
            why="it lies in the checkout, but git does not know it",
            fix=f"git add '{pattern}' && git commit -m 'add {pattern}'",
        )
    close = difflib.get_close_matches(pattern, list(files), n=1)
    raise UsageError(
        "E-NOT-TRACKED",
        f"no file of the commit matches editable = '{pattern}'" + (f"; did you mean '{reading.shown(close[0])}'?" if close else ""),
        why=f"the commit holds {len(files)} files" + (f", among them {', '.join(map(reading.shown, sorted(files)[:5]))}" if files else ""),
        fix=f"overnight run --editable {shlex.quote(reading.shown(close[0])) if close else 'FILE'}",
    )
