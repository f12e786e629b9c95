"""AMD's cards as the kernel tells them in /sys, the same for every version of ROCm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from overnight.gpus.cards import Gpu, Inventory

_KFD, _DRM = "class/kfd/kfd", "class/drm"
_MIB = 2**20


def ask(sys: Path = Path("/sys")) -> Inventory | None:
    """The cards in the order of ROCm's own indices; None where the kernel drives none."""
    cards = tuple(_cards(sys))
    return Inventory(cards, "kfd") if cards else None


def _cards(sys: Path) -> Iterator[Gpu]:
    nodes = sorted((path for path in (sys / _KFD / "topology/nodes").glob("*") if path.name.isdecimal()), key=lambda path: int(path.name))
    index = 0
    for node in nodes:
        told = dict(line.split(None, 1) for line in _read(node / "properties").splitlines() if " " in line)
        if not _number(told.get("simd_count", "")):
            continue  # a processor
        device = sys / _DRM / f"renderD{told.get('drm_render_minor', '').strip()}" / "device"
        name = _read(device / "product_name") or _read(node / "name") or f"AMD GPU {told.get('device_id', '').strip()}".strip()
        total, used = (_number(_read(device / f"mem_info_vram_{kind}")) // _MIB for kind in ("total", "used"))
        unique = _number(told.get("unique_id", ""))
        pids = _holders(sys / _KFD / "proc", _read(node / "gpu_id"))
        yield Gpu(str(index), name, total, f"GPU-{unique:016x}" if unique else "", used, pids)
        index += 1


def _holders(processes: Path, gpu: str) -> tuple[int, ...]:
    """Processes that hold memory of the card."""
    found = [path for path in processes.glob("*") if path.name.isdecimal() and _number(_read(path / f"vram_{gpu}"))]
    return tuple(sorted(int(path.name) for path in found))


def _number(text: str) -> int:
    return int(text) if text.strip().isdecimal() else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
