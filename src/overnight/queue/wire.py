"""The hub's verbs as bytes: a request is answered by ``answer``, and ``Remote`` asks, so that a transport only has to carry bytes.

A request is ``{"verb": …, …arguments}``, an answer ``{"ok": …}`` or ``{"error": …}``; both JSON, a mebibyte at most, 32 levels at most.
Unknown keys of a request are refused; those of an answer are passed over, so that a hub may be newer than who asks it. A request is
hostile until it is read: nothing but an answer comes of it. Who asks is known from the transport, never from the bytes.
Pure: must not know what carries them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from overnight import errors
from overnight.errors import NotAllowedError, NotFoundError, OvernightError, UnreachableError
from overnight.models import JobStatus
from overnight.protocols import Hub, Orders, Trusts, Views
from overnight.queue import coding
from overnight.queue.words import (
    Chunk,
    Ended,
    Grant,
    Held,
    HubJob,
    Offer,
    Output,
    Part,
    Query,
    Renewal,
    Report,
    Started,
    Stream,
    Submission,
    WorkerState,
)  # fmt: skip

LONGEST_WAIT = 30.0  # seconds that a claim may wait
_JOBS_AT_ONCE = 500
_ROOM = coding.LONGEST - 1024  # bytes of jobs in an answer


class Role(StrEnum):
    """What somebody may do."""

    WORKER = "worker"  # claim, renew and report, for itself alone
    CLIENT = "client"  # submit, and look at and end its own jobs
    OWNER = "owner"  # everything


@dataclass(frozen=True, slots=True)
class Who:
    """Somebody whom the transport has recognised."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class _Claim:
    offer: Offer
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class _Renew:
    worker: str
    held: tuple[Held, ...]
    fresh: bool = False
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class _Report:
    worker: str
    held: Held
    chunk: Chunk | None = None
    ended: JobStatus | None = None  # with ``outputs``; neither of both says that it has started
    outputs: tuple[Output, ...] = ()


@dataclass(frozen=True, slots=True)
class _Submit:
    submission: Submission


@dataclass(frozen=True, slots=True)
class _Job:
    job: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Retry:
    job: str
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Drain:
    worker: str
    on: bool = True


@dataclass(frozen=True, slots=True)
class _Quarantine:
    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Trust:
    worker: str


@dataclass(frozen=True, slots=True)
class _Jobs:
    query: Query


@dataclass(frozen=True, slots=True)
class _Page:
    jobs: tuple[HubJob, ...]
    more: bool  # those that are further back follow when they are asked for


@dataclass(frozen=True, slots=True)
class _News:
    query: Query
    seen: str = ""
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class _Part:
    job: str
    stream: Stream
    attempt: int = 0
    since: int = 0


@dataclass(frozen=True, slots=True)
class _Nothing:
    pass


class Counter(Hub, Orders, Trusts, Views, Protocol):
    """What answers: a hub in full, such as the desk."""


def _own(who: Who, name: str) -> str:
    if who.role is not Role.OWNER and who.name != name:
        raise NotAllowedError("E-NOT-ALLOWED", f"{who.name} may not speak for {name[:80]}", fix="overnight worker start --name NAME")
    return name


def _mine(desk: Counter, who: Who, job: str) -> str:
    """The job, unless it is somebody else's: then it is as if it were not there."""
    if who.role is not Role.OWNER and not any(found.id == job for found in desk.jobs(Query(job, owner=who.name, last=2))):
        raise NotFoundError("E-NO-JOB", f"there is no job {job[:80]}", fix="overnight hub list")
    return job


def _claim(desk: Counter, who: Who, said: _Claim) -> Any:
    _own(who, said.offer.machine.name)
    return desk.claim(said.offer, _patience(said.wait))


def _patience(wait: float) -> float:
    return min(wait, LONGEST_WAIT) if wait > 0 else 0.0  # also of what is no number


def _report(desk: Counter, who: Who, said: _Report) -> Any:
    what: Report = Ended(said.ended, said.outputs) if said.ended is not None else said.chunk or Started()
    return desk.report(_own(who, said.worker), said.held, what)


def _asked(who: Who, query: Query) -> Query:
    """The query, among one's own jobs."""
    return query if who.role is Role.OWNER else replace(query, owner=who.name)


def _jobs(desk: Counter, who: Who, said: _Jobs) -> Any:
    query = _asked(who, said.query)
    found, room = desk.jobs(replace(query, last=min(query.last, _JOBS_AT_ONCE))), _ROOM
    fit = []
    for job in found:
        room -= len(coding.written(job)) + 1
        if room < 0:
            break
        fit.append(job)
    return _Page(tuple(fit), len(fit) < len(found) or len(found) == _JOBS_AT_ONCE < query.last)


