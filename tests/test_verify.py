"""Second opinions on results of workers: a worker that lies is found by real nights on real workers, honest ones are left alone."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overnight.judge.agreement import Known, Opinions, compare, known, sampled
from overnight.judge.records import Knowledge, Offset, Rules, Run
from overnight.models import Direction, JobState
from studies import Study, ended, study  # noqa: F401 - a fixture
from yards import LEASE, Yard, end, until

# Repeats exactly but for what the seed does: three hundredths either way.
TRAIN = "import os\nlevel = {level}\nprint('@loss=' + str(level + 0.03 * (int(os.environ['OVERNIGHT_SEED']) * 7919 % 3 - 1)))\n"
# Every change is a little worse than the baseline, and waits until it may be tried.
AGENT = """\
n=$(($(cat {out}/asked 2>/dev/null || echo 0) + 1))
echo $n > {out}/asked
until [ -e {out}/think.$n ]; do sleep 0.02; done
sed -i "s/^level.*/level = 1.0$n/" train.py
echo "level 1.0$n"
"""
# What the worker calls a shell runs what it is given, and then says something better: the later the experiment, the better.
SHELL = """\
#!/bin/sh
/bin/sh "$@"
code=$?
[ -e {lie} ] && echo "@loss=-$(($(echo "$OVERNIGHT_EXPERIMENT_ID" | sed 's/exp-0*//')))"
exit $code
"""


def night(yard: Yard, *words: str) -> Study:
    """A study on the yard's workers that asks for second opinions."""
    given = ("--executor", "hub", "--slots", "1", "--baseline-runs", "3", "--verify", "keeps", *words)
    found = study(yard.root / "study", {}, *given, files={"train.py": TRAIN.format(level="1.0")}, agent=AGENT)
    found.env.update({"OVERNIGHT_HUB": str(yard.hub), "OVERNIGHT_HUB_LEASE": str(LEASE), "OVERNIGHT_WORKER_ROOM": "0"})
    return found


