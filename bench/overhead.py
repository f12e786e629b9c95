"""What a loop costs per experiment, beyond the training and proposing commands themselves.

    python bench/overhead.py [--quick] [--json]

One run compares three loops on the same trivial study: the seed's steps as a literal shell script, labloop 1.0.5 from its package,
and overnight. Then it asks whether the cost stays what it is at 10,000 experiments, how much memory the loop takes, how busy four
slots are, and what the verbs that only look cost. Costs per experiment are slopes between a short and a long run, the medians of
several rounds; what starting up costs is told apart. Without --quick it takes some minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from overhead_counting import Spent, machine, spend
from overhead_filled import filled
from overhead_loops import LABLOOP, Bench, alone, confined, fresh, labloop, labloop_run, overnight, program, shell

Command = Callable[[Bench, int], list[str]]
_FLOOD = 100 * 10**6  # bytes


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done: experiments of the short and the long run, rounds, experiments behind the filled study."""

    short: int
    long: int
    rounds: int
    history: int
    train: float  # seconds of one training in the study with four slots
    cycles: int  # experiments of that study


_QUICK = Size(short=3, long=13, rounds=1, history=200, train=0.5, cycles=16)
_FULL = Size(short=10, long=110, rounds=3, history=10_000, train=1.0, cycles=80)


@dataclass(frozen=True, slots=True)
class Slope:
    """Milliseconds per experiment, and seconds that are spent once."""

    wall_ms: float
    cpu_ms: float
    start_wall: float
    start_cpu: float


@dataclass(frozen=True, slots=True)
class Row:
    """One figure; ``goal`` in words, ``reached`` None where there is none."""

    name: str
    value: float
    unit: str
    goal: str = ""
    reached: bool | None = None


def _slope(few: Spent, many: Spent, short: int, long: int) -> Slope:
    wall, cpu = (many.wall - few.wall) / (long - short), (many.cpu - few.cpu) / (long - short)
    return Slope(1000 * wall, 1000 * cpu, few.wall - short * wall, few.cpu - short * cpu)


def _median(slopes: list[Slope]) -> Slope:
    return Slope(*(statistics.median(values) for values in zip(*(tuple(asdict(slope).values()) for slope in slopes), strict=True)))


def _once(folder: Path, command: Command, count: int) -> Spent:
    bench = fresh(folder)
    spent = spend(command(bench, count), bench.repository, bench.env, bench.output)
    shutil.rmtree(folder)
    return spent


def compared(folder: Path, loops: dict[str, Command], size: Size) -> tuple[dict[str, Slope], str]:
    """The cost of every loop, in rounds that take turns, lest a busy minute of the machine falls on one of them; how CPU was counted."""
    found: dict[str, list[Slope]] = {name: [] for name in loops}
    counted = ""
    for number in range(size.rounds):
        for name, command in loops.items():
            few, many = (_once(folder / f"study-{number}-{count}", command, count) for count in (size.short, size.long))
            found[name].append(_slope(few, many, size.short, size.long))
            counted = few.counted
    return {name: _median(slopes) for name, slopes in found.items()}, counted


def _beyond(slopes: dict[str, Slope]) -> Iterator[Row]:
    """Every loop less the commands alone, and the ratios."""
    bare = slopes["alone"]
    yield Row("commands alone, wall", bare.wall_ms, "ms")
    yield Row("commands alone, CPU", bare.cpu_ms, "ms")
    own = {name: (slope.wall_ms - bare.wall_ms, slope.cpu_ms - bare.cpu_ms) for name, slope in slopes.items() if name != "alone"}
    for name, (wall, cpu) in own.items():
        yield Row(f"{name}, wall beyond", wall, "ms")
        yield Row(f"{name}, CPU beyond", cpu, "ms")
    for place, word in enumerate(("wall", "CPU")):
        for other in [name for name in own if not name.startswith("overnight")]:
            ratio = own["overnight"][place] / own[other][place]
            if other == "shell":
                yield Row(f"overnight : shell, {word}", ratio, "x", "<= 1.5", ratio <= 1.5)
            else:
                yield Row(f"overnight : {other}, {word}", ratio, "x")
    for name, slope in slopes.items():
        yield Row(f"{name}, starting and ending, CPU", 1000 * slope.start_cpu, "ms")


