"""Writing a small secret file: as a whole, for its owner alone, on the disk when it is done."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Replace a file as a whole, for its owner alone, on the disk when this returns."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(handle, 0o600)
        with open(handle, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(partial, path)
    above = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(above)
    finally:
        os.close(above)
