"""The walls under attack: what a training run tries to reach, to leave behind or to use up, through the real executor and supervisor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attacks import ATTACKS, BOMB, Field, field, processes, until
from overnight import sandbox
from overnight.models import JobSpec, JobState

MIB = 2**20
SYSTEM_PYTHON = "/usr/bin/python3"
pytestmark = pytest.mark.skipif(sandbox.find() is None, reason="there is no bubblewrap")


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Field]:
    with field(tmp_path) as found:
        yield found


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_wins_anything(ground: Field, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", ground.targets["terces"][::-1])
    assert ground.attack(name) == "[]"


def test_no_attack_wins_anything_for_an_ordinary_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests are run by one")
    tests, source = Path(__file__).parent, Path(sandbox.__file__).parents[2]
    env = {"PATH": os.defpath, "PYTHONPATH": f"{source}:{tests}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", SYSTEM_PYTHON]
    able = [*command, "-c", "import sys, attacks; sys.exit(sys.version_info < (3, 11))"]
    if not os.path.exists(SYSTEM_PYTHON) or subprocess.run(able, env=env, cwd="/", capture_output=True, check=False).returncode:
        pytest.skip("no Python here that an ordinary user may run")
    done = subprocess.run([*command, str(tests / "attacks.py")], env=env, cwd="/", capture_output=True, text=True, check=False)
    assert {name: won for name, won in json.loads(done.stdout or "{}").items() if won not in ("[]", [], "WON [true]\n")} == {}, done.stderr


def test_without_the_programs_of_util_linux_the_same_holds(ground: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.walls, "_tool", lambda _name: "")
    won = ground.attack("gain rights"), ground.attack("find a secret in an environment")
    assert (*won, ground.run(ground.spec("bomb", BOMB, process_limit=40)).end) == ("[]", "[]", "WON [true]\n")


def test_a_readable_folder_that_holds_the_repository_shows_nothing_of_it(ground: Field) -> None:
    walls = replace(ground.walls, readable=(*ground.walls.readable, ground.root))
    ground = replace(ground, walls=walls)
    won = [ground.attack(name) for name in ("write what is not ours", "change the repository", "read secrets", "list the home folder")]
    assert won == ["[]"] * 4


@pytest.mark.parametrize("home", ["/", "/tmp", "/srv", "/nonexistent"])  # noqa: S108 - some users have it for their home
def test_an_odd_home_folder_opens_nothing(ground: Field, home: str) -> None:
    ground = replace(ground, walls=replace(ground.walls, home=Path(home)))
    assert (sandbox.check(ground.walls), ground.attack("read secrets"), ground.attack("change the repository")) == ([], "[]", "[]")


# ---------------------------------------------------------------- what would stay


DAEMON = """
mark = T["mark"]
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for name in ("TARGETS", "OVERNIGHT_JOB"):
            os.environ.pop(name, None)
        os.execvp("sleep", ["sleep", mark])
    os._exit(0)
os.wait()
{after}
"""


def _daemon(ground: Field, mark: str, after: str = "") -> str:
    spec = ground.spec("daemon", DAEMON.replace("{after}", after))
    targets = json.dumps({**json.loads(spec.env["TARGETS"]), "mark": mark})
    ground.executor.submit(sandbox.confined(ground.walls, _with_env(spec, TARGETS=targets)))
    return spec.id


def _with_env(spec: JobSpec, **more: str) -> JobSpec:
    return replace(spec, env={**spec.env, **more})


def test_a_daemon_does_not_outlive_its_run(ground: Field, mark: str) -> None:
    status = ground.executor.poll(_daemon(ground, mark), 30)
    assert (status.state, processes(mark)) == (JobState.SUCCEEDED, [])


def test_a_daemon_does_not_outlive_a_supervisor_that_was_killed(ground: Field, mark: str) -> None:
    job = _daemon(ground, mark, "time.sleep(60)")
    assert until(lambda: processes(mark) != [])
    os.kill(ground.executor.poll(job).pid, signal.SIGKILL)
    assert until(lambda: processes(mark) == [])


def test_what_a_run_leaves_in_tmp_home_and_shared_memory_is_not_there_for_the_next(ground: Field) -> None:
    places = '[os.path.join(folder, "left") for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run", os.path.expanduser("~"))]'
    first = ground.run(ground.spec("first", f"for path in {places}: open(path, 'w').write('x'); won.append(1)"))
    second = ground.run(ground.spec("second", f"won += [path for path in {places} if os.path.exists(path)]"))
    assert (first.end, second.end) == ("WON [1, 1, 1, 1, 1]\n", "WON []\n")


def test_a_folder_full_of_links_changes_nothing_outside_when_it_is_handed_over(ground: Field) -> None:
    spec = ground.spec("links", "")
    outside = ground.root / "outside"
    outside.mkdir()
    (outside / "file").touch()
    for name, target in (("folder", outside), ("file", outside / "file"), ("nowhere", ground.root / "nowhere")):
        (Path(spec.cwd) / name).symlink_to(target)
    sandbox.confined(ground.walls, spec)
    assert [path.stat().st_uid for path in (outside, outside / "file")] == [os.geteuid()] * 2


# ---------------------------------------------------------------- what would be used up


def test_a_fork_bomb_ends_at_the_process_limit(ground: Field) -> None:
    status = ground.run(ground.spec("bomb", BOMB, process_limit=40))
    assert (status.state, status.end) == (JobState.SUCCEEDED, "WON [true]\n")


def test_a_run_has_no_core_dumps_and_a_bounded_number_of_open_files(ground: Field) -> None:
    script = """
