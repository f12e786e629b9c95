"""Spec, status and metric points as the texts of a job folder."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from overnight import jobs
from overnight.models import JobSpec, JobState, JobStatus, MetricPoint, MetricSummary

TEXTS = st.text(max_size=20)
NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


def same(one: object, other: object) -> bool:
    return repr(one) == repr(other)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS).map(tuple), st.dictionaries(TEXTS, TEXTS), st.floats(min_value=0, allow_nan=False))
def test_a_spec_is_the_same_after_a_journey_through_its_text(argv: tuple[str, ...], env: dict[str, str], limit: float) -> None:
    spec = JobSpec(id="x", argv=argv, cwd="/", env=env, time_limit=limit if math.isfinite(limit) else 0.0, gpus=("0",))
    assert same(jobs.spec_from_json(jobs.spec_to_json(spec)), spec)


@settings(max_examples=60, deadline=None)
@given(TEXTS, NUMBERS, NUMBERS, st.sampled_from(JobState))
def test_a_status_is_the_same_after_a_journey_through_its_text(cause: str, last: float, low: float, state: JobState) -> None:
    status = JobStatus(state, cause, exit_code=3, metrics={cause: MetricSummary(last, low, math.inf, 2)})
    assert same(jobs.status_from_json(jobs.status_to_json(status)), status)


@settings(max_examples=60, deadline=None)
@given(TEXTS, NUMBERS, NUMBERS)
def test_a_point_is_the_same_after_a_journey_through_its_text(name: str, value: float, step: float) -> None:
    assert same(jobs.point_from_json(jobs.point_to_json(MetricPoint(name, value, step, 1.5))), MetricPoint(name, value, step, 1.5))


@settings(max_examples=60, deadline=None)
@given(
    st.text()
    | st.sampled_from(
        ["[]", "{}", "3", '{"argv": 3}', '{"state": 3}', '{"state": "RUNNING", "metrics": {"a": 1}}', "[1, 2]", "[[], 2, 3, 4]"]
    )
)
def test_a_text_that_is_no_record_is_a_value_error_and_nothing_else(text: str) -> None:
    for read in (jobs.spec_from_json, jobs.status_from_json, jobs.point_from_json):
        try:
            read(text)
        except ValueError:
            continue
