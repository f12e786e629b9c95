"""Large files that a job is handed: kept at the hub and at workers once by their hash, apart from the code, which travels as git.

Must not know what a job does with them, nor how they are carried between machines.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from overnight.dag.words import Kept
from overnight.errors import NotFoundError, StorageError
from overnight.leavings import Outputs
from overnight.queue.words import MOST_HANDED, HubJob, Output

LARGE = 4 * 2**20  # bytes from which on a file does not travel as code
_UNUSED = 7 * 86400.0  # seconds after which a file that no job was handed goes


def kept(store: Path, folder: Path) -> tuple[Output, ...]:
    """Keep the large files of ``folder`` in ``store``; which they are, largest first. Raises ``StorageError``."""
    sizes: list[tuple[int, str]] = []
    try:
        for where, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(where, name)
                if not os.path.islink(path) and os.path.isfile(path) and (size := os.path.getsize(path)) >= LARGE:
                    sizes.append((size, os.path.relpath(path, folder)))
    except OSError as exc:
        raise StorageError("E-STORAGE", f"{folder} cannot be read: {exc.strerror}", fix=f"ls -ld {folder}") from exc
    chosen = [path for _, path in sorted(sizes, reverse=True)[:MOST_HANDED]]
    taken = Outputs(store).take(folder, chosen, {}, {}) if chosen else None
    return tuple(Output(each.path, each.size, each.sha, each.executable) for each in taken.files) if taken else ()


def lay(store: Path, job: HubJob, folder: Path) -> None:
    """Put what the job is handed into its folder. Raises ``NotFoundError`` if it is not kept any more, ``StorageError``."""
    files = tuple(_as_kept(each) for each in job.submission.handed)
    if not Outputs(store).has(files):
        raise NotFoundError(
            "E-NO-HANDED", "a file that the job was handed is not kept any more", fix="overnight hub submit --help   # submit it again"
        )
    Outputs(store).lay(files, folder)


def missing(store: Path, job: HubJob) -> list[Output]:
    """What the job is handed and is not kept here."""
    return [each for each in job.submission.handed if not is_there(store, each)]


def is_there(store: Path, output: Output) -> bool:
    """Whether a file is kept; if so, it counts as used now."""
    return Outputs(store).has((_as_kept(output),))


def add(store: Path, output: Output, fetch: Callable[[Path], object]) -> None:
    """Keep a file that ``fetch`` writes, unless it is not what its hash says. Raises ``StorageError``, ``OvernightError``."""
    draft = store / f".{os.getpid()}.{threading.get_ident()}.{output.sha256}"
    try:
        draft.mkdir(parents=True, exist_ok=True, mode=0o700)
        fetch(draft / "file")
        found = Outputs(store).take(draft, ("file",), {}, {}).files
    except OSError as exc:
        raise StorageError("E-STORAGE", f"a file that was handed on cannot be kept: {exc.strerror}", where=str(store), fix=f"df -h {store}") from exc  # fmt: skip
    finally:
        for place in (draft / "file", draft):
            if place.is_dir():
                place.rmdir()
            else:
                place.unlink(missing_ok=True)
    if [each.sha for each in found] != [output.sha256]:
        raise StorageError("E-DAMAGED", f"{output.path[:80]} did not arrive as it was sent", fix="overnight relay status")


def sweep(store: Path) -> None:
    """Remove what no job was handed for a week."""
    Outputs(store).drop((), time.time() - _UNUSED)


def _as_kept(output: Output) -> Kept:
    """The same as the store of files calls it."""
    return Kept(output.path, output.sha256, output.size, output.executable)
