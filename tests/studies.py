"""Whole studies for the tests: a small repository, a scripted agent, the program itself, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import warm
from overnight.testing import git, repository

PATIENCE = 60.0  # seconds after which a test gives up
# Walls and noise have tests of their own. Here runs write to ``out``, and the agent is asked when its turn has come.
PLAIN = ("--unsafe-no-sandbox", "--baseline-runs", "1", "--no-ahead")
PYTHON = shlex.quote(sys.executable) + " -I -S"

# Counts every training in a file outside, whatever train.py does.
RUN = """\
echo "$OVERNIGHT_EXPERIMENT_ID" >> {out}/runs
exec {python} train.py
"""

# Its n-th call is a script of its own, also of several at once; after the last one it finds something better each time.
AGENT = """\
set -u
n=1; until mkdir {out}/turn.$n 2>/dev/null; do n=$((n + 1)); done
echo $n > {out}/asked
cp "$OVERNIGHT_BRIEF" {out}/brief.$n
better() {{ echo "print('@loss=$1')" > train.py; echo "loss $1"; }}
if [ -e {out}/step.$n ]; then . {out}/step.$n; else better "0.$((490 - n))"; fi
"""

GATED = """\
import os, time
with open({out!r} + "/pids", "a") as file:
    file.write(str(os.getpid()) + "\\n")
until = time.monotonic() + 150
while not os.path.exists({out!r} + "/go") and time.monotonic() < until:
    time.sleep(0.01)
print("@loss={value}")
"""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Study:
    """A repository in ``root`` that is studied, and ``out``, a folder outside it for whatever the scripts want to tell."""

    root: Path
    out: Path
    env: dict[str, str]
    words: list[str] = field(default_factory=list)  # of every run
    before: dict[str, Any] = field(default_factory=dict)

    def command(self, verb: str, *words: str) -> list[str]:
        """The argv of ``overnight VERB``; ``run`` and ``start`` get the words that every run of the study has."""
        whole = (
            [*self.words[: self.words.index("--")], *words, *self.words[self.words.index("--") :]] if verb in ("run", "start") else words
        )
        return [sys.executable, "-m", "overnight", verb, *whole]

    def call(self, verb: str, *words: str, seconds: float = PATIENCE) -> Done:
        """The command, to its end."""
        done = warm.run(self.command(verb, *words)[3:], self.root, self.env, seconds)
        return Done(done.returncode, done.stdout, done.stderr)

    def spawn(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        """A command that goes on beside the test, in a session of its own; its lines go to ``out/loop.log``."""
        with (self.out / "loop.log").open("a") as log:
            return subprocess.Popen(
                argv, cwd=self.root, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True, start_new_session=True
            )

    def said(self) -> str:
        """What spawned commands have printed."""
        return (self.out / "loop.log").read_text()

    def rows(self) -> list[dict[str, Any]]:
        """``overnight ls --json``."""
        found = self.call("ls", "--json")
        assert found.code == 0, found
        rows: list[dict[str, Any]] = json.loads(found.out)
        return rows

    def status(self) -> dict[str, Any]:
        """``overnight status --json``."""
        found: dict[str, Any] = json.loads(self.call("status", "--json").out)
        return found

    def table(self) -> list[list[str]]:
        """The rows of ``results.tsv`` below its header."""
        lines = (self.root / "results.tsv").read_text().splitlines()
        assert lines[0] == "commit\tmetric\tmemory_gb\tstatus\tdescription"
        return [line.split("\t") for line in lines[1:]]

    def runs(self) -> list[str]:
        """The experiments that were trained, as often as they were, in order of their start."""
        return (self.out / "runs").read_text().split()

    def refs(self) -> dict[str, str]:
        """Every ref of the repository."""
        lines = git(self.root, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return dict(line.split() for line in lines)

    def checkout(self) -> dict[str, Any]:
        """All that is the user's own."""
        index = (self.root / ".git" / "index").read_bytes()
        words = (("status", "--porcelain"), ("stash", "list"), ("rev-parse", "HEAD"), ("symbolic-ref", "HEAD"), ("rev-parse", "main"))
        told = {" ".join(each): git(self.root, "--no-optional-locks", *each) for each in words}
        own = [path for path in self.root.iterdir() if path.name not in (".git", ".overnight", "results.tsv")]
        return {"index": index, **told, **{path.name: path.read_bytes() for path in own}}

    def survivors(self) -> list[str]:
        """Processes that have anything to do with the study: by folder, command line or environment."""
        return [f"{pid}: {line}" for pid, line in bearers(str(self.root.parent)).items()]

    def gate(self, number: int, value: float) -> None:
        """Make the agent's n-th call leave a train.py that notes its process id in ``out/pids`` and ends when ``out/go`` appears."""
        (self.out / f"step.{number}").write_text(f"cat > train.py <<'END'\n{GATED.format(out=str(self.out), value=value)}END\necho gated\n")

    def waiting(self) -> list[int]:
        """Process ids of the trainings that came to the gate, once there is one."""
        return [int(line) for line in until(lambda: (self.out / "pids").exists() and (self.out / "pids").read_text().split())]

    def open_gate(self) -> None:
        """Let the trainings that wait go on."""
        (self.out / "go").touch()

    def faults(self, rows: list[dict[str, Any]] | None = None) -> list[str]:
        """What is wrong after a loop has ended: checkout, processes, copies, or a record, git and table that differ."""
        found = [f"left alive: {each}" for each in self.survivors()]
        found += [f"changed in the checkout: {name}" for name, told in self.checkout().items() if told != self.before.get(name)]
        found += [f"left behind: {path}" for name in ("copies", "runs") for path in (self.root / ".overnight" / name).glob("*")]
        rows = self.rows() if rows is None else rows
        settled = sorted((row for row in rows if row["decision"]), key=lambda row: (row["finished"], row["number"]))
        kept = [row["commit"] for row in settled if row["decision"] == "keep"]
        wanted = {f"refs/overnight/t/{row['number']}": row["commit"] for row in rows} | {"refs/heads/autoresearch/t": (kept or [""])[-1]}
        refs = {name: commit for name, commit in self.refs().items() if name != "refs/heads/main"}
        found += [f"ref {name}: {refs.get(name)}, not {wanted.get(name)}" for name in refs | wanted if refs.get(name) != wanted.get(name)]
        line = git(self.root, "log", "--format=%H", "--reverse", "autoresearch/t").split()
        found += [f"the branch holds {line}, not {kept}"] if line != kept else []
        told = [(row["commit"][:7], row["decision"], f"{row['value'] or 0:.6f}", row["description"]) for row in settled]
        table = [(commit, status, value, text.removeprefix("'")) for commit, value, _, status, text in self.table()]
        found += [f"results.tsv: {table}, not {told}"] if table != told else []
        numbers = [row["number"] for row in rows]
        found += [f"numbers: {numbers}"] if numbers != list(range(1, len(rows) + 1)) else []
        return found


