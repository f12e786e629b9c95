"""What a command costs before it does anything: which packages it loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

_HEAVY = {
    "optuna",
    "numpy",
    "rich",
    "sqlite3",
    "textual",
    "concurrent",
    "asyncio",
    "ssl",
    "tomllib",
    "logging",
    "multiprocessing",
    "unittest",
}


def _loaded(*words: str) -> set[str]:
    """Top-level names of everything that ``overnight`` with these words imports."""
    command = [sys.executable, "-X", "importtime", "-m", "overnight", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {row.split(".")[0] for row in rows}


@pytest.mark.parametrize("word", ["--version", "--help"])
def test_the_version_and_the_help_cost_no_heavy_import(word: str) -> None:
    assert sorted(_loaded(word) & _HEAVY) == []


def test_the_measure_sees_what_is_imported() -> None:
    assert {"overnight", "click", "json"} <= _loaded("--version")


_WITHOUT_OPTUNA = """
import sys
import overnight.app.run, overnight.loop, overnight.store, overnight.cli.run, overnight.proposers.optuna_search
print(sorted({"optuna", "numpy", "rich"} & set(sys.modules)))
"""


def test_a_study_without_the_embedded_search_loads_neither_optuna_nor_numpy() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT_OPTUNA], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
