"""The relay's folder: its secrets, its certificates, and the roster of who may come.

Everything is readable by its owner alone; what is changed is replaced as a whole, under a lock. Must not know how a server is run or spoken to.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from overnight.errors import NotFoundError, StorageError, UsageError
from overnight.hub import certificates, claims, keys
from overnight.hub.durable import write
from overnight.hub.keys import Identity, Peer

SCHEMA = "overnight/relay/1"


@dataclass(frozen=True, slots=True)
class Relay:
    """What a relay is: its address for others, its port on this machine, and its public keys."""

    host: str
    port: int  # for everybody, WSS
    local: int  # for the hub beside it, on the loopback
    given: tuple[str, str]  # the files of a certificate of somebody else's and its key; empty where the relay has an authority of its own
    account: str
    system: str
    roles: Mapping[str, str]  # role: the public key that signs for it
    hub: bool = False  # whether it brings its hub along when it is started
    schema: str = SCHEMA

    @property
    def own(self) -> bool:
        """Whether the certificate is of the relay's own authority."""
        return not self.given[0]


@dataclass(frozen=True, slots=True)
class Member:
    """Who has joined; ``since`` and ``revoked`` are Unix seconds."""

    name: str
    kind: str
    sign: str
    box: str
    since: int
    revoked: int = 0

    def peer(self) -> Peer:
        """Its public keys."""
        return Peer(self.name, self.kind, self.sign, self.box)


@dataclass(frozen=True, slots=True)
class Invitation:
    """Who was asked to come: the public key that the join line's code makes, until when, and which key has used it."""

    name: str
    kind: str
    key: str
    expires: int
    used: str = ""


