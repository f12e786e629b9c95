"""Cards are found through a library, a program or a kernel that stand for the real ones, offered, and divided among slots."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import SOURCE
from drivers import standing_in
from overnight import gpus
from overnight.errors import UsageError
from overnight.gpus import Gpu, found, kfd, shares

_ASKED = "--query-gpu=index,name,memory.total,memory.used,uuid --format=csv,noheader,nounits"
_HELD = "--query-compute-apps=gpu_uuid,pid --format=csv,noheader,nounits"
_TWO = "0, NVIDIA GeForce RTX 4090, 24564, 12, GPU-aaaa-1\n1, NVIDIA GB10, [N/A], [N/A], GPU-abbb-2"
_BOTH = [Gpu("0", "NVIDIA GeForce RTX 4090", 24564, "GPU-aaaa-1", 12), Gpu("1", "NVIDIA GB10", 0, "GPU-abbb-2")]


def _install(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_cards_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, monkeypatch, f'[ "$*" = "{_HELD}" ] && exit 0\n[ "$*" = "{_ASKED}" ] || exit 9\ncat <<END\n{_TWO}\nEND')
    assert found() == _BOTH


def test_nvidia_smi_tells_who_computes_on_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = "GPU-abbb-2, 71\nGPU-abbb-2, 70\nGPU-abbb-2, [N/A]"
    _install(tmp_path, monkeypatch, f'[ "$*" = "{_HELD}" ] && exec echo "{held}"\ncat <<END\n{_TWO}\nEND')
    assert [card.pids for card in found()] == [(), (70, 71)]


@pytest.mark.parametrize(
    "body", ["exit 9", f"echo '{_TWO}'; exit 6", "echo 'No devices were found'", "printf '\\377\\n,,,\\nx, y, z, w\\n'"]
)
def test_a_failing_or_babbling_nvidia_smi_means_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    _install(tmp_path, monkeypatch, body)
    assert found() == []


def test_without_nvidia_smi_there_is_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found() == []


def test_an_nvidia_smi_that_cannot_be_executed_means_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found() == []


def test_a_hanging_nvidia_smi_is_ended_and_means_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, monkeypatch, f"echo '{_TWO}'; sleep 60 & sleep 60")
    monkeypatch.setattr(gpus, "_PATIENCE", 0.2)
    assert found() == []


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1,0", [_BOTH[1], _BOTH[0]]),
        (" 1 ", [_BOTH[1]]),
        ("GPU-ab", [_BOTH[1]]),
        ("GPU-a", []),
        ("0,7,1", [_BOTH[0]]),
        ("1,1", [_BOTH[1]]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("MIG-77", [Gpu("MIG-77", "MIG slice", 0)]),
    ],
)
def test_visible_devices_choose_among_the_cards_as_cuda_reads_them(visible: str, expected: list[Gpu]) -> None:
    assert found(visible, _BOTH) == expected


@pytest.mark.parametrize(
    ("cards", "slots", "expected"),
    [
        ("", 2, [(), ()]),
        ("0", 1, [("0",)]),
        ("0", 3, [("0",), ("0",), ("0",)]),
        ("01", 3, [("0",), ("1",), ("0",)]),
        ("01", 2, [("0",), ("1",)]),
        ("0123", 2, [("0", "1"), ("2", "3")]),
        ("01234", 2, [("0", "1"), ("2", "3", "4")]),
        ("01", 1, [("0", "1")]),
    ],
)
def test_every_slot_gets_its_share_and_no_card_is_left_over(cards: str, slots: int, expected: list[tuple[str, ...]]) -> None:
    assert shares(tuple(cards), slots) == expected


def test_an_index_that_no_card_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, monkeypatch, f"cat <<END\n{_TWO}\nEND")
    gpus.check(["0", "1", "GPU-aaaa", "MIG-1"])
    with pytest.raises(UsageError) as caught:
        gpus.check(["1", "7"])
    assert (caught.value.code, caught.value.why) == ("E-NO-GPU", "found: 0, 1")


def test_where_no_card_is_found_no_index_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, monkeypatch, "exit 9")
    gpus.check(["7"])
    assert found() == []


# ---------------------------------------------------------------- who may be given a card


def test_a_card_with_a_process_of_somebody_else_is_not_offered_and_the_process_is_named() -> None:
    cards = [Gpu("0", "A", 1000, used_mb=700, pids=(41, 42)), Gpu("1", "A", 1000, pids=(43,)), Gpu("2", "A", 1000)]
    free, why = gpus.offer(cards, lambda pid: pid in (41, 43))
    assert ([card.index for card in free], why) == (["1", "2"], ["GPU 0 is not offered: held by process 42, 700 MB in use"])


def test_a_card_that_is_broken_or_full_of_what_cannot_be_seen_is_not_offered() -> None:
    cards = [Gpu("0", "A", 0, trouble="GPU is lost"), Gpu("1", "A", 80_000, used_mb=9_000), Gpu("2", "A", 80_000, used_mb=600)]
    free, why = gpus.offer(cards)
    assert ([card.index for card in free], why) == (
        ["2"],
        ["GPU 0 is not offered: GPU is lost", "GPU 1 is not offered: 9000 MB are held by processes that cannot be seen from here"],
    )


def test_declared_cards_need_no_driver() -> None:
    assert [(card.index, card.name) for card in gpus.declared(2).cards] == [("0", "declared GPU"), ("1", "declared GPU")]


# ---------------------------------------------------------------- AMD


def test_cards_of_amd_are_read_from_the_kernel(tmp_path: Path) -> None:
    told = {
        "class/kfd/kfd/topology/nodes/0/properties": "cpu_cores_count 8\nsimd_count 0\n",
        "class/kfd/kfd/topology/nodes/1/properties": "simd_count 416\ndrm_render_minor 128\nunique_id 255\n",
        "class/kfd/kfd/topology/nodes/1/gpu_id": "4711\n",
        "class/kfd/kfd/topology/nodes/10/properties": "simd_count 416\ndrm_render_minor 129\n",
        "class/kfd/kfd/topology/nodes/10/gpu_id": "4712\n",
        "class/kfd/kfd/topology/nodes/10/name": "gfx90a\n",
        "class/kfd/kfd/proc/77/vram_4711": "1048576\n",
        "class/kfd/kfd/proc/78/vram_4711": "0\n",
        "class/drm/renderD128/device/product_name": "AMD Instinct MI250X\n",
        "class/drm/renderD128/device/mem_info_vram_total": str(64 * 2**30),
        "class/drm/renderD128/device/mem_info_vram_used": str(2**30),
    }
    for name, text in told.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    cards = (Gpu("0", "AMD Instinct MI250X", 65536, "GPU-00000000000000ff", 1024, (77,)), Gpu("1", "gfx90a", 0))
    assert (kfd.ask(tmp_path), kfd.ask(tmp_path / "nothing")) == (gpus.Inventory(cards, "kfd"), None)


# ---------------------------------------------------------------- NVML


@pytest.fixture
def nvml(tmp_path: Path) -> Callable[[str], list[str]]:
    """What is found by a process of its own with a library that stands for the driver's, in a given mode."""
    driver = standing_in(tmp_path)
    script = (
        "from overnight import gpus; gpus._PATIENCE = 0.5; told = gpus.look(); print(told.by or told.trouble)\n"
        "for card in told.cards: print(card)\nimport os; os._exit(0)"
    )

    def ask(mode: str) -> list[str]:
        env = {"PATH": "/nowhere", **driver, "FAKE_NVML": mode, "PYTHONPATH": SOURCE}
        return subprocess.run([sys.executable, "-u", "-c", script], env=env, capture_output=True, text=True, check=True).stdout.splitlines()

    return ask