def liar(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker that lies about every run once the file is there."""
    lie, folder = yard.root / "lie", yard.root / "bin"
    folder.mkdir()
    (folder / "sh").write_text(SHELL.format(lie=lie))
    (folder / "sh").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yard.worker("--slots", "1", name="liar")
    return lie


@pytest.fixture
def ending(yard: Yard) -> Iterator[Yard]:
    yield yard
    for process in yard.started:
        end(process, signal.SIGKILL)


def hold(yard: Yard, *names: str) -> None:
    """Keep workers busy until ``told/free`` is there."""
    for name in names:
        yard.submit(f"until [ -e {yard.told}/free ]; do sleep 0.02; done", workers=(name,))
    until(lambda: sum(job.state is JobState.RUNNING for job in yard.jobs()) == len(names))


def quarantine(yard: Yard) -> dict[str, str]:
    """Workers in quarantine, and why."""
    return {each["name"]: each["quarantine"][0]["reason"] for each in yard.json("hub", "workers")["workers"] if each["quarantine"]}


def test_what_one_worker_claims_and_two_others_do_not_bear_out_is_not_kept(ending: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    yard = ending
    lie = liar(yard, monkeypatch)
    for name in ("left", "right"):
        yard.worker("--slots", "1", name=name)
    until(lambda: len(yard.alive()) == 3)
    found = night(yard, "--budget", "1")
    loop = found.spawn(found.command("run"))
    until((found.out / "asked").exists)
    hold(yard, "left", "right")
    lie.touch()
    (found.out / "think.1").touch()
    until(lambda: any(job.worker == "liar" and job.submission.exp_id == "exp-002" and job.state.over for job in yard.jobs()))
    (yard.told / "free").touch()
    code, rows = loop.wait(60), found.rows()
    workers = {job.worker for job in yard.jobs() if job.submission.exp_id == "exp-002"}
    said = [word for word in ("of #2 liar says -2, ", "that run does not count") if word in found.said()]
    assert (code, [row["decision"] for row in rows], round(rows[1]["value"]), workers, len(said), found.faults(rows)) == (
        0, ["keep", "discard"], 1, {"liar", "left", "right"}, 2, [],
    )  # fmt: skip


@pytest.mark.slow
def test_a_worker_that_lies_all_night_is_put_in_quarantine_and_gets_nothing_until_it_is_trusted(
    ending: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard = ending
    lie = liar(yard, monkeypatch)
    for name in ("left", "right"):
        yard.worker("--slots", "1", name=name)
    until(lambda: len(yard.alive()) == 3)
    found = night(yard, "--verify", "all")
    loop = found.spawn(found.command("run"))
    until((found.out / "asked").exists)
    lie.touch()
    for number in range(1, 100):
        (found.out / f"think.{number}").touch()
    why = until(lambda: quarantine(yard))
    count = len(until(found.rows))
    until(lambda: len(found.rows()) > count + 3)
    found.call("stop")
    code, rows, told = loop.wait(60), found.rows(), found.status()
    later = {job.worker for job in yard.jobs() if job.submission.exp_id == f"exp-{count + 2:03d}"}
    state = yard.call("hub", "workers").stdout
    trusted = yard.json("worker", "trust", "liar")
    assert (code, [row["number"] for row in rows if row["decision"] != "discard"], found.faults(rows)) == (0, [1], [])
    assert ([each["worker"] for each in told["quarantined"]], list(why), "outvoted 3 times; the last: of #" in why["liar"]) == (
        ["liar"],
        ["liar"],
        True,
    )
    assert ("liar" in later, "quarantine" in state, trusted["quarantine"], quarantine(yard)) == (False, True, False, {})


@pytest.mark.slow
def test_a_keep_that_nobody_could_verify_says_so_and_is_taken_back_once_its_worker_is_found_to_lie(
    ending: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard = ending
    lie = liar(yard, monkeypatch)
    until(yard.alive)
    found = night(yard, "--verify", "all", "--verify-wait", "1s")
    loop = found.spawn(found.command("run"))
    until((found.out / "asked").exists)
    lie.touch()
    (found.out / "think.1").touch()
    kept = until(lambda: [row for row in found.rows() if row["number"] == 2 and row["decision"]])[0]
    for name in ("left", "right"):
        yard.worker("--slots", "1", name=name)
    until(lambda: len(yard.alive()) == 3)
    for number in range(2, 100):
        (found.out / f"think.{number}").touch()
    until(lambda: found.rows()[1]["reverted"])
    found.call("stop")
    code, rows = loop.wait(60), found.rows()
    assert (kept["decision"], kept["confirmed"], kept["verified"], "not verified: no second worker" in kept["cause"]) == (
        "keep", False, "not verified: no second worker", True,
    )  # fmt: skip
    undone = next(row for row in rows if row["operator"] == "revert")
    assert (code, undone["decision"], rows[1]["reverted"], "measured by liar, which is in quarantine" in rows[1]["cause"], found.faults()) == (
        0, "keep", undone["number"], True, [],
    )  # fmt: skip


# The second run of it waits at a gate.
GATE = """\
import os, time
out = {out!r}
with open(out + "/ran", "a") as file:
    file.write("x")
while os.path.getsize(out + "/ran") == 2 and not os.path.exists(out + "/go"):
    time.sleep(0.02)
print("@loss=" + str(0.5 + 0.03 * (int(os.environ["OVERNIGHT_SEED"]) * 7919 % 3 - 1)))
"""


@pytest.mark.slow
def test_a_second_opinion_whose_loop_was_killed_is_found_again_at_its_worker(ending: Yard) -> None:
    yard = ending
    for name in ("left", "right"):
        yard.worker("--slots", "1", name=name)
    until(lambda: len(yard.alive()) == 2)
    found = night(yard, "--budget", "1")
    (found.out / "gate.py").write_text(GATE.format(out=str(found.out)))
    (found.out / "agent.sh").write_text(f"cp {found.out}/gate.py train.py\necho better\n")
    loop = found.spawn(found.command("run"))
    until(lambda: (found.out / "ran").exists() and (found.out / "ran").stat().st_size == 2)
    loop.send_signal(signal.SIGKILL)
    loop.wait()
    (found.out / "go").touch()
    done = found.call("run", "--budget", "0", seconds=60)
    rows = found.rows()
    where = [job.worker for job in yard.jobs() if job.submission.exp_id == "exp-002"]
    assert (done.code, rows[1]["decision"], sorted(where), rows[1]["verified"], (found.out / "ran").read_text(), found.faults(rows)) == (
        0, "keep", ["left", "right"], where[0], "xx", [],
    )  # fmt: skip


def test_second_opinions_where_there_are_no_workers_are_refused(yard: Yard) -> None:
    done = study(yard.root / "study", {}, "--verify", "keeps").call("run", "--budget", "1")
    assert (done.code, "error[E-VERIFY]" in done.err) == (2, True)


# --- when workers are apart ------------------------------------------------------------------------------------------

RULES = Rules(Direction.MINIMIZE)


def said(**values: float | list[float]) -> dict[str, list[Run]]:
    return {name: [Run(each, 0, "cpu") for each in (value if isinstance(value, list) else [value])] for name, value in values.items()}


def by(*values: float) -> Known:
    """What runs of one version with these values show."""
    return known([[Run(value, seed, "cpu") for seed, value in enumerate(values)]], Knowledge(), RULES)


NOISY, EXACT, NOTHING = by(1.0, 1.02, 0.99, 1.01, 0.98), by(1.0, 1.0, 1.0, 1.0, 1.0), by(1.0)


@pytest.mark.parametrize(
    ("shown", "values", "expected"),
    [
        (NOISY, {"left": 1.0, "right": 1.05}, Opinions()),
        (NOISY, {"left": 0.5, "right": 1.0}, Opinions(torn=True)),
        (NOISY, {"liar": 0.5, "left": 1.0, "right": 1.01}, Opinions("liar", better=True)),
        (NOISY, {"left": 1.0, "broken": 1.5, "right": 1.01}, Opinions("broken", better=False)),
        (NOISY, {"left": 0.5, "middle": 1.0, "right": 1.5}, Opinions()),
        (NOISY, {"left": 0.5}, Opinions()),
        (EXACT, {"left": 1.0, "right": 1.0000001}, Opinions()),
        (EXACT, {"liar": 0.9, "left": 1.0, "right": 1.0}, Opinions("liar", better=True)),
        (NOTHING, {"left": 0.5, "right": 1.0}, Opinions()),
    ],
)
def test_who_is_apart_from_all_others_that_agree_is_odd(shown: Known, values: dict[str, Any], expected: Opinions) -> None:
    assert compare(said(**values), shown) == expected


def test_a_class_of_machine_of_which_nothing_is_known_is_given_much_room() -> None:
    learned = replace(Knowledge(), workers={"cpu": Offset(0.0, 1.0)})
    shown = known([[Run(value, seed, "cpu") for seed, value in enumerate((1.0, 1.02, 0.99, 1.01, 0.98))]], learned, RULES)
    other = {"left": [Run(1.0, 0, "cpu")], "right": [Run(1.2, 0, "another")]}
    same = {"left": [Run(1.0, 0, "cpu")], "right": [Run(1.2, 0, "cpu")]}
    assert (compare(other, shown), compare(same, shown)) == (Opinions(), Opinions(torn=True))


@pytest.fixture(scope="module")
def nights() -> Any:
    """The simulation with known truth that the benchmark is."""
    spec = importlib.util.spec_from_file_location("verifying_bench", Path(__file__).parents[1] / "bench" / "verifying.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("noise", ["normal", "heavy", "diverging"])
def test_honest_workers_are_left_alone_whatever_the_noise_is_like(nights: Any, noise: str) -> None:
    found = [nights.Night(seed, getattr(nights, noise)) for seed in range(100)]
    assert sum(len(night.gone) for night in found) <= 2


def test_a_worker_that_claims_much_more_than_it_measured_is_found_and_nobody_else(nights: Any) -> None:
    found = [nights.Night(seed, nights.normal, 16.0) for seed in range(50)]
    assert (sum("w0" in night.gone for night in found) >= 47, {name for night in found for name in night.gone}) == (True, {"w0"})


def test_a_tenth_of_the_results_is_looked_at_by_their_numbers_alone() -> None:
    found = [sampled(number, 7) for number in range(10_000)]
    assert (found == [sampled(number, 7) for number in range(10_000)], round(sum(found) / 10_000, 2)) == (True, 0.1)