def _submit(desk: Counter, who: Who, said: _Submit) -> Any:
    return desk.submit(said.submission, _owner(who))


def _owner(who: Who) -> str:
    """Whose jobs are meant: the hub's owner has no name."""
    return "" if who.role is Role.OWNER else who.name


def _workers(desk: Counter, who: Who, _said: _Nothing) -> Any:
    """A client sees its own doubts and the owner's, and of lists of clients whether it is on them."""
    if who.role is Role.OWNER:
        return desk.workers()
    found = []
    for each in desk.workers():
        names = each.machine.clients
        machine = each.machine if names is None else replace(each.machine, clients=tuple(name for name in names if name == who.name))
        found.append(replace(each, machine=machine, doubts=tuple(doubt for doubt in each.doubts if doubt.owner in ("", who.name))))
    return found


_WORKS, _ASKS, _BOTH = (Role.WORKER,), (Role.CLIENT,), (Role.WORKER, Role.CLIENT)
# Verb -> who may say it beside the owner, what is said, what is done, and the type of the answer.
_VERBS: Mapping[str, tuple[tuple[Role, ...], Any, Callable[[Counter, Who, Any], Any], Any]] = {
    "claim": (_WORKS, _Claim, _claim, Grant | None),
    "renew": (
        _WORKS,
        _Renew,
        lambda desk, who, said: desk.renew(_own(who, said.worker), said.held, fresh=said.fresh, leaving=said.leaving),
        Renewal,
    ),
    "report": (_WORKS, _Report, _report, bool),
    "submit": (_ASKS, _Submit, _submit, HubJob),
    "cancel": (_ASKS, _Job, lambda desk, who, said: desk.cancel(_mine(desk, who, said.job), said.reason), HubJob),
    "retry": (_ASKS, _Retry, lambda desk, who, said: desk.retry(_mine(desk, who, said.job), said.env), HubJob),
    "drain": ((), _Drain, lambda desk, _who, said: desk.drain(said.worker, on=said.on), Grant | None),
    "jobs": (_ASKS, _Jobs, _jobs, _Page),
    "part": (_ASKS, _Part, lambda desk, who, said: desk.part(_mine(desk, who, said.job), said.stream, said.attempt, said.since), Part),
    "news": (_ASKS, _News, lambda desk, who, said: desk.news(_asked(who, said.query), said.seen, _patience(said.wait)), str),
    "quarantine": (_ASKS, _Quarantine, lambda desk, who, said: desk.quarantine(said.worker, said.reason, _owner(who)), Grant | None),
    "trust": (_ASKS, _Trust, lambda desk, who, said: desk.trust(said.worker, _owner(who)), bool),
    "workers": (_ASKS, _Nothing, _workers, tuple[WorkerState, ...]),
    "waits": (_ASKS, _Nothing, lambda desk, _who, _said: desk.waits(), Mapping[str, float]),
}


def answer(desk: Counter, who: Who, data: bytes) -> bytes:
    """What the desk (``Hub``, ``Orders`` and ``Views`` in one) answers to a request. Never raises for what the bytes hold."""
    try:
        return _written({"ok": coding.plain(_done(desk, who, data))})
    except OvernightError as exc:
        return _written({"error": {"kind": type(exc).__name__, **exc.as_dict()}})
    except ValueError as exc:
        return _written({"error": {"kind": "UsageError", "code": "E-WIRE", "message": f"a request cannot be read: {exc}"[:2000]}})


def verb_of(data: bytes) -> str:
    """The verb of a request, for logs and subjects; empty if there is none."""
    try:
        found = coding.parsed(data)
    except ValueError:
        return ""
    verb = found.get("verb") if isinstance(found, dict) else None
    return verb if isinstance(verb, str) and verb in _VERBS else ""


def _done(desk: Counter, who: Who, data: bytes) -> Any:
    found = coding.parsed(data)
    if not isinstance(found, dict) or not isinstance(verb := found.pop("verb", None), str):
        raise ValueError("there is no verb")  # noqa: TRY004 - callers look for ValueError
    if verb not in _VERBS:
        raise ValueError(f"nobody knows the verb {verb[:40]!r}")
    roles, kind, do, _ = _VERBS[verb]
    if who.role is not Role.OWNER and who.role not in roles:
        raise NotAllowedError("E-NOT-ALLOWED", f"a {who.role} may not {verb}", fix="ask the owner of the hub")
    return do(desk, who, coding.record(kind, found))


def _written(found: Any) -> bytes:
    return json.dumps(found, separators=(",", ":")).encode("ascii")


