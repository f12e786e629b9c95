"""What the walls are made of: the system call filter, the layout of the file system, and what is found to be shown or hidden."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from overnight import sandbox
from overnight.sandbox import home, seccomp
from overnight.sandbox.mounts import Kind, Layout, trail
from overnight.sandbox.walls import _kept

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = 0x7FFF0000, 0x80000000


def verdict(machine: str, number: int, *arguments: int, arch: int = 0, world: seccomp.Open = seccomp.Open()) -> int:  # noqa: B008 - frozen
    """What the kernel would make of a call: the program run by hand (errno for an error)."""
    data = struct.pack("<IIQ6Q", number, arch or ARCH[machine], 0, *(arguments + (0,) * 6)[:6])
    steps = list(struct.iter_unpack("<HBBI", seccomp.program(machine, world)))
    at, held = 0, 0
    while True:
        code, true, false, value = steps[at]
        at += 1
        if code == 0x20:
            held = struct.unpack_from("<I", data, value)[0]
        elif code == 0x06:
            return int(value & 0xFFFF if value & 0xFFFF0000 == 0x50000 else value)
        else:
            at += true if {0x15: held == value, 0x25: held > value, 0x45: bool(held & value)}[code] else false


@pytest.mark.parametrize(
    ("number", "arguments", "expected"),
    [
        ((0, 63), (), ALLOW),  # read
        ((59, 221), (), ALLOW),  # execve
        ((101, 117), (), errno.EPERM),  # ptrace
        ((435, 435), (), errno.ENOSYS),  # clone3
        ((56, 220), (0x3D0F00,), ALLOW),  # clone of a thread
        ((56, 220), (0x10000011,), errno.EPERM),  # clone into a user namespace
        ((272, 97), (0x400,), ALLOW),  # unshare of open files
        ((272, 97), (0x40000000,), errno.EPERM),  # unshare of the network
        ((41, 198), (2, 1, 0), ALLOW),  # AF_INET
        ((41, 198), (16, 3, 0), ALLOW),  # AF_NETLINK, ROUTE
        ((41, 198), (16, 3, 9), errno.EAFNOSUPPORT),  # AF_NETLINK, AUDIT
        ((41, 198), (17, 3, 0), errno.EAFNOSUPPORT),  # AF_PACKET
        ((41, 198), (38, 5, 0), errno.EAFNOSUPPORT),  # AF_ALG
        ((16, 29), (0, 0x5413), ALLOW),  # TIOCGWINSZ
        ((16, 29), (0, 0x5412), errno.EPERM),  # TIOCSTI
        ((16, 29), (0, 0x5412 | 1 << 32), errno.EPERM),  # the same to the kernel
        ((471, 471), (), errno.ENOSYS),  # not known yet
        ((0x40000000 + 59, 0x40000000), (), errno.ENOSYS),  # x32
    ],
)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_judges_each_call(machine: str, number: tuple[int, int], arguments: tuple[int, ...], expected: int) -> None:
    assert verdict(machine, number[list(ARCH).index(machine)], *arguments) == expected


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_foreign_abi_ends_the_process(machine: str) -> None:
    assert verdict(machine, 1, arch=0x40000003) == KILL


def test_the_filter_of_an_unknown_machine_is_an_error() -> None:
    with pytest.raises(ValueError, match="riscv64"):
        seccomp.program("riscv64")


def test_the_numbers_of_the_filter_are_those_of_this_machine() -> None:
    if shutil.which("cc") is None or os.uname().machine not in ARCH:
        pytest.skip("no C compiler, or no filter for this machine")
    names = [name for name in seccomp._DENIED if name != "sysctl"]
    source = "#include <sys/syscall.h>\n" + "\n".join(f"#ifdef SYS_{name}\n{name} SYS_{name}\n#endif" for name in names)
    said = subprocess.run(["cc", "-E", "-P", "-"], input=source, capture_output=True, text=True, check=True).stdout
    here = {
        name: int(number) for name, _, number in (line.partition(" ") for line in said.splitlines()) if number.isdigit() and name in names
    }
    column = list(ARCH).index(os.uname().machine)
    assert here == {name: seccomp._DENIED[name][column] for name in here}


# ---------------------------------------------------------------- what is shown and hidden


def test_what_lies_deeper_lies_on_top(tmp_path: Path) -> None:
    for name in ("repo/.venv/bin", "repo/data", "blank"):
        (tmp_path / name).mkdir(parents=True)
    layout = Layout(tmp_path / "blank")
    layout.show(tmp_path / "repo" / ".venv")
    layout.show(tmp_path)
    layout.hide(tmp_path / "repo")
    words = [word for word in layout.options() if word.startswith((str(tmp_path), "--ro-bind", "--tmpfs"))]
    top, repo = str(tmp_path), f"{tmp_path}/repo"
    assert words == ["--ro-bind", top, top, "--tmpfs", repo, "--ro-bind", f"{repo}/.venv", f"{repo}/.venv", repo]


def test_what_nobody_sees_needs_no_cover(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.hide(tmp_path)
    assert list(layout.options()) == []


def test_a_path_through_links_is_reachable_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "real" / "data").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "far").symlink_to(tmp_path / "link" / "data")
    assert trail(tmp_path / "far") == (
        [(f"{tmp_path}/far", f"{tmp_path}/link/data"), (f"{tmp_path}/link", "real")], f"{tmp_path}/real/data",
    )  # fmt: skip


def test_links_that_go_in_circles_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert trail(tmp_path / "a")[1].startswith(str(tmp_path))


def test_a_path_that_is_not_there_is_passed_over(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.show(tmp_path / "nothing", Kind.WRITE)
    assert list(layout.options()) == []


def test_the_home_folder_is_never_shown_as_a_whole(tmp_path: Path) -> None:
    for name in ("bin", ".local/bin", ".local/lib/python3.12", ".cargo/bin", "miniconda3/bin", "miniconda3/conda-meta"):
        (tmp_path / name).mkdir(parents=True)
    path = ":".join(str(tmp_path / name) for name in ("bin", ".local/bin", ".cargo/bin", "miniconda3/bin", "gone/bin"))
    found = sandbox.interpreters({"HOME": str(tmp_path), "PATH": path}, ("python",), tmp_path / "repo")
    assert {str(item.relative_to(tmp_path)) for item in found if item.is_relative_to(tmp_path)} == {
        "bin", ".local/bin", ".local/lib", ".cargo/bin", "miniconda3",
    }  # fmt: skip


def test_the_interpreter_behind_an_environment_is_found(tmp_path: Path) -> None:
    base = tmp_path / "uv" / "cpython-3.12.5"
    (base / "bin").mkdir(parents=True)
    (base / "lib" / "python3.12").mkdir(parents=True)
    (base / "bin" / "python3.12").touch(mode=0o755)
    (tmp_path / "uv" / "cpython-3.12").symlink_to(base.name)
    bin_folder = tmp_path / "repo" / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").symlink_to(tmp_path / "uv" / "cpython-3.12" / "bin" / "python3.12")
    (bin_folder.parent / "pyvenv.cfg").write_text(f"home = {tmp_path}/uv/cpython-3.12/bin\n", encoding="ascii")
    found = sandbox.interpreters({"HOME": "/nonexistent", "PATH": "/usr/bin"}, ("python",), tmp_path / "repo")
    assert {tmp_path / "repo" / ".venv", tmp_path / "uv" / "cpython-3.12", base} <= set(found)


def test_what_is_installed_into_an_environment_from_elsewhere_is_found_but_not_the_repository_itself(tmp_path: Path) -> None:
    site = tmp_path / "venv" / "lib" / "python3.12" / "site-packages"
    for name in ("venv/bin", "lib/src", "other/flat", "repo/src", "repo/lib", "user"):
        (tmp_path / name).mkdir(parents=True)
    site.mkdir(parents=True)
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (site / "_lib.pth").write_text(f"{tmp_path}/lib/src\nimport os; os.getcwd()\n# {tmp_path}/lib\n\n{tmp_path}/gone\n../../..\n")
    (site / "own.pth").write_text(f"{tmp_path}/repo/src\n{tmp_path}\n{tmp_path}/user\n/usr/lib\n")
    (site / "__editable___other_1_0_finder.py").write_text(
        f"MAPPING: dict[str, str] = {{'flat': '{tmp_path}/other/flat', 'r': '{tmp_path}/repo/lib'}}\nX = 1\n"
    )
    (site / "__editable___broken_finder.py").write_text("MAPPING = {'a': open('/etc/passwd')}\n")
    environ = {"HOME": str(tmp_path / "user"), "PATH": str(tmp_path / "venv" / "bin")}

    def told(*, checkouts: bool) -> set[str]:
        found = sandbox.interpreters(environ, ("python",), tmp_path / "repo", checkouts=checkouts)
        return {str(item.relative_to(tmp_path)) for item in found if item.is_relative_to(tmp_path)}

    assert (told(checkouts=True), told(checkouts=False)) == ({"venv", "lib/src", "other/flat"}, {"venv"})


def test_tokens_histories_and_profiles_are_secrets(tmp_path: Path) -> None:
    names = [".ssh", ".netrc", ".python_history", ".config/gh", ".mozilla", ".cache/huggingface/token", "models/token"]
    for name in (*names, "notes.txt", ".cache/huggingface/hub"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = home.secrets(tmp_path, {"HF_HOME": str(tmp_path / "models")})
    assert {str(path.relative_to(tmp_path)) for path in found} == set(names)


def test_only_the_devices_of_the_assigned_gpus_are_given(tmp_path: Path) -> None:
    dev, cards = tmp_path / "dev", tmp_path / "cards"
    for name in ("nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1", "nvidia2"):
        (dev / name).parent.mkdir(exist_ok=True)
        (dev / name).touch()
    for place, minor in (("0000:01:00.0", 2), ("0000:02:00.0", 0), ("0000:81:00.0", 1)):
        (cards / place).mkdir(parents=True)
        (cards / place / "information").write_text(f"GPU UUID: \t GPU-{minor}\nDevice Minor: \t {minor}\n", encoding="ascii")
    given = [[path.name for path in sandbox.gpu_devices(gpus, dev, cards)] for gpus in ((), ("0",), ("2", "GPU-0"))]
    assert given == [[], ["nvidiactl", "nvidia-uvm", "nvidia2"], ["nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1"]]


def test_a_socket_that_appears_in_a_folder_which_was_just_looked_at_is_seen(tmp_path: Path) -> None:
    before = home.sockets(tmp_path)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s"))
        assert (before, home.sockets(tmp_path)) == ([], [tmp_path / "s"])


def test_a_folder_that_has_not_changed_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = home.sockets(Path("/usr"))
    read: list[str] = []

    def noted(folder: str, _most: int) -> tuple[list[str], list[str]]:
        read.append(folder)
        return [], []

    monkeypatch.setattr(home, "_read", noted)
    assert (home.sockets(Path("/usr")), "/usr" in read) == (before, False)


def test_walls_that_several_threads_build_at_once_share_their_files(tmp_path: Path) -> None:
    start, content = threading.Barrier(4), b"x" * 2**20

    def build(folder: Path) -> Path:
        start.wait(60.0)
        return _kept(folder, "blank", content)

    with ThreadPoolExecutor(4) as pool:
        for number in range(20):
            folder = tmp_path / str(number)
            folder.mkdir()
            found = set(pool.map(build, [folder] * 4))
            assert [path.read_bytes() == content for path in found] == [True]
