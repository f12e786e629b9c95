"""Nights with agents: the whole program, with programs that behave as agents do."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import studies
from asked import program, result
from studies import ended  # noqa: F401 - a fixture that every test gets

FILES = {"train.py": "LR = 0.1\nprint(f'@loss={1 - LR}')\n"}
BETTER = "text = open('train.py').read()\nedit('train.py', text.replace('LR = 0.', 'LR = 0.1'))\n"


def night(folder: Path, body: str, *words: str) -> studies.Study:
    """A study whose claude is a program of ours; jobs are cheap, walls are tried elsewhere."""
    made = studies.study(folder, None, "--proposer", "claude", "--budget", "2", *words, files=FILES)
    program(folder / "bin" / "claude", body)
    made.env["PATH"] = f"{folder}/bin:{made.env['PATH']}"
    made.env["ANTHROPIC_API_KEY"] = "sk-of-the-tests"
    return made


def test_an_agents_edit_is_committed_with_what_it_has_cost(tmp_path: Path) -> None:
    study = night(tmp_path, "edit('train.py', f'LR = 0.{os.getpid()}\\nprint(f\"@loss={{0.5 - LR / 1e9}}\")\\n')\n" + result())
    done = study.call("run")
    row = study.rows()[1]
    told = (row["proposer"], row["description"], row["tokens"], row["cost"], row["session"], row["decision"])
    assert (done.code, told) == (0, ("claude", "a larger step", 1050, 0.01, "s1", "keep"))


def test_a_budget_of_dollars_ends_the_night(tmp_path: Path) -> None:
    study = night(
        tmp_path, "edit('train.py', f'LR = 0.{os.getpid()}\\nprint(\"@loss=0.5\")\\n')\n" + result(), "--budget", "50", "--budget", "$0.015"
    )
    study.call("run")
    assert study.status()["reason"].startswith("budget used up: $0.02")


def test_while_the_first_is_down_the_next_steps_in_and_it_is_said_once(tmp_path: Path) -> None:
    study = night(tmp_path, result("Invalid API key", is_error=True, api_error_status=401), "--proposer", "optuna")
    done = study.call("run")
    said = (done.out + done.err).count("claude is not logged in (401); optuna stands in")
    assert ([row["proposer"] for row in study.rows()[1:]], said) == (["optuna", "optuna"], 1)


def test_what_came_to_nothing_is_billed_to_the_next_row(tmp_path: Path) -> None:
    count = f"n = pathlib.Path({str(tmp_path / 'n')!r})\nn.touch()\nn.write_text(n.read_text() + 'x')\n"
    study = night(tmp_path, count + "if len(n.read_text()) > 1: edit('train.py', 'print(\"@loss=0.5\")\\n')\n" + result(), "--budget", "1")
    study.call("run")
    row = study.rows()[1]
    assert (row["proposer"], row["tokens"], row["cost"]) == ("claude", 2100, 0.02)


def test_an_agent_that_edits_a_protected_file_gets_a_row_that_says_so(tmp_path: Path) -> None:
    study = night(tmp_path, "edit('prepare.py')\n" + result(), "--budget", "1")
    study.call("run")
    assert study.rows()[1]["cause"] == "rejected: claude edited only protected files: prepare.py (it may edit train.py)"


def test_a_trouble_is_on_the_status_line_with_its_code_and_what_mends_it(tmp_path: Path) -> None:
    study = night(tmp_path, result("Credit balance is too low", is_error=True, api_error_status=402))
    loop = study.spawn(study.command("run"))
    wanted = "E-AGENT-CREDIT claude is out of credit (402): 402 Credit balance is too low; asked again in 300 s; fix: add credit"
    studies.until(lambda: wanted in study.said() or loop.poll() is not None)
    loop.send_signal(signal.SIGINT)
    assert (loop.wait(studies.PATIENCE), wanted in study.said()) == (130, True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("clude", "there is no proposer 'clude'; did you mean 'claude'?"),
        ("codex", "codex is not installed"),
        ("llm", "the proposer 'llm' needs a model"),
    ],
)
def test_a_proposer_that_cannot_be_asked_is_refused_before_anything_is_spent(name: str, words: str, tmp_path: Path) -> None:
    study = night(tmp_path, result())
    study.words[study.words.index("claude")] = name
    study.env["PATH"] = f"{tmp_path}/bin:/usr/bin:/bin"
    done = study.call("run")
    assert (done.code, words in done.err, "claude" in done.err) == (2, True, True)


def test_the_doctor_tells_agents_and_their_logins(tmp_path: Path) -> None:
    study = night(tmp_path, "print('9.9.9 (Claude Code)')\n")
    done = study.call("doctor", "--metric", "loss", "--tag", "u")
    assert "✔ agent claude 9.9.9 (Claude Code), login: $ANTHROPIC_API_KEY" in done.out


def test_the_doctor_proves_an_agent_and_leaves_nothing(tmp_path: Path) -> None:
    study = night(tmp_path, BETTER + result())
    done = study.call("doctor", "--metric", "loss", "--agent", "claude", "--unsafe-no-sandbox")
    assert (done.code, "claude made an edit" in done.out, set(study.refs()), (study.root / ".overnight").exists()) == (
        0, True, {"refs/heads/main"}, False,
    )  # fmt: skip


def test_the_doctor_says_what_is_wrong_with_an_agent(tmp_path: Path) -> None:
    study = night(tmp_path, result("Not logged in · Please run /login", is_error=True))
    done = study.call("doctor", "--metric", "loss", "--agent", "claude", "--unsafe-no-sandbox")
    assert (done.code, "error[E-AGENT-LOGIN]" in done.err, "claude /login" in done.err) == (1, True, True)


def test_what_init_finds_on_the_path_proposes_in_the_first_night(tmp_path: Path) -> None:
    study = night(tmp_path, "edit('train.py', 'print(\"@loss=0.5\")\\n')\n" + result(), "--budget", "1")
    place = study.words.index("--proposer")
    del study.words[place : place + 2]
    made = study.call("init")
    place = study.words.index("--proposer-command")
    del study.words[place : place + 2]
    study.before.update(study.checkout())
    done = study.call("run")
    assert (made.code, "agent         claude (found on PATH)" in made.out, done.code, study.rows()[1]["proposer"]) == (0, True, 0, "claude")


@pytest.mark.parametrize(("words", "proposer"), [((), "command"), (("--proposer", "claude"), "claude")])
def test_a_command_on_the_command_line_goes_before_the_proposers_of_the_file(words: tuple[str, ...], proposer: str, tmp_path: Path) -> None:
    study = night(tmp_path, "edit('train.py', 'print(\"@loss=0.5\")\\n')\n" + result(), "--budget", "1", *words)
    if not words:
        place = study.words.index("--proposer")
        del study.words[place : place + 2]
    (study.root / "overnight.toml").write_text('proposer = ["claude", "optuna"]\n')
    study.before.update(study.checkout())
    done = study.call("run")
    assert (done.code, study.rows()[1]["proposer"]) == (0, proposer), done
