"""Attacks on the walls: small programs that run as a training would, and the field on which they are let loose.

Each program is Python without a site folder, started in the run's folder; ``T`` tells it what there is to be attacked, and what it
manages to do it appends to ``won``. Usage: ``attacks.py [landlock]`` plays all of them as whoever it is run by, and prints JSON: name -> what was won.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overnight import sandbox
from overnight.environment import for_run
from overnight.executors.local import LocalExecutor
from overnight.models import JobSpec, JobStatus

PATIENCE = 60.0
SECRET = "sk-planted-4711"  # noqa: S105 - planted, to be looked for

_FRAME = """
import contextlib, ctypes, errno, json, os, signal, socket, subprocess, sys, time
T = json.loads(os.environ["TARGETS"])
libc = ctypes.CDLL(None, use_errno=True)
won = []
def can(what, deed):
    try:
        found = deed()
    except (OSError, ValueError, AssertionError):
        return
    if found is not False:
        won.append(what)
def call(number, *words):
    ctypes.set_errno(0)
    return libc.syscall(number, *words), ctypes.get_errno()
NUMBERS = 0 if os.uname().machine == "x86_64" else 1
{body}
print("WON " + json.dumps(won), flush=True)
"""

ATTACKS: Mapping[str, str] = {
    "write what is not ours": """
for folder in ("/etc", "/usr", "/usr/local", "/opt", "/", "/dev", "/sys", "/var"):
    can(folder, lambda: open(os.path.join(folder, "planted"), "w").close())
for folder in T["folders"]:  # they are missed by whoever looks from outside, or not there
    can(folder, lambda: open(os.path.join(folder, "planted"), "w").close() or False)
""",
    "change the repository": """
for path in T["files"]:
    can("write", lambda: (open(path, "a").write("changed"), False)[1])
    can("remove", lambda: (os.unlink(path), False)[1])
    can("replace", lambda: (os.rename("mine", path), False)[1])
""",
    "read secrets": """
for path in (*T["files"], *T["secrets"], "/etc/shadow", os.path.expanduser("~/.ssh/id_ed25519")):
    can(path, lambda: len(open(path, "rb").read()) > 0)
""",
    "find a secret in an environment": """
for pid in filter(str.isdigit, os.listdir("/proc")):
    can(pid, lambda: T["terces"][::-1].encode() in open(f"/proc/{pid}/environ", "rb").read())
can("own", lambda: T["terces"][::-1] in str(os.environ))
""",
    "list the home folder": """
for name in T["home"]:
    can(name, lambda: os.lstat(os.path.join(os.path.expanduser("~"), name)))
""",
    "reach sockets of the machine": """
def reach(family, address):
    with socket.socket(family) as client:
        client.settimeout(2)
        client.connect(address)
can("tcp", lambda: reach(socket.AF_INET, ("127.0.0.1", T["tcp"])))
can("abstract", lambda: reach(socket.AF_UNIX, "\\0" + T["abstract"]))
can("path", lambda: reach(socket.AF_UNIX, T["path"]))
can("out", lambda: reach(socket.AF_INET, ("192.0.2.1", 80)))
with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.sendto(b"datagram", ("127.0.0.1", T["udp"]))
""",
    "reach processes of the machine": """
for pid in (T["pid"], os.getppid() if os.getppid() > 1 else T["pid"]):
    can(f"kill {pid}", lambda: os.kill(pid, 0))
    can(f"proc {pid}", lambda: T["name"].encode() in open(f"/proc/{pid}/cmdline", "rb").read())
others = [pid for pid in filter(str.isdigit, os.listdir("/proc")) if int(pid) > 50]
if others:
    won.append(f"sees {others}")
""",
    "reach whoever built the walls": """
can("memory", lambda: os.close(os.open("/proc/1/mem", os.O_RDWR)) if os.getuid() != os.stat("/proc/1").st_uid else False)
can("root", lambda: T["folders"][0] in os.listdir("/proc/1/root" + os.path.dirname(T["folders"][0])))
can("descriptors", lambda: any(T["state"] in os.readlink(f"/proc/1/fd/{fd}") for fd in os.listdir("/proc/1/fd")))
own = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
if any(T["state"] in path for path in own):
    won.append(own)
""",
    "gain rights": """
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
    can(name, lambda: int(status[name], 16) != 0)
can("set-user-id", lambda: status["NoNewPrivs"].strip() != "1")
can("root", lambda: os.setuid(0) if os.getuid() else os.setgroups([0]))
can("groups", lambda: 0 in os.getgroups() and os.getuid() != 0)
can("chown", lambda: (open("x", "w").close(), os.chown("x", 1, 1)))
can("nice", lambda: os.nice(-5))
""",
    "forbidden system calls": """