class Remote:
    """``Hub``, ``Orders``, ``Trusts`` and ``Views`` of a hub that is reached by ``ask``: request in, answer out, ``UnreachableError`` if there is none."""

    def __init__(self, ask: Callable[[bytes], bytes]) -> None:
        self._ask = ask

    def claim(self, offer: Offer, wait: float = 0.0) -> Grant | None:
        """See ``protocols.Hub``."""
        return self._said("claim", _Claim(offer, wait))  # type: ignore[no-any-return]

    def renew(self, worker: str, held: Sequence[Held], *, fresh: bool = False, leaving: bool = False) -> Renewal:
        """See ``protocols.Hub``."""
        return self._said("renew", _Renew(worker, tuple(held), fresh, leaving))  # type: ignore[no-any-return]

    def report(self, worker: str, held: Held, what: Report) -> bool:
        """See ``protocols.Hub``."""
        said = _Report(worker, held)
        if isinstance(what, Chunk):
            said = replace(said, chunk=what)
        elif isinstance(what, Ended):
            said = replace(said, ended=what.status, outputs=what.outputs)
        return self._said("report", said)  # type: ignore[no-any-return]

    def submit(self, submission: Submission, owner: str = "") -> HubJob:  # noqa: ARG002 - the hub knows from the transport who asks
        """See ``protocols.Orders``."""
        return self._said("submit", _Submit(submission))  # type: ignore[no-any-return]

    def cancel(self, job: str, reason: str = "") -> HubJob:
        """See ``protocols.Orders``."""
        return self._said("cancel", _Job(job, reason))  # type: ignore[no-any-return]

    def retry(self, job: str, env: Mapping[str, str] | None = None) -> HubJob:
        """See ``protocols.Orders``."""
        return self._said("retry", _Retry(job, dict(env or {})))  # type: ignore[no-any-return]

    def drain(self, worker: str, *, on: bool = True) -> None:
        """See ``protocols.Orders``."""
        self._said("drain", _Drain(worker, on))

    def quarantine(self, worker: str, reason: str, owner: str = "") -> None:  # noqa: ARG002 - the hub knows from the transport who asks
        """See ``protocols.Trusts``."""
        self._said("quarantine", _Quarantine(worker, reason))

    def trust(self, worker: str, owner: str = "") -> bool:  # noqa: ARG002 - the hub knows from the transport who asks
        """See ``protocols.Trusts``."""
        return self._said("trust", _Trust(worker))  # type: ignore[no-any-return]

    def jobs(self, query: Query) -> list[HubJob]:
        """See ``protocols.Views``."""
        found: list[HubJob] = []
        while True:
            page = self._said("jobs", _Jobs(query))
            found += page.jobs
            if not page.more or not page.jobs or len(page.jobs) >= query.last:
                return found
            query = replace(query, before=found[-1].id, last=query.last - len(page.jobs))

    def part(self, job: str, stream: Stream, attempt: int = 0, since: int = 0) -> Part:
        """See ``protocols.Views``."""
        return self._said("part", _Part(job, stream, attempt, since))  # type: ignore[no-any-return]

    def news(self, query: Query, seen: str = "", wait: float = 0.0) -> str:
        """See ``protocols.Views``."""
        return str(self._said("news", _News(query, seen, wait)))

    def workers(self) -> list[WorkerState]:
        """See ``protocols.Views``."""
        return list(self._said("workers", _Nothing()))

    def waits(self) -> dict[str, float]:
        """See ``protocols.Views``."""
        return dict(self._said("waits", _Nothing()))

    def _said(self, verb: str, what: Any) -> Any:
        data = _written({"verb": verb, **coding.plain(what)})
        if len(data) > coding.LONGEST:
            raise errors.UsageError(
                "E-TOO-LARGE", f"{verb}: {len(data)} bytes, at most {coding.LONGEST} can be sent", fix="overnight hub submit --help"
            )
        reply = self._ask(data)
        try:
            found = coding.parsed(reply)
            if isinstance(found, dict) and isinstance(found.get("error"), dict):
                raise _error(found["error"])
            return coding.record(_VERBS[verb][3], found["ok"], lenient=True)
        except (ValueError, KeyError, TypeError) as exc:
            raise UnreachableError(
                "E-WIRE", f"the hub's answer cannot be read: {exc}"[:500], fix="pip install --upgrade overnight   # on both sides"
            ) from exc


def _error(found: Mapping[str, Any]) -> OvernightError:
    """The error that was told, of the class that it had there."""
    kind = getattr(errors, str(found.get("kind")), OvernightError)
    made = kind if isinstance(kind, type) and issubclass(kind, OvernightError) else OvernightError
    texts = {name: str(found.get(name, "")) for name in ("code", "message", "hint", "where", "why")}
    return made(texts["code"], texts["message"], where=texts["where"], why=texts["why"], fix=texts["hint"])
