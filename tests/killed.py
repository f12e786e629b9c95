"""Runs overnight and ends it with SIGKILL right before or after the n-th call of a function.

Usage: killed.py before|after N MODULE:CLASS.METHOD[=WORD] WORDS...   (only calls whose arguments hold WORD are counted)
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

from overnight.cli import main


def arm(when: str, nth: int, point: str) -> None:
    """Wrap the function."""
    place, _, word = point.partition("=")
    module, _, path = place.partition(":")
    owner, _, name = path.partition(".")
    holder = getattr(importlib.import_module(module), owner)
    real = getattr(holder, name)
    calls = 0

    def wrapped(*args: Any, **named: Any) -> Any:
        nonlocal calls
        counts = not word or any(word in str(each) for each in (*args, *named.values()))
        calls += counts
        if counts and calls == nth and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(*args, **named)
        if counts and calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(holder, name, wrapped)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    main(sys.argv[4:])