page = ctypes.create_string_buffer(4096)
calls = {  # number on x86_64 and aarch64, arguments
    "ptrace": (101, 117, 0), "process_vm_readv": (310, 270, os.getpid(), page, 0, page, 0, 0), "mount": (165, 40, b"x", b"/tmp", b"tmpfs", 0, 0),
    "umount2": (166, 39, b"/tmp", 0), "pivot_root": (155, 41, b".", b"."), "chroot": (161, 51, b"."), "unshare user": (272, 97, 0x10000000),
    "unshare mount": (272, 97, 0x20000), "unshare time": (272, 97, 0x80), "clone user": (56, 220, 0x10000011, 0, 0, 0, 0), "setns": (308, 268, 0, 0),
    "clone3": (435, 435, page, 88), "io_uring_setup": (425, 425, 8, page), "bpf": (321, 280, 0, page, 64), "keyctl": (250, 219, 0, -3, 0),
    "add_key": (248, 217, b"user", b"x", b"x", 1, -3), "perf_event_open": (298, 241, page, 0, -1, -1, 0), "userfaultfd": (323, 282, 1),
    "clock_settime": (227, 112, 0, page), "settimeofday": (164, 170, 0, 0), "adjtimex": (159, 171, page), "kexec_load": (246, 104, 0, 0, 0, 0),
    "init_module": (175, 105, 0, 0, b""), "sethostname": (170, 161, b"x", 1), "open_by_handle_at": (304, 265, -1, page, 0),
    "fsopen": (430, 430, b"tmpfs", 0), "open_tree": (428, 428, -100, b"/", 1), "move_mount": (429, 429, -1, b"", -1, b"", 0),
    "mount_setattr": (442, 442, -1, b"", 0, page, 0), "swapon": (167, 224, b"x", 0), "reboot": (169, 142, 0, 0, 0, 0), "acct": (163, 89, 0),
    "syslog": (103, 116, 3, page, 100), "quotactl": (179, 60, 0, 0, 0, 0), "kcmp": (312, 272, 1, 1, 0, 0, 0),
    "fanotify_init": (300, 262, 0, 0), "not yet known": (600, 600),
}
for name, (*numbers, first) in ((name, (*words[:2], words[2:])) for name, words in calls.items()):
    result, code = call(numbers[NUMBERS], *first)
    if result == 0 and name == "clone user":
        os._exit(0)
    if result >= 0 or code not in (errno.EPERM, errno.ENOSYS):
        won.append([name, result, errno.errorcode.get(code)])
""",
    "x32 and other families": """
if NUMBERS == 0 and call(0x40000000 + 39)[1] != errno.ENOSYS:
    won.append("x32")
for family, kind, protocol in ((17, 3, 0), (38, 5, 0), (40, 1, 0), (16, 3, 9), (16, 3, 12), (15, 3, 2), (31, 3, 1), (29, 3, 1)):
    can(f"family {family}/{protocol}", lambda: socket.socket(family, kind, protocol).close())
""",
    "type into a terminal": """
import fcntl, pty
main, terminal = pty.openpty()
for request in (0x5412, 0x5412 | 1 << 32, 0x541C):
    ctypes.set_errno(0)
    if libc.ioctl(terminal, ctypes.c_ulong(request), ctypes.byref(ctypes.c_char(b"x"))) == 0 or ctypes.get_errno() != errno.EPERM:
        won.append(hex(request))
""",
    "turn the knobs of the kernel": """
for path in ("/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger", "/proc/irq/0/smp_affinity",
             "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/power/state", "/sys/fs/cgroup/cgroup.procs", "/proc/kcore", "/proc/kmsg"):
    can(path, lambda: os.close(os.open(path, os.O_WRONLY)))
can("own oom score", lambda: os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"-1000"))
""",
    "use devices": """
import stat
for number in ((1, 1), (1, 2), (8, 0), (254, 0), (10, 200)):
    can(f"mknod {number}", lambda: os.mknod(f"node{number[0]}.{number[1]}", 0o666 | stat.S_IFBLK, os.makedev(*number)))
for name in os.listdir("/dev"):
    if name not in ("console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"):
        won.append(name)
""",
    "walk out through links": """
for target in (*T["folders"], *T["files"]):
    os.symlink(target, "link")
    can("read " + target, lambda: open("link").read() != "")
    can("list " + target, lambda: any(name in os.listdir("link") for name in ("train.py", "config", "overnight.db", "other.1", "walls")))
    os.unlink("link")
can("up", lambda: T["marker"] in os.listdir(".."))
can("hard link", lambda: os.link(T["files"][0], "hard"))
""",
}

BOMB = """
import threading
born = 0
try:
    for _ in range(200):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        born += 1
    time.sleep(10)  # for whoever counts them
except BlockingIOError:
    won.append(0 < born < 40)
