"""Code as parcels: a folder as it is now becomes a commit of our own, travels as a git bundle, and is laid out elsewhere.

The bytes are taken as they are: no filter, attribute or line end of the folder's repository is heeded, none of its programs runs.
The same bytes make the same commit. Knows folders and git; nothing of jobs, queues or networks. What arrives is hostile until it
has been checked: ``take`` leaves nothing behind of a bundle that it refuses.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from overnight.errors import NotFoundError, OvernightError, UsageError
from overnight.workspace import collect as reading
from overnight.workspace.export import Sink, lay_out
from overnight.workspace.git import Git, disk_error, failure, find_git, said
from overnight.workspace.objects import Objects
from overnight.workspace.repository import prepare
from overnight.workspace.trees import EXECUTABLE, LINK, PLAIN, Entry, GitObject, Snapshot, escaping_links, overlay, parse_listing

MOST_FILES = 10_000
MOST_BYTES = 100 * 2**20  # of all files together, and of a bundle
_OPENED = 8 * MOST_BYTES  # bytes that a bundle's files may have together: a snapshot made elsewhere may follow laxer rules
_MEMORY = "256m"  # that git may take in one piece for what arrives
_SYNCED_ONE_BY_ONE = 200
_SIGNATURE = b"# v2 git bundle\n"
_ID = re.compile(r"[0-9a-f]{40}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LEFT_OUT = (
    ".git", ".overnight", ".venv", "venv", ".tox", ".nox", "node_modules", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints",
)  # fmt: skip
_COMMIT = b"tree %s\nauthor overnight <overnight@localhost> 0 +0000\ncommitter overnight <overnight@localhost> 0 +0000\n\ncode of a job\n"


@dataclass(frozen=True, slots=True)
class Code:
    """A folder as it was: ``folder`` is where the packed folder lies in the commit, ``links`` (path -> target) lead out of it."""

    commit: str
    folder: str  # "" = the top
    files: int
    size: int  # bytes
    links: Mapping[str, str] = field(default_factory=dict)


class Parcels:
    """A bare git repository of our own in ``folder``, made when missing. Several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._home = folder.absolute()
        self._git = Git(find_git(), self._home)
        prepare(self._home, "sha1")
        self._objects = Objects(self._git, self._home / "objects", "sha1")
        self._latest: tuple[str, Mapping[str, Entry]] = ("", {})

    def close(self) -> None:
        """End the git process that reads objects."""
        self._objects.close()

    # --- where the code is -----------------------------------------------------------------------------------------

    def pack(self, workdir: Path, *, whole: bool = False, but: Collection[str] = ()) -> Code:
        """Keep ``workdir`` as it is now: of a git checkout all of it but what is ignored, else all but what tools leave behind.

        ``whole``: the folder alone, and all that lies in it ``but`` these paths. Links out of it are told, not followed. Raises ``UsageError`` (E-NO-FOLDER, E-CODE-TOO-LARGE, E-UNSAFE-NAME), ``StorageError``.
        """
        if not workdir.is_dir():
            raise UsageError("E-NO-FOLDER", f"{workdir} is no folder", why="it was to be the job's code", fix=f"ls -ld {workdir}")
        top, names = (
            (workdir.resolve(), sorted(set(_walk(workdir.resolve(), "", ())) - set(but))) if whole else self._names(workdir.resolve())
        )
        kinds = _kinds(top, names)
        targets = {name: os.readlink(top / name) for name, found in kinds.items() if stat.S_ISLNK(found.st_mode)}
        links = {name: targets.pop(name) for name in escaping_links(targets)}
        size = _measured(top, {name: found for name, found in kinds.items() if name not in links})
        written: list[str] = []
        entries: dict[str, Entry] = {}
        with self._shared():
            for name in kinds:
                if name in links:
                    continue
                data = os.fsencode(targets[name]) if name in targets else _bytes_of(top / name)
                mode = LINK if name in targets else EXECUTABLE if kinds[name].st_mode & 0o111 else PLAIN
                entries[name] = Entry(mode, self._keep(GitObject("blob", data), written), len(data))
            snapshot, trees = overlay(Snapshot("", {}, {"": {}}), entries, (), "sha1")
            for tree in trees:
                self._keep(tree, written)
            commit = self._keep(GitObject("commit", _COMMIT % snapshot.tree.encode()), written)
            _flush(written)
            self._name(commit)
        inside = os.path.relpath(workdir.resolve(), top)
        return Code(commit, "" if inside == "." else inside, len(entries), size, links)

    def bundle(self, commit: str, have: Sequence[str] = ()) -> bytes:
        """A git bundle of the commit, as a difference to those of ``have`` that are known here. Raises ``NotFoundError``, ``GitError``."""
        if not self.has(commit):
            raise NotFoundError("E-NO-CODE", f"there is no code {commit[:12]} here", fix="submit the job again")
        known = [name for name in dict.fromkeys(have) if name != commit and self.has(name)]
        wanted = "".join(f"{line}\n" for line in (commit, *(f"^{name}" for name in known))).encode()
        words = ["pack-objects", "--stdout", "--revs", "--thin", "--delta-base-offset", "--quiet"]
        # ``--shallow``: without a common history git would not look for bases among what the other side has.
        pack = self._git.ask([*words, *(["--shallow"] if known else [])], cwd=self._home, stdin=wanted, GIT_DIR=str(self._home))
        head = [*(f"-{name} " for name in known), f"{commit} refs/heads/code", ""]
        return _SIGNATURE + "\n".join(head).encode() + b"\n" + pack

    def files(self, commit: str) -> Mapping[str, Entry]:
        """Every path of the code. Raises ``NotFoundError``."""
        if not self.has(commit):
            raise NotFoundError("E-NO-CODE", f"there is no code {commit[:12]} here", fix="submit the job again")
        latest = self._latest  # other threads may want other code at the same time
        if latest[0] != commit:
            latest = self._latest = commit, self._listing(commit, {"GIT_DIR": str(self._home)}).files
        return latest[1]

    # --- where it goes to ------------------------------------------------------------------------------------------

    def has(self, commit: str) -> bool:
        """Whether this code is here, whole."""
        return bool(_ID.fullmatch(commit)) and self._ref(commit).is_file()

    def commits(self, limit: int = 64) -> tuple[str, ...]:
        """The code that is here, latest first: what a difference may be made to."""
        folder = self._ref("0" * 40).parent
        with contextlib.suppress(FileNotFoundError):
            found = sorted(
                ((entry.stat().st_mtime_ns, entry.name) for entry in os.scandir(folder) if _ID.fullmatch(entry.name)), reverse=True
            )
            return tuple(name for _, name in found[:limit])
        return ()

    def take(self, bundle: bytes, commit: str) -> None:
        """Add a bundle that must hold ``commit``; all of it is checked, or nothing stays. Raises ``UsageError`` (E-BAD-BUNDLE), ``GitError``."""
        if self.has(commit):
            return
        needs, pack = _opened(bundle, commit)
        missing = [name for name in needs if not self.has(name)]
        if missing:
            raise UsageError(
                "E-BAD-BUNDLE", f"the code needs {missing[0][:12]}, which is not here", fix="ask for all of it, not for a difference"
            )
        with self._shared(), self._apart() as (folder, extra):
            done = self._git.run(
                ["index-pack", "--stdin", "--fix-thin", "--strict", f"--max-input-size={MOST_BYTES}"], cwd=self._home, stdin=pack,
                GIT_ALLOC_LIMIT=_MEMORY, **extra,
            )  # fmt: skip
            if done.returncode:
                raise _refused(said(done))
            self._check(commit, extra)
            for place in sorted(
                (folder / "pack").iterdir(), key=lambda place: place.suffix == ".idx"
            ):  # the index last: it makes the pack known
                place.chmod(0o400)
                with place.open("rb") as file:
                    os.fsync(file.fileno())
                place.rename(self._home / "objects" / "pack" / place.name)
            self._name(commit)

    def export(self, commit: str, folder: Path) -> str:
        """Lay the code out in the new ``folder``, without ``.git``. Returns 64 hex digits for all its bytes. Raises ``NotFoundError``."""
        files = self.files(commit)

        def pour(path: str, sink: Sink) -> None:
            self._objects.stream(files[path].id, sink)

        return lay_out(folder, {path: entry.mode for path, entry in files.items()}, pour, {})

    def forget(self, before: float, kept: Iterable[str] = (), *, dry_run: bool = False) -> int:
        """Drop code that was last used before this time (seconds since the epoch) and is not ``kept``, and what only it held; how many that is."""
        spared = set(kept)
        with self._alone():
            old = [name for name in self.commits(2**31) if name not in spared and self._ref(name).stat().st_mtime < before]
            for name in () if dry_run else old:
                self._ref(name).unlink(missing_ok=True)
            if old and not dry_run:
                self._git.ask(["repack", "-a", "-d", "-q"], cwd=self._home, GIT_DIR=str(self._home))
                self._git.ask(["prune", "--expire=now"], cwd=self._home, GIT_DIR=str(self._home))
                self._objects.close()
        return len(old)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _names(self, workdir: Path) -> tuple[Path, list[str]]:
        """The top of what is packed, and the paths below it."""
        found = self._git.run(["rev-parse", "--show-toplevel"], cwd=workdir)
        if found.returncode == 0 and (root := found.stdout.decode("utf-8", "surrogateescape").rstrip("\n")):
            listed = self._git.ask(["ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=Path(root))
            if listed:
                names = sorted({os.fsdecode(name) for name in listed.split(b"\0") if name})
                inside = os.path.relpath(workdir, root)
                if inside == "." or any(
                    name.startswith(f"{inside}/") for name in names
                ):  # else the folder itself is ignored: it is packed alone
                    return Path(root), [part for name in names if not name.startswith(".overnight/") for part in _parts(Path(root), name)]
        return workdir, sorted(_walk(workdir, ""))

    def _keep(self, found: GitObject, written: list[str]) -> str:
        name = found.name("sha1")
        place = f"{self._home}/objects/{name[:2]}/{name[2:]}"
        if not os.path.exists(place):
            written.append(place)
        return self._objects.write(found)

    def _ref(self, commit: str) -> Path:
        return self._home / "refs" / "parcels" / commit

    def _name(self, commit: str) -> None:
        """Make the commit known; from then on it is here."""
        place = self._ref(commit)
        try:
            place.parent.mkdir(exist_ok=True)
            handle, draft = tempfile.mkstemp(dir=self._home / "tmp")
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(f"{commit}\n")
                file.flush()
                os.fsync(file.fileno())
            os.rename(draft, place)
        except OSError as exc:
            raise disk_error(exc, "the code of a job") from exc

    def _listing(self, commit: str, extra: Mapping[str, str]) -> Snapshot:
        listed = self._git.ask(["ls-tree", "-r", "-t", "-z", "-l", "--full-tree", commit], cwd=self._home, stdin=b"", **extra)
        return parse_listing(listed, commit)

    def _check(self, commit: str, extra: Mapping[str, str]) -> None:
        """Refuse what must not be laid out, or is not all there."""
        listed = self._git.run(
            ["rev-list", "--objects", "--no-object-names", "--max-count=64", commit, "--not", "--glob=refs/parcels/*"],
            cwd=self._home,
            stdin=b"",
            **extra,
        )
        if listed.returncode:
            raise _refused(said(listed))
        try:
            files = self._listing(commit, extra).files
        except OvernightError as exc:
            raise _refused(exc.message) from exc
        if len(files) > MOST_FILES:
            raise _refused(f"it holds {len(files)} files; {MOST_FILES} are allowed")
        if (size := sum(entry.size for entry in files.values())) > _OPENED:
            raise _refused(f"its files have {size} bytes together; {_OPENED} are allowed")
        strange = [path for path, entry in files.items() if entry.mode not in (PLAIN, EXECUTABLE, LINK) or _CONTROL.search(path)]
        if strange:
            raise _refused(f"{reading.shown(strange[0])} is neither a file nor a link, or its name cannot be shown")
        targets = {
            path: os.fsdecode(self._git.ask(["cat-file", "blob", entry.id], cwd=self._home, stdin=b"", **extra))
            for path, entry in files.items()
            if entry.mode == LINK
        }
        if escaping := escaping_links(targets):
            raise _refused(f"the link {reading.shown(escaping[0])} leads out of it")

    @contextlib.contextmanager
    def _apart(self) -> Iterator[tuple[Path, dict[str, str]]]:
        """A folder for objects that are not trusted yet, and what git needs to see them together with ours."""
        try:
            folder = Path(tempfile.mkdtemp(prefix="take-", dir=self._home / "tmp"))
            (folder / "pack").mkdir()
            (self._home / "objects" / "pack").mkdir(exist_ok=True)
        except OSError as exc:
            raise disk_error(exc, "the code of a job") from exc
        ours = str(self._home / "objects")
        try:
            yield folder, {"GIT_DIR": str(self._home), "GIT_OBJECT_DIRECTORY": str(folder), "GIT_ALTERNATE_OBJECT_DIRECTORIES": ours}
        except OSError as exc:
            raise disk_error(exc, "the code of a job") from exc
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _shared(self) -> contextlib.AbstractContextManager[None]:
        return _locked(self._home / "lock", fcntl.LOCK_SH)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return _locked(self._home / "lock", fcntl.LOCK_EX)


@contextlib.contextmanager
def _locked(place: Path, how: int) -> Iterator[None]:
    try:
        handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise disk_error(exc, str(place)) from exc
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)


def _parts(top: Path, name: str) -> Iterable[str]:
    """A path that git lists: itself, or, of a submodule or another checkout inside, what lies in it."""
    place = top / name.rstrip("/")
    return _walk(place, f"{name.rstrip('/')}/") if place.is_dir() and not place.is_symlink() else (name,)


def _walk(folder: Path, above: str, but: Sequence[str] = _LEFT_OUT) -> Iterator[str]:
    """The files and links below a folder that is no checkout."""
    try:
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as exc:
        raise UsageError("E-NO-FOLDER", f"{folder} cannot be read: {exc.strerror}", fix=f"ls -ld {folder}") from exc
    for entry in found:
        if entry.name in but or (but and entry.name.endswith(".pyc")):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), f"{above}{entry.name}/", but)
        elif entry.is_symlink() or entry.is_file():
            yield above + entry.name


