"""What a job costs beyond its command: wall and CPU of `true`, with and without the spawner, and the speed of a flood of output.

Run it as `python bench/supervisor.py [JOBS]`. CPU is that of all processes together, from a cgroup made for the purpose (root only).
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from overnight.executors.local import LocalExecutor
from overnight.jobs import SPEC, spec_to_json
from overnight.models import JobSpec

GROUPS = (("/sys/fs/cgroup/cpuacct", "cpuacct.usage", 1e-9), ("/sys/fs/cgroup", "cpu.stat", 1e-6))
ENV = {"PATH": os.environ["PATH"]}


@contextlib.contextmanager
def cpu_meter() -> Iterator[Callable[[], float]]:
    """Seconds of CPU that this process and all its descendants have used; nan where nobody counts them."""
    for place, name, unit in GROUPS:
        if os.access(place, os.W_OK) and os.path.exists(f"{place}/{name}"):
            group = Path(place, f"overnight-bench-{os.getpid()}")
            group.mkdir()
            (group / "cgroup.procs").write_text(str(os.getpid()))

            def read(file: Path = group / name, unit: float = unit) -> float:
                return int(file.read_text().removeprefix("usage_usec").split()[0]) * unit

            yield read
            (Path(place) / "cgroup.procs").write_text(str(os.getpid()))
            with contextlib.suppress(OSError):
                group.rmdir()
            return
    yield lambda: float("nan")


def spec(name: str, *argv: str) -> JobSpec:
    """Make a job of a command."""
    return JobSpec(id=name, argv=argv, cwd="/", env=ENV)


def with_spawner(root: Path, count: int) -> Iterator[float]:
    """Run `true` as the loop does; seconds of wall for each."""
    with LocalExecutor(root) as executor:
        executor.submit(spec("first", "true"))
        executor.poll("first", 10)
        for number in range(count):
            begun = time.perf_counter()
            executor.submit(spec(f"job-{number}", "true"))
            executor.poll(f"job-{number}", 10)
            yield time.perf_counter() - begun


def without_spawner(root: Path, count: int) -> Iterator[float]:
    """Run `true` with an interpreter for each job; seconds of wall for each."""
    package = Path(__file__).parents[1] / "src"
    for number in range(count):
        begun = time.perf_counter()
        folder = root / f"job-{number}"
        folder.mkdir()
        (folder / SPEC).write_text(spec_to_json(spec(folder.name, "true")))
        program = f"import sys; sys.path.append({str(package)!r}); from overnight.supervisor import main; main([{str(folder)!r}])"
        subprocess.run([sys.executable, "-I", "-S", "-B", "-c", program], check=True, env=ENV)
        yield time.perf_counter() - begun


def flood(root: Path, name: str, command: str, size: float) -> None:
    """Print how fast the output of a command is taken."""
    with LocalExecutor(root) as executor:
        executor.submit(spec(name, "sh", "-c", command))
        status = executor.poll(name, 100)
        print(
            f"{name:<28}{size / status.seconds / 1e6:8.0f} MB/s  ({status.state}, {status.seconds:.2f} s, {status.log_bytes / 1e6:.0f} MB)"
        )


def main() -> None:
    """Print all figures."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for where in ("/dev/shm", tempfile.gettempdir()):  # noqa: S108 - the one costs no fsync, the other does
        for way in (with_spawner, without_spawner):
            with tempfile.TemporaryDirectory(dir=where) as folder, cpu_meter() as used:
                before = 0.0
                walls = []
                for wall in way(Path(folder), count):
                    before = before or used()
                    walls.append(wall)
                cpu = (used() - before) / max(1, count - 1)
            print(f"{way.__name__:<16} in {where:<9} wall {1e3 * sorted(walls)[count // 2]:6.2f} ms   CPU {1e3 * cpu:6.2f} ms   per `true`")
    with tempfile.TemporaryDirectory() as folder:
        flood(Path(folder), "one-line-of-300-MB", "head -c 300000000 /dev/zero | tr '\\0' x", 3e8)
        flood(Path(folder), "lines-without-metrics", "yes 'the quick brown fox jumps over the lazy dog' | head -c 300000000", 3e8)
        flood(Path(folder), "a-million-metric-lines", "yes '@loss=0.125 @acc=0.5' | head -n 1000000", 22e6)
    print(f"peak of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


main()
