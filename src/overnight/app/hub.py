"""The hub of one user on one machine: where it lies, how it is opened, and the verbs of who submits and looks."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from overnight import jobs
from overnight.app.courier import NEAR, Courier
from overnight.app.keeping import SERVING, STORE, kept, lease_of
from overnight.config import user_file
from overnight.desk import Bell, Desk, sound
from overnight.errors import NotFoundError, OvernightError, StorageError, UsageError
from overnight.models import JobState, MetricPoint
from overnight.printable import moment, one_line
from overnight.queue import coding
from overnight.queue.fit import described
from overnight.queue.inputs import check, input_of, is_url
from overnight.queue.wire import Counter
from overnight.queue.words import HubJob, Query, Stream, Submission, WorkerState

_OPEN = (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class HubPlace:
    """The hub's folder and what lies in it."""

    folder: Path

    @property
    def code(self) -> Path:
        """What jobs were submitted with, as a bare git repository."""
        return self.folder / "code"

    @property
    def wake(self) -> Path:
        """Sockets of those who wait on this machine."""
        return self.folder / "wake"

    @property
    def handed(self) -> Path:
        """Large files that jobs are handed, by their hash."""
        return self.folder / "handed"

    @property
    def fetched(self) -> Path:
        """What jobs of the hub's owner had fetched, by its hash; below ``clients`` what those of clients had."""
        return self.folder / "fetched"

    def outputs(self, job: HubJob) -> Path:
        """What the latest attempt of a job has left."""
        return self.folder / "out" / job.id / str(job.attempt)

    def worker(self, name: str) -> Path:
        """What a worker of that name keeps on this machine."""
        return self.folder / "workers" / name


@dataclass(frozen=True, slots=True)
class Reached:
    """A hub that was reached: its desk, and how to wait until something has happened there."""

    desk: Counter
    place: HubPlace  # the hub's own folder; of one behind a relay, what we keep of it
    wait: Any  # (seconds, query) -> sleeps, not longer; of a hub that is far only news of these jobs end it
    bell: Callable[[str], AbstractContextManager[Any]]  # one who waits for "claim", "stop" or "log": ``wait(seconds)``
    environ: Mapping[str, str]
    courier: Courier = NEAR
    name: str = ""  # under which a worker has joined
    trouble: OvernightError | None = None  # why it is not reached yet, where that is waited for
    admit: Callable[[str], object] = lambda _owner: None  # raises ``NotAllowedError`` for those whose jobs may not run here
    clients: Callable[[], tuple[str, ...] | None] = lambda: None  # whose jobs may run here; None = everybody's
    owner: str = ""  # as whom a client has joined


def locate(hub: Path | None, environ: Mapping[str, str]) -> HubPlace:
    """The hub named, or the user's own."""
    if hub is not None or environ.get("OVERNIGHT_HUB"):
        return HubPlace(Path(hub or environ["OVERNIGHT_HUB"]).expanduser().absolute())
    state = environ.get("XDG_STATE_HOME", "")
    root = Path(state) if state.startswith("/") else Path(environ.get("HOME") or "/nonexistent") / ".local" / "state"
    return HubPlace(root / "overnight" / "hub")


@contextlib.contextmanager
def reached(hub: Path | None, environ: Mapping[str, str], waits_for: str = "log") -> Iterator[Reached]:
    """Open the hub that is named, or the one behind the relay that was joined, or the user's own, which is made when missing.

    ``waits_for`` is what its ``wait`` ends at: a worker waits for "claim". Raises ``UsageError``, ``StorageError``, ``UnreachableError``, ``NotAllowedError``.
    """
    kind = "worker" if waits_for == "claim" else "client"
    if hub is None and not environ.get("OVERNIGHT_HUB") and not environ.get(STORE) and joined(environ, kind):
        from overnight.app.serving import far

        with far(environ, kind) as found:
            yield found
        return
    place = locate(hub, environ)
    try:
        place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(
            "E-HUB-FOLDER",
            f"the hub's folder {place.folder} cannot be made: {exc.strerror}",
            fix="overnight hub list --hub ~/overnight-hub",
        ) from exc
    with kept(place.folder, environ) as store, store.bell(waits_for) as bell:
        desk = Desk(
            store.queue, store.now, Bell(store.ring, bell.wait, partial(store.bell, "log")), lease=lease_of(environ), era=store.era, revoked=cut_off(lambda: served_over(place)),
        )  # fmt: skip
        yield Reached(desk, place, lambda seconds, _query=None: bell.wait(seconds), store.bell, environ)


