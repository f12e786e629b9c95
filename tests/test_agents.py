"""Agents as proposers: programs that behave and misbehave as the real ones do, run by the real executor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from asked import program, request, result
from commands import ENV
from overnight.errors import ProposalError
from overnight.executors.local import LocalExecutor
from overnight.models import Idea, JobSpec
from overnight.proposers import prices, reports, troubles
from overnight.proposers.agent import AgentProposer, Wants
from overnight.proposers.agents import AGENTS, environment, find, pair_of, reachable
from overnight.proposers.reports import Output, Report

EDIT = "edit()\n" + result()


class Bench:
    """A place to ask one agent whose program is ``bin/claude``; ``jobs`` are the specs that were submitted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "person"
        self.home.mkdir()
        self.env = {
            "PATH": f"{folder}/bin:{ENV['PATH']}",
            "HOME": str(self.home),
            "ANTHROPIC_API_KEY": "sk-secret-of-mine",
            "OTHER_TOKEN": "mine",
        }
        self.jobs: list[JobSpec] = []
        self.executor = LocalExecutor(folder / "jobs")
        self.asked = 0

    def wrap(self, spec: JobSpec) -> JobSpec:
        self.jobs.append(spec)
        return spec

    def ask(self, body: str, wants: Wants | None = None, cancelled: bool = False, name: str = "claude") -> Idea:
        program(self.folder / "bin" / AGENTS[name].programs[0], body)
        self.asked += 1
        proposer = AgentProposer(AGENTS[name], wants or Wants(time_limit=30), self.executor, (self.env, self.wrap, True))
        self.request = request(self.folder, f"t-{self.asked}", lambda: cancelled)
        return proposer.ask(self.request)

    def fails(self, body: str, wants: Wants | None = None, cancelled: bool = False) -> ProposalError:
        with pytest.raises(ProposalError) as caught:
            self.ask(body, wants, cancelled)
        return caught.value


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.executor.close()


def test_an_edit_and_a_final_record_make_an_idea(bench: Bench) -> None:
    idea = bench.ask(EDIT, Wants("opus", "", 30))
    assert idea == Idea("a larger step", "claude", 1050, 0.01, seconds=idea.seconds, model="opus", session="s1")


def test_the_exit_code_says_nothing(bench: Bench) -> None:
    assert bench.ask(EDIT + "sys.exit(3)\n").hypothesis == "a larger step"


def test_the_brief_comes_by_standard_input_with_the_folder(bench: Bench) -> None:
    bench.ask("edit('train.py', '# ' + brief.replace('\\n', '|'))\n" + result())
    said = (bench.request.copy / "train.py").read_text()
    assert ("Lower the loss" in said, f"working directory is {bench.request.copy}" in said) == (True, True)


def test_an_agent_gets_a_home_of_its_own_its_key_and_no_other_secret(bench: Bench) -> None:
    bench.ask("edit('train.py', json.dumps(dict(os.environ)))\n" + result())
    found = json.loads((bench.request.copy / "train.py").read_text())
    assert (found["HOME"], found.get("OTHER_TOKEN"), found["ANTHROPIC_API_KEY"]) == (
        str(bench.request.work / "home"),
        None,
        "sk-secret-of-mine",
    )


def test_model_and_further_words_are_on_the_command_line(bench: Bench) -> None:
    bench.ask(EDIT, Wants("opus", "--max-budget-usd 0.50 --effort 'very high'", 30))
    assert bench.jobs[0].argv[-5:] == ("opus", "--max-budget-usd", "0.50", "--effort", "very high")


def test_the_hosts_are_those_of_the_row_of_the_addresses_and_of_the_setting(bench: Bench) -> None:
    bench.env["ANTHROPIC_BASE_URL"] = "http://127.0.0.1:8123/api"
    bench.ask(EDIT, Wants(time_limit=30, hosts=("example.org:443",)))
    assert [host for host in bench.jobs[0].hosts if host not in AGENTS["claude"].hosts] == ["127.0.0.1:8123", "example.org:443"]


def test_a_star_gives_the_whole_network() -> None:
    assert reachable(AGENTS["claude"], {}, ("*",)) == ()


