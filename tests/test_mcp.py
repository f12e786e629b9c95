"""The tools for agents, driven by clients that are not ours: the SDK's over both transports, and the Inspector's command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError

import clients
import studies
from clients import answer, asked, in_process, spoken
from overnight.mcp_server import server, told
from studies import ended  # noqa: F401 - a fixture that every test gets
from yards import until

_SERVE = ["-m", "overnight", "mcp"]
_ISSUED = {
    "hub_submit", "hub_list", "hub_watch", "hub_cancel", "dag_from_yaml", "dag_status", "loop_start", "loop_status", "loop_stop", "experiments", "experiment",
    "idea_add", "ideas", "plan", "implement", "note_add", "note_search", "report", "trial_begin", "trial_run", "trial_settle",
}  # fmt: skip
_CHANGES = {
    "hub_submit",
    "hub_cancel",
    "dag_from_yaml",
    "dag_cancel",
    "trial_begin",
    "trial_run",
    "trial_settle",
    "loop_start",
    "loop_stop",
    "idea_add",
    "ideas",
    "plan",
    "implement",
    "note_add",
}


@pytest.fixture
def study(tmp_path: Path) -> studies.Study:
    return clients.study(tmp_path / "s")


def over(study: studies.Study) -> bool:
    return study.status()["state"] in ("done", "stopped")


# --- what is offered ---------------------------------------------------------------------------------------------------


def test_the_tools_are_those_that_were_asked_for_and_each_says_what_it_gives() -> None:
    tools = in_process(lambda client: client.list_tools()).tools
    assert (
        _ISSUED - {tool.name for tool in tools},
        [tool.name for tool in tools if not (tool.output_schema and tool.description and tool.title)],
    ) == (set(), [])


def test_every_argument_is_explained() -> None:
    tools = in_process(lambda client: client.list_tools()).tools
    dumb = [f"{tool.name}.{name}" for tool in tools for name, row in tool.input_schema["properties"].items() if "description" not in row]
    assert dumb == ["note_search.limit"]


def test_what_spends_or_ends_says_so() -> None:
    tools = {tool.name: tool for tool in in_process(lambda client: client.list_tools()).tools}
    assert {name for name, tool in tools.items() if not tool.annotations.read_only_hint} == _CHANGES
    assert {name for name, tool in tools.items() if tool.annotations.destructive_hint} == {"hub_cancel", "dag_cancel", "loop_stop"}
    spending = {name for name, tool in tools.items() if tool.annotations.open_world_hint}
    assert (
        {name for name, tool in tools.items() if "SPENDS" in tool.description}
        == spending
        == {name for name, tool in tools.items() if "spends" in tool.title}
    )


def test_the_prompts_are_the_commands_of_the_plugin() -> None:
    async def work(client: Client) -> tuple[list[str], str]:
        names = [prompt.name for prompt in (await client.list_prompts()).prompts]
        text = (await client.get_prompt("loop", {"goal": "less loss", "budget": "5"})).messages[0].content.text  # type: ignore[union-attr] # it is a text
        return names, text.splitlines()[0]

    assert in_process(work) == (["pi", "plan", "run", "loop", "report"], 'What is wanted: start --goal "less loss" --budget "5"')


def test_an_argument_that_a_tool_does_not_have_is_not_passed_over() -> None:
    async def work(client: Client) -> Any:
        return await client.call_tool("experiment", {"nam": "2"})

    error = answer(in_process(work))["error"]
    assert (error["code"], error["message"].partition(";")[0]) == ("E-USAGE", "experiment takes no 'nam'")


def test_a_missing_argument_is_an_error_as_data() -> None:
    async def work(client: Client) -> Any:
        return await client.call_tool("hub_submit", {})

    found = in_process(work)
    assert (found.is_error, answer(found)["ok"], answer(found)["error"]["code"], found.structured_content) == (True, False, "E-USAGE", None)


# --- studies -----------------------------------------------------------------------------------------------------------


def test_a_loop_is_started_followed_and_read_by_a_client(study: studies.Study) -> None:
    begun, *_ = asked(study.root, study.env, ("loop_start", {"goal": "less loss", "budget": "3", "tag": "t"}))
    assert begun.get("pid"), begun
    until(lambda: over(study))
    calls: list[tuple[str, dict[str, Any]]] = [
        ("loop_status", {}),
        ("experiments", {"last": 2}),
        ("experiment", {"which": "best", "diff": True, "log": 100}),
        ("report", {}),
    ]
    status, rows, best, report = asked(study.root, study.env, *calls)
    assert (status["goal"], status["experiments"], status["kept"]) == ("less loss", 4, 4)
    assert [row["number"] for row in rows["experiments"]] == [3, 4]
    assert (best["experiment"]["value"], best["log"].strip(), "+print('@loss=0.487')" in best["diff"]) == (0.487, "@loss=0.487", True)
    assert (report["summary"]["tag"], report["experiments"], report["markdown"].startswith("# t")) == ("t", 4, True)


def test_a_loop_outlives_the_server_and_is_stopped_by_another(study: studies.Study) -> None:
    study.gate(1, 0.5)
    asked(study.root, study.env, ("loop_start", {"tag": "t"}))
    study.waiting()
    stopped, status = asked(study.root, study.env, ("loop_stop", {"now": True, "seconds": 30}), ("loop_status", {}))
    assert (stopped["over"], status["state"]) == (True, "stopped")


def test_an_error_of_a_loop_carries_its_code_and_hint(study: studies.Study) -> None:
    found = asked(
        study.root, study.env, ("loop_start", {"budget": "many"}), ("loop_status", {}), ("loop_stop", {}), ("loop_start", {"settings": {"unsafe_no_sandbox": True}}),
        ("loop_start", {"settings": {"slotz": 2}}), ("experiments", {"folder": "nowhere"}),
    )  # fmt: skip
    codes = [each["error"]["code"] for each in found]
    assert (codes, [each["error"]["hint"] != "" for each in found]) == (
        ["E-BAD-SETTING", "E-NO-STUDY", "E-NOT-RUNNING", "E-WALLS", "E-SETTING", "E-NO-FOLDER"],
        [True] * 6,
    )


def test_an_agent_makes_a_trial_by_the_tools_and_hears_how_it_goes(study: studies.Study) -> None:
    heard = clients.Heard()

    async def work(client: Client) -> list[dict[str, Any]]:
        begun = answer(await client.call_tool("trial_begin", {"tag": "t"}))
        refused = answer(await client.call_tool("trial_run", {"hypothesis": "nothing"}))
        await anyio.Path(begun["path"], "train.py").write_text("print('@loss=0.5')\n")
        ran = answer(await client.call_tool("trial_run", {"hypothesis": "half"}, progress_callback=heard.hear))
        seen = answer(await client.call_tool("trial_show", {}))
        return [begun, refused, ran, seen, answer(await client.call_tool("trial_settle", {}))]

    begun, refused, ran, seen, settled = spoken(study.root, study.env, work)
    assert (begun["state"], begun["editable"], "Edit only: `train.py`" in begun["brief"], refused["error"]["code"]) == ("open", ["train.py"], True, "E-NO-EDIT")  # fmt: skip
    assert (ran["state"], ran["values"], ran["expected"]["decision"], any("half" in line for line in heard)) == (
        "measured",
        [0.5],
        "keep",
        True,
    )
    assert (seen["expected"]["decision"], settled["state"], settled["experiment"]["decision"]) == ("keep", "settled", "keep")


def test_notes_and_ideas_are_written_and_found(study: studies.Study) -> None:
    assert study.call("run", "--budget", "0").code == 0
    note, found, idea, queue = asked(
        study.root, study.env, ("note_add", {"text": "lr above 0.3 diverges"}), ("note_search", {"query": "diverges"}), ("idea_add", {"text": "try cosine", "pin": True}), ("idea_list", {}),
    )  # fmt: skip
    assert (found["notes"][0]["id"], idea["pinned"], [each["text"] for each in queue["ideas"]]) == (note["id"], True, ["try cosine"])


def test_resources_tell_of_the_study(study: studies.Study) -> None:
    assert study.call("run", "--budget", "1").code == 0

    async def work(client: Client) -> dict[str, str]:
        addresses = [address.replace("{which}", "best") for address in told.RESOURCES if "{dag}" not in address]
        return {each: (await client.read_resource(each)).contents[0].text for each in addresses}  # type: ignore[union-attr] # all are texts

    found = spoken(study.root, study.env, work)
    assert json.loads(found["overnight://study"])["experiments"] == len(json.loads(found["overnight://experiments"])) == 2
    assert (json.loads(found["overnight://experiments/best"])["number"], found["overnight://experiments/best/log"].strip()) == (
        2,
        "@loss=0.489",
    )
    assert ("+print('@loss=0.489')" in found["overnight://experiments/best/diff"], found["overnight://report"][:3]) == (True, "# t")


def test_a_resource_that_is_not_there_is_an_error_with_its_code(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    async def work(client: Client) -> str:
        with pytest.raises(MCPError) as caught:
            await client.read_resource("overnight://study")
        return str(json.loads(str(caught.value))["error"]["code"])

    assert spoken(tmp_path / "empty", {"HOME": str(tmp_path)}, work) == "E-NO-STUDY"


def test_the_document_names_every_tool_and_what_it_may_do() -> None:
    text = (Path(__file__).parents[1] / "docs" / "mcp.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_]+)` \| .* \| *(.*?) *\|$", text.split("## Tools")[1], re.MULTILINE)
    hints = {name: hint for name, (_, _, hint) in server.TOOLS.items()}
    wanted = {
        name: "" if hint.read_only_hint else "ends" if hint.destructive_hint else "spends" if hint.open_world_hint else "writes"
        for name, hint in hints.items()
    }
    assert {name: words.split(" ")[0] for name, words in rows} == wanted


def test_the_document_names_every_resource() -> None:
    text = (Path(__file__).parents[1] / "docs" / "mcp.md").read_text(encoding="utf-8")
    assert [address for address in told.RESOURCES if address.removesuffix("/diff").removesuffix("/log") not in text] == []
