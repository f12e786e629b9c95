"""Small file systems for the tests, which can be full, read-only, or cut off like a disk whose power is gone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from studies import bearers, until

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_NO_LOG_FLUSH = (2).to_bytes(4, "little")
# A Python program that stops the file system of the folder named; from then on every call is an input/output error.
STOP = f"import fcntl, os, sys; fcntl.ioctl(os.open(sys.argv[1], 0), {_SHUTDOWN}, {_NO_LOG_FLUSH!r})".replace("'", '"')


class Disk:
    """A small ext4 image, mounted at ``place``."""

    def __init__(self, image: Path, place: Path) -> None:
        self.place = place
        self._image = image
        place.mkdir(parents=True)
        with image.open("wb") as file:
            file.truncate(64 * 2**20)
        _done("mkfs.ext4", "-q", "-F", "-O", "^metadata_csum_seed", str(image))
        self.mount()
        (place / "lost+found").rmdir()

    def mount(self) -> None:
        """Mount the image; raises ``CalledProcessError`` where that is not allowed."""
        _done("mount", "-o", "loop,commit=1", str(self._image), str(self.place))

    def cut(self, machine: subprocess.Popen[str]) -> None:
        """Stop the file system as it is, end everybody who worked on it, and mount what is left."""
        handle = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUTDOWN, _NO_LOG_FLUSH)
        finally:
            os.close(handle)
        machine.kill()
        machine.wait()
        self.end()
        self.mount()

    def end(self) -> None:
        """Unmount, once whoever worked there is gone."""
        while left := bearers(str(self.place)):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        until(lambda: subprocess.run(["umount", str(self.place)], capture_output=True, check=False).returncode == 0)
        # Namespaces of the dead go a little later; a device that is still theirs would give the stopped file system again.
        until(lambda: not subprocess.run(["losetup", "-j", str(self._image)], capture_output=True, check=True).stdout)


@contextlib.contextmanager
def mounted(place: Path, kind: str, options: str) -> Iterator[None]:
    """A file system at ``place``: a tmpfs, an ext4 image beside it, or ``bind``, the folder itself with other options."""
    if os.geteuid() != 0:
        pytest.skip("a file system can only be mounted by root")
    image = place.with_name(place.name + ".image")
    try:
        place.mkdir(parents=True, exist_ok=True)
        if kind == "ext4":
            with image.open("wb") as file:
                file.truncate(16 * 2**20)
            _done("mkfs.ext4", "-q", "-F", str(image))
            _done("mount", "-o", "loop", str(image), str(place))
        elif kind == "bind":
            _done("mount", "--bind", str(place), str(place))
            _done("mount", "-o", f"remount,bind,{options}", str(place))
        else:
            _done("mount", "-t", kind, "-o", options, kind, str(place))
    except (subprocess.CalledProcessError, FileNotFoundError) as exc:
        pytest.skip(f"nothing can be mounted here: {getattr(exc, 'stderr', exc)}")
    try:
        yield
    finally:
        until(lambda: subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode == 0)


def holders(place: Path) -> list[int]:
    """Process ids of those that have a file below ``place`` open, a supervisor its lock for one."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for link in (folder / "fd").iterdir():
                if os.readlink(link).startswith(f"{place}/"):
                    found.add(int(folder.name))
    return sorted(found - {os.getpid()})


def _done(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
