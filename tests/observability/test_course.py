"""The course of a run stays small, and no row is missing from it."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.observability.course import (
    SAMPLES_MAX,
    STEPS_MAX,
    CheckpointSample,
    Course,
    Sample,
    StepSample,
    sample_of,
)
from dataflare.observability.view import StepView


def filled(seconds: float, tick_s: float = 0.25, steps: int = 2) -> Course:
    course, at_s = Course(), 0.0
    while at_s <= seconds:
        if course.is_due(at_s):
            names = (f"s{i}" for i in range(steps))
            rows = {name: StepSample(rows_out=int(at_s * 1000)) for name in names}
            course.add(Sample(at_s, rows))
        at_s += tick_s
    return course


@given(st.floats(0, 20_000))
def test_it_is_bounded_and_covers_the_whole_run(seconds: float):
    course = filled(seconds)
    times = [sample.at_s for sample in course.samples]
    assert len(times) <= SAMPLES_MAX
    assert times == sorted(set(times))
    assert times[0] == 0.0
    assert seconds - times[-1] <= course.every_s + 0.25
    gaps = [b - a for a, b in pairwise(times)]
    assert all(gap <= 2 * course.every_s for gap in gaps)


@pytest.mark.parametrize("hours", [1, 24, 24 * 30])
def test_a_month_takes_no_more_room_than_an_hour(hours: int):
    course = Course()
    for minute in range(hours * 60):
        at_s = minute * 60.0
        course.add(Sample(at_s, {f"step_{i}": StepSample(minute * 10**6) for i in range(10)}))
        course.add_checkpoint(CheckpointSample(minute + 1, at_s, 0.1, 1000))
    assert len(course.samples) <= SAMPLES_MAX
    assert len(course.checkpoints) <= SAMPLES_MAX
    assert len(msgspec.json.encode(course)) < 150_000


def test_counters_are_exact_where_a_sample_is_given_up():
    course = filled(3000)
    assert course.every_s > 1
    for sample in course.samples:
        assert sample.steps["s0"].rows_out == int(sample.at_s * 1000)


def test_the_greatest_lag_and_memory_and_the_slowest_checkpoint_stay():
    course = Course()
    for tick in range(SAMPLES_MAX * 4):
        lag_s = 99.0 if tick == 123 else 1.0
        course.add(Sample(float(tick), {"s": StepSample(lag_s=lag_s)}, rss_bytes=tick % 7))
        course.add_checkpoint(CheckpointSample(tick, float(tick), 50.0 if tick == 77 else 0.1, 1))
    assert max(sample.steps["s"].lag_s or 0 for sample in course.samples) == 99.0
    assert max(sample.rss_bytes or 0 for sample in course.samples) == 6
    assert max(each.seconds for each in course.checkpoints) == 50.0
    assert course.checkpoints[-1].epoch == SAMPLES_MAX * 4 - 1


def test_a_run_of_very_many_steps_has_its_ends_first():
    steps = {f"t{i}": StepView("transformation") for i in range(STEPS_MAX * 2)}
    steps |= {f"d{i}": StepView("destination") for i in range(20)}
    sample = sample_of(1.0, 1.0, steps, {}, None)
    assert len(sample.steps) == STEPS_MAX
    assert {f"d{i}" for i in range(20)} <= set(sample.steps)


def test_it_comes_back_as_it_was_written():
    course = filled(100)
    assert msgspec.json.decode(msgspec.json.encode(course), type=Course) == course
