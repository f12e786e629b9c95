"""The record of everything: one SQLite file that is written before anything is acted on. SQL is spoken nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overnight.store.store import Store

__all__ = ["Store"]


def __getattr__(name: str) -> Any:
    """The record of a study, which who opens a queue does not need."""
    if name == "Store":
        from overnight.store.store import Store

        return Store
    raise AttributeError(f"module 'overnight.store' has no attribute {name!r}")
