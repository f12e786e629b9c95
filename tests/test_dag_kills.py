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
from pathlib import Path

import pytest

from commands import until
from pipelines import Project, project, quoted

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
