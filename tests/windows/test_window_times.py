"""Where windows begin and end, against Python's calendar and DuckDB."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import polars as pl
import pytest
from reference import MEASURES, Row
from window_runs import WindowRun, frame_of

from dataflare.operators.window_grid import DAY, HOUR, grid_of

SECOND = 1_000_000


def rows_at(times: list[int], seed: int = 0) -> list[Row]:
    chance = random.Random(seed)
    keys, values = ["a", "b", None], [None, *range(-5, 6)]
    return [Row(chance.choice(keys), t, chance.choice(values), 0, n) for n, t in enumerate(times)]


def micros(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * SECOND  # type: ignore[arg-type, misc]


def in_batch_mode(config: dict[str, Any], rows: list[Row]) -> list[dict[str, Any]]:
    run = WindowRun(config, streams=False)
    for start in range(0, len(rows), 37):
        run.rows(rows[start : start + 37])
    run.end()
    return run.given.results


@pytest.mark.parametrize(("size", "offset"), [("10s", 0), ("1h", "5m"), ("1d", "6h"), ("7d", 0)])
def test_tumbling_windows_of_a_bounded_input_are_those_of_duckdb(size: str, offset: Any) -> None:
    chance = random.Random(size)
    times = [chance.randrange(-2 * DAY, 40 * DAY) for _ in range(500)]
    rows = rows_at(times)
    config = {
        "kind": "tumbling",
        "size": size,
        "offset": offset,
        "group_by": ["k"],
        "measures": MEASURES,
    }
    results = pl.DataFrame(in_batch_mode(config, rows), infer_schema_length=None)
    rows_table = frame_of(rows, streams=False)
    seconds = {"10s": 10, "1h": 3600, "1d": 86400, "7d": 7 * 86400}[size]
    shift = {0: 0, "5m": 300, "6h": 6 * 3600}[offset]
    database = duckdb.connect()
    database.register("rows_table", rows_table.to_arrow())
    expected = database.sql(
        f"""select k, (floor((__dataflare_time / 1e6 - {shift}) / {seconds}) * {seconds} + {shift})::bigint s,
        count(*) n, sum(v)::bigint total, min(v) low, max(v) high, avg(v) mean,
        arg_min_null(v, __dataflare_time) as "first", arg_max_null(v, __dataflare_time) as "last" from rows_table group by all"""
    ).pl()
    actual = results.select("k", pl.col("window_start").dt.epoch("s").alias("s"), *MEASURES)
    order = ["s", "k"]
    assert actual.sort(order).rows() == expected.sort(order).rows()
    lengths = (results["window_end"] - results["window_start"]).unique().to_list()
    assert lengths == [timedelta(seconds=seconds)]


@pytest.mark.parametrize(
    "zone",
    [
        "Europe/Berlin",
        "America/New_York",
        "Asia/Kolkata",
        "America/Sao_Paulo",
        "Australia/Lord_Howe",
    ],
)
@pytest.mark.parametrize("hour", [0, 6])
def test_days_are_those_of_the_calendar(zone: str, hour: int) -> None:
    chance = random.Random(hour)
    times = [micros(2018, 1, 1) + chance.randrange(0, 366 * DAY) for _ in range(2000)]
    config = {
        "kind": "tumbling",
        "size": "1d",
        "timezone": zone,
        "offset": f"{hour}h",
        "group_by": [],
        "measures": {"n": "count(*)"},
    }
    results = in_batch_mode(config, rows_at(times))
    expected = Counter(
        (
            datetime.fromtimestamp(t / SECOND, ZoneInfo(zone)).replace(tzinfo=None)
            - timedelta(hours=hour)
        ).date()
        for t in times
    )
    assert (
        Counter(
            {
                (r["window_start"].astimezone(ZoneInfo(zone)) - timedelta(hours=hour)).date(): r[
                    "n"
                ]
                for r in results
            }
        )
        == expected
    )
    for one, following in itertools.pairwise(results):
        assert one["window_end"] <= following["window_start"]
    for row in results:
        assert row["window_end"] - row["window_start"] in [
            timedelta(hours=h) for h in (23, 23.5, 24, 24.5, 25)
        ]


@pytest.mark.parametrize(
    ("day", "hours"), [((2026, 3, 29), 23), ((2026, 6, 1), 24), ((2026, 10, 25), 25)]
)
def test_a_day_in_berlin_has_23_24_or_25_hours(day: tuple[int, int, int], hours: int) -> None:
    config = {
        "kind": "tumbling",
        "size": "1d",
        "timezone": "Europe/Berlin",
        "measures": {"n": "count(*)"},
    }
    (row,) = in_batch_mode(config, rows_at([micros(*day, 12)]))
    assert row["window_start"].astimezone(ZoneInfo("Europe/Berlin")).replace(
        tzinfo=None
    ) == datetime(*day)
    assert row["window_end"] - row["window_start"] == timedelta(hours=hours)


def test_the_hour_that_comes_twice_has_two_windows() -> None:
    times = [micros(2026, 10, 25, hour, 30) for hour in (0, 1)]
    config = {
        "kind": "tumbling",
        "size": "1h",
        "timezone": "Europe/Berlin",
        "measures": {"n": "count(*)"},
    }
    results = in_batch_mode(config, rows_at(times))
    assert [row["n"] for row in results] == [1, 1]


def test_half_hours_of_a_zone_are_respected() -> None:
    config = {
        "kind": "tumbling",
        "size": "1h",
        "timezone": "Asia/Kolkata",
        "measures": {"n": "count(*)"},
    }
    (row,) = in_batch_mode(config, rows_at([micros(2026, 1, 1, 10, 20)]))
    assert row["window_start"] == datetime(2026, 1, 1, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/Havana", "Pacific/Apia", "America/Sao_Paulo"]
)
@pytest.mark.parametrize("hours", [2, 6, 24, 48])
def test_boundaries_in_a_zone_never_go_back(zone: str, hours: int) -> None:
    grid = grid_of(hours * HOUR, hours * HOUR, 0, zone)
    times = pl.DataFrame(
        {"t": pl.int_range(micros(2011, 1, 1), micros(2019, 1, 1), HOUR // 2, eager=True)}
    )
    pane = grid.pane_of(grid.on_ruler(pl.col("t")))
    frame = times.with_columns(p=pane).with_columns(
        s=grid.in_utc(pl.col("p")), e=grid.in_utc(grid.last_end(pl.col("p")))
    )
    assert frame["s"].null_count() == frame["e"].null_count() == 0
    assert frame["p"].is_sorted()
    assert frame["s"].is_sorted()
    assert frame.filter((pl.col("s") > pl.col("t")) | (pl.col("e") <= pl.col("t"))).height == 0


@pytest.mark.parametrize("streams", [True, False])
def test_a_gap_of_a_century_costs_nothing(streams: bool) -> None:
    config = {"kind": "sliding", "size": "10s", "slide": "3s", "measures": {"n": "count(*)"}}
    run = WindowRun(config, streams=streams)
    times = [micros(1900, 1, 1), micros(1900, 1, 3), micros(2026, 1, 1), micros(2026, 1, 1, 5)]
    rows = [Row("a", time, 1, time, n) for n, time in enumerate(times)]
    run.rows(rows)
    if streams:
        run.watermark(times[-1])
    run.end()
    assert sum(row["n"] for row in run.given.results) == len(run.given.results)
    assert len(run.given.results) in range(12, 17)
