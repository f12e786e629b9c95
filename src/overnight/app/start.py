"""The first look at a repository: what ``init`` finds there, and what it writes."""

from __future__ import annotations

import shutil
from pathlib import Path

from overnight import gpus
from overnight.app import init as writing
from overnight.app import place as places
from overnight.app.detect import Findings, look
from overnight.app.options import Options
from overnight.errors import NotFoundError
from overnight.workspace import Workspace


def base_of(options: Options, workspace: Workspace) -> str:
    """The commit that a fresh study starts from. Raises ``NotFoundError`` for a name that is none, ``UsageError`` as ``head`` does."""
    if not options.base:
        return workspace.head()
    found = workspace.tip(f"refs/heads/{options.base}") or workspace.tip(options.base)
    if found is None:
        raise NotFoundError("E-NO-COMMIT", f"'{options.base}' is no branch and no commit", fix="git branch --list")
    return found


def findings(workspace: Workspace, base: str = "") -> Findings:
    """What a commit shows, the one at HEAD if none is named."""
    base = base or workspace.head()
    known = workspace.entries(base)

    def text(path: str) -> str | None:
        return workspace.read(base, [path])[path].decode("utf-8", "replace") if path in known and known[path].size < 2**20 else None

    return look(workspace.root, sorted(known), text, shutil.which, gpus.found())


def init(folder: Path, *, force: bool) -> tuple[Findings, writing.Written]:
    """Look at the repository that holds ``folder`` and write its settings. Raises ``UsageError``."""
    with places.workspace(folder, places.default(folder)) as workspace:
        found = findings(workspace)
        written = writing.write(found, workspace.root, force=force)
        workspace.exclude(f"/{places.STATE}/", "/results.tsv")
    return found, written