@dataclass(frozen=True, slots=True)
class Roster:
    """Members by name, those cut off by public key, and invitations by their id."""

    members: Mapping[str, Member] = field(default_factory=dict)
    revoked: Mapping[str, int] = field(default_factory=dict)
    invitations: Mapping[str, Invitation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Folder:
    """A relay's folder on the disk."""

    path: Path

    @property
    def streams(self) -> Path:
        """What the server keeps."""
        return self.path / "streams"

    @property
    def accounts(self) -> Path:
        """Signed claims of the accounts, which the server reads and is told of anew."""
        return self.path / "accounts"

    def relay(self) -> Relay:
        """What it is; raises ``NotFoundError`` where no relay was made."""
        try:
            found: dict[str, Any] = json.loads((self.path / "relay.json").read_bytes())
            return Relay(**{**found, "given": tuple(found["given"])})
        except FileNotFoundError as exc:
            raise NotFoundError(
                "E-NO-RELAY",
                f"there is no relay in {self.path}",
                fix="overnight relay init --host NAME   # the name that others reach it by",
            ) from exc
        except (OSError, ValueError, TypeError, KeyError) as exc:
            raise StorageError(
                "E-RELAY-FOLDER", f"{self.path}/relay.json cannot be read: {exc}", fix="overnight relay init --help"
            ) from exc

    def secrets(self) -> dict[str, str]:
        """Seeds by whose they are."""
        found: dict[str, str] = json.loads((self.path / "secrets.json").read_bytes())
        return found

    def hub(self) -> Identity:
        """The hub's own keys."""
        return Identity(**json.loads((self.path / "hub.json").read_bytes()))

    def authority(self) -> bytes:
        """The relay's own authority (PEM); empty where a certificate was given."""
        file = self.path / "authority.pem"
        return file.read_bytes() if file.exists() else b""

    def roster(self) -> Roster:
        """Who may come, as of now."""
        try:
            found = json.loads((self.path / "roster.json").read_bytes())
        except FileNotFoundError:
            return Roster()
        return Roster(
            {name: Member(**row) for name, row in found["members"].items()},
            found["revoked"],
            {name: Invitation(**row) for name, row in found["invitations"].items()},
        )

    def changed(self) -> tuple[int, int]:
        """A stamp that differs when the roster was written anew."""
        try:
            found = os.stat(f"{self.path}/roster.json")  # for every message: no time for paths
        except FileNotFoundError:
            return (0, 0)
        return (found.st_mtime_ns, found.st_ino)

    def peers(self) -> Callable[[str], Peer | None]:
        """Who has a name now, if anybody: the roster is read anew whenever it was written."""
        held: tuple[tuple[int, int], dict[str, Peer]] = ((-1, -1), {})

        def find(name: str) -> Peer | None:
            nonlocal held
            if (stamp := self.changed()) != held[0]:
                held = (stamp, {row.name: row.peer() for row in self.roster().members.values() if not row.revoked})
            return held[1].get(name)

        return find

    @contextlib.contextmanager
    def changing(self) -> Iterator[list[Roster]]:
        """The roster in a list of one; what the list holds at the end is written, durably, unless an error ended the block."""
        with (self.path / "roster.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            held = [before := self.roster()]
            yield held
            if held[0] is not before:
                write(self.path / "roster.json", json.dumps(asdict(held[0]), indent=1).encode())

    def account_claims(self, now: float) -> str:
        """The account's claims with everybody who is cut off, signed."""
        relay, roster = self.relay(), self.roster()
        found = claims.Account(relay.account, relay.roles, roster.revoked)
        return claims.account(self.secrets()["operator"], found, int(now))

    def write_claims(self, now: float) -> str:
        """Put the account's claims where the server reads them at its start; returns them."""
        with self.changing():  # whoever is cut off meanwhile writes after us
            found = self.account_claims(now)
            write(self.accounts / f"{self.relay().account}.jwt", found.encode())
        return found

    def renew(self, now: float) -> bool:
        """Bring the server's certificate up to date: made anew when less than a month is left of it, or taken from where it was given.

        Returns whether it is another one now. Raises ``UsageError`` when the one that was given does not fit any more.
        """
        relay, shown = self.relay(), (self.path / "server.pem").read_bytes()
        if not relay.own:
            made = _given(relay.given, relay.host, now)
        elif certificates.is_old(shown, now):
            above = certificates.Pair(self.authority(), (self.path / "authority.key").read_bytes())
            made = certificates.server(above, relay.host, now)
        else:
            return False
        if made.certificate == shown:
            return False
        _write_pair(self.path / "server", made)
        return True


def make(path: Path, host: str, port: int, given: tuple[str, str], now: float, *, hub: bool = False) -> Folder:
    """A new relay in an empty folder; ``given`` are the files of a certificate and its key, or empty. ``hub``: it brings its hub along.

    Raises ``UsageError``: there is one already, or the certificate does not fit.
    """
    folder = Folder(path)
    if (path / "relay.json").exists():
        raise UsageError(
            "E-RELAY-EXISTS",
            f"there is a relay in {path} already, for {folder.relay().host}",
            why="a new one would shut out everybody who has joined",
            fix="overnight relay start   # or: overnight relay init --relay ANOTHER-FOLDER",
        )
    shown = _given(given, host, now) if given[0] else None
    for part in (path, folder.accounts, folder.streams):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
        part.chmod(0o700)
    if shown is None:
        above = certificates.authority(now)
        _write_pair(path / "authority", above)
        shown = certificates.server(above, host, now)
    _write_pair(path / "server", shown)
    secrets = {name: keys.new_seed(keys.ACCOUNT) for name in ("account", "system", *claims.ROLES)}
    secrets |= {
        "operator": keys.new_seed(keys.OPERATOR),
        "system_user": keys.new_seed(keys.USER),
        "enroller_user": keys.new_seed(keys.USER),
    }
    write(path / "secrets.json", json.dumps(secrets).encode())
    write(path / "hub.json", json.dumps(asdict(keys.new_identity("hub", "hub"))).encode())
    roles = {role: keys.public(secrets[role]) for role in claims.ROLES}
    relay = Relay(host, port, _free_port(), given, keys.public(secrets["account"]), keys.public(secrets["system"]), roles, hub)
    write(path / "relay.json", json.dumps(asdict(relay), indent=1).encode())  # the last: what is there is whole
    folder.write_claims(now)
    return folder


def admit(roster: Roster, member: Member, invitation: str) -> Roster:
    """The roster with a member that has used its invitation."""
    used = replace(roster.invitations[invitation], used=member.sign)
    return replace(roster, members={**roster.members, member.name: member}, invitations={**roster.invitations, invitation: used})


def cut_off(roster: Roster, name: str, now: float) -> Roster:
    """The roster without what a name had: its key is refused from now on, open invitations to it are void."""
    member = roster.members.get(name)
    left = {key: row for key, row in roster.invitations.items() if row.name != name}
    if member is None:
        return replace(roster, invitations=left)
    gone = {**roster.members, name: replace(member, revoked=int(now))}
    return replace(roster, members=gone, revoked={**roster.revoked, member.sign: int(now)}, invitations=left)


def _given(files: tuple[str, str], host: str, now: float) -> certificates.Pair:
    try:
        found = certificates.Pair(*(Path(file).read_bytes() for file in files))
    except OSError as exc:
        raise UsageError(
            "E-CERTIFICATE",
            f"{exc.filename} cannot be read: {exc.strerror}",
            fix="overnight relay init --cert FILE --key FILE   # or without both",
        ) from exc
    certificates.check_given(found.certificate, found.key, host, now)
    return found


def _write_pair(stem: Path, pair: certificates.Pair) -> None:
    write(stem.with_suffix(".key"), pair.key)
    write(stem.with_suffix(".pem"), pair.certificate)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
