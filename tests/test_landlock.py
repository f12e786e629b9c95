"""The weaker walls, for machines without namespaces: what they hold, what they do not, and when they are taken."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attacks import ATTACKS, Field, field
from overnight import sandbox
from overnight.errors import UsageError
from overnight.models import JobState
from overnight.sandbox import By, Inside, bubblewrap, landlock, seccomp
from overnight.sandbox.mounts import Kind, Layout
from overnight.testing import repository
from test_sandbox import WORKERS
from test_sandbox_parts import ALLOW, ARCH, verdict

SYSTEM_PYTHON = "/usr/bin/python3"
needs_landlock = pytest.mark.skipif(
    landlock.abi() < landlock.NEEDED, reason=f"this kernel's Landlock is {landlock.abi()} of {landlock.NEEDED}"
)
ORDINARY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture
def ground() -> Iterator[Field]:
    if shut := os.geteuid() == 0 and landlock.closed(Path(sys.executable)):
        pytest.skip(f"{shut} is closed to the users that runs of root become")
    with tempfile.TemporaryDirectory() as folder, field(Path(folder), by=By.LANDLOCK) as found:
        Path(folder).chmod(0o755)
        yield found


def won(said: str) -> bool:
    """Whether an attack got anything; one that broke off because it was refused did not."""
    refused = ("PermissionError: [Errno 13]", "out of pty devices")
    return said != "[]" and not said.rstrip().rpartition("\n")[2].removeprefix("OSError: ").startswith(refused)


@needs_landlock
@pytest.mark.parametrize("who", ["root", "an ordinary user"])
def test_no_attack_wins_more_than_the_names_of_files(who: str) -> None:
    if who == "root" and os.geteuid() != 0:
        pytest.skip("only root can be root")
    tests, source = Path(__file__).parent, Path(sandbox.__file__).parents[2]
    env = {"PATH": os.defpath, "PYTHONPATH": f"{source}:{tests}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*(ORDINARY if who != "root" and os.geteuid() == 0 else ()), SYSTEM_PYTHON]
    able = [*command, "-c", "import sys, attacks; sys.exit(sys.version_info < (3, 11))"]
    if not os.path.exists(SYSTEM_PYTHON) or subprocess.run(able, env=env, cwd="/", capture_output=True, check=False).returncode:
        pytest.skip("no Python here that everybody may run")
    done = subprocess.run([*command, str(tests / "attacks.py"), "landlock"], env=env, cwd="/", capture_output=True, text=True, check=False)
    found = json.loads(done.stdout or "{}")
    bomb, check = found.pop("fork bomb", "none"), found.pop("self-check", "none")
    # Without namespaces only a user of its own can be held to a number of processes; an ordinary user's job is ended instead.
    assert (check, bomb, {name for name, said in found.items() if won(said)}, len(found)) == (
        [], "WON [true]\n" if who == "root" else "process limit of 40", {"list the home folder"}, len(ATTACKS),
    ), done.stderr  # fmt: skip


@needs_landlock
@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "list the home folder"])
def test_an_attack_wins_nothing(ground: Field, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", ground.targets["terces"][::-1])
    assert not won(ground.attack(name))


@needs_landlock
def test_the_names_and_sizes_of_files_are_not_held(ground: Field) -> None:
    assert json.loads(ground.attack("list the home folder")) == ground.targets["home"]


@needs_landlock
def test_worker_processes_and_shared_memory_work(ground: Field) -> None:
    spec = ground.spec("workers", "")
    (Path(spec.cwd) / "train.py").write_text(WORKERS, encoding="ascii")
    status = ground.run(replace(spec, argv=(sys.executable, "train.py")))
    assert (status.state, status.end) == (JobState.SUCCEEDED, "fork [2, 4]\nspawn [2, 4]\n7\n")


@needs_landlock
def test_a_run_has_files_of_its_own_a_database_children_and_a_place_for_temporary_files(ground: Field) -> None:
    script = """
import sqlite3, tempfile
with tempfile.NamedTemporaryFile() as file:
    file.write(b"x")
    won.append(file.name.startswith(os.getcwd()))
