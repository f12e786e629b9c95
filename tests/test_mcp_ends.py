"""However the server ends, what it has asked of agents ends with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import clients
import studies
from clients import SERVE
from studies import ended  # noqa: F401 - a fixture that every test gets
from yards import until


@pytest.fixture
def study(tmp_path: Path) -> studies.Study:
    return clients.study(tmp_path / "s")


_SLOW = 'trap "exit 0" TERM; echo $$ > {out}/thinking; sleep 60 & wait'


@pytest.mark.parametrize("how", ["its input is closed", "SIGTERM", "SIGINT"])
def test_a_server_that_ends_takes_the_agent_that_it_has_asked_with_it(study: studies.Study, how: str) -> None:
    (study.out / "agent.sh").write_text(_SLOW.format(out=study.out))
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    lines: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": hello}, {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": "ideas", "arguments": {"goal": "lower loss, currently 1.0"}}},
    ]  # fmt: skip
    text = "".join(json.dumps({"jsonrpc": "2.0", **line}) + "\n" for line in lines)
    with subprocess.Popen(
        [sys.executable, *SERVE],
        cwd=study.root,
        env=study.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(text)
        process.stdin.flush()
        until((study.out / "thinking").exists)
        pid = int(until((study.out / "thinking").read_text))
        if how == "its input is closed":
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, how))
        process.wait(30)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert study.survivors() == []
