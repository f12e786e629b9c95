"""A study under each kind of fault: it ends by itself and says why in one error, or rides it out; afterwards it goes on as if nothing had been."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from clocks import SLEPT, jumping
from disks import STOP, holders, mounted
from studies import Done, Study, ended, study, until  # noqa: F401 - ended is used by every test

BUDGET = 3
BETTER = "better 0.3; "
ROOT = os.geteuid() == 0


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to a study: before its loop starts, in the shell that starts it, or by its second proposal; and how it is taken away."""

    codes: tuple[str, ...] = ()  # of the errors that may be said; none = it is ridden out
    start: str = ""
    within: str = ""
    mend: str = ""
    needs: str = ""
    state: str = ""  # beside the repository; in it if not given


def under(found: Study, fault: Fault) -> Done:
    """``overnight run`` in a shell that has the fault."""
    argv = ["sh", "-c", f'{fault.start}\nexec "$@"', "sh", *found.command("run")]
    done = subprocess.run(argv, cwd=found.root, env=found.env, capture_output=True, text=True, timeout=90, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def sound(done: Done, codes: tuple[str, ...]) -> list[str]:
    """What is wrong with how a loop ended under a fault."""
    errors = [line for line in done.err.splitlines() if line.startswith("error[")]
    wrong = ["a traceback"] if "Traceback" in done.out + done.err else []
    if not codes:
        return wrong + ([f"code {done.code}: {done.err}"] if done.code or errors else [])
    said = [line.partition("[")[2].partition("]")[0] for line in errors]
    wrong += [f"said {errors}, not one of {codes}"] if len(said) != 1 or said[0] not in codes else []
    wrong += ["no fix"] if "  fix:" not in done.err else []
    return wrong + (["exit code 0"] if done.code == 0 else [])


def whole(found: Study, done: Done) -> list[str]:
    """What is wrong with the study once the fault is gone and it has gone on to its end."""
    rows = [{**row, "finished": 0} for row in found.rows()]  # in order of their numbers: the clock is one of the faults
    twice = sorted({name for name in found.runs() if found.runs().count(name) > 1})
    wrong = found.faults(rows) + ([f"code {done.code}: {done.err}"] if done.code else [])
    wrong += [f"{len(rows)} rows"] if len(rows) != BUDGET + 1 else []
    decided = [row["decision"] for row in rows]
    wrong += [f"decisions {decided}"] if decided[:2] != ["keep", "keep"] or "crash" in decided else []
    return wrong + ([f"run twice: {twice}"] if twice else [])


def limit(words: str) -> str:
    return f"ulimit {words}"


STORE = ("E-STORE", "E-DISK-FULL", "E-STORAGE", "E-RESULTS", "E-JOB-START")
SMALL = {"needs": "small", "state": "small", "mend": "rm -rf ../small/fill*"}
OBJECT = "object=.git/objects/$(git rev-parse HEAD:prepare.py | sed 's#..#&/#')"
DATABASE = ".overnight/overnight.db"

FAULTS = {
    "disk full": Fault(STORE, within="dd if=/dev/zero of=$OUT/../small/fill bs=4k 2>/dev/null", **SMALL),
    "disk full from the start": Fault(STORE, start="dd if=/dev/zero of=../small/fill bs=4k 2>/dev/null", **SMALL),
    "no inode left": Fault(STORE, within="i=0; while : > $OUT/../small/fill$i; do i=$((i + 1)); done 2>/dev/null", **SMALL),
    "repository's disk full": Fault(STORE, needs="repository", within="dd if=/dev/zero of=$OUT/../repository/.git/fill bs=4k 2>/dev/null", state="out", mend="rm .git/fill"),
    "input/output errors": Fault((*STORE, "E-SYSTEM"), needs="ext4", within=f"{sys.executable} -c '{STOP}' $OUT/../ext4", state="ext4", mend="until umount ../ext4; do sleep 0.1; done; mount -o loop ../ext4.image ../ext4"),
    "files limited to 64 kB": Fault(STORE, start=limit("-f 128")),
    "no file may grow": Fault(STORE, start=limit("-f 0")),
    "16 open files": Fault((*STORE, "E-SYSTEM", "E-GIT"), start=limit("-n 16")),
    "24 open files": Fault((), start=limit("-n 24")),
    "no HOME": Fault(start="unset HOME"),
    "HOME is missing": Fault(start="export HOME=/nonexistent/home"),
    "HOME cannot be written": Fault(start="export HOME=/proc"),
    "TMPDIR is missing": Fault(start="export TMPDIR=/nonexistent/tmp"),
    "TMPDIR is a device": Fault(start="export TMPDIR=/dev/full"),
    "state folder read-only": Fault(("E-READ-ONLY", *STORE), needs="read-only .overnight"),
    "repository read-only": Fault(("E-READ-ONLY", "E-GIT"), needs="read-only .git"),
    "stdin closed": Fault(start="exec <&-"),
    "stdout closed": Fault(start="exec >&-"),
    "all streams closed": Fault(start="exec <&- >&- 2>&-"),
    "stdout full": Fault(start="exec > /dev/full"),
    "all output full": Fault(start="exec > /dev/full 2>&1"),
    "clock set back a day": Fault(needs="clock", within="echo -86400 > $OUT/clock"),
    "clock set forward a day": Fault(needs="clock", within="echo 86400 > $OUT/clock"),
    "clock set forward ten years": Fault(needs="clock", within="echo 315360000 > $OUT/clock"),
    "asleep for an hour": Fault(needs="clock", within=f"echo {SLEPT} > $OUT/clock"),
    "clock at the beginning of time": Fault(needs="clock", start="echo -9999999999 > $OUT/clock"),
    "locale C": Fault(start="export LC_ALL=C"),
    "no such locale": Fault(start="export LC_ALL=tlh_QO.KOI8-Q LANG=none"),
    "stale index lock": Fault(start="touch .git/index.lock", mend="rm .git/index.lock"),
    "lock on the branch": Fault(("E-GIT-LOCKED",), within="mkdir -p $OUT/../repository/.git/refs/heads/autoresearch; touch $OUT/../repository/.git/refs/heads/autoresearch/t.lock", mend="rm .git/refs/heads/autoresearch/t.lock"),
    "lock on a ref": Fault(("E-GIT-LOCKED",), within="touch $OUT/../repository/.git/refs/overnight/t/3.lock", mend="rm .git/refs/overnight/t/3.lock"),
    "old lock on a ref": Fault(within="touch -d '2 hours ago' $OUT/../repository/.git/refs/overnight/t/3.lock"),
    "results.tsv is a folder": Fault(("E-RESULTS",), start="mkdir results.tsv", mend="rmdir results.tsv"),
    "results.tsv becomes a folder": Fault(("E-RESULTS",), within="rm $OUT/../repository/results.tsv; mkdir $OUT/../repository/results.tsv", mend="rmdir results.tsv"),
    "results.tsv cannot be written": Fault(within="chmod 444 $OUT/../repository/results.tsv") if ROOT else Fault(("E-RESULTS",), within="chmod 444 $OUT/../repository/results.tsv", mend="chmod 644 results.tsv"),
    "results.tsv is gone": Fault(within="rm $OUT/../repository/results.tsv"),
    "database cut in half": Fault(("E-DAMAGED", "E-STORE"), needs="first", start=f"cp {DATABASE} $OUT/db; truncate -s 40000 {DATABASE}", mend=f"cp $OUT/db {DATABASE}"),
    "database is garbage": Fault(("E-DAMAGED", "E-STORE"), needs="first", start=f"mv {DATABASE} $OUT/db; head -c 50000 /dev/urandom > {DATABASE}", mend=f"cp $OUT/db {DATABASE}"),
    "database is a folder": Fault(("E-STORE",), needs="first", start=f"mv {DATABASE} $OUT/db; mkdir {DATABASE}", mend=f"rmdir {DATABASE}; cp $OUT/db {DATABASE}"),
    "database is empty": Fault(("E-BRANCH-EXISTS", "E-STORE", "E-DAMAGED"), needs="first", start=f"mv {DATABASE} $OUT/db; : > {DATABASE}", mend=f"cp $OUT/db {DATABASE}"),
    "job folders are a file": Fault(("E-READ-ONLY",), needs="first", start="mv .overnight/jobs $OUT; touch .overnight/jobs", mend="rm .overnight/jobs; mv $OUT/jobs .overnight"),
    "the lock is a folder": Fault(("E-SYSTEM", "E-STORE"), needs="first", start="rm .overnight/lock; mkdir .overnight/lock", mend="rmdir .overnight/lock"),
    "a file's object is missing": Fault(("E-GIT-OBJECT",), start=f"{OBJECT}; mv $object $OUT/object", mend=f"{OBJECT}; mv $OUT/object $object"),
    "git is not there": Fault(("E-NO-GIT",), needs="first", start="export PATH=/nonexistent"),
    "its git folder is damaged": Fault(needs="first", start=": > .overnight/git/config; rm .overnight/git/HEAD"),
}  # fmt: skip


# Kin of others above: part of the long form.
MORE = {
    "disk full from the start", "no file may grow", "24 open files", "HOME is missing", "TMPDIR is a device", "stdin closed", "stdout closed", "all output full",
    "clock set forward a day", "asleep for an hour", "clock at the beginning of time", "no such locale", "old lock on a ref", "results.tsv is a folder", "results.tsv is gone",
    "results.tsv cannot be written", "database is garbage", "database is a folder", "job folders are a file", "the lock is a folder", "git is not there",
}  # fmt: skip


@contextmanager
def placed(fault: Fault, folder: Path) -> Iterator[None]:
    """The small or stoppable file systems that a fault needs, below ``folder``."""
    with ExitStack() as stack:
        if fault.needs == "small":
            stack.enter_context(mounted(folder / "small", "tmpfs", "size=2m,nr_inodes=400"))
        elif fault.needs == "repository":
            stack.enter_context(mounted(folder / "repository", "tmpfs", "size=2m"))
        elif fault.needs == "ext4":
            stack.enter_context(mounted(folder / "ext4", "ext4", ""))
        yield


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Nobody may write below ``path``, root neither."""
    if not ROOT:
        path.chmod(0o555)
        yield
        path.chmod(0o755)
        return
    with mounted(path, "bind", "ro"):
        yield


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in MORE else name for name in FAULTS])
def test_a_fault_ends_the_loop_with_one_error_or_is_ridden_out_and_the_study_goes_on_afterwards(tmp_path: Path, name: str) -> None:
    fault = FAULTS[name]
    with placed(fault, tmp_path):
        found = study(tmp_path, {2: BETTER + fault.within} if fault.within else {}, "--budget", str(BUDGET))
        found.env.update({"OVERNIGHT_STATE": str(tmp_path / fault.state / "state")} if fault.state else {})
        hit = replace(found, env={**found.env, **jumping(found.out)}) if fault.needs == "clock" else found
        with ExitStack() as stack:
            if fault.needs in ("first", "read-only .overnight"):
                found.call("run", "--budget", "1")
            if fault.needs.startswith("read-only"):
                stack.enter_context(read_only(found.root / fault.needs.split()[1]))
            done = under(hit, fault)
        until(lambda: not holders(tmp_path))  # the dead go a moment later
        told = (sound(done, fault.codes), found.survivors())
        subprocess.run(["sh", "-c", fault.mend], cwd=found.root, env=found.env, check=True)
        after = found.call("run")
        assert (*told, whole(found, after)) == ([], [], []), (done, after)
