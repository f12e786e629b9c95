"""The verb ``relay`` as a person types it: what it prints, how it ends, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import warm
from commands import SOURCE
from ports import free_port
from relays import until


class Shell:
    """The command, with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": SOURCE}
        self.folder = home / ".local" / "state" / "overnight" / "relay"

    def __call__(self, *words: str, code: int = 0, **env: str) -> str:
        done = warm.run(words, self.home, {**self.env, **env}, 120)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stderr or done.stdout


@pytest.fixture
def overnight(tmp_path: Path) -> Iterator[Shell]:
    found = Shell(tmp_path)
    yield found
    warm.run(("relay", "stop"), tmp_path, found.env, 120)


def _made(overnight: Shell) -> Shell:
    overnight("relay", "init", "--host", "localhost", "--port", str(free_port()))
    return overnight


def test_a_relay_lives_from_init_to_stop(overnight: Shell) -> None:
    _made(overnight)("relay", "start", "--background")
    line = json.loads(overnight("relay", "invite", "worker", "gpu-1", "--json"))
    joined = overnight(*line["command"].split()[1:])
    up = json.loads(overnight("relay", "status", "--json"))
    cut = overnight("relay", "revoke", "gpu-1")
    stopped = overnight("relay", "stop")
    down = json.loads(overnight("relay", "status", "--json", code=7) or "{}")
    assert ("as worker gpu-1" in joined, up["up"], [row["name"] for row in up["members"]], set(up["streams"])) == (
        True,
        True,
        ["gpu-1"],
        {"EVT", "LOG", "OBJ"},
    )
    assert (cut, "has ended" in stopped, down["up"], down["members"][0]["revoked"] is not None) == ("gpu-1 is cut off\n", True, False, True)


def test_only_the_owner_can_look_into_the_relays_folder(overnight: Shell) -> None:
    _made(overnight)
    loose = [
        path for path in [overnight.folder, *overnight.folder.rglob("*")] if path.stat().st_mode & 0o077 and path.name != "roster.lock"
    ]
    assert loose == []


