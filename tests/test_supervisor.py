"""The supervisor and the local executor under misbehaving jobs, and when they are killed themselves. Real processes, no doubles."""

from __future__ import annotations

import fcntl
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight import jobs
from overnight.errors import JobError
from overnight.executors.local import LocalExecutor
from overnight.models import JobSpec, JobState, JobStatus, MetricPoint, MetricSummary

PATIENCE = 60.0
ENV = {"PATH": os.environ.get("PATH", os.defpath)}
SOURCE = str(Path(__file__).parents[1] / "src")
MIB = 2**20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def executor(root: Path) -> Iterator[LocalExecutor]:
    with LocalExecutor(root) as executor:
        yield executor


def shell(script: str, **more: Any) -> JobSpec:
    return JobSpec(**{"id": "job.1", "argv": ("sh", "-c", script), "cwd": "/", "env": ENV, **more})


def python(script: str, *arguments: str, **more: Any) -> JobSpec:
    return shell("", argv=(sys.executable, "-I", "-S", "-c", script, *arguments), **more)


def run(executor: LocalExecutor, spec: JobSpec) -> JobStatus:
    executor.submit(spec)
    return executor.poll(spec.id, PATIENCE)


def until(found: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not found() and time.monotonic() < end:
        time.sleep(0.005)
    return found()


def processes(marker: str) -> list[str]:
    """The command lines in which a marker appears."""
    lines = subprocess.run(["ps", "-eo", "stat=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if marker in line and not line.startswith("Z")]


def running(executor: LocalExecutor, spec: JobSpec) -> JobStatus:
    """Submit a job that prints a metric, and wait for it."""
    executor.submit(spec)
    assert until(lambda: bool(executor.tail(spec.id, 0)[0]))
    return executor.poll(spec.id)


def supervise(folder: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the supervisor as a program of its own on a job folder."""
    env = {**ENV, "PYTHONPATH": SOURCE}
    return subprocess.run([sys.executable, "-m", "overnight.supervisor", str(folder)], env=env, capture_output=True, text=True, **more)  # noqa: PLW1510 - the exit code is for the caller


# ---------------------------------------------------------------- output


def test_a_hundred_megabytes_of_output_are_cut_to_head_and_tail_with_the_last_metric_right(executor: LocalExecutor, root: Path) -> None:
    script = "yes 'tick tock' | head -c 50000000; echo; seq 100000 | sed 's/^/@lr=/'; echo @loss=0.5; yes 'the quick brown fox' | head -c 50000000; echo; echo end"
    status = run(executor, shell(script, log_head=100_000, log_tail=50_000, metric="loss"))
    text = (root / "job.1" / jobs.LOG).read_bytes()
    cut = b"\n[overnight: %d bytes cut]\n" % (status.log_bytes - 150_000)
    assert (status.log_bytes, len(text), text[100_000 : 100_000 + len(cut)], text[-5:], status.metrics["loss"].last, status.metrics["lr"]) == (
        100_988_911, 150_000 + len(cut), cut, b"\nend\n", 0.5, MetricSummary(100_000, 1, 100_000, 100_000),
    )  # fmt: skip


def test_one_line_of_thirty_megabytes_does_no_harm(executor: LocalExecutor) -> None:
    status = run(executor, shell("head -c 30000000 /dev/zero | tr '\\0' x; echo; echo @loss=0.5", metric="loss"))
    assert (status.state, status.log_bytes, status.metrics["loss"].last) == (JobState.SUCCEEDED, 30_000_011, 0.5)


def test_the_memory_of_the_supervisor_does_not_grow_with_the_output(executor: LocalExecutor, tmp_path: Path) -> None:
    flood = f"head -c 80000000 /dev/urandom; echo; echo @up=1; until [ -e {tmp_path}/go ]; do sleep 0.01; done"
    status = running(executor, shell(flood, log_head=10_000_000, log_tail=100_000))
    lines = Path(f"/proc/{status.pid}/status").read_text().splitlines()
    peak = next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))
    (tmp_path / "go").touch()
    assert (executor.poll("job.1", PATIENCE).state, peak < 60) == (JobState.SUCCEEDED, True)


def test_output_that_fits_is_kept_byte_by_byte(executor: LocalExecutor, root: Path) -> None:
    script = "import sys; [sys.stdout.buffer.write(bytes(range(256))) for _ in range(40)]"
    run(executor, python(script, log_head=10_000, log_tail=240))
    assert (root / "job.1" / jobs.LOG).read_bytes() == bytes(range(256)) * 40


def test_a_log_without_room_for_a_tail_ends_with_the_mark_of_the_cut(executor: LocalExecutor, root: Path) -> None:
    status = run(executor, shell("printf 0123456789", log_head=4, log_tail=0))
    assert ((root / "job.1" / jobs.LOG).read_bytes(), status.end) == (b"0123\n[overnight: 6 bytes cut]\n", "0123456789")


def test_the_end_of_the_output_is_in_the_status_although_it_was_cut(executor: LocalExecutor) -> None:
    status = run(executor, shell("seq 100000; echo Traceback", log_head=10, log_tail=10))
    assert (len(status.end), status.end[-22:]) == (16 * 1024, "99999\n100000\nTraceback\n"[-22:])


def test_a_job_goes_on_when_its_log_can_grow_no_more(root: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with LocalExecutor(root) as executor:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            run(executor, shell("exit 0", id="first"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        status = run(executor, shell("seq 100000; echo @loss=0.5"))
    assert (status.state, status.cause, status.metrics["loss"].last) == (JobState.SUCCEEDED, "output.log is incomplete: File too large", 0.5)


def test_the_end_of_a_job_that_filled_the_disk_is_recorded(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        with LocalExecutor(place / "jobs") as executor:
            status = run(executor, shell(f"seq 1000000; head -c 9999999 /dev/zero > {place}/full; seq 1000000; echo @loss=0.5"))
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert (status.state, status.cause, status.metrics["loss"].last) == (
        JobState.SUCCEEDED, "output.log is incomplete: No space left on device; metrics.jsonl is incomplete: No space left on device", 0.5,
    )  # fmt: skip


def test_a_job_that_closes_its_output_runs_on(executor: LocalExecutor, tmp_path: Path) -> None:
    status = run(executor, shell(f"exec >&- 2>&-; sleep 0.3; touch {tmp_path}/done"))
    assert (status.state, (tmp_path / "done").exists(), status.cpu_seconds < 0.25) == (JobState.SUCCEEDED, True, True)


def test_a_thousand_metric_names_and_the_goal_survive_a_flood_of_names(executor: LocalExecutor) -> None:
    script = "for n in range(5000): print(f'@m{n}={n}')\nprint('@loss=0.5')"
    status = run(executor, python(script, metric="loss"))
    assert (len(status.metrics), status.metrics["loss"].last) == (1001, 0.5)


# ---------------------------------------------------------------- the process tree

BOMB = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(7):
    if os.fork() == 0 and sys.argv[1] == "sessions":
        os.setsid()
time.sleep(1000)
"""

PHOENIX = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def keep(level):
    while True:
        if os.fork() == 0:
            os.setsid()
            keep(level - 1) if level else time.sleep(1000)
        os.wait()
if os.fork() == 0:
    keep(3)
time.sleep(0.3)
"""


@pytest.mark.parametrize("kind", ["group", "sessions"])
def test_a_fork_bomb_is_ended_to_the_last_process(executor: LocalExecutor, kind: str) -> None:
    status = run(executor, python(BOMB, kind, "bomb-1006.5", time_limit=0.6, grace=0.1))
    assert (status.state, processes("bomb-1006.5")) == (JobState.TIMED_OUT, [])


def test_processes_that_start_each_other_again_are_ended(executor: LocalExecutor) -> None:
    status = run(executor, python(PHOENIX, "phoenix-1007.5"))
    assert (status.state, status.survivors, processes("phoenix-1007.5")) == (JobState.SUCCEEDED, 5, [])


def test_a_process_whose_main_thread_has_ended_is_ended_too(executor: LocalExecutor) -> None:
    script = (
        "import os, ctypes, threading, time, sys\nif os.fork() == 0:\n    threading.Thread(target=time.sleep, args=(1000,)).start()\n"
        "    ctypes.CDLL(None).pthread_exit(None)\ntime.sleep(0.2)"
    )
    status = run(executor, python(script, "thread-1008.5"))
    assert (status.state, status.survivors, processes("thread-1008.5")) == (JobState.SUCCEEDED, 1, [])


def test_dead_daemons_do_not_pile_up_while_the_job_runs(executor: LocalExecutor, tmp_path: Path) -> None:
    script = f"for n in 1 2 3 4 5 6 7 8; do (sh -c : &); done; sleep 0.1; echo @up=1; until [ -e {tmp_path}/go ]; do sleep 0.01; done"
    status = running(executor, shell(script))
    children = subprocess.run(["ps", "-o", "stat=", "--ppid", str(status.pid)], capture_output=True, text=True, check=False).stdout.split()
    (tmp_path / "go").touch()
    executor.poll("job.1", PATIENCE)
    assert len(children) == 1


def test_the_leftovers_of_a_failed_job_do_not_hide_its_failure(executor: LocalExecutor) -> None:
    status = run(executor, shell("sleep 1009.5 & exit 7"))
    assert (status.state, status.exit_code, status.survivors, processes("sleep 1009.5")) == (JobState.FAILED, 7, 1, [])


# ---------------------------------------------------------------- limits


def test_a_job_over_its_memory_limit_is_ended(executor: LocalExecutor) -> None:
    status = run(executor, python("block = bytearray(200_000_000); import time; time.sleep(1000)", memory_limit=100 * MIB))
    assert (status.state, status.cause, status.peak_rss_mb > 100) == (JobState.FAILED, "memory limit of 100 MB", True)


def test_memory_that_workers_share_is_counted_once_before_a_job_is_ended(executor: LocalExecutor) -> None:
    script = "import os, time; block = bytearray(60_000_000); [os.fork() or (time.sleep(1), os._exit(0)) for _ in range(4)]; time.sleep(1)"
    status = run(executor, python(script, memory_limit=150 * MIB))
    assert (status.state, status.peak_rss_mb > 150) == (JobState.SUCCEEDED, True)


def test_a_job_over_its_process_limit_is_ended(executor: LocalExecutor) -> None:
    status = run(executor, python(BOMB, "group", "bomb-1010.5", process_limit=20))
    assert (status.state, status.cause, processes("bomb-1010.5")) == (JobState.FAILED, "process limit of 20", [])


def test_a_job_over_its_disk_limit_is_ended(executor: LocalExecutor, tmp_path: Path) -> None:
    status = run(executor, shell("head -c 3000000 /dev/zero > big; sleep 1000", cwd=str(tmp_path), disk_limit=2 * MIB))
    assert (status.state, status.cause) == (JobState.FAILED, "disk limit of 2 MB")


# ---------------------------------------------------------------- what the command inherits


def test_the_command_inherits_no_file_no_signal_setting_and_no_core_dump(executor: LocalExecutor) -> None:
    script = (
        "import os, resource, signal\n"
        "lines = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines())\n"
        "previous = os.umask(0)\n"
        "print(sorted(os.listdir('/proc/self/fd'))[:3], len(os.listdir('/proc/self/fd')), lines['SigBlk'].strip(), previous,"
        " resource.getrlimit(resource.RLIMIT_CORE), os.getsid(0) == os.getpid())"
    )
    assert run(executor, python(script)).end == "['0', '1', '2'] 4 0000000000000000 18 (0, 0) True\n"


def test_a_pipeline_whose_reader_leaves_ends_quietly(executor: LocalExecutor) -> None:
    assert run(executor, shell("yes | head -n 1")).end == "y\n"


def test_the_kernel_would_rather_end_the_command_than_the_supervisor(executor: LocalExecutor) -> None:
    status = run(executor, shell("sleep 0.05; cat /proc/self/oom_score_adj /proc/$PPID/oom_score_adj"))
    command, supervisor = (int(line) for line in status.end.split())
    assert command >= max(500, supervisor)


# ---------------------------------------------------------------- when somebody is killed


def test_a_job_goes_on_when_the_loop_that_started_it_is_killed(root: Path, tmp_path: Path) -> None:
    loop = (
        f"import sys, time; sys.path.insert(0, {SOURCE!r})\nfrom pathlib import Path\nfrom overnight.executors.local import LocalExecutor\n"
        f"from overnight.models import JobSpec\nexecutor = LocalExecutor(Path({str(root)!r}))\n"
        f"executor.submit(JobSpec(id='job.1', argv=('sh', '-c', 'until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo @loss=0.5'), cwd='/', env={ENV!r}))\n"
        "print('up', flush=True); time.sleep(1000)"
    )
    process = subprocess.Popen([sys.executable, "-c", loop], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    with LocalExecutor(root) as later:
        between = later.poll("job.1", 0.1)
        (tmp_path / "go").touch()
        status = later.poll("job.1", PATIENCE)
    assert (between.state, status.state, status.metrics["loss"].last) == (JobState.RUNNING, JobState.SUCCEEDED, 0.5)


def test_an_interrupt_from_the_terminal_reaches_neither_job_nor_supervisor_nor_spawner(executor: LocalExecutor, tmp_path: Path) -> None:
    status = running(executor, shell(f"echo @up=1; until [ -e {tmp_path}/go ]; do sleep 0.01; done"))
    spawner = executor._spawner._process
    assert spawner is not None
    sessions = {os.getsid(0), os.getsid(status.pid), os.getsid(spawner.pid)}
    (tmp_path / "go").touch()
    assert (executor.poll("job.1", PATIENCE).state, len(sessions)) == (JobState.SUCCEEDED, 3)


def test_a_job_whose_supervisor_is_killed_is_lost_and_its_leftovers_are_ended(executor: LocalExecutor) -> None:
    status = running(executor, shell("(setsid env -i sleep 1011.5 &); env -i sleep 1011.5 & echo said; sleep 0.5; echo @up=1; sleep 1011.5"))
    os.kill(status.pid, signal.SIGKILL)
    lost = executor.poll("job.1", PATIENCE)
    assert (lost.state, lost.cause, lost.survivors, "said" in lost.end, processes("1011.5")) == (
        JobState.LOST, "its supervisor died without a word", 4, True, [],
    )  # fmt: skip


def test_a_lost_job_is_not_run_again(executor: LocalExecutor, tmp_path: Path) -> None:
    spec = shell(f"echo ran >> {tmp_path}/runs; echo @up=1; sleep 1012.5")
    os.kill(running(executor, spec).pid, signal.SIGKILL)
    executor.submit(spec)
    assert (executor.poll("job.1", PATIENCE).state, (tmp_path / "runs").read_text(), processes("1012.5")) == (JobState.LOST, "ran\n", [])


def test_a_killed_spawner_harms_no_job_and_is_replaced(executor: LocalExecutor, tmp_path: Path) -> None:
    running(executor, shell(f"echo @up=1; until [ -e {tmp_path}/go ]; do sleep 0.01; done", id="first"))
    assert executor._spawner._process is not None
    executor._spawner._process.kill()
    second = run(executor, shell("exit 5", id="second"))
    (tmp_path / "go").touch()
    assert (executor.poll("first", PATIENCE).state, second.exit_code) == (JobState.SUCCEEDED, 5)


def test_the_spawner_ends_with_its_loop_and_leaves_no_process(root: Path) -> None:
    executor = LocalExecutor(root)
    run(executor, shell("exit 0"))
    process = executor._spawner._process
    assert process is not None
    del executor
    assert process.returncode == -signal.SIGKILL


def test_a_request_to_end_reaches_a_job_at_any_moment_of_its_start(executor: LocalExecutor) -> None:
    states = []
    for number in range(20):
        spec = shell("sleep 1013.5", id=f"job-{number}")
        executor.submit(spec)
        if number % 2 and until(lambda name=spec.id: executor.poll(name).pid > 0):  # type: ignore[misc]
            os.kill(executor.poll(spec.id).pid, signal.SIGTERM)
        executor.cancel(spec.id, "early")
        states.append(executor.poll(spec.id, PATIENCE).state)
    assert (set(states), processes("sleep 1013.5")) == ({JobState.CANCELLED}, [])


def test_a_request_to_end_that_was_there_before_the_start_keeps_the_command_from_running(root: Path, tmp_path: Path) -> None:
    folder = root / "job.1"
    folder.mkdir(parents=True)
    (folder / jobs.SPEC).write_text(jobs.spec_to_json(shell(f"touch {tmp_path}/ran")))
    (folder / jobs.CANCEL).write_text("no longer wanted")
    supervise(folder)
    with LocalExecutor(root) as executor:
        assert (executor.poll("job.1").cause, (tmp_path / "ran").exists()) == ("cancelled: no longer wanted", False)


# ---------------------------------------------------------------- the supervisor as a program


def folder_with(root: Path, script: str, status: JobStatus | None = None) -> Path:
    folder = root / "job.1"
    folder.mkdir(parents=True)
    (folder / jobs.SPEC).write_text(jobs.spec_to_json(shell(script)))
    if status is not None:
        (folder / jobs.STATUS).write_text(jobs.status_to_json(status))
    return folder


def test_the_supervisor_runs_a_job_folder_as_a_program_of_its_own(root: Path) -> None:
    folder = folder_with(root, "echo @loss=0.5; exit 6")
    supervise(folder)
    status = jobs.status_from_json((folder / jobs.STATUS).read_bytes())
    assert (status.exit_code, status.metrics["loss"]) == (6, MetricSummary(0.5, 0.5, 0.5, 1))


def test_a_job_that_is_over_is_not_run_again(root: Path, tmp_path: Path) -> None:
    folder = folder_with(root, f"touch {tmp_path}/ran", JobStatus(JobState.FAILED, "exit code 9"))
    supervise(folder)
    assert ((tmp_path / "ran").exists(), jobs.status_from_json((folder / jobs.STATUS).read_bytes()).cause) == (False, "exit code 9")


def test_a_job_that_was_running_without_a_supervisor_becomes_lost_and_is_not_run_again(root: Path, tmp_path: Path) -> None:
    folder = folder_with(root, f"touch {tmp_path}/ran", JobStatus(JobState.RUNNING, pid=1))
    supervise(folder)
    assert ((tmp_path / "ran").exists(), jobs.status_from_json((folder / jobs.STATUS).read_bytes()).state) == (False, JobState.LOST)


def test_a_job_whose_lock_is_held_is_left_alone(root: Path, tmp_path: Path) -> None:
    folder = folder_with(root, f"touch {tmp_path}/ran")
    with (folder / jobs.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        supervise(folder)
    assert ((tmp_path / "ran").exists(), (folder / jobs.STATUS).exists()) == (False, False)


def test_a_job_is_not_kept_from_starting_by_somebody_who_asks_if_it_lives(root: Path) -> None:
    folder = folder_with(root, "exit 0")
    with (folder / jobs.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        env = {**ENV, "PYTHONPATH": SOURCE}
        process = subprocess.Popen([sys.executable, "-m", "overnight.supervisor", str(folder)], env=env)
        assert until(lambda: str((folder / jobs.LOCK).resolve()) in open_files(process.pid))
    assert (process.wait(PATIENCE), jobs.status_from_json((folder / jobs.STATUS).read_bytes()).state) == (0, JobState.SUCCEEDED)


def open_files(pid: int) -> list[str]:
    try:
        return [str(link.resolve()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"argv": 3}', '{"id": "x"}'])
def test_a_damaged_spec_makes_the_job_lost(root: Path, text: str) -> None:
    folder = root / "job.1"
    folder.mkdir(parents=True)
    (folder / jobs.SPEC).write_text(text)
    supervise(folder)
    assert jobs.status_from_json((folder / jobs.STATUS).read_bytes()).state == JobState.LOST


def test_an_error_of_the_supervisor_itself_ends_the_job_as_failed(root: Path) -> None:
    folder = folder_with(root, "sleep 1014.5")
    (folder / jobs.SPEC).write_text(json.dumps({**json.loads((folder / jobs.SPEC).read_text()), "memory_limit": "much"}))
    supervise(folder)
    status = jobs.status_from_json((folder / jobs.STATUS).read_bytes())
    assert (status.state, status.cause.partition(":")[0], processes("sleep 1014.5")) == (JobState.FAILED, "the supervisor failed", [])


def test_a_job_is_started_under_the_name_it_was_given_only_if_that_is_fit_for_a_file(executor: LocalExecutor) -> None:
    with pytest.raises(JobError, match=r"cannot name a job"):
        executor.submit(shell("exit 0", id="../up"))


def test_a_place_that_cannot_be_written_is_told_as_a_job_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with LocalExecutor(tmp_path / "file" / "jobs") as executor, pytest.raises(JobError, match=r"Not a directory"):
        executor.submit(shell("exit 0"))


def test_a_folder_without_a_status_that_nobody_holds_was_never_started_and_can_still_be(executor: LocalExecutor, root: Path) -> None:
    folder_with(root, "exit 0")
    before = executor.poll("job.1")
    after = run(executor, shell("exit 0"))
    assert (before.state, after.state) == (JobState.LOST, JobState.SUCCEEDED)


# ---------------------------------------------------------------- GPU memory

FAKE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } row;
typedef struct { unsigned long long total, free, used; } memory;
static FILE *beside(const char *name) {
    Dl_info info; char path[4096];
    dladdr((void *)beside, &info);
    snprintf(path, sizeof path, "%s", info.dli_fname);
    snprintf(strrchr(path, '/') + 1, 256, "%s", name);
    return fopen(path, "r");
}
int nvmlInit_v2(void) { FILE *f = beside("hang"); while (f) sleep(1); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return index > 1; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) { *device = (void *)1; return strcmp(uuid, "GPU-1"); }
int nvmlDeviceGetMemoryInfo(void *device, memory *found) {
    FILE *f = beside("used"); found->used = 0;
    if (f) { fscanf(f, "%llu", &found->used); fclose(f); }
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, row *rows) {
    FILE *f = beside("pids"); unsigned n = 0;
    if (f && device == (void *)1) { while (n < *count && fscanf(f, "%u %llu", &rows[n].pid, &rows[n].used) == 2) n++; }
    if (f) fclose(f);
    *count = n;
    return 0;
}
"""
GIB = 2**30


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a library that stands for the driver's: what it tells is in the files pids, used and hang beside it."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to make a stand-in for the driver's library")
    place = tmp_path / "driver"
    place.mkdir()
    (place / "fake.c").write_text(FAKE)
    subprocess.run(["cc", "-w", "-shared", "-fPIC", "-o", "fake.so", "fake.c"], cwd=place, check=True)
    monkeypatch.setenv("OVERNIGHT_NVML", str(place / "fake.so"))
    return place


def measured(place: Path, executor: LocalExecutor, name: str, text: str, gpus: tuple[str, ...] = ("0", "1")) -> float:
    """The peak of a job that writes what the driver shall tell (whole, by renaming), and runs on for a moment."""
    script = f'sleep 0.1; echo "{text}" > {place}/draft; mv {place}/draft {place}/{name}; sleep 0.6'
    return run(executor, shell(script, gpus=gpus)).peak_vram_mb


def test_the_peak_of_gpu_memory_is_that_of_the_jobs_own_processes(driver: Path, executor: LocalExecutor) -> None:
    assert measured(driver, executor, "pids", f"$$ {2 * GIB}\n1 {5 * GIB}") == 2048.0


def test_gpus_may_be_named_by_uuid(driver: Path, executor: LocalExecutor) -> None:
    assert measured(driver, executor, "pids", f"$$ {3 * GIB}", ("GPU-1",)) == 3072.0


def test_where_the_driver_does_not_tell_whose_memory_it_is_what_was_used_before_is_subtracted(driver: Path, executor: LocalExecutor) -> None:
    (driver / "used").write_text(str(GIB))
    assert measured(driver, executor, "used", str(3 * GIB), ("0",)) == 2048.0


def test_a_gpu_that_only_others_use_counts_nothing(driver: Path, executor: LocalExecutor) -> None:
    (driver / "used").write_text(str(GIB))
    assert measured(driver, executor, "pids", f"1 {5 * GIB}", ("0",)) == 0.0


def test_a_hanging_driver_delays_neither_limit_nor_end(driver: Path, executor: LocalExecutor) -> None:
    (driver / "hang").touch()
    status = run(executor, shell("sleep 1015.5", gpus=("0",), time_limit=0.3))
    assert (status.state, status.peak_vram_mb, status.seconds < 10) == (JobState.TIMED_OUT, 0.0, True)


@pytest.mark.parametrize("library", ["/nowhere/libnvidia-ml.so", "libc.so.6"])
def test_a_machine_without_a_driver_has_no_gpu_memory_to_tell(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setenv("OVERNIGHT_NVML", library)
    status = run(executor, shell("sleep 0.1", gpus=("0",)))
    assert (status.state, status.peak_vram_mb) == (JobState.SUCCEEDED, 0.0)


# ---------------------------------------------------------------- the texts in the job folder

TEXTS = st.text(max_size=20)
NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


def same(one: object, other: object) -> bool:
    return repr(one) == repr(other)


@settings(max_examples=60)
@given(st.lists(TEXTS).map(tuple), st.dictionaries(TEXTS, TEXTS), st.floats(min_value=0, allow_nan=False))
def test_a_spec_is_the_same_after_a_journey_through_its_text(argv: tuple[str, ...], env: dict[str, str], limit: float) -> None:
    spec = JobSpec(id="x", argv=argv, cwd="/", env=env, time_limit=limit if math.isfinite(limit) else 0.0, gpus=("0",))
    assert same(jobs.spec_from_json(jobs.spec_to_json(spec)), spec)


@settings(max_examples=60)
@given(TEXTS, NUMBERS, NUMBERS, st.sampled_from(JobState))
def test_a_status_is_the_same_after_a_journey_through_its_text(cause: str, last: float, low: float, state: JobState) -> None:
    status = JobStatus(state, cause, exit_code=3, metrics={cause: MetricSummary(last, low, math.inf, 2)})
    assert same(jobs.status_from_json(jobs.status_to_json(status)), status)


@settings(max_examples=60)
@given(TEXTS, NUMBERS, NUMBERS)
def test_a_point_is_the_same_after_a_journey_through_its_text(name: str, value: float, step: float) -> None:
    assert same(jobs.point_from_json(jobs.point_to_json(MetricPoint(name, value, step, 1.5))), MetricPoint(name, value, step, 1.5))


@settings(max_examples=60)
@given(st.text() | st.sampled_from(["[]", "{}", "3", '{"argv": 3}', '{"state": 3}', '{"state": "RUNNING", "metrics": {"a": 1}}', "[1, 2]", "[[], 2, 3, 4]"]))
def test_a_text_that_is_no_record_is_a_value_error_and_nothing_else(text: str) -> None:
    for read in (jobs.spec_from_json, jobs.status_from_json, jobs.point_from_json):
        try:
            read(text)
        except ValueError:
            continue
