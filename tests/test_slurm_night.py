"""Whole studies on a real Slurm: the program itself, its restart, preemption, waves."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import studies
from clusters import Slurm
from studies import ended, until  # noqa: F401 - a fixture that every test gets

ON_SLURM = ("--executor", "slurm")


def a_study(folder: Path, steps: dict[int, str], *words: str) -> studies.Study:
    made = studies.study(folder, steps, *ON_SLURM, *words)
    made.env["SLURM_CONF"] = os.environ["SLURM_CONF"]
    return made


def run(study: studies.Study, *words: str) -> studies.Called:
    return study.call("run", *study.words, *words)
