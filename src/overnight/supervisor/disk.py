"""How many bytes lie under a folder, counted again and again in a thread, so that a large tree delays nothing."""

from __future__ import annotations

import os
import threading
import time

_FIRST, _EVERY = 0.25, 2.0  # seconds between two counts: at first, and later
_SHARE = 20  # at most one part in so many of the time goes into counting


class Usage:
    """``used`` is what the last count found, in bytes on the disk; files that cannot be read count nothing."""

    def __init__(self, folder: str) -> None:
        self.used = 0
        self._folder = folder

    def start(self) -> None:
        """Begin to count, in a thread that nobody has to wait for."""
        threading.Thread(target=self._run, name="disk", daemon=True).start()

    def _run(self) -> None:
        gap = _FIRST
        while True:
            time.sleep(gap)
            begun = time.monotonic()
            self.used = count(self._folder)
            gap = max(min(2 * gap, _EVERY), _SHARE * (time.monotonic() - begun))


def count(folder: str) -> int:
    """Bytes on the disk of all files under ``folder``; links are not followed."""
    total = 0
    queue = [folder]
    while queue:
        try:
            with os.scandir(queue.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        queue.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue  # gone, or not ours to read
    return total