@pytest.mark.parametrize(
    ("address", "pair"),
    [
        ("https://a.com/v1", "a.com:443"),
        ("http://a.com", "a.com:80"),
        ("localhost:8000", "localhost:8000"),
        ("a.com", "a.com:443"),
        ("http://[", ""),
        ("x:y", ""),
    ],
)
def test_an_address_is_a_name_and_a_port(address: str, pair: str) -> None:
    assert pair_of(address) == pair


def test_an_error_without_an_edit_is_told_with_what_mends_it(bench: Bench) -> None:
    error = bench.fails(result("Invalid API key", is_error=True, api_error_status=401))
    assert (error.code, error.outage, error.fix, error.wait >= 60) == ("E-AGENT-LOGIN", True, AGENTS["claude"].login, True)


def test_what_a_failed_turn_has_cost_is_told(bench: Bench) -> None:
    error = bench.fails(result("Overloaded", is_error=True, api_error_status=529))
    assert (error.code, error.tokens, error.cost) == ("E-AGENT-OVERLOADED", 1050, 0.01)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (result(), "E-NO-EDIT"),
        (result("Which of the two would you like?"), "E-AGENT-QUESTION"),
        (result("   "), "E-AGENT-EMPTY"),
        ("", "E-AGENT-EMPTY"),
        ("edit()\n", "E-AGENT-EMPTY"),
        ("print('it works!')\n", "E-AGENT-GARBAGE"),
        ('print(\'{"type": "result"\')\n', "E-AGENT-GARBAGE"),
        ("print('[1, 2]\\nnull\\n{}')\n", "E-AGENT-GARBAGE"),
        ("edit('prepare.py')\n" + result(), "E-WRONG-FILE"),
        ("edit('new.py')\n" + result(), "E-WRONG-FILE"),
        ("for _ in range(10): print('x' * 2**20)\n" + EDIT, "E-AGENT-FLOOD"),
        ("sys.stderr.write('Error: connect ECONNREFUSED 10.0.0.1:443\\n'); sys.exit(1)\n", "E-AGENT-UNREACHABLE"),
        ("sys.stderr.write('something odd\\n'); sys.exit(0)\n", "E-AGENT-FAILED"),
        ("os.kill(os.getpid(), 9)\n", "E-AGENT-FAILED"),
    ],
)
def test_each_way_to_fail_has_its_code(bench: Bench, body: str, code: str) -> None:
    assert bench.fails(body).code == code


def test_many_short_lines_are_all_read(bench: Bench) -> None:
    assert bench.ask("for n in range(2000): record(type='user', n=n); sys.stdout.flush()\n" + EDIT).hypothesis == "a larger step"


def test_a_program_that_hangs_is_ended_at_its_time_limit(bench: Bench) -> None:
    error = bench.fails(
        "record(type='system', subtype='api_retry', error_status=529, error='overloaded'); time.sleep(60)\n", Wants(time_limit=1)
    )
    assert (error.code, error.why) == ("E-PROPOSER-SLOW", "529 overloaded")


def test_an_answer_that_is_not_wanted_any_more_is_cancelled(bench: Bench) -> None:
    assert bench.fails("time.sleep(60)\n", cancelled=True).code == "E-CANCELLED"


def test_a_program_that_is_not_there_is_told_with_how_to_get_it(bench: Bench) -> None:
    bench.env["PATH"] = "/nonexistent"
    error = bench.fails(EDIT)
    assert (error.code, error.fix) == ("E-NO-AGENT", "npm install -g @anthropic-ai/claude-code")


def test_an_interpreter_that_is_missing_is_told(bench: Bench) -> None:
    error = bench.fails("", Wants(time_limit=30))
    path = bench.folder / "bin" / "claude"
    path.write_text("#!/usr/bin/env no-such-node\n")
    proposer = AgentProposer(AGENTS["claude"], Wants(time_limit=30), bench.executor, (bench.env, bench.wrap, True))
    with pytest.raises(ProposalError) as caught:
        proposer.ask(request(bench.folder, "again"))
    assert (error.code, caught.value.code) == ("E-AGENT-EMPTY", "E-NO-AGENT")


