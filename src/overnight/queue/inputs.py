"""Inputs of jobs as they are written: ``[NAME=]PATH`` on the worker, or ``[NAME=]URL#sha256=HEX``, which the worker fetches.

Also which URLs lie below which. Strangers write them, and servers read them each in its own way: what could be read in two ways lies below
nothing. Pure: nothing is looked up, no name is resolved. Must not know how anything is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from overnight.errors import UsageError

_FIX = "overnight hub submit --input 'data.bin=s3://bucket/x.bin#sha256=HEX' -- …   # HEX: what sha256sum prints of the file"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://([^\x00-\x20\x7f][^\x00-\x1f\x7f]*)#sha256=([0-9a-f]{64})", re.IGNORECASE)
_PLAIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#]+)(/[^?]*)?(\?.*)?", re.DOTALL)
_ENCODED = re.compile(
    r"%(?:2e|2f|5c|25|[01][0-9a-f]|7f)|%(?![0-9a-f]{2})", re.IGNORECASE
)  # dots, slashes, percent signs, control characters
_WEB = {"http": ":80", "https": ":443"}
_LONGEST = 4096


@dataclass(frozen=True, slots=True)
class Address:
    """Where a file is fetched from, and what it must be."""

    url: str
    sha256: str

    @property
    def path(self) -> str:
        """The absolute path of a ``file://`` URL on the worker, as it stands there; empty for others."""
        return self.url.removeprefix("file://") if self.url.startswith("file://") else ""


def input_of(entry: str) -> tuple[str, str]:
    """Name in the job's folder (empty: not linked) and path, or URL with hash, of an input; a URL without a name has its last part."""
    if _SCHEME.match(entry):
        last = entry.partition("#")[0].partition("?")[0].rpartition("/")[2]
        return ("" if last in (".", "..") else last), entry
    name, sign, path = entry.partition("=")
    return (name, path) if sign and not entry.startswith("/") else ("", entry)


def leads_out(entry: str) -> bool:
    """Whether an input would be linked outside of the job's folder."""
    depth = 0
    for part in input_of(entry)[0].split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return False


def is_url(path: str) -> bool:
    """Whether the second word of ``input_of`` is meant as a URL, well formed or not."""
    return _SCHEME.match(path) is not None


def address_of(path: str) -> Address | None:
    """The URL and hash that stand there; None for a path, and for what is not well formed."""
    found = _ADDRESS.fullmatch(path) if len(path) <= _LONGEST else None
    return Address(f"{found[1].lower()}://{found[2]}", found[3].lower()) if found else None


def check(entries: Iterable[str]) -> None:
    """Raises ``UsageError``: E-INPUT-HASH for a URL without a hash, E-INPUT-URL for one that cannot be meant."""
    for entry in entries:
        name, path = input_of(entry)
        if not is_url(path):
            continue
        address = address_of(path)
        if address is None:
            shown = path.partition("?")[0][:200]
            raise UsageError("E-INPUT-HASH", f"input {shown!r} has no well-formed sha256", why="what a URL gives may change; NAME=URL#sha256=HEX is wanted", fix=_FIX)  # fmt: skip
        if trouble := _trouble(name, address):
            raise UsageError("E-INPUT-URL", f"input {address.url.partition('?')[0][:200]!r} {trouble}", fix=_FIX)


def _trouble(name: str, address: Address) -> str:
    if not name:
        return "has no name under which it could be linked"
    if address.url.startswith("file:") and not address.path.startswith("/"):
        return "must be file:/// and an absolute path"
    user, at, _ = address.url.partition("://")[2].partition("/")[0].rpartition("@")
    if at and ":" in user:
        return "tells a password, and a job is read by others; its worker has credentials of its own"
    return ""


def is_below(url: str, prefixes: Sequence[str]) -> bool:
    """Whether a URL lies below one of the prefixes whoever reads it: same scheme, same host or bucket, path from its beginning on."""
    found = _plain(url)
    if found is None:
        return False
    for prefix in prefixes:
        given = _plain(prefix)
        if given is not None and given[:2] == found[:2] and (found[2] == given[2] or found[2].startswith(f"{given[2].rstrip('/')}/")):
            return True
    return False


def plainly(path: str) -> str:
    """A path, or a URL without what in it may be a secret, for messages."""
    address = address_of(path)
    return (address.url.partition("?")[0] if address else path)[:300]


def granting(path: str) -> str:
    """The words of ``overnight worker start`` that let jobs of clients read it."""
    address = address_of(path)
    if address is None or address.path:
        return f"--share {address.path if address else path}"
    return f"--fetch {plainly(path).rpartition('/')[0]}/"


def check_prefix(prefix: str) -> None:
    """Raises ``UsageError`` (E-FETCH) for what no URL of a client could safely lie below."""
    scheme = prefix.partition("://")[0].lower()
    if scheme in ("file", "local"):
        raise UsageError("E-FETCH", f"--fetch {prefix[:200]!r}: files of this machine are shared as folders", fix="overnight worker start --share /mnt/data")  # fmt: skip
    found = _plain(prefix)
    if found is None or "?" in prefix:
        raise UsageError("E-FETCH", f"--fetch {prefix[:200]!r} is no plain beginning of URLs", why="scheme://host/folder/ is wanted, without a user, dots or encoded parts", fix="overnight worker start --fetch s3://bucket/folder/")  # fmt: skip


def _plain(url: str) -> tuple[str, str, str] | None:
    """Scheme, host or bucket, and path of a URL that can be read in one way only; None for others."""
    if len(url) > _LONGEST or not url.isascii() or not url.isprintable() or any(sign in url for sign in " \\#"):
        return None
    found = _PLAIN.fullmatch(url[: len(url.partition("://")[0])].lower() + url[len(url.partition("://")[0]) :])
    if found is None:
        return None
    scheme, host, path, query = found[1], found[2], found[3] or "/", found[4] or ""
    if scheme in _WEB:
        host = host.lower().removesuffix(_WEB[scheme])
        if not _is_host(host):
            return None
    else:  # a question mark may be part of the name
        path += query
    parts = path.split("/")
    if "%" in host or "::" in path or _ENCODED.search(path) or any(part.partition(";")[0] in (".", "..") for part in parts):
        return None
    return scheme, host, path


def _is_host(text: str) -> bool:
    try:
        found = urlsplit(f"http://{text}/")
        return "@" not in text and bool(found.hostname) and (found.port is None or found.port > 0)
    except ValueError:
        return False
