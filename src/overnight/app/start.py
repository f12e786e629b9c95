"""The first look at a repository: what ``init`` finds there, and what it writes."""

from __future__ import annotations

import shutil
from pathlib import Path

from overnight import gpus
from overnight.app import init as writing
from overnight.app import place as places
from overnight.app.detect import Findings, look
from overnight.workspace import Workspace


def findings(workspace: Workspace) -> Findings:
    """What the commit at HEAD shows."""
    base = workspace.head()
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
