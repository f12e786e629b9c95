"""A goal in a sentence: what is understood of it, however it is put."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.goals import Goal, completed, read


def said(sentence: str, *known: str) -> tuple[str, float | None, float | None, str, str]:
    goal = read(sentence, known)
    return goal.metric, goal.now, goal.target, goal.unit, goal.direction


@pytest.mark.parametrize(
    ("sentence", "wanted"),
    [
        ("improve 3D pose accuracy, currently MPJPE 48 mm, target < 25 mm", ("MPJPE", 48, 25, "mm", "minimize")),
        ("improve 3D pose estimation accuracy, currently MPJPE 48mm, target <25mm", ("MPJPE", 48, 25, "mm", "minimize")),
        ("reduce val_bpb from 1.02 to below 0.98", ("val_bpb", 1.02, 0.98, "", "minimize")),
        ("get accuracy over 95%", ("accuracy", None, 95, "%", "maximize")),
        ("improve MPJPE below 18mm", ("MPJPE", None, 18, "mm", "minimize")),
        ("loss 0.5 now, want 0.3 or less", ("loss", 0.5, 0.3, "", "minimize")),
        ("Raise mAP@50 (now 0.61) to at least 0.8", ("mAP@50", 0.61, 0.8, "", "maximize")),
        ("perplexity 24.1 → 20", ("perplexity", 24.1, 20, "", "minimize")),
        ("cut latency from 120 ms to 80 ms", ("latency", 120, 80, "ms", "minimize")),
        ("we are at 91.2 % top-1 accuracy; goal: 93 %", ("accuracy", 91.2, 93, "%", "maximize")),
        ("reach F1 of 0.9, baseline is 0.82", ("F1", 0.82, 0.9, "", "maximize")),
        ("accuracy of ResNet50 on CIFAR-10 above 95", ("accuracy", None, 95, "", "maximize")),
        ("the error must stay under 1,000", ("error", None, 1000, "", "minimize")),
        ("MPJPE from 4.8 cm to 25 mm", ("MPJPE", None, 25, "mm", "minimize")),
        ("minimize `eval/loss`", ("eval/loss", None, None, "", "minimize")),
        ("increase throughput by 20%", ("throughput", None, None, "", "maximize")),
        ("make it better", ("", None, None, "", "")),
        ("", ("", None, None, "", "")),
    ],
)
def test_a_sentence_says_metric_value_target_unit_and_direction(sentence: str, wanted: tuple[object, ...]) -> None:
    assert said(sentence) == wanted


def test_a_name_is_completed_to_the_one_that_the_code_prints() -> None:
    assert [completed(name, ("loss", "mpjpe", "val_accuracy")) for name in ("MPJPE", "accuracy", "f1", "")] == [
        "mpjpe",
        "val_accuracy",
        "f1",
        "",
    ]


def test_a_goal_is_told_in_words() -> None:
    assert read("currently MPJPE 48 mm, target < 25 mm").told() == "MPJPE, now 48 mm, target 25 mm, lower is better"


@settings(deadline=None, database=None)
@given(
    st.sampled_from(["loss", "val_bpb", "MPJPE", "accuracy", "f1_score", "auc"]),
    st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 4)),
    st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 4)),
    st.sampled_from(
        [
            "{m}: currently {a}, target {b}",
            "bring {m} from {a} to {b}",
            "{m} {a} -> {b}",
            "{m} is {a} now; goal {b}",
            "currently {m} {a}, we want {b}",
        ]
    ),
)
def test_whatever_the_numbers_both_are_found_and_the_way_between_them(metric: str, now: float, target: float, form: str) -> None:
    goal = read(form.format(m=metric, a=f"{now:f}", b=f"{target:f}"))
    way = "" if now == target else "minimize" if target < now else "maximize"
    assert (goal.metric, goal.now, goal.target) == (metric, now, target)
    assert way in ("", goal.direction)


@settings(deadline=None, database=None)
@given(
    st.text(max_size=400)
    | st.lists(st.sampled_from(["48", "mm", "%", "<", "target", "from", "to", "loss", "by", "1e999", "3D", "\0", "—", "`", "-", ","])).map(
        " ".join
    )
)
def test_any_text_gives_a_goal_with_finite_numbers(text: str) -> None:
    goal = read(text, ("loss",))
    assert all(value is None or math.isfinite(value) for value in (goal.now, goal.target))
    assert isinstance(goal, Goal)
    assert goal.direction in ("", "minimize", "maximize")
