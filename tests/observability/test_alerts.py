"""Alerts over time, with a clock of the test."""

from __future__ import annotations

from typing import Any

import pytest

from dataflare.observability.alerts import Alerts, Fired, Rule
from dataflare.observability.conditions import parse_condition
from dataflare.observability.measures import MEASURES
from dataflare.observability.times import Histogram, RuleCount, Spent
from dataflare.observability.view import (
    CheckpointView,
    ErrorView,
    ProcessView,
    RunView,
    StageView,
    StepView,
)

START = 1_700_000_000.0


def view(at_s: float, status: str = "running", **steps: Any) -> RunView:
    """steps: what is known of them."""
    return RunView(
        "w", "r", status, START + at_s, START, at_s, ProcessView(1, 0.0, 5 << 30),
        steps={name: StepView(**{"kind": "source", **facts}) for name, facts in steps.items()},
    )  # fmt: skip


def late(at_s: float, lag_s: float, status: str = "running") -> RunView:
    return view(at_s, status, orders={"watermark_us": int((START + at_s - lag_s) * 1e6)})


def rule(when: str, **more: Any) -> Rule:
    condition = parse_condition(when)
    return Rule("behind", condition, more.pop("for_s", condition.for_s or 0.0), **more)


def looked(alerts: Alerts, *views: RunView) -> list[tuple[float, str]]:
    return [(run.elapsed_s, event.status) for run in views for event in alerts.look(run)]


def test_a_rule_is_pending_then_fires_once_and_is_resolved() -> None:
    alerts = Alerts([rule("lag > 5m for 2m")])
    lags = [(0, 10), (60, 400), (119, 460), (179, 520), (180, 521), (240, 580), (300, 20), (310, 9)]
    states, told = [], []
    for at_s, lag_s in lags:
        told += looked(alerts, late(at_s, lag_s))
        states.append([each.state for each in alerts.views()])
    assert told == [(180, "firing"), (300, "resolved")]
    assert states == [[], ["pending"], ["pending"], ["pending"], ["firing"], ["firing"], [], []]
    assert alerts.closing() == [
        "alert 'behind' fired: lag of orders is 9 min 40 s (lag > 5m for 2m)"
    ]


def test_a_condition_that_does_not_hold_long_enough_never_fires() -> None:
    alerts = Alerts([rule("lag > 5m", for_s=120)])
    assert not looked(alerts, *(late(at, 400 if at % 100 else 0) for at in range(0, 1000, 10)))