"""


@dataclass(frozen=True)
class Field:
    """What there is to be attacked, and how a program is let loose on it."""

    root: Path
    targets: Mapping[str, Any]
    walls: sandbox.Walls
    executor: LocalExecutor
    datagrams: socket.socket

    def spec(self, name: str, body: str, **more: Any) -> JobSpec:
        """A run of the program, in a folder of its own, not yet confined."""
        folder = self.root / "repo" / ".overnight" / "runs" / name
        folder.mkdir(parents=True)
        (folder / "mine").touch()
        env = for_run({**os.environ, "HOME": str(self.walls.home)}) | {"TARGETS": json.dumps(self.targets)}
        argv = (sys.executable, "-I", "-S", "-c", _FRAME.replace("{body}", body))
        return JobSpec(**{"id": name, "argv": argv, "cwd": str(folder), "env": env, "time_limit": 50.0, **more})

    def run(self, spec: JobSpec) -> JobStatus:
        """How a job ended that was run behind the walls."""
        self.executor.submit(sandbox.confined(self.walls, spec))
        return self.executor.poll(spec.id, PATIENCE)

    def attack(self, name: str) -> str:
        """What an attack has won, as JSON; all that it printed if it did not come to its end."""
        said = self.run(self.spec(name.replace(" ", "-"), ATTACKS[name])).end
        return said.removeprefix("WON ").strip() + "".join(self.damage())

    def damage(self) -> Iterator[str]:
        """What is not as it was, seen from outside."""
        for path in map(Path, (*self.targets["files"], *self.targets["secrets"])):
            if not path.exists() or path.read_text(encoding="ascii") != SECRET:
                yield f" changed: {path}"
        yield from (f" new: {folder}/planted" for folder in self.targets["folders"] if Path(folder, "planted").exists())
        with contextlib.suppress(BlockingIOError):
            yield f" sent: {self.datagrams.recv(100)!r}"


@contextlib.contextmanager
def field(root: Path, **more: Any) -> Iterator[Field]:
    """A repository with state, a home with keys, and sockets that listen, all below ``root``."""
    repo, home = root / "repo", root / "home"
    files = [repo / "train.py", repo / ".git" / "config", repo / ".overnight" / "overnight.db", repo / "holdout.csv"]
    secrets = [home / ".ssh" / "id_ed25519", home / ".netrc", home / ".aws" / "credentials", home / ".bash_history", home / "notes.txt"]
    for path in (*files, *secrets):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SECRET, encoding="ascii")
    (repo / ".overnight" / "runs").mkdir()
    (repo / ".overnight" / "runs" / "other.1").mkdir()
    inside = sandbox.interpreters(dict(os.environ), (sys.executable,), repo)
    walls = sandbox.Walls(
        **{"keep": repo / ".overnight" / "walls", "readable": tuple(inside), "hidden": (repo,), "home": home, "environ": os.environ, **more}
    )
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        place = tempfile.mkdtemp(prefix="s")  # the path of a socket must be short
        stack.callback(shutil.rmtree, place)
        name = f"overnight-attacks-{os.getpid()}-{time.monotonic_ns()}"
        for address in (f"{place}/s", f"\0{name}"):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(address)
            listener.listen()
        targets = {
            "folders": [str(repo), str(repo / ".git"), str(repo / ".overnight"), str(repo / ".overnight" / "runs" / "other.1"), str(root)],
            "files": [str(path) for path in files], "secrets": [str(path) for path in secrets], "terces": SECRET[::-1],
            "home": [".ssh", ".netrc", ".aws", ".bash_history", "notes.txt"], "tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1],
            "abstract": name, "path": f"{place}/s", "pid": os.getpid(), "name": sys.argv[0], "state": str(repo / ".overnight" / "jobs"),
            "marker": "other.1",
        }  # fmt: skip
        executor = stack.enter_context(LocalExecutor(repo / ".overnight" / "jobs"))
        yield Field(root, targets, walls, executor, udp)


def until(found: Callable[[], bool]) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + PATIENCE
    while not (true := found()) and time.monotonic() < end:
        time.sleep(0.005)
    return true


def processes(mark: str) -> list[str]:
    """The command lines in which a mark appears."""
    lines = subprocess.run(["ps", "-eo", "stat=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if mark in line and not line.startswith("Z")]


def main() -> None:
    """Play everything and print what was won."""
    os.environ["OPENAI_API_KEY"] = SECRET
    by = sandbox.By(sys.argv[1]) if sys.argv[1:] else sandbox.By.BUBBLEWRAP
    with tempfile.TemporaryDirectory() as folder, field(Path(folder), by=by) as ground:
        Path(folder).chmod(0o755)  # it is the walls that are tried, not this
        found = {name: ground.attack(name) for name in ATTACKS}
        bomb = ground.run(ground.spec("bomb", BOMB, process_limit=40))
        found["fork bomb"] = bomb.cause if bomb.cause.startswith("process limit") else bomb.end
        print(json.dumps({"self-check": sandbox.check(ground.walls), **found}))


if __name__ == "__main__":
    main()
