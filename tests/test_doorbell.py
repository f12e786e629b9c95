"""Waking those who wait on the same machine."""

from __future__ import annotations

import threading
from pathlib import Path

from overnight.doorbell import Doorbell, ring


def test_a_ring_wakes_who_waits_for_its_kind_and_nobody_else(tmp_path: Path) -> None:
    with Doorbell(tmp_path, "claim") as claim, Doorbell(tmp_path, "log") as log:
        ring(tmp_path, "claim")
        assert (claim.wait(10), log.wait(0)) == (True, False)


def test_rings_that_came_before_count_once(tmp_path: Path) -> None:
    with Doorbell(tmp_path, "log") as bell:
        for _ in range(1000):
            ring(tmp_path, "log")
        assert (bell.wait(0), bell.wait(0)) == (True, False)


def test_one_who_waits_is_woken(tmp_path: Path) -> None:
    with Doorbell(tmp_path, "log") as bell:
        woken: list[bool] = []
        thread = threading.Thread(target=lambda: woken.append(bell.wait(60)))
        thread.start()
        while thread.is_alive():
            ring(tmp_path, "log")
            thread.join(0.01)
        assert woken == [True]


def test_all_threads_that_wait_are_woken(tmp_path: Path) -> None:
    with Doorbell(tmp_path, "log") as bell:
        woken: list[bool] = []
        threads = [threading.Thread(target=lambda: woken.append(bell.wait(60))) for _ in range(8)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            ring(tmp_path, "log")
            threads[-1].join(0.01)
        assert woken == [True] * 8


def test_when_the_one_who_listens_for_all_gives_up_another_listens(tmp_path: Path) -> None:
    with Doorbell(tmp_path, "log") as bell:
        woken: list[bool] = []
        short, long = (threading.Thread(target=lambda seconds=seconds: woken.append(bell.wait(seconds))) for seconds in (0.1, 60))
        short.start()
        long.start()
        short.join()
        while long.is_alive():
            ring(tmp_path, "log")
            long.join(0.01)
        assert woken == [False, True]


def test_the_socket_of_a_process_that_is_gone_is_removed(tmp_path: Path) -> None:
    dead = Doorbell(tmp_path, "log")
    assert dead._socket is not None
    dead._socket.close()
    ring(tmp_path, "log")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_a_very_long_name_will_do(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 200) / ("y" * 200)
    with Doorbell(folder, "log") as bell:
        ring(folder, "log")
        assert bell.wait(10)


def test_where_no_socket_can_be_made_one_only_sleeps(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Doorbell(tmp_path / "file", "log") as bell:
        assert bell.wait(0.001)
    ring(tmp_path / "nowhere", "log")


def test_a_ring_that_another_thread_has_heard_counts_for_who_waits_a_moment_later(tmp_path: Path) -> None:
    with Doorbell(tmp_path, "log") as bell:
        ring(tmp_path, "log")
        heard = bell.wait(10)
        found: list[bool] = []
        thread = threading.Thread(target=lambda: found.append(bell.wait(0)))
        thread.start()
        thread.join()
        assert (heard, found, bell.wait(0)) == (True, [True], False)
