"""The door to the graphics cards of this machine: which there are, and which slot gets which.

Must not know what a study or a run is. Asks ``nvidia-smi`` and nothing else; a machine without it has no GPU, which is no error.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from overnight.errors import UsageError

_QUERY = ("nvidia-smi", "--query-gpu=index,name,memory.total,uuid", "--format=csv,noheader,nounits")
_PATIENCE = 5.0  # seconds; a hanging driver must not keep a study from starting


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card: ``index`` is what ``CUDA_VISIBLE_DEVICES`` and ``settings.gpus`` call it, ``memory_mb`` is 0 when not told."""

    index: str
    name: str
    memory_mb: int


def found(visible: str | None = None, run: Callable[[], str] | None = None) -> list[Gpu]:
    """The cards of this machine in the order of ``nvidia-smi`` (PCI bus); none when it is absent, fails or hangs.

    ``visible`` is the value of ``CUDA_VISIBLE_DEVICES`` (None = not set), read as CUDA reads it: indices or beginnings of UUIDs in the
    order wanted, cut off at the first that does not exist; empty = no card. ``run`` gives the text of the query instead of ``nvidia-smi``.
    """
    if visible is not None and not visible.strip():
        return []
    cards = [card for card in map(_parsed, (run or _ask)().splitlines()) if card is not None]
    if visible is None:
        return [gpu for gpu, _ in cards]
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in visible.split(",")):
        gpu = _named(entry, cards)
        if gpu is None or gpu in chosen:
            break
        chosen.append(gpu)
    return chosen


def check(named: Sequence[str]) -> None:
    """Refuse an index that no card has: CUDA would hide every card from the runs, and they would train on the processor all night.

    Raises ``UsageError``. Where no card is found nothing is known of them, and nothing is refused.
    """
    wanted = [name for name in named if name.isdecimal()]
    cards = [gpu.index for gpu in found()] if wanted else []
    absent = [name for name in wanted if name not in cards]
    if cards and absent:
        raise UsageError(
            "E-NO-GPU", f"there is no GPU {absent[0]}", why=f"found: {', '.join(cards)}", fix=f"overnight run --gpus {cards[0]}"
        )


def processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model and how many of its cores this process may use."""
    model = "CPU"
    with contextlib.suppress(OSError):
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "") or model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{model}, {cores} {'cores' if cores > 1 else 'core'}"


def machine(named: Sequence[str], visible: str | None = None) -> str:
    """The class of machine of a run on the cards named: their models, else the processor and how many of its cores are ours."""
    return models(visible)(named)


def models(visible: str | None = None) -> Callable[[Sequence[str]], str]:
    """``machine`` for many runs, with one look at the cards."""
    cards = {card.index: card.name for card in found(visible)}
    other = processor()
    return lambda named: " + ".join(cards.get(index, f"GPU {index}") for index in named) or other


def shares(gpus: Sequence[str], slots: int) -> list[tuple[str, ...]]:
    """The cards of each of ``slots`` slots: neighbours stay together, every card is used, and too few are shared in turn."""
    if not gpus:
        return [()] * slots
    if len(gpus) <= slots:
        return [(gpus[slot % len(gpus)],) for slot in range(slots)]
    bounds = [len(gpus) * slot // slots for slot in range(slots + 1)]
    return [tuple(gpus[start:end]) for start, end in pairwise(bounds)]


def _ask() -> str:
    try:
        process = subprocess.Popen(
            _QUERY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError:
        return ""
    try:
        answer, _ = process.communicate(timeout=_PATIENCE)
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


def _parsed(line: str) -> tuple[Gpu, str] | None:
    """Card and UUID of one line such as ``0, NVIDIA H200, 143771, GPU-5e1c…``; None for anything else."""
    index, _, rest = line.partition(",")
    parts = rest.rsplit(",", 2)
    if len(parts) != 3 or not index.strip().isdecimal():
        return None
    name, memory, uuid = (part.strip() for part in parts)
    return Gpu(index.strip(), name, int(memory) if memory.isdecimal() else 0), uuid


def _named(entry: str, cards: Sequence[tuple[Gpu, str]]) -> Gpu | None:
    if entry.startswith("MIG-") and cards:  # a slice of a card has no line of its own in the query
        return Gpu(entry, "MIG slice", 0)
    if entry.startswith("GPU-"):
        alike = [gpu for gpu, uuid in cards if uuid.startswith(entry)]
        return alike[0] if len(alike) == 1 else None
    return next((gpu for gpu, _ in cards if gpu.index == entry), None)
