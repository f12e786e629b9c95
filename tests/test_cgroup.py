"""The control group of a job with limits: held by the kernel where groups are writable, and no loss where they are not."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import PATIENCE, processes, python, run, running, shell, until
from overnight.executors.local import LocalExecutor
from overnight.jobs import GROUP
from overnight.models import JobState
from overnight.supervisor import cgroup

MIB = 2**20
needs_groups = pytest.mark.skipif(
    not {"memory", "pids"} <= set(cgroup.describe().replace(":", "").split()), reason="no control groups that can be written here"
)


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[LocalExecutor]:
    with LocalExecutor(tmp_path / "jobs") as executor:
        yield executor


def groups(tmp_path: Path) -> list[Path]:
    """What was noted of the group of the job."""
    return [Path(line) for line in (tmp_path / "jobs" / "job.1" / GROUP).read_text().splitlines()]


@needs_groups
def test_memory_is_held_by_the_kernel_between_two_looks_of_the_supervisor(executor: LocalExecutor) -> None:
    hog = "block = b'x' * (600 * 2**20)\nprint('all of it')"
    status = run(executor, python(hog, memory_limit=64 * MIB))
    assert (status.state, status.cause, status.end, status.peak_rss_mb < 80) == (JobState.FAILED, "memory limit of 64 MB", "", True)


@needs_groups
def test_a_worker_that_the_kernel_ends_at_the_limit_ends_the_job_with_that_cause(executor: LocalExecutor) -> None:
    script = "import os, time\nif os.fork() == 0:\n    bytearray(b'x') * 2**28\n    os._exit(0)\nos.wait()\ntime.sleep(600)"
    status = run(executor, python(script, memory_limit=64 * MIB))
    assert (status.state, status.cause) == (JobState.FAILED, "memory limit of 64 MB")


@needs_groups
def test_threads_count_as_processes_do(executor: LocalExecutor) -> None:
    script = "import threading, time\nfor _ in range(50): threading.Thread(target=time.sleep, args=(0.2,)).start()"
    status = run(executor, python(script, process_limit=20))
    assert (status.state, status.cause) == (JobState.FAILED, "process limit of 20")


@needs_groups
def test_what_the_command_does_first_is_done_in_the_group(executor: LocalExecutor, tmp_path: Path) -> None:
    status = run(executor, shell("", argv=("cat", "/proc/self/cgroup"), process_limit=20, memory_limit=64 * MIB))
    assert [path.name in status.end for path in groups(tmp_path)] == [True] * len(groups(tmp_path))


@needs_groups
def test_the_supervisor_is_back_in_its_own_group_and_the_next_job_without_limits_is_in_none(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    status = running(executor, shell(f"echo @up=1; until [ -e {tmp_path}/go ]; do sleep 0.01; done", process_limit=20))
    supervisor, own = (Path(f"/proc/{pid}/cgroup").read_text() for pid in (status.pid, "self"))
    (tmp_path / "go").touch()
    executor.poll("job.1", PATIENCE)
    after = run(executor, shell("", id="job.2", argv=("cat", "/proc/self/cgroup"))).end
    assert (supervisor, after) == (own, own)


@needs_groups
def test_the_group_is_gone_when_the_job_is_over(executor: LocalExecutor, tmp_path: Path) -> None:
    run(executor, shell("sleep 600 & exit 3", process_limit=20))
    assert [path for path in groups(tmp_path) if path.exists()] == []


@needs_groups
def test_the_seconds_of_children_that_nobody_waited_for_are_counted(executor: LocalExecutor) -> None:
    busy = (
        "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nif os.fork() == 0:\n"
        "    while time.process_time() < 0.3: pass\n    os._exit(0)\n"
        "try:\n    os.wait()\nexcept ChildProcessError:\n    pass"
    )
    assert run(executor, python(busy, process_limit=20)).cpu_seconds >= 0.3


@needs_groups
def test_who_hides_from_the_marks_of_a_killed_supervisor_is_found_by_the_group(executor: LocalExecutor, tmp_path: Path, mark: str) -> None:
    hides = (
        "import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        os.execve('/bin/sleep', ['sleep', '{mark}'], {{}})\n    os._exit(0)\nos.wait()\nprint('@up=1', flush=True)\ntime.sleep(600)"
    )
    status = running(executor, python(hides, process_limit=20))
    assert until(lambda: processes(f"sleep {mark}") != [])
    (tmp_path / "jobs" / "job.1" / "lock").write_text("0 0\n")  # nothing was noted of it
    os.kill(status.pid, signal.SIGKILL)
    lost = executor.poll("job.1", PATIENCE)
    left = [path for path in groups(tmp_path) if path.exists()]
    assert (lost.state, lost.survivors, processes(f"sleep {mark}"), left) == (JobState.LOST, 2, [], [])


@needs_groups
def test_nothing_but_groups_of_ours_is_ever_ended_by_name(tmp_path: Path) -> None:
    own = [line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    (tmp_path / GROUP).write_text("".join(f"/sys/fs/cgroup{path}\n/sys/fs/cgroup/pids{path}\n" for path in own))
    assert cgroup.members(str(tmp_path)) == []


def test_a_group_of_version_two_lets_children_be_born_counts_them_and_ends_them(tmp_path: Path, mark: str) -> None:
    mounts, places = cgroup._mounts("/proc/self"), cgroup._places()
    home = cgroup._join(mounts[""], places.get("", "")) if "" in mounts else ""
    if not home or not cgroup._is_ours(home, "cgroup.procs"):
        pytest.skip("no groups of version two that can be written here")
    path = f"{home}/overnight-test-{mark}"
    os.mkdir(path)
    group = cgroup.Group([cgroup._Part(path, home, "cgroup.procs", ())])
    (tmp_path / GROUP).write_text(f"{path}\n")
    with group.inside():
        child = subprocess.Popen(["sh", "-c", f"while [ ! -e {tmp_path}/go ]; do :; done; exec sleep {mark}"], start_new_session=True)
    born, ours = [process.pid for process in cgroup.members(str(tmp_path))], Path("/proc/self/cgroup").read_text()
    assert until(lambda: group.cpu_seconds() > 0.05)
    (tmp_path / "go").touch()
    group.close()
    assert (born, "overnight-test" in ours, child.wait(10), os.path.exists(path)) == ([child.pid], False, -signal.SIGKILL, False)


# ---------------------------------------------------------------- machines that are not this one


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of files in the place of the kernel's; we are in /user/app/ours."""
    top = tmp_path / "cgroup"
    (top / "user" / "app" / "ours").mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "mountinfo").write_text(f"24 1 0:21 / {top} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n")
    (tmp_path / "proc" / "cgroup").write_text("0::/user/app/ours\n")
    for folder, controllers in (("user/app/ours", ""), ("user/app", "memory pids"), ("user", "cpu memory pids"), ("", "cpu memory pids")):
        (top / folder / "cgroup.subtree_control").write_text(f"{controllers}\n")
        for file in ("cgroup.procs", "memory.max", "pids.max"):
            (top / folder / file).write_text("max\n")
    monkeypatch.setattr(cgroup, "_PROC", str(tmp_path / "proc"))
    return top


