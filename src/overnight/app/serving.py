"""The hub over a relay: its words carried as sealed requests, both sides.

One verb carries every word of ``queue.wire``, so that whoever runs the relay cannot even tell a claim from a submit but by its size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from overnight.queue.wire import LONGEST_WAIT, Counter, Remote, Role, Who, answer

if TYPE_CHECKING:
    from overnight.hub.keys import Peer
    from overnight.hub.link import Link

VERB = "ask"
PATIENCE = LONGEST_WAIT + 15.0  # seconds; a claim may be parked


def serve(link: Link, answered: Callable[[Who, bytes], bytes]) -> None:
    """Answer what workers and clients ask over the relay from now on; who asks is what the link vouches for."""

    def handle(who: Peer, data: bytes) -> bytes:
        return answered(Who(who.name, Role(who.kind)), data)

    link.serve(VERB, handle)


def serve_hub(link: Link, desk: Counter) -> None:
    """Let a desk answer over the relay from now on."""
    serve(link, lambda who, data: answer(desk, who, data))


def remote(link: Link) -> Remote:
    """The hub on the other side of the relay: ``Hub``, ``Orders`` and ``Views`` in one."""
    return Remote(lambda data: link.request(VERB, data, PATIENCE))


def ringing(link: Link, ring: Callable[[str], None]) -> Callable[[str], None]:
    """A bell that besides tells every worker that has asked lately to look at once when something is to be stopped."""

    def rung(kind: str) -> None:
        ring(kind)
        if kind == "stop":
            link.control_all("worker", kind.encode())

    return rung