def _kinds(top: Path, names: Iterable[str]) -> dict[str, os.stat_result]:
    """What lies at each path: files and links; what has gone meanwhile, a socket or a submodule's folder is passed over."""
    found = {}
    for name in names:
        if _CONTROL.search(name):
            raise UsageError(
                "E-UNSAFE-NAME",
                f"{reading.shown(name)} cannot travel: its name cannot be shown",
                fix=f"mv {reading.shown(name)} another-name",
            )
        with contextlib.suppress(OSError):
            about = os.lstat(top / name)
            if stat.S_ISREG(about.st_mode) or stat.S_ISLNK(about.st_mode):
                found[name] = about
    return found


def _measured(top: Path, kinds: Mapping[str, os.stat_result]) -> int:
    """Bytes of all files. Raises ``UsageError`` (E-CODE-TOO-LARGE)."""
    size = sum(found.st_size for found in kinds.values())
    if len(kinds) > MOST_FILES or size > MOST_BYTES:
        biggest = max(kinds, key=lambda name: kinds[name].st_size)
        raise UsageError(
            "E-CODE-TOO-LARGE",
            f"the code in {top} is {len(kinds)} files of {size / 2**20:.0f} MB; {MOST_FILES} files of {MOST_BYTES >> 20} MB are allowed",
            why=f"the biggest is {reading.shown(biggest)} ({kinds[biggest].st_size / 2**20:.1f} MB); data does not travel with the code",
            fix=f"echo '/{biggest.split('/')[0] if '/' in biggest else biggest}' >> {top}/.gitignore   (and name it with --input if the job needs it)",
        )
    return size


