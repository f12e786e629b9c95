"""What a party needs to come to the relay: its secrets, the address, whom to trust, its signed claims. A file for its owner alone."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from overnight.errors import NotFoundError, UsageError
from overnight.hub.durable import write
from overnight.hub.keys import Identity, Peer

SCHEMA = "overnight/credentials/1"


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to reach a relay, and as whom."""

    identity: Identity
    address: str  # wss://host:port, or nats://127.0.0.1:port for the hub beside the relay
    authority: str  # PEM; empty: whom the system trusts
    claims: str
    hub: Peer
    line: str = ""  # the id of the join line that led here: no secret

    @property
    def name(self) -> str:
        """The party's name."""
        return self.identity.name


def save(path: Path, found: Credentials) -> None:
    """Write them, for the owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write(path, json.dumps({"schema": SCHEMA, **asdict(found)}, indent=1).encode())


def load(path: Path, verb: str) -> Credentials:
    """Read them; ``verb`` is the command that makes them. Raises ``NotFoundError`` and ``UsageError``."""
    fix = f"overnight {verb} LINE   # the line that 'overnight relay invite' prints on the relay"
    try:
        with path.open("rb") as file:
            mode, text = os.fstat(file.fileno()).st_mode, file.read(2**20)
    except FileNotFoundError as exc:
        raise NotFoundError("E-NOT-JOINED", "this machine has joined no relay", where=str(path), fix=fix) from exc
    except OSError as exc:
        raise UsageError("E-CREDENTIALS", f"{path} cannot be read: {exc.strerror}", fix=fix) from exc
    if mode & 0o077:
        raise UsageError("E-CREDENTIALS", f"{path} can be read by others", why="it holds secrets", fix=f"chmod 600 {path}")
    try:
        row = json.loads(text)
        identity, hub = Identity(**row["identity"]), Peer(**row["hub"])
        return Credentials(identity, row["address"], row["authority"], row["claims"], hub, row.get("line", ""))
    except (ValueError, TypeError, KeyError) as exc:
        raise UsageError("E-CREDENTIALS", f"{path} is damaged", fix=fix) from exc


def writable(path: Path) -> None:
    """Raise ``OSError`` unless a file can be written there: found out before an invitation is used up."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    probe = path.with_name(f".{path.name}.probe")
    write(probe, b"")
    probe.unlink()
