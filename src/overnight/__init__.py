"""Autonomous experiment loops: propose, run, measure, keep what is measurably better."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
_API = {  # what is offered to Python, loaded when used
    "DagRun": "overnight.app.dag_handle", "Job": "overnight.app.api", "dag_from_yaml": "overnight.app.dag_handle", "hub_submit": "overnight.app.api",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _API:
        return getattr(importlib.import_module(_API[name]), name)
    raise AttributeError(f"module 'overnight' has no attribute {name!r}")
