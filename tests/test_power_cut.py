"""The power goes while a study writes: an ext4 image is shut down at random moments, mounted again, and the study goes on.

The file system is stopped as a power cut stops it (the ioctl that xfstests calls godown): what it had not sent to its device by then is
gone, and nothing is sent any more. Its journal is written every second rather than every five. The loop that follows sees another
``boot_id``, as after a real start of the machine.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from disks import Disk
from overnight.testing import git
from studies import Study, ended, study, until  # noqa: F401 - used by every test
from told import COUNTING, acknowledged, answer, recorded

_BOOT = "/proc/sys/kernel/random/boot_id"

# Every tenth answer takes longer than the journal waits.
AGENT = COUNTING.replace("SLOW", "*5")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("a file system can only be mounted by root")
    if missing := [name for name in ("mkfs.ext4", "mount", "losetup", "unshare") if shutil.which(name) is None]:
        pytest.skip(f"there is no {' and no '.join(missing)}")
    try:
        made = Disk(tmp_path / "image", tmp_path / "repository")
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"no image can be mounted here: {exc.stderr.decode(errors='replace').strip()}")
    yield made
    made.end()


def after_a_start(found: Study, boot: int, *words: str) -> list[str]:
    """The argv of ``overnight run`` on a machine that was started for the n-th time."""
    told = found.out / "boot_id"
    told.write_text(f"00000000-0000-0000-0000-{boot:012d}\n")
    # Process ids begin anew, and all end with the first.
    machine = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
    return [*machine, "sh", "-c", f'mount --bind "$0" {_BOOT} && exec "$@"', str(told), *found.command("run", *words)]


def fsck(found: Study) -> str:
    """What git says against the repository."""
    done = subprocess.run(["git", "fsck", "--no-dangling"], cwd=found.root, env=found.env, capture_output=True, text=True, check=False)
    return done.stderr + ("" if done.returncode == 0 else f"code {done.returncode}")


def test_objects_and_refs_that_a_power_cut_has_emptied_are_made_again(tmp_path: Path) -> None:
    found = study(tmp_path, {}, "--budget", "2")
    found.call("run")
    names = git(found.root, "rev-list", "--objects", "--glob=refs/overnight", "autoresearch/t", "^main").split()
    objects = [found.root / ".git" / "objects" / name[:2] / name[2:] for name in names if len(name) == 40]
    refs = [path for path in (found.root / ".git" / "refs").rglob("*") if path.is_file() and path.name != "main"]
    for path in (*objects, *refs):
        path.chmod(0o644)
        path.write_bytes(b"")
    (found.root / ".overnight" / "boot-t").write_bytes(b"")
    bad = fsck(found)
    done = found.call("run")
    assert (len(objects) > 5, len(refs), bad != "", done.code, found.faults(), fsck(found)) == (True, 4, True, 0, [], ""), done


def test_a_branch_that_was_on_the_disk_before_the_record_knew_its_commit_is_moved_again(tmp_path: Path) -> None:
    found = study(tmp_path, {}, "--budget", "2")
    found.call("run")
    before = found.rows()
    with contextlib.closing(sqlite3.connect(found.root / ".overnight" / "overnight.db")) as db:
        db.execute("UPDATE experiment SET stage='decided', commit_id=(SELECT base_commit FROM study) WHERE number=3")
        db.commit()
    (found.root / ".overnight" / "boot-t").unlink()
    done = found.call("run")
    assert (done.code, found.rows(), found.faults()) == (0, before, []), done


def integrity(found: Study) -> str:
    """What SQLite says of the record."""
    with contextlib.closing(sqlite3.connect(found.root / ".overnight" / "overnight.db")) as db:
        return str(db.execute("PRAGMA integrity_check").fetchone()[0])


def cut_again_and_again(found: Study, disk: Disk, cuts: int, moments: random.Random) -> list[str]:
    """Cut the power so often; what was lost or broken right after."""
    wrong: list[str] = []
    for turn in range(cuts):
        said = found.said().count("[loop] study t: ") if turn else 0
        loop = found.spawn(after_a_start(found, turn))
        until(lambda before=said, it=loop: found.said().count("[loop] study t: ") > before or it.poll() is not None)  # type: ignore[misc]
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Every other cut leaves time for an experiment: one that was lost three times in a row would be called a crash.
            loop.wait(moments.choice((0.05, 0.3, 1.0, 2.5)) * moments.random() if turn % 2 == 0 else 0.3 + 2.2 * moments.random())
        disk.cut(loop)
        if loop.returncode != -signal.SIGKILL:
            wrong.append(f"{turn}: the loop ended by itself: {found.said().splitlines()[-6:]}")
        if not (found.root / ".overnight" / "overnight.db").exists():
            continue
        told = integrity(found)
        wrong += [f"{turn}: {told}"] if told != "ok" else []
        if acknowledged(found):
            lost = acknowledged(found) - recorded(found)
            wrong += [f"{turn}: lost {lost}"] if lost else []
    return wrong


def survived(found: Study, disk: Disk, cuts: int, budget: int, seed: int) -> tuple[object, ...]:
    os.sync()  # the repository was there before
    wrong = cut_again_and_again(found, disk, cuts, random.Random(seed))
    code = found.spawn(after_a_start(found, cuts, "--budget", "1")).wait(600)  # whatever was begun is finished
    rows = found.rows()[1:]
    told = [(item["description"], item["decision"], item["value"]) for item in rows]
    # One whose run was cut three times is given up: it may be what brings the machine down.
    lost = {item["description"] for item in rows if item["crash_kind"] == "lost"}
    expected = map(answer, range(budget, 0, -1))
    odd = [pair for pair in zip(told, expected, strict=False) if pair[0] != pair[1] and pair[0][0] not in lost]
    wrong += [f"given up: {lost}"] if len(lost) > cuts / 6 else []
    return wrong, code, odd, found.faults(), fsck(found)


def test_a_study_goes_on_after_power_cuts_with_all_that_it_had_said(tmp_path: Path, disk: Disk) -> None:
    found = study(tmp_path, {}, "--budget", "99", agent=AGENT)
    assert survived(found, disk, 6, 99, 3) == ([], 0, [], [], ""), found.said()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_study_goes_on_after_a_hundred_power_cuts_with_all_that_it_had_said(tmp_path: Path, disk: Disk) -> None:
    found = study(tmp_path, {}, "--budget", "999", agent=AGENT)
    begun = time.monotonic()
    assert survived(found, disk, 100, 999, 4) == ([], 0, [], [], ""), (found.said()[-3000:], time.monotonic() - begun)
