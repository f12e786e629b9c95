"""Several experiments at once: each in its own folder and on its own GPU, wins that meet are merged."""

from __future__ import annotations

from pathlib import Path

from studies import ended, study, until  # noqa: F401 - ended is used by every test

# Waits until three trainings are at work at once, then tells where it was and which GPUs it saw.
TOGETHER = """\
import os, time
out = {out!r}
name = os.environ["OVERNIGHT_EXPERIMENT_ID"]
open(out + "/at." + name, "w").write(os.getcwd() + " " + os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
until = time.monotonic() + 150
while name != "exp-001" and len([x for x in os.listdir(out) if x.startswith("at.exp") and x != "at.exp-001"]) < 3:
    time.sleep(0.01)
    if time.monotonic() > until:
        raise SystemExit(9)
print("@loss=" + str(LOSS))
"""
TURN = """\
n=$OVERNIGHT_PARENT; until mkdir {out}/turn.$n 2>/dev/null; do n=$((n + 1)); done
sed -i "s/^LOSS = .*/LOSS = 1.$n/" train.py
echo "loss 1.$n"
"""


def test_three_slots_run_three_experiments_at_once_each_in_its_own_folder_on_its_own_gpu(tmp_path: Path) -> None:
    train = "LOSS = 1.0\n" + TOGETHER.format(out=str(tmp_path / "out"))
    found = study(tmp_path, {}, "--budget", "3", "--slots", "3", "--gpus", "4,5,6", files={"train.py": train}, agent=TURN)
    done = found.call("run")
    told = [(tmp_path / "out" / f"at.exp-00{number}").read_text().split() for number in (2, 3, 4)]
    folders, gpus = {folder for folder, _ in told}, sorted(gpu for _, gpu in told)
    rows = sorted((row["decision"], row["value"]) for row in found.rows()[1:])
    expected = [("discard", 1.1), ("discard", 1.2), ("discard", 1.3)]
    assert (done.code, len(folders), gpus, rows, found.faults()) == (0, 3, ["4", "5", "6"], expected, []), done


SUM = """\
import os, time
A = 1.0
# a line
# between
# the two
B = 1.0
if A + B < 2:
    open({out!r} + "/at." + os.environ["OVERNIGHT_EXPERIMENT_ID"], "w").close()
until = time.monotonic() + 150
while A + B < 2 and len([x for x in os.listdir({out!r}) if x.startswith("at.")]) < 2 and time.monotonic() < until:
    time.sleep(0.01)
print("@loss=" + str(A + B))
"""
ONE_EACH = """\
if mkdir {out}/first 2>/dev/null; then sed -i 's/^A = .*/A = 0.5/' train.py; echo 'smaller A'
elif mkdir {out}/second 2>/dev/null; then sed -i 's/^B = .*/B = 0.25/' train.py; echo 'smaller B'
else sleep 600; fi
"""


def test_two_wins_on_the_same_parent_are_merged_and_measured_together(tmp_path: Path) -> None:
    train = SUM.format(out=str(tmp_path / "out"))
    found = study(tmp_path, {}, "--budget", "3", "--slots", "2", "--target", "0.75", files={"train.py": train}, agent=ONE_EACH)
    done = found.call("run")
    rows = found.rows()
    last = rows[-1]
    singles = {(row["operator"], row["parent"], row["value"]) for row in rows[1:3]}
    both = (last["operator"], last["decision"], last["value"], last["proposer"])
    parts = all(text in last["description"] for text in ("combine #", "#2", "#3", "smaller A", "smaller B"))
    wins = {("improve", 1, 1.5), ("improve", 1, 1.25)}
    assert (done.code, singles, both, parts, found.faults()) == (0, wins, ("combine", "keep", 0.75, "merge"), True, []), done
    assert "goal reached: loss 0.75 (#4)" in done.out


def test_a_loop_with_slots_that_is_killed_adopts_all_that_was_running(tmp_path: Path) -> None:
    found = study(tmp_path, {}, "--budget", "3", "--slots", "3", agent=TURN, files={"train.py": "LOSS = 1.0\nprint(f'@loss={LOSS}')\n"})
    gate = "cat {out}/gate >> train.py; "
    (found.out / "gate").write_text(
        "import os, time\nopen(os.environ['GATE'] + '/pids', 'a').write(f'{os.getpid()}\\n')\n"
        "until = time.monotonic() + 150\nwhile not os.path.exists(os.environ['GATE'] + '/go') and time.monotonic() < until:\n    time.sleep(0.01)\n"
    )
    script = found.out / "agent.sh"
    script.write_text(script.read_text().replace("echo ", gate.format(out=found.out) + "echo "))
    found.words[:0] = ["--pass-env", "GATE"]
    found.env["GATE"] = str(found.out)
    first = found.spawn(found.command("run"))
    until(lambda: len(found.waiting()) == 3)
    first.kill()
    first.wait()
    second = found.spawn(found.command("run"))
    until(lambda: "[loop] study t: going on" in found.said())
    found.open_gate()
    code = second.wait(60)
    rows = sorted((row["decision"], row["value"]) for row in found.rows()[1:])
    expected = [("discard", 1.1), ("discard", 1.2), ("discard", 1.3)]
    assert (code, rows, sorted(found.runs()), found.faults()) == (0, expected, [f"exp-00{n}" for n in range(1, 5)], [])
