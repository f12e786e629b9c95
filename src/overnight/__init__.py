"""Autonomous experiment loops: propose, run, measure, keep what is measurably better."""

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {"DagRun": "overnight.app.dag_handle", "dag_from_yaml": "overnight.app.dag_handle"}  # what is offered to Python, loaded when used


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'overnight' has no attribute '{name}'")
