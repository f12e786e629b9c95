"""A whole effort: ideas for a goal, a plan, two agents that carry it out, the loop that goes on to the target, the table of it all.

Once with a scripted command, and once with the real program of Claude Code against a model server on loopback (see ``test_agents_real`` for how it
is installed, and when it is skipped).
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

import studies
from model_server import ModelServer, Say, Shell
from overnight.testing import git
from studies import ended  # noqa: F401 - a fixture that every test gets
from test_agents_real import programs  # noqa: F401 - a fixture

PATIENCE = 200.0  # seconds; a real agent needs some for every question
GOAL = "improve 3D pose accuracy, currently MPJPE 48 mm, target < 25 mm"
# What the researcher does, by what it finds in its copy: the same for a command and for the shell of an agent.
RESEARCHER = """\
set -e
if [ -e overnight-ideas.jsonl ]; then cp research/ideas.jsonl overnight-ideas.jsonl
elif ls plans/*/critique.md >/dev/null 2>&1; then echo 'no gaps' | tee plans/*/critique.md
elif ls plans/*/tasks.md >/dev/null 2>&1; then cp research/requirements.md research/decision.md research/tasks.md plans/*/
else case $PWD in
*/T1-*) echo 'GAIN = 16.0' > losses.py ;;
*/T2-*) echo 'GAIN = 6.5' > augment.py ;;
*) sed -i 's/^STEPS = \\([0-9]*\\)/STEPS = 1\\1/' train.py ;;
esac
fi
echo "HYPOTHESIS: cosine LR schedule with warm restarts"
"""
IDEAS = [
    {"title": "Loss function", "reason": "add bone length consistency loss", "gain": 16, "cost": 2, "risk": 0.2, "files": ["losses.py"]},
    {"title": "Data augmentation", "reason": "occlusion simulation", "gain": 6, "cost": 2, "risk": 0.3, "files": ["augment.py"]},
    {"title": "Backbone upgrade", "reason": "DINOv2 ViT-L instead of ResNet50", "gain": 8, "cost": 40, "risk": 0.3, "files": ["train.py"]},
]
FILES = {
    "train.py": "import augment, losses\nSTEPS = 1\nprint(f'@mpjpe={48 - losses.GAIN - augment.GAIN - 0.1 * STEPS:.2f}')\n",
    "losses.py": "GAIN = 0.0\n",
    "augment.py": "GAIN = 0.0\n",
}
RESEARCH = {
    "agent.sh": RESEARCHER,
    "ideas.jsonl": "\n".join(map(json.dumps, IDEAS)),
    "requirements.md": "# Requirements\n\n- R1: The trainer shall use a bone length loss.\n- R2: While it trains, the trainer shall hide joints.\n",
    "decision.md": "## Context\n\nx\n\n## Options\n\nx\n\n## Decision\n\nx\n\n## Consequences\n\nx\n",
    "tasks.md": "# Tasks: pose\n\n## T1 Bone length loss\n- files: losses.py\n- requirements: R1\n- check: `python3 -c 'import losses; assert losses.GAIN > 0'`\n\n"
    "## T2 Occlusion\n- files: augment.py\n- requirements: R2\n- check: `python3 train.py`\n- check: `python3 -c 'import augment; assert augment.GAIN > 0'`\n",
}


def effort(folder: Path) -> studies.Study:
    made = studies.study(folder, files=FILES)
    (made.root / "research").mkdir()
    for name, text in RESEARCH.items():
        (made.root / "research" / name).write_text(text)
    git(made.root, "add", "research")
    git(made.root, "commit", "-q", "-m", "research", "--", "research")
    return made


def story(made: studies.Study, *who: str) -> list[studies.Done]:
    """The four verbs, each to its end; the last one is the command that ``implement`` has named."""
    verbs = (("ideas", GOAL), ("plan", "1", "2"), ("implement", "2"))
    done = [made.call(*words, *who, seconds=PATIENCE) for words in verbs]
    named = next((line.removeprefix("NEXT").strip() for line in done[-1].out.splitlines() if line.startswith("NEXT ")), "overnight status")
    more = ("--tag", "pose", "--budget", "6", "--baseline-runs", "1", "--no-ahead", "--", "python3", "train.py")
    made.words[:] = [*shlex.split(named)[2:], *more]
    return [*done, made.call("run", seconds=PATIENCE)]


def check(made: studies.Study, done: list[studies.Done]) -> None:
    ideas, plan, implement, run = done
    assert [each.code for each in done] == [0, 0, 0, 0], done
    assert "  1. Loss function — add bone length consistency loss\n" in ideas.out
    assert "2 requirements, 2 tasks, no gaps; next: overnight implement 2" in plan.out
    assert [line for line in implement.out.splitlines() if line.endswith(("2 done; branch overnight/plan/loss-function",))] != []
    assert "--from overnight/plan/loss-function --metric mpjpe --direction minimize --target 25" in implement.out
    assert "goal reached" in run.out
    rows = made.rows()
    told = [(row["number"], row["decision"], row["value"]) for row in rows]
    assert told == [(1, "keep", 25.4), (2, "keep", 24.4)]
    listed = made.call("ls").out.splitlines()
    assert [line.split()[1] for line in listed if line.split()[0] in ("1", "2", "#1", "#2")] == ["25.4", "24.4"], listed
    left = [idea["text"].partition(" — ")[0] for idea in json.loads(made.call("idea", "ls", "--json").out)["ideas"]]
    assert left == ["Backbone upgrade"]
    assert made.refs()["refs/heads/main"] == git(made.root, "rev-parse", "HEAD").strip()


def test_a_scripted_researcher_comes_from_an_idea_to_the_target(tmp_path: Path) -> None:
    made = effort(tmp_path)
    done = story(made, "--unsafe-no-sandbox", "--proposer-command", "sh research/agent.sh")
    check(made, done)


@pytest.mark.timeout(900)
def test_claude_code_comes_from_an_idea_to_the_target(tmp_path: Path, programs: Path) -> None:  # noqa: F811 - the fixture
    made = effort(tmp_path)
    with ModelServer([Shell("sh research/agent.sh"), Say("Done.\n\nHYPOTHESIS: cosine LR schedule with warm restarts")]) as server:
        made.env.update(
            {"PATH": f"{programs}:{made.env['PATH']}", "ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": "sk-ant-of-the-tests"}
        )
        done = story(made, "--proposer", "claude", "--proposer-model", "claude-sonnet-4-5")
    if any("E-NO-SANDBOX" in each.err for each in done):
        pytest.skip("no walls here")
    check(made, done)
