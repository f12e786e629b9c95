"""Real clusters for the tests, each with one node, this machine, and four GPUs that are none.

Slurm is munge, controller and node without systemd or a database, from the packages of the system. Ray comes from a virtual environment that
$OVERNIGHT_TEST_RAY names (``make test-ray`` makes one): it takes a minute and 400 MB.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports import free_port
from studies import bearers

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
_SBIN = "/usr/sbin:/sbin"
_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
CONF = """\
ClusterName=overnight
SlurmctldHost={host}
SlurmctldPort={port}
SlurmdPort={other}
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
GresTypes=gpu
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
EnforcePartLimits=ALL
KillWait=30
MessageTimeout=3
SlurmctldTimeout=5
CompleteWait=0
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=100000 Gres=gpu:4 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=600 PriorityTier=1 State=UP
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 State=UP
"""
GRES = "".join(f"Name=gpu File=/dev/{name}\n" for name in ("full", "null", "random", "zero"))


class Slurm:
    """The cluster; ``SLURM_CONF`` in the environment names it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._host = socket.gethostname().partition(".")[0]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("state", "spool"):
            (place / name).mkdir()
        user = pwd.getpwuid(os.getuid()).pw_name
        ports = free_port(), free_port()
        (place / "slurm.conf").write_text(CONF.format(place=place, host=self._host, user=user, port=ports[0], other=ports[1]))
        (place / "gres.conf").write_text(GRES)
        key = place / "munge.key"
        key.write_bytes(secrets.token_bytes(256))
        key.chmod(0o400)
        place.chmod(0o755)  # munge wants to be reached by all, and nothing of its own writable by others

    def start(self) -> None:
        """Start what does not run, and wait for the node."""
        place = str(self.place)
        named = {
            name: f"--{name}={place}/munge.{end}"
            for name, end in (("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"))
        }
        self._launch("munged", "--foreground", "--force", *named.values())
        self._wait((self.place / "munge.socket").exists)
        self._launch("slurmctld", "-D")
        self._launch("slurmd", "-D")
        self._wait(self._is_up)

    def _is_up(self) -> bool:
        said = self.says("sinfo", "-h", "-p", "low", "-o", "%T").split()[:1]
        if said and said[0].startswith(("drain", "down")):  # a controller that was killed mistrusts a node whose jobs it does not know
            self.says("scontrol", "update", f"nodename={self._host}", "state=resume")
        return said in (["idle"], ["mixed"], ["allocated"])

    def _launch(self, program: str, *words: str) -> None:
        if program in self._processes and self._processes[program].poll() is None:
            return
        with (self.place / f"{program}.out").open("ab") as out:
            path = shutil.which(program, path=f"{os.environ['PATH']}:{_SBIN}") or program
            self._processes[program] = subprocess.Popen(
                [*_DIES_WITH_US, path, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd=self.place
            )

    def _wait(self, what: object, seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        while not what():  # type: ignore[operator] # a function
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} has ended: {(self.place / f'{name}.out').read_text()[-500:]}")
            if time.monotonic() > until:
                raise RuntimeError("the cluster does not come up")
            time.sleep(0.02)

    def says(self, *words: str) -> str:
        """What a command prints, whatever its exit code."""
        env = {**os.environ, "SLURM_CONF": f"{self.place}/slurm.conf"}
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def put_back(self, job: str) -> None:
        """Have a job that runs put back into the queue, as soon as the controller will: it refuses while a state is about to change."""
        self._wait(lambda: not self.says("scontrol", "requeue", job))

    def empty(self) -> None:
        """End all jobs, and wait for it: the next test finds the node as the first did."""
        self.says("scancel", "--me")
        self._wait(lambda: not self.says("squeue", "-h", "--me"))

    def end(self, program: str, number: signal.Signals) -> None:
        """End one of the daemons by a signal and wait for it."""
        self._processes[program].send_signal(number)
        self._processes[program].wait()

    def close(self) -> None:
        """End all jobs and daemons, and whatever they have started."""
        with contextlib.suppress(OSError, RuntimeError):
            if all(process.poll() is None for process in self._processes.values()):
                self.empty()
        for name in ("slurmctld", "slurmd", "munged"):
            process = self._processes.get(name)
            if process is not None and process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10.0)
                process.kill()
                process.wait()
        while left := bearers(str(self.place)):  # a step outlives its node
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def missing() -> str:
    """Why there can be no cluster; empty if there can."""
    path = f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return f"no {absent[0]} here: apt-get install slurm-wlm munge" if absent else ""


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A cluster of this test process's own. Skips where Slurm is not installed."""
    if why := missing():
        pytest.skip(why)
    place = tmp_path_factory.mktemp("slurm")
    for folder in (place, *place.parents):  # munge refuses a way that others may write to or cannot pass
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o111)
    cluster = Slurm(place)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(place / "slurm.conf")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


class Ray:
    """The cluster; ``RAY_API_SERVER_ADDRESS`` in the environment names its job service."""

    def __init__(self, programs: Path, place: Path) -> None:
        ports = free_port(), free_port()
        self.address = f"http://127.0.0.1:{ports[1]}"
        self._program = str(programs / "bin" / "ray")
        self._words = (
            "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={ports[0]}", f"--dashboard-port={ports[1]}", "--num-cpus=8", "--num-gpus=4",
            "--object-store-memory=80000000", f"--temp-dir={place}", "--disable-usage-stats", "--include-dashboard=true",
        )  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._place = place

    def start(self) -> None:
        """Start it, and wait until it takes jobs."""
        with (self._place / "ray.out").open("ab") as out:
            self._process = subprocess.Popen(
                [*_DIES_WITH_US, self._program, *self._words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        until = time.monotonic() + 90
        while True:
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{self.address}/api/jobs/", timeout=5).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"ray does not come up: {(self._place / 'ray.out').read_text()[-500:]}") from None
                time.sleep(0.1)
            else:
                return

    def close(self) -> None:
        """End it with all that it has started."""
        assert self._process is not None
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="session")
def ray() -> Iterator[Ray]:
    """A cluster of this test process's own. Skips where there is no Ray for it."""
    if not (named := os.environ.get("OVERNIGHT_TEST_RAY")):
        pytest.skip("make test-ray installs Ray and runs this")
    before = os.environ.get("RAY_API_SERVER_ADDRESS")
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as place:
        cluster = Ray(Path(named), Path(place))
        cluster.start()
        os.environ["RAY_API_SERVER_ADDRESS"] = cluster.address
        try:
            yield cluster
        finally:
            cluster.close()
            del os.environ["RAY_API_SERVER_ADDRESS"]
            if before is not None:
                os.environ["RAY_API_SERVER_ADDRESS"] = before
