"""Cards on which somebody else computes, or a job has left something, stay out of a worker's offer."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivers import standing_in
from overnight.app.strangers import Strangers
from overnight.gpus import Gpu, Inventory
from overnight.models import JobState
from yards import PATIENCE, Yard, until


class Cards:
    """Two cards, and what is told of them; the clock stands where it is set."""

    def __init__(self) -> None:
        self.told = Inventory((Gpu("0", "A", 80_000), Gpu("1", "A", 80_000)), "NVML")
        self.at, self.looks, self.said = 0.0, 0, list[str]()
        self.strangers = Strangers(["0", "1"], lambda: self.at, self.said.append, self._look)

    def _look(self) -> Inventory:
        self.looks += 1
        return self.told

    def hold(self, index: int, *pids: int) -> None:
        cards = [*self.told.cards]
        cards[index] = Gpu(str(index), "A", 80_000, pids=pids)
        self.told = Inventory(tuple(cards), "NVML")


def test_a_card_that_a_stranger_holds_is_not_offered_until_it_is_free_and_both_are_said_once() -> None:
    found = Cards()
    found.hold(0, 42)
    out = [found.strangers(), found.strangers()]
    found.at = 6.0
    found.strangers()
    found.hold(0)
    found.at = 12.0
    assert (out, found.strangers(), found.said) == (
        [frozenset("0")] * 2, frozenset(), ["GPU 0 is not offered: held by process 42", "GPU 0 is offered again"],
    )  # fmt: skip


def test_the_machine_is_asked_now_and_then_not_at_every_claim() -> None:
    found = Cards()
    for _ in range(1000):
        found.strangers()
    assert found.looks == 1


def test_a_card_that_an_own_job_holds_is_not_asked_about() -> None:
    found = Cards()
    found.hold(0, 42)
    assert (found.strangers(frozenset("0")), found.said) == (frozenset(), [])


def test_what_a_job_has_left_on_its_card_is_seen_as_soon_as_the_job_is_over() -> None:
    found = Cards()
    found.strangers(frozenset("1"))
    found.hold(1, 77)
    assert found.strangers(frozenset()) == frozenset("1")


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (Inventory(trouble="the driver does not answer within 5 s"), "the driver does not answer within 5 s"),
        (Inventory((Gpu("0", "A", 1),), "NVML"), "it is not there any more"),
        (Inventory((Gpu("0", "A", 1), Gpu("1", "GPU", 0, trouble="GPU is lost")), "NVML"), "GPU is lost"),
    ],
)
def test_a_card_that_is_lost_or_whose_driver_is_broken_is_not_offered(told: Inventory, why: str) -> None:
    found = Cards()
    found.told = told
    found.strangers()
    assert found.said[-1] == f"GPU 1 is not offered: {why}"


def test_a_worker_gives_no_job_a_card_that_a_stranger_holds(yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "driver").mkdir()
    for name, value in {**standing_in(tmp_path / "driver"), "FAKE_HELD": str(tmp_path / "held"), "CUDA_VISIBLE_DEVICES": "0"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "held").touch()
    yard.worker("--slots", "2")
    until(lambda: "GPU 0 is not offered: held by process 8 and 9, 5 MB in use" in yard.said())
    waiting = yard.submit("echo $CUDA_VISIBLE_DEVICES", gpu_count=1)
    other = yard.submit("true")
    without = other.wait(PATIENCE), waiting.state
    (tmp_path / "held").unlink()
    assert (without, waiting.wait(PATIENCE), waiting.logs()) == ((JobState.SUCCEEDED, JobState.QUEUED), JobState.SUCCEEDED, "0\n")
