"""The relay: made, run, looked at; who may come to it and who may not any more."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from overnight.app import place as places
from overnight.errors import BusyError, NotFoundError, OvernightError, StorageError, UnreachableError, UsageError

if TYPE_CHECKING:
    from overnight.hub.folder import Folder

PORT = 8443
_PACKAGES = {"nats", "nkeys", "nacl", "aiohttp", "cryptography"}
_START, _STOP, _HOUR = 30.0, 20.0, 3600.0

Say = Callable[[str], None]
Beside = Callable[[], contextlib.AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A member: ``since`` and ``revoked`` (0: not) in Unix seconds; from where it is connected now, empty if it is not, and its round trip time."""

    name: str
    kind: str
    since: int
    revoked: int
    address: str
    rtt: str


@dataclass(frozen=True, slots=True)
class Report:
    """How a relay is. ``memory`` and sizes in bytes; ``streams``: messages and bytes by name."""

    address: str
    up: bool
    version: str
    uptime: str
    memory: int
    hub: bool
    members: tuple[Seen, ...]
    streams: Mapping[str, tuple[int, int]]


@dataclass(slots=True)
class _Server:
    """What is known of the running server: whether it takes connections, whether it has ended, the end of its log."""

    ready: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    log: deque[str] = field(default_factory=lambda: deque(maxlen=50))


