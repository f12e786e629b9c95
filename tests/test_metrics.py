from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import overnight.metrics
from overnight.metrics import Point, Scanner, Thinner, is_name

if TYPE_CHECKING:
    import random

# Machines differ in speed, and a test leaves nothing behind.
CALM = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


def scan(output: str | bytes, goal: str = "", **limits: int) -> list[Point]:
    scanner = Scanner(goal, **limits)
    data = output.encode() if isinstance(output, str) else output
    return scanner.feed(data) + scanner.close()


def values(output: str | bytes, goal: str = "") -> list[tuple[str, float]]:
    return [(name, value) for name, value, _ in scan(output, goal)]


def readable(points: list[Point]) -> list[tuple[str, str, str]]:
    """Points in a form in which nan equals nan."""
    return [(name, repr(value), repr(float(step))) for name, value, step in points]


# ---- the examples of the two documents that the project implements ----

JOB = """[job-8b2f1e] Epoch 1/80   @loss=2.1432  @mpjpe=45.12
[job-8b2f1e] Epoch 40/80  @loss=0.4821  @mpjpe=26.88
[job-8b2f1e] Epoch 80/80  @loss=0.2941  @mpjpe=21.43
[job-8b2f1e] Status: SUCCEEDED
"""

LOOP = """[loop] Cycle 1 — best: 21.43mm
  Hypothesis: cross-attention between joint queries
  Execute: hub submit exp-044
  Result: @mpjpe=19.87mm  (improvement: 1.56mm)
"""

BOX = """Your Laptop                 Relay               Remote GPU Machine
┌──────────────┐            ┌──────────┐        ┌─────────────────┐
│ cq hub watch │◄─────────── metrics stream ────│ train.py output │
└──────────────┘                                │  @loss=0.312    │
                                                │  @mpjpe=24.3    │
                                                └─────────────────┘
"""

SUMMARY = """---
fitness_key: metrics/mAP50-95(B)
fitness: 0.612345
training_seconds: 300.1
total_seconds: 300.1
peak_vram_mb: 8240.5
precision: 0.801234
recall: 0.745678
map50: 0.822222
map50_95: 0.612345
epoch: 18
"""

NUMBER_LINES = [line.split(": ") for line in SUMMARY.splitlines()[2:]]
SUMMARY_VALUES = [(name, float(value)) for name, value in NUMBER_LINES]


def test_a_jobs_stream_gives_its_metrics_with_the_epoch_as_step() -> None:
    numbers = [2.1432, 45.12, 0.4821, 26.88, 0.2941, 21.43]
    assert scan(JOB) == list(zip(["loss", "mpjpe"] * 3, numbers, [1, 1, 40, 40, 80, 80], strict=True))


CONVENTION = [("@loss=0.312", [("loss", 0.312)]), ("@mpjpe=24.3 @hd=1.74", [("mpjpe", 24.3), ("hd", 1.74)])]


@pytest.mark.parametrize(("line", "expected"), [*CONVENTION, (BOX, [("loss", 0.312), ("mpjpe", 24.3)])])
def test_the_conventions_own_examples_are_read(line: str, expected: list[tuple[str, float]]) -> None:
    assert expected == values(line)


def test_a_number_with_a_unit_is_no_metric_even_in_the_loops_own_words() -> None:
    assert values(LOOP, "mpjpe") == []


def test_a_summary_block_gives_its_numbers_and_passes_over_its_texts() -> None:
    assert values(SUMMARY) == SUMMARY_VALUES


def test_the_goal_named_as_the_second_document_names_it_is_matched_literally() -> None:
    goal = "metrics/mAP50-95(B)"
    lines = [f"{goal}: 1", f"@{goal}=2", f"METRIC {goal}=3", json.dumps({goal: 4}), '{"metrics": {"mAP50-95(B)": 5}}']
    assert values("\n".join(lines), goal) == [(goal, 1.0), (goal, 2.0), (goal, 3.0), (goal, 4.0), (goal, 5.0)]


# ---- what is no metric ----


