"""Whoever works on a pipeline is killed at random moments: the conductor, supervisors, the helper that starts them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from commands import until
from pipelines import Project, project, quoted
from yards import LEASE, Yard

LAYERS = ("prepare", "train", "test")
WIDE = 4


def text(folder: Path) -> str:
    """Three layers of four tasks and one that gathers; each writes its name into a common file as the last thing it does."""
    nodes = []
    for number, name in enumerate(LAYERS):
        work = quoted(
            f"sleep 0.0$OVERNIGHT_MATRIX_N; echo {{{{ matrix.n }}}} > {name}.txt; echo @{name}={{{{ matrix.n }}}}; echo $OVERNIGHT_TASK >> {folder}/marks"
        )
        needs = f", needs: {LAYERS[number - 1]}" if number else ""
        nodes.append(f"  - {{name: {name}, command: {work}, matrix: {{n: [{', '.join(map(str, range(WIDE)))}]}}{needs}}}\n")
    gather = quoted(
        f"cat test/n=*/test.txt test/n=*/train.txt test/n=*/prepare.txt > all.txt && echo @sum={{{{ test.test.mean }}}} && echo $OVERNIGHT_TASK >> {folder}/marks"
    )
    return "nodes:\n" + "".join(nodes) + f"  - {{name: gather, command: {gather}, needs: test}}\n"


def supervisors(found: Project) -> list[int]:
    """Process ids of those that have a job that is not over."""
    pids = []
    for file in found.hub.glob("dags/jobs/*/status.json"):
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(file.read_bytes())
            pids += [told["pid"]] if told["state"] == "RUNNING" else []
    return pids


def helpers(conductor: int) -> list[int]:
    """Process ids of the conductor's children: git, and the one that starts supervisors."""
    with contextlib.suppress(OSError):
        return [int(pid) for task in Path(f"/proc/{conductor}/task").iterdir() for pid in (task / "children").read_text().split()]
    return []


def killed(found: Project, times: int, moments: random.Random) -> Counter[str]:
    """Kill so often, and go on whenever the conductor is dead; how often whom. Ends early if the pipeline does."""
    count: Counter[str] = Counter()
    conductor: subprocess.Popen[bytes] | None = None
    while count.total() < times:
        if conductor is None or conductor.poll() is not None:
            if conductor is not None and conductor.returncode != -signal.SIGKILL:
                return count
            said = len(found.said.read_bytes()) if found.said.exists() else 0
            conductor = (
                found.spawn("run", "pipeline.yaml")
                if conductor is None
                else found.spawn("resume", "--code", "begun")
                if found.rows("SELECT 1 FROM dag")
                else found.spawn("run", "pipeline.yaml")
            )
            until(lambda before=said, it=conductor: found.said.stat().st_size > before or it.poll() is not None)  # type: ignore[misc]
        kind = moments.choices(("conductor", "supervisor", "helper"), (5, 2, 1))[0]
        time.sleep(moments.uniform(0, 0.15))
        pids = {"conductor": [conductor.pid], "supervisor": supervisors(found), "helper": helpers(conductor.pid)}[kind]
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(moments.choice(pids), signal.SIGKILL)
                count[kind] += 1
        if kind == "conductor":
            conductor.wait()
    if conductor is not None:
        conductor.kill()
        conductor.wait()
    return count


def survived(found: Project, times: int, seed: int) -> list[str]:
    """What is wrong after so many kills, once the pipeline has come to its end."""
    count = killed(found, times, random.Random(seed))
    done = found.dag("resume", "--code", "begun")
    marks = Counter((found.root.parent / "marks").read_text().split())
    states = found.states()
    sums = found.rows("SELECT vals FROM task WHERE task='gather'")
    wrong = [f"{task} is {state}" for task, state in states.items() if state != "SUCCEEDED"]
    wrong += [f"{task} never ran" for task in states if not marks[task]]
    surplus = marks.total() - len(marks)
    wrong += [f"{surplus} ran twice after {count['supervisor']} killed supervisors"] if surplus > count["supervisor"] else []
    wrong += [f"the sum is {sums}"] if sums != [('{"sum": 1.5}',)] else []
    left = [path.name for path in found.hub.glob("dags/runs/*")]
    wrong += [f"folders are left: {left}"] if left and not count["conductor"] else []
    return wrong + ([f"code {done.code}: {done.out} {done.err}"] if done.code else [])


