"""What is done on a machine of a cluster before the supervisor: the job is claimed, told its GPUs, and says what machine it came to.

``python -m overnight.node FOLDER ALLOCATION START LAUNCH`` makes the node's claim and becomes the supervisor of the folder. Nodes need what the study's
machine has under the same paths: the job folders, the runs' files, this package with its Python, and bubblewrap where walls are wanted.
Must not know which engine handed the machine out, nor what a study is.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import overnight
from overnight import gpus, jobs
from overnight.models import JobState, JobStatus

_GIVEN = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK")
_PASSED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "OVERNIGHT_NVML")  # the supervisor's environment is readable by runs
_NONE = ("", "-1", "NoDevFiles")
_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from overnight.supervisor import main; sys.exit(main(sys.argv[1:]))"


def main(arguments: list[str]) -> int:
    """Claim the folder for (a launch in) the allocation and become its supervisor; 0 at once if another allocation has it. Raises ``OSError``."""
    folder, allocation, start, launch = Path(arguments[0]), arguments[1], int(arguments[2]), arguments[3]
    claims = Claim(allocation, start, launch)
    first = claim(folder, claims, os.environ)
    if first.allocation != allocation:
        return 0
    if first != claims:
        cut_off(folder)
    elif not (folder / jobs.STATUS).exists():
        give(folder, os.environ)
    place = str(Path(overnight.__file__).parent.parent)
    words = [sys.executable, "-I", "-S", "-B", "-X", f"utf8={sys.flags.utf8_mode}", "-c", _PROGRAM, place, str(folder)]
    sys.stdout.flush()
    return os.execve(sys.executable, words, {name: os.environ[name] for name in _PASSED if name in os.environ})


@dataclass(frozen=True, slots=True)
class Claim:
    """By whom a job folder is run: an allocation, which of its starts by the engine, and which launch of ours within it."""

    allocation: str
    start: int
    launch: str


def claim(folder: Path, wanted: Claim, environ: Mapping[str, str]) -> Claim:
    """Whose the job is: the first that comes makes it so for good, also over NFS. Raises ``OSError``."""
    path, draft = folder / jobs.NODE, folder / f".{secrets.token_hex(8)}"
    worker = gpus.machine(_named(environ), environ.get("CUDA_VISIBLE_DEVICES"))
    draft.write_text(json.dumps({**asdict(wanted), "host": socket.gethostname(), "worker": worker}), encoding="ascii")
    try:
        os.link(draft, path)
    except FileExistsError:
        known = json.loads(path.read_bytes())
        return Claim(str(known["allocation"]), int(known["start"]), str(known["launch"]))
    finally:
        draft.unlink()
    return wanted


def cut_off(folder: Path) -> None:
    """Leave word that an earlier launch was cut off by its engine: the supervisor ends what is left of it, and nobody is blamed.

    It is not run again here, for its files are not clean any more.
    """
    try:
        status = jobs.status_from_json((folder / jobs.STATUS).read_bytes())
    except FileNotFoundError:
        status = JobStatus(JobState.RUNNING)
    if not status.state.over:
        draft = folder / f".{secrets.token_hex(8)}"
        draft.write_text(jobs.status_to_json(replace(status, taken=True)), encoding="ascii")
        draft.rename(folder / jobs.STATUS)


def give(folder: Path, environ: Mapping[str, str]) -> None:
    """Write the GPUs that the engine gave into what is to be run. Raises ``OSError``; a spec that cannot be read is the supervisor's to tell."""
    given = {name: environ[name] for name in _GIVEN if name in environ}
    with contextlib.suppress(ValueError):
        spec = jobs.spec_from_json((folder / jobs.SPEC).read_bytes())
        if not given:
            return
        draft = folder / f".{secrets.token_hex(8)}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(jobs.spec_to_json(replace(spec, env={**spec.env, **given}, gpus=_named(environ) or spec.gpus)))
        draft.rename(folder / jobs.SPEC)


def _named(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that the engine gave, by the names it gave them."""
    names = tuple(name.strip() for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(","))
    return () if names[0] in _NONE else names


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
