"""Which device files belong to the GPUs that a job was given. Reads ``/proc/driver/nvidia`` and ``/dev``; must not know what a job is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_NVIDIA = Path("/proc/driver/nvidia/gpus")
_COMMON = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "dxg")  # the last is WSL's only one


def gpu_devices(gpus: Sequence[str], dev: Path = Path("/dev"), cards: Path = _NVIDIA) -> tuple[Path, ...]:
    """The device files that exist of ``gpus`` (indices in PCI order, or UUIDs), and those that all of a kind share; none for no GPU.

    NVIDIA's are told apart by the minor number that the driver names for each; a slice (``MIG-…``) cannot be, and gets all of them.
    AMD's cannot be told apart by index here either: ``HIP_VISIBLE_DEVICES`` chooses.
    """
    if not gpus:
        return ()
    minors = [minor for minor, *names in _cards(cards) if any(_is_named(gpu, names) for gpu in gpus)]
    found = [dev / name for name in _COMMON] + [dev / f"nvidia{minor}" for minor in minors]
    if not minors:
        found += sorted(dev.glob("nvidia[0-9]*"))
    if any(gpu.startswith("MIG") for gpu in gpus):
        found += sorted(dev.glob("nvidia-caps/*"))
    found += [dev / "kfd", *sorted(dev.glob("dri/renderD*"))] if (dev / "kfd").exists() else []
    return tuple(dict.fromkeys(path for path in found if path.exists()))


def _is_named(gpu: str, names: list[str]) -> bool:
    index, uuid = names
    return gpu == index or (gpu.startswith("GPU-") and uuid.startswith(gpu))


def _cards(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Minor number, index and UUID of each card, in PCI order."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(folder))
    for index, name in enumerate(names):
        with contextlib.suppress(OSError):
            lines = (folder / name / "information").read_text(encoding="ascii", errors="replace").splitlines()
            said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
            yield said.get("Device Minor", ""), str(index), said.get("GPU UUID", "")
