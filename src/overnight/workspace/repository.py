"""Find the user's repository and our own trusted git directory beside it; refs of the user's, hardened.

The own directory (``<state>/git``) holds a configuration that we wrote and nothing else; it borrows the user's objects. The
user's git directory is entered for refs alone. Knows no trees and no studies.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from overnight.errors import GitError, OvernightError, UsageError
from overnight.workspace.git import Git, clear_stale, disk_error, failure, find_git, read_only, said
from overnight.workspace.refs import Refs


@dataclass(frozen=True, slots=True)
class Repository:
    """The user's repository as found.

    ``root`` is the top of the checkout, ``own`` the git directory of that checkout (a linked worktree has its own), ``common``
    the one that all its checkouts share, ``algorithm`` sha1 or sha256.
    """

    git: Git
    root: Path
    own: Path
    common: Path
    algorithm: str
    keeper: Refs

    @property
    def objects(self) -> Path:
        """The folder of the objects; alternates named in it are honoured by git itself."""
        return self.common / "objects"

    def ask(self, *words: str, stdin: bytes = b"") -> bytes:
        """Run a reading command in the trusted directory over the user's objects. Raises ``GitError``."""
        home = self.git.home
        return self.git.ask(words, cwd=home, stdin=stdin, GIT_DIR=str(home), GIT_OBJECT_DIRECTORY=str(self.objects))

    def head(self) -> tuple[str, str]:
        """The branch and the commit id of HEAD. Raises ``UsageError``: E-DETACHED-HEAD, E-NO-COMMIT."""
        branch = self.git.run(("symbolic-ref", "-q", "HEAD"), cwd=self.git.home, GIT_DIR=str(self.own))
        commit = self.tip("HEAD")
        name = branch.stdout.decode("utf-8", "surrogateescape").strip().removeprefix("refs/heads/")
        if commit is None:
            raise UsageError(
                "E-NO-COMMIT",
                "the repository has no commit yet",
                where=str(self.root),
                why=f"a study starts from a commit, and branch '{name}' has none",
                fix="git add -A && git commit -m start",
            )
        if branch.returncode != 0:
            raise UsageError(
                "E-DETACHED-HEAD",
                f"HEAD is detached at {commit[:7]}",
                where=str(self.root),
                why="a study starts from a branch, so that it is clear what its results build on",
                fix="git switch -c my-branch",
            )
        return name, commit

    def tip(self, ref: str) -> str | None:
        """The commit that a ref, or any name of a commit, stands for; None if there is none."""
        words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
        done = self.git.run(words, cwd=self.git.home, GIT_DIR=str(self.own))
        if done.returncode == 0:
            return done.stdout.decode("ascii").strip()
        if done.returncode == 1 or b"Needed a single revision" in done.stderr:
            return None
        raise failure("rev-parse", said(done))

    def refs(self, prefix: str) -> dict[str, str]:
        """Name -> commit id of every ref below ``prefix``, such as ``refs/overnight/nov21/``."""
        words = ("for-each-ref", "--format=%(objectname) %(refname)", prefix)
        listing = self.git.ask(words, cwd=self.git.home, GIT_DIR=str(self.own)).decode("utf-8", "surrogateescape")
        return {name: commit for commit, _, name in (line.partition(" ") for line in listing.splitlines())}

    def set_ref(self, ref: str, new: str, old: str | None = None) -> None:
        """Point ``ref`` to ``new`` if it points to ``old`` (None = whatever it points to, zeros = it must not exist).

        A lock left on a ref of ``refs/overnight`` over a minute ago, and a ref file that a power cut left empty, are removed.
        Raises ``GitError`` (E-GIT-LOCKED names the lock, E-GIT-REF a ref that points elsewhere).
        """
        for attempt in (1, 2):
            message = self.keeper.update(ref, new, old)
            if not message:
                return
            if attempt == 2 or not (clear_stale(message) or self._clear_broken(ref, message)):
                raise self._refused(ref, message)

    def _clear_broken(self, ref: str, message: str) -> bool:
        """Remove the file of a ref that holds no id: git refuses to read, change or delete it."""
        file = self.common / ref
        if "reference broken" not in message:
            return False
        with contextlib.suppress(OSError):
            if not file.is_symlink() and not file.read_bytes().strip(b"\0\n "):
                file.unlink()
                return True
        return False

    def _refused(self, ref: str, message: str) -> OvernightError:
        if "but expected" in message or "reference already exists" in message or "unable to resolve reference" in message:
            return GitError("E-GIT-REF", f"{ref} is not where it was left", why=message, fix=f"git log -3 {ref}")
        return failure("update-ref", message)


