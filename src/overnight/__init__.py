"""Autonomous experiment loops: propose, run, measure, keep what is measurably better."""

__version__ = "0.1.0"
