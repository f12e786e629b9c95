"""Signed claims in the form that nats-server reads (JWT with Ed25519 nkeys, version 2): operator, accounts, users.

Users carry no permissions of their own: what a role may do stands in the account's claims, under the key that signs for that role, so that it
can be changed without asking anybody to join again. Must not know where claims are kept or who asks for them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from overnight.hub import keys

HUB, WORKER, CLIENT, GUEST, ENROLLER = "hub", "worker", "client", "guest", "enroller"
_MINE = "{{name()}}"
_INBOX = f"_INBOX.{_MINE}.>"
_OBJECTS = [f"obj.*.{_MINE}.hub.>", f"$JS.API.DIRECT.GET.OBJ.obj.*.hub.{_MINE}.>"]
_OUTSIDE, _BESIDE = ["WEBSOCKET"], ["STANDARD"]

# role: what it may publish, what it may listen to, how it may come
ROLES: dict[str, tuple[list[str], list[str], list[str]]] = {
    WORKER: ([f"hub.{_MINE}.*", f"log.{_MINE}.>", f"evt.{_MINE}.>", *_OBJECTS], [_INBOX, f"ctl.{_MINE}"], _OUTSIDE),
    CLIENT: ([f"hub.{_MINE}.*", *_OBJECTS], [_INBOX, f"ctl.{_MINE}"], _OUTSIDE),
    GUEST: ([f"enrol.{_MINE}"], [_INBOX], _OUTSIDE),
    HUB: (["_INBOX.>", "ctl.*", "obj.*.hub.>", "$JS.API.>", "$JS.FC.>"], ["hub.*.*", "log.>", "evt.>", _INBOX], _BESIDE),
    ENROLLER: (["_INBOX.>", "$JS.API.>"], ["enrol.*", _INBOX], _BESIDE),
}
_NO_LIMIT = -1


@dataclass(frozen=True, slots=True)
class Account:
    """What the account's claims are made of: its key, the public keys that sign for each role, and who is cut off since when."""

    key: str
    roles: Mapping[str, str]
    revoked: Mapping[str, int] = field(default_factory=dict)  # public user key: Unix seconds
    disk: int = _NO_LIMIT  # bytes


def user(signer: str, account: str, subject: str, name: str, issued: int, expires: int = 0) -> str:
    """A user's claims, signed for its role by the seed ``signer``."""
    return _signed(signer, user_payload(keys.public(signer), account, subject, name, issued, expires))


def user_payload(issuer: str, account: str, subject: str, name: str, issued: int, expires: int = 0) -> bytes:
    """What is signed: the same bytes for the same arguments, so that an invitation can carry the signature alone."""
    more = {"exp": expires} if expires else {}
    return _payload(issuer, subject, name, issued, {"issuer_account": account, "type": "user", "version": 2}, **more)


def joined(payload: bytes, signature: bytes) -> str:
    """Payload and signature as the text that is shown to the server."""
    return f"{_HEADER}.{_text(payload)}.{_text(signature)}"


def unsigned(payload: bytes) -> bytes:
    """The bytes that a signature is over."""
    return f"{_HEADER}.{_text(payload)}".encode()


def operator(seed: str, system: str, issued: int) -> str:
    """The claims at the root, signed by itself."""
    key = keys.public(seed)
    return _signed(seed, _payload(key, key, "overnight", issued, {"system_account": system, "type": "operator", "version": 2}))


def system_account(seed: str, key: str, issued: int) -> str:
    """The account over which the server is steered and asked how it is."""
    body = {"limits": _limits(disk=0), "default_permissions": {"pub": {}, "sub": {}}, "type": "account", "version": 2}
    return _signed(seed, _payload(keys.public(seed), key, "SYS", issued, body))


def system_user(seed: str, subject: str, issued: int) -> str:
    """The one user of the system account, from this machine alone."""
    free = dict.fromkeys(("subs", "data", "payload"), _NO_LIMIT)
    body = {**free, "allowed_connection_types": _BESIDE, "type": "user", "version": 2}
    return _signed(seed, _payload(keys.public(seed), subject, "system", issued, body))


def account(seed: str, found: Account, issued: int) -> str:
    """The account in which hub, workers and clients meet, signed by the operator's seed."""
    scopes = [_scope(role, key) for role, key in sorted(found.roles.items())]
    body = {
        "limits": _limits(disk=found.disk),
        "signing_keys": scopes,
        "revocations": dict(found.revoked),
        "default_permissions": {"pub": {"deny": [">"]}, "sub": {"deny": [">"]}},
        "type": "account",
        "version": 2,
    }
    return _signed(seed, _payload(keys.public(seed), found.key, "HUB", issued, body))


def _scope(role: str, key: str) -> dict[str, Any]:
    publish, listen, ways = ROLES[role]
    template = {
        "pub": {"allow": publish},
        "sub": {"allow": listen},
        "subs": _NO_LIMIT,
        "data": _NO_LIMIT,
        "payload": _NO_LIMIT,
        "allowed_connection_types": ways,
    }
    return {"kind": "user_scope", "key": key, "role": role, "template": template}


def _limits(*, disk: int) -> dict[str, Any]:
    free = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "streams", "consumer"), _NO_LIMIT)
    return {**free, "wildcards": True, "leaf": 0, "mem_storage": 0, "disk_storage": disk}


_HEADER = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ"  # {"typ":"JWT","alg":"ed25519-nkey"}


def _payload(issuer: str, subject: str, name: str, issued: int, body: Mapping[str, Any], **more: int) -> bytes:
    found = {"iat": issued, "iss": issuer, "name": name, "nats": body, "sub": subject, **more}
    return _json({**found, "jti": base64.b32encode(hashlib.sha256(_json(found)).digest()).decode().rstrip("=")})


def _signed(seed: str, payload: bytes) -> str:
    return joined(payload, keys.sign(seed, unsigned(payload)))


def _json(found: object) -> bytes:
    return json.dumps(found, separators=(",", ":"), sort_keys=True).encode()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
