"""NVIDIA's cards as ``nvidia-smi`` tells them, for machines where its library cannot be asked from here."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from overnight.gpus.cards import Gpu, Inventory

_CARDS = ("nvidia-smi", "--query-gpu=index,name,memory.total,memory.used,uuid", "--format=csv,noheader,nounits")
_PROCESSES = ("nvidia-smi", "--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader,nounits")


def ask(patience: float) -> Inventory | None:
    """The cards in its order (PCI bus); None when it is absent, fails, hangs or knows of none."""
    rows = [row for row in map(_parsed, _run(_CARDS, patience).splitlines()) if row is not None]
    if not rows:
        return None
    held: dict[str, set[int]] = {}
    for line in _run(_PROCESSES, patience).splitlines():
        uuid, _, pid = (part.strip() for part in line.partition(","))
        if pid.isdecimal():
            held.setdefault(uuid, set()).add(int(pid))
    cards = (Gpu(index, name, total, uuid, used, tuple(sorted(held.get(uuid, ())))) for index, name, total, used, uuid in rows)
    return Inventory(tuple(cards), "nvidia-smi")


def _run(words: Sequence[str], patience: float) -> str:
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError:
        return ""
    try:
        answer, _ = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        answer = b""
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the driver: left behind rather than waited for
            process.wait(1.0)
    finally:
        if process.stdout is not None:
            process.stdout.close()
    return answer.decode("utf-8", "replace") if process.returncode == 0 else ""


def _parsed(line: str) -> tuple[str, str, int, int, str] | None:
    """Index, name, memory, memory in use and UUID of one line such as ``0, NVIDIA H200, 143771, 12, GPU-5e1c…``; None for anything else."""
    index, _, rest = line.partition(",")
    parts = [part.strip() for part in rest.rsplit(",", 3)]
    if len(parts) != 4 or not index.strip().isdecimal():
        return None
    name, total, used, uuid = parts
    return index.strip(), name, int(total) if total.isdecimal() else 0, int(used) if used.isdecimal() else 0, uuid
