"""Long calls: progress, cancelling, and others that are answered meanwhile; jobs and pipelines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from mcp import Client, MCPError

import clients
import studies
from clients import Heard, answer, asked, in_process, settings, spoken
from commands import processes
from planned import planned, task
from studies import ended  # noqa: F401 - a fixture that every test gets
from yards import Yard, until


@pytest.fixture
def study(tmp_path: Path) -> studies.Study:
    return clients.study(tmp_path / "s")


# --- long verbs --------------------------------------------------------------------------------------------------------

_SLOW = 'trap "exit 0" TERM; echo $$ > {out}/thinking; sleep 60 & wait'


def test_ideas_tell_their_progress_and_give_what_was_queued(study: studies.Study) -> None:
    idea = {"title": "cosine", "reason": "smooth", "gain": 0.1, "cost": 0.1, "risk": 0.2}
    (study.out / "agent.sh").write_text(f"cat > overnight-ideas.jsonl <<'END'\n{json.dumps(idea)}\nEND\necho HYPOTHESIS: done\n")

    async def work(client: Client) -> tuple[list[str], Any]:
        said = Heard()
        return said, await client.call_tool("ideas", {"goal": "lower loss, currently 1.0"}, progress_callback=said.hear)

    said, found = spoken(study.root, study.env, work)
    assert ("[ideas] Brainstorming directions..." in said, [each["title"] for each in answer(found)["ideas"]]) == (True, ["cosine"])


def test_cancelling_ends_the_agent_that_was_asked_and_others_are_answered_meanwhile(study: studies.Study) -> None:
    (study.out / "agent.sh").write_text(_SLOW.format(out=study.out))

    async def work(client: Client) -> Any:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "ideas", {"goal": "lower loss, currently 1.0"})
            await anyio.to_thread.run_sync(until, (study.out / "thinking").exists)
            found = await client.call_tool("hub_list", {})
            group.cancel_scope.cancel()
        pid = int((study.out / "thinking").read_text())
        await anyio.to_thread.run_sync(until, lambda: not os.path.exists(f"/proc/{pid}"))
        return found.structured_content

    assert spoken(study.root, study.env, work) == {"jobs": []}


def test_a_plan_is_looked_at_and_carried_out_with_each_task_as_progress(tmp_path: Path) -> None:
    made = planned(tmp_path / "s", task("T1", "a.py"), {"T1.1": "echo A = 0 > a.py"})
    rows = {"unsafe_no_sandbox": True, "proposer_command": f"sh {made.out}/agent.sh"}
    settings(made.root, rows)
    before, done = asked(made.root, made.env, ("plan", {"only": "status"}), ("implement", {"agents": 2}))
    assert ([each["state"] for each in before["tasks"]], [each["state"] for each in done["tasks"]], done["branch"]) == (
        ["open"],
        ["done"],
        "overnight/plan/p",
    )


# --- the hub and pipelines ---------------------------------------------------------------------------------------------


def test_a_job_is_submitted_watched_line_by_line_and_read(yard: Yard) -> None:
    yard.worker()
    until(yard.alive)
    env = {"HOME": str(yard.root), "OVERNIGHT_HUB": str(yard.hub)}

    async def work(client: Client) -> tuple[Any, list[str], Any]:
        said = Heard()
        job = (
            await client.call_tool(
                "hub_submit", {"name": "exp43", "command": "echo one; echo @loss=0.5", "workdir": None, "exp_id": "exp-043"}
            )
        ).structured_content
        return (
            job,
            said,
            (await client.call_tool("hub_watch", {"job": job["id"], "seconds": 50}, progress_callback=said.hear)).structured_content,
        )

    (yard.root / "here").mkdir()
    job, said, seen = spoken(yard.root / "here", env, work)
    assert (job["workers"], [line.partition("] ")[2] for line in said]) == (1, ["one", "@loss=0.5"])
    assert (seen["over"], seen["text"], seen["job"]["state"], seen["job"]["metrics"]) == (
        True,
        "one\n@loss=0.5\n",
        "SUCCEEDED",
        {"loss": 0.5},
    )


def test_watching_ends_after_its_seconds_and_cancel_ends_the_job(yard: Yard) -> None:
    (yard.root / "here").mkdir()
    job, seen, gone, listed = asked(
        yard.root / "here", {"HOME": str(yard.root), "OVERNIGHT_HUB": str(yard.hub)}, ("hub_submit", {"command": ["sleep", "60"], "workdir": None, "wait": True}),
        ("hub_watch", {"seconds": 0.2}), ("hub_cancel", {"job": "last", "reason": "enough"}), ("hub_list", {}),
    )  # fmt: skip
    assert (job["workers"], seen["over"], gone["state"], listed["jobs"]) == (0, False, "CANCELLED", [])


def test_a_job_asks_for_all_that_a_job_can_ask_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERNIGHT_HUB", str(tmp_path / "hub"))
    wanted: dict[str, Any] = {
        "gpu_count": 2, "gpu_type": "H100", "vram_gb": 40.5, "cpus": 8, "memory_gb": 64.0, "time_limit": 60.0, "tags": ["big"], "workers": ["a", "b"], "not_workers": ["c"],
        "inputs": ["x=/mnt/x"], "outputs": ["*.pt"], "retries": 2, "priority": -5, "exp_id": "exp-043", "submission_key": "k",
    }  # fmt: skip

    async def work(client: Client) -> Any:
        return answer(await client.call_tool("hub_submit", {"command": "true", "workdir": None, "wait": True, **wanted}))

    job = in_process(work)
    assert {name: job["asked"][name] for name in wanted} == wanted


def test_a_pipeline_that_is_no_pipeline_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    found, none = asked(
        tmp_path / "here", {"HOME": str(tmp_path)}, ("dag_from_yaml", {"yaml_content": "name: x\nnodes: 3\n"}), ("dag_status", {})
    )
    assert (found["error"]["code"], found["error"]["message"][:15], none["error"]["code"]) == ("E-PIPELINE", "yaml_content:2:", "E-NO-DAG")


_WORK = """
name: night
nodes:
  - {name: prepare, command: echo 3 > rows}
  - {name: train, command: "echo training; echo @loss=0.5; cat rows", needs: prepare}
