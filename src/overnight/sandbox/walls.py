"""The walls around one command: what it may see, write and reach, and the command line that makes it so.

A run sees a root put together from what it needs; an agent sees the machine, read-only and without secrets. Neither gets a
capability, a host process, or a system call from the deny-list. As root, the command becomes a user of its own in the last step: until
then the walls are built with root's rights, so that interpreters below /root can be shown.
Must not know what the command does, nor who starts it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from overnight.errors import JobError, UsageError
from overnight.models import FIRST_FILE, JobSpec
from overnight.sandbox import bubblewrap, gate, home, landlock, passage, seccomp
from overnight.sandbox.devices import gpu_devices
from overnight.sandbox.mounts import Kind, Layout

FIRST_UID, _UIDS = 60000, 200  # Debian's policy leaves 60000-64999 to whoever allocates them dynamically
_ETC = (
    "alternatives", "crypto-policies", "fonts", "group", "host.conf", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime",
    "nsswitch.conf", "nvidia", "OpenCL", "os-release", "passwd", "pki", "protocols", "services", "ssl", "vulkan",
)  # fmt: skip
_ROOTS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix", "/sys")
# What the owner may write although it has no capability left: the kernel's own settings.
_KNOBS = tuple(f"/proc/{name}" for name in ("sys", "sysrq-trigger", "irq", "bus", "acpi", "fs", "scsi", "mtrr", "driver"))
_TMP, _VAR_TMP, _SHM = Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")  # noqa: S108 - fresh in a run, shared on purpose with an agent
_GUARDED = tuple(map(Path, ("/run", "/etc/shadow", "/etc/gshadow", "/etc/ssh", "/etc/sudoers", "/etc/sudoers.d", "/etc/ssl/private")))
_OWN_TMP = ".tmp"  # in a run's folder, where /tmp cannot be a fresh one
_OPEN_FILES = 65536
_ROOT_NEEDS = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")  # until the command has its own user
_NO_NETWORK = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "UV_OFFLINE": "1", "WANDB_MODE": "offline"}
# What stands in for prlimit and setpriv where they are missing: limits, then user, then command.
_BARE = (
    "import ctypes,os,resource,sys\n"
    "a=sys.argv\n"
    "for p in a[1].split():\n n,s,h=p.split(':');resource.setrlimit(int(n),(int(s),int(h)))\n"
    "u=int(a[2]);g=[int(i) for i in a[3].split(',') if i]\n"
    "if u:\n"
    " c=ctypes.CDLL(None);[c.prctl(24,i,0,0,0) for i in range(64)]\n"  # PR_CAPBSET_DROP
    " os.setgroups(g);os.setresgid(u,u,u);os.setresuid(u,u,u)\n"
    " c.capset((ctypes.c_uint*2)(0x20080522,0),(ctypes.c_uint*6)())\n"
    "os.execvp(a[4],a[4:])\n"
)


class Inside(StrEnum):
    """Who is inside: it decides what the root looks like."""

    RUN = "run"  # nothing but what was declared
    AGENT = "agent"  # the machine for reading, without secrets; its own folders, /tmp and its session for writing


class By(StrEnum):
    """What the walls are made of."""

    BUBBLEWRAP = "bubblewrap"  # namespaces: what is not shown is not there
    LANDLOCK = "landlock"  # weaker: what is not allowed is refused; where no namespaces can be made


@dataclass(frozen=True, slots=True)
class Limits:
    """What the command may use up at most: bytes and counts; 0 = no limit of ours."""

    memory: int = 0  # address space, and only where no GPU is in use: CUDA reserves more than there is
    disk: int = 0  # of one file, and of what it keeps in memory under /tmp
    processes: int = 0  # and threads


@dataclass(frozen=True, slots=True)
class Walls:
    """What a command may see. ``folder`` is its own, writable under its own path; all paths are absolute."""

    keep: Path  # where files that the walls are made of are kept: made if need be, never visible inside
    folder: Path = Path("/nonexistent")
    inside: Inside = Inside.RUN
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()  # declared caches: made if need be and, as root, given to the user that all who write them become
    hidden: tuple[Path, ...] = ()  # covered where they would be visible, unless declared above or the folder itself
    devices: tuple[Path, ...] = ()
    network: bool = False
    hosts: tuple[str, ...] = ()  # with a network: all that can be reached of it, each "name:port"; none = everything
    proxy: str = ""  # the address through which ``hosts`` are reached; empty = without any
    home: Path = Path("/nonexistent")
    uid: int = 0  # that the command becomes if we are root; 0 = it stays who we are
    environ: Mapping[str, str] = field(default_factory=dict)  # of the command: says where tokens lie
    limits: Limits = Limits()
    by: By = By.BUBBLEWRAP


@dataclass(frozen=True, slots=True)
class Wrap:
    """What a job needs to stand inside the walls: ``wrap``, ``files`` and ``keepers`` of its spec, and what to add to its ``env``."""

    argv: tuple[str, ...]
    files: tuple[str, ...]
    env: Mapping[str, str]
    keepers: int


def confined(walls: Walls, spec: JobSpec) -> JobSpec:
    """The job inside these walls, with its own folder (``cwd``), paths, GPUs and limits; as root, its folder is made its user's.

    Raises ``JobError`` if the walls cannot be built or the folder cannot be handed over.
    """
    own = replace(
        walls,
        folder=Path(spec.cwd),
        readable=(*walls.readable, *map(Path, spec.readable)),
        writable=(*walls.writable, *map(Path, spec.writable)),
        devices=(*walls.devices, *gpu_devices(spec.gpus)),
        # What a cache holds must belong to all who write it.
        uid=(min(uid_for(spec.id), FIRST_UID) if walls.writable else uid_for(spec.id)) if walls.inside is Inside.RUN else 0,
        environ=spec.env,
        hosts=spec.hosts if walls.network and walls.by is By.BUBBLEWRAP else (),
        limits=Limits(spec.memory_limit, spec.disk_limit, spec.process_limit),
    )
    try:
        for cache in own.writable:
            if not cache.exists():
                cache.mkdir(parents=True, exist_ok=True)
            if own.uid and cache.stat().st_uid != own.uid:
                _hand_over(str(cache), own.uid)
        wrap = prefix(own)
        if own.by is By.LANDLOCK and own.inside is Inside.RUN:
            (own.folder / _OWN_TMP).mkdir(exist_ok=True)
        if own.uid:
            _hand_over(spec.cwd, own.uid)
    except OSError as exc:
        raise JobError("E-SANDBOX", f"{spec.id} cannot be confined: {exc}", fix=f"df -h {walls.keep}") from exc
    return replace(
        spec, wrap=(*wrap.argv, *spec.wrap), files=(*wrap.files, *spec.files), env={**spec.env, **wrap.env}, keepers=wrap.keepers
    )


# Waits behind walls that were made ahead, and becomes the command that it is told.
GATE = (sys.executable, "-I", "-S", "-B", gate.__file__)


def uid_for(job: str) -> int:
    """The user that a job becomes; 0 = it stays who we are, because we are not root."""
    return FIRST_UID + zlib.crc32(job.encode()) % _UIDS if os.geteuid() == 0 else 0


def _hand_over(folder: str, uid: int) -> None:
    """Give a folder and all in it to a user; links are given themselves, never followed. What goes meanwhile, out of a cache, needs no owner."""
    os.chown(folder, uid, uid, follow_symlinks=False)
    for _, folders, files, at in os.fwalk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                os.chown(name, uid, uid, dir_fd=at, follow_symlinks=False)


def prefix(walls: Walls, file: int = FIRST_FILE) -> Wrap:
    """The command line that puts a command inside the walls; it reads the system call filter from the descriptor ``file``.

    Raises ``UsageError`` (E-NO-SANDBOX), ``OSError`` if ``keep`` fails.
    """
    if walls.by is By.LANDLOCK:
        return _without_namespaces(walls, file)
    program = bubblewrap.find()
    if program is None:
        raise bubblewrap.refuse(["there is no bubblewrap"])
    layout = _laid_out(walls)
    way = _way_out(walls)
    argv = [*way, str(program), *_namespaces(walls), *layout.options(), *_closing(walls, file), *_own_user(walls)]
    return Wrap(tuple(argv), (str(_filter(walls.keep, seccomp.Open())),), _environment(walls), keepers=4 if way else 2)


def _without_namespaces(walls: Walls, file: int) -> Wrap:
    uid = walls.uid if os.geteuid() == 0 else 0
    limits = [(getattr(resource, f"RLIMIT_{name}"), soft, hard) for name, (soft, hard) in _limits(walls).items()]
    plan = {"uid": uid, "groups": _groups(walls) if uid else [], "limits": limits, "network": walls.network, "filter": file}
    # Without a user of its own, the sockets of all other programs of this user would open.
    world = seccomp.Open(shared=True, unix=bool(uid), internet=walls.network)
    layout = _laid_out(walls)
    argv = landlock.command(layout, walls.devices, plan)
    return Wrap(tuple(argv), (str(_filter(walls.keep, world)),), _environment(walls), keepers=0)


def _laid_out(walls: Walls) -> Layout:
    walls.keep.mkdir(parents=True, exist_ok=True)
    layout = Layout(_kept(walls.keep, "blank", b""))
    (_lay_out_run if walls.inside is Inside.RUN else _lay_out_agent)(walls, layout)
    return layout


def _way_out(walls: Walls) -> list[str]:
    """What stands before the walls when they leave the way to a few hosts open."""
    return [sys.executable, "-I", "-S", passage.__file__, *walls.hosts, "--"] if walls.hosts else []


def _environment(walls: Walls) -> dict[str, str]:
    """What spares a command from trying what the walls refuse."""
    found = {} if walls.network else dict(_NO_NETWORK)
    if walls.hosts and walls.proxy:
        found[passage.PROXY] = walls.proxy
    if walls.inside is Inside.RUN:
        cache = Path(walls.environ.get("UV_CACHE_DIR") or walls.home / ".cache" / "uv")
        if cache not in walls.writable:  # uv does not start if it cannot write there
            found["UV_CACHE_DIR"] = str(_TMP / ".uv")
        if (walls.folder / ".venv").is_symlink():
            found["UV_NO_SYNC"] = "1"
        if walls.by is By.LANDLOCK:  # nothing can be laid over the machine's own folders
            own = walls.folder / _OWN_TMP
            moved = {"TMPDIR": own, "TRITON_CACHE_DIR": own / "triton", "TORCH_EXTENSIONS_DIR": own / "torch", "MPLCONFIGDIR": own / "mpl"}
            found |= {name: str(path) for name, path in moved.items() if name == "TMPDIR" or name not in walls.environ}
            found |= {"UV_CACHE_DIR": str(own / "uv")} if "UV_CACHE_DIR" in found else {}
    return found


def _namespaces(walls: Walls) -> Iterator[str]:
    yield from ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent", "--new-session")
    if not walls.network:
        yield "--unshare-net"
    yield from ("--cap-drop", "ALL")
    if os.geteuid() != 0:
        yield "--unshare-user"
        if _is_writable(Path("/proc/sys")):  # in some containers it is not; there the filter alone refuses new ones
            yield "--disable-userns"
    elif walls.uid:
        for capability in _ROOT_NEEDS:
            yield from ("--cap-add", capability)


def _is_writable(path: Path) -> bool:
    """Whether the file system there is not read-only."""
    return not os.statvfs(path).f_flag & os.ST_RDONLY


def _lay_out_run(walls: Walls, layout: Layout) -> None:
    for name in _ROOTS:
        layout.show(Path(name))
    for name in (*_ETC, *(["resolv.conf"] if walls.network else [])):
        layout.show(Path("/etc", name))
    memory = _memory(walls.limits)
    for path, share in ((_TMP, 4), (_VAR_TMP, 16), (Path("/run"), 64), (Path("/home"), 64), (Path("/root"), 64)):
        layout.fresh(path, memory // share)
    if walls.home != Path("/"):
        layout.fresh(walls.home, memory // 8)
    for path in walls.readable:
        layout.show(path)
    _finish(walls, layout)
    if walls.uid and walls.by is By.BUBBLEWRAP:
        layout.put(Path("/etc/passwd"), _passwd(walls))


def _lay_out_agent(walls: Walls, layout: Layout) -> None:
    layout.show(Path("/"))
    own_home = walls.environ.get("HOME", str(walls.home)) != str(walls.home)
    for path in (_TMP, _VAR_TMP, *([] if own_home else home.agent_folders(walls.home))):
        layout.show(path, Kind.WRITE)
    for path in (*([] if own_home else home.agent_rules(walls.home)), *([] if walls.home in (_TMP, _VAR_TMP) else [walls.home])):
        layout.show(path)  # also where it lies in a shared folder
    sessions = home.agent_folders(walls.home) if own_home else []  # of the person: none of its business
    # Landlock's filter lets nobody have a socket with a path, and its rules for processes and devices are its own.
    covered = (*home.sockets(_TMP), *home.sockets(walls.home)) if walls.by is By.BUBBLEWRAP else (Path("/proc"), Path("/dev"))
    for path in (*_GUARDED, *covered, *sessions):
        layout.hide(path)
    if walls.hosts:
        layout.put(Path("/etc/hosts"), _kept(walls.keep, "hosts", passage.hosts(walls.hosts).encode()))
    else:
        layout.show(Path("/etc/resolv.conf"))  # often a link into /run
    for path in walls.readable:
        layout.show(path)
        for secret in home.dotenv(path):
            layout.hide(secret)
    _finish(walls, layout)


def _finish(walls: Walls, layout: Layout) -> None:
    """What is the same for everybody, and lies on top of the rest."""
    for path in (*walls.hidden, *home.secrets(walls.home, walls.environ), walls.keep):
        layout.hide(path)
    for path in (*walls.writable, walls.folder):
        layout.show(path, Kind.WRITE)


def _memory(limits: Limits) -> int:
    """How many bytes of memory all the folders in it may take together."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return min(filter(None, (installed, limits.memory, limits.disk)))


