"""Bringing back what a job on a worker has left: the files that it was asked for, or, of a pipeline's task, what it hands on.

The folder is hostile, but nothing of the job runs in it any more. Must not know how what is brought back travels.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

from overnight.errors import StorageError, UsageError
from overnight.executors.brought import LEFT
from overnight.folders import remove
from overnight.leavings import Outputs, Taken
from overnight.outputs import MOST_BYTES, MOST_FILES, bring_back
from overnight.queue import coding
from overnight.queue.words import HubJob, Output
from overnight.workspace import EXECUTABLE, LINK, PLAIN, Parcels

_LONGEST = coding.LONGEST * 3 // 4  # bytes of the list of what was left: it is told with the end of the attempt, in one message


def brought(parcels: Parcels, job: HubJob, folder: Path, dest: Path) -> tuple[Output, ...]:
    """Copy what the job has left in ``folder`` into ``dest``, which is replaced. Raises ``UsageError`` (E-OUTPUTS), ``StorageError``."""
    asked = job.submission
    if asked.hands_on:
        found = _handed_on(parcels, job, folder / asked.folder, dest)
    else:
        found = bring_back(folder / asked.folder, asked.outputs, dest)
    if len(coding.written(found)) > _LONGEST:
        remove(dest)
        raise UsageError("E-OUTPUTS", f"{len(found)} files are too many to be brought back", fix="pack them into one: tar -cf out.tar out")
    return found


def _handed_on(parcels: Parcels, job: HubJob, top: Path, dest: Path) -> tuple[Output, ...]:
    """The same as a task on the machine of its pipeline leaves: links within the folder count, ``**`` alone is all that was not laid out."""
    asked = job.submission
    head = f"{asked.folder}/" if asked.folder else ""
    code = parcels.files(asked.code) if asked.code else {}
    laid = {path.removeprefix(head): entry for path, entry in code.items() if path.startswith(head)}
    known = {path: entry.id for path, entry in laid.items() if _mode(top / path) == entry.mode}
    given = {each.path.removeprefix(head): each for each in asked.handed if each.path.startswith(head)}
    kept, draft = dest.with_name(f".{dest.name}.kept.{os.getpid()}"), dest.with_name(f".{dest.name}.{os.getpid()}")
    try:
        everything = asked.outputs == ("**",)
        taken = Outputs(kept).take(top, None if everything else asked.outputs, known, {path: each.sha256 for path, each in given.items()})
        files = [file for file in taken.files if not everything or file.own or file.executable is not given[file.path].executable]
        size = sum(file.size for file in files)
        if len(files) > MOST_FILES or size > MOST_BYTES:
            raise UsageError(
                "E-OUTPUTS", f"it leaves {len(files)} files of {size / 2**30:.1f} GB; {MOST_FILES} files of {MOST_BYTES >> 30} GB are allowed",
                fix="name fewer files in outputs:",
            )  # fmt: skip
        remove(draft)
        draft.mkdir(parents=True, mode=0o700)
        Outputs(kept).lay(files, draft)
        told = _told(draft, taken, [path for path in (*laid, *given) if not os.path.lexists(top / path) or os.path.isdir(top / path)])
        remove(dest)
        draft.rename(dest)
    except OSError as exc:
        raise StorageError("E-OUTPUTS", f"outputs cannot be brought back: {exc.strerror or exc}", where=str(dest), fix=f"df -h {dest.parent}") from exc  # fmt: skip
    finally:
        remove(kept)
        remove(draft)
    return (*(Output(file.path, file.size, file.sha, file.executable) for file in files), *told)


def _mode(place: Path) -> str:
    """What git would call what lies there; a file whose bits alone have changed was changed as well."""
    try:
        found = os.lstat(place).st_mode
    except OSError:
        return ""
    return LINK if stat.S_ISLNK(found) else EXECUTABLE if found & 0o111 else PLAIN


def _told(draft: Path, taken: Taken, removed: list[str]) -> tuple[Output, ...]:
    """What is to be said beside the files, as one more of them."""
    if not removed and not taken.note:
        return ()
    data = json.dumps({"removed": removed, "note": taken.note}).encode()
    place = draft / LEFT
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return (Output(LEFT, len(data), hashlib.sha256(data).hexdigest()),)