import resource
won += [resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= 65536]
can("more files", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (70000, 70000)))
can("core dumps", lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)))
"""
    assert ground.run(ground.spec("limits", script)).end == "WON [[0, 0], true]\n"


def test_a_memory_hog_gets_no_more_than_its_limit(ground: Field) -> None:
    hog = """
try:
    held = bytearray(600 * 2**20)
except MemoryError:
    won.append("refused")
"""
    assert ground.run(ground.spec("hog", hog, memory_limit=400 * MIB)).end == 'WON ["refused"]\n'


def test_no_file_grows_beyond_the_disk_limit(ground: Field) -> None:
    hog = """
for path in ("big", "/tmp/big", "/dev/shm/big", os.path.expanduser("~/big")):
    try:
        with open(path, "wb") as file:
            for _ in range(30):
                file.write(bytes(2**20))
    except OSError as exc:
        won.append(errno.errorcode[exc.errno])
"""
    status = ground.run(ground.spec("disk", hog, disk_limit=20 * MIB))
    assert status.end == 'WON ["EFBIG", "ENOSPC", "EFBIG", "ENOSPC"]\n'


def test_many_small_files_end_a_run_at_the_disk_limit(ground: Field) -> None:
    hog = """
for number in range(100):
    with open(f"part{number}", "wb") as file:
        file.write(os.urandom(2**20))
time.sleep(60)
"""
    status = ground.run(ground.spec("files", hog, disk_limit=20 * MIB))
    assert (status.state, status.cause) == (JobState.FAILED, "disk limit of 20 MB")


def test_a_huge_command_line_is_a_failure_and_no_hang(ground: Field) -> None:
    spec = ground.spec("huge", "")
    status = ground.run(replace(spec, argv=(*spec.argv, "x" * 3 * MIB)))
    assert (status.state, status.exit_code) == (JobState.FAILED, 126)


def test_a_library_named_by_our_environment_is_not_loaded_into_a_run(ground: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/nowhere/evil.so")
    spec = ground.spec("preload", 'won += [name for name in os.environ if name.startswith("LD_")]')
    assert ground.run(spec).end == "WON []\n"


def test_a_walled_run_that_is_asked_to_end_has_its_grace(ground: Field) -> None:
    spec = ground.spec(
        "grace",
        """
def saved(*_):
    time.sleep(0.5)
    print("saved a checkpoint", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, saved)
open("ready", "w").close()
time.sleep(60)
""",
        grace=20.0,
    )
    ground.executor.submit(sandbox.confined(ground.walls, spec))
    assert until((Path(spec.cwd) / "ready").exists)
    ground.executor.cancel(spec.id, "enough")
    status = ground.executor.poll(spec.id, 30)
    assert (status.state, status.end) == (JobState.CANCELLED, "saved a checkpoint\n")


def test_the_exit_code_and_the_killing_signal_of_a_walled_run_are_told(ground: Field) -> None:
    codes = ground.run(ground.spec("code", "sys.exit(7)")).exit_code, ground.run(ground.spec("killed", "os.kill(os.getpid(), 11)")).cause
    assert codes == (7, "exit code 139 (SIGSEGV)")


def test_the_python_that_runs_the_tests_is_found_for_runs(ground: Field) -> None:
    assert shutil.which(sys.executable) is not None
    assert ground.run(ground.spec("python", "won.append(sys.version_info[0])")).end == "WON [3]\n"
