"""Noisy studies for the tests of deciding: a training whose noise is a function of code and seed, and a scripted agent."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from studies import Study, study

# One line of code per constant, far enough apart to be merged. The noise is a function of code and seed; KIND of the first three
# seeds, which select, may be another than that of fresh ones, which tell.
TRAIN = """\
import hashlib, os, sys
A = 0.0
# a line
# between
# the two
B = 0.0
# a line
# between
# the two
C = 0.0
# a line
# between
# the two
LUCK = 0.0
seed = int(os.environ["OVERNIGHT_SEED"])
draw = hashlib.sha256(f"23 {A} {B} {C} {LUCK} {seed}".encode()).digest()
noise = sum(byte - 127.5 for byte in draw) / 417.0
lucky = LUCK if seed < 100_000 else -LUCK
print(f"@loss={5.0 - A - B - C - lucky + 0.1 * noise:.6f}")
"""
NOISY = ("--baseline-runs", "3")


# As the usual agent, for several calls at once.
TURNS = """\
n=1; until mkdir {out}/turn.$n 2>/dev/null; do n=$((n + 1)); done
cp "$OVERNIGHT_BRIEF" {out}/brief.$n
. {out}/step.$n
"""


def edit(name: str, value: float) -> str:
    return f"sed -i 's/^{name} = .*/{name} = {value}/' train.py; echo '{name} = {value}'\n"


def dull(number: int) -> str:
    """An edit that makes things clearly worse, a little differently each time."""
    return edit("A", -5.0 - number / 100)


def noisy(folder: Path, steps: dict[int, str], *words: str, **more: Any) -> Study:
    """A study with noise whose agent makes clear losers where ``steps`` says nothing."""
    script = {number: steps.get(number, dull(number)) for number in range(1, 80)}
    return study(folder, script, *NOISY, *words, files={"train.py": TRAIN}, **more)


def table(found: Study, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(found.root / ".overnight" / "overnight.db") as db:
        return db.execute(sql).fetchall()
