"""The door to the graphics cards of this machine: which there are, who computes on them, and which slot gets which.

Must not know what a study or a run is. Asked are, until one answers: NVIDIA's library (``nvml``), ``nvidia-smi`` (``smi``), and the kernel about
AMD's cards (``kfd``). A machine without any has no GPU, which is no error.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from overnight.errors import UsageError
from overnight.gpus import kfd, nvml, smi
from overnight.gpus.cards import Gpu, Inventory, declared, offer

__all__ = ["Gpu", "Inventory", "check", "declared", "found", "look", "machine", "models", "offer", "processor", "shares"]

_PATIENCE = 5.0  # seconds; a hanging driver must not keep a study from starting


def look() -> Inventory:
    """All cards of this machine, broken ones too; of those who can be asked the first that knows of any counts."""
    told = nvml.ask(_PATIENCE)
    if told is not None and told.cards:
        return told
    other = smi.ask(_PATIENCE) or kfd.ask()
    return other or told or Inventory()


def found(visible: str | None = None, known: Sequence[Gpu] | None = None) -> list[Gpu]:
    """The cards of this machine that work, in the order of the PCI bus; none where none can be found.

    ``visible`` is the value of ``CUDA_VISIBLE_DEVICES`` (None = not set), read as CUDA reads it: indices or beginnings of UUIDs in the
    order wanted, cut off at the first that does not exist; empty = no card. ``known`` are cards to choose from instead of asking.
    """
    if visible is not None and not visible.strip():
        return []
    cards = [card for card in (look().cards if known is None else known) if not card.trouble]
    if visible is None:
        return cards
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in visible.split(",")):
        gpu = _named(entry, cards)
        if gpu is None or gpu in chosen:
            break
        chosen.append(gpu)
    return chosen


def _named(entry: str, cards: Sequence[Gpu]) -> Gpu | None:
    if entry.startswith(("GPU-", "MIG-")):
        alike = [card for card in cards if card.uuid.startswith(entry)]
        if not alike and entry.startswith("MIG-") and cards:  # not everybody who was asked knows of slices
            return Gpu(entry, "MIG slice", 0)
        return alike[0] if len(alike) == 1 else None
    return next((card for card in cards if card.index == entry), None)


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
