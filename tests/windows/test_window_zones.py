"""Windows in time zones around the changes of their clocks, against a plain model by `zoneinfo`."""

from __future__ import annotations

import itertools
import os
import random
import zoneinfo
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from reference import Row
from window_runs import WindowRun

from dataflare.operators.window_clock import changes_of
from dataflare.operators.window_grid import DAY, HOUR, Grid, grid_of

SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNTIL = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * SECOND
"""Tables of time zones differ for later years."""
ODD = [
    "Africa/Monrovia",
    "America/Caracas",
    "America/Havana",
    "America/Montevideo",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Antarctica/Casey",
    "Antarctica/Troll",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "Asia/Tehran",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Pacific/Kwajalein",
    "Pacific/Norfolk",
]
ALL = sorted(zoneinfo.available_timezones() - {"Factory", "localtime", "posixrules"})
SEED = os.environ.get("GITHUB_SHA") or datetime.now(UTC).strftime("%Y-%m-%d")
SOME = random.Random(SEED).sample([z for z in ALL if z not in ODD], 12)
SIZES = [HOUR // 4, HOUR // 2, HOUR, 2 * HOUR, 3 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY]


def clock(time: int, zone: ZoneInfo) -> int:
    """What the clocks show, as microseconds since 1970."""
    shown = (_EPOCH + timedelta(microseconds=time)).astimezone(zone).replace(tzinfo=UTC)
    return (shown - _EPOCH) // timedelta(microseconds=1)


def first_shown(reading: int, zone: ZoneInfo) -> int:
    """The first moment at which the clocks show a reading, or have left it out."""
    low, high = reading - 2 * DAY, reading + 2 * DAY
    for fold in (0, 1):
        naive = (_EPOCH + timedelta(microseconds=reading)).replace(tzinfo=zone, fold=fold)
        time = (naive.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
        if clock(time, zone) == reading:
            return time
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if clock(middle, zone) >= reading else (middle, high)
    return high


def window_by_clock(time: int, zone: ZoneInfo, size: int) -> tuple[int, int]:
    """The last boundary that the clocks have shown by then, and the first that they will show after."""
    near = clock(time, zone) // size * size
    bounds = sorted({first_shown(near + n * size, zone) for n in range(-3, 4)})
    start = max(bound for bound in bounds if bound <= time)
    return start, bounds[bounds.index(start) + 1]


def times_near_changes(zone: str) -> list[int]:
    starts = [time for time in changes_of(zone)[0] if 0 <= time < _UNTIL]
    if len(starts) > 12:
        starts = random.Random(zone).sample(starts, 12)
    around = [n * HOUR // 2 for n in range(-60, 61)] + [-1, 1, 61 * SECOND, -61 * SECOND]
    return sorted({time + each for time in starts or [0] for each in around})


def windows_of(grid: Grid, times: list[int]) -> pl.DataFrame:
    place = grid.pane_of(grid.on_ruler(pl.col("t")))
    frame = pl.DataFrame({"t": times}).with_columns(p=place)
    return frame.with_columns(s=grid.in_utc(pl.col("p")), e=grid.in_utc(pl.col("p") + grid.pane))


@pytest.mark.parametrize("zone", [*ODD, *SOME])
def test_each_time_is_in_its_window_and_windows_follow_each_other(zone: str) -> None:
    times = times_near_changes(zone)
    for size in SIZES:
        grid = grid_of(size, size, 0, zone)
        frame = windows_of(grid, times)
        assert frame["p"].is_sorted()
        assert frame.filter((pl.col("s") > pl.col("t")) | (pl.col("e") <= pl.col("t"))).is_empty()
        panes = pl.DataFrame({"p": range(frame["p"][0], frame["p"][-1], size)}).tail(20_000)
        ends = panes.with_columns(end=pl.col("p") + size).filter(grid.is_there(pl.col("end")))
        bounds = ends.select(s=grid.in_utc(pl.col("p")), e=grid.in_utc(pl.col("end")))
        assert bounds.filter(pl.col("e") <= pl.col("s")).is_empty()
        assert bounds["s"].diff().drop_nulls().gt(0).all()
        assert bounds["e"].head(-1).to_list() == bounds["s"].tail(-1).to_list()
        if not grid.leaves_out:
            assert ends.height == panes.height


@pytest.mark.parametrize("zone", [*ODD, *SOME])
def test_windows_of_hours_and_days_are_those_of_a_calendar(zone: str) -> None:
    clocks, times = ZoneInfo(zone), times_near_changes(zone)
    times = random.Random(zone).sample(times, min(len(times), 150))
    for size in (2 * HOUR, 3 * HOUR, DAY):
        frame = windows_of(grid_of(size, size, 0, zone), times)
        for time, start, end in frame.select("t", "s", "e").iter_rows():
            assert (start, end) == window_by_clock(time, clocks, size), (size, time)


@pytest.mark.parametrize("zone", [*ODD, *SOME])
def test_hours_start_when_the_clocks_show_a_full_hour_or_leave_it_out(zone: str) -> None:
    clocks = ZoneInfo(zone)
    times = times_near_changes(zone)
    frame = windows_of(grid_of(HOUR, HOUR, 0, zone), times)
    for start, end in frame.select("s", "e").unique().iter_rows():
        before, shown = clock(start - 1, clocks), clock(start, clocks)
        assert shown % HOUR == 0 or before // HOUR < shown // HOUR or shown < before
        assert end - start < 2 * HOUR


def results(config: dict[str, Any], times: list[int], *, streams: bool) -> list[dict[str, Any]]:
    rows = [Row("a", time, 1, time, n) for n, time in enumerate(sorted(times))]
    run = WindowRun({"group_by": ["k"], "measures": {"n": "count(*)"}, **config}, streams=streams)
    for each in rows:
        run.rows([each])
        if streams:
            run.watermark(each.time)
    run.end()
    return run.given.results


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("fill", ["none", "0"])
@pytest.mark.parametrize("size", ["1h", "3h", "1d"])
@pytest.mark.parametrize(
    ("zone", "at"),
    [
        ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)),
        ("America/St_Johns", datetime(2006, 10, 29, 2, 31, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),
        ("America/Caracas", datetime(2007, 12, 9, 7, tzinfo=UTC)),
    ],
)
def test_no_window_comes_twice_or_ends_before_it_starts(
    zone: str, at: datetime, size: str, fill: str, streams: bool
) -> None:
    change = int(at.timestamp()) * SECOND
    times = [change + n * 47 * 60 * SECOND for n in range(-40, 40)]
    config = {"kind": "tumbling", "size": size, "timezone": zone, "fill": fill}
    rows = results(config, times, streams=streams)
    assert sum(row["n"] for row in rows) == len(times)
    rows.sort(key=lambda row: row["window_start"])
    for one, following in itertools.pairwise(rows):
        assert one["window_start"] < one["window_end"] <= following["window_start"]
    assert rows[-1]["window_start"] < rows[-1]["window_end"]


def test_windows_that_slide_over_a_day_that_is_left_out_have_starts_of_their_own() -> None:
    change = int(datetime(2011, 12, 30, 10, tzinfo=UTC).timestamp()) * SECOND
    times = [change + n * HOUR for n in range(-30, 30)]
    config = {"kind": "sliding", "size": "6h", "slide": "3h", "timezone": "Pacific/Apia"}
    for streams in (True, False):
        rows = results(config, times, streams=streams)
        starts = [row["window_start"] for row in rows]
        assert len(starts) == len(set(starts))
        for row in rows:
            low, high = (
                int(row[name].timestamp()) * SECOND for name in ("window_start", "window_end")
            )
            assert row["n"] == sum(low <= time < high for time in times)


def test_half_hours_of_lord_howe_are_respected_in_both_halves_of_the_year() -> None:
    config = {"kind": "tumbling", "size": "1h", "timezone": "Australia/Lord_Howe"}
    july = [int(datetime(2026, 7, 1, 0, m, tzinfo=UTC).timestamp()) * SECOND for m in (5, 35)]
    january = [int(datetime(2026, 1, 1, 0, m, tzinfo=UTC).timestamp()) * SECOND for m in (5, 35)]
    for times, counts in ((july, [1, 1]), (january, [2])):
        assert [row["n"] for row in results(config, times, streams=False)] == counts
