"""Do the walls stand on this machine? One probe inside them tries what must fail, and says what did not.

A probe is worth more than a version number: kernels, containers and security modules differ in what they quietly leave out.
Must not know who is put behind the walls afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from overnight.errors import UsageError
from overnight.printable import one_line
from overnight.sandbox import bubblewrap, landlock
from overnight.sandbox.walls import By, Inside, Walls, prefix, uid_for

_PATIENCE = 20.0  # seconds; a machine that is busy is no reason to refuse
_PROBE = Path(__file__).with_name("probe.py")


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing that was tried inside the walls: its name, what it took, and what should have failed and did not."""

    name: str
    seconds: float
    faults: tuple[str, ...]


def stand(walls: Walls) -> Walls:
    """The walls that do stand here: these, or else the weaker ones of Landlock, proven both.

    Raises ``UsageError`` (E-NO-SANDBOX, with what mends it and the flag that overrides) if none do.
    """
    down = check(walls)
    if not down:
        return walls
    weaker = replace(walls, by=By.LANDLOCK, hosts=())  # there is no network of its own to cut down
    if walls.by is By.LANDLOCK or landlock.abi() < landlock.NEEDED:
        raise bubblewrap.refuse(down)
    if still := check(weaker):
        raise bubblewrap.refuse([*down, *(f"with Landlock: {line}" for line in still)])
    return weaker


def prove(walls: Walls) -> None:
    """Raise ``UsageError`` (E-NO-SANDBOX, with what mends it and the flag that overrides) unless all of these very walls stand."""
    if down := check(walls):
        raise bubblewrap.refuse(down)


def check(walls: Walls) -> list[str]:
    """The walls that do not stand, in words; empty = all do. ``folder``, ``uid`` and limits of ``walls`` do not matter.

    Takes some 100 ms. Raises ``OSError`` if ``keep`` cannot be written.
    """
    return [fault for probe in examine(walls) for fault in probe.faults]


def examine(walls: Walls) -> list[Probe]:
    """Each probe and what it found; a single one called "start" where none could be made. Raises as ``check`` does."""
    begun = time.perf_counter()
    try:
        walls.keep.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=walls.keep) as folder:
            return _try(walls, Path(folder))
    except UsageError as exc:
        return [Probe("start", time.perf_counter() - begun, (exc.message.partition(": ")[2] or exc.message,))]


def _try(walls: Walls, place: Path) -> list[Probe]:
    place.chmod(0o755)  # the walls are to be tried, not the permissions
    inside = place / "inside"
    inside.mkdir()
    uid = uid_for("probe") if walls.inside is Inside.RUN else 0
    if uid:
        os.chown(inside, uid, uid)
        if walls.by is By.LANDLOCK and (shut := landlock.closed(inside) or landlock.closed(Path(sys.executable))):
            return [Probe("start", 0.0, (f"{shut} is closed to the user that runs become: chmod o+x {shut}",))]
    mark = f"overnight-probe-{secrets.token_hex(8)}"
    (place / mark).write_text("secret", encoding="ascii")
    outside = [str(place), str(walls.home), "/etc", "/usr", *map(str, walls.hidden)]
    open_ = walls.network and not walls.hosts
    with _listeners(place, mark) as port:
        plan = {
            "mark": mark, "secret": str(place / mark), "outside": outside, "private": _private(walls), "pid": os.getpid(),
            "port": 0 if open_ else port, "socket": str(place / "s"), "abstract": "" if open_ else mark,
            "shared": walls.by is By.LANDLOCK,
        }  # fmt: skip
        said = _run(replace(walls, folder=inside, uid=uid), json.dumps(plan))
    written = tuple(f"files can be written in {folder}" for folder in outside if _remove(Path(folder, mark), place))
    return [replace(probe, faults=(*written, *probe.faults)) if probe.name == "files" else probe for probe in said]


def _run(walls: Walls, plan: str) -> list[Probe]:
    """What the probes say, after a first one called "start" for building the walls; that alone, with the reason, if they could not be run."""
    begun = time.perf_counter()
    file = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)  # a number that is free
    try:
        wrap = prefix(walls, file)
        with open(wrap.files[0], "rb") as source:
            os.dup2(source.fileno(), file, inheritable=False)
        done = subprocess.run(
            [*wrap.argv, sys.executable, "-I", "-S", "-B", "-c", _PROBE.read_text(encoding="utf-8"), plan],
            capture_output=True, timeout=_PATIENCE, cwd=walls.folder, env={}, pass_fds=(file,), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [Probe("start", _PATIENCE, (f"the probe did not answer within {_PATIENCE:.0f} s",))]
    finally:
        os.close(file)
    taken = time.perf_counter() - begun
    try:
        found = [Probe(str(name), float(seconds), tuple(map(str, faults))) for name, seconds, faults in json.loads(done.stdout)]
    except (ValueError, TypeError):
        words = one_line(done.stderr.decode("utf-8", "replace"), 300)
        return [Probe("start", taken, (words or f"the probe ended with {done.returncode} and said nothing",))]
    return [Probe("start", taken - sum(probe.seconds for probe in found), ()), *found]


@contextlib.contextmanager
def _listeners(place: Path, mark: str) -> Iterator[int]:
    """Somebody to talk to outside: a loopback port (its number is given), a socket with a path, and one without."""
    with socket.create_server(("127.0.0.1", 0)) as port, contextlib.ExitStack() as stack:
        for address in (str(place / "s"), "\0" + mark):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            with contextlib.suppress(OSError):  # a path can be too long for a socket
                listener.bind(address)
                listener.listen()
        yield int(port.getsockname()[1])


def _private(walls: Walls) -> list[str]:
    """What lies in HOME and was not meant to be seen."""
    try:
        names = sorted(os.listdir(walls.home))[:500] if walls.inside is Inside.RUN and walls.home != Path("/") else []
    except OSError:
        return []
    shown = [*walls.readable, *walls.writable, walls.keep, *(walls.home / name for name in (".cache", ".local", ".config"))]
    shown += [Path(os.path.realpath(path)) for path in shown]
    return [str(path) for name in names if not any((path := walls.home / name) in (item, *item.parents) for item in shown)]


def _remove(path: Path, place: Path) -> bool:
    """Whether the probe has left something there."""
    if path.parent == place:
        return path.read_text(encoding="utf-8", errors="replace") != "secret"
    try:
        path.unlink()
    except OSError:
        return False
    return True
