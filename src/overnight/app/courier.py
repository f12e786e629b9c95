"""Code and outputs on their way over a relay: from a client to the hub, from the hub to a worker, and back.

What is carried is an object of the link, sealed; a request before or after says what it is. On one machine nothing is carried: all use the same folders.
Must not know how a hub is opened.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from overnight.app import handed
from overnight.errors import NotAllowedError, NotFoundError, OvernightError, StorageError, UsageError
from overnight.folders import remove
from overnight.queue.words import HubJob, Output, Query

if TYPE_CHECKING:
    from overnight.hub.keys import Peer
    from overnight.hub.link import Link
    from overnight.queue.wire import Counter
    from overnight.workspace.parcels import Parcels

_CODE, _OUTPUTS = "CODE", "ART"
_PATIENCE = 60.0  # seconds for one piece, and for one answer
_KNOWN = 64  # commits that a difference may be made to


def _nothing(*_: object) -> None:
    """On one machine there is nothing to carry."""


@dataclass(frozen=True, slots=True)
class Courier:
    """What is done about code and outputs where the hub is not on this machine."""

    send_code: Callable[[Parcels, str], object] = _nothing  # a client, before it submits
    send_handed: Callable[[Sequence[Output], Path], object] = _nothing  # a client, before it submits
    fetch_code: Callable[[Parcels, HubJob], object] = _nothing  # a worker, before it lays out
    fetch_handed: Callable[[HubJob, Sequence[Output], Path], object] = _nothing  # a worker, before it lays out
    hand_in: Callable[[HubJob, tuple[Output, ...], Path], object] = _nothing  # a worker, when a job is over
    fetch_outputs: Callable[[HubJob, Path], object] = _nothing  # a client


NEAR = Courier()


def member(link: Link) -> Courier:
    """A member's side."""
    turns = _Turns()
    return Courier(
        lambda parcels, commit: _send_code(link, parcels, commit),
        lambda files, store: _send_handed(link, files, store),
        lambda parcels, job: _fetch_code(link, turns, parcels, job),
        lambda job, files, store: _fetch_handed(link, turns, job, files, store),
        lambda job, outputs, folder: _hand_in(link, job, outputs, folder),
        lambda job, folder: _fetch_outputs(link, job, folder),
    )