@contextlib.contextmanager
def needed() -> Iterator[None]:
    """Turn a missing package of the extra ``hub`` into an error that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _PACKAGES:
            raise
        raise UsageError(
            "E-EXTRA", f"the package {exc.name} is not installed", why="relays need the extra 'hub'", fix="pip install 'overnight[hub]'"
        ) from exc


def state_folder(environ: Mapping[str, str], name: str) -> Path:
    """``$XDG_STATE_HOME/overnight/NAME``; an empty or relative variable counts as not set. Raises ``UsageError`` without a home."""
    base, home = Path(environ.get("XDG_STATE_HOME", "")), Path(environ.get("HOME", ""))
    base = base if base.is_absolute() else home / ".local" / "state"
    if not base.is_absolute():
        raise UsageError(
            "E-NO-HOME",
            "there is no home folder",
            why="neither XDG_STATE_HOME nor HOME is set",
            fix=f"overnight relay init --relay /var/lib/overnight/{name}",
        )
    return base / "overnight" / name


def folder(environ: Mapping[str, str], named: Path | None) -> Folder:
    """The relay's folder: named, in ``$OVERNIGHT_RELAY``, or the user's own."""
    with needed():
        from overnight.hub.folder import Folder
    path = named or (Path(environ["OVERNIGHT_RELAY"]) if environ.get("OVERNIGHT_RELAY") else state_folder(environ, "relay"))
    return Folder(path.absolute())


def init(
    environ: Mapping[str, str], named: Path | None, address: tuple[str, int], given: tuple[Path, Path] | None = None, *, hub: bool = False
) -> Folder:
    """Make a relay for an address (a name or IP number, and a port). ``hub``: it brings its hub along. Raises ``UsageError``."""
    path = folder(environ, named).path
    from overnight.hub import folder as folders

    host, port = address
    _check_host(host)
    files = (str(given[0].absolute()), str(given[1].absolute())) if given else ("", "")
    try:
        return folders.make(path, host, port, files, time.time(), hub=hub)
    except OSError as exc:
        raise StorageError(
            "E-RELAY-FOLDER", f"{path} cannot be written: {exc.strerror}", fix="overnight relay init --relay FOLDER"
        ) from exc


def start(environ: Mapping[str, str], found: Folder, say: Say, beside: Beside | None = None) -> None:
    """Run the relay until it is asked to end, with ``beside`` what else is to run as long as it is up. Raises ``BusyError`` when it runs already, ``UsageError``, ``OvernightError`` when it ends by itself."""
    from overnight.hub import server

    relay, asked = found.relay(), threading.Event()
    with held(found.path / "lock") as tell, _signals(asked):
        found.renew(time.time())
        found.write_claims(time.time())
        with server.running(found, environ, time.time()) as process:
            state = _Server()
            threading.Thread(target=_read, args=(process, state, say), daemon=True).start()
            _wait(state, asked, _START)
            if state.ended.is_set():
                raise server.failure(state.log, found)
            with contextlib.ExitStack() as stack:
                if not asked.is_set():
                    stack.enter_context(_enrolling(found, say))
                    say(
                        f"the relay is up: wss://{relay.host}:{relay.port}"
                        + ("" if beside else "; the next: overnight hub start, overnight relay invite worker NAME")
                    )
                    stack.enter_context(beside() if beside else contextlib.nullcontext())
                tell({"pid": os.getpid(), "ready": True})
                _keep(found, process, state, asked)
            if state.ended.is_set():
                raise server.failure(state.log, found)
    say("the relay has ended")


def start_behind(environ: Mapping[str, str], found: Folder, *, with_hub: bool = False) -> tuple[int, Path]:
    """Run it in a session of its own, with its hub or without; returns its pid and its log once it is up. Raises what it says when it does not come up."""
    found.relay()
    if pid := holder(found):
        raise _busy(found.path, pid)
    log = found.path / "relay.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "overnight", "relay", "start", "--with-hub" if with_hub else "--alone", "--relay", str(found.path)],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, env=dict(environ),
        )  # fmt: skip
    while process.poll() is None:
        if _says(found.path / "lock").get("ready") and holder(found) == process.pid:
            return process.pid, log
        time.sleep(0.02)
    text = log.read_text("utf-8", "replace").strip()
    raise OvernightError(
        "E-RELAY-ENDED", "the relay did not come up", where=str(log), why=text[-2000:], fix="overnight relay start   # in the foreground"
    )


def stop(found: Folder) -> int:
    """End the relay that runs; returns its pid. Raises ``NotFoundError`` when none does."""
    found.relay()
    pid = holder(found)
    if not pid:
        raise NotFoundError("E-NOT-RUNNING", "the relay does not run", where=str(found.path), fix="overnight relay start")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP
    while holder(found) == pid:
        if time.monotonic() > deadline:
            raise OvernightError("E-NOT-ENDED", f"the relay (pid {pid}) does not end", fix=f"kill -9 {pid}")
        time.sleep(0.02)
    return pid


def holder(found: Folder) -> int:
    """The process id of the relay that runs from this folder; 0 if none does."""
    try:
        with (found.path / "lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(_says(found.path / "lock").get("pid", 0))
    except OSError:
        return 0
    return 0


def status(found: Folder) -> Report:
    """How the relay is, running or not. Raises ``UnreachableError`` when it runs and does not answer."""
    from overnight.hub import steering

    relay, roster = found.relay(), found.roster()
    try:
        health = steering.health(found)
    except UnreachableError:
        if holder(found):
            raise
        health = steering.DOWN
    online = {each.name: each for each in health.connections}
    rows = sorted(roster.members.values(), key=lambda row: (row.kind, row.name))
    members = tuple(
        Seen(row.name, row.kind, row.since, row.revoked, at.address if at else "", at.rtt if at else "")
        for row in rows
        for at in [online.get(row.name)]
    )
    address = f"wss://{relay.host}:{relay.port}"
    return Report(address, bool(health.version), health.version, health.uptime, health.memory, "hub" in online, members, health.streams)


def invite(found: Folder, kind: str, name: str) -> tuple[str, int]:
    """A join line and the seconds for which it is good."""
    from overnight.hub import enrol, invitation

    return enrol.invite(found, kind, name, time.time()).text(), invitation.LIFETIME


def revoke(found: Folder, name: str) -> bool:
    """Cut a member off, and void what it was invited with; returns whether the running relay has done it, else its next start does.

    Raises ``NotFoundError`` for a name that nobody has.
    """
    from overnight.errors import nearest
    from overnight.hub import folder as folders
    from overnight.hub import steering

    found.relay()
    with found.changing() as held_roster:
        before = held_roster[0]
        known = {*before.members, *(row.name for row in before.invitations.values())}
        if name not in known:
            raise NotFoundError("E-NO-MEMBER", f"'{name[:80]}' has not joined{nearest(name, known)}", fix="overnight relay status")
        held_roster[0] = folders.cut_off(before, name, time.time())
    found.write_claims(time.time())
    try:
        steering.push_claims(found)
    except UnreachableError:
        if holder(found):
            raise
        return False
    return True


@contextlib.contextmanager
def held(lock: Path) -> Iterator[Callable[[Mapping[str, object]], None]]:
    """Hold a lock that dies with the process; what is handed back writes into it who holds it. Raises ``BusyError``."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not places.try_lock(handle):
            raise _busy(lock.parent, int(_says(lock).get("pid", 0)))

        def tell(row: Mapping[str, object]) -> None:
            data = json.dumps(row).encode()
            os.pwrite(handle, data, 0)
            os.ftruncate(handle, len(data))

        os.ftruncate(handle, 0)
        tell({"pid": os.getpid()})
        yield tell
    finally:
        os.close(handle)


