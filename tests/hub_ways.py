"""The ways to a hub, for the contract that it keeps however it is reached."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hubs import House
from overnight.app.serving import remote, serve
from overnight.hub.link import Link
from overnight.queue.wire import Remote, Role, Who, answer
from overnight.store.postgres import Postgres
from relays import relay


@pytest.fixture
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    """A hub in a file, or in a Postgres if that is the way to it."""
    kept = None
    if getattr(request.node, "callspec", None) and request.node.callspec.params.get("hub") == "postgres":
        kept = partial(Postgres, request.getfixturevalue("postgres").fresh())
    found = House(tmp_path / "hub.db", kept)
    yield found
    found.close()


@pytest.fixture(scope="module")
def line() -> Iterator[tuple[Link, Link]]:
    """A hub's and a client's ends of a real relay."""
    with relay() as found, found.hub() as hub, Link(found.joined("client", "laptop")) as client:
        yield hub, client


@pytest.fixture(params=["desk", "wire", "relay", "postgres"])
def hub(request: pytest.FixtureRequest, house: House) -> Any:
    """The hub in process, behind bytes, or behind a relay, and in process over a Postgres; all stay what they are when the house is started again."""
    if request.param == "relay":
        serving, asking = request.getfixturevalue("line")
        serve(serving, lambda _who, data: answer(house.desk, Who("w", Role.OWNER), data))
        return remote(asking)
    if request.param == "wire":
        return Remote(lambda data: answer(house.desk, Who("w", Role.OWNER), data))

    class Here:
        def __getattr__(self, name: str) -> Any:
            return getattr(house.desk, name)

    return Here()