# --- logins ------------------------------------------------------------------------------------------------------------


def login(bench: Bench, text: str = '{"token": "old"}') -> Path:
    path = bench.home / ".claude" / ".credentials.json"
    path.parent.mkdir()
    path.write_text(text)
    (bench.home / ".claude" / "history.jsonl").write_text("what I said yesterday")
    return path


WHERE = "at = pathlib.Path(os.environ['HOME'], '.claude')\n"


def test_a_login_is_at_hand_and_nothing_else_of_the_persons_folder(bench: Bench) -> None:
    login(bench)
    bench.ask(WHERE + "edit('train.py', json.dumps({each.name: each.read_text() for each in at.iterdir()}))\n" + result())
    assert json.loads((bench.request.copy / "train.py").read_text()) == {".credentials.json": '{"token": "old"}'}


def test_a_renewed_login_is_brought_back(bench: Bench) -> None:
    path = login(bench)
    bench.ask(WHERE + "(at / '.credentials.json').write_text('{\"token\": \"new\"}')\n" + EDIT)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ('{"token": "new"}', 0o600)


@pytest.mark.parametrize("text", ["", "gone mad", '{"command": "rm"}', "[]"])
def test_what_is_no_login_is_not_brought_back(bench: Bench, text: str) -> None:
    path = login(bench)
    bench.ask(WHERE + f"(at / '.credentials.json').write_text({text!r})\n" + EDIT)
    assert path.read_text() == '{"token": "old"}'


def test_a_login_that_the_person_renewed_meanwhile_stays(bench: Bench) -> None:
    path = login(bench)
    bench.ask(
        WHERE
        + f'pathlib.Path({str(path)!r}).write_text(\'{{"token": "mine"}}\')\n(at / \'.credentials.json\').write_text(\'{{"token": "new"}}\')\n'
        + EDIT
    )
    assert path.read_text() == '{"token": "mine"}'


# --- where programs are ------------------------------------------------------------------------------------------------


