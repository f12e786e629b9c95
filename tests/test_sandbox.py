"""The walls let through what training needs, say where they cannot stand, and are built from what is really there."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attacks import Field, field
from overnight import sandbox
from overnight.errors import UsageError
from overnight.jobs import spec_from_json, spec_to_json
from overnight.models import JobSpec, JobState
from overnight.sandbox import Inside, bubblewrap, seccomp
from overnight.sandbox.mounts import Layout
from terminal import COMMAND, environment, project, typed

needs_bubblewrap = pytest.mark.skipif(sandbox.find() is None, reason="there is no bubblewrap")


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Field]:
    with field(tmp_path) as found:
        yield found


def output(ground: Field, script: str, *options: str, **more: object) -> str:
    """What a Python script prints behind the walls."""
    spec = replace(ground.spec("normal", ""), argv=(sys.executable, *options, "-c", script), **more)  # type: ignore[arg-type]
    return ground.run(spec).end


# ---------------------------------------------------------------- what training needs


@needs_bubblewrap
def test_numpy_computes_with_its_threads(ground: Field) -> None:
    script = "import numpy, threading; a = numpy.ones((300, 300)); print((a @ a).sum())"
    assert output(ground, script) == "27000000.0\n"


WORKERS = """
import multiprocessing as mp
from multiprocessing import shared_memory
def double(number):
    return 2 * number
def fill(name):
    memory = shared_memory.SharedMemory(name)
    memory.buf[0] = 7
    memory.close()
if __name__ == "__main__":
    for way in ("fork", "spawn"):
        with mp.get_context(way).Pool(2) as pool:
            print(way, pool.map(double, [1, 2]))
    memory = shared_memory.SharedMemory(create=True, size=2**20)
    worker = mp.get_context("spawn").Process(target=fill, args=(memory.name,))
    worker.start()
    worker.join()
    print(memory.buf[0])
    memory.close()
    memory.unlink()
"""


@needs_bubblewrap
def test_worker_processes_and_shared_memory_work(ground: Field) -> None:
    spec = ground.spec("workers", "")
    (Path(spec.cwd) / "train.py").write_text(WORKERS, encoding="ascii")
    status = ground.run(replace(spec, argv=(sys.executable, "train.py")))
    assert (status.state, status.end) == (JobState.SUCCEEDED, "fork [2, 4]\nspawn [2, 4]\n7\n")


COMMON = """
import getpass, locale, os, socket, sqlite3, ssl, subprocess, sys, tempfile, threading, time
with tempfile.NamedTemporaryFile() as file:
    file.write(b"x")
database = sqlite3.connect("runs.db")
database.execute("create table t (x)")
database.execute("insert into t values (1)")
database.commit()
assert subprocess.run(["sh", "-c", "echo child | cat"], capture_output=True, text=True, check=True).stdout == "child\\n"
os.makedirs(os.path.expanduser("~/.cache/torch_extensions"))
open(os.path.expanduser("~/.cache/torch_extensions/x"), "w").close()
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(("localhost", server.getsockname()[1])).close()
socket.if_nameindex()
ssl.create_default_context()
os.sched_getaffinity(0), os.cpu_count(), time.localtime(), getpass.getuser(), os.getloadavg()
os.environ.get("HOME"), os.path.expanduser("~")
with open("/dev/shm/big", "wb") as file:
    file.truncate(2**20)