def _busy(path: Path, pid: int) -> BusyError:
    return BusyError(
        "E-RUNNING", f"a process (pid {pid}) runs from {path} already", fix="overnight relay status   # or: overnight relay stop"
    )


def _says(lock: Path) -> dict[str, int]:
    """What its holder has written into a lock; nothing while it is just being written."""
    try:
        row: dict[str, int] = json.loads(lock.read_bytes())
    except (OSError, ValueError):
        return {}
    return row


@contextlib.contextmanager
def _signals(asked: threading.Event) -> Iterator[None]:
    """Let ^C and SIGTERM ask for an orderly end, while this lasts."""
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read(process: subprocess.Popen[bytes], state: _Server, say: Say) -> None:
    """Pass the server's log on: from when it is ready, and warnings before."""
    from overnight.hub import server

    assert process.stdout is not None
    with contextlib.suppress(ValueError):  # closed while it is read, at the end
        for line in server.readable(process.stdout):
            state.log.append(line)
            if line.endswith("Server is ready"):
                state.ready.set()
            elif state.ready.is_set():
                say(line)
    state.ended.set()
    state.ready.set()


def _wait(state: _Server, asked: threading.Event, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not state.ready.wait(0.05) and not asked.is_set():
        if time.monotonic() > deadline:
            raise OvernightError(
                "E-RELAY-ENDED", "the relay's server does not come up", why="\n".join(state.log), fix="overnight relay start"
            )


def _keep(found: Folder, process: subprocess.Popen[bytes], state: _Server, asked: threading.Event) -> None:
    """Until the end: look at the certificate every hour."""
    looked = time.monotonic()
    while not asked.wait(0.2) and not state.ended.is_set():
        if time.monotonic() - looked > _HOUR:
            looked = time.monotonic()
            with contextlib.suppress(OvernightError):  # the old one may be good for a while
                if found.renew(time.time()):
                    process.send_signal(signal.SIGHUP)


@contextlib.contextmanager
def _enrolling(found: Folder, say: Say) -> Iterator[None]:
    """Answer guests, and see to the streams, while this lasts."""
    from overnight.hub.enrol import serving

    with serving(found, shutil.disk_usage(found.path).free, say):
        yield


def _check_host(host: str) -> None:
    """Raise ``UsageError`` for what cannot be the address of a relay."""
    import ipaddress
    import re

    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return
    if not re.fullmatch(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?)*", host):
        raise UsageError(
            "E-HOST",
            f"'{host[:80]}' is no name or number of a machine",
            fix="overnight relay init --host relay.example.org   # without https:// and port",
        )


def this_host() -> str:
    """The name of this machine, as far as it knows itself."""
    return socket.getfqdn()
