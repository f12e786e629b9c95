"""Autonomous experiment loops: propose, run, measure, keep what is measurably better."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
_API = {"Job": "overnight.app.api", "hub_submit": "overnight.app.api"}


def __getattr__(name: str) -> Any:
    """What users call is loaded when they do."""
    if name in _API:
        return getattr(importlib.import_module(_API[name]), name)
    raise AttributeError(f"module 'overnight' has no attribute {name!r}")
