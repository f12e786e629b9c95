"""What a job folder looks like: the names of its files, and spec and status as JSON.

Shared by whoever submits a job and by the supervisor that runs it, which know nothing else of each other. Pure: reads and writes
no file. Numbers that JSON does not know (nan, inf) travel as texts; unknown keys are passed over, missing ones get their default.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from overnight.models import JobSpec, JobState, JobStatus, MetricPoint, MetricSummary

SPEC = "spec.json"  # what to run; its presence makes the folder a job
LOG = "output.log"  # stdout and stderr as raw bytes: the head, then behind a marker the tail
METRICS = "metrics.jsonl"  # points as they come, one JSON array [name, value, step, time] a line
STATUS = "status.json"  # replaced atomically; absent until the supervisor is about to start the command
CANCEL = "cancel"  # its presence asks for the end, its content is the reason
GROUP = "cgroup"  # the control group of a job with limits, one path a line; absent where there is none
LOCK = "lock"  # flocked by the supervisor for its whole life; holds process id and start of the command
NODE = "node.json"  # which machine of a cluster has the job, by whose allocation; made once, never replaced
WAKE = "SIGUSR1"  # the signal that tells a supervisor to look for the request to end
TOKEN = "OVERNIGHT_JOB"  # noqa: S105 - a variable by which a job's processes are found again, no secret

_TUPLES = tuple(item.name for item in fields(JobSpec) if str(item.type).startswith("tuple["))
_SECONDS = ("time_limit", "grace")


def spec_to_json(spec: JobSpec) -> str:
    """The text of ``spec.json``."""
    return json.dumps({item.name: _plain(getattr(spec, item.name)) for item in fields(JobSpec)})


def spec_from_json(text: str | bytes) -> JobSpec:
    """The spec that ``spec_to_json`` wrote. Raises ``ValueError`` for anything else."""
    found = _known(text, JobSpec)
    try:
        found |= {name: tuple(found[name]) for name in _TUPLES if name in found}
        found |= {name: float(found[name]) for name in _SECONDS if name in found}
        return JobSpec(**found)
    except TypeError as exc:
        raise ValueError(f"no job spec: {exc}") from exc


def status_to_json(status: JobStatus) -> str:
    """The text of ``status.json``."""
    found = {item.name: _plain(getattr(status, item.name)) for item in fields(JobStatus)}
    found["metrics"] = {
        name: [_plain(item.last), _plain(item.lowest), _plain(item.highest), item.count] for name, item in status.metrics.items()
    }
    return json.dumps(found)


def status_from_json(text: str | bytes) -> JobStatus:
    """The status that ``status_to_json`` wrote. Raises ``ValueError`` for anything else."""
    found = _known(text, JobStatus)
    try:
        found["state"] = JobState(found["state"])
        found["metrics"] = {
            name: MetricSummary(float(last), float(low), float(high), int(count))
            for name, (last, low, high, count) in found.get("metrics", {}).items()
        }
        return JobStatus(**found)
    except (TypeError, KeyError, AttributeError) as exc:
        raise ValueError(f"no job status: {exc!r}") from exc


def point_to_json(point: MetricPoint) -> str:
    """One line of ``metrics.jsonl``, without its end."""
    return json.dumps([point.name, _plain(point.value), _plain(point.step), round(point.time, 3)])


def point_from_json(line: str | bytes) -> MetricPoint:
    """The point that ``point_to_json`` wrote. Raises ``ValueError`` for anything else."""
    try:
        name, value, step, time = json.loads(line)
        return MetricPoint(str(name), float(value), float(step), float(time))
    except TypeError as exc:
        raise ValueError(f"no metric point: {line!r}") from exc


def lease_text(boot: str, until: float) -> bytes:
    """What the file of a lease holds: until when, by CLOCK_BOOTTIME of the run of the kernel that ``boot`` names. Always as long."""
    return f"{boot[:40]:<40} {until:.3f}".encode("ascii", "replace")[:63].ljust(63) + b"\n"


def lease_is_over(text: bytes, boot: str, now: float) -> bool:
    """Whether the time of ``lease_text`` is over; what cannot be read, or is of another run of the kernel, says nothing."""
    words = text.decode("ascii", "replace").split()
    try:
        return len(words) == 2 and words[0] == boot[:40] and now > float(words[1])
    except ValueError:
        return False


def _known(text: str | bytes, record: type[JobSpec | JobStatus]) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"an object was expected, not {type(found).__name__}")  # noqa: TRY004 - callers look for ValueError
    names = {item.name for item in fields(record)}
    return {name: value for name, value in found.items() if name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return dict(value) if isinstance(value, Mapping) else value
