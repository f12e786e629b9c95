"""What the walls cost: wall time of `true` and of a Python that starts, with and without them; the self-check; a computation inside.

Run it as `python bench/sandbox.py [JOBS]`. Everything goes through the executor and the supervisor, as a run does.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from overnight import sandbox
from overnight.environment import for_run
from overnight.executors.local import LocalExecutor
from overnight.models import JobSpec

TRAIN = "import time; b = time.perf_counter(); x = 0\nfor i in range(10**7): x += i * i\nprint(f'@seconds={time.perf_counter() - b}')"
COMMANDS = {"true": ("true",), "python": (sys.executable, "-I", "-S", "-c", "pass")}


def median(count: int, deed: Callable[[int], object]) -> float:
    """Milliseconds."""
    taken = []
    for number in range(count):
        begun = time.perf_counter()
        deed(number)
        taken.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(taken)


def main() -> None:
    """Print all figures."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    environ = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder, LocalExecutor(Path(folder, "jobs")) as executor:
        root = Path(folder)
        root.chmod(0o755)  # without namespaces, the users that runs of root become have to pass it
        inside = sandbox.interpreters(environ, (sys.executable,), root)
        walls = sandbox.Walls(keep=root / "walls", readable=tuple(inside), home=Path.home(), environ=environ)

        def run(name: str, argv: tuple[str, ...], *, walled: bool) -> float:
            place = root / name
            place.mkdir()
            spec = JobSpec(id=name, argv=argv, cwd=str(place), env=for_run(environ))
            executor.submit(sandbox.confined(walls, spec) if walled else spec)
            seconds = executor.poll(name, 60).metrics.get("seconds")
            return seconds.last if seconds else 0.0

        def times(label: str, *, walled: bool) -> float:
            return median(count, lambda number: run(f"{label}-{walls.by if walled else None}-{number}", COMMANDS[label], walled=walled))

        for label, argv in COMMANDS.items():
            run(f"first-{label}", argv, walled=True)
            bare, walled = times(label, walled=False), times(label, walled=True)
            print(f"{label:<12} without {bare:6.1f} ms   with {walled:6.1f} ms   difference {walled - bare:6.1f} ms")
        (root / "desk").mkdir()
        spec = JobSpec("x", (), str(root / "desk"))
        print(f"command line {median(100, lambda _: sandbox.confined(walls, spec)):6.1f} ms   (part of the difference)")
        print(f"self-check   {median(10, lambda _: sandbox.prove(walls)):6.1f} ms")
        if not sandbox.check(weaker := replace(walls, by=sandbox.By.LANDLOCK)):
            walls = weaker
            print(
                f"Landlock     with {times('true', walled=True):6.1f} ms   self-check {median(10, lambda _: sandbox.prove(weaker)):6.1f} ms"
            )
            walls = replace(weaker, by=sandbox.By.BUBBLEWRAP)
        bare, inside_walls = (
            min(run(f"train-{way}-{n}", (sys.executable, "-c", TRAIN), walled=way) for n in range(5)) for way in (False, True)
        )
        print(f"training     without {bare:6.3f} s    with {inside_walls:6.3f} s    {100 * (inside_walls / bare - 1):+.1f} %")


main()
