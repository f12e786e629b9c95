"""What is known of one card, and what of a machine's cards together. Asks nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_RESERVED_MB, _RESERVED_SHARE = 1024, 0.05  # what drivers hold of a card that nobody uses


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card, or a slice of one: ``index`` is what ``CUDA_VISIBLE_DEVICES`` and ``settings.gpus`` call it. Sizes are 0 when not told."""

    index: str
    name: str
    memory_mb: int
    uuid: str = ""
    used_mb: int = 0
    pids: tuple[int, ...] = ()  # of processes that compute on it, as the driver numbers them
    trouble: str = ""  # what the driver says is wrong with it; empty = nothing


@dataclass(frozen=True, slots=True)
class Inventory:
    """The cards of a machine, by whom they were told, and what is wrong with the driver (empty = nothing)."""

    cards: tuple[Gpu, ...] = ()
    by: str = ""  # NVML, nvidia-smi, kfd or declared
    trouble: str = ""


def declared(count: int) -> Inventory:
    """Cards that nobody was asked for: indices from 0."""
    return Inventory(tuple(Gpu(str(index), "declared GPU", 0) for index in range(count)), "declared")


def offer(cards: Sequence[Gpu], ours: Callable[[int], bool] = lambda _pid: False) -> tuple[list[Gpu], list[str]]:
    """The cards that may be given to a run, and in words why the others may not: broken, or held by a process that is not ``ours``."""
    free, why = [], []
    for card in cards:
        if reason := _held(card, ours):
            why.append(f"GPU {card.index} is not offered: {reason}")
        else:
            free.append(card)
    return free, why


def _held(card: Gpu, ours: Callable[[int], bool]) -> str:
    if card.trouble:
        return card.trouble
    strangers = [str(pid) for pid in card.pids if not ours(pid)]
    if strangers:
        return f"held by process {' and '.join(strangers)}" + (f", {card.used_mb} MB in use" if card.used_mb else "")
    if not card.pids and card.used_mb > max(_RESERVED_MB, _RESERVED_SHARE * card.memory_mb):
        return f"{card.used_mb} MB are held by processes that cannot be seen from here"
    return ""