def test_an_orderly_end_is_no_failure(overnight: Shell) -> None:
    _made(overnight)
    with subprocess.Popen(
        [sys.executable, "-m", "overnight", "relay", "start"], env=overnight.env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "the relay is up" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
    assert (process.returncode, rest.splitlines()[-1]) == (0, "the relay has ended")


def test_a_relay_whose_keeper_was_killed_starts_again(overnight: Shell) -> None:
    _made(overnight)
    for _ in range(2):
        overnight("relay", "start", "--background")
        os.kill(json.loads((overnight.folder / "lock").read_text())["pid"], signal.SIGKILL)
    assert "is up" in overnight("relay", "start", "--background")


def test_no_server_outlives_its_keeper(overnight: Shell) -> None:
    _made(overnight)("relay", "start", "--background")
    server = int((overnight.folder / "server.pid").read_text())
    os.kill(json.loads((overnight.folder / "lock").read_text())["pid"], signal.SIGKILL)
    assert until(lambda: not Path(f"/proc/{server}").exists() or "Z" in Path(f"/proc/{server}/stat").read_text().split()[2])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("relay", "status"), 3, "E-NO-RELAY"),
        (("relay", "start"), 3, "E-NO-RELAY"),
        (("relay", "stop"), 3, "E-NO-RELAY"),
        (("relay", "invite", "worker", "x"), 3, "E-NO-RELAY"),
        (("relay", "revoke", "x"), 3, "E-NO-RELAY"),
        (("hub", "start"), 3, "E-NO-RELAY"),
        (("relay", "init", "--host", "https://x"), 2, "E-HOST"),
        (("relay", "init", "--host", "a b"), 2, "E-HOST"),
        (("relay", "init", "--port", "0"), 2, "E-USAGE"),
        (("relay", "init", "--cert", "c.pem"), 2, "--cert and --key go together"),
        (("relay", "init", "--cert", "/nowhere", "--key", "/nowhere"), 2, "E-CERTIFICATE"),
        (("relay", "init", "--relay", "/proc/relay"), 1, "E-RELAY-FOLDER"),
        (("relay", "invite", "boss", "x"), 2, "E-USAGE"),
        (("join", "nonsense"), 2, "E-JOIN-LINE"),
        (("worker", "join", "localhost:1/abc"), 2, "E-JOIN-LINE"),
        (("worker", "forbid", "x"), 2, "E-NOT-ALLOWED"),
        (("worker", "allow", "A B"), 2, "E-NAME"),
        (("worker", "install", "--print", "cron"), 2, "E-USAGE"),
        (("relay", "install", "--print", "slurm"), 2, "E-USAGE"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_error_with_its_exit_code(overnight: Shell, words: tuple[str, ...], code: int, said: str) -> None:
    found = overnight(*words, code=code)
    assert (said in found, "fix:" in found) == (True, True)


def test_a_relay_is_not_made_twice(overnight: Shell) -> None:
    assert "E-RELAY-EXISTS" in _made(overnight)("relay", "init", "--host", "other", code=2)


def test_a_relay_does_not_run_twice(overnight: Shell) -> None:
    _made(overnight)("relay", "start", "--background")
    assert "E-RUNNING" in overnight("relay", "start", code=1)


def test_a_port_that_is_taken_is_named(overnight: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        overnight("relay", "init", "--host", "localhost", "--port", str(port))
        assert f"port {port} is taken" in overnight("relay", "start", code=2)


def test_a_server_that_does_not_exist_is_said(overnight: Shell) -> None:
    assert "E-NATS-SERVER" in _made(overnight)("relay", "start", code=2, OVERNIGHT_NATS_SERVER="/nowhere/nats-server")


def test_a_server_that_is_too_old_is_said(overnight: Shell, tmp_path: Path) -> None:
    old = tmp_path / "old-server"
    old.write_text("#!/bin/sh\necho nats-server: v2.9.10\n")
    old.chmod(0o755)
    assert "v2.9.10; 2.11 or newer is needed" in _made(overnight)("relay", "start", code=2, OVERNIGHT_NATS_SERVER=str(old))


def test_who_is_not_there_cannot_be_cut_off(overnight: Shell) -> None:
    _made(overnight)("relay", "invite", "worker", "gpu-1")
    assert "did you mean 'gpu-1'" in overnight("relay", "revoke", "gpu-2", code=3)


def test_cutting_off_while_the_relay_is_down_holds_when_it_comes_up(overnight: Shell) -> None:
    _made(overnight)("relay", "invite", "worker", "gpu-1")
    assert "will not let it in" in overnight("relay", "revoke", "gpu-1")


@pytest.mark.parametrize("words", [("relay", "init"), ("relay", "status"), ("join", "localhost:1/x"), ("worker", "join", "x")])
def test_without_the_extra_it_says_how_to_install_it(overnight: Shell, tmp_path: Path, words: tuple[str, ...]) -> None:
    for name in ("nats", "nkeys", "nacl", "aiohttp", "cryptography"):
        (tmp_path / "no" / name).mkdir(parents=True)
        (tmp_path / "no" / name / "__init__.py").write_text(f"raise ModuleNotFoundError('no', name='{name}')")
    found = overnight(*words, code=2, PYTHONPATH=f"{tmp_path / 'no'}:{SOURCE}")
    assert ("E-EXTRA" in found, "pip install 'overnight[hub]'" in found) == (True, True)


@pytest.mark.parametrize("kind", ["systemd", "slurm", "skypilot", "dstack", "docker"])
def test_a_recipe_starts_a_worker(overnight: Shell, kind: str) -> None:
    text = overnight("worker", "install", "--print", kind)
    assert ("worker start" in text, "{overnight}" in text) == (True, False)
