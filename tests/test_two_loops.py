"""Two loops that want the same study at the same moment: one works, the other says who does; the lock dies with its process."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

from studies import PATIENCE, Study, ended, study, until  # noqa: F401 - ended is used by every test

THINKS = dict.fromkeys(range(1, 400), "sleep 600")


def started(found: Study) -> subprocess.Popen[str]:
    return subprocess.Popen(
        found.command("run"), cwd=found.root, env=found.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )  # fmt: skip


def wrong_when_two_start(found: Study) -> tuple[list[str], float]:
    """What is wrong when two loops start at once, and the seconds until the second had ended. The first is killed in the end."""
    begun = time.monotonic()
    both = [started(found), started(found)]
    until(lambda: any(loop.poll() is not None for loop in both))
    seconds = time.monotonic() - begun
    second, first = sorted(both, key=lambda loop: loop.poll() is None)
    said = second.communicate(timeout=PATIENCE)[0]
    named = re.search(r"error\[E-BUSY\]: another loop works on this study: pid (\d+) on \S+, since \d\d:\d\d:\d\d\n", said)
    wrong = [] if second.returncode == 1 and named and int(named[1]) == first.pid and "Traceback" not in said else [f"{first.pid}: {said}"]
    wrong += [f"the first one ended: {first.communicate()[0]}"] if first.poll() is not None else []
    first.kill()
    first.communicate()
    held = found.status().get("holder")  # nobody, at once; there may be no study yet
    return wrong + ([f"still held: {held}"] if held else []), seconds


def at_once(found: Study, times: int) -> tuple[list[str], float]:
    """The same again and again on one study, and the longest wait."""
    turns = [wrong_when_two_start(found) for _ in range(times)]
    return [text for wrong, _ in turns for text in wrong], max(seconds for _, seconds in turns)


def finished(found: Study) -> list[str]:
    """What is wrong with the study once a loop has brought it to its end."""
    done = found.call("run", "--budget", "0")
    return found.faults() + ([f"code {done.code}: {done.err}"] if done.code else []) + ([] if found.runs() == ["exp-001"] else found.runs())


def test_of_two_loops_that_start_at_once_one_works_and_the_other_names_it(tmp_path: Path) -> None:
    found = study(tmp_path, THINKS, "--budget", "1")
    wrong, _ = at_once(found, 5)
    assert (wrong, finished(found)) == ([], [])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_of_two_loops_that_start_at_once_the_other_ends_within_five_seconds_a_hundred_times(tmp_path: Path) -> None:
    found = study(tmp_path, THINKS, "--budget", "1")
    wrong, longest = at_once(found, 100)
    assert (wrong, longest < 5, finished(found)) == ([], True, []), longest
