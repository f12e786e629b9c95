"""How much GPU memory the processes of a job hold, asked of the driver's own library (NVML) through ctypes.

A driver may hang, and a machine may have no GPU: it is asked in a thread of its own, and no trouble there is ever an error, only a
figure of zero. ``OVERNIGHT_NVML`` names another library. Must not know what a job is.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

_FIRST, _EVERY = 0.05, 0.5  # seconds between two looks: at first, and later
_UNKNOWN = 2**64 - 1  # what NVML says where it keeps no figures per process
_TOO_SMALL = 7  # NVML_ERROR_INSUFFICIENT_SIZE
_WORST = 4096  # processes on one GPU


class _Process(ctypes.Structure):
    _fields_ = (("pid", ctypes.c_uint), ("used", ctypes.c_ulonglong), ("gpu_instance", ctypes.c_uint), ("compute_instance", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Meter:
    """The highest sum of memory seen on ``gpus`` (indices in PCI order, or UUIDs) since ``start``."""

    def __init__(self, gpus: Sequence[str], pids: Callable[[], set[int]]) -> None:
        self.peak = 0  # bytes
        self._gpus = gpus
        self._pids = pids
        self._library: Any = None
        self._before: dict[str, int] = {}  # in use when the job began

    def start(self) -> None:
        """Begin to look, in a thread that nobody has to wait for."""
        threading.Thread(target=self._run, name="gpu", daemon=True).start()

    def _run(self) -> None:
        try:
            self._library = ctypes.CDLL(os.environ.get("OVERNIGHT_NVML") or "libnvidia-ml.so.1")
            if self._library.nvmlInit_v2():
                return
            handles = {gpu: handle for gpu in self._gpus if (handle := self._handle(gpu)) is not None}
            self._before = {gpu: self._used(handle) for gpu, handle in handles.items()}
            gap = _FIRST
            while True:
                self.peak = max(self.peak, sum(self._held(gpu, handle) for gpu, handle in handles.items()))
                time.sleep(gap)
                gap = min(2 * gap, _EVERY)
        except (OSError, AttributeError, ValueError):
            return  # no driver, or one without these functions

    def _handle(self, gpu: str) -> ctypes.c_void_p | None:
        handle = ctypes.c_void_p()
        if gpu.isdecimal():
            failed = self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(gpu)), ctypes.byref(handle))
        else:
            failed = self._library.nvmlDeviceGetHandleByUUID(gpu.encode(), ctypes.byref(handle))
        return None if failed else handle

    def _used(self, handle: ctypes.c_void_p) -> int:
        memory = _Memory()
        return 0 if self._library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) else int(memory.used)

    def _held(self, gpu: str, handle: ctypes.c_void_p) -> int:
        """Bytes held by our processes; by the whole device, less what was in use before, where the driver does not tell whose."""
        listed = self._listed(handle)
        pids = self._pids()
        ours = [used for pid, used in listed if pid in pids]
        if ours and _UNKNOWN not in ours:
            return sum(ours)
        # In a container the list is empty, or its ids are those of the host.
        if not ours and listed and all(os.path.exists(f"/proc/{pid}") for pid, _ in listed):
            return 0
        return max(0, self._used(handle) - self._before.get(gpu, 0))

    def _listed(self, handle: ctypes.c_void_p) -> list[tuple[int, int]]:
        room = 64
        while room <= _WORST:
            count = ctypes.c_uint(room)
            rows = (_Process * room)()
            code = self._library.nvmlDeviceGetComputeRunningProcesses_v3(handle, ctypes.byref(count), rows)
            if code == 0:
                return [(int(row.pid), int(row.used)) for row in rows[: count.value]]
            if code != _TOO_SMALL:
                break
            room *= 4
        return []
