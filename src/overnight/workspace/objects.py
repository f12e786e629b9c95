"""Git's objects: read through one long-lived ``git cat-file``, written as loose files without any process.

Every object read is checked against its id; every object written is flushed, and one that a power cut left damaged is
replaced. Knows objects and the folder they lie in; nothing of trees, paths or studies. Safe to use from several threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tempfile
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from overnight.errors import GitError
from overnight.workspace.git import Git, disk_error, read_only
from overnight.workspace.trees import GitObject

_CACHE = 8 * 2**20  # bytes of blobs kept in memory
_CHUNK = 2**18
_REMEMBERED = 4096


class Objects:
    """The object database of a repository: ``algorithm`` is ``sha1`` or ``sha256``, ``folder`` its ``objects`` folder."""

    def __init__(self, git: Git, folder: Path, algorithm: str) -> None:
        self.folder = folder
        self.algorithm = algorithm
        self._git = git
        self._lock = threading.Lock()
        self._process: list[subprocess.Popen[bytes]] = []  # none or one; a list so that the finalizer sees the present one
        self._written: dict[str, None] = {}  # ids that this process has seen in good order, oldest first
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached = 0
        weakref.finalize(self, _end, self._process)

    def read(self, name: str, kind: str = "blob") -> bytes:
        """The bytes of an object. Raises ``GitError`` (E-GIT-OBJECT) if it is missing, damaged or of another kind."""
        with self._lock:
            if (found := self._cache.get(name)) is not None:
                self._cache.move_to_end(name)
                return found
        parts: list[bytes] = []
        self.stream(name, parts.append, kind)
        data = b"".join(parts)
        if kind == "blob" and len(data) <= _CACHE // 8:
            self._keep(name, data)
        return data

    def stream(self, name: str, sink: Callable[[bytes], object], kind: str = "blob") -> None:
        """Hand an object's bytes to ``sink`` piece by piece; it must not call back. Raises as ``read``."""
        with self._lock:
            try:
                size = self._request(name, kind)
            except (OSError, ValueError):
                _end(self._process)  # git was killed: a new one is as good
                try:
                    size = self._request(name, kind)
                except (OSError, ValueError) as exc:
                    _end(self._process)
                    raise _bad(name, f"git cat-file ends at once: {exc}") from exc
            try:
                self._answer(name, kind, size, sink)
            except BaseException:
                _end(self._process)  # what is left of the answer must not be taken for the next one
                raise

    def write(self, found: GitObject) -> str:
        """Put an object into the database unless it is there in good order. Returns its id.

        Not flushed, as git does it: what a power cut takes is written again from the record.

        Raises ``UsageError`` (E-READ-ONLY) or ``StorageError``.
        """
        name = found.name(self.algorithm)
        if name in self._written:
            return name
        path = self.folder / name[:2] / name[2:]
        body = b"%s %d\0" % (found.kind.encode(), len(found.data)) + found.data
        try:
            if not _intact(path, body):
                path.parent.mkdir(exist_ok=True)
                _replace(path, zlib.compress(body, 1))
        except PermissionError as exc:
            raise read_only(f"{exc.filename}: {exc.strerror}") from exc
        except OSError as exc:
            raise disk_error(exc, "an object of the repository") from exc
        with self._lock:
            self._written[name] = None
            while len(self._written) > _REMEMBERED:
                del self._written[next(iter(self._written))]
        if found.kind == "blob" and len(found.data) <= _CACHE // 8:
            self._keep(name, found.data)
        return name

    def drop_empty(self) -> None:
        """Remove loose objects without a byte, as a power cut leaves them: git neither replaces nor tidies them, it only fails."""
        for folder in self.folder.glob("[0-9a-f][0-9a-f]"):
            with contextlib.suppress(OSError):
                for entry in os.scandir(folder):
                    if len(entry.name) > 32 and entry.stat(follow_symlinks=False).st_size == 0:
                        os.unlink(entry.path)

    def close(self) -> None:
        """End the git process; the next read starts another."""
        with self._lock:
            _end(self._process)

    def _keep(self, name: str, data: bytes) -> None:
        with self._lock:
            if name not in self._cache:
                self._cached += len(data)
            self._cache[name] = data
            while self._cached > _CACHE:
                _, old = self._cache.popitem(last=False)
                self._cached -= len(old)

    def _request(self, name: str, kind: str) -> int:
        """Ask git for an object; its size. Raises ``OSError`` or ``ValueError`` when git is gone, ``GitError`` when the object is."""
        if not self._process:
            self._process.append(self._start())
        process = self._process[0]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(name.encode("ascii") + b"\n")
        process.stdin.flush()
        answer = process.stdout.readline().decode("ascii", "replace").split()
        if answer[1:] == ["missing"]:
            raise _bad(name, "it is missing; a partial clone or a power cut can be the cause")
        if not answer:
            raise ValueError("no answer")
        if len(answer) != 3 or answer[1] != kind:
            _end(self._process)
            raise _bad(name, f"git calls it: {' '.join(answer)}")
        return int(answer[2])

    def _answer(self, name: str, kind: str, size: int, sink: Callable[[bytes], object]) -> None:
        stream = self._process[0].stdout
        assert stream is not None
        state = hashlib.new(self.algorithm, b"%s %d\0" % (kind.encode(), size), usedforsecurity=False)
        left = size
        while left:
            part = stream.read(min(left, _CHUNK))
            if not part:
                raise _bad(name, "git ended in the middle of it")
            state.update(part)
            sink(part)
            left -= len(part)
        if stream.read(1) != b"\n" or state.hexdigest() != name:
            raise _bad(name, "its bytes do not have that id")

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._git.command("cat-file", "--batch"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._git.home,
            env=self._git.environment(GIT_DIR=str(self._git.home), GIT_OBJECT_DIRECTORY=str(self.folder)),
            start_new_session=True,
        )


def _bad(name: str, why: str) -> GitError:
    return GitError("E-GIT-OBJECT", f"object {name[:12]} of the repository cannot be read", why=why, fix="git fsck")


def _end(process: list[subprocess.Popen[bytes]]) -> None:
    """End the git process, if there is one, and leave no pipe open."""
    while process:
        old = process.pop()
        old.kill()
        for stream in (old.stdin, old.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was still to be written no longer matters
                    stream.close()
        old.wait()


def _intact(path: Path, body: bytes) -> bool:
    """Whether the loose object at ``path`` is there and whole; if so its age is renewed, as git does, against pruning."""
    try:
        good = zlib.decompress(path.read_bytes()) == body
        if good:
            os.utime(path)
    except (FileNotFoundError, zlib.error):
        return False
    return good


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole; a crash leaves a ``tmp_obj_*`` that git's own housekeeping removes."""
    handle, temporary = tempfile.mkstemp(prefix="tmp_obj_", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fchmod(out.fileno(), 0o444)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
