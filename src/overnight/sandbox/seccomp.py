"""The system call filter: what no training run and no agent has any business asking the kernel, as a classic BPF program.

The program is the array of ``struct sock_filter`` that ``bwrap --seccomp`` reads (linux/filter.h, linux/seccomp.h). It is a
deny-list with a fence: calls newer than the ones known here do not exist, and other ABIs (32 bit, x32) end the process.
Pure: builds bytes. Must not know who installs them.
"""

from __future__ import annotations

import errno
import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# struct seccomp_data: nr at 0, arch at 4, instruction_pointer at 8, six 64-bit arguments from 16 (little-endian: low word first).
_NR, _ARCH, _ARGS = 0, 4, 16
_LOAD, _EQUAL, _ABOVE, _BITS, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06  # ld [k], jeq, jgt, jset, ret
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NEWEST = 470  # the last call that was looked at; both ABIs number new calls alike
_NAMESPACES = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_NEW_TIME = 0x80  # CLONE_NEWTIME; for clone() these bits are the exit signal
_TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: type into somebody's terminal
_UNIX, _INTERNET = (1,), (2, 10)  # AF_UNIX, AF_INET, AF_INET6
_NETLINK = 16  # with protocol 0 (ROUTE), which glibc asks for its interfaces

# name -> number on x86_64, on aarch64 (-1 = no such call): asm/unistd_64.h and asm-generic/unistd.h of Linux 6.
_DENIED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "mount": (165, 40), "umount2": (166, 39), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "open_tree": (428, 428), "mount_setattr": (442, 442), "open_tree_attr": (467, 467), "pivot_root": (155, 41),
    "chroot": (161, 51), "setns": (308, 268), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "bpf": (321, 280), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "clock_settime": (227, 112), "settimeofday": (164, 170), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142),
    "sethostname": (170, 161), "setdomainname": (171, 162), "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "open_by_handle_at": (304, 265), "lookup_dcookie": (212, 18), "syslog": (103, 116), "vhangup": (153, 58), "iopl": (172, -1),
    "ioperm": (173, -1), "nfsservctl": (180, 42), "uselib": (134, -1), "sysctl": (156, -1), "fanotify_init": (300, 262),
    "modify_ldt": (154, -1),
}  # fmt: skip
# What reaches other programs where there are no namespaces: shared memory, queues and semaphores of System V and POSIX.
_SHARED = {
    "shmget": (29, 194), "shmctl": (31, 195), "shmat": (30, 196), "semget": (64, 190), "semctl": (66, 191), "semop": (65, 193),
    "semtimedop": (220, 192), "msgget": (68, 186), "msgctl": (71, 187), "msgrcv": (70, 188), "msgsnd": (69, 189), "mq_open": (240, 180),
    "mq_unlink": (241, 181),
}  # fmt: skip
_CLONE3, _CLONE, _UNSHARE, _SOCKET, _IOCTL = (435, 435), (56, 220), (272, 97), (41, 198), (16, 29)
_SOCKETPAIR, _PRLIMIT = (53, 199), (302, 261)
_DATAGRAM = 2  # a bit that SOCK_STREAM and SOCK_SEQPACKET do not have
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_Step = tuple[int, int, int, int]  # code, value, jump if true, jump if false


@dataclass(frozen=True, slots=True)
class Open:
    """What the filter has to hold because nothing else does: the command shares namespaces with the machine."""

    shared: bool = False  # no namespaces: calls that reach other programs are refused
    unix: bool = True  # sockets with a path may be had
    internet: bool = True


@functools.cache
def program(machine: str, world: Open = Open()) -> bytes:  # noqa: B008 - frozen
    """The filter for a machine as ``os.uname().machine`` names it. Raises ``ValueError`` for one that is not known."""
    if machine not in _AUDIT_ARCH:
        raise ValueError(f"there is no system call filter for {machine}, only for {' and '.join(_AUDIT_ARCH)}")
    return b"".join(struct.pack("<HBBI", code, true, false, value) for code, value, true, false in _steps(machine, world))


def _steps(machine: str, world: Open) -> Iterator[_Step]:
    column = list(_AUDIT_ARCH).index(machine)
    yield _LOAD, _ARCH, 0, 0
    yield _EQUAL, _AUDIT_ARCH[machine], 1, 0
    yield _RETURN, _KILL, 0, 0
    yield _LOAD, _NR, 0, 0
    yield _ABOVE, _NEWEST, 0, 1  # also x32, whose numbers have bit 30 set
    yield _fail(errno.ENOSYS)
    yield from _if_call(_CLONE3[column], [_fail(errno.ENOSYS)])  # its flags lie in memory; the C library falls back on clone
    for numbers in (*_DENIED.values(), *(_SHARED.values() if world.shared else ())):
        if numbers[column] >= 0:
            yield from _if_call(numbers[column], [_fail(errno.EPERM)])
    yield from _if_call(_CLONE[column], _without(_NAMESPACES))
    yield from _if_call(_UNSHARE[column], _without(_NAMESPACES | _NEW_TIME))
    yield from _if_call(_IOCTL[column], _ioctl())
    yield from _if_call(_SOCKET[column], _socket((*(_UNIX if world.unix else ()), *(_INTERNET if world.internet else ()))))
    if not world.unix:  # one of a pair of datagram sockets could be turned to any path
        yield from _if_call(
            _SOCKETPAIR[column], [(_LOAD, _ARGS + 8, 0, 0), (_BITS, _DATAGRAM, 0, 1), _fail(errno.EACCES), (_RETURN, _ALLOW, 0, 0)]
        )
    if world.shared:  # the limits of another process
        yield from _if_call(_PRLIMIT[column], [(_LOAD, _ARGS, 0, 0), (_EQUAL, 0, 1, 0), _fail(errno.EPERM), (_RETURN, _ALLOW, 0, 0)])
    yield _RETURN, _ALLOW, 0, 0


def _if_call(number: int, then: list[_Step]) -> Iterator[_Step]:
    """``then`` (which ends the program) for this call; the number is still loaded for all others."""
    yield _EQUAL, number, 0, len(then)
    yield from then


def _fail(code: int) -> _Step:
    return _RETURN, _ERROR | code, 0, 0


def _without(flags: int) -> list[_Step]:
    """Allowed if none of the flags is in the first argument."""
    return [(_LOAD, _ARGS, 0, 0), (_BITS, flags, 0, 1), _fail(errno.EPERM), (_RETURN, _ALLOW, 0, 0)]


def _ioctl() -> list[_Step]:
    # The kernel looks at the low word of the request alone, and so do we.
    steps = [(_LOAD, _ARGS + 8, 0, 0)]
    for request in _TERMINAL:
        steps += [(_EQUAL, request, 0, 1), _fail(errno.EPERM)]
    return [*steps, (_RETURN, _ALLOW, 0, 0)]


def _socket(families: tuple[int, ...]) -> list[_Step]:
    steps = [(_LOAD, _ARGS, 0, 0)]
    for family in families:
        steps += [(_EQUAL, family, 0, 1), (_RETURN, _ALLOW, 0, 0)]
    netlink = [(_LOAD, _ARGS + 16, 0, 0), (_EQUAL, 0, 0, 1), (_RETURN, _ALLOW, 0, 0)]
    return [*steps, (_EQUAL, _NETLINK, 0, len(netlink)), *netlink, _fail(errno.EAFNOSUPPORT)]
