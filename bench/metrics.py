"""Lines a second through the metric scanner, by kind of output: ``python bench/metrics.py [--json]``.

The floor that the project promises is 200,000 lines/s on mixed training output.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from overnight.metrics import Scanner

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 65536  # what one read of a pipe gives at most
LOG = b"2026-01-05 03:12:45,120 INFO trainer: batch 512 of 2048 done, lr 0.000300, 1423.5 samples/s\n"
METRICS = b"[job-8b2f1e] Epoch %d/80   @loss=2.1432  @mpjpe=45.12\n"
BAR = b"train:  43%%|####3     | 439/1024 [00:31<00:41, 14.03it/s, loss=0.%d]"


def plain(number: int) -> bytes:
    """Return a line of an ordinary log."""
    return LOG if number % 2 else b"saved checkpoint to runs/exp/weights/last.pt (12.3 MB)\n"


def bars(number: int) -> bytes:
    """Return a progress bar, redrawn."""
    return b"\r" + BAR % number


def mixed(number: int) -> bytes:
    """Return progress bars, text, colours, and one metric line in five."""
    lines = (METRICS % number, bars(number), b"\n" + plain(0), plain(1), b"\x1b[1mval\x1b[0m images 5000, instances 12034\n")
    return lines[number % 5]


KINDS: dict[str, tuple[Callable[[int], bytes], int]] = {
    "no metrics": (plain, 200_000),
    "progress bars": (bars, 200_000),
    "mixed, 1 metric line in 5": (mixed, 200_000),
    "all @metrics": (lambda number: METRICS % number, 100_000),
    "all JSON": (lambda number: b'{"step": %d, "loss": 0.31, "eval": {"acc": 0.9}}\n' % number, 50_000),
    "summary blocks": (lambda number: b"fitness: 0.612345\n" if number % 9 else b"\n---\n", 100_000),
    "lines of 64 kB": (lambda _: b"x" * 65535 + b"\n", 2_000),
}


def rate(line: Callable[[int], bytes], count: int) -> tuple[float, float]:
    """Lines and megabytes a second, the best of three passes."""
    output = b"".join(line(number) for number in range(count))
    best = float("inf")
    for _ in range(3):
        scanner = Scanner("fitness")
        started = time.perf_counter()
        for at in range(0, len(output), CHUNK):
            scanner.feed(output[at : at + CHUNK])
        scanner.close()
        best = min(best, time.perf_counter() - started)
    return count / best, len(output) / best / 1e6


def main() -> None:
    """Print one row for each kind of output."""
    rows = {kind: rate(*how) for kind, how in KINDS.items()}
    if "--json" in sys.argv:
        print(json.dumps({kind: {"lines_per_s": round(lines), "mb_per_s": round(size)} for kind, (lines, size) in rows.items()}))
        return
    for kind, (lines, size) in rows.items():
        print(f"{kind:<28}{lines:>14,.0f} lines/s{size:>10,.0f} MB/s")


if __name__ == "__main__":
    main()
