"""The k-th write, flush, rename or open fails, in every process of a study at once: whatever becomes of that loop, the next one makes it whole."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from studies import Done, Study, ended, study  # noqa: F401 - ended is used by every test

BUDGET = 3
CALLS = {
    "write": ("write,pwrite64,writev", "ENOSPC"),
    "failing write": ("write,pwrite64,writev", "EIO"),
    "flush": ("fsync,fdatasync", "EIO"),
    "rename": ("rename,renameat,renameat2", "EIO"),
    "open": ("openat", "EMFILE"),
    "folder": ("mkdir,mkdirat,unlink,unlinkat", "EIO"),
    "cut": ("ftruncate,fallocate", "ENOSPC"),
    "lock": ("flock,fcntl", "ENOLCK"),
    "process": ("clone,clone3,vfork,fork", "EAGAIN"),
}


def failing(found: Study, kind: str, nth: int) -> Done:
    """``overnight run`` with that fault: strace counts the calls of each thread on its own."""
    calls, error = CALLS[kind]
    argv = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", f"trace={calls}"]
    argv += ["-e", f"inject={calls}:error={error}:when={nth}", *found.command("run")]
    done = subprocess.run(argv, cwd=found.root, env=found.env, capture_output=True, text=True, timeout=120, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def wrong_after(folder: Path, kind: str, nth: int) -> list[str]:
    """What is wrong with a study that met the fault and went on without it."""
    found = study(folder, {}, "--budget", str(BUDGET))
    hit = failing(found, kind, nth)
    left = found.survivors()
    rows_then = found.rows() if (found.root / ".overnight" / "overnight.db").exists() and hit.code == 0 else []
    done = found.call("run")
    if done.code and "E-BASELINE" in done.err + hit.err:  # it was the training of the baseline that met the fault: a result like any other
        done = found.call("run")
    if done.code:
        return [f"{kind} {nth}: {hit} {done}"]
    rows = found.rows()
    faults = left + found.faults(rows)
    baselines = sum(row["operator"] == "baseline" for row in rows)
    faults += [f"{len(rows)} rows"] if len(rows) != BUDGET + baselines else []
    settled = {row["number"]: row["decision"] for row in rows_then if row["decision"]}
    faults += [f"was {settled}"] if any(rows[number - 1]["decision"] != decision for number, decision in settled.items()) else []
    faults += ["a fault of overnight itself"] if "E-UNEXPECTED" in hit.err else []
    return [f"{kind} {nth}: {faults} {hit}"] if faults else []


@pytest.fixture(autouse=True)
def traced() -> None:
    if shutil.which("strace") is None:
        pytest.skip("there is no strace to make calls fail with")
    probe = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", os.devnull, "-e", "inject=fsync:error=EIO:when=1", "true"]
    tried = subprocess.run(probe, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"strace cannot be used here: {tried.stderr.strip()}")


SAMPLE = [("write", 17), ("failing write", 9), ("flush", 2), ("rename", 3), ("open", 23), ("folder", 5), ("process", 2)]


@pytest.mark.parametrize(("kind", "nth"), SAMPLE)
def test_a_call_that_fails_costs_at_most_its_loop(tmp_path: Path, kind: str, nth: int) -> None:
    assert wrong_after(tmp_path, kind, nth) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", CALLS)
def test_each_of_two_hundred_calls_that_fails_costs_at_most_its_loop(tmp_path: Path, kind: str) -> None:
    wrong = []
    for nth in range(1, 201):
        folder = tmp_path / str(nth)
        folder.mkdir()
        wrong += wrong_after(folder, kind, nth)
        shutil.rmtree(folder)
    assert wrong == []
