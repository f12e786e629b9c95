"""The record of everything: one SQLite file that is written before anything is acted on. SQL is spoken nowhere else."""

from overnight.store.store import Store

__all__ = ["Store"]
