"""What is run inside the walls to test them: tries what must fail and prints, as JSON, what did not. A program of its own.

Gets one argument, a JSON object: what there is to be tried (``check`` makes it). Standard library only, read as text, never imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

_TRACEME = 0
_NEW_USER = 0x10000000
_KNOBS = ("/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger")


def _files(plan: dict[str, Any]) -> Iterator[str]:
    for folder in plan["outside"]:  # whether these have worked is seen from outside
        with contextlib.suppress(OSError), open(os.path.join(folder, plan["mark"]), "w", encoding="ascii") as file:
            file.write("written")
    with contextlib.suppress(OSError), open(plan["secret"], encoding="ascii") as file:
        if file.read() == "secret":
            yield "files outside can be read"
    with contextlib.suppress(OSError):
        os.truncate(plan["secret"], 0)  # this too is seen from outside
    for path in plan["private"]:
        if _readable(path) if plan["shared"] else os.path.lexists(path):
            yield f"{path} is visible"
            break


def _readable(path: str) -> bool:
    """Whether there is more to be had than the name."""
    try:
        if os.path.isdir(path):
            os.listdir(path)
        else:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def _knobs(_plan: dict[str, Any]) -> Iterator[str]:
    for name in _KNOBS:
        with contextlib.suppress(OSError):
            os.close(os.open(name, os.O_WRONLY))
            yield f"{name} can be written"


def _sockets(plan: dict[str, Any]) -> Iterator[str]:
    if plan["port"] and _reaches(socket.AF_INET, ("127.0.0.1", plan["port"])):
        yield "the network is reachable"
    if _reaches(socket.AF_UNIX, plan["socket"]):
        yield "sockets of other programs are reachable"
    if plan["abstract"] and _reaches(socket.AF_UNIX, "\0" + plan["abstract"]):
        yield "abstract sockets of other programs are reachable"


def _reaches(family: int, address: str | tuple[str, int]) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(2)
            client.connect(address)
    except OSError:
        return False
    return True


def _processes(plan: dict[str, Any]) -> Iterator[str]:
    try:
        os.kill(plan["pid"], 0)
        yield "other processes can be ended" if plan["shared"] else "other processes are visible"
    except ProcessLookupError:
        pass
    except OSError:
        if not plan["shared"]:
            yield "other processes are visible"
    for name in ("environ", "cmdline"):
        with contextlib.suppress(OSError), open(f"/proc/{plan['pid']}/{name}", "rb") as file:
            if plan["mark"].encode() in file.read() or plan["shared"]:
                yield f"the {name} of other processes can be read"
    with contextlib.suppress(OSError):
        resource.prlimit(plan["pid"], resource.RLIMIT_CORE)
        yield "the limits of other processes can be changed"


def _calls(_plan: dict[str, Any]) -> Iterator[str]:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(_TRACEME, 0, 0, 0) == 0:
        yield "the system call filter does not work"
    if libc.unshare(_NEW_USER) == 0:
        yield "user namespaces can be made"


def _rights(_plan: dict[str, Any]) -> Iterator[str]:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        status = {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
    if int(status["CapEff"], 16) or int(status["CapPrm"], 16):
        yield "capabilities are left"
    if status.get("NoNewPrivs", "1") != "1":
        yield "set-user-id programs work"


_PROBES: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "files": _files, "sockets": _sockets, "processes": _processes, "system calls": _calls, "rights": _rights, "kernel settings": _knobs,
}  # fmt: skip


def main(plan: dict[str, Any]) -> list[tuple[str, float, list[str]]]:
    """Name, seconds and faults of each probe."""
    found = []
    for name, probe in _PROBES.items():
        begun = time.perf_counter()
        faults = list(probe(plan))
        found.append((name, time.perf_counter() - begun, faults))
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))))
