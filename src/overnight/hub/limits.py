"""How large what goes over a relay may be, for both ends and for the server between them."""

from __future__ import annotations

PAYLOAD = 2**20  # bytes of one message as its sender has it
SEAL = 4096  # bytes that a seal may add
PENDING = 2**24  # bytes that may wait for one connection; who reads more slowly is dropped, and comes back