class _Turns:
    """Has those wait for each other who want the same at once: the second one finds it here."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """The turn of who wants this."""
        with self._guard:
            turn = self._held.setdefault(name, threading.Lock())
        with turn:
            yield


def _send_code(link: Link, parcels: Parcels, commit: str) -> None:
    told = _ask(link, "code-known", {"commit": commit})
    if told["here"]:
        return
    link.put(_CODE, commit, parcels.bundle(commit, _texts(told["known"])), timeout=_PATIENCE)
    _ask(link, "code-sent", {"commit": commit})


def _fetch_code(link: Link, turns: _Turns, parcels: Parcels, job: HubJob) -> None:
    commit = job.submission.code
    with turns.of(commit):
        if not commit or parcels.has(commit):
            return
        _ask(link, "code-wanted", {"job": job.id, "attempt": job.attempt, "known": parcels.commits(_KNOWN)})
        parcels.take(link.get(_CODE, commit, timeout=_PATIENCE), commit)


def _send_handed(link: Link, files: Sequence[Output], store: Path) -> None:
    if not files:
        return
    rows = [_row_of(each) for each in files]
    wanted = set(_ask(link, "handed-known", {"files": rows})["missing"])
    for each, row in zip(files, rows, strict=True):
        if each.sha256 in wanted:
            wanted.remove(each.sha256)
            link.put(_OUTPUTS, f"handed/{each.sha256}", store / each.sha256[:2] / each.sha256, timeout=_PATIENCE)
            _ask(link, "handed-sent", {"files": [row]})


def _fetch_handed(link: Link, turns: _Turns, job: HubJob, files: Sequence[Output], store: Path) -> None:
    for each in files:
        with turns.of(each.sha256):
            if handed.is_there(store, each):
                continue
            _ask(link, "handed-wanted", {"job": job.id, "attempt": job.attempt, "sha256": each.sha256})
            handed.add(store, each, lambda place, name=f"handed/{each.sha256}": link.get(_OUTPUTS, name, place, timeout=_PATIENCE))  # type: ignore[misc] # binds the name


def _hand_in(link: Link, job: HubJob, outputs: tuple[Output, ...], folder: Path) -> None:
    for each in outputs:
        link.put(_OUTPUTS, _name(job.id, job.attempt, each.path), folder / each.path, timeout=_PATIENCE)
    for begin in range(0, len(outputs), 1000):
        rows = [_row_of(each) for each in outputs[begin : begin + 1000]]
        _ask(link, "outputs-sent", {"job": job.id, "attempt": job.attempt, "files": rows})


def _fetch_outputs(link: Link, job: HubJob, folder: Path) -> None:
    if folder.is_dir():
        return
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")  # several may want them at once
    try:
        for each in job.outputs:
            _ask(link, "output-wanted", {"job": job.id, "path": each.path})
            _receive(link, "hub", _name(job.id, job.attempt, each.path), draft, each)
        if draft.is_dir() and not folder.is_dir():
            draft.rename(folder)
    except OSError as exc:
        if not folder.is_dir():  # else somebody else was quicker
            raise StorageError("E-OUTPUTS", f"{folder} cannot be written: {exc.strerror}", fix=f"df -h {folder.parent}") from exc
    finally:
        remove(draft)


class Counterpart:
    """The hub's side: takes code in and gives it out, takes outputs in and gives them out, to whom they belong alone."""

    def __init__(self, link: Link, desk: Counter, parcels: Parcels, places: tuple[Callable[[HubJob], Path], Path]) -> None:
        self._link, self._desk, self._parcels = link, desk, parcels
        self._outputs, self._store = places  # of a job's outputs, and of files that are handed on

    def verbs(self) -> dict[str, Callable[[Peer, bytes], bytes]]:
        """What it answers to, and how."""
        handlers = {
            "code-known": self._known, "code-sent": self._sent, "code-wanted": self._wanted, "outputs-sent": self._handed_in,
            "output-wanted": self._output, "handed-known": self._handed_known, "handed-sent": self._handed_sent, "handed-wanted": self._handed_wanted,
        }  # fmt: skip
        return {verb: functools.partial(_answered, handle) for verb, handle in handlers.items()}

    def _known(self, _who: Peer, row: Mapping[str, Any]) -> dict[str, Any]:
        return {"here": self._parcels.has(str(row["commit"])), "known": self._parcels.commits(_KNOWN)}

    def _sent(self, who: Peer, row: Mapping[str, Any]) -> dict[str, Any]:
        commit = str(row["commit"])
        self._parcels.take(self._link.get(_CODE, commit, source=who.name, timeout=_PATIENCE), commit)
        return {}

    def _wanted(self, who: Peer, row: Mapping[str, Any]) -> dict[str, Any]:
        job = self._of_worker(who, row)
        commit = job.submission.code
        self._link.put(_CODE, commit, self._parcels.bundle(commit, _texts(row["known"])), to=who.name, timeout=_PATIENCE)
        return {}

    def _handed_in(self, who: Peer, row: Mapping[str, Any]) -> dict[str, Any]:
        job = self._of_worker(who, row)
        for output in _outputs_of(row):
            _receive(self._link, who.name, _name(job.id, job.attempt, output.path), self._outputs(job), output)
        return {}

    def _output(self, who: Peer, row: Mapping[str, Any]) -> dict[str, Any]:
        found = self._desk.jobs(Query(str(row["job"]), owner=who.name, last=2))
        outputs = [each for job in found if job.id == row["job"] for each in job.outputs if each.path == row["path"]]
        if not outputs:
            raise NotFoundError("E-NO-OUTPUTS", "there is no such output", fix="overnight hub list --all")
        source = self._outputs(found[0]) / _safe(outputs[0].path)
        self._link.put(_OUTPUTS, _name(found[0].id, found[0].attempt, outputs[0].path), source, to=who.name, timeout=_PATIENCE)
        return {}

    def _handed_known(self, _who: Peer, row: Mapping[str, Any]) -> dict[str, Any]:
        files = _outputs_of(row)
        return {"missing": [each.sha256 for each in files if not handed.is_there(self._store, each)]}

    def _handed_sent(self, who: Peer, row: Mapping[str, Any]) -> dict[str, Any]:
        for each in _outputs_of(row):
            handed.add(self._store, each, functools.partial(self._take_in, who.name, each.sha256))
        return {}

    def _take_in(self, source: str, digest: str, place: Path) -> None:
        self._link.get(_OUTPUTS, f"handed/{digest}", place, source=source, timeout=_PATIENCE)

    def _handed_wanted(self, who: Peer, row: Mapping[str, Any]) -> dict[str, Any]:
        found = next((each for each in self._of_worker(who, row).submission.handed if each.sha256 == row["sha256"]), None)
        if found is None or not handed.is_there(self._store, found):
            raise NotFoundError("E-NO-HANDED", "there is no such file, or not any more", fix="overnight hub list --all")
        place = self._store / found.sha256[:2] / found.sha256
        self._link.put(_OUTPUTS, f"handed/{found.sha256}", place, to=who.name, timeout=_PATIENCE)
        return {}

    def _of_worker(self, who: Peer, row: Mapping[str, Any]) -> HubJob:
        """The job, if this worker has its current attempt; raises ``NotAllowedError``."""
        found = [job for job in self._desk.jobs(Query(str(row["job"]), last=2)) if job.id == row["job"]]
        if not found or found[0].worker != who.name or found[0].attempt != row["attempt"] or found[0].state.over:
            raise NotAllowedError(
                "E-FENCED", f"{who.name} has no such attempt", why="it was given to another worker, or is over", fix="overnight hub list"
            )
        return found[0]