def served_over(place: HubPlace) -> str:
    """The folder of the relay that this hub was last served over; empty if there is none."""
    try:
        return str(json.loads((place.folder / SERVING).read_bytes()).get("relay", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def cut_off(relay_of: Callable[[], str]) -> Callable[[], Mapping[str, float]]:
    """Tells who was cut off from the relay in this folder, and when (wall time); read anew when that has changed."""
    held: tuple[object, dict[str, float]] = (None, {})

    def find() -> dict[str, float]:
        nonlocal held
        relay = relay_of()
        if not relay:
            return {}
        from overnight.hub.folder import Folder

        with contextlib.suppress(OvernightError, OSError):
            found = Folder(Path(relay))
            if (stamp := (relay, found.changed())) != held[0]:
                held = (stamp, {row.name: float(row.revoked) for row in found.roster().members.values() if row.revoked})
            return held[1]
        return {}

    return find


def joined(environ: Mapping[str, str], kind: str) -> bool:
    """Whether this machine has joined a relay as a ``worker`` or ``client``."""
    file = user_file(environ)
    return bool(environ.get("OVERNIGHT_CREDENTIALS")) or (file is not None and (file.parent / f"{kind}.json").exists())


# --- submit ------------------------------------------------------------------------------------------------------------


def submit(found: Reached, asked: Submission, workdir: Path | None) -> HubJob:
    """Take the code as it is now and queue the job. Raises ``UsageError``, ``NotFoundError``, ``StorageError``."""
    asked = sound(asked)
    check(asked.inputs)
    if trouble := replace(asked, inputs=()).trouble():
        raise UsageError("E-SUBMIT", trouble, fix="overnight hub submit --help")
    asked = replace(asked, needs=tuple(which(found, need).id for need in asked.needs))
    if workdir is not None:
        asked = _with_code(found, asked, workdir)
    if found.courier is not NEAR and not asked.submission_key:  # it may be asked again, and at another hub
        asked = replace(asked, submission_key=f"once-{secrets.token_hex(12)}")
    return found.desk.submit(asked)


def _with_code(found: Reached, asked: Submission, workdir: Path) -> Submission:
    from overnight.workspace.parcels import Parcels

    home = found.environ.get("HOME", "")
    if home.startswith("/") and Path(home).resolve().is_relative_to(workdir.resolve()) and not (workdir / ".git").exists():
        raise UsageError(
            "E-CODE-HOME", f"the code would be all of {workdir.resolve()}, with your keys and whatever else your home folder holds",
            why="the folder travels as it is", fix="overnight hub submit --workdir PROJECT -- …   # or --no-code",
        )  # fmt: skip
    with contextlib.closing(Parcels(found.place.code)) as parcels:
        code = parcels.pack(workdir)
        found.courier.send_code(parcels, code.commit)
    below = f"{code.folder}/" if code.folder else ""
    inputs = []
    for entry in asked.inputs:
        name, path = input_of(entry)
        if is_url(path):
            inputs.append(f"{below}{name}={path}")
        elif "=" in entry and not entry.startswith("/"):
            inputs.append(f"{below}{name}={(workdir / Path(path).expanduser()).resolve()}")
        elif entry.startswith(("/", "~")):
            inputs.append(str(Path(entry).expanduser()))
        else:
            inputs.append(f"{below}{entry}={(workdir / entry).resolve()}")
    top = Path(str(workdir.resolve()).removesuffix(f"/{code.folder}")) if code.folder else workdir.resolve()
    taken = {entry.partition("=")[0] for entry in inputs}
    for name, target in code.links.items():
        place = (top / name).parent / target
        if name not in taken and place.exists():
            inputs.append(f"{name}={place.resolve()}")
    return replace(asked, code=code.commit, folder=code.folder, inputs=tuple(inputs))


def alive(found: Reached) -> list[WorkerState]:
    """The workers that live."""
    return [each for each in found.desk.workers() if each.alive]


# --- look --------------------------------------------------------------------------------------------------------------


def which(found: Reached, text: str) -> HubJob:
    """The job with this id or unambiguous beginning of one, with or without ``job-``, or the ``last``. Raises ``NotFoundError``."""
    if text == "last":
        jobs_ = found.desk.jobs(Query(last=1))
    else:
        jobs_ = found.desk.jobs(Query(text if text.startswith("job-") else f"job-{text}", last=2)) if text else []
    exact = [job for job in jobs_ if job.id in (text, f"job-{text}")]
    if len(exact or jobs_) != 1:
        shown = one_line(text, 80) or "without a name"
        what = f"several jobs begin with {shown}" if jobs_ else f"there is no job {shown}"
        raise NotFoundError("E-NO-JOB", what, where=str(found.place.folder), fix="overnight hub list")
    return (exact or jobs_)[0]


def metrics(found: Reached, job: HubJob) -> list[MetricPoint]:
    """Every metric point of the latest attempt that was kept."""
    data, at = b"", 0
    while (part := found.desk.part(job.id, Stream.METRICS, 0, at)).data:
        data, at = data + part.data, part.next
    points = []
    for line in data.splitlines():
        with contextlib.suppress(ValueError):
            points.append(jobs.point_from_json(line))
    return points


def fetch_outputs(found: Reached, job: HubJob, dest: Path) -> None:
    """Copy what the job has left into ``dest``, which is new or empty. Raises ``NotFoundError``, ``UsageError``, ``StorageError``."""
    import shutil

    source = found.place.outputs(job)
    found.courier.fetch_outputs(job, source)
    if not job.outputs or not source.is_dir():
        raise NotFoundError("E-NO-OUTPUTS", f"{job.id} has left nothing", why=f"it is {job.state}; it brings back: {' '.join(job.submission.outputs) or 'nothing'}", fix=f"overnight hub outputs {job.id}")  # fmt: skip
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise UsageError("E-NOT-EMPTY", f"{dest} holds other things", fix=f"overnight hub outputs {job.id} --to {job.id}-outputs")
    try:
        shutil.copytree(source, dest, dirs_exist_ok=True)
    except (OSError, shutil.Error) as exc:
        raise StorageError("E-OUTPUTS", f"{dest} cannot be written: {exc}", fix=f"df -h {dest.parent}") from exc


def job_json(job: HubJob, wait: float | None = None) -> dict[str, Any]:
    """A job for ``--json``: what was asked for, and what became of it."""
    asked = {key: value for key, value in coding.plain(job.submission).items() if key not in ("env", "wait", "code", "folder")}
    return {
        "id": job.id, "name": job.submission.name, "state": job.state, "attempt": job.attempt, "worker": job.worker or None, "gpus": list(job.gpus),
        "cause": job.cause, "cancelled": job.cancelled or None, "submitted": moment(job.submitted), "started": moment(job.started),
        "finished": moment(job.finished), "seconds": job.seconds, "exit_code": job.exit_code, "failures": job.failures, "losses": job.losses,
        "expected_wait": wait, "commit": job.submission.code or None, "env": sorted(job.submission.env), "asked": asked,
        "outputs": coding.plain(job.outputs), "metrics": coding.plain(job.metrics),
    }  # fmt: skip


def worker_json(worker: WorkerState) -> dict[str, Any]:
    """A worker for ``--json``."""
    machine = worker.machine
    return {
        "name": machine.name, "alive": worker.alive, "draining": worker.draining, "revoked": worker.revoked,
        "quarantine": [{"by": each.owner or None, "reason": each.reason, "since": moment(each.since)} for each in worker.doubts],
        "clients": None if machine.clients is None else list(machine.clients), "shares": list(machine.shares), "fetches": list(machine.fetches), "seen": moment(worker.seen), "jobs": list(worker.jobs),
        "slots": machine.slots, "gpus": [{"index": card.index, "name": card.name, "memory_mb": card.memory_mb} for card in machine.cards],
        "cpus": machine.cpus, "memory_gb": machine.memory_gb, "tags": list(machine.tags), "host": machine.host, "class": machine.kind,
        "text": described(machine),
    }  # fmt: skip


def listed(found: Reached, *, everything: bool, last: int, query: Query) -> list[HubJob]:
    """Jobs that wait or run, oldest first, and (or: with) those that are over."""
    states = query.states or (() if everything else _OPEN)
    return list(reversed(found.desk.jobs(replace(query, states=states, last=last))))
