"""``overnight ideas``: what is found, asked, checked, ranked and queued; with and without a study."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path

import pytest

import studies
from asked import program
from overnight.store.schema import MIGRATIONS
from studies import ended  # noqa: F401 - a fixture that every test gets

GOAL = "improve 3D pose accuracy, currently MPJPE 48 mm, target < 25 mm"
BACKBONE = {
    "title": "Backbone upgrade",
    "reason": "DINOv2 ViT-L instead of ResNet50",
    "gain": 8,
    "cost": 4,
    "risk": 0.2,
    "files": ["train.py"],
}
BONES = {"title": "Bone length loss", "reason": "bones are rigid", "gain": 6, "cost": 1, "risk": 0.2}
ANSWER = "cat {out}/answer.$(ls {out}/answer.* | wc -l) > overnight-ideas.jsonl; cp $OVERNIGHT_BRIEF {out}/asked.md; echo HYPOTHESIS: done"


def repository(folder: Path, *rows: object, agent: str = ANSWER) -> studies.Study:
    """A repository without a study, and an agent that answers with these lines."""
    made = studies.study(folder, files={"train.py": "print('@mpjpe=48')\n"}, agent=agent)
    (made.out / "answer.1").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return made


def ideas(made: studies.Study, *words: str, goal: str = GOAL) -> studies.Done:
    return made.call("ideas", goal, "--unsafe-no-sandbox", "--proposer-command", f"sh {made.out}/agent.sh", *words)


def test_the_list_is_the_queue_best_first(tmp_path: Path) -> None:
    made = repository(tmp_path, "My ideas:", BACKBONE, BONES)
    done = ideas(made)
    assert (done.code, done.out.splitlines()[:8]) == (0, [
        "[ideas] Loading related knowledge...", f"[ideas] Goal: {GOAL}", "  understood: mpjpe, now 48 mm, target 25 mm, lower is better",
        "[ideas] Brainstorming directions...", "  1. Bone length loss — bones are rigid", "     gain 6 mm, cost 1 h, risk 0.2",
        "  2. Backbone upgrade — DINOv2 ViT-L instead of ResNet50", "     gain 8 mm, cost 4 h, risk 0.2; touches train.py",
    ])  # fmt: skip
    listed = json.loads(made.call("idea", "ls", "--json").out)["ideas"]
    assert [(row["id"], row["source"], row["text"].partition(" — ")[0]) for row in listed] == [
        (1, "agent", "Bone length loss"),
        (2, "agent", "Backbone upgrade"),
    ]


def test_the_checkout_is_left_as_it_was(tmp_path: Path) -> None:
    made = repository(tmp_path, BONES)
    ideas(made)
    assert (made.checkout(), set(made.refs()), list((made.root / ".overnight").glob("asked/*"))) == (made.before, {"refs/heads/main"}, [])


def test_the_next_study_takes_the_ideas_up_behind_those_of_a_person(tmp_path: Path) -> None:
    made = repository(tmp_path, BONES)
    ideas(made)
    made.call("idea", "add", "mine")
    (made.out / "agent.sh").write_text(
        f"echo x >> {made.out}/n; cp $OVERNIGHT_BRIEF {made.out}/brief.$(cat {made.out}/n | wc -l); echo \"print('@mpjpe=$(date +%N)')\" > train.py\n"
    )
    made.words[made.words.index("loss")] = "mpjpe"
    done = made.call("run", "--budget", "2")
    asked = [
        next(line for line in (made.out / f"brief.{number}").read_text().splitlines() if line.startswith("Next in")) for number in (1, 2)
    ]
    assert (done.code, asked) == (
        0,
        ["Next in the person's queue, so try it now: mine", "Next in the queue, so try it now: Bone length loss — bones are rigid"],
    )


def test_what_was_tried_is_shown_and_counts_for_less_and_a_veto_drops_it(tmp_path: Path) -> None:
    made = repository(tmp_path, BONES, BACKBONE, {"title": "Occlusion augmentation", "gain": 9, "cost": 1})
    made.words[made.words.index("loss")] = "mpjpe"
    (made.out / "tries.sh").write_text("echo 'print(\"@mpjpe=49\")' > train.py; echo HYPOTHESIS: add a bone length loss\n")
    made.call("run", "--budget", "1", "--proposer-command", f"sh {made.out}/tries.sh")
    made.call("idea", "veto", str(json.loads(made.call("idea", "add", "occlusion augmentation", "--json").out)["idea"]["id"]))
    done = ideas(made, "--json")
    told = json.loads(done.out)
    shown = [(row["title"], [line.split(" (")[0] for line in row["tried_before"]]) for row in told["ideas"]]
    assert shown == [("Backbone upgrade", []), ("Bone length loss", ["exp-002 add a bone length loss"])]
    assert told["dropped"] == [{"title": "Occlusion augmentation", "reason": "vetoed: occlusion augmentation"}]
    assert any(
        line.startswith("exp-002: add a bone length loss")
        for line in json.loads(ideas(made, "--json", goal="a better bone loss").out)["found"]
    )


def test_garbage_is_asked_about_once_more_and_then_told(tmp_path: Path) -> None:
    made = repository(
        tmp_path, agent="cp $OVERNIGHT_BRIEF {out}/asked.$(ls {out} | wc -l); head -c 10000000 /dev/zero > overnight-ideas.jsonl; echo done"
    )
    done = ideas(made)
    again = sorted(made.out.glob("asked.*"))
    told = "error[E-AGENT-GARBAGE]: command gave no answer that can be used, also when asked again"
    assert (done.code, len(again), told in done.err) == (1, 2, True)
    assert "is larger than 1 MiB" in again[1].read_text()


def test_an_answer_that_is_only_printed_counts_too(tmp_path: Path) -> None:
    made = repository(tmp_path, agent="cat {out}/answer.1")
    (made.out / "answer.1").write_text(json.dumps(BONES))
    assert json.loads(ideas(made, "--json").out)["ideas"][0]["title"] == "Bone length loss"


def test_nobody_to_ask_is_said_with_who_is_installed(tmp_path: Path) -> None:
    made = repository(tmp_path)
    program(tmp_path / "bin" / "codex", "print('1')\n")
    made.env["PATH"] = f"{tmp_path}/bin:/usr/bin:/bin"
    done = made.call("ideas", GOAL)
    assert (done.code, done.err.splitlines()[-3:]) == (2, [
        "error[E-NO-AGENT]: nobody is there to ask: no agent is configured", "  why:   installed: codex", "  fix:   overnight ideas --proposer codex",
    ])  # fmt: skip


def test_a_goal_comes_from_the_settings_where_none_is_given(tmp_path: Path) -> None:
    made = repository(tmp_path, BONES)
    (made.root / "overnight.toml").write_text('metric = "mpjpe"\ndirection = "minimize"\ntarget = 20\n')
    told = json.loads(ideas(made, "--json", goal="").out)["goal"]
    assert told == {"text": "improve mpjpe", "metric": "mpjpe", "now": None, "target": 20.0, "unit": None, "direction": "minimize"}


def test_without_any_goal_one_is_asked_for(tmp_path: Path) -> None:
    done = ideas(repository(tmp_path), goal="")
    assert (done.code, "error[E-NO-GOAL]" in done.err) == (2, True)


def test_a_record_of_the_version_before_gets_the_new_columns(tmp_path: Path) -> None:
    made = repository(tmp_path, BONES)
    state = made.root / ".overnight"
    state.mkdir()
    old = sqlite3.connect(state / "overnight.db")
    old.executescript("".join(MIGRATIONS[:2]) + "PRAGMA user_version=2;")
    old.close()
    assert (ideas(made).code, made.call("idea", "ls").out.split()[:2]) == (0, ["1", "agent"])


def test_behind_walls_the_answer_comes_out_and_the_checkout_stays(tmp_path: Path) -> None:
    made = repository(tmp_path, BONES, agent=f"echo broken > {tmp_path}/repository/train.py; {ANSWER}")
    done = made.call("ideas", GOAL, "--json", "--proposer-command", f"sh {made.out}/agent.sh")
    if "E-NO-SANDBOX" in done.err:
        pytest.skip("no walls here")
    assert (done.code, json.loads(done.out)["ideas"][0]["title"], made.checkout()) == (0, "Bone length loss", made.before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_the_agent_too(tmp_path: Path, number: int, code: int) -> None:
    made = repository(tmp_path, agent="touch {out}/there; sleep 600")
    process = made.spawn(made.command("ideas", GOAL, "--unsafe-no-sandbox", "--proposer-command", f"sh {made.out}/agent.sh"))
    studies.until((made.out / "there").exists)
    process.send_signal(number)
    assert (process.wait(studies.PATIENCE), made.survivors(), "error[E-STOPPED]: stopped; nothing was written" in made.said()) == (
        code,
        [],
        True,
    )


def test_an_agent_that_a_kill_has_left_behind_is_ended_by_the_next_call(tmp_path: Path) -> None:
    made = repository(tmp_path, BONES, agent="[ -e {out}/there ] || {{ touch {out}/there; sleep 600; }}\n" + ANSWER)
    process = made.spawn(made.command("ideas", GOAL, "--unsafe-no-sandbox", "--proposer-command", f"sh {made.out}/agent.sh"))
    studies.until((made.out / "there").exists)
    process.kill()
    process.wait()
    assert (ideas(made).code, made.survivors(), list((made.root / ".overnight").glob("asked/*"))) == (0, [], [])
