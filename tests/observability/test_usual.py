"""What is usual is learnt, by hour and weekday, and told from what is not."""

from __future__ import annotations

import random
from typing import Any

import pytest

from dataflare.observability.alerts import Alerts, Rule
from dataflare.observability.conditions import parse_condition
from dataflare.observability.usual import History, Range, Seen, usual_range
from dataflare.observability.view import ProcessView, RunView, StepView

HOUR, DAY = 3600.0, 86_400.0
MONDAY = 1_704_067_200.0  # 2024-01-01T00:00:00Z


def view(at: float, rows: int, status: str = "running", **facts: Any) -> RunView:
    began = MONDAY - 7 * DAY
    steps = {"orders": StepView("source", rows_out=rows, **facts)}
    return RunView("w", "r", status, at, began, at - began, ProcessView(1, 0.0), steps=steps)


def rule(when: str) -> Rule:
    return Rule("strange", parse_condition(when))


def test_an_hour_of_a_weekday_is_compared_with_the_same_hour() -> None:
    seen = [Seen(MONDAY + week * 7 * DAY, 1000.0 + week) for week in range(4)]
    found = usual_range(seen, MONDAY + 28 * DAY, "number")
    assert isinstance(found, Range)
    assert 790 < found.low < 810 < 1190 < found.high < 1210
    assert usual_range(seen, MONDAY + 28 * DAY + HOUR, "number") == (
        "0 of 8 values of this hour of the week are known"
    )


def test_one_strange_value_moves_little() -> None:
    values = [1000.0, 1003.0, 10.0, 998.0, 1001.0]
    seen = [Seen(MONDAY + week * 7 * DAY, value) for week, value in enumerate(values)]
    found = usual_range(seen, MONDAY + 35 * DAY, "number")
    assert isinstance(found, Range)
    assert found.low > 790


def hourly(hour: int, random_: random.Random) -> int:
    """Rows of an hour since Monday: few at night, a tenth on Saturday and Sunday."""
    rows = 1000 if 8 <= hour % 24 < 18 else 60
    if hour // 24 % 7 >= 5:
        rows //= 10
    return round(rows * random_.uniform(0.9, 1.1))


@pytest.mark.parametrize("seed", range(3))
def test_a_weekly_course_raises_no_alarm_and_a_quiet_hour_does(seed: int) -> None:
    random_ = random.Random(seed)
    alerts, total, told = Alerts([rule("rows < usual in 1h")]), 0, []
    for hour in range(24 * 7 * 8):
        total += hourly(hour, random_)
        at = MONDAY + (hour + 1) * HOUR + 1
        told += [(hour, event.message) for event in alerts.look(view(at, total))]
    assert told == []
    quiet = 24 * 7 * 8 + 10  # a Monday morning without rows
    for hour in range(24 * 7 * 8, quiet):
        total += hourly(hour, random_)
        assert not alerts.look(view(MONDAY + (hour + 1) * HOUR + 1, total))
    (event,) = alerts.look(view(MONDAY + (quiet + 1) * HOUR + 1, total))
    assert event.status == "firing"
    assert event.message.startswith("rows is 0, and ")
    assert "is usual (rows < usual in 1h)" in event.message
    total += 1000
    (event,) = alerts.look(view(MONDAY + (quiet + 2) * HOUR + 1, total))
    assert event.status == "resolved"


def test_a_run_is_learning_until_enough_were_seen_and_says_so() -> None:
    history = History()
    for number in range(8):
        alerts = Alerts([rule("rows != usual")], history=history)
        at = MONDAY + number * 60
        assert not alerts.look(view(at, 100))
        assert not alerts.end(view(at + 1, 100, "finished"))
        (shown,) = alerts.views()
        assert shown.state == "learning"
        assert (
            shown.message
            == f"{number} of 8 values of this hour of the week are known (rows != usual)"
        )
    alerts = Alerts([rule("rows != usual")], history=history)
    (event,) = alerts.end(view(MONDAY + 600, 7, "finished"))
    assert event.message == "rows is 7, and 70 to 130 is usual (rows != usual)"
    assert alerts.closing() == [f"alert 'strange' fired: {event.message}"]


def test_a_part_of_an_interval_or_of_a_run_is_neither_judged_nor_learnt() -> None:
    history = History()
    alerts = Alerts([rule("rows < usual in 1h")], history=history)
    for at in (MONDAY + 1800, MONDAY + HOUR + 1, MONDAY + 2 * HOUR - 1):
        assert not alerts.look(view(at, 5))
    assert not history.kept()
    resumed = view(MONDAY, 5, "finished")
    resumed.is_resumed = True
    whole = Alerts([rule("rows < usual")], history=history)
    assert not whole.end(resumed)
    assert not whole.end(view(MONDAY, 5, "failed"))
    assert not history.kept()


