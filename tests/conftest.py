"""What tests of several rooms share."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from clusters import ray, slurm  # noqa: F401 - fixtures
from hub_ways import house, hub, line  # noqa: F401 - fixtures
from overnight.store import Store
from postgreses import mortal, postgres  # noqa: F401 - fixtures
from stages import crew, stage  # noqa: F401 - fixtures
from yards import LEASE, Yard, end

# How long an example takes tells of the machine, not of the code.
hypothesis.settings.register_profile("overnight", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("overnight")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pipelines over a cluster are long forms, but for the core of their contract over Slurm."""
    for item in items:
        where = getattr(item, "callspec", None) and item.callspec.params.get("stage")  # type: ignore[attr-defined] # of tests with parameters
        if where == "ray" or (where == "slurm" and not item.get_closest_marker("core")):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def mark() -> Iterator[str]:
    """A number for the command lines of one test's processes (`sleep MARK`); who still bears it afterwards is ended."""
    found = str(random.randrange(10**9, 10**10))
    yield found
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if found.encode() in file.read_bytes():
                os.kill(int(file.parent.name), signal.SIGKILL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a record is to be."""
    return tmp_path / "overnight.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A fresh record."""
    with contextlib.closing(Store(path)) as found:
        yield found


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    """A hub with short leases; its workers are ended with the test."""
    monkeypatch.setenv("OVERNIGHT_HUB_LEASE", str(LEASE))
    monkeypatch.setenv("OVERNIGHT_WORKER_ROOM", "0")
    found = Yard(tmp_path)
    found.told.mkdir()
    yield found
    for process in found.started:
        if process.poll() is None:
            end(process)
