"""Walls that stand before their job comes: who gets in, what is seen from inside, and what is left when somebody is killed."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from attacks import ATTACKS, PATIENCE, Field, processes, until
from attacks import field as battlefield
from overnight import sandbox
from overnight.app import hub as hubs
from overnight.app import worker as workers
from overnight.app.api import hub_submit
from overnight.app.parking import Parking
from overnight.models import JobSpec, JobState, JobStatus
from overnight.queue.words import HubJob, Submission
from yards import Yard

pytestmark = pytest.mark.skipif(sandbox.find() is None, reason="there is no bubblewrap")


JOB = HubJob("job", Submission(("true",)), JobState.RUNNING)


@dataclass
class Lot:
    """A field with walls that are parked."""

    ground: Field
    parking: Parking
    names: Iterator[int] = field(default_factory=itertools.count)

    def waiting(self) -> list[int]:
        """The processes that wait behind parked walls."""
        return waiting(self.ground.root)

    def sets(self) -> int:
        """How many sets of walls these wait behind."""
        places = set()
        for pid in self.waiting():
            with contextlib.suppress(OSError):
                places.add(os.readlink(f"/proc/{pid}/cwd"))
        return len(places)

    def run(self, spec: JobSpec) -> JobStatus:
        """How a job ended that was run in whatever walls it got."""
        self.ground.executor.submit(self.parking.wrap(JOB, spec))
        return self.ground.executor.poll(spec.id, PATIENCE)

    def spec(self, script: str, **more: object) -> JobSpec:
        """A line for the shell, as a job."""
        return replace(self.ground.spec(f"job-{next(self.names)}", ""), argv=("/bin/sh", "-c", script), **more)  # type: ignore[arg-type]

    def moved_in(self, make: Callable[[], JobSpec]) -> JobStatus:
        """How a job ended that found walls standing; those that came too early for it are tried again."""
        end, pause = time.monotonic() + PATIENCE, 0.1  # walls are parked a moment after the last job, and take a moment to stand
        while time.monotonic() < end:
            spec = make()
            status = self.run(replace(spec, argv=("/bin/sh", "-c", 'pwd; exec "$@"', "sh", *spec.argv)))
            where, _, rest = status.end.partition("\n")
            if "/parked." in where:
                return replace(status, end=rest)
            until(lambda: bool(self.parking._parked) and bool(self.waiting()))
            time.sleep(pause := 2 * pause)
        raise AssertionError("no job has found walls standing")


def waiting(root: Path) -> list[int]:
    """The processes that wait behind walls below a folder."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"gate.py" in (each / "cmdline").read_bytes() and _is_below(each.name, root):
                found.append(int(each.name))
    return found


def _is_below(pid: str, root: Path) -> bool:
    """Whether a process works in a folder of ours."""
    try:
        return os.readlink(f"/proc/{pid}/cwd").startswith(str(root))
    except OSError:
        return False


@pytest.fixture
def lot(tmp_path: Path) -> Iterator[Lot]:
    with battlefield(tmp_path, uid=1) as ground:
        walls = ground.walls
        first = JobSpec("first", ("/bin/sh",), str(tmp_path), {**os.environ})
        parking = Parking(
            tmp_path / "repo" / ".overnight" / "runs", lambda _job, spec: sandbox.confined(walls, spec), ground.executor, (JOB, first)
        )
        parking.begin()
        try:
            yield Lot(ground, parking)
        finally:
            parking.close()


def test_a_job_moves_into_walls_that_stand_and_what_it_writes_is_in_its_own_folder(lot: Lot) -> None:
    made: list[JobSpec] = []

    def make() -> JobSpec:
        made.append(lot.spec("ls; echo new > new"))
        return made[-1]

    status = lot.moved_in(make)
    assert (status.state, status.end, Path(made[-1].cwd, "new").read_text()) == (JobState.SUCCEEDED, "mine\n", "new\n")


