"""The peak of GPU memory, told by a library that stands for the driver's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import PATIENCE, run, shell
from overnight.executors.local import LocalExecutor
from overnight.models import JobState

FAKE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } row;
typedef struct { unsigned long long total, free, used; } memory;
static char *place(const char *name) {
    static __thread char path[4096]; Dl_info info;
    dladdr((void *)place, &info);
    snprintf(path, sizeof path, "%s", info.dli_fname);
    snprintf(strrchr(path, '/') + 1, 256, "%s", name);
    return path;
}
static FILE *beside(const char *name) { return fopen(place(name), "r"); }
int nvmlInit_v2(void) { FILE *f = beside("hang"); while (f) sleep(1); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return index > 1; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) { *device = (void *)1; return strcmp(uuid, "GPU-1"); }
int nvmlDeviceGetMemoryInfo(void *device, memory *found) {
    FILE *f = beside("used"); found->used = 0;
    if (f) { fscanf(f, "%llu", &found->used); fclose(f); }
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, row *rows) {
    FILE *f = beside("pids"), *looks; unsigned n = 0;
    if (f && device == (void *)1) { while (n < *count && fscanf(f, "%u %llu", &rows[n].pid, &rows[n].used) == 2) n++; }
    if (f) fclose(f);
    *count = n;
    looks = fopen(place("looks"), "a"); fputc('.', looks); fclose(looks);
    return 0;
}
"""
GIB = 2**30


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[LocalExecutor]:
    with LocalExecutor(tmp_path / "jobs") as executor:
        yield executor


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


def measured(place: Path, executor: LocalExecutor, gpus: tuple[str, ...] = ("0", "1"), **told: str) -> float:
    """The peak of a job that, once the driver was looked at, writes what it shall tell (each file whole, by renaming), and runs on for some looks."""
    told_now = "; ".join(f'echo "{text}" > {place}/draft; mv {place}/draft {place}/{name}' for name, text in told.items())
    looks = f"$(cat {place}/looks 2>/dev/null | wc -c)"
    wait = "until [ {} -gt $n ]; do sleep 0.02; done"
    script = f"n=0; {wait.format(looks)}; {told_now}; n=$(({looks} + {3 * len(gpus)})); {wait.format(looks)}"
    return run(executor, shell(script, gpus=gpus, time_limit=PATIENCE)).peak_vram_mb


def test_the_peak_of_gpu_memory_is_that_of_the_jobs_own_processes(driver: Path, executor: LocalExecutor) -> None:
    assert measured(driver, executor, pids=f"$$ {2 * GIB}\n1 {5 * GIB}") == 2048.0


def test_gpus_may_be_named_by_uuid(driver: Path, executor: LocalExecutor) -> None:
    assert measured(driver, executor, ("GPU-1",), pids=f"$$ {3 * GIB}") == 3072.0


def test_where_the_driver_does_not_tell_whose_memory_it_is_what_was_used_before_is_subtracted(
    driver: Path, executor: LocalExecutor
) -> None:
    (driver / "used").write_text(str(GIB))
    assert measured(driver, executor, ("0",), used=str(3 * GIB)) == 2048.0


def test_where_the_driver_does_not_tell_how_much_a_process_uses_what_was_used_before_is_subtracted(
    driver: Path, executor: LocalExecutor
) -> None:
    (driver / "used").write_text(str(GIB))
    assert measured(driver, executor, ("0",), used=str(3 * GIB), pids=f"$$ {2**64 - 1}") == 2048.0


def test_in_a_container_where_the_driver_tells_foreign_process_ids_what_was_used_before_is_subtracted(
    driver: Path, executor: LocalExecutor
) -> None:
    (driver / "used").write_text(str(GIB))
    (driver / "pids").write_text(f"99999999 {GIB}")
    assert measured(driver, executor, ("0",), used=str(3 * GIB)) == 2048.0


def test_a_gpu_that_only_others_use_counts_nothing(driver: Path, executor: LocalExecutor) -> None:
    (driver / "pids").write_text(f"1 {GIB}")
    assert measured(driver, executor, ("0",), pids=f"1 {5 * GIB}", used=str(5 * GIB)) == 0.0


def test_a_hanging_driver_delays_neither_limit_nor_end(driver: Path, executor: LocalExecutor, mark: str) -> None:
    (driver / "hang").touch()
    status = run(executor, shell(f"sleep {mark}", gpus=("0",), time_limit=0.3))
    assert (status.state, status.peak_vram_mb, status.seconds < 60) == (JobState.TIMED_OUT, 0.0, True)


@pytest.mark.parametrize("library", ["/nowhere/libnvidia-ml.so", "libc.so.6"])
def test_a_machine_without_a_driver_has_no_gpu_memory_to_tell(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setenv("OVERNIGHT_NVML", library)
    status = run(executor, shell("sleep 0.1", gpus=("0",)))
    assert (status.state, status.peak_vram_mb) == (JobState.SUCCEEDED, 0.0)
