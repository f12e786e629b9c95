"""What the person said, before anything is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """What the person said: settings given as flags, and where things lie."""

    folder: Path
    flags: Mapping[str, object]
    environ: Mapping[str, str]
    config: Path | None = None
    state: Path | None = None
    base: str = ""  # branch or commit that a fresh study starts from; empty = where HEAD is
    asks: bool = True  # false: nobody is asked for proposals, so that none need be there
