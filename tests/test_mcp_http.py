"""The server over HTTP: the token, the names it answers to, and who may reach it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from clients import SERVE
from overnight.errors import OvernightError
from overnight.mcp_server import http
from studies import ended  # noqa: F401 - a fixture that every test gets

# --- HTTP --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    url: str
    token: str


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "here").mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, *SERVE, "--http", "127.0.0.1:0", "--json"], cwd=tmp_path / "here", env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        file = tmp_path / ".local" / "state" / "overnight" / "mcp.token"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        yield Served(url, file.read_text().strip())
        process.terminate()
        process.wait(30)


def refusal(served: Served, headers: dict[str, str]) -> int:
    import httpx2

    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    return httpx2.post(served.url, json=body, headers={"Accept": "application/json, text/event-stream", **headers}).status_code


def test_over_http_a_client_with_the_token_is_answered(served: Served) -> None:
    async def main() -> Any:
        async with (
            create_mcp_http_client(headers={"Authorization": f"Bearer {served.token}"}) as web,
            Client(streamable_http_client(served.url, http_client=web)) as client,
        ):
            return (await client.call_tool("hub_list", {})).structured_content

    assert anyio.run(main) == {"jobs": []}


def test_over_http_nobody_is_answered_without_the_token_or_under_another_name(served: Served) -> None:
    good = {"Authorization": f"Bearer {served.token}"}
    given = [
        {},
        {"Authorization": "Bearer x"},
        {"Authorization": f"Basic {served.token}"},
        {**good, "Host": "evil.example"},
        {**good, "Origin": "http://evil.example"},
    ]
    assert [refusal(served, headers) for headers in given] == [401, 401, 401, 421, 403]


@pytest.mark.parametrize(
    ("text", "code"), [("0.0.0.0:80", "E-NOT-LOCAL"), ("example.org:80", "E-NOT-LOCAL"), ("127.0.0.1", "E-ADDRESS"), ("127.0.0.1:99999", "E-ADDRESS"), ("x:", "E-ADDRESS")]
)  # fmt: skip
def test_an_address_that_others_could_reach_or_that_is_none_is_refused(text: str, code: str) -> None:
    with pytest.raises(OvernightError) as caught:
        http.address(text, remote=False)
    assert caught.value.code == code


@pytest.mark.parametrize(("mode", "text", "code"), [(0o644, "x" * 40, "E-TOKEN-OPEN"), (0o600, "short", "E-TOKEN")])
def test_a_token_that_others_may_read_or_guess_is_refused(tmp_path: Path, mode: int, text: str, code: str) -> None:
    (tmp_path / "token").write_text(text)
    (tmp_path / "token").chmod(mode)
    with pytest.raises(OvernightError) as caught:
        http.token(tmp_path / "token", {})
    assert caught.value.code == code
