"""Milliseconds that one experiment costs in git: export, collect, commit, ref and branch, at several numbers of refs.

    python bench/workspace.py [--cycles N] [REFS ...]

Wall and CPU time, children included, of a tree of five small files; the repository lies in a temporary folder.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from overnight.workspace import Scope, Workspace


def cpu() -> float:
    """CPU seconds of this process and the children it has waited for."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def repository(folder: Path) -> Path:
    """A repository with five small files."""
    root = folder / "repository"
    root.mkdir()
    for name in ("train.py", "prepare.py", "program.md", "README.md", "data.csv"):
        (root / name).write_text(f"{name}\n" * 200)
    for words in (("init", "-q"), ("add", "-A"), ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-qm", "start")):
        subprocess.run(["git", *words], cwd=root, check=True)
    return root


def cycle(space: Workspace, folder: Path, base: str, parent: str, number: int) -> str:
    """One experiment, without its training."""
    scope = Scope(("train.py",))
    copy = folder / "copy"
    space.export(base, {"train.py": f"lr = {number}\n".encode() * 100}, copy, {}, scope)
    found = space.collect(copy, base, scope)
    ref = f"refs/overnight/bench/{number}"
    made = space.commit(parent=parent, base=base, files=found.files, message=f"exp-{number}", ref=ref, when=1_700_000_000, scope=scope)
    space.move_branch("autoresearch/bench", made.commit, parent)
    shutil.rmtree(copy)
    return made.commit


def main() -> None:
    """Print one line for each number of refs."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cycles", type=int, default=100)
    options.add_argument("refs", type=int, nargs="*", default=[10, 1000, 5000])
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = repository(folder)
        with Workspace.open(root, folder / "state") as space:
            base = parent = space.head()
            space.create_branch("autoresearch/bench", base)
            made = 0
            for refs in sorted(chosen.refs):
                lines = "".join(f"create refs/overnight/bench/{number} {base}\n" for number in range(made, refs))
                subprocess.run(["git", "update-ref", "--stdin"], cwd=root, input=lines.encode(), check=True)
                walls, started = [], cpu()
                for number in range(refs, refs + chosen.cycles):
                    begun = time.perf_counter()
                    parent = cycle(space, folder, base, parent, number)
                    walls.append(1000 * (time.perf_counter() - begun))
                made = refs + chosen.cycles
                spent = 1000 * (cpu() - started) / chosen.cycles
                print(f"{refs:>6} refs   {statistics.median(walls):6.2f} ms wall (median)   {spent:6.2f} ms CPU (mean)")


if __name__ == "__main__":
    main()