def test_nvml_tells_cards_slices_processes_and_which_card_is_lost(nvml: Callable[[str], list[str]]) -> None:
    cards = [
        Gpu("0", "NVIDIA H100", 81920, "GPU-1", 5, (8, 9)),
        Gpu("MIG-10", "NVIDIA H100 MIG 1g.10gb", 10240, "MIG-10", 5),
        Gpu("MIG-12", "NVIDIA H100 MIG 1g.10gb", 10240, "MIG-12", 5),
        Gpu("2", "GPU", 0, trouble="GPU is lost"),
    ]
    assert nvml("") == ["NVML", *map(str, cards)]


@pytest.mark.parametrize(
    ("mode", "trouble"),
    [
        ("mismatch", "the driver cannot be used: RM has detected an NVML/RM version mismatch."),
        ("hang", "the driver does not answer within 0.5 s"),
    ],
)
def test_a_driver_that_is_broken_or_hangs_is_told_and_means_no_card(nvml: Callable[[str], list[str]], mode: str, trouble: str) -> None:
    assert nvml(mode) == [trouble]


def test_where_there_is_no_driver_its_package_is_not_even_imported() -> None:
    script = "import sys; from overnight import gpus; gpus.look(); print('pynvml' in sys.modules)"
    env = {"PATH": "/nowhere", "OVERNIGHT_NVML": "/nowhere/libnvidia-ml.so.1", "PYTHONPATH": SOURCE}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
