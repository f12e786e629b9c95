"""The only way out of walls that cut the network: a program that stands before ``bwrap``, told which "name:port" may be reached.

    python -I -S passage.py NAME:PORT… -- bwrap …

It makes a network of its own with nothing in it but a loopback, on which it listens at one address for each name (``addresses``; /etc/hosts
inside tells the names; a numeric address, of version 4 or 6, is listened at itself), then becomes the command. A child that stayed outside takes each connection and passes its bytes, as they are, to the
real name and port: encryption stays between the two ends, and nothing else can be reached. The child dies with the command.

Imports nothing of the project, and the C half of ``socket``, ``signal`` and ``threading`` alone: it is started for every job, and their other halves
would cost more than all the rest. $OVERNIGHT_PROXY (an address, perhaps with user and
password; then, after a blank, the names for which there is none, as in NO_PROXY) is how the child goes out where only a proxy does; the command
does not get it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # it has no stubs
import _socket
import _thread
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing is not imported either
    from collections.abc import Sequence

PROXY = "OVERNIGHT_PROXY"
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_GET_FLAGS, _SET_FLAGS, _SET_ADDRESS = 0x8913, 0x8914, 0x8916  # ioctls of network interfaces
_FREE_BIND = 78  # IPV6_FREEBIND
_UP = 0x1 | 0x40  # IFF_UP, IFF_RUNNING
_CONNECTIONS = 256  # at once; more have to wait
_PATIENCE = 20.0  # seconds in which a name has to answer
_PAUSE = 0.05  # seconds before a connection that has to wait is looked at again
_CHUNK = 65536
_OURS = ("localhost", "127.0.0.1", "::1")
_LOOPBACK = 1  # index of the only interface inside


def addresses(pairs: Sequence[str]) -> dict[str, str]:
    """Name -> the loopback address at which it is found inside; a numeric address is found at itself."""
    names = list(dict.fromkeys(pair.rpartition(":")[0] for pair in pairs))
    return {name: "127.0.0.1" if name == "localhost" else name if _is_number(name) else f"127.0.1.{at}" for at, name in enumerate(names, 1)}


def hosts(pairs: Sequence[str]) -> str:
    """The text of /etc/hosts inside."""
    told = [f"{address}\t{name}" for name, address in addresses(pairs).items() if name != address and name not in _OURS]
    return "\n".join(["127.0.0.1\tlocalhost", *told]) + "\n"


def _is_number(name: str) -> bool:
    return ":" in name or name.replace(".", "").isdigit()


def main() -> None:
    """Cut the network, leave the child at the passage, become the command."""
    import ctypes  # noqa: F401 - before the fork, for it is needed on both sides

    cut = sys.argv.index("--")
    pairs, command = sys.argv[1:cut], sys.argv[cut + 1 :]
    proxy = os.environ.pop(PROXY, "")
    outside, inside = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
    parent = os.getpid()
    if os.fork() == 0:
        inside.close()
        _stay(outside, pairs, proxy, parent)
        os._exit(0)
    outside.close()
    try:
        _cut()
        listening = _listen(pairs)
    except OSError as exc:
        sys.stderr.write(f"overnight: the network cannot be cut down: {exc}\n")
        sys.exit(125)
    numbers = b"".join(each.fileno().to_bytes(4, sys.byteorder) for each in listening)
    inside.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)])
    inside.close()
    for each in listening:
        each.close()
    os.execvp(command[0], command)


def _libc() -> object:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int) -> None:
    import ctypes

    if getattr(_libc(), name)(*(ctypes.c_ulong(each) for each in arguments)) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def _cut() -> None:
    """Enter a network of our own; who is not root needs a user namespace for that."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        _call("unshare", _NEW_NET)
        return
    _call("unshare", _NEW_USER | _NEW_NET)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _listen(pairs: Sequence[str]) -> list[_socket.socket]:
    """Sockets at the addresses of the pairs, in their order."""
    import fcntl
    import struct

    at = addresses(pairs)
    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    fcntl.ioctl(control.fileno(), _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))
    for number, address in enumerate(each for each in at.values() if ":" not in each and not each.startswith("127.")):
        fcntl.ioctl(
            control.fileno(), _SET_ADDRESS, struct.pack("16sH2x4s8x", b"lo:%d" % number, _socket.AF_INET, _socket.inet_aton(address))
        )
    control.close()
    for address in at.values():
        if ":" in address and address != "::1":  # the loopback has that one by itself
            control = _socket.socket(_socket.AF_INET6, _socket.SOCK_DGRAM)
            fcntl.ioctl(control.fileno(), _SET_ADDRESS, struct.pack("16sIi", _socket.inet_pton(_socket.AF_INET6, address), 128, _LOOPBACK))
            control.close()
    made = []
    for pair in pairs:
        name, _, port = pair.rpartition(":")
        made.append(_socket.socket(_socket.AF_INET6 if ":" in at[name] else _socket.AF_INET, _socket.SOCK_STREAM))
        made[-1].setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if ":" in at[name]:  # the kernel hands a new address of version 6 out a moment later
            made[-1].setsockopt(_socket.IPPROTO_IPV6, _FREE_BIND, 1)
        made[-1].bind((at[name], int(port)))
        made[-1].listen(64)
    return made