NO_METRICS = """
@size=10GB | @version=1.2.3 | @flags=0x1F | user@host=12 | user_@host=12 | é@host=12 | @count=1_000 | @loss=infinity | @loss=-Infinity
@loss=nanx | @loss=nan(ind) | @loss= | @loss=. | @loss=- | @loss=1e | @loss=1e+ | @loss=--1 | @loss=.e1 | @loss = 0.3 | @loss= 0.3
@loss=0.3) | @loss='0.3' | @loss=0.3% | @1st=3 | @größe=3 | @=3 | @a=1@b=2 | loss=0.3 | loss: 0.3 | {'loss': 0.3} | {"loss": 0.3
METRICS loss=0.3 | xMETRIC loss=0.3 | METRIC: loss=0.3 | METRIC loss=10GB | {"loss": true, "acc": "0.9", "best": null, "all": [1, 2]}
{"loss now": 0.3} | [{"loss": 0.3}] | {"a": {"b": {"c": 1}}} | {"loss": 0x1F} | {"message": "@loss=0.3 METRIC acc=1"}
"""
OTHER_DIGITS = ["@loss=\u0663.\u0664", "@loss=\uff11", "@loss=\u00b2", '{"loss": \u0663}', "@loss=0.3\0"]


@pytest.mark.parametrize("line", [*re.split(r" \| |\n", NO_METRICS.strip()), *OTHER_DIGITS])
def test_what_only_resembles_a_metric_is_none(line: str) -> None:
    assert values(line) == []


@given(st.text("0123456789+-.eE_nNaAiIfFtTyYxX\u0663", min_size=1, max_size=9))
@CALM
def test_a_value_counts_exactly_if_it_is_a_strict_ascii_number(text: str) -> None:
    try:
        loose = [("m", repr(float(text)))]  # which also takes 1_000, infinity and other digits
    except ValueError:
        loose = []
    expected = loose if text.isascii() and not set(text) & set("_yY") else []
    assert expected == [(name, repr(value)) for name, value in values(f"@m={text};")]


@pytest.mark.parametrize("name", ["loss", "_", "val/loss", "a.b-c_9", "A" * 256])
def test_a_name_of_the_grammar_is_one(name: str) -> None:
    assert is_name(name) is True


@pytest.mark.parametrize("name", ["", "9a", "/a", "a b", "a\n", "mAP(B)", "größe", "A" * 257, "-a", "a="])
def test_any_other_text_is_no_name(name: str) -> None:
    assert is_name(name) is False


# ---- what is one ----


@pytest.mark.parametrize("end", [" ", "\t", ",", ";", "\n", "\r", "\r\n", ""])
def test_a_value_ends_at_a_blank_a_comma_a_semicolon_or_the_end_of_the_line(end: str) -> None:
    assert values(f"@loss=-1.5e-3{end}") == [("loss", -0.0015)]


@pytest.mark.parametrize("line", ["@loss=0,31", "@loss=1,234.5 more", "METRIC loss=0,31", "@box=1,2,3"])
def test_a_decimal_comma_and_thousands_set_apart_are_no_shorter_number(line: str) -> None:
    assert values(line) == []


def test_pairs_may_be_divided_by_commas_alone() -> None:
    assert values("@loss=1,@acc=2,x\nMETRIC f1=3,rec=4") == [("loss", 1.0), ("acc", 2.0), ("f1", 3.0), ("rec", 4.0)]


@pytest.mark.parametrize("before", ["", " ", "\t", "(", "|", "=", "│", "→", "\u00a0", "\ufffd", ": "])
def test_a_mark_may_follow_anything_but_a_word(before: str) -> None:
    assert values(f"{before}@loss=1") == [("loss", 1.0)]


def test_colours_around_a_number_are_seen_through() -> None:
    line = (
        "\x1b[1;31m@loss\x1b[0m=\x1b[32m0.31\x1b[0m \x1b[1mMETRIC\x1b(B\x1b[m acc=1\n\x1b[2K---\n\x1b[33mfitness\x1b[0m: \x1b[1m0.6\x1b[0m"
    )
    assert values(line) == [("loss", 0.31), ("acc", 1.0), ("fitness", 0.6)]


def test_non_finite_values_are_reported_as_printed() -> None:
    output = '@a=NaN @b=-INF @c=1e999\n{"d": NaN, "e": -Infinity, "f": 1e999, "g": ' + "9" * 5000 + "}"
    assert [f"{name}={value}" for name, value in values(output)] == ["a=nan", "b=-inf", "c=inf", "d=nan", "e=-inf", "f=inf", "g=inf"]


def test_metric_lines_take_several_pairs_and_stop_at_other_words() -> None:
    line = "12:00 METRIC loss=0.3, acc=0.9; size=10GB @f1=0.5 lr=1e-3 (in n=5 tries)\nMETRIC\ta=1 METRIC b=2"
    assert values(line) == [("loss", 0.3), ("acc", 0.9), ("f1", 0.5), ("lr", 0.001), ("a", 1.0), ("b", 2.0)]


def test_json_objects_give_their_numbers_and_those_one_level_down() -> None:
    line = ' {"loss": 0.3, "n": 12, "done": false, "eval": {"acc": 0.9, "ok": true}, "__proto__": 1, "odd key": 2} '
    assert values(line) == [("loss", 0.3), ("n", 12.0), ("eval/acc", 0.9), ("__proto__", 1.0)]