"""


def _folder(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder whose settings take the walls away, and the variables of a server there."""
    (tmp_path / "here").mkdir()
    settings(tmp_path / "here", {"unsafe_no_sandbox": True})
    return tmp_path / "here", {"HOME": str(tmp_path)}


def test_a_pipeline_is_begun_followed_to_its_success_and_the_log_of_a_node_is_read(tmp_path: Path) -> None:
    async def work(client: Client) -> tuple[Any, Heard, Any, str]:
        begun = answer(await client.call_tool("dag_from_yaml", {"yaml_content": _WORK}))
        said = Heard()
        done = answer(await client.call_tool("dag_status", {"dag": begun["id"], "seconds": 50}, progress_callback=said.hear))
        log = (await client.read_resource(f"overnight://pipelines/{begun['id']}/train/log")).contents[0]
        return begun, said, done, log.text  # type: ignore[union-attr] # it is a text

    begun, said, done, log = spoken(*_folder(tmp_path), work)
    assert (begun["id"], done["state"], [(row["task"], row["state"], row["metrics"]) for row in done["nodes"]], log) == (
        "dag-1",
        "SUCCEEDED",
        [("prepare", "SUCCEEDED", {}), ("train", "SUCCEEDED", {"loss": 0.5})],
        "training\n@loss=0.5\n3\n",
    )
    assert [line for line in said if "(" not in line] == ["[prepare] started", "[train] started", "[train] @loss=0.5"]


def test_a_pipeline_that_fails_is_no_error_of_the_call_and_says_which_node_and_why(tmp_path: Path) -> None:
    text = _WORK.replace("echo training", "echo no memory >&2; exit 7")
    _, done = asked(*_folder(tmp_path), ("dag_from_yaml", {"yaml_content": text}), ("dag_status", {"seconds": 50}))
    assert (done["state"], [(row["state"], row["cause"]) for row in done["nodes"]]) == (
        "FAILED",
        [("SUCCEEDED", ""), ("FAILED", "exit code 7")],
    )


def test_a_pipeline_is_cancelled_with_what_runs(tmp_path: Path, mark: str) -> None:
    text = f"nodes: [{{name: long, command: sleep {mark}}}]"
    root, env = _folder(tmp_path)
    _, gone, seen = asked(root, env, ("dag_from_yaml", {"yaml_content": text}), ("dag_cancel", {"dag": "dag-1"}), ("dag_status", {}))
    assert (gone["state"], seen["state"], processes(mark)) == ("CANCELLED", "CANCELLED", [])


def test_a_log_of_a_pipeline_that_is_not_there_is_an_error_with_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERNIGHT_HUB", str(tmp_path))

    async def work(client: Client) -> str:
        with pytest.raises(MCPError) as caught:
            await client.read_resource("overnight://pipelines/dag-7/train/log")
        return str(caught.value)

    assert "E-NO-DAG" in in_process(work)
