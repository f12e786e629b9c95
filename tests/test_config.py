"""Settings from flags, variables and files: who wins, where a value came from, and what bad input gets."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight import config
from overnight.config import load, user_file
from overnight.errors import NotFoundError, OvernightError, UsageError
from overnight.settings import Settings, table


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _error(root: Path, text: str) -> OvernightError:
    _write(root / "overnight.toml", text)
    with pytest.raises(OvernightError) as caught:
        load(root, {}, {})
    return caught.value


def test_without_any_file_every_setting_has_its_default(tmp_path: Path) -> None:
    found = load(tmp_path, {}, {})
    assert (found.settings, set(found.origin.values()), found.warnings, found.file) == (Settings(), {"default"}, (), None)


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        ((), (5, "flag")),
        (("flag",), (4, "OVERNIGHT_SLOTS")),
        (("flag", "variable"), (3, "overnight.toml:2")),
        (("flag", "variable", "own"), (2, "pyproject.toml:4")),
        (("flag", "variable", "own", "shared"), (1, "~/.config/overnight/config.toml:1")),
        (("flag", "variable", "own", "shared", "user"), (1, "default")),
    ],
)
def test_the_nearest_place_wins_and_is_named_as_origin(tmp_path: Path, left_out: tuple[str, ...], expected: tuple[int, str]) -> None:
    root, home = tmp_path / "repo", tmp_path / "home"
    root.mkdir()
    if "own" not in left_out:
        _write(root / "overnight.toml", "# mine\nslots = 3\n")
    if "shared" not in left_out:
        _write(root / "pyproject.toml", '[project]\nname = "x"\n[tool.overnight]\nslots = 2\n')
    if "user" not in left_out:
        _write(home / ".config/overnight/config.toml", "slots = 1\n")
    environ = {"HOME": str(home)} | ({} if "variable" in left_out else {"OVERNIGHT_SLOTS": "4"})
    found = load(root, {} if "flag" in left_out else {"slots": 5}, environ)
    assert (found.settings.slots, found.origin["slots"]) == expected


def test_values_of_different_places_are_put_together(tmp_path: Path) -> None:
    _write(tmp_path / "home/.config/overnight/config.toml", 'proposer_command = "agent"\nslots = 2\n')
    _write(tmp_path / "overnight.toml", 'metric = "loss"\nslots = 3\n')
    found = load(tmp_path, {"tag": "nov21"}, {"HOME": str(tmp_path / "home"), "OVERNIGHT_SEED": "7"}).settings
    assert (found.proposer_command, found.metric, found.slots, found.tag, found.seed) == ("agent", "loss", 3, "nov21", 7)


def test_overnight_toml_wins_over_the_table_in_pyproject_with_a_warning(tmp_path: Path) -> None:
    _write(tmp_path / "overnight.toml", 'metric = "a"\n')
    _write(tmp_path / "pyproject.toml", '[tool.overnight]\nmetric = "b"\nslots = 9\n')
    found = load(tmp_path, {}, {})
    assert (found.settings.metric, found.settings.slots) == ("a", 1)
    assert found.warnings == ("pyproject.toml: [tool.overnight] is passed over, because there is an overnight.toml",)


def test_a_named_file_is_read_instead_of_the_project_files(tmp_path: Path) -> None:
    _write(tmp_path / "repo/overnight.toml", 'metric = "a"\nslots = 9\n')
    other = _write(tmp_path / "elsewhere.toml", 'metric = "b"\n')
    found = load(tmp_path / "repo", {}, {}, other)
    assert (found.settings.metric, found.settings.slots, found.origin["metric"], found.file) == ("b", 1, f"{other}:1", other)


def test_a_named_pyproject_is_read_by_its_table(tmp_path: Path) -> None:
    other = _write(tmp_path / "conf/pyproject.toml", '[project]\nname = "x"\n\n[tool.overnight]\nmetric = "b"\n')
    assert load(tmp_path, {}, {}, other).origin["metric"] == "conf/pyproject.toml:5"


def test_a_named_file_that_is_missing_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        load(tmp_path, {}, {}, tmp_path / "none.toml")
    assert (caught.value.code, caught.value.exit_code) == ("E-NO-CONFIG", 3)


def test_flags_that_were_not_given_do_not_hide_the_file(tmp_path: Path) -> None:
    _write(tmp_path / "overnight.toml", 'budget = ["5"]\nahead = false\n')
    found = load(tmp_path, {"budget": (), "ahead": None, "metric": None}, {})
    assert (found.settings.budget, found.settings.ahead, found.origin["budget"]) == (("5",), False, "overnight.toml:1")


def test_a_false_flag_is_a_given_flag(tmp_path: Path) -> None:
    assert load(tmp_path, {"ahead": False}, {}).settings.ahead is False


def test_lists_in_variables_are_divided_at_commas_and_commands_are_not(tmp_path: Path) -> None:
    environ = {"OVERNIGHT_GPUS": "0, 2", "OVERNIGHT_BUDGET": "50,8h", "OVERNIGHT_COMMAND": "python train.py --a 1,2"}
    found = load(tmp_path, {}, environ).settings
    assert (found.gpus, found.budget, found.command) == (("0", "2"), ("50", "8h"), ("python train.py --a 1,2",))


def test_an_empty_variable_and_a_variable_of_another_purpose_set_nothing(tmp_path: Path) -> None:
    environ = {"OVERNIGHT_SLOTS": "", "OVERNIGHT_DEBUG": "1", "OVERNIGHT_STATE": "/x"}
    assert load(tmp_path, {}, environ).settings == Settings()


@pytest.mark.parametrize("marker", ["OVERNIGHT_EXPERIMENT_ID", "OVERNIGHT_BRIEF"])
def test_inside_a_run_its_own_seed_is_no_setting(tmp_path: Path, marker: str) -> None:
    assert load(tmp_path, {}, {"OVERNIGHT_SEED": "41", marker: "exp-3"}).settings.seed == 0


def test_a_bad_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, {}, {"OVERNIGHT_TIME_BUDGET": "soon"})
    expected = ("E-BAD-SETTING", "OVERNIGHT_TIME_BUDGET: 'soon' is no duration; write for example 90s, 5m, 8h or 1h30m")
    assert (caught.value.code, caught.value.message) == expected


def test_a_bad_flag_is_named_as_it_is_typed(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, {"time_limit": "-3s"}, {})
    assert caught.value.message.startswith("--time-limit: '-3s' is no duration")


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_name(tmp_path: Path) -> None:
    found = _error(tmp_path, 'goal = """\nlow\n"""\n\n# the metric\n\nmetrc = "loss"\n')
    expected = ("E-UNKNOWN-SETTING", "overnight.toml:7: unknown setting 'metrc'; did you mean 'metric'?", 2)
    assert (found.code, found.message, found.exit_code) == expected


def test_a_bad_value_is_named_with_its_line_and_what_is_wanted(tmp_path: Path) -> None:
    found = _error(tmp_path, "slots = 2\nbudget = [\n  '50',\n  'lots',\n]\n")
    assert found.message.startswith("overnight.toml:2: budget: 'lots' is no budget")
    assert found.code == "E-BAD-SETTING"


@pytest.mark.parametrize("value", ["1e999", "9" * 400, "inf", "nan", "true", '"2"', "[1]", "1979-05-27", "{a = 1}"])
def test_no_value_of_toml_gets_through_as_another_kind_or_as_a_traceback(tmp_path: Path, value: str) -> None:
    text = f"slots = {value}\n"
    if value == '"2"':
        _write(tmp_path / "overnight.toml", text)
        assert load(tmp_path, {}, {}).settings.slots == 2
    else:
        assert _error(tmp_path, text).code in ("E-BAD-SETTING", "E-UNKNOWN-SETTING")


def test_kebab_case_and_tables_name_the_same_settings(tmp_path: Path) -> None:
    text = 'time-budget = "5m"\n[memory]\nsoft = "1GB"\nhard = "2GB"\n[proposer]\ntime-limit = "1m"\n'
    _write(tmp_path / "overnight.toml", text)
    found = load(tmp_path, {}, {})
    settings = found.settings
    assert (settings.time_budget, settings.memory_soft, settings.memory_hard, settings.proposer_time_limit) == (300, 2**30, 2**31, 60)
    assert (found.origin["memory_hard"], found.origin["proposer_time_limit"]) == ("overnight.toml:4", "overnight.toml:6")


def test_a_setting_in_a_wrong_table_is_pointed_out(tmp_path: Path) -> None:
    found = _error(tmp_path, '[metric]\npick = "best"\n')
    assert found.message == "overnight.toml:2: unknown setting 'metric.pick'; did you mean 'pick'?"


def test_one_setting_spelt_in_two_ways_is_refused(tmp_path: Path) -> None:
    found = _error(tmp_path, 'time_budget = "5m"\ntime-budget = "6m"\n')
    assert found.message == "overnight.toml:2: 'time-budget' sets time_budget a second time; the first is at overnight.toml:1"


@pytest.mark.parametrize(("text", "line"), [("slots = 2\nmetric = val_loss\n", 2), ("slots = 2\nslots = 3\n", 2), ("a = [1,\n2\n\n", 2)])
def test_broken_toml_is_named_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    found = _error(tmp_path, text)
    assert (found.code, found.where) == ("E-BAD-TOML", f"overnight.toml:{line}")


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "slots = " + "1" * 5000, "d = 2023-02-30\n"])
def test_toml_that_python_cannot_hold_is_bad_toml(tmp_path: Path, text: str) -> None:
    assert _error(tmp_path, text).code == "E-BAD-TOML"


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "overnight.toml").write_bytes(b'slots = 2\ngoal = "caf\xe9"\n')
    with pytest.raises(UsageError) as caught:
        load(tmp_path, {}, {})
    assert (caught.value.code, caught.value.where) == ("E-UNREADABLE", "overnight.toml:2")


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "overnight.toml").write_bytes(b'\xef\xbb\xbfslots = 2\r\n\r\nmetric = "loss"\r\n')
    found = load(tmp_path, {}, {})
    assert (found.settings.slots, found.origin["metric"]) == (2, "overnight.toml:3")


def test_a_folder_in_place_of_the_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "overnight.toml").mkdir()
    with pytest.raises(UsageError, match=r"overnight\.toml is a folder, not a file"):
        load(tmp_path, {}, {})


def test_a_folder_that_is_named_in_place_of_the_file_is_left_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, {}, {}, tmp_path)
    assert caught.value.fix == "overnight run --config overnight.toml"


def test_a_dangling_link_in_place_of_the_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "overnight.toml").symlink_to("gone.toml")
    with pytest.raises(UsageError, match=r"overnight\.toml cannot be read: No such file or directory"):
        load(tmp_path, {}, {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_the_right_to_read_is_said(tmp_path: Path) -> None:
    _write(tmp_path / "overnight.toml", "").chmod(0)
    with pytest.raises(UsageError, match=r"overnight\.toml cannot be read: Permission denied"):
        load(tmp_path, {}, {})


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        load(tmp_path, {}, {}, Path("/dev/zero"))


@pytest.mark.parametrize("text", ["broken = [", "[tool]\nother = 1\n", "tool = 3\n", '[tool."over"]\nnight = 1\n'])
def test_a_pyproject_that_does_not_speak_of_us_is_left_alone(tmp_path: Path, text: str) -> None:
    _write(tmp_path / "pyproject.toml", text)
    assert load(tmp_path, {}, {}).settings == Settings()


@pytest.mark.parametrize(("text", "code"), [("[tool.overnight]\nslots = [", "E-BAD-TOML"), ("tool.overnight = 3\n", "E-BAD-SETTING")])
def test_a_pyproject_that_speaks_of_us_wrongly_is_an_error(tmp_path: Path, text: str, code: str) -> None:
    _write(tmp_path / "pyproject.toml", text)
    with pytest.raises(UsageError) as caught:
        load(tmp_path, {}, {})
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_CONFIG_HOME": "/cfg", "HOME": "/h"}, Path("/cfg/overnight/config.toml")),
        ({"XDG_CONFIG_HOME": "", "HOME": "/h"}, Path("/h/.config/overnight/config.toml")),
        ({"XDG_CONFIG_HOME": "rel", "HOME": "/h"}, Path("/h/.config/overnight/config.toml")),
        ({"HOME": ""}, None),
        ({}, None),
    ],
)
def test_the_user_file_follows_the_xdg_specification(environ: dict[str, str], expected: Path | None) -> None:
    assert user_file(environ) == expected


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    found = _error(tmp_path, '"a\\u001b[31m" = 1\n')
    assert found.message == "overnight.toml:1: unknown setting 'a\\x1b[31m'"


_VALUES = st.sampled_from(
    ["1", '"a # b = c"', "'[x]'", '"""\nmetric = 1\n"""', "'''\n[t]\n'''", "[\n 1, # ]\n 2,\n]", "{ x = 1 }", '"\\""', "[[1], [2]]"]
)


@settings(deadline=None, database=None)
@given(st.lists(st.tuples(_VALUES, st.sampled_from(["", "# note [x]\n", "\n\n"]), st.booleans()), max_size=8))
def test_every_key_is_found_on_the_line_where_it_was_written(rows: list[tuple[str, str, bool]]) -> None:
    text = ""
    above: tuple[str, ...] = ()
    expected: dict[tuple[str, ...], int] = {}
    for number, (value, filler, opens) in enumerate(rows):
        text += filler
        if opens:
            above = (f"table{number}", "in ner")
            expected[above] = text.count("\n") + 1
            text += f'[ table{number} . "in ner" ] # header\n'
        expected[(*above, f"key{number}")] = text.count("\n") + 1
        text += f"key{number} = {value}\n"
    tomllib.loads(text)
    assert config._lines(text) == expected


@settings(deadline=None, database=None)
@given(st.text(max_size=200))
def test_no_text_brings_more_than_a_usage_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = tmp_path_factory.getbasetemp()
    file = root / "any.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found: object = load(root, {}, {}, file).settings
    except UsageError as error:
        found = error.exit_code
    assert found in (Settings(), 2)


def test_every_setting_can_be_given_by_its_example(tmp_path: Path) -> None:
    text = "".join(f"{name} = {row['example']}\n" for name, row in table().items() if row["example"])
    _write(tmp_path / "overnight.toml", text)
    found = load(tmp_path, {}, {})
    assert set(found.origin.values()).isdisjoint({"default"})