def _closing(walls: Walls, file: int) -> Iterator[str]:
    """Devices, processes and what can only be done when all else is in place."""
    yield from ("--proc", "/proc")
    if os.geteuid() == 0 and not walls.uid:
        for name in filter(os.path.exists, _KNOBS):
            yield from ("--ro-bind", name, name)
    yield from ("--dev", "/dev", "--perms", "1777", "--size", str(_memory(walls.limits)), "--tmpfs", str(_SHM))
    for device in walls.devices:
        yield from ("--dev-bind-try", str(device), str(device))
    yield from ("--remount-ro", "/dev")
    if walls.inside is Inside.RUN:
        yield from ("--remount-ro", "/")
    yield from ("--seccomp", str(file), "--chdir", str(walls.folder), "--")


def _own_user(walls: Walls) -> list[str]:
    """The start of the command line inside: limits, and the change of user, which ends every right of root."""
    limits = _limits(walls)
    uid = walls.uid if os.geteuid() == 0 else 0
    groups = _groups(walls) if uid else []
    prlimit, setpriv = (_tool(name) for name in ("prlimit", "setpriv"))
    if not prlimit or (uid and not setpriv):
        numbers = " ".join(f"{getattr(resource, f'RLIMIT_{name}')}:{soft}:{hard}" for name, (soft, hard) in limits.items())
        return [sys.executable, "-I", "-S", "-c", _BARE, numbers, str(uid), ",".join(map(str, groups))]
    command = [prlimit, *(f"--{name.lower()}={soft}:{hard}" for name, (soft, hard) in limits.items())]
    if uid:
        command += [setpriv, f"--reuid={uid}", f"--regid={uid}", f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"]
        command += ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    return command


def _limits(walls: Walls) -> dict[str, tuple[int, int]]:
    """Limit -> soft and hard value, none above what we have ourselves."""
    wanted = {"CORE": 0, "FSIZE": walls.limits.disk or -1, "AS": -1 if walls.devices else walls.limits.memory or -1}
    # Root is not held to it; an ordinary user is counted per user namespace, that is per command, since Linux 5.14.
    counted = walls.uid if os.geteuid() == 0 else walls.by is By.BUBBLEWRAP and _release() >= (5, 14)
    wanted["NPROC"] = walls.limits.processes if counted and walls.limits.processes else -1
    found = {"NOFILE": resource.getrlimit(resource.RLIMIT_NOFILE)}
    for name, value in wanted.items():
        ours = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1]
        if value >= 0:
            found[name] = (value, value) if ours == resource.RLIM_INFINITY else (min(value, ours), min(value, ours))
    soft, hard = (_OPEN_FILES if item == resource.RLIM_INFINITY else min(item, _OPEN_FILES) for item in found["NOFILE"])
    return found | {"NOFILE": (soft, hard)}


