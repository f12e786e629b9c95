"""Small projects with a pipeline, and the program in a process of its own that runs them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import SOURCE
from terminal import Said, environment, typed

SEED = (Path(__file__).parent / "seed_pipeline.yaml").read_text(encoding="utf-8")
STAGES = {
    "preprocess.py": "open('clean.csv', 'w').write('1\\n2\\n3\\n')\n",
    "train.py": "rows = open('clean.csv').read().split()\nopen('model.txt', 'w').write(str(len(rows)))\nprint('@loss=0.31')\n",
    "evaluate.py": "print(f'@mpjpe={int(open(\"model.txt\").read()) + 0.5}')\n",
}


@dataclass(frozen=True)
class Project:
    """A folder with a pipeline, a record of its own, and no walls unless a test wants them."""

    root: Path
    env: Mapping[str, str]

    def dag(self, *words: str, **more: str) -> Said:
        """``overnight dag WORDS``."""
        return typed(self.root, "dag", *words, env={**self.env, **more})

    def spawn(self, *words: str) -> subprocess.Popen[bytes]:
        """The same, not waited for; what it says goes to ``said``."""
        with self.said.open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "overnight", "dag", *words],
                cwd=self.root,
                env=dict(self.env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    @property
    def said(self) -> Path:
        return self.root.with_name("said")

    def python(self, code: str) -> Said:
        """A program of the user's."""
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=self.root, env=dict(self.env), capture_output=True, text=True, check=False, timeout=60
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def seen(self, dag: str = "last") -> Any:
        """What ``dag status --json`` says."""
        return self.dag("status", dag, "--json").json

    def states(self, dag: str = "last") -> dict[str, str]:
        return {node["task"]: node["state"] for node in self.seen(dag)["nodes"]}

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What the record holds; nothing before it was made."""
        if not (self.hub / "dags.db").exists():
            return []
        with closing(sqlite3.connect(self.hub / "dags.db")) as db, contextlib.suppress(sqlite3.OperationalError):
            return db.execute(sql).fetchall()
        return []

    @property
    def hub(self) -> Path:
        return Path(self.env["OVERNIGHT_HUB"])


def project(folder: Path, text: str = SEED, files: Mapping[str, str] = STAGES, **more: str) -> Project:
    """A project with this pipeline and these files; one GPU is declared, since the seed's pipeline asks for one."""
    root = folder / "project"
    root.mkdir()
    (root / "pipeline.yaml").write_text(text, encoding="utf-8")
    for name, content in files.items():
        (root / name).write_text(content, encoding="utf-8")
    return Project(
        root,
        environment(
            folder,
            OVERNIGHT_HUB=str(folder / "hub"),
            OVERNIGHT_GPUS="0",
            PYTHONPATH=SOURCE,
            **more,
        ),
    )


def lines(found: Said) -> list[str]:
    """What was said, without the times."""
    return [line.partition(" (")[0] if "Status: SUCCEEDED" in line else line for line in found.out.splitlines()]


def quoted(text: str) -> str:
    """A text of YAML in quotes."""
    return json.dumps(text)
