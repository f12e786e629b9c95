"""Recipes that bring a worker or a relay up on machines of several kinds: texts for a person to look through and use."""

from __future__ import annotations

import shlex
import shutil
import sys
from importlib import resources

KINDS = ("systemd", "slurm", "skypilot", "dstack", "docker")


def recipe(kind: str, what: str = "worker") -> str:
    """The recipe for one of ``KINDS`` (for a ``relay`` systemd alone), with this machine's own command where the recipe is for this machine."""
    text = resources.files("overnight").joinpath("templates", what, kind).read_text(encoding="utf-8")
    found = shutil.which("overnight")
    return text.replace("{overnight}", shlex.quote(found) if found else f"{shlex.quote(sys.executable)} -m overnight")
