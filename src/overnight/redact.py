"""Taking known secrets out of text before it is kept or shown: the second net below the allow-list of variables. Pure."""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Iterator, Mapping

SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "APIKEY", "CREDENTIAL", "PRIVATE_KEY", "ACCESS_KEY", "AUTH")
_SHORTEST = 8  # characters; shorter values would take ordinary words out


class Redactor:
    """Knows the values of the variables that look like secrets, and replaces them by ``[secret NAME]``.

    Also as base64 (alone or in the midst of something else, as in ``Authorization: Basic``), in URLs, in JSON and in hexadecimal.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        forms: dict[bytes, bytes] = {}
        for name, value in environ.items():
            if len(value) >= _SHORTEST and any(word in name.upper() for word in SECRET_WORDS):
                forms |= dict.fromkeys(_forms(value), f"[secret {name}]".encode())
        self._forms = sorted(forms.items(), key=lambda pair: -len(pair[0]))

    def __bool__(self) -> bool:
        return bool(self._forms)

    def data(self, found: bytes) -> bytes:
        """``found`` without the secrets."""
        for form, word in self._forms:
            if form in found:
                found = found.replace(form, word)
        return found

    def text(self, found: str) -> str:
        """``found`` without the secrets."""
        if not self._forms:
            return found
        return self.data(found.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def split(self, found: bytes) -> tuple[bytes, bytes]:
        """What can be told of a stream so far, without the secrets, and its end, if that may be the beginning of one."""
        found, hold = self.data(found), 0
        for form, _ in self._forms:
            at = max(0, len(found) - len(form) + 1)
            while (at := found.find(form[:1], at)) >= 0 and not form.startswith(found[at:]):
                at += 1
            hold = max(hold, len(found) - at if at >= 0 else 0)
        cut = len(found) - hold
        return found[:cut], found[cut:]


def _forms(value: str) -> Iterator[bytes]:
    raw = value.encode("utf-8", "surrogateescape")
    quoted = {urllib.parse.quote(raw, safe=""), urllib.parse.quote(raw), urllib.parse.quote_plus(raw)}
    plain = [raw, raw.hex().encode(), raw.hex().upper().encode(), json.dumps(value)[1:-1].encode()]
    yield from (*plain, *(form.encode() for text in quoted for form in (text, re.sub("%..", lambda found: found[0].lower(), text))))
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).rstrip(b"=")
        for before in range(3):  # what stands before it moves the letters; those at the ends are not its own alone
            core = encode(bytes(before) + raw)[-(-8 * before // 6) : 8 * (before + len(raw)) // 6]
            if len(core) >= _SHORTEST:
                yield core
