"""Repositories with a plan, and an agent whose n-th turn at a task is a shell script."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import studies
from overnight.testing import git

DECISION = "# Decision\n\n## Context\n\nx\n\n## Options\n\nx\n\n## Decision\n\nx\n\n## Consequences\n\nx\n"
REQUIREMENTS = "# Requirements\n\n- R1: The trainer shall print its loss.\n"
FILES = {"a.py": "A = 1\n", "b.py": "B = 1\n", "train.py": "import a, b\nprint(f'@loss={a.A + b.B}')\n"}
# Its n-th turn at task T is the script out/T.n; what it was told is kept.
AGENT = """\
t=$(grep -m1 -oE '^T[0-9]+' "$OVERNIGHT_BRIEF")
n=$(($(cat {out}/turns.$t 2>/dev/null || echo 0) + 1))
echo $n > {out}/turns.$t
cp "$OVERNIGHT_BRIEF" {out}/told.$t.$n
. {out}/$t.$n
echo "HYPOTHESIS: did $t"
"""


def task(name: str, files: str, check: str = "true", depends: str = "none", more: str = "") -> str:
    return f"## {name} Do {name}\n\n- depends: {depends}\n- files: {files}\n- requirements: R1\n- check: `{check}`\n{more}\n"


def planned(
    folder: Path, tasks: str, turns: Mapping[str, str], *, agent: str = AGENT, files: Mapping[str, str] | None = None
) -> studies.Study:
    """A repository with the plan ``p``; ``turns`` are the agent's scripts, by ``T1.1`` for its first turn at T1."""
    made = studies.study(folder, files=FILES, agent=agent)
    texts = {"tasks.md": f"# Tasks: p\n\nGoal: loss below 1\n\n{tasks}", "requirements.md": REQUIREMENTS, "decision.md": DECISION}
    more = {**{f"plans/p/{name}": text for name, text in texts.items()}, **(files or {})}
    for name, text in more.items():
        (made.root / name).parent.mkdir(parents=True, exist_ok=True)
        (made.root / name).write_text(text)
    git(made.root, "add", *more)
    git(made.root, "commit", "-q", "-m", "plan", "--", *more)
    for name, script in turns.items():
        (made.out / name).write_text(script)
    return made


def words(made: studies.Study, *more: str, slots: int = 2) -> tuple[str, ...]:
    return (str(slots), "--unsafe-no-sandbox", "--proposer-command", f"sh {made.out}/agent.sh", *more)


def implement(made: studies.Study, *more: str, slots: int = 2) -> studies.Done:
    return made.call("implement", *words(made, *more, slots=slots))


def tasks(made: studies.Study) -> dict[str, dict[str, Any]]:
    """The tasks of the plan by name, as ``plan --status --json`` tells them."""
    return {row["name"]: row for row in json.loads(made.call("plan", "--status", "--json").out)["tasks"]}


def states(made: studies.Study) -> dict[str, str]:
    return {name: row["state"] for name, row in tasks(made).items()}


def turns(made: studies.Study, name: str) -> int:
    path = made.out / f"turns.{name}"
    return int(path.read_text()) if path.exists() else 0


def on_branch(made: studies.Study, path: str, branch: str = "overnight/plan/p") -> str:
    return git(made.root, "show", f"{branch}:{path}")
