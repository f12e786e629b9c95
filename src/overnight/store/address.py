"""The address of a Postgres: read, shown, written down. Its password is known to nobody but the connection.

Must not know what is kept there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

from overnight.errors import UsageError

_KINDS = ("postgres://", "postgresql://")
_DEFAULTS = {
    "connect_timeout": "10", "application_name": "overnight", "client_encoding": "utf8",
    "keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "20000",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Postgres is, by the names that libpq has for everything."""

    said: Mapping[str, str] = field(repr=False)

    @property
    def secret(self) -> bool:
        """Whether a password is part of it."""
        return any(_is_secret(name) for name in self.said)

    @property
    def options(self) -> dict[str, str]:
        """What a connection is made with; time-outs are ours where nothing else was said."""
        return _DEFAULTS | dict(self.said)

    def __str__(self) -> str:
        """The address without its password; it can be read again."""
        rest = {name: value for name, value in self.said.items() if name not in ("dbname", "user", "host", "port") and not _is_secret(name)}
        user = f"{quote(self.said['user'], safe='')}@" if "user" in self.said else ""
        host, port = self.said.get("host", ""), self.said.get("port", "")
        plain = host and not set(host) & set("/,:[]@")
        if not plain:
            rest |= {name: value for name, value in (("host", host), ("port", port)) if value}
        place = f"{host}{f':{port}' if port else ''}" if plain else ""
        query = f"?{urlencode(rest, quote_via=quote, safe='/')}" if rest else ""
        return f"postgres://{user}{place}/{quote(self.said.get('dbname', ''), safe='')}{query}"


def read(text: str) -> Address:
    """The address that a text is. Raises ``UsageError``, which never repeats the text: it may hold a password."""
    try:
        found = conninfo_to_dict(text) if text.startswith(_KINDS) else {}
    except (psycopg.Error, ValueError):
        found = {}
    if not found:
        raise UsageError(
            "E-STORE-ADDRESS", "the address of the hub's store cannot be read", why="it is like postgres://user@host:5432/database",
            fix="overnight hub start --store postgres://user@host/database",
        )  # fmt: skip
    return Address({name: str(value) for name, value in found.items() if value not in (None, "")})


def _is_secret(name: str) -> bool:
    return "password" in name or "secret" in name
