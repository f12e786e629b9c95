"""What tests of several rooms share."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Iterator

import pytest


@pytest.fixture
def mark() -> Iterator[str]:
    """A number for the command lines of one test's processes (`sleep MARK`); who still bears it afterwards is ended."""
    found = str(random.randrange(10**9, 10**10))
    yield found
    lines = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    for pid in (int(line.split()[0]) for line in lines if found in line):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