def _answered(handle: Callable[[Peer, Mapping[str, Any]], dict[str, Any]], who: Peer, data: bytes) -> bytes:
    return json.dumps(handle(who, _row(data))).encode()


def _receive(link: Link, source: str, name: str, folder: Path, output: Output) -> None:
    """Take one file in, below a folder, whole and with the hash that was said."""
    place = folder / _safe(output.path)
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        link.get(_OUTPUTS, name, place, source=source, timeout=_PATIENCE)
        with place.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise StorageError("E-OUTPUTS", f"{place} cannot be written: {exc.strerror}", fix=f"df -h {folder.parent}") from exc
    place.chmod(0o755 if output.executable else 0o600)
    if digest != output.sha256 or place.stat().st_size != output.size:
        place.unlink()
        raise OvernightError("E-DAMAGED", f"{output.path[:80]} did not arrive as it was sent", fix="overnight hub list")


def _safe(path: str) -> Path:
    """A path that stays below the folder it is for; raises ``UsageError``."""
    parts = path.split("/")
    if not path or len(path) > 1000 or any(part in ("", ".", "..") for part in parts) or any(ord(letter) < 32 for letter in path):
        raise UsageError("E-OUTPUTS", f"{path[:80]!r} is no path of an output", fix="overnight hub list")
    return Path(*parts)


def _row_of(output: Output) -> dict[str, Any]:
    return {"path": output.path, "size": output.size, "sha256": output.sha256, "executable": output.executable}


def _outputs_of(row: Mapping[str, Any]) -> list[Output]:
    """The files that a request names; raises ``UsageError``, also for a hash that is none: it becomes the name of a file."""
    try:
        found = [
            Output(str(each["path"]), int(each["size"]), str(each["sha256"]), each.get("executable") is True)
            for each in map(_Said, row["files"])
        ]
    except (TypeError, ValueError, OverflowError) as exc:
        raise UsageError("E-WIRE", "a request cannot be read", fix="pip install --upgrade overnight") from exc
    if not all(re.fullmatch(r"[0-9a-f]{64}", each.sha256) for each in found):
        raise UsageError("E-WIRE", "a hash is none", fix="pip install --upgrade overnight")
    return found


def _name(job: str, attempt: int, path: str) -> str:
    return f"{job}.{attempt}/{path}"


def _ask(link: Link, verb: str, row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(link.request(verb, json.dumps(row).encode(), _PATIENCE))
    return found


def _row(data: bytes) -> Mapping[str, Any]:
    try:
        return _Said(json.loads(data))
    except (ValueError, TypeError, RecursionError) as exc:
        raise UsageError("E-WIRE", "a request cannot be read", fix="pip install --upgrade overnight") from exc


class _Said(dict[str, Any]):
    """What was said; what is missing is an error of who said it."""

    def __missing__(self, key: str) -> Any:
        raise UsageError("E-WIRE", f"a request lacks '{key}'", fix="pip install --upgrade overnight")


def _texts(found: Any) -> Sequence[str]:
    return [str(each) for each in found[:_KNOWN]] if isinstance(found, list) else ()
