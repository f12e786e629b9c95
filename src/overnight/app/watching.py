"""Following jobs as they run: what they print, line by line, and what becomes of them, in the seed's shape."""

from __future__ import annotations

import codecs
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from overnight.app.hub import Reached
from overnight.models import JobState
from overnight.printable import clean, duration, one_line
from overnight.queue.words import HubJob, Query, Stream

_LOOK = 1.0  # seconds
_UNFIT = re.compile(r"[^\x20-\x7e\n]")
_BEFORE = 2000  # bytes of what a job has printed before one looked
_LONGEST = 2000  # letters of a line
_LATEST = (20, 200)  # jobs that are looked at for such as have come: as a rule, and at most
_OPEN = (JobState.QUEUED, JobState.RUNNING)


@dataclass(slots=True)
class Follower:
    """Where one is in the output of one job."""

    id: str
    attempt: int = 0
    at: int = 0
    said: str = ""
    over: bool = False
    midway: bool = False  # begins within a line, which is left out
    _begun: int = 0  # the attempt of which it was said where it runs
    _rest: str = ""
    _decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def next(self, found: Reached) -> str:
        """What is new, as lines; empty if nothing. ``over`` when there will be no more."""
        part = found.desk.part(self.id, Stream.LOG, self.attempt, self.at)
        if self.attempt == 0 and part.attempt:
            self.attempt = part.attempt
        if part.data:
            self.at = part.next
            head = self._beginning(found)
            if self.midway:
                self.midway = False
                return head + self._lines(part.data[part.data.find(b"\n") + 1 :].decode("utf-8", "replace"))
            return head + self._lines(self._decoder.decode(part.data))
        job = found.desk.jobs(Query(self.id, last=1))[0]
        if part.last and self.attempt < job.attempt:  # it was run again
            text = self._end()
            self.attempt, self.at = self.attempt + 1, 0
            return text
        self.over = job.state.over and (part.last or not job.attempt)
        if job.state.over and not self.over:  # it ended after we had read: what it printed meanwhile comes first
            return ""
        if part.last and self.attempt == job.attempt and job.state is JobState.RUNNING:
            return ""
        return (self._end() if part.last or self.over else "") + self._status(job)

    def _beginning(self, found: Reached) -> str:
        """Where the attempt runs, before the first that it has printed; empty if it was said, or is past."""
        if self._begun == self.attempt:
            return ""
        self._begun = self.attempt
        job = found.desk.jobs(Query(self.id, last=1))[0]
        return self._status(job) if job.state is JobState.RUNNING and job.attempt == self.attempt else ""

    def _status(self, job: HubJob) -> str:
        words = f"{job.state}"
        if job.state is JobState.RUNNING:
            words += (
                f" on {job.worker}"
                + (f", GPU {', '.join(job.gpus)}" if job.gpus else "")
                + (f", attempt {job.attempt}" if job.attempt > 1 else "")
            )
        elif job.cause:
            words += f" ({one_line(job.cause)})"
        if words == self.said:
            return ""
        self.said = words
        return f"[{self.id}] Status: {words}\n"

    def _lines(self, text: str) -> str:
        text = self._rest + text
        cut = max(text.rfind("\n"), text.rfind("\r")) + 1
        whole, self._rest = text[:cut], text[cut:]
        if len(self._rest) > 65536:
            whole, self._rest = whole + self._rest + "\n", ""
        return self._prefixed(whole)

    def _end(self) -> str:
        rest, self._rest = self._rest, ""
        return self._prefixed(rest + "\n") if rest else ""

    def _prefixed(self, text: str) -> str:
        """Each line harmless, and with the id of the job in front of it."""
        if not text:
            return ""
        if _UNFIT.search(text) is not None:
            lines = re.split(r"\r\n|\n|\r", text.removesuffix("\n"))
            text = "".join(clean(line, lines=True, limit=_LONGEST) + "\n" for line in lines if line or len(lines) == 1)
        head = f"[{self.id}] "
        return head + text[:-1].replace("\n", f"\n{head}") + "\n"