def long_study(folder: Path, size: Size) -> Iterator[Row]:
    """What an experiment costs with thousands behind it, as ratios to fresh studies in between; and the verbs that look at such a study."""
    bench = filled(folder / "filled", size.history)

    def go_on(count: int) -> Spent:
        return spend(overnight(bench, count), bench.repository, bench.env, bench.output)

    count = size.history
    slopes: dict[str, list[Slope]] = {"near": [], "far": []}
    opening = go_on(count)
    for _ in range(size.rounds):
        few = go_on(count + size.short)
        many = go_on(count + size.short + size.long)
        count += size.short + size.long
        slopes["far"].append(_slope(few, many, size.short, size.long))
        few, many = (_once(folder / f"near-{count}-{number}", overnight, number) for number in (size.short, size.long))
        slopes["near"].append(_slope(few, many, size.short, size.long))
    near, far = _median(slopes["near"]), _median(slopes["far"])
    yield Row(f"at {size.history} experiments, wall", far.wall_ms / near.wall_ms, "x", "<= 1.2", far.wall_ms / near.wall_ms <= 1.2)
    yield Row(f"at {size.history} experiments, CPU", far.cpu_ms / near.cpu_ms, "x", "<= 1.2", far.cpu_ms / near.cpu_ms <= 1.2)
    yield Row("starting again there, CPU", 1000 * opening.cpu, "ms")
    yield Row("starting again there, wall", 1000 * opening.wall, "ms")
    yield from _look(bench, "status --json there", ("status", "--json", "--state", str(bench.folder / "state")), 150.0)
    yield from _look(bench, "ls --last 20 --json there", ("ls", "--json", "--last", "20", "--state", str(bench.folder / "state")), None)


def _look(bench: Bench, name: str, words: tuple[str, ...], most: float | None) -> Iterator[Row]:
    """The least of nine calls: what the verb needs when nothing else runs."""
    spent = [spend([*program(), *words], bench.repository, bench.env, bench.output) for _ in range(9)]
    cpu, wall = 1000 * min(item.cpu for item in spent), 1000 * min(item.wall for item in spent)
    yield Row(f"{name}, CPU", cpu, "ms", f"<= {most:g}" if most else "", cpu <= most if most else None)
    yield Row(f"{name}, wall", wall, "ms")


def flood(folder: Path) -> Iterator[Row]:
    """A run that prints 100 MB: memory of the loop, and how fast the output goes through; for comparison, the same into a file."""
    line = "step 12345 loss 0.12345 lr 0.001 grad 1.25 tokens 1048576 time 0.031"
    bench = fresh(folder / "flood", f'x=0\nyes "{line}" | head -c {_FLOOD}\necho\necho "fitness: $x.5"\n')
    spent = spend(overnight(bench, 2), bench.repository, bench.env, bench.output)
    yield Row("memory of the loop, run prints 100 MB", spent.memory_mb, "MB", "< 80", spent.memory_mb < 80)
    rows = _rows(bench)
    yield Row("output through the supervisor", _FLOOD / 1e6 / min(row["seconds"] for row in rows), "MB/s")
    plain = spend(["sh", "train.sh"], bench.repository, bench.env, bench.output)
    yield Row("the same output into a file", _FLOOD / 1e6 / plain.wall, "MB/s")
    yield from _search_memory(fresh(folder / "search"))