def test_a_program_inside_an_installed_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path / "claude_agent_sdk" / "_bundled" / "claude", "")
    (tmp_path / "claude_agent_sdk" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find(AGENTS["claude"], {"PATH": "/nonexistent"}) == str(path)


def test_a_program_on_the_path_is_found_first(bench: Bench) -> None:
    path = program(bench.folder / "bin" / "codex", "")
    assert find(AGENTS["codex"], bench.env) == str(path)


@pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)
def test_every_agent_gets_its_keys_and_nothing_that_is_not_its_own(agent: object) -> None:
    row = AGENTS[getattr(agent, "name", "")]
    given = {**dict.fromkeys(row.keys, "x"), "PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "y", "OVERNIGHT_TAG": "t", "SSH_AUTH_SOCK": "/s"}
    assert environment(row, given) == {**dict.fromkeys(row.keys, "x"), "PATH": "/bin"}


# --- what they say -----------------------------------------------------------------------------------------------------

_CHAT = {"input": 800, "output": 50, "reasoning": 0, "cache": {"read": 200, "write": 0}}
_PI = {"input": 800, "output": 50, "cacheRead": 200, "cacheWrite": 0, "cost": {"total": 0.5}}
SAMPLES: dict[str, list[object]] = {
    "codex": [
        {"type": "thread.started", "thread_id": "s1"},
        {"type": "error", "message": "Reconnecting... 1/2"},
        {"type": "item.completed", "item": {"type": "agent_message", "text": "done"}},
        {"type": "turn.completed", "usage": {"input_tokens": 1000, "cached_input_tokens": 200, "output_tokens": 50}},
    ],
    "gemini": [
        {"type": "init", "session_id": "s1", "model": "m"},
        {"type": "message", "role": "assistant", "content": "let me see", "delta": True},
        {"type": "tool_use", "tool_name": "replace"},
        {"type": "message", "role": "assistant", "content": "do", "delta": True},
        {"type": "message", "role": "assistant", "content": "ne", "delta": True},
        {"type": "result", "status": "success", "stats": {"input_tokens": 1000, "output_tokens": 50, "cached": 200}},
    ],
    "opencode": [
        {"type": "step_finish", "sessionID": "s1", "part": {"reason": "tool-calls", "tokens": {"input": 0}, "cost": 0.25}},
        {"type": "text", "sessionID": "s1", "part": {"text": "done"}},
        {"type": "step_finish", "sessionID": "s1", "part": {"reason": "stop", "tokens": _CHAT, "cost": 0.25}},
    ],
    "pi": [
        {"type": "session", "id": "s1"},
        {"type": "message_update", "message": {"role": "assistant", "content": [{"type": "text", "text": "don"}], "usage": _PI}},
        {"type": "message_end", "message": {"role": "assistant", "model": "m", "content": [{"type": "text", "text": "done"}], "usage": _PI, "stopReason": "stop"}},
        {"type": "agent_end", "messages": []},
    ],
    "qwen": [
        {"type": "system", "subtype": "init", "session_id": "s1", "model": "m"},
        {"type": "result", "subtype": "success", "is_error": False, "result": "done", "usage": {"input_tokens": 1000, "output_tokens": 50, "cache_read_input_tokens": 200}},
    ],
    "cline": [
        {"type": "run_result", "finishReason": "completed", "text": "done", "usage": {"inputTokens": 1000, "outputTokens": 50, "cacheReadTokens": 200, "totalCost": 0.5}, "model": {"id": "m"}},
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_the_end_of_a_turn_is_understood(name: str, tmp_path: Path) -> None:
    report = AGENTS[name].read(Output("\n".join(json.dumps(item) for item in SAMPLES[name]), tmp_path))
    told = (report.final, report.text, report.error, report.tokens_read, report.tokens_cached, report.tokens_written)
    assert (told, report.cost) == ((True, "done", "", 1000, 200, 50), 0.5 if name in ("opencode", "pi", "cline") else None)


def test_copilots_tokens_are_in_its_file(tmp_path: Path) -> None:
    (tmp_path / "usage.json").write_text(
        json.dumps({"modelMetrics": {"m": {"usage": {"inputTokens": 1000, "outputTokens": 50, "cacheReadTokens": 200}}}})
    )
    lines = [{"type": "assistant.message", "data": {"content": "done", "model": "m"}}, {"type": "result", "sessionId": "s1", "exitCode": 0}]
    report = reports.copilot(Output("\n".join(map(json.dumps, lines)), tmp_path))
    assert report == Report(final=True, text="done", tokens_read=1000, tokens_cached=200, tokens_written=50, session="s1", model="m")


def test_aiders_line_is_understood(tmp_path: Path) -> None:
    text = "I raise it.\n\nTokens: 2.2k sent, 39 received. Cost: $0.0073 message, $0.0080 session.\nApplied edit to train.py\n"
    assert reports.aider(Output(text, tmp_path)) == Report(final=True, text="I raise it.", tokens_read=2200, tokens_written=39, cost=0.008)


def test_minis_trajectory_is_understood(tmp_path: Path) -> None:
    answer = {"role": "assistant", "extra": {"response": {"usage": {"prompt_tokens": 500, "completion_tokens": 25}}}}
    info = {"exit_status": "Submitted", "submission": "done", "model_stats": {"instance_cost": 0.5}}
    (tmp_path / "trajectory.json").write_text(json.dumps({"info": info, "messages": [answer, answer]}))
    report = reports.mini(Output("", tmp_path))
    assert (report.final, report.text, report.tokens_read, report.tokens_written, report.cost) == (True, "done", 1000, 50, 0.5)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("claude", [{"type": "result", "subtype": "error_max_turns", "is_error": True}]),
        ("codex", [{"type": "turn.failed", "error": {"message": "429"}}]),
        ("gemini", [{"type": "result", "status": "error", "error": {"message": "429"}}]),
        ("opencode", [{"type": "error", "error": {"name": "APIError", "data": {"message": "no", "statusCode": 429}}}]),
        (
            "pi",
            [
                {"type": "message_end", "message": {"role": "assistant", "stopReason": "error", "errorMessage": "429"}},
                {"type": "agent_end"},
            ],
        ),
        ("qwen", [{"type": "result", "subtype": "success", "is_error": False, "result": "[API Error: 429]"}]),
        ("cline", [{"type": "run_result", "finishReason": "error", "text": "429"}]),
    ],
)
def test_an_error_in_the_output_is_an_error_whatever_the_exit_code(name: str, lines: list[object], tmp_path: Path) -> None:
    report = AGENTS[name].read(Output("\n".join(map(json.dumps, lines)), tmp_path))
    assert (report.final, report.error != "") == (True, True)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00\xff{}",
        "{" * 100_000,
        '{"type": "result", "usage": [1], "result": 7}\n{"type": "result", "stats": null}',
        '{"type": {"a": 1}, "item": 3, "part": [], "message": "x"}',
    ],
)
def test_no_output_breaks_a_reader(agent: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "usage.json").write_text('{"modelMetrics": {"m": 3}}')
    (tmp_path / "trajectory.json").write_text('{"info": 3, "messages": [1, null]}')
    assert isinstance(AGENTS[agent].read(Output(text, tmp_path)), Report)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("401 Invalid API key · Please run /login", "E-AGENT-LOGIN"), ("unexpected status 403 Forbidden", "E-AGENT-LOGIN"), ("Please set an Auth method in your settings.json", "E-AGENT-LOGIN"),
        ("402 Credit balance is too low", "E-AGENT-CREDIT"), ("You exceeded your current quota, insufficient_quota", "E-AGENT-CREDIT"),
        ("exceeded retry limit, last status: 429 Too Many Requests", "E-AGENT-RATE"), ("Claude AI usage limit reached", "E-AGENT-RATE"), ("RESOURCE_EXHAUSTED", "E-AGENT-RATE"),
        ("529 Overloaded", "E-AGENT-OVERLOADED"), ("503 Service Unavailable", "E-AGENT-OVERLOADED"), ("The model `gpt-9` does not exist", "E-AGENT-MODEL"),
        ("getaddrinfo ENOTFOUND api.openai.com", "E-AGENT-UNREACHABLE"), ("API Error: JSON Parse error: Unrecognized token", "E-AGENT-GARBAGE"), ("/usr/bin/env: 'node': No such file or directory", "E-NO-AGENT"),
        ("segmentation fault", "E-AGENT-FAILED"),
    ],
)  # fmt: skip
def test_troubles_are_told_apart_by_their_words(words: str, code: str) -> None:
    assert troubles.told_apart("claude", "claude /login", words).code == code


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("I did it.\n\nHYPOTHESIS: larger steps", "larger steps"), ("**HYPOTHESIS:** larger `steps`\n", "larger `steps"), ("## Summary\n\nmore", "Summary"), ("```\n", ""), ("", ""),
        ("HYPOTHESIS: one\nHYPOTHESIS: two", "two"), ("- doubled the rate\n", "doubled the rate"), ("x" * 1000, "x" * 299 + "…"), ("a\x1b[31mb", "ab"),
    ],
)  # fmt: skip
def test_the_hypothesis_is_the_line_that_says_so_or_the_first_that_says_something(text: str, said: str) -> None:
    assert troubles.hypothesis(text) == said


def test_tokens_without_money_are_priced_by_the_list() -> None:
    pytest.importorskip("genai_prices", reason="the extra 'prices' is not installed")
    report = Report(tokens_read=1_000_000, tokens_written=0)
    assert (prices.estimated(report, "gpt-5") > 0, prices.estimated(report, "openai/gpt-5") == prices.estimated(report, "gpt-5"), prices.estimated(report, "no-such")) == (
        True, True, 0.0,
    )  # fmt: skip


@pytest.mark.parametrize("said", ["exceeded retry limit, last status: 429 Too Many Requests", "I tried.\nError: 429 rate limit\nCheck it."])
def test_an_agent_that_reports_its_models_refusal_as_an_answer_is_understood(bench: Bench, said: str) -> None:
    assert bench.fails(result(said)).code == "E-AGENT-RATE"
