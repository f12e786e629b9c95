"""Puts one command inside the weaker walls and becomes it: limits, another user, Landlock, the system call filter. A program of its own.

``python -I -S launcher.py PLAN RULE… -- COMMAND…``: PLAN is a JSON object (``landlock.command`` makes it), a RULE is a letter and a
path: ``r`` to be read and executed, ``w`` to be changed too, ``d`` a device. What a rule names is opened with the rights that we have now.
Numbers are those of linux/landlock.h, linux/prctl.h and linux/capability.h. Standard library only; knows no other room.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import stat
import struct
import sys
from collections.abc import Sequence
from typing import Any

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # system calls, alike on every machine
_PATH_BENEATH = 1
_PDEATHSIG, _SECCOMP, _CAPBSET_DROP, _NO_NEW_PRIVS = 1, 22, 24, 38
_KILL, _FILTER = 9, 2
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_CHANGES = 0x10 | 0x20 | 0x80 | 0x100 | 0x200 | 0x400 | 0x1000  # remove folder, file; make folder, file, socket, fifo, link
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_ALL = (1 << 13) - 1
_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL  # what can be allowed for something that is no folder
_RIGHTS = {
    "r": _EXECUTE | _READ_FILE | _READ_DIR,
    "w": _EXECUTE | _READ_FILE | _READ_DIR | _WRITE_FILE | _CHANGES | _REFER | _TRUNCATE,
    "d": _READ_FILE | _WRITE_FILE | _READ_DIR | _TRUNCATE | _IOCTL,
}
_NET, _SCOPED = 3, 3  # bind and connect; abstract sockets and signals
_CAPABILITIES = 0x20080522  # _LINUX_CAPABILITY_VERSION_3


def main(words: Sequence[str]) -> int:
    """Never returns if all goes well; else the exit code that a shell would give, with the reason on standard error."""
    plan: dict[str, Any] = json.loads(words[0])
    split = words.index("--")
    command = list(words[split + 1 :])
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        ruleset = _ruleset(libc, int(plan["abi"]), words[1:split], network=plan["network"])
        for number, soft, hard in plan["limits"]:
            resource.setrlimit(number, (soft, hard))
        _become(libc, int(plan["uid"]), plan["groups"])
        _checked(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(libc.prctl(_PDEATHSIG, _KILL, 0, 0, 0))
        _checked(libc.syscall(_RESTRICT, ruleset, 0))
        os.close(ruleset)
        _filter(libc, int(plan["filter"]))
    except OSError as exc:
        sys.stderr.write(f"the walls cannot be built: {exc}\n")
        return 126
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        sys.stderr.write(f"{command[0]}: command not found\n")
        return 127
    except OSError as exc:
        sys.stderr.write(f"cannot execute {command[0]}: {exc.strerror}\n")
        return 126


def _ruleset(libc: ctypes.CDLL, abi: int, rules: Sequence[str], *, network: bool) -> int:
    """A set of rules, as a descriptor: everything that this kernel can refuse is refused but what the rules allow."""
    handled = _ALL | (_REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0) | (_IOCTL if abi >= 5 else 0)
    words = [handled, *([0 if network else _NET] if abi >= 4 else []), *([_SCOPED] if abi >= 6 else [])]
    attributes = struct.pack(f"={len(words)}Q", *words)
    ruleset = _checked(libc.syscall(_CREATE, attributes, len(attributes), 0))
    for rule in rules:
        path = f"/proc/{os.getpid()}" if rule[1:] == "/proc/self" else rule[1:]
        try:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # it is gone, or not ours to see
        try:
            mode = os.fstat(beneath).st_mode
            if stat.S_ISLNK(mode):
                continue  # put there since the rules were made
            allowed = _RIGHTS[rule[0]] & handled & (-1 if stat.S_ISDIR(mode) else _FILES)
            _checked(libc.syscall(_ADD, ruleset, _PATH_BENEATH, struct.pack("=Qi", allowed, beneath), 0))
        finally:
            os.close(beneath)
    return ruleset


def _become(libc: ctypes.CDLL, uid: int, groups: Sequence[int]) -> None:
    """Another user, if we may, and nobody with a capability in any case."""
    if os.geteuid() == 0:
        for capability in range(64):
            libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)  # fails for those that this kernel does not have
        if uid:
            os.setgroups(list(groups))
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
    _checked(libc.capset((ctypes.c_uint * 2)(_CAPABILITIES, 0), (ctypes.c_uint * 6)()))


def _filter(libc: ctypes.CDLL, file: int) -> None:
    """Install the system call filter that is read from a descriptor."""
    with open(file, "rb") as source:
        program = source.read()
    held = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a count, and a pointer at its natural place.
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(held))
    _checked(libc.prctl(_SECCOMP, _FILTER, described, 0, 0))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{errno.errorcode.get(code, code)}: {os.strerror(code)}")
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
