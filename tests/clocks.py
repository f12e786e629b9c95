"""Clocks that jump: a library for LD_PRELOAD that shifts the wall clock, and the clock that also counts while a machine sleeps.

The file that ``CLOCK`` names holds both shifts in seconds: ``3600`` sets the wall clock forward by an hour, ``3600 3600`` is what a
process sees of an hour in which the machine was suspended. Its monotonic clock has stood still meanwhile.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static void shifts(long *wall, long *boot) {
    FILE *file = fopen(getenv("CLOCK"), "r");
    *wall = *boot = 0;
    if (file) { if (fscanf(file, "%ld %ld", wall, boot) < 1) *wall = 0; fclose(file); }
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, now);
    long wall, boot;
    if (clock != CLOCK_REALTIME && clock != CLOCK_BOOTTIME) return code;
    shifts(&wall, &boot);
    if (clock == CLOCK_REALTIME) now->tv_sec = now->tv_sec + wall > 0 ? now->tv_sec + wall : 0;
    else now->tv_sec += boot;
    return code;
}
time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}
"""
SLEPT = "3600 3600"


def jumping(folder: Path) -> dict[str, str]:
    """The environment in which clocks are as wrong as ``folder/clock`` says. Skips the test where there is no C compiler."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler to make a wrong clock with")
    (folder / "clock.c").write_text(_SOURCE)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "clock.so", "clock.c", "-ldl"], cwd=folder, check=True)
    return {"LD_PRELOAD": str(folder / "clock.so"), "CLOCK": str(folder / "clock")}