def find(start: Path, state: Path) -> Repository:
    """The repository whose checkout holds ``start``; ``state`` is the folder of our own. Writes nothing.

    Raises ``UsageError``: E-NO-GIT, E-NO-REPOSITORY, E-BARE-REPOSITORY.
    """
    git = Git(find_git(), state.absolute() / "git")
    words = ("rev-parse", "--path-format=absolute", "--is-bare-repository", "--show-object-format", "--absolute-git-dir")
    done = git.run((*words, "--git-common-dir", "--show-toplevel"), cwd=start)
    lines = done.stdout.decode("utf-8", "surrogateescape").splitlines()
    if lines[:1] == ["true"]:
        raise UsageError(
            "E-BARE-REPOSITORY",
            "this is a bare repository: it has no checkout",
            where=str(start),
            fix="git clone this folder elsewhere, and start there",
        )
    if done.returncode != 0:
        raise _not_found(start, said(done))
    if len(lines) > 5:
        raise UsageError(
            "E-PATH", "the path of the repository holds a line break", where=str(start), why="git lists paths one a line",
            fix="rename the folder, then run the same command again",
        )  # fmt: skip
    if len(lines) != 5:
        raise GitError("E-GIT", "git does not say where the repository lies", where=str(start), why=" ".join(lines), fix="git --version")
    _, algorithm, own, common, root = lines
    return Repository(git, Path(root), Path(own), Path(common), algorithm, Refs(git, Path(own)))


def prepare(home: Path, algorithm: str) -> None:
    """Make our own git directory, or mend it. Raises ``StorageError``."""
    extension = "[extensions]\n\tobjectFormat = sha256\n" if algorithm == "sha256" else ""
    version = 1 if extension else 0
    wanted = {"HEAD": "ref: refs/heads/none\n", "config": f"[core]\n\trepositoryFormatVersion = {version}\n\tbare = true\n{extension}"}
    try:
        for folder in ("objects", "refs", "tmp"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        for name, text in wanted.items():
            place = home / name
            if not place.is_file() or place.read_text(encoding="ascii", errors="replace") != text:
                place.write_text(text, encoding="ascii")
    except OSError as exc:
        raise disk_error(exc, str(home)) from exc


def exclude(common: Path, patterns: tuple[str, ...]) -> None:
    """Add the patterns that are not there yet to ``info/exclude``. Raises ``UsageError`` (E-READ-ONLY)."""
    place = common / "info" / "exclude"
    try:
        text = place.read_bytes() if place.exists() else b""
        new = [pattern for pattern in dict.fromkeys(patterns) if os.fsencode(pattern) not in text.splitlines()]
        if new:
            place.parent.mkdir(exist_ok=True)
            with place.open("ab") as out:
                gap = b"\n" if text and not text.endswith(b"\n") else b""
                out.write(gap + b"".join(os.fsencode(pattern) + b"\n" for pattern in new))
    except OSError as exc:
        raise read_only(f"{place}: {exc.strerror}") from exc


def check_writable(repository: Repository) -> None:
    """Raise E-READ-ONLY unless commits and refs can be written."""
    for folder in (repository.objects, repository.common / "refs", repository.common):
        try:
            handle, name = tempfile.mkstemp(prefix="tmp_obj_", dir=folder)
        except OSError as exc:
            raise read_only(f"{folder}: {exc.strerror}") from exc
        os.close(handle)
        Path(name).unlink()


def _not_found(start: Path, message: str) -> OvernightError:
    if "must be run in a work tree" in message:
        return UsageError(
            "E-NO-REPOSITORY", "this folder lies inside .git", where=str(start), why=message, fix="cd to the top of the checkout"
        )
    if "not a git repository" in message:
        much = start.resolve() in (Path("/"), Path(os.environ.get("HOME") or "/").resolve())  # nobody wants all of it in a commit
        return UsageError(
            "E-NO-REPOSITORY",
            "this folder is in no git repository",
            where=str(start),
            why=message,
            fix="cd your-repository" if much else "git init && git add -A && git commit -m start",
        )
    return GitError("E-GIT", "git cannot open the repository", where=str(start), why=message, fix="git status")
