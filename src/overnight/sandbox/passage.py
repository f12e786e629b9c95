"""The only way out of walls that cut the network: a program that stands before ``bwrap``, told which "name:port" may be reached.

    python -I -S passage.py NAME:PORT… -- bwrap …

It makes a network of its own with nothing in it but a loopback, on which it listens at one address for each name (``addresses``; /etc/hosts
inside tells the names), then becomes the command. A child that stayed outside takes each connection and passes its bytes, as they are, to the
real name and port: encryption stays between the two ends, and nothing else can be reached. The child dies with the command.

Imports nothing of the project: it is started for every job. $OVERNIGHT_PROXY (an address, perhaps with user and
password; then, after a blank, the names for which there is none, as in NO_PROXY) is how the child goes out where only a proxy does; the command
does not get it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence

PROXY = "OVERNIGHT_PROXY"
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_GET_FLAGS, _SET_FLAGS, _SET_ADDRESS = 0x8913, 0x8914, 0x8916  # ioctls of network interfaces
_UP = 0x1 | 0x40  # IFF_UP, IFF_RUNNING
_CONNECTIONS = 256  # at once; more have to wait
_PATIENCE = 20.0  # seconds in which a name has to answer
_CHUNK = 65536
_OURS = ("localhost", "127.0.0.1")


def addresses(pairs: Sequence[str]) -> dict[str, str]:
    """Name -> the loopback address at which it is found inside; a numeric address is found at itself."""
    names = list(dict.fromkeys(pair.rpartition(":")[0] for pair in pairs))
    return {name: "127.0.0.1" if name in _OURS else name if _is_number(name) else f"127.0.1.{at}" for at, name in enumerate(names, 1)}


def hosts(pairs: Sequence[str]) -> str:
    """The text of /etc/hosts inside."""
    told = [f"{address}\t{name}" for name, address in addresses(pairs).items() if name != address and name not in _OURS]
    return "\n".join(["127.0.0.1\tlocalhost", *told]) + "\n"


def _is_number(name: str) -> bool:
    return name.replace(".", "").isdigit()


def main() -> None:
    """Cut the network, leave the child at the passage, become the command."""
    import ctypes  # noqa: F401 - before the fork, for it is needed on both sides

    cut = sys.argv.index("--")
    pairs, command = sys.argv[1:cut], sys.argv[cut + 1 :]
    proxy = os.environ.pop(PROXY, "")
    outside, inside = socket.socketpair()
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
    socket.send_fds(inside, [b"."], [each.fileno() for each in listening])
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


def _listen(pairs: Sequence[str]) -> list[socket.socket]:
    """Sockets at the addresses of the pairs, in their order."""
    import fcntl
    import struct

    at = addresses(pairs)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))
        for number, address in enumerate(each for each in at.values() if not each.startswith("127.")):
            fcntl.ioctl(control, _SET_ADDRESS, struct.pack("16sH2x4s8x", b"lo:%d" % number, socket.AF_INET, socket.inet_aton(address)))
    made = []
    for pair in pairs:
        name, _, port = pair.rpartition(":")
        made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        made[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made[-1].bind((at[name], int(port)))
        made[-1].listen(64)
    return made


# --- the child outside ---------------------------------------------------------------------------------------------------


def _stay(outside: socket.socket, pairs: Sequence[str], proxy: str, parent: int) -> None:
    """Take connections until the command is dead."""
    import select
    import threading

    _call("prctl", _DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _let_go(outside.fileno())
    _, found, _, _ = socket.recv_fds(outside, 1, len(pairs))
    if len(found) != len(pairs):
        return
    room = threading.Semaphore(_CONNECTIONS)
    listening = {fd: (socket.socket(fileno=fd), pair) for fd, pair in zip(found, pairs, strict=True)}
    waiting = select.poll()
    for fd in listening:
        waiting.register(fd, select.POLLIN)
    while True:
        for fd, _ in waiting.poll():
            try:
                made, _ = listening[fd][0].accept()
            except OSError:  # it has given up meanwhile
                continue
            room.acquire()
            threading.Thread(target=_pass, args=(made, listening[fd][1], proxy, room), daemon=True).start()


def _let_go(keep: int) -> None:
    """Hold nothing of the job: its output, its folder, the files that are meant for the walls."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, keep)
    os.closerange(keep + 1, 4096)


def _pass(made: socket.socket, pair: str, proxy: str, room: object) -> None:
    import threading

    try:
        with made, _reached(pair, proxy) as real:
            real.settimeout(None)
            back = threading.Thread(target=_pump, args=(real, made), daemon=True)
            back.start()
            _pump(made, real)
            back.join()
    except OSError:
        pass
    finally:
        room.release()  # type: ignore[attr-defined] # a semaphore


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(_CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        import contextlib

        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _is_direct(name: str, direct: str) -> bool:
    """Whether NO_PROXY speaks of the name, of a domain that it is in, or of everything."""
    ends = [end.strip().lstrip("*").lstrip(".") for end in direct.split(",") if end.strip()]
    return "*" in direct.split(",") or any(end and (name == end or name.endswith(f".{end}")) for end in ends)


def _connected(name: str, port: str) -> socket.socket:
    """A connection; the name goes as bytes, which spares the start of a codec."""
    return socket.create_connection((name.encode(), int(port)), _PATIENCE)  # type: ignore[arg-type] # bytes are taken as they are


def _reached(pair: str, proxy: str) -> socket.socket:
    """A connection to the real name and port, through the proxy if there is one."""
    name, _, port = pair.rpartition(":")
    proxy, _, direct = proxy.partition(" ")
    if not proxy or name in _OURS or name.startswith("127.") or _is_direct(name, direct):
        return _connected(name, port)
    user, _, place = proxy.partition("//")[2].rstrip("/").rpartition("@")
    host, _, proxy_port = place.rpartition(":") if ":" in place else (place, "", "80")
    made = _connected(host, proxy_port)
    allowed = ""
    if user:
        import base64
        import urllib.parse

        allowed = f"Proxy-Authorization: Basic {base64.b64encode(urllib.parse.unquote(user).encode()).decode()}\r\n"
    made.sendall(f"CONNECT {pair} HTTP/1.1\r\nHost: {pair}\r\n{allowed}\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n") and len(answer) < _CHUNK and (data := made.recv(1)):
        answer += data
    if answer.split(b" ")[1:2] != [b"200"]:
        made.close()
        raise OSError(f"the proxy refused {pair}")
    return made


if __name__ == "__main__":
    main()