def test_a_value_of_a_moment_is_compared_with_the_greatest_of_earlier_hours() -> None:
    history = History(
        {"freshness  orders": [Seen(MONDAY + week * 7 * DAY, 30.0) for week in range(5)]}
    )
    alerts = Alerts([rule("freshness > usual")], history=history)
    at = MONDAY + 35 * DAY
    assert not alerts.look(view(at + 40, 5, last_row_at=at + 8))
    (event,) = alerts.look(view(at + 45, 5, last_row_at=at + 8))
    assert (
        event.message
        == "freshness of orders is 37 s, and 24 s to 36 s is usual (freshness > usual)"
    )
    alerts.look(view(at + HOUR + 1, 6, last_row_at=at + HOUR))
    assert history.of("freshness  orders")[-1] == Seen(at, 37.0, True)


@pytest.mark.parametrize("status", ["finished", "stopped", "failed", "interrupted", "unread"])
def test_the_last_hour_of_a_run_is_learnt_however_it_ends(status: str) -> None:
    history = History()
    alerts = Alerts([rule("freshness > usual")], history=history)
    alerts.look(view(MONDAY + 40, 5, last_row_at=MONDAY))
    assert not history.kept()
    alerts.end(view(MONDAY + 60, 6, status, last_row_at=MONDAY + 50))
    assert [each.value for each in history.of("freshness  orders")] == [40.0]


def test_two_rules_share_what_was_seen() -> None:
    history = History()
    for number in range(3):
        alerts = Alerts([rule("rows < usual"), rule("rows > usual")], history=history)
        alerts.end(view(MONDAY + number, 100, "finished"))
    assert [each.value for each in history.of("rows  ")] == [100.0] * 3


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("rows == usual", "is compared with 'usual' by '<', '>' or '!='"),
        ("lag < usual", "is compared with 'usual' by '>'"),
        ("rows < usual in 10s", "with 'usual', 'in' needs 1m or more"),
        ("failed > usual", "stands alone"),
    ],
)
def test_what_cannot_be_usual_is_refused(when: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_condition(when)


def test_of_few_values_the_range_is_wider() -> None:
    widths = []
    for times in (1, 4):
        values = [1000.0, 1100.0, 900.0, 1000.0] * times
        seen = [Seen(MONDAY + week * 7 * DAY, value) for week, value in enumerate(values)]
        found = usual_range(seen, MONDAY + 20 * 7 * DAY, "number")
        assert isinstance(found, Range)
        widths.append(found.high - found.low)
    assert widths[0] > 1.5 * widths[1]


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(1, 0.5, 4), (9, 4.5, 18), (10, 5, 10 + 3 * 10**0.5), (100, 70, 130), (1000, 800, 1200)],
)
@pytest.mark.parametrize("every", [7 * DAY, DAY])
def test_where_there_were_always_some_rows_none_are_unusual(
    count: int, low: float, high: float, every: float
) -> None:
    seen = [Seen(MONDAY + i * every, float(count)) for i in range(20)]
    found = usual_range(seen, MONDAY + 20 * every, "number")
    assert found == Range(pytest.approx(low), pytest.approx(high))
    # What was told to be unusual makes none usual.
    told = [*seen, Seen(MONDAY + 20 * every, 0.0, was_unusual=True)]
    found = usual_range(told, MONDAY + 21 * every, "number")
    assert isinstance(found, Range)
    assert found.low == pytest.approx(low)


def test_of_small_numbers_that_vary_none_may_be_usual() -> None:
    values = [0.0, 3.0, 5.0, 2.0, 4.0, 3.0, 1.0, 3.0]
    seen = [Seen(MONDAY + week * 7 * DAY, value) for week, value in enumerate(values)]
    found = usual_range(seen, MONDAY + 20 * 7 * DAY, "number")
    assert isinstance(found, Range)
    assert found.low == 0


def test_the_oldest_values_of_an_hour_are_given_up() -> None:
    history = History()
    for week in range(30):
        history.add("rows  ", Seen(MONDAY + week * 7 * DAY, float(week)))
        history.add("rows  ", Seen(MONDAY + week * 7 * DAY + HOUR, float(week)))
    values = [each.value for each in history.of("rows  ")]
    assert values == [float(week) for week in range(6, 30) for _ in range(2)]
