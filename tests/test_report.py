"""``overnight report``: the night in a dozen lines that can be believed, from the record alone."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from overnight.app.report import moment_of
from overnight.errors import UsageError
from studies import Study, ended, study  # noqa: F401 - ended is used by every test

STEPS = {
    1: "better 0.5",
    2: "echo 'raise ValueError(42)' > train.py; echo 'a gamble on warmup'",
    3: "echo \"print('@loss=0.7')\" > train.py; echo 'a [cosine](http://x) | <b>schedule</b>'",
    4: "better 0.4",
}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A baseline, two keeps, a crash and a discard."""
    found = study(tmp_path_factory.mktemp("night"), STEPS, "--budget", "4", "--repairs", "0")
    done = found.call("run")
    assert done.code == 0, done
    return found


def lines(found: Study, *words: str) -> dict[str, str]:
    """Name -> text of the lines of the report."""
    return {line[:9].strip(): line[10:] for line in found.call("report", *words).out.splitlines()[1:]}


def told(found: Study, *words: str) -> Any:
    return json.loads(found.call("report", "--json", *words).out)


def test_the_answer_comes_first_with_the_commit_and_how_it_was_measured(night: Study) -> None:
    commit = night.rows()[4]["commit"][:7]
    first = night.call("report").out.splitlines()[1]
    assert first == f"BEST      1 → 0.4   (better by 0.6, 60.0%)   #5 {commit}, self-reported, confirmed"


def test_what_was_kept_and_what_failed_is_counted_with_its_words(night: Study) -> None:
    found = lines(night)
    expected = ("2 of 5 decided: 2 confirmed, 0 not; 1 discarded", "1: error:ValueError 1; the latest, #3: ValueError: 42")
    assert (found["KEPT"], found["FAILED"]) == expected


def test_a_report_says_what_speaks_against_believing_it(night: Study) -> None:
    checks = told(night)["checks"]
    assert [check.split(" ")[0:2] for check in checks] == [["every", "value"], ["5", "experiments"]]


def test_a_time_in_which_nothing_happened_says_so_first(night: Study) -> None:
    assert next(iter(lines(night, "--since", "1s").items()))[0] in ("STOPPED", "BEST")  # a slow machine may be within the second
    assert lines(night, "--since", "0.001s")["STOPPED"] == "budget used up: 4 of 4 experiments; no experiment was decided in this time"


def test_the_same_record_gives_the_same_report(night: Study) -> None:
    assert night.call("report").out == night.call("report").out


def test_words_of_an_agent_are_only_words_in_markdown(night: Study) -> None:
    found = night.call("report", "--md").out
    assert ("](http" in found, "<b>" in found, found.startswith("# ")) == (False, False, True)


def test_the_json_holds_the_summary_that_status_prints(night: Study) -> None:
    found = told(night)
    assert (found["schema"], found["summary"]) == ("overnight/report/1", night.status())


def test_a_time_that_is_none_is_refused_with_an_example(night: Study) -> None:
    done = night.call("report", "--since", "yesterday")
    assert (done.code, "overnight report --since 23:00" in done.err) == (2, True)


def test_without_a_study_there_is_one_clear_error(tmp_path: Path, night: Study) -> None:
    done = Study(tmp_path, tmp_path, night.env).call("report")
    assert (done.code, "E-NO-STUDY" in done.err) == (3, True)


@pytest.mark.parametrize(("text", "clock", "hours"), [("23:00", "07:45", 8.75), ("06:00", "07:45", 1.75), ("90m", "07:45", 1.5)])
def test_a_time_of_the_day_is_the_latest_one(text: str, clock: str, hours: float) -> None:
    now = datetime.fromisoformat(f"2026-06-10T{clock}").astimezone().timestamp()
    assert (now - moment_of(text, now)) / 3600 == hours


def test_a_time_before_all_clocks_is_their_beginning() -> None:
    assert moment_of("99999999h", 1e9) == 0.0


@pytest.mark.parametrize("text", ["25:00", "", "-1h", "noon"])
def test_what_is_no_time_is_no_time(text: str) -> None:
    with pytest.raises(UsageError) as error:
        moment_of(text, 0.0)
    assert error.value.code == "E-BAD-SINCE"
