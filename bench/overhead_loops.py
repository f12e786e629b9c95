"""Three loops over the same trivial study: the seed's steps as a shell script, labloop, and overnight.

The study is one file with one constant; every tenth value is an improvement, so that keeps and discards are both paid for.
Each loop can be given a number of experiments after the baseline. Must not know what is measured about them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LABLOOP = "labloop==1.0.5"

TRAIN = """\
# One constant decides the figure; a real training would take minutes here.
x=0
pause=${BENCH_TRAIN:-0}
[ "$pause" = 0 ] || sleep "$pause"
echo "epoch: 18"
echo "---"
if [ $((x % 10)) = 0 ]; then echo "fitness: $x.500000"; else echo "fitness: 0.100000"; fi
echo "training_seconds: $pause"
echo "peak_vram_mb: 512.0"
"""

# Every call takes a larger number than the one before, with nothing remembered: behind walls it could not.
PROPOSE = """\
[ "${BENCH_THINK:-0}" = 0 ] || sleep "$BENCH_THINK"
n=$(date +%s%4N)
sed -i "s/^x=.*/x=$n/" train.sh
echo "x -> $n"
"""

# The seed's nine steps, one after the other; its set-up and the first run come before.
SHELL = r"""#!/bin/sh
proposer=$1 command=$2 experiments=$3
run() { timeout -k 5 600 sh -c "$command" > run.log 2>&1; }
read_out() {
    grep '^fitness:\|^peak_vram_mb:' run.log > summary || true
    metric=$(awk '$1 == "fitness:" { printf "%.6f", $2 }' summary)
    memory=$(awk '$1 == "peak_vram_mb:" { printf "%.1f", $2 / 1024 }' summary)
}
record() { printf '%s\t%s\t%s\t%s\t%s\n' "$(git rev-parse --short=7 HEAD)" "$1" "$2" "$3" "$4" >> results.tsv; }

git checkout -q -b autoresearch/bench
printf 'commit\tmetric\tmemory_gb\tstatus\tdescription\n' > results.tsv
run; read_out
[ -n "$metric" ] || exit 1
record "$metric" "$memory" keep baseline
best=$metric
while [ "$experiments" -gt 0 ]; do
    experiments=$((experiments - 1))
    git status --short --branch > state && start=$(git rev-parse HEAD)
    description=$(sh -c "$proposer" | tail -n 1)
    git commit -q -a -m "$description"
    run; read_out
    if [ -z "$metric" ]; then
        tail -n 50 run.log > traceback
        record 0.000000 0.0 crash "$description"
        git reset -q --hard "$start"
    elif awk -v new="$metric" -v old="$best" 'BEGIN { exit !(new > old) }'; then
        record "$metric" "$memory" keep "$description"
        best=$metric
    else
        record "$metric" "$memory" discard "$description"
        git reset -q --hard "$start"
    fi
done
"""

ALONE = """\
proposer=$1 command=$2 experiments=$3
sh -c "$command" > run.log 2>&1
while [ "$experiments" -gt 0 ]; do
    experiments=$((experiments - 1))
    sh -c "$proposer" > said
    sh -c "$command" > run.log 2>&1
done
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a fresh study lies, and what its commands need."""

    folder: Path
    env: Mapping[str, str]

    @property
    def repository(self) -> Path:
        """The study's checkout."""
        return self.folder / "study"

    @property
    def proposer(self) -> str:
        """The proposing command."""
        return f"sh {self.folder}/propose.sh"

    @property
    def output(self) -> Path:
        """What the loop printed."""
        return self.folder / "output"


def fresh(folder: Path, train: str = TRAIN) -> Bench:
    """A new study in ``folder``, which must not exist; with ``PYTHONPATH`` another tree than the installed one is measured."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    bench = Bench(folder, {**kept, "HOME": str(folder / "home"), "LC_ALL": "C"})
    (folder / "home").mkdir(parents=True)
    (folder / "propose.sh").write_text(PROPOSE)
    (folder / "shell.sh").write_text(SHELL)
    (folder / "alone.sh").write_text(ALONE)
    bench.repository.mkdir()
    texts = {"train.sh": train, "prepare.sh": "exit 0\n", "program.md": "# study\n\nRaise the fitness.\n", "README.md": "# study\n"}
    texts[".gitignore"] = "/results.tsv\n/run.log\n/summary\n/state\n/said\n/traceback\n/labloop.jsonl*\n"
    for name, text in texts.items():
        (bench.repository / name).write_text(text)
    git = ("git", "-C", str(bench.repository))
    for words in (("init", "-q"), ("config", "user.name", "bench"), ("config", "user.email", "bench@localhost"), ("add", "-A")):
        subprocess.run([*git, *words], env=bench.env, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "start"], env=bench.env, check=True)
    return bench


def alone(bench: Bench, experiments: int) -> list[str]:
    """The proposing and training commands with nothing around them."""
    return ["sh", str(bench.folder / "alone.sh"), bench.proposer, "sh train.sh", str(experiments)]


def shell(bench: Bench, experiments: int) -> list[str]:
    """The seed's loop."""
    return ["sh", str(bench.folder / "shell.sh"), bench.proposer, "sh train.sh", str(experiments)]


def overnight(bench: Bench, experiments: int, *more: str) -> list[str]:
    """Our loop without walls, which the others do not have either, its state beside the study; with a larger number it goes on."""
    return confined(bench, experiments, "--unsafe-no-sandbox", *more)


def confined(bench: Bench, experiments: int, *more: str) -> list[str]:
    """Our loop as it is by default."""
    return [
        *program(), "run", "--tag", "bench", "--metric", "fitness", "--direction", "maximize", "--editable", "train.sh", "--time-limit", "600",
        "--proposer-command", bench.proposer, "--pass-env", "BENCH_TRAIN", "--pass-env", "BENCH_THINK", "--baseline-runs", "1",
        "--state", str(bench.folder / "state"), "--budget", str(experiments), *more, "--", "sh", "train.sh",
    ]  # fmt: skip


def program() -> list[str]:
    """The command ``overnight`` of the Python that runs this."""
    script = Path(sys.executable).with_name("overnight")
    return [str(script)] if script.exists() else [sys.executable, "-m", "overnight"]


def labloop(place: Path) -> tuple[str, str]:
    """The program, installed into a new environment at ``place``, and an empty text; or an empty text, and why there is none."""
    try:
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, capture_output=True, timeout=120)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "0", LABLOOP]
        subprocess.run(pip, check=True, capture_output=True, timeout=120)
    except subprocess.SubprocessError as exc:
        said = getattr(exc, "stderr", b"") or b""
        shutil.rmtree(place, ignore_errors=True)
        return "", (said.decode("utf-8", "replace").strip().splitlines() or [str(exc)])[-1]
    return str(place / "bin" / "labloop"), ""


def labloop_run(program: str, bench: Bench, experiments: int) -> list[str]:
    """Its baseline and its run, without the sandbox around the proposer, which the other two do not have either."""
    shared = f"--run 'sh train.sh' --metric fitness --goal maximize --budget 600 --workdir {bench.repository}"
    run = f"{program} run {shared} --sandbox none --propose '{bench.proposer}' --trials {experiments}"
    return ["sh", "-c", f"{program} baseline {shared}" + (f" && {run}" if experiments else "")]