def test_of_a_key_given_twice_in_json_the_last_wins() -> None:
    assert values('{"a": 1, "b": 2, "a": 3, "b": "text"}') == [("a", 3.0)]


def test_a_json_object_of_any_depth_does_no_harm() -> None:
    assert values('{"a":' * 9000 + "1" + "}" * 9000 + "\n{" + "[" * 60000 + "}\n@b=1") == [("b", 1.0)]


@pytest.mark.parametrize("line", ["val_bpb:          0.997900", "  val_bpb: 0.9979  ", "val_bpb:0.9979", "val_bpb:\t0.9979\t"])
def test_the_goal_is_read_from_a_line_of_its_own_anywhere(line: str) -> None:
    assert values(f"steps: 12\n{line}\nvram: 3\n", "val_bpb") == [("val_bpb", 0.9979)]


@pytest.mark.parametrize(
    "line", ["val_bpb: 0.9979 bits", "best val_bpb: 0.9979", "my_val_bpb: 0.9979", "val_bpb: 1_000", "val_bpb : 0.9", "val_bpb: "]
)
def test_a_line_that_says_more_than_the_goal_is_not_read(line: str) -> None:
    assert values(line, "val_bpb") == []


@pytest.mark.parametrize("end", ["done.", "== end ==", "key:", "12: 3"])
def test_a_summary_block_ends_at_a_line_of_another_shape(end: str) -> None:
    assert values(f"a: 0\n  --- \na: 1\n  b : x\nb: 2\n---\nc: text 3\nd: 4\n{end}\ne: 5\n") == [("a", 1.0), ("d", 4.0)]


@pytest.mark.parametrize("blank", ["", "   ", "\t", "\n\n", "\r"])
def test_blank_lines_part_a_summary_block_and_do_not_end_it(blank: str) -> None:
    assert values(f"a: 0\n---\n{blank}\na: 1\n{blank}\nb: 2\n") == [("a", 1.0), ("b", 2.0)]


def test_a_summary_block_with_windows_line_ends_is_one_block() -> None:
    assert values(SUMMARY.replace("\n", "\r\n")) == SUMMARY_VALUES


@pytest.mark.parametrize("rule", ["----", "-" * 80, "--- results ---", "- --", "--"])
def test_other_rules_open_no_block(rule: str) -> None:
    assert values(f"{rule}\nloss: 1\n") == []


def test_marks_inside_a_block_are_read_and_may_end_it() -> None:
    assert values('---\na: 1\nresult: @b=2\n{"c": 3}\nd: 4\n') == [("a", 1.0), ("b", 2.0), ("c", 3.0)]


def test_the_forms_of_several_lines_come_in_the_order_printed() -> None:
    output = '{"a": 1}\ngoal: 2\n@c=3 METRIC d=4 @e=5\n---\nf: 6\n\n{"g": 7}\n@h=8\ngoal: 9\n'
    expected = list(zip(["a", "goal", "c", "d", "e", "f", "g", "h", "goal"], map(float, range(1, 10)), strict=True))
    assert values(output, "goal") == expected


# ---- steps ----


STEPS = [
    *(("@step=120 @loss=1", 120), ("@loss=1 @epoch=3", 3), ("@epoch=3 @loss=1 @step=120", 120), ("Epoch 3/80 @loss=1 @step=7.5", 7.5)),
    *(("METRIC step=4 loss=1", 4), ('{"loss": 1, "step": 9, "epoch": 2}', 9), ('{"epoch": 2.5, "loss": 1}', 2.5)),
    *(("EPOCH [003/080] @loss=1", 3), ("epoch: 3, @loss=1", 3), ("step 00120 (12%) @loss=1", 120), ("epoch 3 step 120 @loss=1", 120)),
    *(("@epoch=3/80 @loss=1", 3), ("Epoch 3/80 @loss=1", 3), ("step=7 METRIC loss=1", 7)),
]


@pytest.mark.parametrize(("line", "step"), STEPS)
def test_the_step_is_what_the_line_says(line: str, step: float) -> None:
    assert scan(line) == [("loss", 1.0, step)]


NO_STEPS = [
    *("@loss=1", "@step=nan @loss=1", "footstep 3 @loss=1", "steps 3 @loss=1", "per step 0.4 s @loss=1", "step 3ms @loss=1"),
    *("step -3 @loss=1", "step 1,000 @loss=1", '{"loss": 1, "step": "3", "note": "step 3"}', '{"loss": 1, "step": true}'),
]


