"""A library that stands in for the driver's own (NVML): a card that processes may hold, one in slices, one that is lost."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_NVML = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } row;
typedef struct { unsigned long long total, free, used; } memory;
static int mode(const char *name) { const char *said = getenv("FAKE_NVML"); return said && !strcmp(said, name); }
int nvmlInitWithFlags(unsigned flags) { while (mode("hang")) sleep(1); return mode("mismatch") ? 18 : 0; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "Driver/library version mismatch"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return index == 2 ? 15 : 0; }
int nvmlDeviceGetName(void *device, char *name, unsigned length) { snprintf(name, length, (long)device > 9 ? "NVIDIA H100 MIG 1g.10gb" : "NVIDIA H100"); return 0; }
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) { snprintf(uuid, length, (long)device > 9 ? "MIG-%ld" : "GPU-%ld", (long)device); return 0; }
int nvmlDeviceGetMemoryInfo(void *device, memory *found) { found->total = (unsigned long long)((long)device > 9 ? 10 : 80) << 30; found->used = 5 << 20; return 0; }
int nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *then) { *now = *then = (long)device == 2; return (long)device == 1 ? 3 : 0; }
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) { *count = 3; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **slice) { *slice = (void *)(long)(10 + index); return index == 1 ? 6 : 0; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, row *rows) {
    if ((long)device != 1) { *count = 0; return 0; }
    const char *held = getenv("FAKE_HELD");
    if (held && access(held, F_OK)) { *count = 0; return 0; }
    if (*count < 2) { *count = 2; return 7; }
    *count = 2; memset(rows, 0, 2 * sizeof *rows); rows[0].pid = 9; rows[1].pid = 8;
    return 0;
}
"""
_NAME = "libnvidia-ml.so.1"


def standing_in(folder: Path) -> dict[str, str]:
    """The environment in which the cards are these; processes 8 and 9 hold card 0, but, where FAKE_HELD names a file, only while that is there.

    FAKE_NVML may be ``hang`` or ``mismatch``. Skips the test where there is no C compiler.
    """
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to make a stand-in for the driver's library")
    (folder / "fake.c").write_text(_NVML)
    subprocess.run(["cc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{_NAME}", "-o", _NAME, "fake.c"], cwd=folder, check=True)
    return {"OVERNIGHT_NVML": str(folder / _NAME)}