def kernel(path: Path) -> None:
    """Make the files that the kernel puts into a new group."""
    path.mkdir()
    for name in ("cgroup.procs", "cgroup.kill", "memory.max", "memory.oom.group", "pids.max"):
        (path / name).touch()


def made(machine: Path, memory: int, processes_: int) -> tuple[str, dict[str, str]]:
    """Where a job's group would be made on that machine, and with which limits."""
    parts = cgroup._plan("overnight-x", memory, processes_)
    if not parts:
        return "", {}
    path = Path(parts[0].path)
    kernel(path)
    cgroup._build(parts[0])
    found = {name: (path / name).read_text() for name in ("memory.max", "memory.oom.group", "pids.max")}
    return str(path.relative_to(machine)), found


def test_a_delegated_group_of_version_two_is_made_beside_ours(machine: Path) -> None:
    assert made(machine, 64, 20) == ("user/app/overnight-x", {"memory.max": "64", "memory.oom.group": "1", "pids.max": "20"})


def test_a_limit_of_the_group_that_is_left_still_holds(machine: Path) -> None:
    (machine / "user" / "app" / "ours" / "pids.max").write_text("12\n")
    assert made(machine, 64, 20) == ("user/app/overnight-x", {"memory.max": "64", "memory.oom.group": "1", "pids.max": "12"})


def test_no_group_is_made_that_would_escape_a_limit_of_ours(machine: Path) -> None:
    (machine / "user" / "app" / "ours" / "memory.max").write_text("1000\n")
    assert made(machine, 0, 20) == ("", {})


def test_no_group_is_made_where_no_controller_is_handed_on(machine: Path) -> None:
    for folder in ("user/app", "user", ""):
        (machine / folder / "cgroup.subtree_control").write_text("cpu\n")
    assert made(machine, 64, 20) == ("", {})


def test_a_machine_without_groups_has_none_and_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "_PROC", str(tmp_path))
    assert (cgroup.make(str(tmp_path), 64, 20), cgroup.describe()) == (None, "")


def test_groups_that_cannot_be_made_are_no_error(machine: Path, tmp_path: Path) -> None:
    # A plain folder has none of the kernel's files: writing a limit fails.
    assert (cgroup.make(str(tmp_path), 64, 20), sorted(path.name for path in (machine / "user" / "app").iterdir() if path.is_dir())) == (
        None,
        ["ours"],
    )