database = sqlite3.connect("runs.db")
database.execute("create table t (x)")
won.append(subprocess.run(["sh", "-c", "echo child > /dev/null; echo child | cat"], capture_output=True, text=True).stdout)
os.makedirs("a/b"); os.rename("a/b", "c"); os.symlink("c", "d"); os.truncate("mine", 0)
left, right = socket.socketpair()
left.send(b"x"); won.append(right.recv(1).decode())
won.append(open("/proc/self/status").read()[:5])
"""
    assert ground.run(ground.spec("normal", script)).end == 'WON [true, "child\\n", "x", "Name:"]\n'


@needs_landlock
def test_a_process_of_the_same_user_outside_can_neither_be_ended_nor_limited_nor_read(ground: Field, mark: str) -> None:
    script = """
pid = int(open("pid").read())
can("ended", lambda: os.kill(pid, 15))
can("limited", lambda: __import__("resource").prlimit(pid, 0, (1, 1)))
for name in ("environ", "cmdline", "mem", "maps", "cwd", "root", "status"):
    can(name, lambda: open(f"/proc/{pid}/{name}", "rb").read())
can("stopped by its group", lambda: os.killpg(os.getpgid(pid), 15))
"""
    spec = ground.spec("other", script)
    with subprocess.Popen(["sleep", mark]) as other:
        Path(spec.cwd, "pid").write_text(str(other.pid), encoding="ascii")
        end = ground.run(spec).end
        still = other.poll()
        other.kill()
    assert (end, still) == ("WON []\n", None)


@needs_landlock
def test_a_run_that_is_asked_to_end_hears_of_it_itself(ground: Field) -> None:
    script = """
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), os._exit(0)))
open("ready", "w").close()
time.sleep(60)
"""
    spec = ground.spec("grace", script, grace=20.0)
    ground.executor.submit(sandbox.confined(ground.walls, spec))
    while not (Path(spec.cwd) / "ready").exists():
        ground.executor.poll(spec.id, 0.01)
    ground.executor.cancel(spec.id, "enough")
    status = ground.executor.poll(spec.id, 30)
    assert (status.state, status.end) == (JobState.CANCELLED, "saved\n")


@needs_landlock
def test_the_network_is_there_when_it_was_asked_for(ground: Field) -> None:
    script = 'socket.create_connection(("127.0.0.1", T["tcp"])).close(); won.append(1); can("path", lambda: socket.socket(socket.AF_UNIX).connect(T["path"]))'
    ground = replace(ground, walls=replace(ground.walls, network=True))
    assert ground.run(ground.spec("network", script)).end == "WON [1]\n"


@needs_landlock
def test_a_program_that_is_not_there_is_told_as_a_shell_does(ground: Field) -> None:
    status = ground.run(replace(ground.spec("absent", ""), argv=("no-such-program",)))
    assert (status.exit_code, status.end) == (127, "no-such-program: command not found\n")


@needs_landlock
def test_an_agent_reads_the_repository_but_neither_git_nor_state_nor_secrets(ground: Field) -> None:
    root = ground.root
    (root / "repo" / ".env").write_text("KEY=1", encoding="ascii")
    (root / "home" / ".claude").mkdir()
    hidden = (root / "repo" / ".git", root / "repo" / ".overnight", root / "repo" / "holdout.csv")
    walls = replace(ground.walls, inside=Inside.AGENT, hidden=hidden, network=True, readable=(root / "repo",))
    script = """
for path in (*T["files"], *T["secrets"], T["folders"][0] + "/.env", "/etc/shadow"):
    can(os.path.basename(path), lambda: open(path).read() != "")
for path in ("~/x", "~/.bashrc", T["files"][0], "/etc/x", "/usr/x"):
    can("write " + path, lambda: open(os.path.expanduser(path), "a").close())
with open(os.path.expanduser("~/.claude/session"), "w") as file:
    file.write("x")
open("edited.py", "w").close()
"""
    agent = replace(ground, walls=walls)
    assert (sandbox.check(walls), agent.run(agent.spec("agent", script)).end) == ([], 'WON ["train.py", "notes.txt"]\n')


# ---------------------------------------------------------------- when they are taken


@pytest.fixture
def no_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose bwrap may make none."""
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n", encoding="ascii")
    fake.chmod(0o755)
    monkeypatch.setattr(bubblewrap, "find", lambda: fake)


