"""The plugin for agents: put in place, taken away, and whatever was the user's own is as it was, byte for byte."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from overnight.app import plugins
from overnight.app.install import install, uninstall
from overnight.errors import OvernightError

OWN = {
    "codex": (".codex/config.toml", '# mine\nmodel = "gpt"   # with a comment\n\n[mcp_servers.other]\ncommand = "x"'),
    "opencode": (".config/opencode/opencode.json", '{\n    "theme" : "dark",\n    "mcp": {"other": {"type": "local", "command": ["x"]}}}'),
    "claude": (".claude/settings.json", '{"model": "opus"}'),
    "gemini": (".gemini/settings.json", '{"theme":"dark"}'),
}


def tree(home: Path) -> dict[str, bytes]:
    """Every file of a home, its rights with it, and every folder."""
    return {
        str(path.relative_to(home)): b"%o " % path.stat().st_mode + (path.read_bytes() if path.is_file() else b"")
        for path in sorted(home.rglob("*"))
    }


def home_of(folder: Path, agent: str, *, own: bool) -> dict[str, str]:
    if own:
        name, text = OWN[agent]
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    return {"HOME": str(folder)}


@pytest.mark.parametrize("own", [True, False], ids=["with settings", "empty home"])
@pytest.mark.parametrize("agent", plugins.AGENTS)
def test_uninstall_leaves_a_home_as_it_was_before(tmp_path: Path, agent: str, own: bool) -> None:
    environ = home_of(tmp_path, agent, own=own)
    before = tree(tmp_path)
    install(agent, environ)
    install(agent, environ, short=True)
    assert tree(tmp_path) != before
    uninstall(agent, environ)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("agent", plugins.AGENTS)
def test_bare_names_are_there_while_they_are_wanted(tmp_path: Path, agent: str) -> None:
    environ = home_of(tmp_path, agent, own=False)
    install(agent, environ)
    before = tree(tmp_path)
    bare = {path for path in install(agent, environ, short=True).written if Path(path).stem in plugins.COMMANDS}
    install(agent, environ)
    told = {name: text for name, text in tree(tmp_path).items() if ".local" not in name}
    assert (len(bare) >= 5, told) == (True, {name: text for name, text in before.items() if ".local" not in name})


@pytest.mark.parametrize("agent", ["claude", "gemini"])
def test_where_a_program_loads_folders_no_file_of_the_user_is_touched(tmp_path: Path, agent: str) -> None:
    environ = home_of(tmp_path, agent, own=True)
    before = tree(tmp_path)
    install(agent, environ)
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before


def test_the_settings_of_codex_keep_what_was_there_and_get_a_server(tmp_path: Path) -> None:
    install("codex", home_of(tmp_path, "codex", own=True))
    text = (tmp_path / ".codex/config.toml").read_text()
    found = tomllib.loads(text)
    assert (text.startswith(OWN["codex"][1]), found["model"], sorted(found["mcp_servers"])) == (True, "gpt", ["other", "overnight"])
    assert [found["mcp_servers"]["overnight"]["command"], *found["mcp_servers"]["overnight"]["args"]] == plugins.server()


def test_the_settings_of_opencode_keep_what_was_there_and_get_a_server(tmp_path: Path) -> None:
    install("opencode", home_of(tmp_path, "opencode", own=True))
    found = json.loads((tmp_path / ".config/opencode/opencode.json").read_text())
    assert (found["theme"], sorted(found["mcp"]), found["mcp"]["overnight"]["command"]) == (
        "dark",
        ["other", "overnight"],
        plugins.server(),
    )


@pytest.mark.parametrize("agent", ["codex", "opencode"])
def test_what_was_edited_meanwhile_stays(tmp_path: Path, agent: str) -> None:
    environ = home_of(tmp_path, agent, own=True)
    install(agent, environ)
    path = tmp_path / OWN[agent][0]
    path.write_text(path.read_text().replace("other", "another"))
    uninstall(agent, environ)
    left = path.read_text()
    assert ("another" in left, "overnight" in left) == (True, False)


@pytest.mark.parametrize("own", [True, False], ids=["with settings", "empty home"])
def test_the_schema_that_opencode_itself_writes_into_its_settings_changes_nothing(tmp_path: Path, own: bool) -> None:
    environ = home_of(tmp_path, "opencode", own=own)
    before = tree(tmp_path)
    install("opencode", environ)
    path = tmp_path / OWN["opencode"][0]
    path.write_text(json.dumps({"$schema": "x", **json.loads(path.read_text())}))
    uninstall("opencode", environ)
    assert tree(tmp_path) == before


def test_a_file_of_ours_that_was_edited_is_left(tmp_path: Path) -> None:
    environ = home_of(tmp_path, "claude", own=False)
    install("claude", environ)
    path = tmp_path / ".claude/skills/overnight/commands/pi.md"
    path.write_text("mine now\n")
    with pytest.raises(OvernightError) as caught:
        install("claude", environ)
    done = uninstall("claude", environ)
    assert (caught.value.code, done.left, path.read_text()) == ("E-NOT-OURS", ("skills/overnight/commands/pi.md",), "mine now\n")


@pytest.mark.parametrize(("agent", "text", "code"), [
    ("codex", "model = ", "E-NOT-TOML"), ("codex", '[mcp_servers.overnight]\ncommand = "x"\n', "E-NOT-OURS"), ("codex", "\udcff", "E-NOT-TEXT"),
    ("opencode", "{ // a comment\n}", "E-NOT-JSON"), ("opencode", "[]", "E-NOT-JSON"), ("opencode", '{"mcp": 3}', "E-NOT-JSON"),
])  # fmt: skip
def test_settings_that_cannot_be_edited_safely_stay_as_they_are_and_nothing_is_installed(
    tmp_path: Path, agent: str, text: str, code: str
) -> None:
    environ = home_of(tmp_path, agent, own=True)
    (tmp_path / OWN[agent][0]).write_bytes(text.encode("utf-8", "surrogateescape"))
    before = tree(tmp_path)
    with pytest.raises(OvernightError) as caught:
        install(agent, environ)
    assert (caught.value.code, tree(tmp_path)) == (code, before)


def test_what_was_never_installed_cannot_be_taken_away(tmp_path: Path) -> None:
    with pytest.raises(OvernightError) as caught:
        uninstall("codex", {"HOME": str(tmp_path)})
    assert caught.value.code == "E-NOT-INSTALLED"


@pytest.mark.parametrize("name", plugins.COMMANDS)
def test_a_command_of_gemini_says_the_same_as_that_of_claude(name: str) -> None:
    found = tomllib.loads(plugins.gemini().files[f"extensions/overnight/commands/overnight/{name}.toml"])
    assert found["prompt"].replace("{{args}}", "x") == plugins.command(name, "x")


def test_the_plugin_has_the_version_of_the_program() -> None:
    import overnight

    assert json.loads(plugins.source(".claude-plugin/plugin.json"))["version"] == overnight.__version__