def _bytes_of(place: Path) -> bytes:
    try:
        handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as exc:
        raise UsageError("E-UNREADABLE", f"{place} cannot be read: {exc.strerror}", fix=f"ls -l {place}") from exc


def _flush(written: Sequence[str]) -> None:
    """Bring new objects to the disk: one by one, or, where they are many, with all else."""
    if len(written) > _SYNCED_ONE_BY_ONE:
        os.sync()
        return
    for place in written:
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _opened(bundle: bytes, commit: str) -> tuple[list[str], bytes]:
    """The commits that a bundle builds upon, and its pack. Raises ``UsageError`` (E-BAD-BUNDLE)."""
    if len(bundle) > MOST_BYTES + 2**16 or not _ID.fullmatch(commit):
        raise _refused(f"it has {len(bundle)} bytes; {MOST_BYTES} are allowed")
    head, gap, pack = bundle.removeprefix(_SIGNATURE).partition(b"\n\n")
    if not bundle.startswith(_SIGNATURE) or not gap or len(head) > 2**16 or not pack.startswith(b"PACK"):
        raise _refused("it does not begin as a bundle does")
    needs: list[str] = []
    tips: list[str] = []
    for line in head.decode("ascii", "replace").split("\n"):
        if match := re.fullmatch(r"-([0-9a-f]{40}) ?", line):
            needs.append(match[1])
        elif match := re.fullmatch(r"([0-9a-f]{40}) refs/heads/code", line):
            tips.append(match[1])
        else:
            raise _refused(f"a line of its head is {reading.shown(line[:80])}")
    if tips != [commit]:
        raise _refused(f"it holds {tips[0][:12] if tips else 'nothing'} instead of {commit[:12]}")
    return needs, pack


def _refused(why: str) -> OvernightError:
    if "No space left" in why:
        return failure("index-pack", why)
    return UsageError(
        "E-BAD-BUNDLE", "the code that arrived is refused", why=why, fix="submit the job again; if it happens again, look at who sent it"
    )
