"""NVIDIA's cards as the driver's own library (NVML) tells them.

The driver may be absent, broken or hang: it is asked in a thread that is left behind after a few seconds. ``OVERNIGHT_NVML`` names another library.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from typing import Any

from overnight.gpus.cards import Gpu, Inventory

_LIBRARY = "libnvidia-ml.so.1"
_MIB = 2**20


def ask(patience: float) -> Inventory | None:
    """The cards in the order of the PCI bus, slices instead of a card that is sliced; None without library, driver or answer in time."""
    found: list[Inventory | None] = []
    thread = threading.Thread(target=lambda: found.append(_ask()), name="nvml", daemon=True)
    thread.start()
    thread.join(patience)
    return found[0] if found else Inventory(trouble=f"the driver does not answer within {patience:g} s")


def _ask() -> Inventory | None:
    try:
        # Loaded first: the package would be imported in vain where there is no driver, and takes a library of this name that is there already.
        ctypes.CDLL(os.environ.get("OVERNIGHT_NVML") or _LIBRARY, mode=ctypes.RTLD_GLOBAL)
        import pynvml
    except (OSError, ImportError):
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as exc:
        return Inventory(trouble=f"the driver cannot be used: {exc}")
    try:
        return Inventory(tuple(card for index in range(pynvml.nvmlDeviceGetCount()) for card in _cards(pynvml, index)), "NVML")
    except pynvml.NVMLError as exc:
        return Inventory(trouble=f"the driver does not tell its cards: {exc}")
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _cards(nvml: Any, index: int) -> list[Gpu]:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        card = _card(nvml, handle, str(index))
    except nvml.NVMLError as exc:
        return [Gpu(str(index), "GPU", 0, trouble=str(exc))]
    return _slices(nvml, handle) or [card]


def _card(nvml: Any, handle: Any, index: str) -> Gpu:
    uuid = _text(nvml.nvmlDeviceGetUUID(handle))
    total = used = 0
    with contextlib.suppress(nvml.NVMLError):  # a card that shares the machine's memory has none of its own
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, used = int(memory.total) // _MIB, int(memory.used) // _MIB
    pids: tuple[int, ...] = ()
    with contextlib.suppress(nvml.NVMLError):
        pids = tuple(sorted({int(row.pid) for row in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}))
    return Gpu(index or uuid, _text(nvml.nvmlDeviceGetName(handle)), total, uuid, used, pids)


def _slices(nvml: Any, handle: Any) -> list[Gpu]:
    """The slices of a card with MIG switched on, which CUDA knows by their UUIDs alone."""
    found = []
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return []
        for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with contextlib.suppress(nvml.NVMLError):  # places that hold no slice
                found.append(_card(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number), ""))
    except nvml.NVMLError:  # most cards cannot be sliced
        return []
    return found


def _text(told: Any) -> str:
    return told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)
