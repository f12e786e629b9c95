"""Taking known secrets out of text before it is kept or shown: the second net below the allow-list of variables. Pure."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Mapping

SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "APIKEY", "CREDENTIAL", "PRIVATE_KEY", "ACCESS_KEY", "AUTH")
_SHORTEST = 8  # characters; shorter values would take ordinary words out


class Redactor:
    """Knows the values of the variables that look like secrets; replaces them, also in base64 and URL form, by ``[secret NAME]``."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        forms: dict[bytes, bytes] = {}
        for name, value in environ.items():
            if len(value) < _SHORTEST or not any(word in name.upper() for word in SECRET_WORDS):
                continue
            raw = value.encode("utf-8", "surrogateescape")
            for form in (
                raw,
                base64.b64encode(raw).rstrip(b"="),
                base64.urlsafe_b64encode(raw).rstrip(b"="),
                urllib.parse.quote(value, safe="").encode(),
            ):
                forms[form] = f"[secret {name}]".encode()
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
