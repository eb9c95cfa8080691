"""The event time of a reader: watermarks in rows do not depend on batches, and drift is bounded."""

from __future__ import annotations

from itertools import pairwise

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from dataflare.engine.clocks import Drift, SplitClock
from dataflare.engine.segments import Outcome
from dataflare.expr import check
from dataflare.model.event_time import TIME_COLUMN, WATERMARK_COLUMN
from dataflare.model.types import Schema
from dataflare.operators.base import ERROR_COLUMN, Lowering
from dataflare.operators.stamp import AHEAD_OF_CLOCK, WITHOUT_TIME, Stamp

LATE_US = 5


def stamp(**changes: object) -> Stamp:
    facts: dict[str, object] = {
        "step": "s",
        "column": "at",
        "time": check("at", Schema.of({"at": "timestamp[us, UTC]"})),
        "out_of_orderness_us": LATE_US,
        "max_future_us": None,
        "idle_timeout_s": None,
        "max_drift_us": None,
        "streaming": True,
    }
    return Stamp(**{**facts, **changes})  # type: ignore[arg-type]


def stamped(times: list[int | None], which: Stamp) -> tuple[pl.DataFrame, list[int | None]]:
    """The good rows of a batch, and the fault of each row."""
    rows = pl.DataFrame({"at": pl.Series(times, dtype=pl.Datetime("us", "UTC"))}).lazy()
    now = pl.lit(1_000, pl.Int64).cast(pl.Datetime("us", "UTC")).alias("__dataflare_now")
    frame = which.lower(rows.with_columns(now), Lowering()).collect()
    faults = (frame[ERROR_COLUMN] % 256).to_list()
    return frame.filter(pl.col(ERROR_COLUMN).is_null()), faults


@given(
    st.lists(st.one_of(st.none(), st.integers(-50, 50)), max_size=40),
    st.lists(st.integers(0, 40), max_size=5),
)
def test_the_watermark_in_a_row_is_the_greatest_time_so_far_whatever_the_batches(
    times: list[int | None], cuts: list[int]
) -> None:
    which, drift = stamp(), Drift()
    clock = SplitClock(which, drift, "reader")
    clock.begin(None)
    got: list[tuple[int, int]] = []
    edges = sorted({0, len(times), *(min(cut, len(times)) for cut in cuts)})
    for start, stop in pairwise(edges):
        frame, _ = stamped(times[start:stop], which)
        greatest = frame[TIME_COLUMN].max()
        outcome = Outcome(frames=[(0, frame)], event_time_us=greatest)  # type: ignore[arg-type]
        clock.advance(clock.lift(outcome))
        lifted = outcome.frames[0][1]
        got += zip(lifted[TIME_COLUMN], lifted[WATERMARK_COLUMN], strict=True)
        if stop % 3 == 0:  # a resumed reader goes on with the time of the checkpoint
            resumed = SplitClock(which, drift, "reader")
            resumed.begin(clock.event_time_us)
            clock = resumed
    known = [time for time in times if time is not None]
    assert got == [(t, max(known[: i + 1]) - LATE_US) for i, t in enumerate(known)]
    assert clock.watermark_us == (max(known) - LATE_US if known else None)


def test_rows_without_a_time_and_far_ahead_of_the_clock_are_faults_that_move_no_watermark() -> None:
    frame, faults = stamped([3, None, 1_006, 1_005, 4], stamp(max_future_us=5))
    assert faults == [None, WITHOUT_TIME, AHEAD_OF_CLOCK, None, None]
    assert frame[TIME_COLUMN].to_list() == [3, 1_005, 4]
    assert frame[WATERMARK_COLUMN].to_list() == [3, 1_005, 1_005]


def test_in_batch_mode_rows_have_a_time_and_no_watermark() -> None:
    frame, _ = stamped([3, 1], stamp(streaming=False))
    assert frame[TIME_COLUMN].to_list() == [3, 1]
    assert WATERMARK_COLUMN not in frame.columns
    assert SplitClock(stamp(streaming=False), Drift(), "r").lift(Outcome()) is None


def test_dates_and_times_without_a_zone_are_utc() -> None:
    days = pl.DataFrame({"at": pl.Series([0, 1], dtype=pl.Date)}).lazy()
    day = check("at", Schema.of({"at": "date"}))
    frame = stamp(time=day).lower(days, Lowering()).collect()
    assert frame[TIME_COLUMN].to_list() == [0, 86_400_000_000]


def test_a_reader_waits_for_one_that_is_further_behind_than_max_drift() -> None:
    drift = Drift()
    fast = SplitClock(stamp(max_drift_us=10), drift, "fast")
    slow = SplitClock(stamp(), drift, "slow")
    fast.begin(None)
    assert fast.runs_ahead() is None
    slow.begin(None)
    fast.advance(100)
    moved = fast.runs_ahead()
    assert moved is not None
    assert not moved.is_set()
    slow.advance(89)
    assert moved.is_set()
    assert fast.runs_ahead() is not None
    slow.advance(90)
    assert fast.runs_ahead() is None
    fast.advance(200)
    assert fast.runs_ahead() is not None
    slow.end()
    assert fast.runs_ahead() is None
    assert fast.watermark_us == 200 - LATE_US


def test_a_split_without_rows_has_no_watermark() -> None:
    clock = SplitClock(stamp(), Drift(), "r")
    clock.begin(None)
    clock.advance(clock.lift(Outcome()))
    assert clock.watermark_us is None
