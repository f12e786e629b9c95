"""Requirements in EARS form (Mavin and others, "Easy approach to requirements syntax", RE 2009): which form a sentence has, if any."""

from __future__ import annotations

import re

_SHALL = re.compile(r"\bshall\b(?:\s+not)?\s+\S", re.IGNORECASE)
_SYSTEM = re.compile(r"(?:^|,\s*|\bthen\s+)(?:then\s+)?the\s+\S[^,]*$", re.IGNORECASE)
_KINDS = {"while": "state", "when": "event", "where": "option", "if": "unwanted"}
EXAMPLE = "The <system> shall <do>; or with While <state>, When <event>, Where <feature>, If <trouble>, then  before it"


def kind(text: str) -> str:
    """``ubiquitous``, ``state``, ``event``, ``option``, ``unwanted`` or ``complex``; empty for what is no EARS sentence."""
    sentence = " ".join(text[:4000].split())
    shall = _SHALL.search(sentence)
    if shall is None:
        return ""
    head = sentence[: shall.start()].rstrip()
    system = _SYSTEM.search(head)
    if system is None:
        return ""
    before = head[: system.start()].strip(" ,")
    if not before:
        return "ubiquitous"
    words = re.findall(r"(?:^|,\s*|\band\s+)(while|when|where|if)\s+\w", before, re.IGNORECASE)
    if not words or not re.match(r"(?:while|when|where|if)\s", before, re.IGNORECASE):
        return ""
    if any(word.lower() == "if" for word in words) and not re.search(r"\bthen\s+the\b", head, re.IGNORECASE):
        return ""
    return _KINDS[words[0].lower()] if len(words) == 1 else "complex"