def _release() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2] if part.isdigit())


def _groups(walls: Walls) -> list[int]:
    """Groups without which a device that was given could not be opened."""
    found = set()
    for device in walls.devices:
        try:
            state = os.stat(device)
        except OSError:
            continue
        if state.st_mode & 0o006 != 0o006 and state.st_mode & 0o060 == 0o060:
            found.add(state.st_gid)
    return sorted(found - {0})


def _tool(name: str) -> str:
    """A program of util-linux, which is visible inside because it lies in /usr."""
    return next((path for folder in ("/usr/bin", "/bin", "/usr/sbin") if os.access(path := f"{folder}/{name}", os.X_OK)), "")


def _passwd(walls: Walls) -> Path:
    """The machine's users, and the one that the command becomes."""
    try:
        known = Path("/etc/passwd").read_bytes()
    except OSError:
        known = b""
    line = f"overnight:x:{walls.uid}:{walls.uid}::{walls.home}:/bin/sh\n".encode()
    return _kept(walls.keep, f"passwd-{walls.uid}", line if f":x:{walls.uid}:".encode() in known else known + line)


def _filter(keep: Path, world: seccomp.Open) -> Path:
    machine = os.uname().machine
    try:
        return _kept(keep, f"{machine}.bpf", seccomp.program(machine, world))
    except ValueError as exc:
        raise UsageError("E-NO-SANDBOX", f"runs cannot be confined on this machine: {exc}", fix="--unsafe-no-sandbox") from exc


def _kept(folder: Path, name: str, content: bytes) -> Path:
    """A file with this content, whose name changes with it: written once, whoever else writes it at the same time."""
    path = folder / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    try:
        if path.stat().st_size == len(content):
            return path
    except FileNotFoundError:
        pass
    draft = folder / f".{path.name}.{os.getpid()}.{threading.get_ident()}"
    draft.write_bytes(content)
    draft.chmod(0o644)
    return draft.replace(path)