open("model.bin", "wb").close()
os.rename("model.bin", "best.bin")
os.symlink("best.bin", "latest.bin")
thread = threading.Thread(target=print, args=("all well",))
thread.start()
thread.join()
"""


@needs_bubblewrap
def test_files_databases_children_sockets_of_its_own_and_caches_work(ground: Field) -> None:
    assert output(ground, COMMON) == "all well\n"


@needs_bubblewrap
def test_declared_data_is_read_through_a_link_and_cannot_be_changed(ground: Field) -> None:
    data = ground.root / "disk" / "data"
    data.mkdir(parents=True)
    (data / "train.bin").write_text("tokens", encoding="ascii")
    spec = ground.spec("data", 'won += [open("data/train.bin").read()]; can("write", lambda: open("data/train.bin", "w"))')
    (Path(spec.cwd) / "data").symlink_to(data)
    assert ground.run(replace(spec, readable=(str(data),))).end == 'WON ["tokens"]\n'


@needs_bubblewrap
def test_a_declared_cache_is_written_and_found_again(ground: Field) -> None:
    cache = ground.root / "home" / "cache"
    ground = replace(ground, walls=replace(ground.walls, writable=(cache,)))
    ground.run(ground.spec("first", f"open({str(cache / 'kernel')!r}, 'w').write('compiled')"))
    assert ground.run(ground.spec("second", f"won.append(open({str(cache / 'kernel')!r}).read())")).end == 'WON ["compiled"]\n'


@needs_bubblewrap
def test_a_virtual_environment_in_the_home_folder_is_found_by_its_link(ground: Field) -> None:
    place = ground.root / "home" / "envs" / "study"
    venv.create(place, symlinks=True, with_pip=False)
    repo = ground.root / "repo"
    (repo / ".venv").symlink_to(place)
    inside = sandbox.interpreters(dict(os.environ), ("sh", "-c", ".venv/bin/python train.py"), repo)
    ground = replace(ground, walls=replace(ground.walls, readable=tuple(inside)))
    spec = replace(ground.spec("venv", ""), argv=(".venv/bin/python", "-c", "import sys; print(sys.prefix)"))
    (Path(spec.cwd) / ".venv").symlink_to(place)
    assert ground.run(spec).end == f"{spec.cwd}/.venv\n"


@needs_bubblewrap
def test_uv_runs_a_project_in_the_linked_environment(ground: Field) -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("there is no uv")
    repo = ground.root / "repo"
    (repo / "pyproject.toml").write_text('[project]\nname = "study"\nversion = "0"\nrequires-python = ">=3.11"\n', encoding="ascii")
    env = {**os.environ, "HOME": str(ground.walls.home)}
    subprocess.run([uv, "sync", "-q", "--offline", "--no-python-downloads", "--python", sys.executable], cwd=repo, env=env, check=True)
    walls = replace(ground.walls, readable=tuple(sandbox.interpreters(env, (uv,), repo)))
    spec = replace(ground.spec("uv", ""), argv=(uv, "run", "train.py"))
    (Path(spec.cwd) / ".venv").symlink_to(repo / ".venv")
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copy(repo / name, spec.cwd)
    (Path(spec.cwd) / "train.py").write_text("print('@loss=1')", encoding="ascii")
    assert replace(ground, walls=walls).run(spec).end == "@loss=1\n"


@needs_bubblewrap
def test_the_network_is_there_when_it_was_asked_for(ground: Field) -> None:
    script = 'socket.create_connection(("127.0.0.1", T["tcp"])).close(); won.append(os.path.exists("/etc/resolv.conf"))'
    ground = replace(ground, walls=replace(ground.walls, network=True))
    assert ground.run(ground.spec("network", script)).end == f"WON [{str(Path('/etc/resolv.conf').exists()).lower()}]\n"


@needs_bubblewrap
def test_model_libraries_are_told_that_they_are_offline(ground: Field) -> None:
    walled = [
        sandbox.confined(replace(ground.walls, network=way), ground.spec(f"job{way}", "")).env.get("HF_HUB_OFFLINE")
        for way in (False, True)
    ]
    assert walled == ["1", None]


# ---------------------------------------------------------------- agents


@pytest.fixture
def agent(ground: Field) -> Field:
    """The field as an agent sees it: its copy is the folder of its job."""
    root = ground.root
    (root / "home" / ".claude").mkdir()
    (root / "home" / ".claude" / "settings.json").write_text("{}", encoding="ascii")
    (root / "repo" / ".env").write_text("KEY=1", encoding="ascii")
    hidden = (root / "repo" / ".git", root / "repo" / ".overnight", root / "repo" / "holdout.csv")
    walls = replace(ground.walls, inside=Inside.AGENT, hidden=hidden, network=True, readable=(root / "repo",))
    return replace(ground, walls=walls)


@needs_bubblewrap
def test_the_walls_around_an_agent_stand(agent: Field) -> None:
    assert sandbox.check(agent.walls) == []


@needs_bubblewrap
def test_an_agent_reads_the_repository_but_neither_git_nor_state_nor_holdout(agent: Field) -> None:
    script = """
for path in T["files"]:
    can(os.path.basename(path), lambda: open(path).read() != "")
won.append(os.listdir(os.path.dirname(T["files"][1])))
won.append(open(T["folders"][0] + "/.env").read())
"""
    assert agent.run(agent.spec("agent", script)).end == 'WON ["train.py", [], ""]\n'


@needs_bubblewrap
def test_an_agent_finds_no_key_and_changes_nothing_but_its_own(agent: Field) -> None:
    script = """
for path in T["secrets"]:
    can(os.path.basename(path), lambda: open(path).read() != "")
for path in ("~/x", "~/.bashrc", "~/.claude/settings.json", T["files"][0], "/etc/x", "/usr/x", "/var/x"):
    can(path, lambda: open(os.path.expanduser(path), "a").close())
for path in ("~/.claude/session", "new.py", f"/tmp/{T['abstract']}"):
    with open(os.path.expanduser(path), "w") as file:
        file.write("x")
os.unlink(f"/tmp/{T['abstract']}")
"""
    status = agent.run(agent.spec("agent", script))
    assert (status.end, (agent.root / "home" / ".claude" / "session").read_text(encoding="ascii")) == ('WON ["notes.txt"]\n', "x")


@needs_bubblewrap
@pytest.mark.parametrize(
    "name", ["reach processes of the machine", "forbidden system calls", "gain rights", "turn the knobs of the kernel"]
)
def test_an_agent_has_no_more_rights_than_a_run(agent: Field, name: str) -> None:
    won = agent.attack(name)
    # Root without a capability is still who it was, and may call itself so.
    assert json.loads(won) in ([], ["root"])


@needs_bubblewrap
def test_an_agent_reaches_no_program_of_ours_through_a_socket_in_tmp(agent: Field) -> None:
    script = """
with socket.socket(socket.AF_UNIX) as client:
    can("connect", lambda: client.connect(T["path"]))
"""
    assert agent.run(agent.spec("agent", script)).end == "WON []\n"


@needs_bubblewrap
def test_node_runs_behind_the_walls_of_an_agent(agent: Field) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    script = "require('fs').promises.readFile('mine').then(() => require('child_process').exec('echo child', (e, out) => console.log(out.trim())))"
    status = agent.run(replace(agent.spec("node", ""), argv=(node, "-e", script)))
    assert status.end == "child\n"


# ---------------------------------------------------------------- whether they stand


@needs_bubblewrap
def test_the_self_check_finds_nothing_wrong_here(ground: Field) -> None:
    assert sandbox.check(ground.walls) == []


HOLES = {
    "--unshare-net": "the network is reachable",
    "--unshare-pid": "other processes are visible",
}


@needs_bubblewrap
@pytest.mark.parametrize("option", HOLES)
def test_the_self_check_sees_a_wall_that_is_missing(ground: Field, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bwrap"
    words = f'for word; do shift; [ "$word" = {option} ] || set -- "$@" "$word"; done; exec {sandbox.find()} "$@"'
    fake.write_text(f"#!/bin/sh\n{words}\n", encoding="ascii")
    fake.chmod(0o755)
    monkeypatch.setattr(bubblewrap, "find", lambda: fake)
    assert HOLES[option] in sandbox.check(ground.walls)


@needs_bubblewrap
def test_the_self_check_sees_a_filter_that_lets_everything_through(ground: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "program", lambda *_: struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000))
    assert "the system call filter does not work" in sandbox.check(ground.walls)


@needs_bubblewrap
def test_the_self_check_sees_what_is_not_hidden(ground: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layout, "hide", lambda _layout, _path: None)
    assert "files outside can be read" in sandbox.check(replace(ground.walls, readable=(*ground.walls.readable, ground.root / "repo")))


@needs_bubblewrap
def test_the_self_check_sees_what_can_be_written(ground: Field) -> None:
    ours = ground.root / "home"
    ours.chmod(0o777)
    assert f"files can be written in {ours}" in sandbox.check(replace(ground.walls, writable=(ours,)))


def test_a_machine_without_bubblewrap_is_refused_with_a_way_out(ground: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "find", lambda: None)
    with pytest.raises(UsageError) as caught:
        sandbox.prove(ground.walls)
    assert (caught.value.code, "bubblewrap" in caught.value.fix, "--unsafe-no-sandbox" in caught.value.fix) == ("E-NO-SANDBOX", True, True)


def test_a_bwrap_that_cannot_make_namespaces_is_refused_with_its_own_words(
    ground: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n", encoding="ascii")
    fake.chmod(0o755)
    monkeypatch.setattr(bubblewrap, "find", lambda: fake)
    with pytest.raises(UsageError, match="setting up uid map: Permission denied"):
        sandbox.prove(ground.walls)


def test_an_old_bwrap_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho bubblewrap 0.4.1\n", encoding="ascii")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(bubblewrap, "_bundled", lambda: None)
    assert bubblewrap.find.__wrapped__() is None


def test_files_of_a_job_reach_its_command_as_descriptors(ground: Field) -> None:
    path = ground.root / "given"
    path.write_text("content", encoding="ascii")
    spec = JobSpec(id="files", argv=("sh", "-c", "cat /dev/fd/100"), cwd="/", env={"PATH": os.defpath}, files=(str(path),))
    ground.executor.submit(spec)
    assert (ground.executor.poll("files", 30).end, spec_from_json(spec_to_json(spec))) == ("content", spec)


# ---------------------------------------------------------------- what a person is told


@needs_bubblewrap
def test_a_study_whose_baseline_wants_the_network_is_told_which_flag_lets_it(tmp_path: Path) -> None:
    train = "import socket\nsocket.create_connection(('192.0.2.1', 80), 5)\nprint('@loss=1')\n"
    root = project(tmp_path, train)
    env = {name: text for name, text in environment(tmp_path).items() if name != "OVERNIGHT_UNSAFE_NO_SANDBOX"}
    words = ("run", "--tag", "t", "--budget", "0", "--metric", "loss", "--json", "--", *COMMAND)
    error = typed(root, *words, env=env).json["error"]
    row = typed(root, "ls", "--json", env=env).json[0]
    reason = "(runs have no network: --sandbox-network lets them reach it)"
    assert (error["code"], error["hint"].startswith("overnight run --sandbox-network"), row["crash_kind"], row["cause"].endswith(reason)) == (
        "E-BASELINE", True, "network", True,
    )  # fmt: skip
