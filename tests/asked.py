"""Requests to proposers without a loop, and programs that behave like agents."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from overnight.models import Direction, Experiment, Operator, Stage, Study
from overnight.protocols import Request
from overnight.settings import Settings

SOURCE = "LR = 0.1\nprint(f'@loss={1 - LR}')\n"
STUDY = Study(1, "t", "autoresearch/t", "", "loss", Direction.MINIMIZE, Settings(), 0.0)


def request(
    folder: Path, name: str = "t-1", cancelled: Callable[[], bool] = lambda: False, operator: Operator = Operator.IMPROVE
) -> Request:
    """A request with a copy of two files, of which train.py may be edited."""
    copy, work = folder / name / "copy", folder / name / "work"
    copy.mkdir(parents=True)
    work.mkdir()
    (copy / "train.py").write_text(SOURCE)
    (copy / "prepare.py").write_text("x = 1\n")
    parent = Experiment(1, 0, operator, Stage.APPLIED, "", "baseline", 0.0)
    return Request(name, STUDY, Operator.IMPROVE, parent, copy, work, ("train.py",), "# Your task\n\nLower the loss.\n", cancelled)


def program(path: Path, body: str) -> Path:
    """An executable that runs Python code, with ``brief`` (standard input), ``edit()`` and ``record(**words)`` at hand."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!{sys.executable} -IS\nimport json, os, pathlib, sys, time\nbrief = sys.stdin.read()\n"
        "def edit(name='train.py', text='LR = 0.2\\n'): pathlib.Path(name).write_text(text)\n"
        "def record(**words): print(json.dumps(words), flush=True)\n" + body
    )
    path.chmod(0o755)
    return path


def result(text: str = "HYPOTHESIS: a larger step", **more: object) -> str:
    """Code that prints the record with which Claude Code ends."""
    usage = {"input_tokens": 800, "cache_read_input_tokens": 200, "output_tokens": 50}
    made = {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "result": text,
        "session_id": "s1",
        "total_cost_usd": 0.01,
        "usage": usage,
        **more,
    }
    return f"print({json.dumps(json.dumps(made))})\n"
