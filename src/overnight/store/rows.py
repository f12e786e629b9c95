"""Between rows and records: how an experiment, a study and a file look inside the database."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields

from overnight.models import Confined, Decision, Direction, Experiment, MetricPoint, Operator, Run, Stage, Study, Trust
from overnight.settings import from_dict

_KNOWN = 512  # experiments whose rows need not be read again
_WINDOW = 32 * 1024  # zlib looks no further back
_PLAIN = {item.name for item in fields(Experiment)} - {
    "operator",
    "stage",
    "decision",
    "trust",
    "confined",
    "confirmed",
    "near",
    "estimated",
    "commit",
    "metrics",
    "state",
}


def storable(value: object) -> object:
    """``value`` as SQLite can hold it: no NaN or infinity, no half of a surrogate pair."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def pack(content: bytes, dictionary: bytes) -> bytes:
    """``content`` compressed against ``dictionary``: a small edit of the baseline takes about a hundred bytes."""
    packer = zlib.compressobj(9, zdict=dictionary[-_WINDOW:]) if dictionary else zlib.compressobj(9)
    return packer.compress(content) + packer.flush()


def unpack(packed: bytes, dictionary: bytes) -> bytes:
    """What ``pack`` was given. Raises ``zlib.error`` for anything else."""
    unpacker = zlib.decompressobj(zdict=dictionary[-_WINDOW:]) if dictionary else zlib.decompressobj()
    content = unpacker.decompress(packed) + unpacker.flush()
    if not unpacker.eof:
        raise zlib.error("incomplete")
    return content


def digest(files: Mapping[str, bytes]) -> str:
    """One hash over all paths and contents: equal exactly if the files are."""
    total = hashlib.sha256()
    for path in sorted(files):
        name = path.encode("utf-8", "surrogateescape")
        total.update(b"%d %d\0" % (len(name), len(files[path])) + name + files[path])
    return total.hexdigest()


def study_from(row: sqlite3.Row) -> Study:
    """The study in a row of ``study``."""
    return Study(
        id=row["id"], tag=row["tag"], branch=row["branch"], base_commit=row["base_commit"], metric=row["metric"],
        direction=Direction(row["direction"]), settings=from_dict(json.loads(row["settings"])), created=row["created"],
    )  # fmt: skip


def run_from(row: sqlite3.Row) -> Run:
    """The finished run in a row of ``job``."""
    return Run(
        **{item.name: row[item.name] for item in fields(Run) if item.name not in ("metrics", "looks_again")},
        looks_again=bool(row["looks_again"]),
        metrics=json.loads(row["metrics"]),
    )


@functools.lru_cache(_KNOWN)
def experiment_from(row: sqlite3.Row) -> Experiment:
    """The experiment in a row of ``experiment``; equal rows give the same one."""
    return Experiment(
        **{name: row[name] for name in _PLAIN},
        operator=Operator(row["operator"]), stage=Stage(row["stage"]), trust=Trust(row["trust"]), confined=Confined(row["confined"]), confirmed=bool(row["confirmed"]), near=bool(row["near"]), estimated=bool(row["estimated"]), commit=row["commit_id"],
        decision=Decision(row["decision"]) if row["decision"] else None, metrics=json.loads(row["metrics"]), state=json.loads(row["state"]),
    )  # fmt: skip


def thin(points: Sequence[MetricPoint], goal: str = "", names: int = 20, each: int = 200) -> list[MetricPoint]:
    """At most ``each`` (two or more) evenly spaced points, first and last included, of the goal and of at most ``names`` metrics."""
    series: dict[str, list[MetricPoint]] = {}
    for point in points:
        if point.name in series or point.name == goal or len(series) < names:
            series.setdefault(point.name, []).append(point)
    kept: list[MetricPoint] = []
    for found in series.values():
        stride = max(1, math.ceil((len(found) - 1) / (each - 1)))
        kept += found[::stride] if (len(found) - 1) % stride == 0 else [*found[::stride], found[-1]]
    return kept
