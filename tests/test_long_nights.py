"""Many short experiments in one go with an agent that fails in every way: nothing grows, nothing is asked, every failure is ridden out and said."""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from noisy import table
from studies import Study, ended, study  # noqa: F401 - ended is used by every test

# Its n-th call: mostly something worse, now and then something better, and from time to time a failure of one kind or another.
UNRELIABLE = """\
n=$(($(cat {out}/asked 2>/dev/null || echo 0) + 1))
echo $n > {out}/asked
case $((n % EVERY)) in
  3) no-such-agent --print; exit ;;
  8) echo 'API Error: 401 authentication_error: invalid x-api-key' >&2; exit 1 ;;
  13) echo 'API Error: 429 rate_limit_error'; exit 1 ;;
  18) echo 'API Error (529 overloaded_error)'; exit 2 ;;
  23) exit 0 ;;
  28) head -c 5000 /dev/urandom > train.py; echo garbage; exit ;;
  33) head -c 10000000 /dev/zero | tr '\\0' 'y'; echo; echo "print('@loss=3')  # $n" > train.py; echo flood; exit ;;
  38) sleep 600 ;;
  43) printf '\\377\\376\\033[2J'; kill -9 $$ ;;
esac
if [ $((n % 7)) = 0 ]; then echo "print('@loss=0.$((99999 - n))')" > train.py; else echo "print('@loss=2.$n')" > train.py; fi
echo "idea $n"
"""
# What the status line says of each outage, and how often in so many calls.
OUTAGES = {
    3: "exit code 127: .*no-such-agent: not found",
    8: "exit code 1: API Error: 401 authentication_error: invalid x-api-key",
    13: "exit code 1: API Error: 429 rate_limit_error",
    18: r"exit code 2: API Error \(529 overloaded_error\)",
    38: "did not answer within its time limit of 1 s",
    43: r"exit code 137 \(SIGKILL\)",
}


@dataclass
class Watched:
    """What was seen of a loop from outside."""

    code: int = -1
    said: set[int] = field(default_factory=set)  # outages that the status line told
    rss: list[int] = field(default_factory=list)  # bytes, over time
    files: list[int] = field(default_factory=list)  # open descriptors, over time


def watched(found: Study, seconds: float) -> Watched:
    """Run the study to its end and look at the process and at the status meanwhile."""
    seen = Watched()
    loop = found.spawn(found.command("run"))
    until = time.monotonic() + seconds
    while loop.poll() is None and time.monotonic() < until:
        with contextlib.suppress(subprocess.TimeoutExpired):
            loop.wait(0.1)
        if "[loop] Cycle 1" not in found.said():  # what a loop takes at its start is no growth
            continue
        with contextlib.suppress(OSError, TypeError):
            resident = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{loop.pid}/status").read_text())
            seen.rss.append(int(resident[1]) * 1024)  # type: ignore[index] # a process that is just going has none
            seen.files.append(len(list(Path(f"/proc/{loop.pid}/fd").iterdir())))
        [(reason,)] = table(found, "SELECT reason FROM study")  # which the status shows; to ask for that takes longer than an outage may
        seen.said |= {kind for kind, text in OUTAGES.items() if re.search(text, reason)}
    seen.code = loop.wait(1)
    return seen


def night(folder: Path, experiments: int, every: int, seconds: float) -> list[str]:
    """What is wrong with a night of so many experiments in which each failure comes once in ``every`` calls."""
    found = study(folder, {}, "--budget", str(experiments), "--proposer-time-limit", "1", agent=UNRELIABLE.replace("EVERY", str(every)))
    seen = watched(found, seconds)
    rows = found.rows()
    quarter = len(seen.rss) // 4
    growth = max(seen.rss[-quarter:]) - max(seen.rss[quarter // 2 : quarter])
    more = statistics.median(seen.files[-quarter:]) - statistics.median(seen.files[:quarter])  # what is open for a moment apart
    table(found, "PRAGMA wal_checkpoint(TRUNCATE)")  # which a loop does at its end, unless somebody looks just then
    ledger = sum(path.stat().st_size for path in (found.root / ".overnight").glob("overnight.db*"))
    wrong = found.faults(rows) + ([f"code {seen.code}"] if seen.code else [])
    wrong += [f"{len(rows)} rows"] if len(rows) != experiments + 1 else []
    wrong += [f"ended: {found.status()['reason']}"] if "budget used up" not in found.status()["reason"] else []
    wrong += [f"{growth / 1e6:.1f} MB more"] if growth > 20e6 else []
    wrong += [f"{more} more open files"] if more >= 1 else []
    wrong += [f"the record takes {ledger} bytes"] if ledger > 1e5 + 5e6 * experiments / 1000 else []
    wrong += [f"the status said only {seen.said}"] if seen.said != set(OUTAGES) else []
    causes = {row["cause"].partition(":")[0] for row in rows if row["decision"] == "crash"}
    wrong += [f"crashes {causes}"] if causes and not causes <= {"SyntaxError", "exit code 1", "ValueError"} else []
    print(
        f"{len(rows)} rows, {growth / 1e6:+.1f} MB, {more:+g} open files of {max(seen.files)}, record {ledger / len(rows):.0f} bytes a row"
    )
    return wrong


@pytest.mark.timeout(600)
def test_forty_five_experiments_with_an_agent_that_fails_in_every_way_leave_nothing_that_grows(tmp_path: Path) -> None:
    assert night(tmp_path, 45, 50, 500) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_six_hundred_experiments_with_an_agent_that_fails_in_every_way_leave_nothing_that_grows(tmp_path: Path) -> None:
    assert night(tmp_path, 600, 150, 1800) == []
