"""How a study begins: the goal that is found or guessed and said, and what init makes of a repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from overnight.testing import git, repository
from terminal import COMMAND, environment, less_noise, plain, typed

# --- metric and direction ---------------------------------------------------------------------------------------------


def _said(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith(("[loop] metric:", "[loop] direction:"))]


@pytest.mark.parametrize(("name", "way", "word"), [("val_loss", "minimize", "lower"), ("accuracy", "maximize", "higher")])
def test_a_guessed_direction_is_said_out_loud(tmp_path: Path, name: str, way: str, word: str) -> None:
    assert _said(plain(tmp_path, train=f"lr = 0.1\nprint(f'@{name}={{lr}}')\n").out) == [
        f"[loop] metric: {name} (found in the repository; change with --metric)",
        f"[loop] direction: {way} ({word} {name} is better: guessed from its name; change with --direction)",
    ]


def test_a_direction_that_was_given_is_not_a_guess(tmp_path: Path) -> None:
    assert _said(plain(tmp_path, "--metric", "loss", "--direction", "max").out) == []


HIDDEN = "lr = 0.1\nfor name in {names}:\n    print('@' + name + '=' + str(lr))\n"  # nothing for a reader of the source to find


def test_the_only_metric_of_the_baseline_is_the_goal_and_that_is_said(tmp_path: Path) -> None:
    found = plain(tmp_path, train=HIDDEN.format(names=["top" + "1_acc"]))
    assert (_said(found.out), "  Result: @top1_acc=0.1  (baseline)  keep" in less_noise(found.out).splitlines()) == (
        [
            "[loop] metric: top1_acc (printed by the baseline; change with --metric)",
            "[loop] direction: maximize (higher top1_acc is better: guessed from its name; change with --direction)",
        ],
        True,
    )


def test_a_seeds_usual_metric_is_the_goal_among_others(tmp_path: Path) -> None:
    found = plain(tmp_path, "--json", train=HIDDEN.format(names=["mfu", "val_bpb", "depth"]))
    assert (found.json["metric"], found.json["direction"], found.json["best"]["value"]) == ("val_bpb", "minimize", 0.1)


def test_several_metrics_are_asked_about_and_the_baseline_is_not_run_again(tmp_path: Path) -> None:
    train = HIDDEN.format(names=["alpha", "zeta"]) + f"open({str(tmp_path / 'runs')!r}, 'a').write('x')\n"
    asked = plain(tmp_path, train=train)
    root = tmp_path / "project"
    words = ("run", "--budget", "0", "--tag", "t", "--metric", "zeta")
    unsure, done = typed(root, *words, "--", *COMMAND), typed(root, *words, "--direction", "minimize", "--", *COMMAND)
    assert (asked.refusal, unsure.refusal, done.code) == (("E-METRIC-AMBIGUOUS", 2), ("E-DIRECTION", 2), 0)
    assert "alpha, zeta" in asked.err
    assert "overnight run --metric zeta --direction minimize" in asked.err
    assert (typed(root, "best", "--json").json["value"], (tmp_path / "runs").read_text()) == (0.1, "x")


# --- init -------------------------------------------------------------------------------------------------------------

SEED = {
    "program.md": """# autoresearch

1. **Agree on a run tag**: the branch `autoresearch/<tag>` must not already exist.
2. Read `prepare.py` (fixed, do not modify) and `train.py`, the only file you edit.

Training runs for a **fixed time budget of 2 minutes**. You launch it simply as: `python train.py`.

**The goal is simple: get the lowest val_bpb.**

```
---
val_bpb:          0.997900
peak_vram_mb:     45060.2
```

**Timeout**: if a run exceeds 4 minutes, kill it and treat it as a failure.
""",
    "prepare.py": "TIME_BUDGET = 120\n\n\ndef evaluate(lr):\n    return 0.9 + (lr - 0.03) ** 2\n",
    "train.py": (
        "from prepare import evaluate\n\nLR = 0.1\nval_bpb = evaluate(LR)\nprint('---')\n"
        "print(f'val_bpb:          {val_bpb:.6f}')\nprint(f'peak_vram_mb:     {2048.0:.1f}')\n"
    ),
    ".gitignore": "results.tsv\n",
}


def test_the_seeds_layout_needs_nothing_but_init_and_run(tmp_path: Path) -> None:
    root = repository(tmp_path / "seed", SEED)
    first = typed(root, "init")
    status = git(root, "status", "--porcelain")
    done = typed(root, "run", "--budget", "2", "--tag", "mar5", "--json")
    assert (first.code, status, done.code) == (0, "?? overnight.toml\n", 0), done
    lines = (root / "results.tsv").read_text().splitlines()
    told = (done.json["metric"], done.json["direction"], len(lines), lines[1].split("\t")[1:], git(root, "status", "--porcelain"))
    assert told == ("val_bpb", "minimize", 4, ["0.904900", "2.0", "keep", "baseline"], status)
    assert "Nothing was run yet" in first.out
    assert "overnight run" in first.out.splitlines()[-1]


def test_init_tells_programs_what_it_found(tmp_path: Path) -> None:
    root = repository(tmp_path / "seed", SEED)
    found = typed(root, "init", "--json").json
    wanted = {"metric": "val_bpb", "direction": "minimize", "editable": ["train.py"], "time_budget": 120.0, "time_limit": 240.0}
    assert (found["schema"], found["program"], {name: found["found"][name] for name in wanted}) == ("overnight/init/1", None, wanted)


def test_init_never_overwrites_unless_it_is_told_to(tmp_path: Path) -> None:
    root = repository(tmp_path / "seed", SEED)
    (root / "overnight.toml").write_text("slots = 2\n")
    refused, forced = typed(root, "init"), typed(root, "init", "--force")
    assert (refused.refusal, forced.code, (root / "program.md").read_text()) == (("E-EXISTS", 2), 0, SEED["program.md"])


def test_no_file_of_the_repository_takes_the_place_of_a_module_of_the_loop_in_the_background(tmp_path: Path) -> None:
    root = repository(tmp_path / "project", {"train.py": "print('@loss=1')\n", "json.py": "raise SystemExit('planted')\n"})
    words = ("start", "--budget", "0", "--baseline-runs", "1", "--unsafe-no-sandbox", "--metric", "loss", "--json", "--", *COMMAND)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "overnight", *words], cwd=root, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert (done.returncode, "planted" in done.stdout + done.stderr) == (0, False)
