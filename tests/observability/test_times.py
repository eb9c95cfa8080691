"""Where time goes, by a clock of the test's own, and what histograms say."""

from __future__ import annotations

import random
from statistics import quantiles

import pytest

from dataflare.observability.times import (
    LATENCY_BOUNDS_S,
    Doing,
    Histogram,
    JobTimes,
    Spent,
    TaskClock,
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_second_is_counted_once() -> None:
    now, rng = Clock(), random.Random(7)
    clock, expected, doing = TaskClock(now), dict.fromkeys(Doing, 0.0), None
    for _ in range(1000):
        seconds = rng.random()
        now.now += seconds
        if doing is not None:
            expected[doing] += seconds
        if rng.random() < 0.3:
            spent = clock.spent()  # a look changes nothing
        doing = rng.choice([*Doing, None])
        clock.enter(doing)
    spent = clock.spent()
    assert [spent.busy_s, spent.waiting_s, spent.blocked_s] == pytest.approx(
        [expected[each] for each in Doing]
    )
    assert spent.total_s == pytest.approx(sum(expected.values()))


def test_what_was_counted_as_waiting_may_turn_out_to_be_work() -> None:
    now = Clock()
    clock = TaskClock(now)
    for seconds, doing in ((0, Doing.WAITING), (2, Doing.BUSY)):
        now.now += seconds
        clock.enter(doing)
    now.now += 1
    clock.spent()
    clock.last_was(Doing.BUSY)
    assert clock.spent() == Spent(busy_s=3)


def test_times_of_an_attempt_that_failed_are_kept_and_end_with_it() -> None:
    times = JobTimes()
    first = times.of_task("s")
    first.clock.enter(Doing.BUSY)
    times.end_attempt()
    spent = times.stages()["s"].spent
    assert (times.stages()["s"].alive, spent.busy_s > 0) == (0, True)
    assert times.stages()["s"].spent == spent
    times.of_task("s").clock.enter(Doing.WAITING)
    after = times.stages()["s"]
    assert (after.alive, after.spent.busy_s, after.spent.waiting_s > 0) == (1, spent.busy_s, True)


def test_a_quantile_is_in_the_bucket_of_the_true_one() -> None:
    rng, histogram = random.Random(3), Histogram()
    values = [rng.lognormvariate(-3, 2) for _ in range(5000)]
    for value in values:
        histogram.record(value)
    assert (histogram.count, histogram.sum) == (5000, pytest.approx(sum(values)))
    cuts = quantiles(values, n=100)
    for share in (0.01, 0.5, 0.9, 0.99):
        true, told = cuts[int(share * 100) - 1], histogram.quantile(share)
        upper = next(bound for bound in LATENCY_BOUNDS_S if bound >= true)
        lower = max((bound for bound in LATENCY_BOUNDS_S if bound < true), default=0.0)
        assert told is not None
        assert lower * 0.99 <= told <= upper * 1.01


def test_the_value_at_a_bound_is_in_its_bucket() -> None:
    histogram = Histogram()
    histogram.record(0.001, 3)
    histogram.record(1e9)
    assert (histogram.counts[0], histogram.counts[-1]) == (3, 1)
    assert histogram.quantile(1.0) == LATENCY_BOUNDS_S[-1]
    assert Histogram().quantile(0.5) is None


def test_a_stage_lives_as_long_as_the_longest_of_its_tasks_in_each_attempt() -> None:
    times = JobTimes()
    for lived in ((3.0, 1.0), (2.0,)):
        for seconds in lived:
            clock = times.of_task("read").clock
            clock._seconds = [seconds, 0.0, 0.0]
        times.end_attempt()
    stage = times.stages()["read"]
    assert (stage.lived_s, stage.spent.busy_s) == (5.0, 6.0)