@pytest.mark.parametrize("line", NO_STEPS)
def test_without_a_step_the_values_of_a_name_are_counted(line: str) -> None:
    assert [step for _, _, step in scan(f"{line}\n@other=1\n{line}\n{line}")] == [0, 0, 1, 2]


def test_step_and_epoch_are_metrics_only_as_the_goal_or_in_a_block() -> None:
    assert [values("@step=1\n@epoch=2\n", "epoch"), values("---\nepoch: 3\n")] == [[("epoch", 2.0)], [("epoch", 3.0)]]


# ---- properties ----

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_./-]{0,20}", fullmatch=True).filter(lambda name: name not in ("step", "epoch"))
NUMBERS = st.floats() | st.integers().map(float)
FORMS = {
    "at": lambda name, value: f"text @{name}={value!r}, more",
    "metric": lambda name, value: f"METRIC {name}={value!r}",
    "json": lambda name, value: json.dumps({name: value}),
    "block": lambda name, value: f"---\n{name}: {value!r}\n",
}


@given(st.sampled_from(sorted(FORMS)), NAMES, NUMBERS, st.sampled_from(["\n", "\r", "\r\n"]))
@CALM
def test_every_metric_written_in_any_form_is_read_back(form: str, name: str, value: float, end: str) -> None:
    output = "before" + end + FORMS[form](name, value).replace("\n", end) + end
    assert readable([(name, value, 0)]) == readable(scan(output))


MARKS = rb"\n|\r|\r\n| |\t|---|\x1b[0m|\x1b[|@|=|:|{|}|METRIC |loss|goal|goal: 1|a: 2|@loss=0.5|METRIC b=2|Epoch 3/80 |step 4 |nan|e5"
PIECES = [*MARKS.decode("unicode_escape").encode().split(b"|"), b"\xc3\xa9", b'{"a": 1}', b'{"s": {"b": 2}, "step": 3}']
OUTPUT = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=40).map(b"".join)


@given(OUTPUT, st.randoms(use_true_random=False), st.sampled_from([10, 40, 65536]), st.sampled_from(["", "goal", "a@b(c)"]))
@settings(CALM, max_examples=400)
def test_however_the_output_is_cut_the_result_is_the_same(output: bytes, chance: random.Random, max_line: int, goal: str) -> None:
    whole, cut = Scanner(goal, max_line=max_line), Scanner(goal, max_line=max_line)
    expected = whole.feed(output) + whole.close()
    found: list[Point] = []
    rest = output
    while rest:
        size = chance.choice([0, 1, 1, 2, 3, 7, 50])
        found += cut.feed(rest[:size])
        rest = rest[size:]
    found += cut.close()
    assert (readable(expected), repr(whole.summary)) == (readable(found), repr(cut.summary))


@given(st.binary(max_size=300) | OUTPUT, st.text(max_size=5).filter(lambda text: text.isprintable() and " " not in text))
@settings(CALM, max_examples=400)
def test_nothing_printed_makes_it_raise_or_report_a_name_outside_the_grammar(output: bytes, goal: str) -> None:
    assert [name for name, _, _ in scan(output, goal) if not is_name(name) and name != goal] == []


@given(st.text(st.characters(blacklist_categories=["C", "Z"]), min_size=1, max_size=12), st.floats(allow_nan=False))
@CALM
def test_a_goal_of_any_printable_name_is_read_in_every_form(goal: str, value: float) -> None:
    output = f"{goal}: {value}\n@{goal}={value}\nMETRIC {goal}={value}\n{json.dumps({goal: value})}\n"
    assert [(goal, value)] * 4 == [(name, number) for name, number in values(output, goal) if name == goal]


# ---- thinning, and the room itself ----


def test_of_a_series_all_points_are_kept_up_to_the_limit_and_half_a_limit_for_each_doubling() -> None:
    thinner = Thinner(limit=100)
    kept = [number for number in range(100 * 2**10) if thinner.keep("loss")]
    assert (kept[:100], kept[100:103], len(kept)) == (list(range(100)), [100, 102, 104], 100 + 10 * 50)


def test_each_name_is_thinned_by_itself() -> None:
    thinner = Thinner(limit=2)
    assert [thinner.keep(name) for name in ("a", "a", "b", "a", "a", "b")] == [True, True, True, True, False, True]


def test_the_room_loads_by_itself_without_the_package_or_site_packages() -> None:
    source = overnight.metrics.__file__
    code = f"import runpy; print(runpy.run_path({source!r})['Scanner']().feed(b'@a=1\\n'))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[('a', 1.0, 0)]\n", "")
