"""Cards are found through a real program named nvidia-smi, and divided among slots."""

from __future__ import annotations

from pathlib import Path

import pytest

from overnight import gpus
from overnight.errors import UsageError
from overnight.gpus import Gpu, found, shares

_ASKED = "--query-gpu=index,name,memory.total,uuid --format=csv,noheader,nounits"
_TWO = "0, NVIDIA GeForce RTX 4090, 24564, GPU-aaaa-1\n1, NVIDIA GB10, [N/A], GPU-abbb-2"
_BOTH = [Gpu("0", "NVIDIA GeForce RTX 4090", 24564), Gpu("1", "NVIDIA GB10", 0)]


def _install(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_cards_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, monkeypatch, f'[ "$*" = "{_ASKED}" ] || exit 9\ncat <<END\n{_TWO}\nEND')
    assert found() == _BOTH


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
    assert found(visible, lambda: _TWO) == expected


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