def study(
    folder: Path, steps: Mapping[int, str] | None = None, *words: str, files: Mapping[str, str] | None = None, agent: str = AGENT
) -> Study:
    """A repository with a dirty checkout, and a study of it whose agent's n-th call is the shell script ``steps[n]``."""
    out = folder / "out"
    out.mkdir(parents=True)
    (folder / "home").mkdir()
    place = {"out": shlex.quote(str(out)), "python": PYTHON}
    root = repository(
        folder / "repository",
        {"train.py": "print('@loss=1.0')\n", "prepare.py": "size = 1\n", "run.sh": RUN.format(**place), **(files or {})},
    )
    (root / "prepare.py").write_text("size = 2  # not committed\n")
    (root / "notes.txt").write_text("mine\n")
    git(root, "add", "notes.txt")
    for number, script in (steps or {}).items():
        (out / f"step.{number}").write_text(script)
    (out / "agent.sh").write_text(agent.format(**place))
    given = [
        "--tag",
        "t",
        "--metric",
        "loss",
        "--direction",
        "minimize",
        *PLAIN,
        "--proposer-command",
        f"sh {place['out']}/agent.sh",
        *words,
    ]
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder / "home"), "OUT": str(out)}
    made = Study(root, out, env, [*given, "--", "sh", "run.sh"])
    made.before.update(made.checkout())
    return made


def bearers(mark: str) -> dict[int, str]:
    """Process id and command line of every living process whose folder, command line or environment holds ``mark``."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z":
                continue
            line = (folder / "cmdline").read_bytes()
            told = (line, os.fsencode(os.readlink(folder / "cwd")), (folder / "environ").read_bytes())
            if int(folder.name) != os.getpid() and any(mark.encode() in text for text in told):
                found[int(folder.name)] = line.decode("utf-8", "replace")
    return found


@pytest.fixture(autouse=True)
def ended(tmp_path: Path) -> Iterator[None]:
    """Whatever a failed test has left running is ended."""
    yield
    while left := bearers(str(tmp_path)):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def until(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Whatever ``what`` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
    return found
