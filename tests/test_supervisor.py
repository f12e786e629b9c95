"""The supervisor and the local executor under misbehaving jobs. Real processes, no doubles."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import PATIENCE, processes, python, run, running, shell
from overnight import jobs
from overnight.executors.local import LocalExecutor
from overnight.models import JobState, MetricSummary
from overnight.supervisor import tree

MIB = 2**20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def executor(root: Path) -> Iterator[LocalExecutor]:
    with LocalExecutor(root) as executor:
        yield executor


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
    assert (status.state, status.cause, status.metrics["loss"].last) == (
        JobState.SUCCEEDED,
        "output.log is incomplete: File too large",
        0.5,
    )


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
def test_a_fork_bomb_is_ended_to_the_last_process(executor: LocalExecutor, kind: str, mark: str) -> None:
    status = run(executor, python(BOMB, kind, mark, time_limit=0.6, grace=0.1))
    assert (status.state, processes(mark)) == (JobState.TIMED_OUT, [])


def test_processes_that_start_each_other_again_are_ended(executor: LocalExecutor, mark: str) -> None:
    status = run(executor, python(PHOENIX, mark))
    assert (status.state, status.survivors, processes(mark)) == (JobState.SUCCEEDED, 5, [])


def test_a_process_whose_main_thread_has_ended_is_ended_too(executor: LocalExecutor, mark: str) -> None:
    script = (
        "import os, ctypes, threading, time, sys\nif os.fork() == 0:\n    threading.Thread(target=time.sleep, args=(1000,)).start()\n"
        "    ctypes.CDLL(None).pthread_exit(None)\ntime.sleep(0.2)"
    )
    status = run(executor, python(script, mark))
    assert (status.state, status.survivors, processes(mark)) == (JobState.SUCCEEDED, 1, [])


def test_dead_daemons_do_not_pile_up_while_the_job_runs(executor: LocalExecutor, tmp_path: Path) -> None:
    script = f"for n in 1 2 3 4 5 6 7 8; do (sh -c : &); done; sleep 0.1; echo @up=1; until [ -e {tmp_path}/go ]; do sleep 0.01; done"
    status = running(executor, shell(script))
    children = [process for process in tree.everybody() if process.parent == status.pid]
    (tmp_path / "go").touch()
    executor.poll("job.1", PATIENCE)
    assert len(children) == 1


def test_the_leftovers_of_a_failed_job_do_not_hide_its_failure(executor: LocalExecutor, mark: str) -> None:
    status = run(executor, shell(f"sleep {mark} & exit 7"))
    assert (status.state, status.exit_code, status.survivors, processes(mark)) == (JobState.FAILED, 7, 1, [])


# ---------------------------------------------------------------- limits


def test_a_job_over_its_memory_limit_is_ended(executor: LocalExecutor) -> None:
    status = run(executor, python("block = bytearray(200_000_000); import time; time.sleep(1000)", memory_limit=100 * MIB))
    assert (status.state, status.cause, status.peak_rss_mb > 100) == (JobState.FAILED, "memory limit of 100 MB", True)


def test_memory_that_workers_share_is_counted_once_before_a_job_is_ended(executor: LocalExecutor) -> None:
    script = "import os, time; block = bytearray(60_000_000); [os.fork() or (time.sleep(1), os._exit(0)) for _ in range(4)]; time.sleep(1)"
    status = run(executor, python(script, memory_limit=150 * MIB))
    assert (status.state, status.peak_rss_mb > 150) == (JobState.SUCCEEDED, True)


def test_a_job_over_its_process_limit_is_ended(executor: LocalExecutor, mark: str) -> None:
    status = run(executor, python(BOMB, "group", mark, process_limit=20))
    assert (status.state, status.cause, processes(mark)) == (JobState.FAILED, "process limit of 20", [])


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


def test_the_command_does_not_inherit_that_the_loop_ignores_a_signal(executor: LocalExecutor) -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        status = run(executor, shell("", argv=("grep", "SigIgn", "/proc/self/status")))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert int(status.end.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1 == 0


def test_a_pipeline_whose_reader_leaves_ends_quietly(executor: LocalExecutor) -> None:
    assert run(executor, shell("yes | head -n 1")).end == "y\n"


def test_the_kernel_would_rather_end_the_command_than_the_supervisor(executor: LocalExecutor) -> None:
    status = run(executor, shell("sleep 0.05; cat /proc/self/oom_score_adj /proc/$PPID/oom_score_adj"))
    command, supervisor = (int(line) for line in status.end.split())
    assert command >= max(500, supervisor)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no clock that runs on while the machine sleeps")
@pytest.mark.parametrize(
    ("boot", "seconds", "state"),
    [
        (None, -1.0, JobState.CANCELLED),  # over
        (None, 600.0, JobState.SUCCEEDED),
        ("another run of the kernel", -1.0, JobState.SUCCEEDED),
    ],
)
def test_a_job_whose_lease_is_over_is_ended(
    executor: LocalExecutor, tmp_path: Path, boot: str | None, seconds: float, state: JobState
) -> None:
    this = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (tmp_path / "lease").write_bytes(jobs.lease_text(boot or this, time.clock_gettime(time.CLOCK_BOOTTIME) + seconds))
    script = "sleep 60" if state is JobState.CANCELLED else "sleep 0.6"
    assert run(executor, shell(script, lease=str(tmp_path / "lease"))).state == state


@pytest.mark.parametrize("text", [b"", b"\xff" * 64, b"x", b"a b c", b"boot nan\n", b"boot -1e999"])
def test_a_lease_that_says_nothing_ends_nothing(text: bytes) -> None:
    assert jobs.lease_is_over(text, "boot" if b"999" not in text else "", 5.0) is False


def test_a_lease_is_always_as_long_so_that_it_can_be_overwritten() -> None:
    assert {len(jobs.lease_text("b" * size, until)) for size in (0, 36, 90) for until in (0.0, 1e15)} == {64}
