"""Ports for the servers that tests start."""

from __future__ import annotations

import secrets
import socket

_held: list[socket.socket] = []


def free_port() -> int:
    """A TCP port that nobody listens on, no outgoing connection is given, and no other test gets as long as this process lives."""
    while True:
        port = 15_000 + secrets.randbelow(17_000)  # below those of outgoing connections
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))  # UDP, which none of the servers uses: it only tells other tests that the number is taken
            with socket.socket() as found:
                found.bind(("0.0.0.0", port))  # noqa: S104 - servers listen there too
        except OSError:
            claim.close()
        else:
            _held.append(claim)
            return port