def test_ten_kills_of_anybody_lose_no_success_and_run_nothing_twice(tmp_path: Path) -> None:
    found = project(tmp_path, text(tmp_path), {})
    assert survived(found, 10, 5) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(20))
def test_hundreds_of_kills_of_anybody_lose_no_success_and_run_nothing_twice(tmp_path: Path, part: int) -> None:
    found = project(tmp_path, text(tmp_path), {})
    assert survived(found, 25, 100 + part) == []


# --- over the workers of a hub -----------------------------------------------------------------------------------------


def at_workers(yard: Yard) -> list[int]:
    """Process ids of supervisors that have a job of a worker."""
    pids = []
    for file in yard.hub.glob("workers/*/jobs/*/status.json"):
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(file.read_bytes())
            pids += [told["pid"]] if told["state"] == "RUNNING" else []
    return pids


def kept_up(yard: Yard) -> None:
    """Start anew each worker that is dead."""
    for name in ("left", "right"):
        if not any(name in each.args and each.poll() is None for each in yard.started):  # type: ignore[operator] # a list of words
            yard.worker("--slots", "3", "--gpus", "0", name=name)


def conducted(found: Project) -> subprocess.Popen[bytes]:
    """Somebody who conducts it, at work."""
    words = ("resume", "--code", "begun") if found.rows("SELECT 1 FROM dag") else ("run", "pipeline.yaml", "--executor", "hub")
    before = found.said.stat().st_size if found.said.exists() else 0
    conductor = found.spawn(*words)
    until(lambda: found.said.stat().st_size > before or conductor.poll() is not None)
    return conductor


def survived_over_workers(yard: Yard, found: Project, times: int, moments: random.Random) -> list[str]:
    """What is wrong after so many kills of conductors, workers and supervisors, once the pipeline has come to its end."""
    count: Counter[str] = Counter()
    kept_up(yard)
    until(lambda: len(yard.alive()) == 2)
    conductor = conducted(found)
    while count.total() < times and conductor.poll() in (None, -signal.SIGKILL):
        conductor = conducted(found) if conductor.poll() is not None else conductor
        time.sleep(moments.uniform(0, 0.4))
        kind = moments.choices(("conductor", "worker", "supervisor"), (4, 2, 2))[0]
        alive = [each.pid for each in yard.started if each.poll() is None]
        pids = {"conductor": [conductor.pid], "worker": alive, "supervisor": at_workers(yard)}[kind]
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(moments.choice(pids), signal.SIGKILL)
            count[kind] += 1
        if kind == "conductor":
            conductor.wait()
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # so that a worker that was killed just now is seen to be dead
        kept_up(yard)
    conductor.kill()
    conductor.wait()
    done = found.dag("resume", "--code", "begun")
    marks = Counter((found.root.parent / "marks").read_text().split())
    states, sums = found.states(), found.rows("SELECT vals FROM task WHERE task='gather'")
    surplus, cut = marks.total() - len(marks), count["worker"] + count["supervisor"]
    wrong = [f"{task} is {state}" for task, state in states.items() if state != "SUCCEEDED"]
    wrong += [f"{task} never ran" for task in states if not marks[task]]
    wrong += [f"{surplus} ran twice after {count}"] if surplus > 3 * cut else []
    wrong += [f"the sum is {sums}"] if sums != [('{"sum": 1.5}',)] else []
    return wrong + ([f"code {done.code}: {done.out} {done.err}"] if done.code else [])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(8))
def test_kills_of_workers_supervisors_and_conductors_lose_no_success(yard: Yard, part: int) -> None:
    found = project(yard.root, text(yard.root), {}, OVERNIGHT_HUB_LEASE=str(LEASE))
    env = {name: value for name, value in found.env.items() if name != "OVERNIGHT_GPUS"}
    assert survived_over_workers(yard, replace(found, env=env), 12, random.Random(200 + part)) == []
