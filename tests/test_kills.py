"""Whoever works on a study is killed at random moments: the loop, supervisors, the helper that starts them, git."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from studies import Study, ended, study, until  # noqa: F401 - ended is used by every test
from told import COUNTING, acknowledged, answer, key

AGENT = COUNTING.replace("SLOW", "none")


def supervisors(found: Study) -> list[int]:
    """Process ids of those that have a job that is not over."""
    pids = []
    for file in (found.root / ".overnight" / "jobs").glob("*/status.json"):
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(file.read_bytes())
            pids += [told["pid"]] if told["state"] == "RUNNING" else []
    return pids


def helpers(loop: int) -> list[int]:
    """Process ids of the loop's children: git, and the one that starts supervisors."""
    with contextlib.suppress(OSError):
        return [int(pid) for task in Path(f"/proc/{loop}/task").iterdir() for pid in (task / "children").read_text().split()]
    return []


def ended_at_once(pid: int) -> bool:
    """Kill a process; whether there was one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def killed(found: Study, times: int, moments: random.Random) -> Counter[str]:
    """Kill so often, start the loop again whenever it is dead; how often whom. Ends early if the study does."""
    count: Counter[str] = Counter()
    loop: subprocess.Popen[str] | None = None
    while count.total() < times:
        if loop is None or loop.poll() is not None:
            if loop is not None and loop.returncode != -signal.SIGKILL:
                count["ended by itself"] += loop.returncode != 0
                return count
            said = found.said().count("[loop] study t: ") if loop else 0
            loop = found.spawn(found.command("run"))
            until(lambda before=said, it=loop: found.said().count("[loop] study t: ") > before or it.poll() is not None)  # type: ignore[misc]
        kind = moments.choices(("loop", "supervisor", "helper"), (5, 4, 1))[0]
        if kind == "supervisor":
            until(lambda it=loop: supervisors(found) or it.poll() is not None)  # type: ignore[misc]
        time.sleep(moments.uniform(0, 0.05 if kind == "supervisor" else 0.4))
        pids = {"loop": [loop.pid], "supervisor": supervisors(found), "helper": helpers(loop.pid)}[kind]
        count[kind] += bool(pids) and ended_at_once(moments.choice(pids))
        if kind == "loop":
            loop.wait()
    if loop is not None:
        loop.kill()
        loop.wait()
    return count


def survived(found: Study, times: int, seed: int) -> list[str]:
    """What is wrong after so many kills, once the study has come to its end."""
    count = killed(found, times, random.Random(seed))
    done = found.call("run", "--budget", "1")  # whatever was begun is finished
    rows = found.rows()
    expected = dict((told, (decision, value)) for told, decision, value in map(answer, range(1000)))  # noqa: C402 - the pair is taken apart
    odd = [
        f"#{row['number']} {row['description']}: {row['decision']} {row['cause']}"
        for row in rows[1:]
        if row["crash_kind"] not in ("lost", "start") and not row["cause"].startswith(("rejected: no proposal", "rejected: half an edit")) and expected[row["description"]] != (row["decision"], row["value"])
    ]  # fmt: skip
    again = Counter(row["description"] for row in rows if row["description"].startswith("left "))
    trained = Counter(found.runs())
    surplus = trained.total() - len(trained)
    wrong = [f"code {done.code}: {done.err}"] if done.code else []
    wrong += [f"ended by itself: {found.said()[-2000:]}"] if count["ended by itself"] else []
    wrong += [f"odd: {odd}"] if odd else []
    wrong += [f"proposed twice: {told}" for told, number in again.items() if number > 1]
    wrong += [f"{surplus} surplus runs after {count['supervisor']} killed supervisors"] if surplus > count["supervisor"] else []
    wrong += [f"said and not recorded: {lost}"] if (lost := acknowledged(found) - set(map(key, rows))) else []
    return wrong + found.faults(rows) + ([] if count.total() >= times else [f"only {count}"])


def test_fifteen_kills_of_anybody_lose_nothing_that_was_said_and_run_nothing_twice(tmp_path: Path) -> None:
    found = study(tmp_path, {}, "--budget", "300", agent=AGENT)
    assert survived(found, 15, 11) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(10))
def test_a_thousand_kills_of_anybody_lose_nothing_that_was_said_and_run_nothing_twice(tmp_path: Path, part: int) -> None:
    found = study(tmp_path, {}, "--budget", "999", agent=AGENT)
    assert survived(found, 100, part) == []
