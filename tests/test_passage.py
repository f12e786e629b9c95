"""What a command behind walls reaches of the network when only a few hosts are left open to it. Real walls, real sockets."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from commands import ENV, PATIENCE, processes, until
from overnight.executors.local import LocalExecutor
from overnight.models import JobSpec, JobState
from overnight.sandbox import Inside, Walls, check, confined
from overnight.sandbox.passage import _is_direct, addresses, hosts

# Says for each "name:port" of its arguments what came of a word sent there.
TRY = """\
import errno, json, socket, sys
found = {}
for pair in sys.argv[1:]:
    name, _, port = pair.rpartition(":")
    try:
        with socket.create_connection((name, int(port)), 5) as made:
            made.sendall(b"hello\\n")
            made.shutdown(socket.SHUT_WR)
            found[pair] = made.makefile().read()
    except OSError as exc:
        found[pair] = "" if exc.errno == errno.ENOTCONN else type(exc).__name__  # it was taken, and closed before the word was sent
print("FOUND " + json.dumps(found))
"""


class Echo:
    """A server on loopback that sends back what it gets, in capitals; ``taken`` counts its connections."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.taken = 0
        self._socket = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                made, _ = self._socket.accept()
            except OSError:
                return
            self.taken += 1
            with made:
                said = b""
                while part := made.recv(65536):
                    said += part
                made.sendall(said.upper())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.close()


@pytest.fixture
def walls(tmp_path: Path) -> Walls:
    (tmp_path / "home").mkdir()
    made = Walls(keep=tmp_path / "keep", inside=Inside.AGENT, network=True, home=tmp_path / "home")
    if down := check(made):
        pytest.skip(f"no walls here: {'; '.join(down)}")
    return made


def run(walls: Walls, folder: Path, open_: tuple[str, ...], script: str, *words: str, name: str = "try") -> tuple[JobState, str, int]:
    copy = folder / "copy"
    copy.mkdir(exist_ok=True)
    spec = JobSpec(id=name, argv=(sys.executable, "-I", "-S", "-c", script, *words), cwd=str(copy), env=ENV, hosts=open_, time_limit=30)
    executor = LocalExecutor(folder / "jobs")
    try:
        executor.submit(confined(walls, spec))
        status = executor.poll(name, PATIENCE)
    finally:
        executor.close()
    return status.state, status.end, status.survivors


def tried(walls: Walls, folder: Path, open_: tuple[str, ...], *pairs: str) -> dict[str, str]:
    state, end, _ = run(walls, folder, open_, TRY, *pairs)
    assert "FOUND " in end, (state, end)
    found: dict[str, str] = json.loads(end.partition("FOUND ")[2].splitlines()[0])
    return found


def test_a_host_that_is_open_answers_and_another_port_of_it_does_not(walls: Walls, echo: Echo, tmp_path: Path) -> None:
    other = Echo()
    mine, theirs = f"127.0.0.1:{echo.port}", f"127.0.0.1:{other.port}"
    found = tried(walls, tmp_path, (mine,), mine, theirs)
    other.close()
    assert (found, other.taken) == ({mine: "HELLO\n", theirs: "ConnectionRefusedError"}, 0)


def test_a_name_is_found_at_an_address_of_its_own(walls: Walls, echo: Echo, tmp_path: Path) -> None:
    name = f"{socket.gethostname()}:{echo.port}"
    if not socket.gethostbyname(socket.gethostname()).startswith("127."):
        echo = Echo("0.0.0.0")  # noqa: S104 - the address by which the machine knows its own name
        name = f"{socket.gethostname()}:{echo.port}"
    assert tried(walls, tmp_path, ("api.example.com:443", name), name) == {name: "HELLO\n"}


def has_version_6() -> bool:
    """Whether this machine speaks version 6 of the protocol, on its loopback at least."""
    try:
        Echo("::1").close()
    except OSError:
        return False
    return True


needs_version_6 = pytest.mark.skipif(not has_version_6(), reason="no IPv6 here")


@needs_version_6
def test_a_host_named_by_its_address_of_version_6_answers_and_another_port_of_it_does_not(walls: Walls, tmp_path: Path) -> None:
    server, other = Echo("::1"), Echo("::1")
    mine, theirs = f"::1:{server.port}", f"::1:{other.port}"
    found = tried(walls, tmp_path, (mine,), mine, theirs, f"127.0.0.1:{server.port}")
    server.close()
    other.close()
    assert (found, other.taken) == (
        {mine: "HELLO\n", theirs: "ConnectionRefusedError", f"127.0.0.1:{server.port}": "ConnectionRefusedError"},
        0,
    )


@needs_version_6
def test_a_server_that_listens_on_version_6_alone_is_reached_by_its_name(walls: Walls, tmp_path: Path) -> None:
    server = Echo("::1")
    found = tried(walls, tmp_path, (f"localhost:{server.port}",), f"localhost:{server.port}")
    server.close()
    assert found == {f"localhost:{server.port}": "HELLO\n"}


@needs_version_6
def test_a_far_address_of_version_6_is_taken_by_the_passage_and_by_nobody_else(walls: Walls, tmp_path: Path) -> None:
    near, far = "2001:db8::1:443", "2001:db8::2:443"  # of the block for documents: nobody has them
    found = tried(walls, tmp_path, (near,), near, far)
    assert (found[near] in ("", "ConnectionResetError"), found[far]) == (True, "OSError")


def test_no_address_beyond_the_open_ones_can_be_reached(walls: Walls, echo: Echo, tmp_path: Path) -> None:
    far = ("192.0.2.1:80", "example.org:443", "127.0.1.1:80", f"127.0.0.1:{echo.port}")
    found = tried(walls, tmp_path, ("localhost:9",), *far)
    assert (sorted(found), all(word in ("OSError", "gaierror", "ConnectionRefusedError", "TimeoutError") for word in found.values()), echo.taken) == (
        sorted(far), True, 0,
    )  # fmt: skip


