"""``overnight hub`` and ``overnight worker`` as a person meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from overnight.models import JobState
from yards import PATIENCE, Yard, until


def test_submit_prints_the_id_how_to_watch_and_that_no_worker_runs(yard: Yard) -> None:
    done = yard.call("hub", "submit", "--name", "pose", "--exp-id", "exp-043", "--", "true")
    job = yard.jobs()[0]
    assert (done.returncode, done.stdout, done.stderr) == (
        0, f"{job.id} is queued\nwatch it:  overnight hub watch {job.id}\n", "no worker is running; start one:  overnight worker start\n",
    )  # fmt: skip


def test_watch_streams_the_lines_of_a_job_with_its_id_until_its_end(yard: Yard) -> None:
    job = yard.submit("echo 'Epoch 40/80  @loss=0.4821  @mpjpe=26.88'; printf '\\033[31mred'; exit 2")
    yard.worker("--once").wait(PATIENCE)
    done = yard.call("hub", "watch", job.id, "--exit-status")
    assert (done.returncode, done.stdout.splitlines()) == (
        6, [f"[{job.id}] Epoch 40/80  @loss=0.4821  @mpjpe=26.88", f"[{job.id}] red", f"[{job.id}] Status: FAILED (exit code 2)"],
    )  # fmt: skip


def test_watch_follows_a_job_that_runs(yard: Yard) -> None:
    yard.worker()
    job = yard.submit(f"echo one; while [ ! -e {yard.told}/go ]; do sleep .02; done; echo two")
    argv = [sys.executable, "-m", "overnight", "hub", "watch", job.id, "--hub", str(yard.hub)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=os.environ) as watch:
        assert watch.stdout is not None
        lines: list[str] = []
        while not lines or "one" not in lines[-1]:
            lines.append(watch.stdout.readline())
        (yard.told / "go").touch()
        lines += watch.stdout.readlines()
    told = [line.removeprefix(f"[{job.id}] ") for line in lines if "QUEUED" not in line]  # which it may have been when we began to look
    assert (told, watch.returncode) == (["Status: RUNNING on w\n", "one\n", "two\n", "Status: SUCCEEDED\n"], 0)


def test_watch_without_a_job_shows_all_that_run_and_ctrl_c_only_looks_away(yard: Yard) -> None:
    yard.worker("--slots", "2")
    # Whoever runs the tests may have ^C ignored, which children inherit.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from overnight.cli import main; main(sys.argv[1:])"
    )
    argv = [sys.executable, "-c", program, "hub", "watch", "--hub", str(yard.hub)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ) as watch:
        assert watch.stdout is not None
        jobs = [yard.submit(f"echo word{number}; while [ ! -e {yard.told}/go ]; do sleep .02; done") for number in range(2)]
        seen = ""
        while "word0" not in seen or "word1" not in seen:
            seen += watch.stdout.readline()
        watch.send_signal(signal.SIGINT)
        code = watch.wait(PATIENCE)
    running = [job.state for job in jobs]
    (yard.told / "go").touch()
    assert (code, running) == (130, [JobState.RUNNING] * 2)


def test_watch_until_idle_ends_when_nothing_waits_or_runs_and_tells_that_one_has_failed(yard: Yard) -> None:
    first = yard.submit(f"while [ ! -e {yard.told}/go ]; do sleep .02; done; echo one; exit 3")
    yard.submit("echo two", name="after")
    yard.worker("--once")
    argv = [sys.executable, "-m", "overnight", "hub", "watch", "--until-idle", "--exit-status", "--hub", str(yard.hub)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=os.environ) as watch:
        assert watch.stdout is not None
        seen = ""
        while "RUNNING" not in seen:
            seen += watch.stdout.readline()
        (yard.told / "go").touch()
        seen += watch.stdout.read()
    words = {line.partition("] ")[2] for line in seen.splitlines()}
    idle = yard.call("hub", "watch", "--until-idle", "--exit-status")
    assert ({"one", "two", "Status: FAILED (exit code 3)", "Status: SUCCEEDED"} <= words, watch.returncode, first.state) == (
        True,
        6,
        JobState.FAILED,
    )
    assert (idle.returncode, idle.stdout, idle.stderr) == (0, "", "no job waits or runs\n")


def test_logs_are_what_the_job_printed_from_any_byte_on(yard: Yard) -> None:
    job = yard.submit("printf 'a\\000b\\r\\nüc'")
    yard.worker("--once").wait(PATIENCE)
    argv = [sys.executable, "-m", "overnight", "hub", "logs", job.id[4:8], "--hub", str(yard.hub)]
    whole, part = (subprocess.run([*argv, *more], capture_output=True, check=True).stdout for more in ((), ("--since", "3")))
    assert (whole, part, yard.json("hub", "logs", "last", "--since", "5")["log"]["next"]) == (b"a\0b\r\n\xc3\xbcc", b"\r\n\xc3\xbcc", 8)


def test_outputs_are_listed_and_copied(yard: Yard) -> None:
    job = yard.submit("echo done > best.pt", outputs=("*.pt",))
    yard.worker("--once").wait(PATIENCE)
    listed = yard.call("hub", "outputs", job.id)
    yard.call("hub", "outputs", job.id, "--to", "here")
    again = yard.call("hub", "outputs", job.id, "--to", "here")
    size, digest = 5, listed.stdout.split()[0]
    assert ((yard.root / "here" / "best.pt").stat().st_size, len(digest), again.returncode, "E-NOT-EMPTY" in again.stderr) == (
        size,
        64,
        2,
        True,
    )


def test_list_tells_when_a_job_is_expected_to_start(yard: Yard) -> None:
    yard.worker()
    yard.submit(f"touch {yard.told}/on; sleep 60", time_limit=3600.0)
    until(yard.marks)
    later = yard.submit("true", name="later")
    rows = yard.call("hub", "list").stdout.splitlines()
    assert [row for row in rows if later.id in row and "QUEUED" in row and ("expected in 59m" in row or "expected in 1h00m" in row)] != []
    found = yard.json("hub", "list")["jobs"][-1]
    assert (found["id"], found["name"], found["asked"]["command"], 3000 < found["expected_wait"] <= 3600) == (
        later.id,
        "later",
        ["true"],
        True,
    )


def test_workers_tell_what_they_have_and_do(yard: Yard) -> None:
    yard.worker("--gpus", "2", "--gpu-type", "H100", "--vram-gb", "80", "--tag", "eu", "--cpus", "8", "--memory-gb", "64", "--slots", "3")
    until(yard.alive)
    text = yard.call("hub", "workers").stdout
    assert text.splitlines()[1].split(None, 3) == ["w", "here", "0/3", "2 H100 (80 GB), 8 CPUs, 64 GB, tags eu network"]
    found = yard.json("hub", "workers")["workers"][0]
    assert (found["alive"], [card["index"] for card in found["gpus"]], found["tags"]) == (True, ["0", "1"], ["eu", "network"])


def test_cancel_retry_and_drain_say_what_they_did(yard: Yard) -> None:
    job = yard.submit("true")
    said = [yard.call("hub", *words).stdout for words in (("cancel", job.id, "--reason", "no"), ("retry", job.id))]
    assert said == [f"{job.id} is over: CANCELLED\n", f"{job.id} is queued again\n"]


def test_retry_says_which_variables_it_needs_again_and_takes_only_those_that_are_named_from_here(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = yard.submit("true", env={"MY_TOKEN": "sesame", "LR": "0.1"})
    job.cancel()
    refused = yard.call("hub", "retry", job.id)
    monkeypatch.setenv("MY_TOKEN", "open")
    silent = yard.call("hub", "retry", job.id, "--env", "LR=0.2")
    done = yard.call("hub", "retry", job.id, "--env", "LR=0.2", "--env", "MY_TOKEN")
    assert (refused.returncode, "E-ENV" in refused.stderr, "needs MY_TOKEN LR again" in refused.stderr) == (2, True, True)
    assert (f"overnight hub retry {job.id} --env MY_TOKEN" in silent.stderr, done.returncode, dict(yard.jobs()[0].submission.env)) == (
        True, 0, {"MY_TOKEN": "open", "LR": "0.2"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("hub", "watch", "job-none"), 3, "E-NO-JOB"),
        (("hub", "logs", "x y"), 3, "E-NO-JOB"),
        (("hub", "cancel", ""), 3, "E-NO-JOB"),
        (("hub", "retry", "last"), 3, "E-NO-JOB"),
        (("hub", "outputs", "last"), 3, "E-NO-JOB"),
        (("hub", "drain", "nobody"), 3, "E-NO-WORKER"),
        (("hub", "submit"), 2, "E-USAGE"),
        (("hub", "watch", "--exit-status"), 2, "E-USAGE"),
        (("hub", "watch", "last", "--until-idle"), 2, "E-USAGE"),
        (("hub", "submit", "--time-limit", "soon", "--", "true"), 2, "E-SUBMIT"),
        (("hub", "submit", "--env", "NOT_SET_HERE", "--", "true"), 2, "E-SUBMIT"),
        (("hub", "submit", "--priority", "1000", "--", "true"), 2, "E-SUBMIT"),
        (("hub", "submit", "--output", "/etc/*", "--", "true"), 2, "E-SUBMIT"),
        (("hub", "submit", "--needs", "job-none", "--", "true"), 3, "E-NO-JOB"),
        (("hub", "submit", "--workdir", "no/such", "--", "true"), 2, "E-NO-FOLDER"),
        (("hub", "submit", "--workdir", os.environ.get("HOME", "/"), "--", "true"), 2, "E-CODE-HOME"),
        (("hub", "submit", "--workdir", "/", "--", "true"), 2, "E-CODE-HOME"),
        (("worker", "start", "--name", "a/b"), 2, "E-WORKER-NAME"),
        (("worker", "start", "--executor", "moon"), 2, "E-NO-EXECUTOR"),
        (("worker", "start", "--gpus", "-1"), 2, "E-USAGE"),
        (("hub", "list", "--hub", "/proc/no"), 2, "E-HUB-FOLDER"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_done_is_one_clear_error(yard: Yard, words: tuple[str, ...], code: int, error: str) -> None:
    done = yard.call(*words, *(["--json"] if words[1:2] != ("submit",) else []))
    found = json.loads(done.stdout)["error"]["code"] if done.stdout else error
    assert (done.returncode, f"error[{error}]" in done.stderr, found, "Traceback" in done.stderr, "fix:" in done.stderr) == (
        code,
        True,
        error,
        False,
        True,
    )


def test_more_gpus_than_any_worker_has_are_refused_with_what_they_have_unless_it_may_wait(yard: Yard) -> None:
    yard.worker("--gpus", "2", "--gpu-type", "H100")
    until(yard.alive)
    refused = yard.call("hub", "submit", "--gpu-count", "8", "--no-code", "--", "true")
    waiting = yard.call("hub", "submit", "--gpu-count", "8", "--no-code", "--wait", "--", "true")
    assert (refused.returncode, "w has 2 H100" in refused.stderr, waiting.returncode, yard.jobs()[0].state) == (2, True, 0, JobState.QUEUED)


def test_a_damaged_hub_is_said_to_be_damaged(yard: Yard) -> None:
    yard.hub.mkdir()
    (yard.hub / "hub.db").write_bytes(b"no database at all" * 100)
    done = yard.call("hub", "list")
    assert (done.returncode, "error[E-STORE]" in done.stderr) == (1, True)


def test_a_submission_key_that_was_used_before_is_not_said_to_queue_anything(yard: Yard) -> None:
    job = yard.submit("true", submission_key="once")
    job.cancel()
    done = yard.call("hub", "submit", "--submission-key", "once", "--no-code", "--", "true")
    assert done.stdout.splitlines()[0] == f"{job.id} is CANCELLED: it was queued before, with this submission key"


def test_a_list_that_is_cut_says_so(yard: Yard) -> None:
    for _ in range(3):
        yard.submit("true")
    cut, whole = (yard.call("hub", "list", "--last", str(number)) for number in (2, 4))
    assert (cut.stderr, whole.stderr) == ("these are the newest 2; more:  overnight hub list --last 10\n", "")


def test_the_time_of_a_job_that_never_ran_does_not_grow_when_it_is_over(yard: Yard) -> None:
    job = yard.submit("true", name="x")
    job.cancel()
    shown = yard.call("hub", "list", "--all").stdout.splitlines()[1]
    assert shown.split() == [job.id, "CANCELLED", "x", "cancelled:", "on", "request"]


@pytest.mark.parametrize("words", [("worker", "start", ""), ("hub", "submit", "--join", "", "--", "true")])
def test_an_empty_join_line_is_a_mistake(yard: Yard, words: tuple[str, ...]) -> None:
    env = {name: value for name, value in os.environ.items() if name != "OVERNIGHT_HUB"} | {"HOME": str(yard.root)}
    done = subprocess.run(
        [sys.executable, "-m", "overnight", *words], env=env, cwd=yard.root, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr.partition(":")[0]) == (2, "error[E-JOIN-LINE]")


def test_an_input_that_would_be_linked_outside_of_the_folder_is_refused(yard: Yard) -> None:
    done = yard.call("hub", "submit", "--no-code", "--input", "a/../../x=/tmp", "--", "true")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        "error[E-SUBMIT]: input 'a/../../x=/tmp' leads out of the folder of the job",
    )


def test_one_word_where_several_could_be_is_one_entry(yard: Yard) -> None:
    first = yard.submit("true")
    job = yard.submit("true", needs=first, outputs="best.pt", tags="big")
    asked = job.told().submission
    assert (asked.needs, asked.outputs, asked.tags) == ((first.id,), ("best.pt",), ("big",))


def test_a_command_of_bytes_that_are_no_text_is_refused_and_stands_in_nobodys_way(yard: Yard) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "overnight", "hub", "submit", "--no-code", "--", b"echo", b"\xff"],
        env=os.environ | {"OVERNIGHT_HUB": str(yard.hub)}, cwd=yard.root, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    told = (done.returncode, done.stderr.splitlines()[0], yard.jobs())
    assert told == (2, "error[E-SUBMIT]: command: a text with half a letter", [])


@pytest.mark.parametrize("words", [("logs",), ("drain",), ("list", "--worker")])
def test_a_name_of_bytes_that_are_no_text_is_wrong_use(yard: Yard, words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "overnight", "hub", *words, b"\xff"],
        env=os.environ | {"OVERNIGHT_HUB": str(yard.hub)}, cwd=yard.root, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        "error[E-USAGE]: a word of the command, or a name, is no text: its bytes are not UTF-8",
    )
