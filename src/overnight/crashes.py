"""Reading why a run gave no usable number: from how it ended and from the end of its output. Pure.

A crash is *dumb* when a small fix by its author is likely to mend it: a typo, a wrong name, a wrong shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from overnight.models import JobState, JobStatus
from overnight.printable import one_line

# `NameError: text`, `zlib.error: text`, `train.main.<locals>.Stop`; a name without dots begins with a capital.
_ERROR = re.compile(rb"((?:[A-Za-z_<][\w<>]*\.)+[A-Za-z_]\w*|_*[A-Z]\w*)(?::(?: .*)?)?$")
_GROUP = re.compile(rb"\s*[|+] ?")  # what stands before each line of an exception group
_OOM = re.compile(
    rb"out of memory|OutOfMemory|MemoryError|CUBLAS_STATUS_ALLOC_FAILED|RESOURCE_EXHAUSTED|Cannot allocate memory", re.IGNORECASE
)
_NETWORK = re.compile(
    rb"Name or service not known|Temporary failure in name resolution|Network is unreachable|Connection(?:Refused|Reset|Aborted)?Error|URLError"
    rb"|MaxRetryError|getaddrinfo failed|LocalEntryNotFoundError|OfflineModeIsEnabled"
    rb"|Could not resolve host|Address family not supported by protocol"
)
_DISK = re.compile(rb"No space left on device|Disk quota exceeded")
_OUTSIDE = ((_OOM, "oom", "out of memory"), (_DISK, "disk", "the disk is full"), (_NETWORK, "network", "the network was not reachable"))
_NOT_DUMB = {"KeyboardInterrupt", "SystemExit", "TimeoutError"}
_TRACEBACK = b"Traceback (most recent call last)"
_SYNTAX = re.compile(rb'^ +File "[^"\n]*", line \d+\r?$', re.MULTILINE)  # a script that cannot be parsed has no traceback


@dataclass(frozen=True, slots=True)
class Crash:
    """``kind`` groups crashes in tables, ``cause`` is the sentence for the row, ``dumb`` says that a repair is worth a try.

    A kind begins with ``error:`` exactly if the crash is dumb.
    """

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
    for limit, kind in (("memory limit", "oom"), ("disk limit", "disk"), ("process limit", "processes")):
        if status.cause.startswith(limit):
            return Crash(kind, status.cause)
    error, end = last_error(output), output[-8192:]
    words = end[max(0, end.find(_TRACEBACK)) :]  # what was printed before the first traceback may speak of anything
    for pattern, kind, cause in _OUTSIDE:
        if pattern.search(words):
            return Crash(kind, error or cause)
    if error:
        name = error.split(":", 1)[0].rsplit(".", 1)[-1]
        return Crash(name, error) if name in _NOT_DUMB else Crash(f"error:{name}", error, dumb=True)
    if status.exit_code in (126, 127):
        return Crash("command", status.cause)
    if status.signal or 128 < (status.exit_code or 0) <= 192:
        return Crash("killed", status.cause)
    return Crash("exit", status.cause or f"exit code {status.exit_code}")


def last_error(output: bytes) -> str:
    """``NameError: name 'x' is not defined`` from the last traceback in ``output``, or an empty string."""
    start = _last(output)
    if start < 0:
        return ""
    rows = _unmarked(output, start)
    for number, row in enumerate(rows[1:], 1):
        match = _ERROR.match(row.rstrip())
        if match is None or not (rows[number - 1][:1].isspace() or match[1].endswith((b"Error", b"Exception"))):
            continue  # what other threads and processes print meanwhile
        following = rows[number + 1 :] if row.rstrip().endswith(b":") else []  # the message begins on a line of its own
        message = next((line.strip() for line in following if re.search(rb"\w", line)), b"")
        return one_line((row + b" " + message).decode("utf-8", "replace"), 300)
    return ""


def _last(output: bytes) -> int:
    """Where the last traceback begins, -1 if there is none."""
    start = output.rfind(_TRACEBACK)
    return start if start >= 0 else max((match.start() for match in _SYNTAX.finditer(output)), default=-1)


def _unmarked(output: bytes, start: int) -> list[bytes]:
    """The lines from the traceback at ``start`` without what stands before each of them, such as ``[rank0]: `` or ``  | ``."""
    line = max(output.rfind(b"\n", 0, start), output.rfind(b"\r", 0, start)) + 1
    mark, rows = output[line:start], output[start:].splitlines()
    if _GROUP.match(mark):
        return [_GROUP.sub(b"", row, count=1) for row in rows]
    return [row.removeprefix(mark) for row in rows] if mark.strip() else rows


def tail(output: bytes, lines: int = 40, size: int = 4000) -> str:
    """The end of a log as a proposer should see it: from the last traceback if there is one, bounded in lines and bytes."""
    start = _last(output)
    part = output[start:] if start >= 0 else output
    rows = part[-size * 4 :].decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").splitlines()
    kept = rows if len(rows) <= lines else [*rows[: lines // 4], "…", *rows[-(lines * 3 // 4) :]]
    return "\n".join(kept)[-size:]
