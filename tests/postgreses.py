"""A real Postgres for tests: a cluster in a folder of its own, reached over a socket alone, that can be killed, frozen and started again."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from overnight.store import address
from overnight.store.address import Address

PATIENCE = 60.0
_NOBODY = 65534  # Postgres refuses to run as root
_OLDEST = 14
_DIES_WITH_US = ("setpriv", "--pdeathsig", "QUIT") if shutil.which("setpriv") else ()


def programs() -> Path:
    """The folder of initdb and postgres: of the package pgserver, or of the system. Skips the test where there is none."""
    spec = importlib.util.find_spec("pgserver")
    bundled = [Path(place) / "pginstall" / "bin" for place in (spec.submodule_search_locations or ())] if spec else []
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    for found in [*bundled, *(path for path in system if float(path.parent.name) >= _OLDEST)]:
        if (found / "postgres").exists() and (found / "initdb").exists():
            return found
    pytest.skip("there is no Postgres: pip install pgserver, or apt install postgresql")


class Server:
    """A cluster below ``root``. ``safe``: what is committed survives a power cut too, which tests of kills do not need."""

    def __init__(self, root: Path, *, safe: bool = False) -> None:
        self.root, self._who = root, _NOBODY if os.geteuid() == 0 else None
        self._bin = _reachable(programs(), root) if self._who else programs()
        self._process: subprocess.Popen[bytes] | None = None
        for folder in (root, root / "run"):
            folder.mkdir(exist_ok=True)
            if self._who:
                os.chown(folder, self._who, self._who)
        self._call(
            "initdb",
            "--pgdata",
            str(root / "data"),
            "--username",
            "hub",
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            "--no-locale",
            "--no-sync",
        )
        lines = [
            "listen_addresses = ''",
            f"unix_socket_directories = '{root / 'run'}'",
            "max_connections = 100",
            "restart_after_crash = on",
        ]
        lines += [] if safe else ["fsync = off", "full_page_writes = off"]
        with (root / "data" / "postgresql.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")
        self.start()

    def url(self, database: str = "postgres", user: str = "hub") -> str:
        return f"postgres:///{database}?host={self.root / 'run'}&user={user}"

    def fresh(self) -> Address:
        """The address of its one database, empty again: quicker than a new one. The tables stay."""
        with contextlib.suppress(psycopg.errors.UndefinedTable):
            self.say(
                "SET search_path TO overnight; DELETE FROM job; DELETE FROM need; DELETE FROM attempt; DELETE FROM chunk; DELETE FROM worker;"
                " DELETE FROM event; DELETE FROM meta WHERE name != 'schema'"
            )
        return address.read(self.url())

    def another(self) -> Address:
        """The address of a new, empty database."""
        name = f"t{secrets.token_hex(6)}"
        self.say(f"CREATE DATABASE {name}")
        return address.read(self.url(name))

    def say(self, sql: str, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as db:
            db.execute(sql.encode())

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_DIES_WITH_US, self._bin / "postgres", "-D", self.root / "data"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                user=self._who, group=self._who, extra_groups=[] if self._who else None, cwd="/",
            )  # fmt: skip
        until = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(self.url()).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.root / "log").read_text()
                assert time.monotonic() < until
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """End all of it as a power cut would; whoever talks to it is not told."""
        self._tell(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(PATIENCE)
        until = time.monotonic() + PATIENCE
        while any(Path(f"/proc/{pid}").exists() for pid in self._others()) and time.monotonic() < until:
            time.sleep(0.01)

    def freeze(self) -> None:
        self._tell(signal.SIGSTOP)

    def thaw(self) -> None:
        self._tell(signal.SIGCONT)

    def _tell(self, number: int) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def pids(self) -> list[int]:
        """The server's processes, its first one first."""
        return [self._process.pid, *self._others()] if self._process is not None else []

    def _others(self) -> list[int]:
        """Processes that write to this cluster beside the first: of it, or left over when it was killed."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (place / "cwd").resolve() == self.root / "data" and (self._process is None or int(place.name) != self._process.pid):
                    found.append(int(place.name))
        return found

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self._process.send_signal(signal.SIGQUIT)  # nothing of it is needed any more
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()

    def _call(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [self._bin / program, *words], user=self._who, group=self._who, extra_groups=[] if self._who else None, cwd="/",
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done


def _reachable(found: Path, root: Path) -> Path:
    """The programs where an ordinary user can run them: a copy, if they lie in a home of root."""
    done = (
        subprocess.run(
            [found / "postgres", "--version"], user=_NOBODY, group=_NOBODY, extra_groups=[], cwd="/", capture_output=True, check=False
        )
        if _may(found)
        else None
    )
    if done is not None and done.returncode == 0:
        return found
    copy = root / "programs"
    if not copy.exists():
        shutil.copytree(found.parent.parent, copy, symlinks=True)
        for libraries in found.parents[2].glob("pgserver.libs"):
            shutil.copytree(libraries, root / libraries.name)
    return copy / found.parent.name / found.name


def _may(found: Path) -> bool:
    try:
        subprocess.run(["/bin/true"], user=_NOBODY, cwd=found, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


@contextlib.contextmanager
def server(*, safe: bool = False) -> Iterator[Server]:
    """A Postgres that runs, in a place with a name that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="postgres-", dir="/tmp") as place:
        os.chmod(place, 0o755)  # noqa: S103 - the user as whom Postgres runs must get there
        found = Server(Path(place) / "pg", safe=safe)
        try:
            yield found
        finally:
            found.stop()


@pytest.fixture(scope="module")
def mortal() -> Iterator[Server]:
    """A Postgres that tests may kill, as long as they start it again."""
    with server() as found:
        yield found


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """The Postgres of this session's tests, which nobody kills."""
    if sys.platform != "linux":
        pytest.skip("the tests' Postgres is for Linux")
    with server() as found:
        yield found
