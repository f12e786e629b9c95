"""A relay from nothing: made, run with its hub in the same process, and the lines with which the first worker and the first client join.

Each of its steps is a verb of its own too; this is the short way. Must not know how any of them is done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from overnight.app import relay as relays
from overnight.errors import BusyError, UsageError

if TYPE_CHECKING:
    from overnight.hub.folder import Folder

_FIRST = {"worker": "worker-1", "client": "laptop"}
_COMMANDS = {
    "worker": ("on the machine with GPUs:  ", "overnight worker start {line}"),
    "client": ("where the code is:         ", "overnight hub submit --join {line} -- python train.py"),
}


def founded(environ: Mapping[str, str], named: Path | None, host: str, port: int | None, *, hub: bool) -> Folder:
    """The relay in the folder named, made first where there is none and a ``host`` is given.

    Raises ``UsageError``: there is one for another name or port.
    """
    found = relays.folder(environ, named)
    if not host:
        return found
    if not (found.path / "relay.json").exists():
        return relays.init(environ, named, (host, port or relays.PORT), hub=hub)
    relay = found.relay()
    if relay.host != host or port not in (None, relay.port):
        raise UsageError(
            "E-RELAY-EXISTS", f"there is a relay in {found.path} already, for {relay.host}:{relay.port}",
            why="a new one would shut out everybody who has joined", fix="overnight relay start   # or: overnight relay start --relay FOLDER",
        )  # fmt: skip
    return found


def start(environ: Mapping[str, str], found: Folder, say: relays.Say, *, with_hub: bool) -> None:
    """Run the relay, with its hub or alone, until it is asked to end. Raises what ``relay.start`` and ``serving.open_hub`` raise."""

    @contextlib.contextmanager
    def hub() -> Iterator[None]:
        from overnight.app import serving

        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(serving.open_hub(environ, None, found.path))
                say("the hub answers")
            except BusyError as exc:  # it runs by itself, and goes on
                say(f"a hub answers already: {exc.message}")
            for text in told(first_lines(found)):
                say(text)
            yield

    relays.start(environ, found, say, hub if with_hub else None)


def first_lines(found: Folder) -> dict[str, str]:
    """New join lines for the first worker and the first client, by kind; none once anybody has joined."""
    if found.roster().members:
        return {}
    return {kind: relays.invite(found, kind, name)[0] for kind, name in _FIRST.items()}


def told(lines: Mapping[str, str]) -> list[str]:
    """What to type next, and where; each line is good once, for ten minutes."""
    if not lines:
        return []
    return [
        *("".join(_COMMANDS[kind]).format(line=line) for kind, line in lines.items()),
        "each is good once, within ten minutes; more:  overnight relay invite worker NAME",
    ]
