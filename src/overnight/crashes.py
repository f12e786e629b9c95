"""Reading why a run gave no usable number: from how it ended and from the end of its output. Pure.

A crash is *dumb* when a small fix by its author is likely to mend it: a typo, a wrong name, a wrong shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from overnight.models import JobState, JobStatus

_ERROR = re.compile(rb"^\s*((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Warning)?)(?:: (.*))?$")
_OOM = re.compile(
    rb"out of memory|OutOfMemory|MemoryError|CUBLAS_STATUS_ALLOC_FAILED|RESOURCE_EXHAUSTED|Cannot allocate memory", re.IGNORECASE
)
_NETWORK = re.compile(
    rb"Name or service not known|Temporary failure in name resolution|Network is unreachable|ConnectionError|URLError"
    rb"|MaxRetryError|getaddrinfo failed|LocalEntryNotFoundError|OfflineModeIsEnabled"
)
_DISK = re.compile(rb"No space left on device|Disk quota exceeded")
_NOT_DUMB = {"KeyboardInterrupt", "SystemExit", "MemoryError", "OutOfMemoryError", "TimeoutError", "ConnectionError"}
_TRACEBACK = b"Traceback (most recent call last):"


@dataclass(frozen=True, slots=True)
class Crash:
    """``kind`` groups crashes in tables, ``cause`` is the sentence for the row, ``dumb`` says that a repair is worth a try."""

    kind: str
    cause: str
    dumb: bool = False


def read(status: JobStatus, output: bytes, metric: str, names: Iterable[str]) -> Crash:
    """Why the job gave no value of ``metric``; ``output`` is the end of its log, ``names`` the metrics that it did print."""
    if status.state is JobState.TIMED_OUT:
        return Crash("timeout", status.cause or "time limit")
    if status.state is JobState.FAILED:
        return _failed(status, output)
    if status.state in (JobState.CANCELLED, JobState.LOST):
        return Crash(status.state.lower(), status.cause or status.state.lower())
    if metric in status.metrics:
        return Crash("nan", f"{metric} is {status.metrics[metric].last}, not a finite number")
    seen = sorted(names)
    shown = ", ".join(seen[:8]) + (", …" if len(seen) > 8 else "")
    return Crash(
        "no-metric", f"it ended without printing {metric or 'a metric'}" + (f"; found: {shown}" if seen else "; no metric was found")
    )


def _failed(status: JobStatus, output: bytes) -> Crash:
    error = last_error(output)
    if status.cause.startswith("memory limit") or _OOM.search(output[-8192:]):
        return Crash("oom", error or status.cause or "out of memory")
    if _DISK.search(output[-8192:]):
        return Crash("disk", error or "the disk is full")
    if _NETWORK.search(output[-8192:]):
        return Crash("network", error or "the network was not reachable")
    if error:
        name = error.split(":", 1)[0].rsplit(".", 1)[-1]
        return Crash(f"error:{name}", error, dumb=name not in _NOT_DUMB)
    if status.exit_code in (126, 127):
        return Crash("command", status.cause)
    if status.signal:
        return Crash("killed", status.cause)
    return Crash("exit", status.cause or f"exit code {status.exit_code}")


def last_error(output: bytes) -> str:
    """``NameError: name 'x' is not defined`` from the last traceback in ``output``, or an empty string."""
    start = output.rfind(_TRACEBACK)
    if start < 0:
        return ""
    found = ""
    for line in output[start + len(_TRACEBACK) :].splitlines():
        if line[:1].isspace() or not line:
            continue
        if match := _ERROR.match(line):
            found = line.decode("utf-8", "replace").strip()[:300]
            if match[1].endswith((b"Error", b"Exception")):
                break
    return found


def tail(output: bytes, lines: int = 40, size: int = 4000) -> str:
    """The end of a log as a proposer should see it: from the last traceback if there is one, bounded in lines and bytes."""
    start = output.rfind(_TRACEBACK)
    part = output[start:] if start >= 0 else output
    rows = part[-size * 4 :].decode("utf-8", "replace").replace("\r", "\n").splitlines()
    kept = rows if len(rows) <= lines else [*rows[: lines // 4], "…", *rows[-(lines * 3 // 4) :]]
    return "\n".join(kept)[-size:]