@needs_landlock
@pytest.mark.usefixtures("no_namespaces")
def test_where_no_namespaces_can_be_made_landlock_stands_instead(ground: Field) -> None:
    assert sandbox.stand(replace(ground.walls, by=By.BUBBLEWRAP)).by is By.LANDLOCK


@needs_landlock
def test_where_namespaces_can_be_made_they_are_taken(ground: Field) -> None:
    if sandbox.check(replace(ground.walls, by=By.BUBBLEWRAP)):
        pytest.skip("no namespaces here")
    assert sandbox.stand(replace(ground.walls, by=By.BUBBLEWRAP)).by is By.BUBBLEWRAP


ASKED = """
import os, sys, tempfile
from pathlib import Path
from overnight import sandbox
with tempfile.TemporaryDirectory() as folder:
    readable = tuple(sandbox.interpreters({"PATH": os.defpath}, ("python3",), Path(folder)))
    print(sandbox.user_namespaces(), sandbox.stand(sandbox.Walls(keep=Path(folder, "walls"), readable=readable)).by)
"""


@needs_landlock
def test_a_kernel_that_forbids_namespaces_gets_landlock() -> None:
    source = str(Path(sandbox.__file__).parents[2])
    python = SYSTEM_PYTHON if os.geteuid() == 0 else sys.executable
    env = {"PATH": os.defpath, "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"}
    # Forbidden in a user namespace, for all below it.
    inside = 'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --inh-caps=-all --ambient-caps=-all "$@"'
    command = [*(ORDINARY if os.geteuid() == 0 else ()), "unshare", "--user", "--map-user=1000", "--keep-caps", "sh", "-c", inside, "sh"]
    able = [*command, python, "-c", "import sys, overnight.sandbox; sys.exit(sys.version_info < (3, 11))"]
    if sandbox.find() is None or subprocess.run(able, env=env, cwd="/", capture_output=True, check=False).returncode:
        pytest.skip("no bubblewrap, or nothing here that could forbid it namespaces")
    done = subprocess.run([*command, python, "-c", ASKED], env=env, cwd="/", capture_output=True, text=True, check=False)
    assert done.stdout == "False landlock\n", done


@pytest.mark.usefixtures("no_namespaces")
def test_without_both_it_is_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 4)
    with field(tmp_path) as ground, pytest.raises(UsageError, match="No permissions to create new namespace") as caught:
        sandbox.stand(ground.walls)
    assert (caught.value.code, "--unsafe-no-sandbox" in caught.value.fix) == ("E-NO-SANDBOX", True)


@needs_landlock
def test_root_is_told_which_folder_its_runs_could_not_pass(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("an ordinary user's runs stay who they are")
    tmp_path.chmod(0o700)
    with field(tmp_path, by=By.LANDLOCK) as ground:
        said = sandbox.check(ground.walls)
    assert "is closed to the user that runs become: chmod o+x /" in said[0]


@needs_landlock
@pytest.mark.usefixtures("no_namespaces")
def test_a_study_is_run_behind_them_and_says_so_at_its_start_and_on_every_row(ground: Field, tmp_path: Path) -> None:
    root = repository(ground.root / "study", {"train.py": "lr = 0.5\nprint(f'@loss={lr}')\n"})
    env = {"PATH": f"{tmp_path}:{os.environ.get('PATH', os.defpath)}", "HOME": str(ground.root / "home")}

    def overnight(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "overnight", *words], cwd=root, env=env, capture_output=True, text=True, check=False)

    # A bwrap on PATH that is new enough is the one that is taken.
    words = f'#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 0.9.0 && exit\n{(tmp_path / "bwrap").read_text()}'
    (tmp_path / "bwrap").write_text(words, encoding="ascii")
    given = ("--tag", "t", "--budget", "1", "--metric", "loss", "--direction", "minimize", "--time-limit", "30")
    done = overnight("run", *given, "--proposer-command", "sed -i s/0.5/0.25/ train.py", "--", sys.executable, "train.py")
    assert done.returncode == 0, done
    rows = [(row["value"], row["sandbox"]) for row in json.loads(overnight("ls", "--json").stdout)]
    told = "confined by Landlock" in done.stdout + done.stderr, "sandbox: landlock" in overnight("show", "1").stdout
    assert (rows, told) == ([(0.5, "landlock"), (0.25, "landlock")], (True, True)), done