def test_two_jobs_at_once_find_walls_of_their_own(lot: Lot) -> None:
    lot.moved_in(lambda: lot.spec("true"))  # from now on walls are like those of the next two
    assert until(lambda: len(lot.parking._parked) == 2)
    specs = [lot.parking.wrap(JOB, lot.spec("touch mine; pwd; ls")) for _ in range(2)]
    for spec in specs:
        lot.ground.executor.submit(spec)
    ends = [lot.ground.executor.poll(spec.id, PATIENCE).end.splitlines() for spec in specs]
    assert ([end[1:] for end in ends], len({spec.parked for spec in specs} - {""}), ends[0][0] != ends[1][0]) == ([["mine"]] * 2, 2, True)


def test_no_attack_wins_anything_from_walls_that_stood_before(lot: Lot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", lot.ground.targets["terces"][::-1])
    alone = "reach processes of the machine"  # those of its own job are no prize
    bodies = [body for name, body in ATTACKS.items() if name != alone]
    programs = [lot.ground.spec(f"attack-{number}", body).argv for number, body in enumerate(bodies)]
    script = f'for each; do {" ".join(programs[0][:-1])} "$each"; done'
    argv = ("/bin/sh", "-c", script, "sh", *(program[-1] for program in programs))
    ends = [
        lot.moved_in(lambda: replace(lot.spec(""), argv=argv)).end,
        lot.moved_in(lambda: replace(lot.spec(""), argv=lot.ground.spec(f"alone-{next(lot.names)}", ATTACKS[alone]).argv)).end,
    ]
    assert (ends, list(lot.ground.damage())) == (["WON []\n" * len(bodies), "WON []\n"], [])


def test_a_command_finds_in_them_what_it_would_find_in_walls_of_its_own(lot: Lot) -> None:
    script = (
        "grep -E 'Sig|Cap|NoNew|Seccomp|Groups|Umask' /proc/self/status; ulimit -a; ls -l /proc/self/fd | sed 's/.*[0-9][0-9]:[0-9][0-9]//; s/[0-9]*]//';"
        " env | grep -v -e ^PWD= -e ^OVERNIGHT_JOB= -e ^OLDPWD=; test $PWD = $(pwd) && echo there; ls / /dev /etc; cat /proc/self/mountinfo | wc -l; cat /proc/*/comm"
    )
    stood = lot.moved_in(lambda: lot.spec(script))
    own = lot.spec(script)
    own = replace(own, argv=("/bin/sh", "-c", 'pwd; exec "$@"', "sh", *own.argv))
    lot.ground.executor.submit(sandbox.confined(lot.ground.walls, own))
    assert lot.ground.executor.poll(own.id, PATIENCE).end.partition("\n")[2] == stood.end


@pytest.mark.parametrize("more", [{"readable": ("/etc/hostname",)}, {"disk_limit": 2**26}])
def test_a_job_that_asks_for_other_walls_gets_its_own(lot: Lot, more: dict[str, object]) -> None:
    assert until(lambda: bool(lot.waiting()))
    assert lot.run(lot.spec("pwd | grep -c parked", **more)).end == "0\n"


def test_walls_that_show_a_folder_which_was_replaced_are_not_taken(tmp_path: Path) -> None:
    shown = tmp_path / "lib"
    shown.mkdir()
    with battlefield(tmp_path / "field") as ground:
        walls = replace(ground.walls, readable=(*ground.walls.readable, shown))
        first = JobSpec("first", ("/bin/sh",), str(tmp_path), {**os.environ})
        parking = Parking(
            ground.root / "repo/.overnight/runs", lambda _job, spec: sandbox.confined(walls, spec), ground.executor, (JOB, first)
        )
        lot = Lot(ground, parking)
        parking.begin()
        try:
            assert until(lambda: bool(lot.waiting()))
            shown.rename(tmp_path / "old")
            shown.mkdir()
            (shown / "new").touch()
            assert lot.run(lot.spec(f"pwd | grep -c parked; ls {shown}")).end == "0\nnew\n"
        finally:
            parking.close()


def test_a_job_whose_walls_were_killed_gets_others(lot: Lot) -> None:
    assert until(lambda: lot.sets() == 2)

    quiet = itertools.count(1)

    def killed() -> bool:
        nonlocal quiet
        for pid in lot.waiting():  # one that is about to become another program is not seen for a moment
            quiet = itertools.count(1)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return next(quiet) > 20

    assert until(killed)
    assert lot.run(lot.spec("echo here")).end == "here\n"


def test_how_a_command_ends_is_told_as_ever(lot: Lot) -> None:
    ends = [lot.moved_in(lambda script=script: lot.spec(script)) for script in ("exit 3", "kill -9 $$", "no-such-command")]  # type: ignore[misc] # binds the script
    limit = lot.moved_in(lambda: lot.spec("echo on; sleep 60", time_limit=0.5))
    assert ([each.exit_code for each in ends], limit.state, limit.end) == ([3, 137, 127], JobState.TIMED_OUT, "on\n")


def test_nothing_waits_any_more_when_its_owner_is_gone(lot: Lot) -> None:
    assert until(lambda: bool(lot.waiting()))
    lot.parking.close()
    lot.ground.executor.close()
    assert (until(lambda: not lot.waiting()), list((lot.ground.root / "repo/.overnight/runs").glob("parked.*"))) == (True, [])


def test_a_supervisor_that_is_killed_takes_a_job_in_such_walls_along(lot: Lot) -> None:
    mark = f"sleep 4711.{os.getpid()}"
    lot.moved_in(lambda: lot.spec("true"))
    assert until(lambda: bool(lot.waiting()))
    spec = lot.spec(f"{mark}; true")
    lot.ground.executor.submit(lot.parking.wrap(JOB, spec))
    assert until(lambda: bool(processes(mark)))
    os.kill(lot.ground.executor.poll(spec.id).pid, signal.SIGKILL)
    assert (lot.ground.executor.poll(spec.id, PATIENCE).state, until(lambda: not processes(mark))) == (JobState.LOST, True)


def test_a_job_for_whose_walls_the_folder_is_gone_gets_others(lot: Lot) -> None:
    assert until(lambda: len(lot.parking._parked) == 2)
    for parked in lot.parking._parked:
        Path(parked.spec.cwd).rmdir()
    assert lot.run(lot.spec("echo on")).end == "on\n"


def test_walls_that_stand_before_a_worker_has_tidied_up_are_not_tidied_away(tmp_path: Path) -> None:
    left = tmp_path / "hub" / "workers" / "w" / "runs" / "parked.old"
    left.mkdir(parents=True)  # by a worker that was killed
    with (
        hubs.reached(tmp_path / "hub", os.environ, "claim") as found,
        workers.ready(found, workers.Wanted(name="w"), lambda _: None) as made,
    ):
        assert until(lambda: bool(waiting(tmp_path)))
        job = hub_submit("echo on", hub=tmp_path / "hub", workdir=None)
        made.run(once=True)
    assert (job.state, job.told().attempt, job.logs(), left.exists()) == (JobState.SUCCEEDED, 1, "on\n", False)


def test_a_worker_with_nothing_to_do_has_walls_for_the_next_job(yard: Yard) -> None:
    yard.worker(unsafe=False)
    told: list[str] = []

    def found() -> bool:
        if not any("/parked." in each for each in told):
            until(lambda: bool(waiting(yard.hub)))
            time.sleep(0.2 * len(told))  # it takes a moment until they stand
            job = yard.submit("pwd; echo own > kept; cat kept")
            job.wait(PATIENCE)
            told.append(job.logs())
        return any("/parked." in each for each in told)

    assert (until(found), {each.partition("\n")[2] for each in told}) == (True, {"own\n"})
