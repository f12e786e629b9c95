"""What a command costs with everything it starts: wall, CPU and the memory of its own process.

A loop's helpers may be waited for by nobody, and what they use is then in no ``rusage``. So the kernel is asked to count: a clock
event that every descendant inherits. Where it may not be opened, ``rusage`` stands in, and ``counted`` says so.
Must not know what the commands are.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_CALLS = {"x86_64": 298, "aarch64": 241}  # the number of perf_event_open
_SOFTWARE, _TASK_CLOCK, _SIZE = 1, 1, 112
_INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 1, 1 << 5, 1 << 6  # the clock runs in the kernel all the same, but any user may open it
_SUBREAPER = 36
_LINGER = 30.0  # seconds that what a command leaves behind has to end


@dataclass(frozen=True, slots=True)
class Spent:
    """What a command took: seconds of wall, seconds of CPU (user and system, of the whole tree), MB of its largest process at its peak."""

    wall: float
    cpu: float
    memory_mb: float
    code: int
    counted: str  # "all", or "no helpers" where only what was waited for is in ``cpu``


def _clock(flags: int) -> int:
    """A descriptor that tells the nanoseconds of CPU of this thread, and with ``_INHERIT`` of all that it starts; -1 if refused."""
    attributes = struct.pack("IIQQQQQ", _SOFTWARE, _SIZE, _TASK_CLOCK, 0, 0, 0, flags | _EXCLUDE_KERNEL | _EXCLUDE_HV).ljust(_SIZE, b"\0")
    number = _CALLS.get(platform.machine())
    return -1 if number is None else int(ctypes.CDLL(None).syscall(number, ctypes.c_char_p(attributes), 0, -1, -1, 8))


def _read(clock: int) -> float:
    return float(struct.unpack("Q", os.read(clock, 8))[0]) / 1e9


def _outlived() -> None:
    """Wait for everything that the command has left behind: it is part of the cost."""
    until = time.monotonic() + _LINGER
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)


def _count(argv: Sequence[str], cwd: Path, env: Mapping[str, str], output: Path) -> Spent:
    """Run the command in this process, which was forked for it and adopts all orphans."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    everything, mine = _clock(_INHERIT), _clock(0)
    with output.open("wb") as into:
        begun = time.perf_counter()
        process = subprocess.Popen(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=into, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    _outlived()
    if everything >= 0 and mine >= 0:
        cpu, counted = _read(everything) - _read(mine), "all"
    else:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu, counted = children.ru_utime + children.ru_stime, "no helpers"
    return Spent(wall, cpu, usage.ru_maxrss / 1024, process.returncode, counted)


def spend(argv: Sequence[str], cwd: Path, env: Mapping[str, str], output: Path) -> Spent:
    """What the command costs, until its last descendant has ended. Raises ``RuntimeError`` with the end of its output if it fails."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            found = _count(argv, cwd, env, output)
            os.write(writer, json.dumps([found.wall, found.cpu, found.memory_mb, found.code, found.counted]).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    spent = Spent(*json.loads(answer)) if answer else Spent(0.0, 0.0, 0.0, -1, "")
    if spent.code:
        raise RuntimeError(f"{' '.join(argv)[:200]}: exit code {spent.code}\n{output.read_bytes()[-1500:].decode('utf-8', 'replace')}")
    return spent


def sync_ms(folder: Path) -> float:
    """Milliseconds of one flush to the disk of ``folder``, the median of 31."""
    walls = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(31):
            file.write(b"x" * 4096)
            begun = time.perf_counter()
            os.fsync(file.fileno())
            walls.append(time.perf_counter() - begun)
    return 1000 * sorted(walls)[15]


def machine(folder: Path) -> str:
    """Cores, processor, Python, git, and how slow the disk of ``folder`` is."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    git = subprocess.run(["git", "--version"], check=True, capture_output=True, text=True).stdout.split()[-1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    load = f"load {os.getloadavg()[0]:.1f}"
    return f"{cores} cores, {model}, {system}, Python {platform.python_version()}, git {git}, fsync {sync_ms(folder):.2f} ms, {load}"