def test_a_low_port_is_open_inside(walls: Walls, tmp_path: Path) -> None:
    found = tried(walls, tmp_path, ("localhost:443",), "localhost:443")
    assert found["localhost:443"] in ("", "ConnectionResetError", "BrokenPipeError")  # taken, and nobody is there outside


def test_what_a_command_gets_through_is_whole(walls: Walls, echo: Echo, tmp_path: Path) -> None:
    script = (
        "import socket, sys, threading\n"
        "made = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "data = b'abcdefgh' * 250_000\n"
        "def send():\n made.sendall(data)\n made.shutdown(socket.SHUT_WR)\n"
        "threading.Thread(target=send).start()\n"
        "got = b''\n"
        "while part := made.recv(65536): got += part\n"
        "print('SAME', got == data.upper())\n"
    )
    state, end, _ = run(walls, tmp_path, (f"127.0.0.1:{echo.port}",), script, str(echo.port))
    assert (state, "SAME True" in end) == (JobState.SUCCEEDED, True)


def test_the_helper_outside_ends_with_the_command(walls: Walls, echo: Echo, tmp_path: Path) -> None:
    state, _, _ = run(walls, tmp_path, (f"127.0.0.1:{echo.port}", "localhost:54321"), "print('done')")
    assert (state, until(lambda: not processes("localhost:54321"))) == (JobState.SUCCEEDED, True)


def test_the_helper_outside_ends_with_a_command_that_is_killed(walls: Walls, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    spec = JobSpec(id="long", argv=("sleep", "60"), cwd=str(tmp_path / "copy"), env=ENV, hosts=("localhost:54322",))
    executor = LocalExecutor(tmp_path / "jobs")
    executor.submit(confined(walls, spec))
    assert until(lambda: bool(processes("localhost:54322")))
    executor.cancel("long", "enough")
    state = executor.poll("long", PATIENCE).state
    executor.close()
    assert (state, until(lambda: not processes("localhost:54322"))) == (JobState.CANCELLED, True)


def test_the_proxy_of_the_person_is_used_and_not_shown(walls: Walls, tmp_path: Path) -> None:
    asked: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def proxy() -> None:
        made, _ = server.accept()
        with made:
            said = b""
            while not said.endswith(b"\r\n\r\n"):
                said += made.recv(1)
            asked.append(said)
            made.sendall(b"HTTP/1.1 200 OK\r\n\r\nthrough\n")
            while made.recv(100):
                pass

    threading.Thread(target=proxy, daemon=True).start()
    behind = replace(walls, proxy=f"http://me:pass%20word@127.0.0.1:{server.getsockname()[1]}")
    script = TRY + "import os\nprint('PROXY', 'OVERNIGHT_PROXY' in os.environ)\n"
    _, end, _ = run(behind, tmp_path, ("api.example.com:443",), script, "api.example.com:443")
    server.close()
    found = json.loads(end.partition("FOUND ")[2].splitlines()[0])
    wanted = b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\nProxy-Authorization: Basic bWU6cGFzcyB3b3Jk\r\n\r\n"
    assert (found, asked, "PROXY False" in end) == ({"api.example.com:443": "through\n"}, [wanted], True)


def test_the_persons_own_sessions_are_not_seen_from_a_home_of_ones_own(walls: Walls, tmp_path: Path) -> None:
    (walls.home / ".claude").mkdir()
    (walls.home / ".claude" / "history.jsonl").write_text("mine")
    (tmp_path / "copy").mkdir()
    seen: list[bool] = []
    for home in (str(walls.home), str(tmp_path / "copy")):
        spec = JobSpec(
            id=f"look-{len(seen)}",
            argv=("cat", str(walls.home / ".claude" / "history.jsonl")),
            cwd=str(tmp_path / "copy"),
            env={**ENV, "HOME": home},
        )
        executor = LocalExecutor(tmp_path / "jobs")
        executor.submit(confined(walls, spec))
        seen.append(executor.poll(spec.id, PATIENCE).end.strip() == "mine")
        executor.close()
    assert seen == [True, False]


@pytest.mark.parametrize(
    ("direct", "told"),
    [
        ("", False),
        ("b.com", False),
        ("a.com", True),
        (".com", True),
        ("*.a.com", True),
        ("x.org, api.a.com", True),
        ("*", True),
        ("pi.a.com", False),
    ],
)
def test_names_that_need_no_proxy_are_known(direct: str, told: bool) -> None:
    assert _is_direct("api.a.com", direct) is told


def test_each_name_has_an_address_and_numbers_keep_theirs() -> None:
    pairs = ("a.com:443", "b.com:443", "a.com:80", "localhost:1", "127.0.0.1:2", "10.1.2.3:8000")
    assert addresses(pairs) == {
        "a.com": "127.0.1.1", "b.com": "127.0.1.2", "localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1", "10.1.2.3": "10.1.2.3",
    }  # fmt: skip


def test_the_names_are_told_as_a_hosts_file() -> None:
    assert hosts(("a.com:443", "10.1.2.3:8000", "localhost:1")) == "127.0.0.1\tlocalhost\n127.0.1.1\ta.com\n"


def test_a_numeric_address_is_reached_at_itself(walls: Walls, tmp_path: Path) -> None:
    found = tried(walls, tmp_path, ("192.0.2.7:8000",), "192.0.2.7:8000", "192.0.2.7:8001")
    assert found["192.0.2.7:8001"] == "ConnectionRefusedError" != found["192.0.2.7:8000"]