def streamed(found: Reached, job: str, since: int = 0, attempt: int = 0) -> Iterator[str]:
    """The output of a job until its end, as text in whole lines; waits for more."""
    follower = Follower(job, attempt, since)
    while True:
        if text := follower.next(found):
            yield text
        elif follower.over:
            return
        else:
            found.wait(_LOOK, Query(job, last=1))


def streamed_all(found: Reached, seen: set[str] | None = None) -> Iterator[str]:
    """The output of all jobs that run, now or later; of what was printed before, the last lines.

    Without end, unless ``seen`` is given, to which every job is added: then until nothing waits or runs any more.
    """
    followers: dict[str, Follower] = {}
    newest, first = found.desk.jobs(Query(last=1)), True
    while True:
        waiting, running = (
            found.desk.jobs(Query(states=(state,))) for state in _OPEN
        )  # apart: what runs is the oldest of what may be much
        came = _newer(found, newest)  # also what has come and gone since the last look
        newest = came[:1] or newest
        for job in reversed([*came, *waiting, *running]):
            if seen is not None:
                seen.add(job.id)
            if job.id not in followers:
                at = max(0, found.desk.part(job.id, Stream.LOG, 0, 10**15).next - _BEFORE) if first else 0
                followers[job.id] = Follower(job.id, job.attempt if first else 0, at, midway=at > 0)
        idle = {job.id for job in waiting if not job.attempt}
        first, quiet = False, True
        for follower in [each for each in followers.values() if not (each.said and each.id in idle)]:
            if text := follower.next(found):
                quiet = False
                yield text
            elif follower.over:
                del followers[follower.id]
        if quiet and seen is not None and not followers and not found.desk.jobs(Query(states=_OPEN, last=1)):
            return
        if quiet:
            found.wait(_LOOK, Query(states=_OPEN))


def _newer(found: Reached, newest: Sequence[HubJob]) -> list[HubJob]:
    """Jobs that were submitted after the ``newest`` (one or none) that was known, latest first."""
    for many in _LATEST:
        jobs = found.desk.jobs(Query(last=many))
        came = list(itertools.takewhile(lambda job: not newest or (job.id != newest[0].id and job.submitted >= newest[0].submitted), jobs))
        if len(came) < many:
            break
    return came


def raw(found: Reached, job: HubJob, since: int, attempt: int) -> Iterator[bytes]:
    """The log of a job as far as it is there, as bytes."""
    at = since
    while (part := found.desk.part(job.id, Stream.LOG, attempt, at)).data:
        yield part.data
        at = part.next


def overview(found: Reached) -> list[str]:
    """Every job that waits or runs, a line each."""
    waits = found.desk.waits()
    rows = [row(job, waits.get(job.id)) for job in reversed(found.desk.jobs(Query(states=_OPEN)))]
    return table(("job", "state", "name", "worker", "gpus", "since", "cause"), rows)


def row(job: HubJob, wait: float | None = None, now: float | None = None) -> tuple[str, ...]:
    """A job as cells."""
    import time

    now = time.time() if now is None else now
    since = {JobState.QUEUED: job.submitted, JobState.RUNNING: job.started or job.submitted}.get(job.state, job.finished or job.submitted)
    age = duration(job.seconds) if job.state.over and job.seconds else duration(max(0.0, now - since))
    name = job.submission.name or os.path.basename(job.submission.command[0])
    asks = ",".join(job.gpus) if job.gpus else f"({job.submission.gpu_count})" if job.submission.gpu_count else ""
    cause = job.cause or (f"expected in {duration(wait)}" if wait is not None and job.state is JobState.QUEUED else "")
    return job.id, job.state, one_line(name, 30), job.worker if job.state is not JobState.QUEUED else "", asks, age, one_line(cause, 80)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows with aligned columns; empty ones are left out."""
    used = [index for index in range(len(head)) if any(row[index] for row in rows)]
    widths = {index: max(len(row[index]) for row in [head, *rows]) for index in used}
    return ["  ".join(row[index].ljust(widths[index]) for index in used).rstrip() for row in ([head, *rows] if rows else [])]