def test_what_comes_and_goes_is_told_a_few_times_and_then_resolved_late() -> None:
    alerts = Alerts([rule("lag > 5m")])
    told = looked(alerts, *(late(at, 400 if at // 10 % 2 else 0) for at in range(1000)))
    assert [status for _, status in told] == ["firing", "resolved"] * 2 + ["firing"]
    assert looked(alerts, late(1000, 0), late(1299, 0), late(1300, 0)) == [(1300, "resolved")]


def test_a_rule_says_itself_how_long_it_stays() -> None:
    alerts = Alerts([rule("lag > 5m", keep_s=30)])
    views = [late(0, 400), late(1, 0), late(20, 400), late(21, 0), late(50, 0), late(51, 0)]
    assert looked(alerts, *views) == [(0, "firing"), (51, "resolved")]


def test_a_run_whose_lag_is_not_known_says_nothing() -> None:
    alerts = Alerts([rule("lag < 5m for 10s")])
    unknown = [view(at, orders={}) for at in range(60)]
    assert not looked(alerts, late(0, 0), *unknown, late(61, 0))
    assert looked(alerts, late(71, 0)) == [(71, "firing")]
    assert not looked(alerts, *[view(at, orders={}) for at in range(80, 90)]), "it stays"


def test_counts_are_of_all_steps_and_of_one() -> None:
    def run(at_s: float, a: int, b: int) -> RunView:
        return view(at_s, a={"errors": a}, b={"errors": b, "kind": "destination"})

    both, one = Alerts([rule("errors > 100")]), Alerts([rule("errors > 100", step="b")])
    assert looked(both, run(0, 50, 50), run(1, 60, 50)) == [(1, "firing")]
    assert looked(one, run(0, 500, 100), run(1, 500, 101)) == [(1, "firing")]


def test_the_rows_of_streams_are_not_counted_twice() -> None:
    alerts = Alerts([rule("rows > 100")])
    shop = {"shop": {"rows_out": 80}, "shop.a": {"rows_out": 50}, "shop.b": {"rows_out": 30}}
    assert not looked(alerts, view(1, **shop, out={"kind": "destination", "rows_in": 80}))


def test_a_growth_is_over_a_time() -> None:
    def run(at_s: float, errors: int) -> RunView:
        return view(at_s, a={"errors": errors})

    alerts = Alerts([rule("errors > 10 in 1m")])
    slow = [run(at, at // 6) for at in range(600)]  # ten a minute
    assert not looked(alerts, *slow)
    assert looked(alerts, run(600, 150), run(659, 150), run(661, 150)) == [
        (600, "firing"),
        (661, "resolved"),
    ]


def test_few_rows_are_only_judged_when_there_was_time_for_more() -> None:
    def run(at_s: float, rows: int) -> RunView:
        return view(at_s, a={"rows_out": rows})

    alerts = Alerts([rule("rows < 1 in 10m")])
    told = looked(alerts, *(run(at, min(at, 100)) for at in range(0, 1200, 10)))
    assert told == [(700, "firing")]
    assert looked(Alerts([rule("rows_per_s < 2")]), *(run(at, at) for at in range(100))) == [(60, "firing")]  # fmt: skip


def test_shares_and_latencies_are_of_the_last_time() -> None:
    def run(at_s: float, busy: float, waiting: float) -> RunView:
        made = view(at_s)
        made.stages = [StageView("a", "source", ("a", "b"), spent=Spent(busy, waiting, 0))]
        return made

    for step in (None, "a", "b"):
        alerts = Alerts([rule("busy > 90%", step=step)])
        told = looked(alerts, *(run(at, 0, at) for at in range(300)))
        told += looked(alerts, *(run(300 + at, at, 300) for at in range(100)))
        assert told == [(355, "firing")], step

    def slow(at_s: float, rows: int) -> RunView:
        histogram = Histogram()
        histogram.record(0.002, 10**6)
        histogram.record(20.0, rows)
        return view(at_s, a={"kind": "destination", "latency": histogram})

    alerts = Alerts([rule("latency > 5s")])
    assert looked(alerts, *(slow(at, max(0, at - 100)) for at in range(200))) == [(101, "firing")]


def test_what_fires_at_the_end_of_a_run_is_known_to_the_next() -> None:
    first = Alerts([rule("lag > 5m"), Rule("errors", parse_condition("errors > 10"))])
    assert looked(first, late(0, 400)) == [(0, "firing")]
    assert first.end(late(10, 500, "stopped")) == []
    (kept,) = first.firing()
    kept.told.append("ops")
    second = Alerts(first.rules, [kept])
    assert not looked(second, late(5, 10), late(64, 10)), "a run that has just begun"
    assert looked(second, late(65, 10)) == [(65, "resolved")]
    again = Alerts(first.rules, [kept])
    assert not looked(again, late(0, 600)), "it is not told again"
    assert looked(again, late(1, 10)) == [(1, "resolved")]
    # A run that finishes is not behind any more; what it counted stays.
    third = Alerts(first.rules, [kept, Fired("errors", "warning", "", "", 20, START)])
    assert [event.rule.name for event in third.end(late(1, 900, "finished"))] == [
        "behind",
        "errors",
    ]
    counted = Alerts(first.rules[1:])
    bad = view(1, "finished", a={"errors": 20})
    assert [event.status for event in counted.end(bad)] == ["firing"]
    assert [fired.name for fired in counted.firing()] == ["errors"]


def test_an_alert_of_a_run_that_failed() -> None:
    alerts = Alerts([rule("failed")])
    assert not looked(alerts, view(0), view(1))
    failed = view(2, "failed")
    failed.failure = ErrorView("E0501", "orders", "E0501 in step 'orders': a.csv line 3: no number")
    (event,) = alerts.end(failed)
    assert event.message == "the run failed: E0501 in step 'orders': a.csv line 3: no number"
    assert event.step == "orders"


def test_a_breaker_is_told_in_words() -> None:
    alerts = Alerts([rule("breaker_open for 1s")])
    looks = [view(at, db={"is_held_back": True}) for at in (0, 1)]
    (event,) = [event for run in looks for event in alerts.look(run)]
    assert event.message == "the circuit breaker of db holds calls back (breaker_open for 1s)"


@pytest.mark.parametrize("when", ["rows < 1000", "rows <= 999", "rows == 0", "rows != 1000"])
def test_too_few_rows_are_judged_when_the_run_has_finished(when: str) -> None:
    def run(at_s: float, rows: int, status: str = "running") -> RunView:
        return view(at_s, status, a={"rows_out": rows})

    good, bad = run(9, 1000, "finished"), run(9, 0, "finished")
    alerts = Alerts([rule(when)])
    assert not looked(alerts, *(run(at, at * 100) for at in range(10)))
    assert not alerts.end(good)
    short = Alerts([rule(when)])
    assert not looked(short, run(1, 0))
    assert [event.status for event in short.end(bad)] == ["firing"]
    assert not Alerts([rule(when)]).end(run(9, 0, "failed")), "its rows are not all"
    # It fires until a run that has finished has enough.
    (kept,) = short.firing()
    next_run = Alerts(short.rules, [kept])
    assert not looked(next_run, *(run(at, 0) for at in range(0, 300, 10)))
    assert not next_run.end(bad)
    assert [event.status for event in Alerts(short.rules, [kept]).end(good)] == ["resolved"]


def test_a_run_that_was_too_short_is_judged_at_its_end() -> None:
    alerts = Alerts([rule("elapsed < 10s")])
    assert not looked(alerts, view(0), view(5))
    assert [event.status for event in alerts.end(view(6, "finished"))] == ["firing"]
    assert len(alerts.firing()) == 1


def test_a_run_without_any_checkpoint_has_an_old_one() -> None:
    alerts = Alerts([rule("checkpoint_age > 10m")])
    assert looked(alerts, view(600), view(601)) == [(601, "firing")]
    done = view(700)
    done.checkpoints = CheckpointView(1, ended_at=START + 699)
    assert looked(alerts, done) == [(700, "resolved")]


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_can_be_compared_and_shown(name: str) -> None:
    measure = MEASURES[name]
    value = {"duration": "1ms", "size": "1KiB", "share": "1%"}.get(measure.unit, "0.05")  # fmt: skip
    facts: dict[str, Any] = {
        "rows_out": 9, "errors": 9, "dead_letters": 9, "late": 9, "retries": 9, "held_back": 9,
        "is_held_back": True, "degraded": 9, "is_degraded": "away", "kept_bytes": 1 << 40, "shares": {"r": RuleCount(10, 5)},
    }  # fmt: skip
    histogram = Histogram()
    histogram.record(20)
    stage = StageView(
        "a", "source", ("a",), spent=Spent(9, 9, 9), queued_rows=9, state_bytes=1 << 20
    )
    runs = [late(0, 0), late(100, 90, "failed")]
    runs[0].steps = {"a": StepView("source")}
    runs[1].steps = {"a": StepView("source", **facts, watermark_us=1, latency=histogram)}
    runs[1].stages, runs[1].restarts = [stage], 9
    runs[0].stages = [StageView("a", "source", ("a",))]
    runs[1].process.open_files = 9
    runs[1].checkpoints = CheckpointView(failed=9, last_s=9.0)
    is_flag = measure.unit == "flag"
    alerts = Alerts([rule(name if is_flag else f"{name} >= {value}{' in 1m' * measure.whole}")])
    (event,) = [event for run in runs for event in alerts.look(run)]
    begin = {
        "failed": "the run failed",
        "breaker_open": "the circuit breaker of a",
        "degraded": "what comes out of a is degraded",
    }
    assert event.message.startswith(begin.get(name, name.replace("_", " ")))


@pytest.mark.parametrize(("apart_s", "told"), [(200, 5), (400, 6)])
def test_a_rule_that_fires_now_and_then_is_resolved_at_once_each_time(
    apart_s: int, told: int
) -> None:
    alerts = Alerts([rule("lag > 5m")])
    views = []
    for number in range(3):
        views += [late(number * apart_s, 400), late(number * apart_s + 1, 0)]
    assert len(looked(alerts, *views)) == told, "the third within ten minutes stays"


def test_a_step_that_has_ended_is_as_fresh_as_it_will_be() -> None:
    alerts = Alerts([rule("freshness > 1m")])
    assert not looked(alerts, view(100, a={"last_row_at": START, "is_done": True}))
    assert looked(alerts, view(100, a={"last_row_at": START})) == [(100, "firing")]


@pytest.mark.parametrize("when", ["busy > 150%", "busy > 1.5"])
def test_a_share_above_one_is_refused(when: str) -> None:
    with pytest.raises(ValueError, match="'busy' is a share: at most 100% or 1"):
        parse_condition(when)
