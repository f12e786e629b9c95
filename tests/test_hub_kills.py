"""Whoever works on jobs is killed at random, on one machine and over a relay: no job is lost, none is done twice, no log has a gap, no two attempts overlap."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from killing import Ground, Night, nobody_left
from ports import free_port
from worlds import Land
from yards import LEASE, PATIENCE, Yard, end, until

DEATHS = {"submitter": 2, "supervisor": 4}


def _near(yard: Yard) -> Ground:
    """One machine: two workers, and a submitter that opens the hub by itself."""
    workers = {name: partial(yard.worker, "--slots", "2", name=name) for name in ("a", "b")}
    environ = dict(os.environ) | {"OVERNIGHT_HUB": str(yard.hub)}
    return Ground(yard.root, yard.hub, environ, workers, yard.hub / "workers")


def _far(root: Path, workers: int, lease: float, pause: float = 0.02) -> tuple[Ground, Land]:
    """A relay, its hub, workers and a laptop."""
    land = Land(root, workers, lease, free_port())
    return Ground(root, land.hub, land.laptop.env, land.parts(), root, code=True, pause=pause), land


def _night(night: Night, kills: int) -> None:
    try:
        for number in range(kills):
            if number % 5 == 0:
                night.see_one_end()
            night.kill_one()
            night.submit_on()
        night.finish(120.0 + kills)
        assert night.faults() == {}
    finally:
        night.close()
    assert nobody_left(night.ground.root)
    print(f"\n{night}")


def _near_night(yard: Yard, kills: int, seed: int) -> None:
    os.environ["OVERNIGHT_HUB_LEASE"] = "6"  # put back by the yard; within two seconds a machine that is busy gets nothing done
    _night(Night(_near(yard), random.Random(seed), DEATHS | {"a": 2, "b": 2}), kills)


def _far_night(root: Path, workers: int, kills: int, seed: int, pause: float = 0.02) -> None:
    ground, land = _far(root, workers, 3.0 + 5.0 * (seed % 2), pause)
    deaths = DEATHS | {"relay": 1, "nats": 1, "hub": 2} | {each.home.name: 1 for each in land.workers}
    night = Night(ground, random.Random(seed), deaths, {"nats": land.nats}, running={"relay": land.relay}, gone={"relay"})
    _night(night, kills)


@pytest.mark.timeout(300)
def test_whatever_is_killed_nothing_is_lost_doubled_or_torn(yard: Yard) -> None:
    _near_night(yard, 10, 1)


@pytest.mark.timeout(300)
def test_whatever_is_killed_between_a_laptop_and_its_workers_nothing_is_lost_doubled_or_torn(tmp_path: Path) -> None:
    _far_night(tmp_path, 1, 4, 1, 0.003)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_kills_lose_double_and_tear_nothing(yard: Yard, seed: int) -> None:
    _near_night(yard, 100, seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(40))
def test_a_thousand_kills_over_a_relay_lose_double_and_tear_nothing(tmp_path: Path, seed: int) -> None:
    _far_night(tmp_path, 3, 25, seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_hub_and_workers_come_back_by_themselves_after_each_of_a_hundred_kills_of_the_relay(tmp_path: Path) -> None:
    ground, land = _far(tmp_path, 3, LEASE)
    night, back = Night(ground, random.Random(0), {}, running={"relay": land.relay}, gone={"relay"}), list[float]()
    try:
        night.see_one_end()
        for number in range(100):
            if number % 2:
                os.kill(land.nats(), signal.SIGKILL)  # its keeper ends by itself then
                night.running["relay"].wait(PATIENCE)
            else:
                end(night.running["relay"], signal.SIGKILL)
            night.mend()
            until(partial(land.is_up, night.running["relay"].pid))
            began = time.time()
            until(partial(night.is_heard, began))
            back.append(time.time() - began)
    finally:
        night.close()
    assert nobody_left(tmp_path)
    print(f"\nback {sum(back) / len(back):.2f} s after the relay, {max(back):.2f} s at most of {len(back)}")
    assert len(back) == 100
