"""What is run inside the walls to test them: tries what must fail and prints, as JSON, what did not. A program of its own.

Gets one argument, a JSON object: what there is to be tried (``check`` makes it). Standard library only, read as text, never imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import sys
from collections.abc import Iterator
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
    for path in plan["private"]:
        if os.path.lexists(path):
            yield f"{path} is visible"
            break
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
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(2)
        try:
            client.connect(address)
        except OSError:
            return False
        return True


def _processes(plan: dict[str, Any]) -> Iterator[str]:
    try:
        os.kill(plan["pid"], 0)
        yield "other processes are visible"
    except ProcessLookupError:
        pass
    except OSError:
        yield "other processes are visible"


def _rights() -> Iterator[str]:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(_TRACEME, 0, 0, 0) == 0:
        yield "the system call filter does not work"
    if libc.unshare(_NEW_USER) == 0:
        yield "user namespaces can be made"
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        status = {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
    if int(status["CapEff"], 16) or int(status["CapPrm"], 16):
        yield "capabilities are left"
    if status.get("NoNewPrivs", "1") != "1":
        yield "set-user-id programs work"


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    sys.stdout.write(json.dumps([*_files(given), *_sockets(given), *_processes(given), *_rights()]))
