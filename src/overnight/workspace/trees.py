"""Trees of a commit as plain records, and the new tree that some changed files make.

Pure: bytes and names only; reading and writing git's objects is done elsewhere. The format of trees is git's own
(``gitformat``: mode, space, name, NUL, raw id; sorted as if the name of a folder ended in a slash).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from overnight.errors import GitError, UsageError

LINK = "120000"
MODULE = "160000"
FOLDER = "40000"
EXECUTABLE = "100755"
PLAIN = "100644"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a commit: git's mode (``100644``, ``100755``, ``120000`` link, ``160000`` submodule), blob id, size in bytes."""

    mode: str
    id: str
    size: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole tree of a commit. ``folders`` holds, for each folder (``""`` = top), name -> (mode, id) of what lies in it."""

    tree: str
    files: Mapping[str, Entry]
    folders: Mapping[str, dict[str, tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class GitObject:
    """An object to be written: its kind (blob, tree, commit) and its bytes."""

    kind: str
    data: bytes

    def name(self, algorithm: str) -> str:
        """Its id, in the hash of the repository (``sha1`` or ``sha256``)."""
        return object_id(self.kind, self.data, algorithm)


def object_id(kind: str, data: bytes, algorithm: str) -> str:
    """The id that git gives to an object."""
    state = hashlib.new(algorithm, usedforsecurity=False)
    state.update(b"%s %d\0" % (kind.encode(), len(data)))
    state.update(data)
    return state.hexdigest()


def parse_listing(listing: bytes, tree: str) -> Snapshot:
    """The snapshot in the output of ``git ls-tree -r -t -z -l``.

    Raises ``UsageError`` for a name that is not safe to write, ``GitError`` for a file that git cannot read.
    """
    files: dict[str, Entry] = {}
    folders: dict[str, dict[str, tuple[str, str]]] = {"": {}}
    for line in listing.split(b"\0")[:-1]:
        about, _, raw = line.partition(b"\t")
        mode, kind, name, size = about.decode("ascii").split()
        path = os.fsdecode(raw)
        folder, _, leaf = path.rpartition("/")
        if leaf in ("", ".", "..") or leaf.lower() == ".git":
            raise UsageError("E-UNSAFE-NAME", f"the commit holds a file that cannot be laid out: {path!r}", fix="git fsck")
        folders[folder][leaf] = (FOLDER if kind == "tree" else mode, name)
        if size == "BAD":
            why = "a power cut, a failing disk or a partial clone can be the cause"
            raise GitError("E-GIT-OBJECT", f"object {name[:12]} of the repository, {path!r}, cannot be read", why=why, fix="git fsck")
        if kind == "tree":
            folders[path] = {}
        else:
            files[path] = Entry(mode, name, 0 if size == "-" else int(size))
    return Snapshot(tree, files, folders)


def overlay(base: Snapshot, written: Mapping[str, Entry], removed: Iterable[str], algorithm: str) -> tuple[Snapshot, list[GitObject]]:
    """The tree of ``base`` with some files written and some removed, and the tree objects that it adds.

    Costs as much as the folders that are touched hold. Raises ``GitError`` if a file would lie below another file.
    """
    files = dict(base.files)
    folders = {name: dict(found) if name == "" else found for name, found in base.folders.items()}
    touched = {""}
    for path in removed:
        if files.pop(path, None) is not None:
            _open(folders, touched, path).pop(path.rpartition("/")[2], None)
    for path, entry in written.items():
        files[path] = entry
        _open(folders, touched, path)[path.rpartition("/")[2]] = (entry.mode, entry.id)
    made: list[GitObject] = []
    tree = base.tree
    for folder in sorted(touched, key=lambda name: -1 if name == "" else name.count("/"), reverse=True):
        if folder and not folders[folder]:
            del folders[folder]
            _parent(folders, folder).pop(folder.rpartition("/")[2], None)
            continue
        made.append(GitObject("tree", _encode(folders[folder])))
        tree = made[-1].name(algorithm)
        if folder:
            _parent(folders, folder)[folder.rpartition("/")[2]] = (FOLDER, tree)
    return Snapshot(tree, files, folders), made


def _parent(folders: Mapping[str, dict[str, tuple[str, str]]], path: str) -> dict[str, tuple[str, str]]:
    return folders[path.rpartition("/")[0]]


def _open(folders: dict[str, dict[str, tuple[str, str]]], touched: set[str], path: str) -> dict[str, tuple[str, str]]:
    """The folder of ``path``, and every one above it, made ready to be changed."""
    above = path.split("/")[:-1]
    for depth in range(1, len(above) + 1):
        folder = "/".join(above[:depth])
        if folder not in touched:
            known = _parent(folders, folder).get(above[depth - 1])
            if known is not None and known[0] != FOLDER:
                raise GitError("E-GIT", f"{path} would lie below the file {folder}", fix="choose another name")
            folders[folder] = dict(folders.get(folder, {}))
            touched.add(folder)
    return _parent(folders, path)


def _encode(children: Mapping[str, tuple[str, str]]) -> bytes:
    rows = sorted(
        (os.fsencode(name) + (b"/" if mode == FOLDER else b""), os.fsencode(name), mode, found) for name, (mode, found) in children.items()
    )
    return b"".join(b"%s %s\0%s" % (mode.encode(), name, bytes.fromhex(found)) for _, name, mode, found in rows)


def escaping_links(targets: Mapping[str, str]) -> list[str]:
    """The symbolic links (path -> target) that lead out of the tree, by an absolute path, by ``..``, or in a circle."""
    return sorted(path for path in targets if not _stays(path, targets))


def _stays(path: str, targets: Mapping[str, str]) -> bool:
    """Walk as the kernel does: links met on the way are followed, so that ``inner/..`` is where ``inner`` leads."""
    here: list[str] = []
    ahead = path.split("/")
    for _ in range(10_000):
        if not ahead:
            return True
        step = ahead.pop(0)
        if step == "..":
            if not here:
                return False
            here.pop()
            continue
        if step in ("", "."):
            continue
        target = targets.get("/".join([*here, step]))
        if target is None:
            here.append(step)
        elif target.startswith("/") or len(ahead) > 4096:
            return False
        else:
            ahead = [*target.split("/"), *ahead]
    return False