# --- the child outside ---------------------------------------------------------------------------------------------------


def _stay(outside: _socket.socket, pairs: Sequence[str], proxy: str, parent: int) -> None:
    """Take connections until the command is dead."""
    import select
    import time

    _call("prctl", _DEATH_SIGNAL, _signal.SIGKILL)
    if os.getppid() != parent:
        return
    for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP):
        _signal.signal(number, _signal.SIG_IGN)
    _let_go(outside.fileno())
    _, told, _, _ = outside.recvmsg(1, _socket.CMSG_SPACE(4 * len(pairs)))
    found = [int.from_bytes(data[at : at + 4], sys.byteorder) for _, _, data in told for at in range(0, len(data), 4)]
    if len(found) != len(pairs):
        return
    listening = {fd: (_socket.socket(fileno=fd), pair) for fd, pair in zip(found, pairs, strict=True)}
    waiting = select.poll()
    for fd in listening:
        waiting.register(fd, select.POLLIN)
    passing: list[int] = []  # one entry for each connection
    while True:
        for fd, _ in waiting.poll():
            while len(passing) >= _CONNECTIONS:
                time.sleep(_PAUSE)
            try:
                made, _ = listening[fd][0]._accept()  # type: ignore[attr-defined] # noqa: SLF001 - what socket.accept is made of
            except OSError:  # it has given up meanwhile
                continue
            passing.append(made)
            _thread.start_new_thread(_pass, (_socket.socket(fileno=made), listening[fd][1], proxy, passing))


def _let_go(keep: int) -> None:
    """Hold nothing of the job: its output, its folder, the files that are meant for the walls."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, keep)
    os.closerange(keep + 1, 4096)


def _pass(made: _socket.socket, pair: str, proxy: str, passing: list[int]) -> None:
    number = made.fileno()
    real = None
    try:
        real = _reached(pair, proxy)
        real.settimeout(None)
        back = _thread.allocate_lock()
        back.acquire()
        _thread.start_new_thread(_pump, (real, made, back))
        _pump(made, real, None)
        back.acquire()
    except OSError:
        pass
    finally:
        if real is not None:
            real.close()
        made.close()
        passing.remove(number)


def _pump(source: _socket.socket, target: _socket.socket, done: _thread.LockType | None) -> None:
    try:
        while data := source.recv(_CHUNK):
            target.sendall(data)
        target.shutdown(_socket.SHUT_WR)
    except OSError:
        for each in (source, target):
            try:
                each.shutdown(_socket.SHUT_RDWR)
            except OSError:
                continue
    finally:
        if done is not None:
            done.release()


def _is_direct(name: str, direct: str) -> bool:
    """Whether NO_PROXY speaks of the name, of a domain that it is in, or of everything."""
    ends = [end.strip().lstrip("*").lstrip(".") for end in direct.split(",") if end.strip()]
    return "*" in direct.split(",") or any(end and (name == end or name.endswith(f".{end}")) for end in ends)


def _connected(name: str, port: str) -> _socket.socket:
    """A connection to the first address of the name that takes one. The name goes as bytes, which spares the start of a codec."""
    failed = OSError(f"{name} has no address")
    found = _socket.getaddrinfo(name.encode(), int(port), 0, _socket.SOCK_STREAM)
    if name == "localhost":  # some machines know it by version 4 alone, and some servers listen by version 6 alone
        found += [(_socket.AF_INET6, _socket.SOCK_STREAM, 0, "", ("::1", int(port)))]
    for family, kind, protocol, _, address in found:
        try:
            made = _socket.socket(family, kind, protocol)
        except OSError as exc:  # no version 6 here
            failed = exc
            continue
        try:
            made.settimeout(_PATIENCE)
            made.connect(address)
        except OSError as exc:
            made.close()
            failed = exc
        else:
            return made
    raise failed


def _reached(pair: str, proxy: str) -> _socket.socket:
    """A connection to the real name and port, through the proxy if there is one."""
    name, _, port = pair.rpartition(":")
    proxy, _, direct = proxy.partition(" ")
    if not proxy or name in _OURS or name.startswith("127.") or _is_direct(name, direct):
        return _connected(name, port)
    user, _, place = proxy.partition("//")[2].rstrip("/").rpartition("@")
    host, _, proxy_port = place.rpartition(":") if ":" in place.rpartition("]")[2] else (place, "", "80")
    made = _connected(host.strip("[]"), proxy_port)
    allowed = ""
    if user:
        import base64
        import urllib.parse

        allowed = f"Proxy-Authorization: Basic {base64.b64encode(urllib.parse.unquote(user).encode()).decode()}\r\n"
    wanted = f"[{name}]:{port}" if ":" in name else pair
    made.sendall(f"CONNECT {wanted} HTTP/1.1\r\nHost: {wanted}\r\n{allowed}\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n") and len(answer) < _CHUNK and (data := made.recv(1)):
        answer += data
    if answer.split(b" ")[1:2] != [b"200"]:
        made.close()
        raise OSError(f"the proxy refused {pair}")
    return made


if __name__ == "__main__":
    main()
