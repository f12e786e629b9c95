"""Removing what strangers have left behind: trees of any depth, folders that are closed, names of any kind.

Links are removed themselves, never followed. Must not know whose tree it is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

_PATIENCE = 600.0  # seconds


def remove(folder: Path) -> None:
    """Remove the folder with all that is in it, as far as that can be done; what cannot be removed stays, and nothing is raised."""
    try:
        shutil.rmtree(folder, onerror=_open_up)
    except OSError:  # gone already, or not to be had
        return
    except RecursionError:  # thousands of folders within each other
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["rm", "-rf", "--", str(folder)], check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE)


def _open_up(_act: Callable[..., object], path: str, failure: tuple[type[BaseException], BaseException, TracebackType]) -> None:
    """Try again after the folder that is closed was opened; what fails then is left alone."""
    if not isinstance(failure[1], PermissionError):
        return
    with contextlib.suppress(OSError):
        closed = [place for place in (os.path.dirname(path), path) if _is_closed(place)]
        for place in closed:
            os.chmod(place, stat.S_IRWXU)
        if path in closed:
            shutil.rmtree(path, onerror=_open_up)
        elif closed:
            os.unlink(path)


def _is_closed(place: str) -> bool:
    mode = os.lstat(place).st_mode
    return stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU
