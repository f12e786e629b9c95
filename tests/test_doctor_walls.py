"""``overnight doctor`` on the walls: each probe by name, what they are made of, and what mends them where they do not stand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from overnight import sandbox
from overnight.app import doctor
from overnight.app.options import Options
from overnight.app.walls import Standing
from overnight.sandbox import bubblewrap, landlock
from terminal import COMMAND, environment, project, typed

PROBES = ["start", "files", "sockets", "processes", "system calls", "rights", "kernel settings"]
needs_bubblewrap = pytest.mark.skipif(sandbox.find() is None, reason="there is no bubblewrap")


def asked(root: Path) -> tuple[list[doctor.Finding], Standing]:
    """What the doctor finds, asked in this process."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(root.parent)}
    found = list(doctor.look(Options(folder=root, environ=env, flags={"metric": "loss", "command": tuple(COMMAND)})))
    walls = next((item.walls for item in found if item.walls), None)
    assert walls, found
    return found, walls


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose bwrap may not make namespaces."""
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n", encoding="ascii")
    fake.chmod(0o755)
    monkeypatch.setattr(bubblewrap, "find", lambda: fake)


@needs_bubblewrap
def test_each_probe_is_told_by_name_with_its_time_and_the_program_by_version_and_place(tmp_path: Path) -> None:
    env = {name: text for name, text in environment(tmp_path).items() if name != "OVERNIGHT_UNSAFE_NO_SANDBOX"}
    said = typed(project(tmp_path), "doctor", "--json", "--metric", "loss", "--", *COMMAND, env=env)
    walls = said.json["walls"]
    told = [(probe["name"], probe["ok"], probe["faults"], probe["ms"] >= 0) for probe in walls["probes"]]
    assert (said.code, walls["by"], walls["why"], walls["fix"], told) == (
        0,
        "bubblewrap",
        None,
        None,
        [(name, True, [], True) for name in PROBES],
    )
    assert walls["what"] == f"bubblewrap {sandbox.version()}, {sandbox.find()}"


def test_a_study_without_walls_is_told_to_have_none(tmp_path: Path) -> None:
    said = typed(project(tmp_path), "doctor", "--metric", "loss", "--", *COMMAND)
    assert (said.code, "· walls: none, by --unsafe-no-sandbox" in said.out.splitlines()) == (0, True)


@pytest.mark.usefixtures("refused")
def test_walls_that_do_not_stand_are_a_fault_with_its_remedy_and_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    apparmor = tmp_path / "apparmor"
    apparmor.write_text("1\n", encoding="ascii")
    monkeypatch.setattr(bubblewrap, "_APPARMOR", apparmor)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found, walls = asked(project(tmp_path))
    fault = next(item for item in found if item.walls)
    assert (walls.by, fault.ok, "setting up uid map: Permission denied" in fault.text, fault.fix.splitlines()) == (
        "none", False, True, ["sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0", "or, without any walls: --unsafe-no-sandbox"],
    )  # fmt: skip


@pytest.mark.skipif(landlock.abi() < landlock.NEEDED, reason="this kernel's Landlock is too old")
@pytest.mark.usefixtures("refused")
def test_the_weaker_walls_are_told_to_be_weaker(tmp_path: Path) -> None:
    if os.geteuid() == 0 and landlock.closed(Path(sys.executable)):
        pytest.skip("root's python is closed to the users that its runs become")
    found, walls = asked(project(tmp_path))
    line = next(item for item in found if item.walls)
    told = "which hold less" in line.text, "Permission denied" in walls.why, [probe.name for probe in walls.probes]
    assert (walls.by, line.ok, told) == ("landlock", None, (True, True, PROBES))


@pytest.mark.parametrize(
    ("file", "value", "fix"),
    [
        ("_APPARMOR", "1", "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
        ("_DEBIAN", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
        ("_COUNT", "0", "sudo sysctl user.max_user_namespaces=15000"),
    ],
)
@pytest.mark.usefixtures("refused")
def test_each_way_of_forbidding_namespaces_has_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, value: str, fix: str
) -> None:
    for name in ("_APPARMOR", "_DEBIAN", "_COUNT"):
        monkeypatch.setattr(bubblewrap, name, tmp_path / name)
    (tmp_path / file).write_text(value, encoding="ascii")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert (sandbox.refuse(["setting up uid map: Permission denied"]).fix or "").splitlines()[0] == fix


@pytest.mark.usefixtures("refused")
def test_a_container_is_told_what_it_must_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_APPARMOR", "_DEBIAN", "_COUNT"):
        monkeypatch.setattr(bubblewrap, name, Path("/nonexistent"))
    monkeypatch.setenv("container", "docker")
    fix = sandbox.refuse(["no permissions to create new namespace"]).fix or ""
    assert fix.startswith("docker run --cap-add SYS_ADMIN --security-opt seccomp=unconfined")
