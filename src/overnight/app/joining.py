"""Joining a relay as a worker or a client, and what a worker's owner lets run on it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from overnight.app import relay as relays
from overnight.config import user_file
from overnight.errors import NotAllowedError, StorageError, UsageError

if TYPE_CHECKING:
    from overnight.hub.credentials import Credentials
    from overnight.hub.link import Link

ALL = "all"
_VERBS = {"worker": "worker join", "client": "join"}


def join(environ: Mapping[str, str], kind: str, line: str, named: Path | None, say: Callable[[str], None]) -> tuple[Credentials, Path]:
    """Use a join line; returns what was joined and where that is kept.

    Raises ``UsageError`` (no join line, joined already), ``NotAllowedError`` (expired, used, another relay), ``UnreachableError``.
    """
    with relays.needed():
        from overnight.hub import credentials, enrol, invitation
    path = file(environ, kind, named)
    asked = invitation.read(line)
    if asked.kind != kind:
        verb = _VERBS[asked.kind]
        raise UsageError("E-JOIN-KIND", f"this line is for a {asked.kind}, not for a {kind}", fix=f"overnight {verb} LINE")
    if path.exists():
        _refuse_second(path, kind)
    try:
        credentials.writable(path)
        found = enrol.join(line, say)
        credentials.save(path, found)
    except OSError as exc:
        raise StorageError(
            "E-CREDENTIALS", f"{path} cannot be written: {exc.strerror}", fix=f"overnight {_VERBS[kind]} --credentials FILE LINE"
        ) from exc
    return found, path


def come(environ: Mapping[str, str], kind: str, line: str, hub: Path | None, say: Callable[[str], None]) -> None:
    """Join by this line unless this machine has done so before: the same command can be given again. ``hub``: the folder named beside it.

    Raises what ``join`` raises, and ``UsageError`` when a hub's folder is named as well.
    """
    with relays.needed():
        from overnight.hub import credentials, invitation
    if hub is not None or environ.get("OVERNIGHT_HUB"):
        raise UsageError(
            "E-USAGE", "the join line leads to the hub of a relay, and a hub's folder is named as well",
            why=f"{'--hub is' if hub is not None else 'OVERNIGHT_HUB is set to'} {hub or environ['OVERNIGHT_HUB']}", fix="unset OVERNIGHT_HUB",
        )  # fmt: skip
    path = file(environ, kind)
    if path.exists() and credentials.load(path, _VERBS[kind]).line == invitation.read(line).id:
        return
    found, _ = join(environ, kind, line, None, say)
    say(f"joined {found.address} as {kind} {found.name}")


def file(environ: Mapping[str, str], kind: str, named: Path | None = None) -> Path:
    """Where a machine keeps what it has joined as: named, ``$OVERNIGHT_CREDENTIALS``, ``$XDG_CONFIG_HOME/overnight/worker.json``."""
    given = named or (Path(environ["OVERNIGHT_CREDENTIALS"]) if environ.get("OVERNIGHT_CREDENTIALS") else None)
    if given is not None:
        return given.absolute()
    return _settings(environ) / f"{kind}.json"


def linked(environ: Mapping[str, str], kind: str, named: Path | None = None, *, patient: bool = False) -> Link:
    """The link to the relay that this machine has joined as a ``kind``.

    ``patient``: also when the relay is not reached at the moment. Raises ``NotFoundError`` (not joined), ``UnreachableError``, ``NotAllowedError``.
    """
    with relays.needed():
        from overnight.hub import credentials
        from overnight.hub.link import Link
    return Link(credentials.load(file(environ, kind, named), _VERBS[kind]), patient=patient)


def hub_linked(environ: Mapping[str, str], named: Path | None = None, *, patient: bool = False) -> Link:
    """The link of the hub that runs beside the relay; it knows every member's keys, and nobody's who was cut off."""
    from overnight.hub.link import Link
    from overnight.hub.steering import beside

    found = relays.folder(environ, named)
    return Link(beside(found, "hub", time.time()), found.peers(), patient=patient)


def allow(environ: Mapping[str, str], names: Iterable[str]) -> tuple[str, ...]:
    """Let jobs of these clients alone run on this machine's workers, besides those allowed before; ``all`` takes every restriction back.

    Returns who is allowed now. Raises ``UsageError``.
    """
    with relays.needed():
        from overnight.hub.durable import write
        from overnight.hub.keys import check_name
    asked = tuple(names)
    path = _settings(environ) / "allowed.json"
    before = allowed(environ) or ()
    kept = () if ALL in asked else tuple(sorted({*before, *(check_name(name) for name in asked)}))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if kept:
        write(path, json.dumps({"schema": "overnight/allowed/1", "clients": kept}).encode())
    else:
        path.unlink(missing_ok=True)
    return kept


def forbid(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Take one client off the list; with nobody left on it nobody is allowed. Returns who is allowed now. Raises ``UsageError``."""
    from overnight.hub.durable import write

    before = allowed(environ)
    if before is None or name not in before:
        raise UsageError("E-NOT-ALLOWED", f"'{name[:80]}' is not on the list", fix="overnight worker allow   # shows it")
    kept = tuple(each for each in before if each != name)
    write(_settings(environ) / "allowed.json", json.dumps({"schema": "overnight/allowed/1", "clients": kept}).encode())
    return kept


def allowed(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """The clients whose jobs may run on this machine's workers; None: all whom the hub lets in. Raises ``UsageError`` for a damaged list."""
    path = _settings(environ) / "allowed.json"
    try:
        row = json.loads(path.read_bytes())
        return tuple(str(name) for name in row["clients"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise UsageError(
            "E-ALLOWED", f"{path} cannot be read: {exc}", why="without it nobody's jobs are run", fix="overnight worker allow all"
        ) from exc


def welcome(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """As ``allowed``; with a damaged list nobody's jobs are run."""
    try:
        return allowed(environ)
    except UsageError:
        return ()


def check_allowed(environ: Mapping[str, str], client: str) -> None:
    """Raise ``NotAllowedError`` unless jobs of this client may run here; those of the hub's own owner have no client and always may."""
    names = allowed(environ)
    if names is not None and client and client not in names:
        raise NotAllowedError("E-NOT-ALLOWED", f"jobs of '{client[:80]}' may not run here", fix=f"overnight worker allow {client[:80]}")


def _settings(environ: Mapping[str, str]) -> Path:
    found = user_file(environ)
    if found is None:
        raise UsageError(
            "E-NO-HOME",
            "there is no home folder",
            why="neither XDG_CONFIG_HOME nor HOME is set",
            fix="overnight join --credentials FILE LINE",
        )
    return found.parent


def _refuse_second(path: Path, kind: str) -> None:
    from overnight.hub import credentials

    held = credentials.load(path, _VERBS[kind])
    raise UsageError(
        "E-JOINED",
        f"this machine has joined {held.address} as {kind} {held.name} already",
        where=str(path),
        fix=f"overnight {_VERBS[kind]} --credentials FILE LINE   # a second one; or remove {path} first",
    )