# ---------------------------------------------------------------- the self-check has eyes


@needs_landlock
@pytest.mark.parametrize(
    ("abi", "fault"),
    [(2, "files can be written in "), (5, "other processes can be ended"), (5, "abstract sockets of other programs are reachable")],
)
def test_the_self_check_sees_what_an_older_kernel_would_not_hold(
    ground: Field, abi: int, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        pytest.skip("another user's files and processes are held in any case")
    monkeypatch.setattr(landlock, "abi", lambda: abi)
    monkeypatch.setattr(seccomp, "program", lambda machine, _world: PLAIN(machine, seccomp.Open()))
    assert any(line.startswith(fault) for line in sandbox.check(ground.walls))


PLAIN = seccomp.program


@needs_landlock
def test_the_self_check_sees_a_filter_that_lets_sockets_through(ground: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "program", lambda machine, _world: PLAIN(machine, seccomp.Open()))
    said = sandbox.check(ground.walls)
    expected = [] if os.geteuid() == 0 else ["sockets of other programs are reachable", "the limits of other processes can be changed"]
    assert said == expected


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("number", "arguments", "expected"),
    [
        ((41, 198), (1, 1, 0), errno.EAFNOSUPPORT),  # AF_UNIX
        ((41, 198), (2, 1, 0), errno.EAFNOSUPPORT),  # AF_INET
        ((41, 198), (10, 2, 0), errno.EAFNOSUPPORT),  # AF_INET6
        ((53, 199), (1, 1 | 0x80000, 0), ALLOW),  # a pair of streams
        ((53, 199), (1, 2, 0), errno.EACCES),  # a pair of datagram sockets
        ((53, 199), (1, 5, 0), ALLOW),  # a pair of sequenced packets
        ((302, 261), (0,), ALLOW),  # limits of its own
        ((302, 261), (77,), errno.EPERM),  # limits of somebody else
        ((30, 196), (), errno.EPERM),  # shmat
        ((240, 180), (), errno.EPERM),  # mq_open
        ((59, 221), (), ALLOW),  # execve
        ((16, 29), (0, 0x5412), errno.EPERM),  # TIOCSTI
    ],
)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_stricter_filter_judges_each_call(machine: str, number: tuple[int, int], arguments: tuple[int, ...], expected: int) -> None:
    world = seccomp.Open(shared=True, unix=False, internet=False)
    assert verdict(machine, number[list(ARCH).index(machine)], *arguments, world=world) == expected


def test_a_folder_with_something_hidden_in_it_is_given_piece_by_piece_and_links_in_it_are_not(tmp_path: Path) -> None:
    for name in ("repo/.git", "repo/src", "repo/data"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "repo" / "train.py").touch()
    (tmp_path / "repo" / "link").symlink_to("/etc")
    layout = Layout(tmp_path / "blank")
    layout.show(tmp_path / "repo")
    layout.hide(tmp_path / "repo" / ".git")
    layout.show(tmp_path / "repo" / "data", Kind.WRITE)
    found = {(kind, os.path.relpath(path, tmp_path)) for kind, path in layout.grants()}
    assert found == {(Kind.READ, "repo/src"), (Kind.READ, "repo/train.py"), (Kind.WRITE, "repo/data")}


def test_what_is_for_reading_only_is_taken_out_of_what_may_be_changed(tmp_path: Path) -> None:
    for name in ("session/hooks", "session/log"):
        (tmp_path / name).mkdir(parents=True)
    layout = Layout(tmp_path / "blank")
    layout.show(tmp_path / "session", Kind.WRITE)
    layout.show(tmp_path / "session" / "hooks")
    found = {(kind, os.path.relpath(path, tmp_path)) for kind, path in layout.grants()}
    assert found == {(Kind.WRITE, "session/log"), (Kind.READ, "session/hooks")}