def _search_memory(bench: Bench) -> Iterator[Row]:
    """The loop with the embedded search, which brings libraries of its own, once it models what it has seen."""
    (bench.repository / "train.py").write_text("lr = 0.1\nwidth = 64\nprint(f'fitness: {lr * width}')\n")
    spend(["sh", "-c", "git add train.py && git commit -q -m train"], bench.repository, bench.env, bench.output)
    words = ["--tag", "search", "--metric", "fitness", "--direction", "maximize", "--editable", "train.py", "--budget", "14"]
    command = [*program(), "run", *words, "--state", str(bench.folder / "state"), "--", os.path.abspath(sys.executable), "train.py"]
    spent = spend(command, bench.repository, bench.env, bench.output)
    yield Row("memory of the loop with the embedded search", spent.memory_mb, "MB")


def _rows(bench: Bench) -> list[dict[str, float]]:
    spend([*program(), "ls", "--json", "--state", str(bench.folder / "state")], bench.repository, bench.env, bench.output)
    rows: list[dict[str, float]] = json.loads(bench.output.read_bytes())
    return rows


def busy(folder: Path, size: Size) -> Iterator[Row]:
    """How much of the time four slots train while a proposer thinks for 30 % of a training.

    From the end of the baseline, by the job folders' own clocks, until the last training begins: after that there is no work left.
    """
    bench = fresh(folder / "busy")
    env = {**bench.env, "BENCH_TRAIN": str(size.train), "BENCH_THINK": str(0.3 * size.train)}
    spend(overnight(bench, size.cycles, "--slots", "4"), bench.repository, env, bench.output)
    found = [json.loads((job / "status.json").read_bytes()) for job in (bench.folder / "state" / "jobs").glob("bench-*")]
    runs = sorted((item["started"], item["started"] + item["seconds"]) for item in found)
    for name, begin in (("from the end of the baseline", runs[0][1]), ("once all were filled", runs[4][0])):
        end = runs[-1][0]
        trained = sum(max(0.0, min(until, end) - max(since, begin)) for since, until in runs)
        share = 100 * trained / (4 * (end - begin))
        yield Row(f"4 slots busy, {name}", share, "%", ">= 95", share >= 95)
    began = [datetime.fromisoformat(str(row["started"])).timestamp() for row in _rows(bench)]
    yield Row("longest time between two starts", 1000 * max(b - a for a, b in itertools.pairwise(sorted(began)[1:])), "ms")


def figures(folder: Path, size: Size) -> tuple[list[Row], list[str]]:
    """All figures, and what is to be said about them."""
    loops: dict[str, Command] = {"alone": alone, "shell": shell, "overnight": overnight, "overnight behind walls": confined}
    notes = []
    lab, why = labloop(folder / "labloop")
    if lab:
        loops["labloop"] = lambda bench, count: labloop_run(lab, bench, count)
    else:
        notes.append(f"{LABLOOP} could not be installed: {why}")
    slopes, counted = compared(folder, loops, size)
    if counted != "all":
        notes.append("CPU of helpers that nobody waits for is missing: the kernel lets this user count only what is waited for")
    rows = [*_beyond(slopes)]
    bench = fresh(folder / "version")
    rows += _look(bench, "overnight --version", ("--version",), 100.0)
    rows += [*flood(folder), *busy(folder, size), *long_study(folder, size)]
    return rows, notes


def main() -> int:
    """Print the table; 1 if a goal is missed by a full run."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="seconds instead of minutes; the figures are rough")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="overnight-bench-") as name, contextlib.chdir(name):
        where = machine(Path(name))
        rows, notes = figures(Path(name), _QUICK if chosen.quick else _FULL)
    if chosen.json:
        print(json.dumps({"machine": where, "quick": chosen.quick, "notes": notes, "figures": [asdict(row) for row in rows]}, indent=1))
    else:
        print(where, *notes, "", sep="\n")
        for row in rows:
            word = "" if row.reached is None else "reached" if row.reached else "MISSED"
            print(f"{row.name:<46} {row.value:>9.2f} {row.unit:<5} {row.goal:>8}  {word}".rstrip())
    return int(not chosen.quick and any(row.reached is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
